//! The pure core, driven directly: cases that cannot be produced reliably over sockets.

use serde_json::Value;
use ssegateway::callback::{Call, CallId, Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, CloseMode, ConnId, Gateway, Listener, Peer, ProcessFigures, Settings, SocketError};
use ssegateway::job::{Completion, Job};
use ssegateway::secret::Secret;
use std::time::Duration;
use uuid::Uuid;

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";

/// A client on this host connects.
fn connect(gateway: &mut Gateway, now: Millis, token: Uuid) -> ConnId {
    gateway.accept(now, Listener::Public, Peer::Loopback, token).expect("a connection")
}

/// A client on this host connects and sends a request.
fn request(gateway: &mut Gateway, now: Millis, token: Uuid, bytes: &[u8]) -> ConnId {
    let id = connect(gateway, now, token);
    gateway.receive(now, id, bytes);
    id
}

/// Found by the simulation: a client that read an answer for longer than the idle timeout was cut off in the middle of
/// it.
#[test]
fn a_client_that_has_not_read_its_answer_yet_is_not_idle() {
    let at = Millis::from_millis;
    let settings = Settings { keepalive_timeout: Duration::from_secs(1), ..Settings::default() };
    let mut gateway = Gateway::new(settings, at(0), 0);
    let id = request(&mut gateway, at(0), Uuid::nil(), PROBE);
    assert_eq!(gateway.next_dirty(), Some(id));
    gateway.wrote(at(0), id, 10);
    gateway.expire(at(5_000));
    assert_eq!(gateway.next_action(), None);

    let rest = gateway.unsent(id).len();
    gateway.wrote(at(6_000), id, rest);
    gateway.expire(at(6_900));
    assert_eq!(gateway.next_action(), None);
    gateway.expire(at(7_100));
    assert_eq!(gateway.next_action(), Some(Action::ReadLast(id)));
    gateway.end_reading(at(7_100), id);
    assert_eq!(gateway.next_dirty(), Some(id));
    gateway.wrote(at(7_100), id, 0);
    assert_eq!(gateway.next_action(), Some(Action::ShutdownWrite(id)));
}

#[test]
fn a_client_that_stops_reading_its_answer_is_reset_in_the_end() {
    let at = Millis::from_millis;
    let settings = Settings { client_timeout: Duration::from_secs(30), ..Settings::default() };
    let mut gateway = Gateway::new(settings, at(0), 0);
    let id = request(&mut gateway, at(0), Uuid::nil(), PROBE);
    gateway.wrote(at(5_000), id, 10);
    gateway.expire(at(34_900));
    assert_eq!(gateway.next_action(), None);
    gateway.expire(at(35_100));
    assert_eq!(gateway.next_action(), Some(Action::Close(id, CloseMode::Abort)));
}

/// The status of the answer to a GET for the list of streams, with that Host.
fn listing(settings: Settings, listener: Listener, peer: Peer, host: &str) -> String {
    let mut gateway = Gateway::new(settings, Millis::ZERO, 0);
    let id = gateway.accept(Millis::ZERO, listener, peer, Uuid::nil()).expect("a connection");
    let request = format!("GET /internal/connections HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer t\r\n\r\n");
    gateway.receive(Millis::ZERO, id, request.as_bytes());
    gateway.list(Millis::ZERO, |_| 0);
    String::from_utf8_lossy(&gateway.unsent(id)[9..12]).into_owned()
}

#[test]
fn tokens_are_listed_to_other_hosts_only_if_guarded() {
    let open = Settings::default;
    let port = || Settings { internal_listener: true, ..Settings::default() };
    let token = || Settings { internal_token: Some(Secret::new("t".to_owned())), ..Settings::default() };
    assert_eq!(listing(open(), Listener::Public, Peer::Loopback, "localhost:3000"), "200");
    assert_eq!(listing(open(), Listener::Public, Peer::Remote, "localhost:3000"), "403");
    assert_eq!(listing(port(), Listener::Internal, Peer::Remote, "gateway:3001"), "200");
    assert_eq!(listing(token(), Listener::Public, Peer::Remote, "gateway:3000"), "200");
    // A page of a host whose name was rebound to this machine.
    assert_eq!(listing(open(), Listener::Public, Peer::Loopback, "evil.example:3000"), "403");
}

/// Opens a stream, as far as the backend is concerned.
fn open_stream(gateway: &mut Gateway, token: Uuid) -> ConnId {
    let id = request(gateway, Millis::ZERO, token, GET);
    let Some(Action::Start(Job::Call(call))) = gateway.next_action() else { panic!("no connect callback") };
    gateway.complete(Millis::ZERO, accepted(call.id));
    id
}

fn accepted(id: CallId) -> Completion {
    Completion::Called(Called {
        id,
        outcome: Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false },
    })
}

