//! The pieces of work that are measured.

use super::common::requests::{Payload, browser_get, push_send, push_send_to};
use super::common::streams::{Streams, token};
use divan::black_box;
use ssegateway::callback::{Request, RequestParts};
use ssegateway::clock::Millis;
use ssegateway::http::request;
use ssegateway::send::{self, GroupIds, Scratch};
use ssegateway::sse::{self, Event};
use ssegateway::table::Key;
use ssegateway::timer::{TICK_MS, Timer};
use std::fmt;

/// The default of `MAX_HEADER_BYTES`.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const STREAMS: usize = 1000;
const TIMER_ENTRIES: u32 = 1_000_000;
const INTERVAL_MS: u64 = 15_000;

pub(crate) struct Case {
    name: &'static str,
    /// Repetitions of the work in one call.
    pub pieces: usize,
    pub prepare: fn() -> Box<dyn FnMut()>,
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

const fn case(name: &'static str, pieces: usize, prepare: fn() -> Box<dyn FnMut()>) -> Case {
    Case { name, pieces, prepare }
}

/// Sorted by name, as divan prints them.
pub(crate) static CASES: [Case; 25] = [
    case("feed, 1 event of an event stream", 1, || feed_through(Feed::Events, 1)),
    case("feed, 1 line", 1, || feed_through(Feed::Lines, 1)),
    case("feed, 16 lines in one read", 16, || feed_through(Feed::Lines, 16)),
    case("frame, 1 kB", 1, || write_frame(Payload::Json.text())),
    case("frame, 10 lines", 1, || write_frame("a line of text\n".repeat(10))),
    case("frame, 100 bytes", 1, || write_frame(Payload::Plain.text())),
    case("gateway, 1 send", 1, || send_through(Payload::Plain, 1)),
    case("gateway, 1 send of 1 kB of quoted JSON", 1, || send_through(Payload::Json, 1)),
    case("gateway, 1 send to a group of 1,000, per delivery", STREAMS, send_to_all),
    case("gateway, 1,000 heartbeats", STREAMS, beat),
    case("gateway, 16 sends in one read", 16, || send_through(Payload::Plain, 16)),
    case("gateway, 16 sends to groups of one in one read", 16, || send_to_groups(16)),
    case("gateway, 16 sends to groups of one over Redis", 16, || send_over_redis(16)),
    case("gateway, 32 sends in one read", 32, || send_through(Payload::Plain, 32)),
    case("gateway, a client connects and leaves", 1, connect),
    case("gateway, a client returns to 5 groups and 20 events, per event", 20, resume),
    case("head of 256 fields", 1, || read_head(get_of_256_fields())),
    case("head of 256 fields, read and encoded for callbacks", 1, || encode_request(get_of_256_fields())),
    case("head of a browser's GET", 1, || read_head(get_of_a_browser())),
    case("head of a browser's GET, read and encoded for callbacks", 1, || encode_request(get_of_a_browser())),
    case("head of a send", 1, || read_head(send_request(Payload::Plain))),
    case("JSON of a send, 1 kB of quoted JSON", 1, || read_send(Payload::Json)),
    case("JSON of a send, 100 bytes", 1, || read_send(Payload::Plain)),
    case("timer with 1,000 entries, pop and reinsert", 1, || turn_timer(1000)),
    case("timer with 1,000,000 entries, pop and reinsert", 1, || turn_timer(TIMER_ENTRIES)),
];

/// 15 fields.
fn get_of_a_browser() -> Vec<u8> {
    browser_get("/events?user=ann", "events.example.com")
}

/// The maximum number of fields, all with different names.
fn get_of_256_fields() -> Vec<u8> {
    let mut get = b"GET /events HTTP/1.1\r\nHost: h\r\n".to_vec();
    get.extend((1..256).flat_map(|n| format!("x-{n}: v\r\n").into_bytes()));
    get.extend_from_slice(b"\r\n");
    get
}

fn send_request(payload: Payload) -> Vec<u8> {
    let mut request = Vec::new();
    push_send(&mut request, &token(0).to_string(), payload.escaped().as_bytes());
    request
}

fn read_head(bytes: Vec<u8>) -> Box<dyn FnMut()> {
    Box::new(move || {
        let mut storage = request::storage();
        let head = request::parse(&mut storage, black_box(&bytes), HEAD_BYTES_MAX);
        assert!(matches!(black_box(&head), Ok(Some(_))));
    })
}

fn body_of(mut request: Vec<u8>) -> Vec<u8> {
    let start = request.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    request.split_off(start)
}

fn read_send(payload: Payload) -> Box<dyn FnMut()> {
    let body = body_of(send_request(payload));
    let mut scratch = Scratch::default();
    Box::new(move || assert!(black_box(send::parse(black_box(&body), &mut scratch, GroupIds::Gateway)).is_ok()))
}

fn write_frame(data: String) -> Box<dyn FnMut()> {
    let mut out = Vec::with_capacity(4096);
    let event = Event { name: Some("message".into()), data: data.into(), ..Event::default() };
    Box::new(move || {
        out.clear();
        black_box(&event).write(&mut out);
        black_box(&out);
    })
}

/// One entry falls due and is reinserted an interval later, like a heartbeat.
fn turn_timer(entries: u32) -> Box<dyn FnMut()> {
    let mut timer = Timer::new(Millis::ZERO);
    for n in 0..entries {
        let due = INTERVAL_MS * u64::from(n) / u64::from(entries);
        timer.insert(Millis::from_millis(due), Key::from_parts(n, 0));
    }
    let mut now = 0;
    Box::new(move || {
        let (key, due) = loop {
            match timer.pop(Millis::from_millis(now)) {
                Some(entry) => break entry,
                None => now = timer.next_due().expect("entries").as_millis().max(now),
            }
        };
        timer.insert(Millis::from_millis(due.as_millis() + INTERVAL_MS), black_box(key));
    })
}

fn send_through(payload: Payload, depth: usize) -> Box<dyn FnMut()> {
    let data = payload.escaped();
    let mut streams = Streams::open(STREAMS);
    // A prime apart, so that it takes long until the same streams recur.
    let batches: Vec<Vec<u8>> = (0..97)
        .map(|batch| {
            let mut requests = Vec::new();
            for n in 0..depth {
                let to = (batch * depth + n) * 373 % STREAMS;
                push_send(&mut requests, &token(to as u128).to_string(), data.as_bytes());
            }
            requests
        })
        .collect();
    let mut next = 0;
    Box::new(move || {
        assert!(streams.send(black_box(&batches[next])) > depth * data.len() / 2);
        next = (next + 1) % batches.len();
    })
}

fn one_group(n: usize) -> String {
    format!(r#"{{"groups":["user:{n}"]}}"#)
}

/// Batches of sends to groups of one.
fn sends_to_groups(depth: usize) -> Vec<Vec<u8>> {
    let data = Payload::Plain.escaped();
    (0..97)
        .map(|batch| {
            let mut requests = Vec::new();
            for n in 0..depth {
                let group = format!("user:{}", (batch * depth + n) * 373 % STREAMS);
                push_send_to(&mut requests, "group", &group, data.as_bytes());
            }
            requests
        })
        .collect()
}

fn send_over_redis(depth: usize) -> Box<dyn FnMut()> {
    let mut streams = Streams::open_over_redis(STREAMS, one_group);
    let mut batches: Vec<_> = sends_to_groups(depth).into_iter().map(|batch| (batch, None)).collect();
    let mut next = 0;
    Box::new(move || {
        let (batch, answers) = &mut batches[next];
        assert!(streams.publish_over_redis(black_box(batch), answers) > depth * 100);
        next = (next + 1) % batches.len();
    })
}

fn send_to_groups(depth: usize) -> Box<dyn FnMut()> {
    let data = Payload::Plain.escaped();
    let mut streams = Streams::open_with(STREAMS, one_group);
    let batches = sends_to_groups(depth);
    let mut next = 0;
    Box::new(move || {
        assert!(streams.publish(black_box(&batches[next])) > depth * data.len());
        next = (next + 1) % batches.len();
    })
}

fn send_to_all() -> Box<dyn FnMut()> {
    let data = Payload::Plain.escaped();
    let mut streams = Streams::open_with(STREAMS, |_| one_group(0));
    let mut request = Vec::new();
    push_send_to(&mut request, "group", "user:0", data.as_bytes());
    Box::new(move || assert!(streams.publish(black_box(&request)) > STREAMS * data.len()))
}

/// Four events of each of five groups.
fn resume() -> Box<dyn FnMut()> {
    let data = Payload::Plain.escaped();
    let names = ["user:1", "user:2", "user:3", "user:4", "user:5"];
    let mut streams = Streams::open(1);
    let start = streams.cursor();
    let mut requests = Vec::new();
    for name in names.iter().cycle().take(20) {
        push_send_to(&mut requests, "group", name, data.as_bytes());
    }
    streams.publish(&requests);
    let answer = format!(r#"{{"groups":{names:?},"since":"{start}"}}"#);
    Box::new(move || assert!(streams.visit(black_box(&answer)) > 20 * data.len()))
}

/// The body of a streaming send.
#[derive(Clone, Copy, Debug)]
enum Feed {
    /// A send per line.
    Lines,
    /// An event stream, for one stream.
    Events,
}

/// A streaming send with a chunk per event.
fn feed_through(feed: Feed, depth: usize) -> Box<dyn FnMut()> {
    let data = Payload::Plain.escaped();
    let mut streams = Streams::open(STREAMS);
    let (kind, query) = match feed {
        Feed::Lines => ("application/x-ndjson", String::new()),
        Feed::Events => ("text/event-stream", format!("?token={}", token(0))),
    };
    let head = format!("POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\n");
    streams.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    let batches: Vec<Vec<u8>> = (0..97)
        .map(|batch| {
            let mut chunks = Vec::new();
            for n in 0..depth {
                let event = match feed {
                    Feed::Lines => {
                        let mut request = Vec::new();
                        let to = token(((batch * depth + n) * 373 % STREAMS) as u128);
                        push_send(&mut request, &to.to_string(), data.as_bytes());
                        [body_of(request), b"\n".to_vec()].concat()
                    }
                    Feed::Events => format!("event: message\ndata: {data}\n\n").into_bytes(),
                };
                chunks.extend(format!("{:x}\r\n", event.len()).into_bytes());
                chunks.extend([&event[..], b"\r\n"].concat());
            }
            chunks
        })
        .collect();
    let mut next = 0;
    Box::new(move || {
        assert!(streams.send(black_box(&batches[next])) > depth * data.len() / 2);
        next = (next + 1) % batches.len();
    })
}

fn beat() -> Box<dyn FnMut()> {
    let mut streams = Streams::open(STREAMS);
    Box::new(move || assert!(streams.pass(INTERVAL_MS + TICK_MS) >= STREAMS * sse::HEARTBEAT.len()))
}

fn connect() -> Box<dyn FnMut()> {
    let mut streams = Streams::open(STREAMS);
    Box::new(move || assert_ne!(streams.connect_and_leave(), 0))
}

fn encode_request(get: Vec<u8>) -> Box<dyn FnMut()> {
    let mut scratch = String::new();
    Box::new(move || {
        let mut storage = request::storage();
        let head = request::parse(&mut storage, black_box(&get), HEAD_BYTES_MAX);
        let head = head.expect("a good head").expect("a whole head");
        let parts = RequestParts { url: head.target, headers: head.headers };
        black_box(Request::encode(&mut scratch, &parts));
    })
}
