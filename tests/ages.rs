//! Streams that expire (docs/protocol.md, section 15), on the bare core: when exactly, and what they get before.

use ssegateway::callback::{Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, ConnId, Gateway, Listener, Peer, Settings};
use ssegateway::job::{Completion, Job};
use std::time::Duration;
use uuid::Uuid;

const LAST_CHUNK: &str = "\r\n0\r\n\r\n";

/// A gateway with one stream.
struct Setup {
    gateway: Gateway,
    stream: ConnId,
    written: String,
}

/// `answer`: of the backend, at time zero.
fn setup(settings: Settings, seed: u64, answer: &str) -> Setup {
    let mut gateway = Gateway::new(settings, Millis::ZERO, seed);
    let stream = gateway.accept(Millis::ZERO, Listener::Public, Peer::Loopback, Uuid::nil()).expect("a connection");
    gateway.receive(Millis::ZERO, stream, b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    let Some(Action::Start(Job::Call(call))) = gateway.next_action() else { panic!("no connect callback") };
    let body = Some(answer.as_bytes().to_vec());
    let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body, in_doubt: false };
    gateway.complete(Millis::ZERO, Completion::Called(Called { id: call.id, outcome }));
    let mut setup = Setup { gateway, stream, written: String::new() };
    setup.write(Millis::ZERO, true);
    setup
}

impl Setup {
    /// Writes what there is; `has_room`: the client's socket takes it.
    fn write(&mut self, now: Millis, has_room: bool) {
        loop {
            let rest = (has_room && self.gateway.has_unsent(self.stream)).then_some(self.stream);
            let Some(id) = self.gateway.next_dirty().or_else(|| self.gateway.next_member(now)).or(rest) else { return };
            self.write_to(now, id, has_room);
        }
    }

    fn write_to(&mut self, now: Millis, id: ConnId, has_room: bool) {
        let unsent = self.gateway.unsent(id).to_vec();
        if id == self.stream && !has_room {
            return self.gateway.wrote(now, id, 0);
        }
        if id == self.stream {
            self.written.push_str(std::str::from_utf8(&unsent).expect("text"));
        }
        self.gateway.wrote(now, id, unsent.len());
    }

    fn pass(&mut self, now: Millis, has_room: bool) {
        while self.gateway.expire(now) {}
        self.write(now, has_room);
    }

    /// The second in which the stream ends.
    fn end(mut self) -> u64 {
        let ends = |second: &u64| {
            self.pass(Millis::from_millis(second * 1000), true);
            self.written.ends_with(LAST_CHUNK)
        };
        (0..1000).find(ends).expect("an end")
    }
}

fn aged(seconds: u64) -> Settings {
    Settings { stream_age_max: Some(Duration::from_secs(seconds)), ..Settings::default() }
}

#[test]
fn the_age_of_all_streams_is_spread_by_a_tenth() {
    let ends: Vec<u64> = (0..100).map(|seed| setup(aged(100), seed, "{}").end()).collect();
    let (first, last) = (*ends.iter().min().expect("ends"), *ends.iter().max().expect("ends"));
    assert!((90..95).contains(&first) && (106..=111).contains(&last), "{first} to {last}");
}

#[test]
fn the_earlier_of_both_ends_the_stream() {
    assert_eq!(setup(aged(100), 0, r#"{"expires_in":7}"#).end(), 7);
    assert!(setup(aged(10), 0, r#"{"expires_in":700}"#).end() <= 11);
    assert_eq!(setup(Settings::default(), 0, r#"{"expires_in":1}"#).end(), 1);
}

#[test]
fn bad_ages_are_ignored() {
    for age in ["0", "-1", "1.5", "\"1\"", "null", "true"] {
        let mut setup = setup(Settings::default(), 0, &format!(r#"{{"expires_in":{age},"event":{{"data":"d"}}}}"#));
        setup.pass(Millis::from_millis(100_000), true);
        assert!(setup.written.contains("data: d\n") && !setup.written.ends_with(LAST_CHUNK), "{age}");
    }
}

#[test]
fn a_stream_gets_what_its_groups_have_for_it_before_it_expires() {
    let at = |second: u64| Millis::from_millis(second * 1000);
    let mut setup = setup(Settings::default(), 0, r#"{"expires_in":5,"groups":["a"]}"#);
    let sender = setup.gateway.accept(at(4), Listener::Public, Peer::Loopback, Uuid::max()).expect("a connection");
    for data in ["1", "2"] {
        let body = format!(r#"{{"group":"a","event":{{"data":"{data}"}}}}"#);
        let request =
            format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        setup.gateway.receive(at(4), sender, request.as_bytes());
        setup.write(at(4), false);
    }
    setup.pass(at(6), false);
    assert!(!setup.written.contains("data: 1"));
    setup.write(at(7), true);
    let place = |text: &str| setup.written.find(text).unwrap_or_else(|| panic!("{text} in {}", setup.written));
    assert!(place("data: 1\n") < place("data: 2\n") && setup.written.ends_with(LAST_CHUNK), "{}", setup.written);
}