#[test]
fn no_stream_is_accepted_while_too_many_disconnects_are_queued() {
    /// Disconnects that may be queued if fewer streams than that are allowed.
    const WAITING_MAX: u128 = 1024;
    let settings = Settings { streams_max: 1, callback_concurrency: 2, ..Settings::default() };
    let mut gateway = Gateway::new(settings, Millis::ZERO, 0);
    // The first disconnect is in flight, the others are queued.
    let mut calls = Vec::new();
    for n in 0..=WAITING_MAX {
        let id = open_stream(&mut gateway, Uuid::from_u128(n));
        gateway.fail(Millis::ZERO, id, SocketError::Reset);
        calls.extend(std::iter::from_fn(|| gateway.next_action()).filter_map(|action| match action {
            Action::Start(Job::Call(call)) => Some(call.id),
            _ => None,
        }));
    }
    assert_eq!(calls.len(), 1);
    let id = request(&mut gateway, Millis::ZERO, Uuid::nil(), GET);
    let answer = String::from_utf8_lossy(gateway.unsent(id)).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Too many streams"), "{answer}");
    assert_eq!(gateway.next_action(), None, "no callback");

    gateway.complete(Millis::ZERO, accepted(calls[0]));
    assert!(matches!(gateway.next_action(), Some(Action::Start(_))), "the next disconnect");
    open_stream(&mut gateway, Uuid::from_u128(WAITING_MAX + 1));
}

