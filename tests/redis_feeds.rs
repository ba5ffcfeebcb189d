//! Streaming sends with several gateways (docs/protocol.md, sections 14 and 16): the lines' results come over Redis, and a
//! sender is told when its group ends anywhere.

#![cfg(feature = "redis")]

mod common;

use common::{Answer, Backend, Client, Gateway, OK, Redis, Response, Stream, assert_json, eventually, send_request};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Setup {
    redis: Redis,
    backend: Backend,
    gateways: [Gateway; 2],
}

/// Without history, so that frames have no ids. A stream of `/a` is in the group `a`, one of `/` in none.
fn setup() -> Setup {
    let backend = Backend::new(|call| {
        let groups: Vec<&str> = call.url()[1..].split(',').filter(|name| !name.is_empty()).collect();
        Answer::json(&json!({ "groups": groups }).to_string())
    });
    let redis = Redis::start();
    let start = || Gateway::for_backend(&backend).set("HISTORY_SECONDS", 0).set("REDIS_URL", redis.url()).start();
    let gateways = [start(), start()];
    for gateway in &gateways {
        eventually("a connection to Redis", || gateway.get("/readyz").text().contains(r#""redis":true"#));
    }
    Setup { redis, backend, gateways }
}

impl Setup {
    /// A feed in chunks, at the first gateway.
    fn feed(&self, query: &str) -> Client {
        let head = format!("POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n");
        Client::open(self.gateways[0].port, format!("{head}Transfer-Encoding: chunked\r\n\r\n"))
    }

    /// A stream at the second one.
    fn open(&self, target: &str) -> Stream {
        self.gateways[1].open(target)
    }
}

fn line(feed: &mut Client, line: &str) {
    feed.send(format!("{:x}\r\n{line}\n\r\n", line.len() + 1));
}

fn finish(feed: &mut Client) -> Response {
    feed.send("0\r\n\r\n");
    feed.response()
}

#[test]
fn lines_reach_streams_elsewhere_and_the_answer_counts_them() {
    let setup = setup();
    let mut stream = setup.open("/a");
    eventually("it is in the group", || setup.gateways[0].send(r#"{"group":"a"}"#).text().contains("true"));
    let mut feed = setup.feed("?group=a&end=true");
    line(&mut feed, r#"{"event":{"data":"1"}}"#);
    assert_eq!(stream.event(), "data: 1\n\n");
    line(&mut feed, "no JSON");
    line(&mut feed, r#"{"event":{"data":"2"}}"#);
    let answer = finish(&mut feed);
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().starts_with(r#"{"status":"ok","accepted":2,"errors":[{"line":2,"status":400,"#),
        "{answer:?}"
    );
    assert_eq!(stream.event(), "data: 2\n\n");
    stream.assert_ended();
    assert_eq!(setup.gateways[1].send(r#"{"group":"a","event":{"data":"3"}}"#).status, 410);
    // The connection goes on.
    assert_eq!(feed.exchange(send_request(r#"{"group":"b"}"#)).text(), r#"{"status":"ok","reached":false}"#);
}

#[test]
fn a_silent_sender_is_told_when_its_group_ends_elsewhere() {
    let setup = setup();
    let mut feed = setup.feed("?group=a");
    line(&mut feed, r#"{"event":{"data":"1"}}"#);
    eventually("it is sent", || setup.gateways[0].get("/internal/metrics").text().contains("unreached\"} 1"));
    assert_eq!(setup.gateways[1].send(r#"{"group":"a","end":true}"#).status, 200);
    assert_json(&feed.response(), 410, r#"{"error":"Group has ended","line":1}"#);
    feed.assert_closed();
    let mut late = setup.feed("?group=a");
    assert_json(&late.response(), 410, r#"{"error":"Group has ended","line":0}"#);
}

#[test]
fn a_feed_that_breaks_off_leaves_its_will_everywhere() {
    let setup = setup();
    let mut stream = setup.open("/a");
    eventually("it is in the group", || setup.gateways[0].send(r#"{"group":"a"}"#).text().contains("true"));
    let mut feed = setup.feed("?group=a&end=true");
    line(&mut feed, r#"{"event":{"data":"1"}}"#);
    assert_eq!(stream.event(), "data: 1\n\n");
    drop(feed);
    assert_eq!(stream.event(), "event: interrupted\ndata: \n\n");
    stream.assert_ended();
}

#[test]
fn lines_for_a_stream_of_another_gateway_are_answered_by_it() {
    let setup = setup();
    let mut stream = setup.open("/");
    let token = setup.backend.connect("/").token().to_owned();
    let mut feed = setup.feed(&format!("?token={token}"));
    line(&mut feed, r#"{"event":{"name":"n","data":"1"}}"#);
    assert_eq!(stream.event(), "event: n\ndata: 1\n\n");
    line(&mut feed, r#"{"events":[{"data":"2"},{"data":"3","retry":7}]}"#);
    assert_eq!(stream.event(), "data: 2\n\n");
    assert_eq!(stream.event(), "retry: 7\ndata: 3\n\n");
    assert_eq!(finish(&mut feed).text(), r#"{"status":"ok","accepted":2}"#);
    assert_eq!(setup.gateways[1].close(&token).text(), OK);
    let mut late = setup.feed(&format!("?token={token}"));
    assert_json(&late.response(), 404, r#"{"error":"Token not found","line":0}"#);
}

#[test]
fn a_line_for_another_target_that_is_gone_is_only_an_error() {
    let setup = setup();
    assert_eq!(setup.gateways[1].send(r#"{"group":"over","end":true}"#).status, 200);
    let mut stream = setup.open("/a");
    let mut feed = setup.feed("?group=a&end=true");
    line(&mut feed, r#"{"group":"over","event":{"data":"1"}}"#);
    // Like those of a gateway that is gone, its token is not found at once.
    line(&mut feed, r#"{"token":"00000001-0000-4000-8000-000000000000","event":{"data":"2"}}"#);
    line(&mut feed, "no JSON");
    line(&mut feed, r#"{"event":{"data":"4"}}"#);
    assert_eq!(stream.event(), "data: 4\n\n");
    let errors = [(1, 410, "Group has ended"), (2, 404, "Token not found"), (3, 400, "Invalid JSON")];
    let errors = errors.map(|(line, status, error)| json!({"line": line, "status": status, "error": error}));
    let answer: serde_json::Value = serde_json::from_str(finish(&mut feed).text()).expect("JSON");
    assert_eq!(answer, json!({"status": "ok", "accepted": 1, "errors": errors}));
    stream.assert_ended();
}

#[test]
fn errors_are_told_in_the_order_of_their_lines() {
    let setup = setup();
    assert_eq!(setup.gateways[1].send(r#"{"group":"over","end":true}"#).status, 200);
    let mut stream = setup.open("/a");
    let mut feed = setup.feed("");
    let bad = "no JSON\n".repeat(150);
    let over = r#"{"group":"over","event":{"data":"x"}}"#;
    line(&mut feed, &format!("{over}\n{bad}{over}\n{}", r#"{"group":"a","event":{"data":"y"}}"#));
    // By then all lines have their results.
    assert_eq!(stream.event(), "data: y\n\n");
    let answer: serde_json::Value = serde_json::from_str(finish(&mut feed).text()).expect("JSON");
    let lines: Vec<u64> =
        answer["errors"].as_array().expect("errors").iter().flat_map(|error| error["line"].as_u64()).collect();
    assert_eq!(lines, (1..=100).collect::<Vec<u64>>());
}

#[test]
fn lines_whose_results_have_yet_to_come_are_not_piled_up() {
    const CHUNKS: usize = 400;
    let setup = setup();
    let mut feed = setup.feed("?group=a");
    let line = format!("{}\n", json!({"event": {"data": "x".repeat(10_000)}}));
    let lines = line.repeat(20);
    setup.redis.pause();
    let mut socket = feed.socket().try_clone().expect("a copy");
    let written = Arc::new(AtomicUsize::new(0));
    let progress = Arc::clone(&written);
    let sender = std::thread::spawn(move || {
        for _ in 0..CHUNKS {
            write!(socket, "{:x}\r\n{lines}\r\n", lines.len()).expect("the gateway reads on");
            progress.fetch_add(1, Ordering::Relaxed);
        }
        socket.write_all(b"0\r\n\r\n").expect("the gateway reads on");
    });
    eventually("a megabyte is on its way", || written.load(Ordering::Relaxed) >= 5);
    setup.redis.resume();
    sender.join().expect("all is written");
    assert_eq!(feed.response().text(), format!(r#"{{"status":"ok","accepted":{}}}"#, 20 * CHUNKS));
    let peak = common::process::peak_rss_kib(setup.gateways[0].pid());
    assert!(peak < 40_000, "80 MB of lines took {peak} KiB");
}
