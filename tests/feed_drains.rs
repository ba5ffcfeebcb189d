//! A drain in the middle of streaming sends (docs/protocol.md, section 14), on the bare core: which bytes had arrived is
//! decided by the test.

use serde_json::json;
use ssegateway::callback::{CallId, Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, ConnId, Gateway, Listener, Peer, Settings};
use ssegateway::job::{Completion, Job};
use std::collections::HashMap;
use uuid::Uuid;

const TOKEN: Uuid = Uuid::from_u128(7);
const SHUTTING_DOWN: &str = r#"{"error":"Shutting down","line":"#;

/// A gateway with its sockets: what has arrived in them, and what was written to them.
struct Setup {
    gateway: Gateway,
    arrived: HashMap<ConnId, Vec<u8>>,
    written: HashMap<ConnId, String>,
    calls: Vec<CallId>,
}

fn setup() -> Setup {
    let gateway = Gateway::new(Settings::default(), Millis::ZERO, 0);
    Setup { gateway, arrived: HashMap::new(), written: HashMap::new(), calls: Vec::new() }
}

impl Setup {
    fn connect(&mut self) -> ConnId {
        self.gateway.accept(Millis::ZERO, Listener::Public, Peer::Loopback, TOKEN).expect("a connection")
    }

    fn receive(&mut self, id: ConnId, bytes: &str) {
        self.gateway.receive(Millis::ZERO, id, bytes.as_bytes());
        self.carry_out();
    }

    /// A stream in the group `a`, on that connection.
    fn open(&mut self, id: ConnId) {
        self.receive(id, "GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
        let call = self.calls.pop().expect("a connect callback");
        let body = Some(br#"{"groups":["a"]}"#.to_vec());
        let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body, in_doubt: false };
        self.gateway.complete(Millis::ZERO, Completion::Called(Called { id: call, outcome }));
        self.carry_out();
    }

    fn feed(&mut self, id: ConnId, query: &str) {
        let head = format!("POST /internal/send?{query} HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n");
        self.receive(id, &format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    }

    /// The drain, up to its end.
    fn drain(&mut self) {
        self.gateway.shut_down(Millis::ZERO);
        for _ in 0..10 {
            self.carry_out();
            self.gateway.expire(Millis::ZERO);
        }
    }

    /// What the reactor does in a turn.
    fn carry_out(&mut self) {
        loop {
            if let Some(id) = self.gateway.next_dirty().or_else(|| self.gateway.next_member(Millis::ZERO)) {
                let unsent = self.gateway.unsent(id).to_vec();
                self.written.entry(id).or_default().push_str(&String::from_utf8(unsent.clone()).expect("text"));
                self.gateway.wrote(Millis::ZERO, id, unsent.len());
                continue;
            }
            match self.gateway.next_action() {
                Some(Action::Start(Job::Call(call))) => self.calls.push(call.id),
                Some(Action::TellFeed(id)) => self.gateway.tell_feed(Millis::ZERO, id),
                Some(Action::ReadLast(id)) => {
                    if let Some(bytes) = self.arrived.remove(&id) {
                        self.gateway.receive(Millis::ZERO, id, &bytes);
                    }
                    self.gateway.end_reading(Millis::ZERO, id);
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// The last line of what was written there.
    fn answer(&self, id: ConnId) -> &str {
        self.written.get(&id).and_then(|written| written.rsplit("\r\n").next()).unwrap_or_default()
    }
}

fn line(data: &str) -> String {
    let line = json!({"event": {"data": data}}).to_string();
    format!("{:x}\r\n{line}\n\r\n", line.len() + 1)
}

#[test]
fn the_order_of_connections_does_not_decide_what_a_sender_is_told() {
    for query in [format!("token={TOKEN}"), "group=a".into(), "group=a&end=true".into()] {
        for feed_is_first in [false, true] {
            let mut setup = setup();
            let (mut stream, mut feed) = (setup.connect(), setup.connect());
            if feed_is_first {
                (stream, feed) = (feed, stream);
            }
            setup.open(stream);
            setup.feed(feed, &query);
            setup.receive(feed, &line("1"));
            setup.drain();
            assert_eq!(setup.answer(feed), format!("{SHUTTING_DOWN}1}}"), "{query}, {feed_is_first}");
            assert!(setup.written[&stream].contains("data: 1\n\n"));
            assert!(setup.written[&stream].ends_with("\r\n0\r\n\r\n"), "{}", setup.written[&stream]);
        }
    }
}

#[test]
fn what_has_arrived_reaches_the_streams_before_they_end() {
    for query in [format!("token={TOKEN}"), "group=a".into()] {
        for feed_is_first in [false, true] {
            let mut setup = setup();
            let (mut stream, mut feed) = (setup.connect(), setup.connect());
            if feed_is_first {
                (stream, feed) = (feed, stream);
            }
            setup.open(stream);
            setup.feed(feed, &query);
            setup.receive(feed, &line("1"));
            let rest = format!("{}{}5\r\n{{\"eve", line("2"), line("3"));
            setup.arrived.insert(feed, rest.into_bytes());
            setup.drain();
            assert_eq!(setup.answer(feed), format!("{SHUTTING_DOWN}3}}"), "{query}, {feed_is_first}");
            let written = &setup.written[&stream];
            let last = written.rfind("data: 3\n\n").expect("the last event");
            assert!(written.find("data: 2\n\n").expect("an event") < last && written[last..].contains("retry: "));
        }
    }
}

#[test]
fn a_feed_that_begins_in_the_drain_is_refused_before_any_line() {
    let mut setup = setup();
    let (stream, feed) = (setup.connect(), setup.connect());
    setup.open(stream);
    let body = line("1");
    let head =
        format!("POST /internal/send?token={TOKEN} HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n");
    setup.arrived.insert(feed, format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n").into_bytes());
    setup.drain();
    assert_eq!(setup.answer(feed), format!("{SHUTTING_DOWN}0}}"));
    assert!(!setup.written[&stream].contains("data: 1"));
}