/// The status of the answer to a send of an event with that many bytes of data.
fn send(gateway: &mut Gateway, now: Millis, token: Uuid, bytes: usize) -> String {
    let body = format!(r#"{{"token":"{token}","event":{{"data":"{}"}}}}"#, "x".repeat(bytes));
    let length = body.len();
    let bytes = format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
    let id = request(gateway, now, Uuid::nil(), bytes.as_bytes());
    let status = String::from_utf8_lossy(&gateway.unsent(id)[9..12]).into_owned();
    gateway.fail(now, id, SocketError::Reset);
    status
}

/// A stream at `now` whose kernel has accepted its head and refuses the first event, of 1,001 bytes with its frame.
fn blocked_stream(gateway: &mut Gateway, now: Millis) -> (ConnId, Uuid) {
    let token = Uuid::from_u128(7);
    let id = open_stream(gateway, token);
    let head = gateway.unsent(id).len();
    gateway.wrote(now, id, head);
    assert_eq!(send(gateway, now, token, 993), "200");
    while gateway.next_dirty().is_some() {}
    gateway.refused(now, id);
    (id, token)
}

/// Whether further events of a kilobyte are accepted until there are `kilobytes` of them.
fn takes(gateway: &mut Gateway, now: Millis, (id, token): (ConnId, Uuid), kilobytes: usize) -> bool {
    while gateway.unsent(id).len() <= kilobytes * 1000 {
        if send(gateway, now, token, 993) != "200" {
            return false;
        }
        while gateway.next_dirty().is_some() {}
        gateway.refused(now, id);
    }
    true
}

#[test]
fn a_client_that_reads_every_second_may_have_four_times_as_much_pending() {
    let at = Millis::from_millis;
    let settings = || Settings { pending_bytes_max: 10_000, ..Settings::default() };

    // It does not read.
    let mut gateway = Gateway::new(settings(), at(0), 0);
    let stream = blocked_stream(&mut gateway, at(0));
    assert!(!takes(&mut gateway, at(1_000), stream, 11));

    // It reads for some time.
    let mut gateway = Gateway::new(settings(), at(0), 0);
    let stream = blocked_stream(&mut gateway, at(0));
    gateway.wrote(at(5_000), stream.0, 1);
    assert!(takes(&mut gateway, at(5_999), stream, 39));
    assert!(!takes(&mut gateway, at(6_000), stream, 40));

    // It has a limit too.
    let mut gateway = Gateway::new(settings(), at(0), 0);
    let stream = blocked_stream(&mut gateway, at(0));
    gateway.wrote(at(5_000), stream.0, 1);
    assert!(!takes(&mut gateway, at(5_001), stream, 42));

    // The network may be slow.
    let mut gateway = Gateway::new(settings(), at(0), 0);
    let stream = blocked_stream(&mut gateway, at(0));
    assert!(takes(&mut gateway, at(999), stream, 39));
    assert!(!takes(&mut gateway, at(1_000), stream, 40));
}

/// The loop writes no more than 64 KiB at a time, and reads other sends in between.
#[test]
fn a_client_that_has_been_refused_nothing_is_not_slow() {
    let now = Millis::ZERO;
    let mut gateway = Gateway::new(Settings { pending_bytes_max: 10_000, ..Settings::default() }, now, 0);
    let token = Uuid::from_u128(7);
    let id = open_stream(&mut gateway, token);
    for sent in 1..=3 {
        assert_eq!(send(&mut gateway, now, token, 15_000), "200", "send {sent}");
        while gateway.next_dirty().is_some() {}
        gateway.wrote(now, id, 1_000);
    }
    // Four times as much is the limit for everybody.
    assert_eq!(send(&mut gateway, now, token, 1), "500");
}

/// A sample of the metrics, by its name and labels.
fn sample(gateway: &mut Gateway, now: Millis, name: &str) -> String {
    let id = request(gateway, now, Uuid::nil(), b"GET /internal/metrics HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut actions = std::iter::from_fn(|| gateway.next_action());
    let Some(Action::Report(ticket)) = actions.find(|action| matches!(action, Action::Report(_))) else {
        panic!("the figures are not requested");
    };
    gateway.report(now, ticket, &ProcessFigures::default());
    let text = String::from_utf8_lossy(gateway.unsent(id)).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

#[test]
fn a_timeout_in_the_queue_is_distinguished_from_one_in_flight() {
    let at = Millis::from_millis;
    let settings = Settings { callback_concurrency: 2, ..Settings::default() };
    let (callback_timeout, queue) = (settings.callback_timeout, settings.connect_queue);
    let mut gateway = Gateway::new(settings, at(0), 0);
    // One connect at a time: the other worker is reserved for disconnects.
    for n in 0..2 {
        request(&mut gateway, at(0), Uuid::from_u128(n), GET);
    }
    // The worker reports nothing, not even a timeout.
    let late = at(0).after(callback_timeout * 2);
    gateway.expire(late);
    let timeouts = |gateway: &mut Gateway, now| {
        ["timeout", "queue_timeout"]
            .map(|result| sample(gateway, now, &format!("ssegateway_connects_total{{result=\"{result}\"}}")))
    };
    assert_eq!(timeouts(&mut gateway, late), ["1", "0"]);
    let later = at(0).after(queue * 2);
    gateway.expire(later);
    assert_eq!(timeouts(&mut gateway, later), ["1", "1"]);
}

/// The callbacks that start now.
fn calls(gateway: &mut Gateway) -> Vec<Call> {
    let actions = std::iter::from_fn(|| gateway.next_action());
    let calls = actions.filter_map(|action| match action {
        Action::Start(Job::Call(call)) => Some(call),
        _ => None,
    });
    calls.collect()
}

#[test]
fn no_connect_starts_in_the_turn_in_which_the_drain_begins() {
    let (at, second) = (Millis::from_millis, Duration::from_secs(1));
    let settings = Settings { start_callback: true, shutdown_delay: second, ..Settings::default() };
    let mut gateway = Gateway::new(settings, at(0), 0);
    gateway.expire(at(0));
    let [start] = &calls(&mut gateway)[..] else { panic!("the start is told") };
    let id = request(&mut gateway, at(500), Uuid::nil(), GET);
    gateway.shut_down(at(600));
    // The backend has accepted the start, for which the client waits; the time is noticed after all events.
    gateway.complete(at(1_600), accepted(start.id));
    gateway.expire(at(1_600));
    assert!(calls(&mut gateway).is_empty());
    let answer = String::from_utf8_lossy(gateway.unsent(id));
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with(r#"{"error":"Shutting down"}"#), "{answer}");
}

/// All pages of the list of streams, each over a connection that replaces the last.
fn pages(gateway: &mut Gateway) -> Vec<Value> {
    let mut pages: Vec<Value> = Vec::new();
    let mut query = String::new();
    loop {
        let request = format!("GET /internal/connections{query} HTTP/1.1\r\nHost: h\r\n\r\n");
        let id = self::request(gateway, Millis::ZERO, Uuid::nil(), request.as_bytes());
        // A long page takes more than one turn of the loop.
        while gateway.unsent(id).is_empty() {
            assert_eq!(gateway.next_deadline(), Some(Millis::ZERO));
            gateway.expire(Millis::ZERO);
            gateway.list(Millis::ZERO, |_| 0);
        }
        let answer = gateway.unsent(id).to_vec();
        gateway.wrote(Millis::ZERO, id, answer.len());
        gateway.receive_eof(Millis::ZERO, id);
        let body = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        let page: Value = serde_json::from_slice(&answer[body..]).expect("JSON");
        let next = page["next"].as_str().map(|next| format!("?after={next}"));
        pages.push(page);
        match next {
            Some(next) => query = next,
            None => return pages,
        }
    }
}

#[test]
fn a_page_scans_a_limited_number_of_slots_and_the_next_one_continues() {
    /// The most slots that one page scans.
    const PAGE_SLOTS: u128 = 64 * 1024;
    let (first, last) = (Uuid::from_u128(u128::MAX), Uuid::from_u128(u128::MAX - 1));
    for (idle, expected) in [(PAGE_SLOTS - 3, 1), (PAGE_SLOTS - 2, 2), (PAGE_SLOTS - 1, 2)] {
        let mut gateway = Gateway::new(Settings::default(), Millis::ZERO, 0);
        open_stream(&mut gateway, first);
        for n in 0..idle {
            connect(&mut gateway, Millis::ZERO, Uuid::from_u128(n));
        }
        // Together with the one that requests the list there are `idle + 3` connections.
        open_stream(&mut gateway, last);
        let pages = pages(&mut gateway);
        let entries = pages.iter().flat_map(|page| page["connections"].as_array().expect("an array"));
        let listed: Vec<_> = entries.map(|entry| entry["token"].as_str().expect("a token")).collect();
        assert_eq!(listed, [first.to_string(), last.to_string()]);
        assert_eq!(pages.len(), expected, "{idle} idle connections");
    }
}
