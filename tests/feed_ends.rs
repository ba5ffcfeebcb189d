//! The ends of streaming sends (docs/protocol.md, section 14): senders that are told, last wills, limits.

mod common;

use common::feed::{EVENTS, LINES, event, setup, setup_with};
use common::{Answer, Backend, Client, Gate, Gateway, SIGTERM, assert_json, get};
use serde_json::json;

const TOKEN_GONE: &str = r#"{"error":"Token not found","line":1}"#;
const GROUP_GONE: &str = r#"{"error":"Group has ended","line":1}"#;

#[test]
fn a_silent_sender_is_told_when_its_group_ends() {
    let setup = setup();
    let mut stream = setup.open("a");
    let mut feeds = [LINES, EVENTS].map(|kind| setup.feed("?group=a&end=true", kind));
    feeds[0].line(&event("1"));
    feeds[1].chunk("data: 2\n\n");
    let mut events = [stream.event(), stream.event()];
    events.sort();
    assert_eq!(events, ["data: 1\n\n", "data: 2\n\n"]);
    setup.end("a");
    for mut feed in feeds {
        feed.assert_told(410, GROUP_GONE);
    }
    // And there is no last will.
    stream.assert_ended();
    setup.feed("?group=a", LINES).assert_told(410, r#"{"error":"Group has ended","line":0}"#);
}

#[test]
fn a_silent_sender_is_told_when_its_stream_ends() {
    let setup = setup();
    for ends_by_close in [true, false] {
        let mut stream = setup.open("");
        let token = setup.token("/");
        let mut feed = setup.feed(&format!("?token={token}"), LINES);
        feed.line(&event("1"));
        assert_eq!(stream.event(), "data: 1\n\n");
        if ends_by_close {
            setup.gateway.close(&token);
        } else {
            drop(stream);
        }
        feed.assert_told(404, TOKEN_GONE);
        setup.feed(&format!("?token={token}"), EVENTS).assert_told(404, r#"{"error":"Token not found","line":0}"#);
    }
}

#[test]
fn whoever_ends_the_target_himself_is_not_told() {
    let setup = setup();
    let mut stream = setup.open("a");
    let mut feed = setup.feed("?group=a&end=true", LINES);
    feed.line(&json!({"event": {"data": "1"}, "end": true}));
    assert_eq!(stream.event(), "data: 1\n\n");
    stream.assert_ended();
    feed.line(&event("2"));
    feed.line(&json!({"will": {"data": "3"}}));
    let error = |line: u64| format!(r#"{{"line":{line},"status":410,"error":"Group has ended"}}"#);
    let body = format!(r#"{{"status":"ok","accepted":1,"errors":[{},{}]}}"#, error(2), error(3));
    assert_json(&feed.finish(), 200, &body);

    for close in [json!({"close": true}), json!({"group": "b", "close": true}), json!({"group": "b", "end": true})] {
        let stream = setup.open("b");
        let token = setup.token("/b");
        let mut feed = setup.feed(&format!("?token={token}"), LINES);
        feed.line(&close);
        stream.assert_ended();
        feed.line(&event("2"));
        let error = r#"{"line":2,"status":404,"error":"Token not found"}"#;
        assert_json(&feed.finish(), 200, &format!(r#"{{"status":"ok","accepted":1,"errors":[{error}]}}"#));
    }
}

#[test]
fn whoever_ends_one_of_several_groups_is_told_when_another_ends_the_last() {
    let setup = setup();
    let mut stream = setup.open("a,b,c");
    let token = setup.token("/a,b,c");
    let mut feed = setup.feed(&format!("?token={token}"), LINES);
    feed.line(&json!({"group": "a", "end": true}));
    feed.line(&json!({"group": "b", "event": {"data": "1"}}));
    assert_eq!(stream.event(), "data: 1\n\n");
    setup.end("b");
    setup.end("c");
    stream.assert_ended();
    feed.assert_told(404, r#"{"error":"Token not found","line":2}"#);

    // The last one by himself.
    let stream = setup.open("d,e");
    let token = setup.token("/d,e");
    let mut feed = setup.feed(&format!("?token={token}"), LINES);
    feed.line(&json!({"group": "d", "end": true}));
    feed.line(&json!({"group": "e", "end": true}));
    stream.assert_ended();
    assert_json(&feed.finish(), 200, r#"{"status":"ok","accepted":2}"#);
}

#[test]
fn the_group_ends_with_the_body() {
    let setup = setup();
    let mut stream = setup.open("a");
    let response = setup.whole("?group=a&end=true", LINES, &event("1").to_string());
    assert_json(&response, 200, r#"{"status":"ok","accepted":1}"#);
    assert_eq!(stream.event(), "data: 1\n\n");
    stream.assert_ended();
    let stream = setup.open("b");
    assert_json(&setup.whole("?group=b&end=true", EVENTS, ""), 200, r#"{"status":"ok","accepted":0}"#);
    stream.assert_ended();
}

#[test]
fn a_dead_sender_leaves_its_last_will() {
    let setup = setup();
    let interrupted = "event: interrupted\ndata: \n\n";
    let wills = [
        (json!({"event": {"data": "1"}}), interrupted),
        (json!({"will": {"name": "error", "data": "no\nmore"}}), "event: error\ndata: no\ndata: more\n\n"),
        (json!({"will": {"name": "error"}}), interrupted),
        (json!({"will": {"data": "x"}, "group": "a"}), interrupted),
    ];
    for (number, (line, will)) in wills.into_iter().enumerate() {
        let group = format!("g{number}");
        let mut stream = setup.open(&group);
        let mut feed = setup.feed(&format!("?group={group}&end=true"), LINES);
        feed.line(&line);
        feed.line(&event("last"));
        feed.chunk("{\"event\":{\"data\":\"incompl");
        while stream.event() != "data: last\n\n" {}
        if number % 2 == 0 {
            feed.client.half_close();
            feed.client.assert_closed();
        } else {
            feed.client.reset();
        }
        assert_eq!(stream.event(), will);
        stream.assert_ended();
    }
}

#[test]
fn a_body_that_cannot_be_read_on_leaves_the_last_will() {
    let setup = setup();
    let mut stream = setup.open("a");
    let mut feed = setup.feed("?group=a&end=true", LINES);
    feed.line(&event("1"));
    feed.client.send("xyz\r\n");
    feed.assert_told(400, r#"{"error":"Bad request: invalid chunk","line":1}"#);
    assert_eq!(stream.event(), "data: 1\n\n");
    assert_eq!(stream.event(), "event: interrupted\ndata: \n\n");
    stream.assert_ended();
    for kind in [LINES, EVENTS] {
        let setup = setup_with(|it| it.set("MAX_BODY_BYTES", 100));
        let mut stream = setup.open("b");
        let mut feed = setup.feed("?group=b&end=true", kind);
        // Of any length as a whole.
        for _ in 0..10 {
            feed.chunk(if kind == LINES { "{\"event\":{\"data\":\"1\"}}\n" } else { "data: 1\n\n" });
            assert_eq!(stream.event(), "data: 1\n\n");
        }
        feed.chunk(&"x".repeat(101));
        feed.assert_told(413, r#"{"error":"Request body too large","line":10}"#);
        assert_eq!(stream.event(), "event: interrupted\ndata: \n\n");
        stream.assert_ended();
    }
}

#[test]
fn a_drain_neither_ends_the_group_nor_leaves_a_will() {
    let mut setup = setup();
    let mut stream = setup.open("a");
    let mut feed = setup.feed("?group=a&end=true", LINES);
    feed.line(&event("1"));
    assert_eq!(stream.event(), "data: 1\n\n");
    setup.gateway.signal(SIGTERM);
    feed.assert_told(503, r#"{"error":"Shutting down","line":1}"#);
    stream.assert_drained(6_000);
    assert_eq!(setup.gateway.exit_code(), Some(0));
    let call = setup.backend.disconnect(&setup.token("/a"));
    assert_eq!(call.detail(), Some("shutdown"));
}

#[test]
fn a_will_needs_a_group_that_ends() {
    let setup = setup();
    let will = r#"{"will":{"data":"x"}}"#;
    let error = r#"{"line":1,"status":400,"error":"Invalid request: will needs end=true"}"#;
    let body = format!(r#"{{"status":"ok","accepted":0,"errors":[{error}]}}"#);
    assert_json(&setup.whole("?group=a", LINES, will), 200, &body);
}

#[test]
fn a_sender_is_told_when_the_backend_rejects_its_stream_or_another_send_closes_it() {
    for is_rejected in [true, false] {
        let gate = Gate::new();
        let held = gate.clone();
        let backend = Backend::new(move |call| match call.action() {
            "connect" if is_rejected => Answer::status(403).after(&held),
            _ => Answer::ok().after(&held),
        });
        let gateway = Gateway::start(&backend);
        let mut client = Client::open(gateway.port, get("/x"));
        let token = backend.connect("/x").token().to_owned();
        let head = format!("POST /internal/send?token={token} HTTP/1.1\r\nHost: h\r\nContent-Type: {EVENTS}\r\n");
        let mut feed =
            Client::open(gateway.port, format!("{head}Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"));
        // Both have been read once another client has its answer.
        let probe = || gateway.send(&json!({ "token": token }).to_string());
        assert_json(&probe(), 200, common::BUFFERED);
        if is_rejected {
            gate.open();
        } else {
            assert_json(&gateway.close(&token), 200, common::BUFFERED);
        }
        let response = feed.response();
        assert_eq!(response.status, 404);
        assert!(response.text().starts_with(r#"{"error":"Token not found","line":"#), "{response:?}");
        feed.assert_closed();
        gate.open();
        assert_eq!(client.head().status, if is_rejected { 403 } else { 200 });
    }
}

#[test]
fn a_declared_length_that_is_cut_short_is_a_break() {
    let setup = setup();
    let mut stream = setup.open("a");
    let head = format!("POST /internal/send?group=a&end=true HTTP/1.1\r\nHost: h\r\nContent-Type: {LINES}\r\n");
    let mut client = Client::open(setup.gateway.port, format!("{head}Content-Length: 1000\r\n\r\n{}\n", event("1")));
    assert_eq!(stream.event(), "data: 1\n\n");
    client.half_close();
    client.assert_closed();
    assert_eq!(stream.event(), "event: interrupted\ndata: \n\n");
    stream.assert_ended();
}

#[test]
fn whoever_returns_after_the_end_gets_the_will_and_then_no_stream() {
    let setup = setup_with(|it| it.set("HISTORY_SECONDS", 300));
    let feed = setup.feed("?group=a&end=true", LINES);
    let mut stream = setup.open("a");
    let position = stream.event();
    drop(feed);
    let will = stream.event();
    assert!(will.starts_with("event: interrupted\nid: "), "{will}");
    stream.assert_ended();
    let resume = |frame: &str| {
        let id = frame.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned();
        Client::open(setup.gateway.port, format!("GET /a HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n"))
    };
    assert_eq!(common::Stream::accept(resume(&position)).event(), will);
    assert_eq!(resume(&will).response().status, 204);
}

#[test]
fn a_sender_that_goes_on_writing_is_told_without_a_reset() {
    let setup = setup();
    let mut feed = setup.feed("?group=a", LINES);
    feed.line(&event("1"));
    setup.end("a");
    for _ in 0..100 {
        feed.line(&event(&"x".repeat(10_000)));
    }
    let response = feed.client.response();
    assert_eq!(response.status, 410);
    feed.client.assert_closed();
}

#[test]
fn feeds_are_never_evicted_and_leave_places_for_others() {
    // Four more places for everything else, of which feeds may have three, and those of the streams.
    let setup = setup_with(|it| it.set("MAX_STREAMS", 4));
    let mut stream = setup.open("a");
    let mut feeds: Vec<_> = (0..6).map(|_| setup.feed("?group=a", LINES)).collect();
    let mut all_send = || {
        for feed in &mut feeds {
            feed.line(&event("1"));
            assert_eq!(stream.event(), "data: 1\n\n");
        }
    };
    all_send();
    let refused = setup.whole("?group=a", LINES, "");
    assert_json(&refused, 503, r#"{"error":"Too many streaming sends"}"#);
    assert_eq!((refused.header("retry-after"), refused.closes()), (Some("5"), true));
    assert_json(&setup.gateway.get("/more"), 503, r#"{"error":"Too many streams"}"#);
    for _ in 0..20 {
        let _silent = Client::open(setup.gateway.port, "POST /internal/send");
        assert_eq!(setup.gateway.get("/healthz").status, 200);
    }
    all_send();
    assert_json(&feeds.remove(0).finish(), 200, r#"{"status":"ok","accepted":2}"#);
    assert_eq!(setup.whole("?group=a", LINES, "").status, 200);
}
