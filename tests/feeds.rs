//! Streaming sends: a POST that stays open, with a command per line, or with an event stream (docs/protocol.md, section 14).

mod common;

use common::{Answer, Backend, Client, Gateway, Response, SIGTERM, Stream, assert_json};
use serde_json::{Value, json};

const LINES: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";

struct Setup {
    backend: Backend,
    gateway: Gateway,
}

/// Without history, so that frames have no ids. A stream of `/a,b` is in the groups `a` and `b`, one of `/` in none.
fn setup() -> Setup {
    let backend = Backend::new(|call| {
        let groups: Vec<&str> = call.url()[1..].split(',').filter(|name| !name.is_empty()).collect();
        Answer::json(&json!({ "groups": groups }).to_string())
    });
    Setup { gateway: Gateway::for_backend(&backend).set("HISTORY_SECONDS", 0).start(), backend }
}

impl Setup {
    fn open(&self, groups: &str) -> Stream {
        self.gateway.open(&format!("/{groups}"))
    }

    fn token(&self, path: &str) -> String {
        self.backend.connect(path).token().to_owned()
    }

    /// A feed in chunks.
    fn feed(&self, query: &str, content_type: &str) -> Feed {
        let head = format!(
            "POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        Feed { client: Client::open(self.gateway.port, head) }
    }

    /// A feed with all of its body at once.
    fn whole(&self, query: &str, content_type: &str, body: &str) -> Response {
        let length = body.len();
        let head = format!("POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\n");
        self.gateway.request(format!("{head}Content-Length: {length}\r\n\r\n{body}"))
    }

    fn end(&self, group: &str) {
        let response = self.gateway.send(&json!({"group": group, "end": true}).to_string());
        assert_eq!(response.status, 200, "{response:?}");
    }
}

/// The sender of a feed in chunks.
struct Feed {
    client: Client,
}

impl Feed {
    fn chunk(&mut self, data: &str) {
        self.client.send(format!("{:x}\r\n{data}\r\n", data.len()));
    }

    /// A line of JSON.
    fn line(&mut self, line: &Value) {
        self.chunk(&format!("{line}\n"));
    }

    /// The clean end of the body, and the answer to it.
    fn finish(&mut self) -> Response {
        self.client.send("0\r\n\r\n");
        self.client.response()
    }

    /// The feed is told so although it says nothing, and may not go on.
    #[track_caller]
    fn assert_told(&mut self, status: u16, body: &str) {
        let response = self.client.response();
        assert_json(&response, status, body);
        assert!(response.closes(), "{response:?}");
        self.client.assert_closed();
    }
}

fn event(data: &str) -> Value {
    json!({"event": {"data": data}})
}

const TOKEN_GONE: &str = r#"{"error":"Token not found","line":1}"#;
const GROUP_GONE: &str = r#"{"error":"Group has ended","line":1}"#;

#[test]
fn lines_are_applied_as_they_are_complete() {
    let setup = setup();
    let mut stream = setup.open("a");
    let mut feed = setup.feed("?group=a", LINES);
    feed.line(&event("1"));
    assert_eq!(stream.event(), "data: 1\n\n");
    feed.chunk("{\"event\":{\"da");
    feed.chunk("ta\":\"2\"}}\n\n{\"event\":{\"data\":\"3\"}}\n{\"event\":");
    assert_eq!([stream.event(), stream.event()], ["data: 2\n\n", "data: 3\n\n"]);
    feed.chunk("{\"data\":\"4\"}}");
    assert_json(&feed.finish(), 200, r#"{"status":"ok","accepted":4}"#);
    assert_eq!(stream.event(), "data: 4\n\n");
    feed.client.assert_open();
}

#[test]
fn lines_name_their_own_targets() {
    let setup = setup();
    let (mut one, mut two) = (setup.open("a"), setup.open("b,c"));
    let token = setup.token("/a");
    let body = format!(
        "{}\n{}\n{}\n",
        json!({"token": token, "event": {"data": "1"}}),
        json!({"group": "b", "events": [{"data": "2"}, {"name": "n", "data": "3"}]}),
        json!({"groups": ["a", "c"], "event": {"data": "4"}})
    );
    assert_json(&setup.whole("", LINES, &body), 200, r#"{"status":"ok","accepted":3}"#);
    assert_eq!([one.event(), one.event()], ["data: 1\n\n", "data: 4\n\n"]);
    assert_eq!([two.event(), two.event(), two.event()], ["data: 2\n\n", "event: n\ndata: 3\n\n", "data: 4\n\n"]);
}

#[test]
fn a_bad_line_stops_nobody() {
    let setup = setup();
    let mut stream = setup.open("a");
    let unknown = "00000000-0000-4000-8000-000000000000";
    let body = format!(
        "\u{feff}{{\"event\":{{\"data\":\"1\"}}}}\r\n\r\n{{\n  \t\n{}\n{}\n{}\n{}\n{}",
        json!({"token": unknown}),
        json!({"group": "x", "groups": ["y"]}),
        json!({"event": {"data": 7}}),
        json!({"transient": null}),
        event("2")
    );
    let errors = json!([
        {"line": 3, "status": 400, "error": "Invalid JSON"},
        {"line": 5, "status": 404, "error": "Token not found"},
        {"line": 6, "status": 400, "error": "Invalid request: token, group and groups exclude each other"},
        {"line": 7, "status": 400, "error": "Invalid request: event.data is required and must be a string"},
        {"line": 8, "status": 400, "error": "Invalid request: transient must be a boolean"},
    ]);
    let response = setup.whole("?group=a", LINES, &body);
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(answer, json!({"status": "ok", "accepted": 2, "errors": errors}));
    assert!(response.text().starts_with(r#"{"status":"ok","accepted":2,"errors":[{"line":3,"status":400,"error":"#));
    assert_eq!([stream.event(), stream.event()], ["data: 1\n\n", "data: 2\n\n"]);
    // Without a target in the query each line needs its own.
    let missing = r#"{"line":1,"status":400,"error":"Invalid request: token is required and must be a string"}"#;
    let body = format!(r#"{{"status":"ok","accepted":0,"errors":[{missing}]}}"#);
    assert_json(&setup.whole("", LINES, &event("3").to_string()), 200, &body);
}

#[test]
fn the_first_hundred_errors_are_listed() {
    let setup = setup();
    let response = setup.whole("", LINES, &"[]\n".repeat(150));
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    let lines: Vec<u64> = answer["errors"].as_array().unwrap().iter().map(|e| e["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, Vec::from_iter(1..=100));
}

#[test]
fn an_event_stream_is_passed_on() {
    let setup = setup();
    let mut stream = setup.open("a");
    let mut feed = setup.feed("?group=a", "Text/Event-Stream; charset=utf-8");
    feed.chunk("\u{feff}: hello\nretry: 5\nid: 7\nevent: delta\ndata: 1\nda");
    feed.chunk("ta: 2\r");
    feed.chunk("\n\r\nevent: x\0y\ndata: left out\n\nevent: no data\n\ndata: [DONE]\n\n");
    assert_eq!(stream.event(), "event: delta\ndata: 1\ndata: 2\n\n");
    assert_eq!(stream.event(), "data: [DONE]\n\n");
    feed.chunk("data: incomplete\n");
    assert_json(&feed.finish(), 200, r#"{"status":"ok","accepted":2}"#);
    let mut alone = setup.open("");
    let token = setup.token("/");
    let response = setup.whole(&format!("?token={token}"), EVENTS, "data: a\n\n");
    assert_json(&response, 200, r#"{"status":"ok","accepted":1}"#);
    assert_eq!(alone.event(), "data: a\n\n");
}

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
    let error = r#"{"line":2,"status":410,"error":"Group has ended"}"#;
    assert_json(&feed.finish(), 200, &format!(r#"{{"status":"ok","accepted":1,"errors":[{error}]}}"#));

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
        let gateway = Gateway::for_backend(&setup.backend).set("HISTORY_SECONDS", 0).set("MAX_BODY_BYTES", 100).start();
        let setup = Setup { backend: Backend::accepting(), gateway };
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
fn what_the_head_decides_is_answered_at_once() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("INTERNAL_TOKEN", "secret").start();
    let request = |query: &str, fields: &str| {
        let head = format!("POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n");
        let mut client = Client::open(gateway.port, format!("{head}{fields}\r\n"));
        let response = client.response();
        assert!(response.closes(), "{response:?}");
        client.assert_closed();
        (response.status, response.text().to_owned())
    };
    let (secret, lines) = ("Authorization: Bearer secret\r\n", "Content-Type: application/x-ndjson\r\n");
    let refused = |query: &str, fields: &str| request(query, &format!("{secret}{fields}"));
    assert_eq!(request("?group=a", lines).0, 401);
    assert_eq!(refused("?group=a", &format!("{lines}Origin: http://a\r\n")).0, 403);
    assert_eq!(refused("?group=a", &format!("{lines}Content-Encoding: gzip\r\n")).0, 415);
    assert_eq!(refused("?group=a", "Content-Type: text/event-stream;charset=latin1\r\n").0, 415);
    assert_eq!(refused("?group=a", &format!("{lines}Expect: more\r\n")).0, 417);
    for (query, error) in [
        ("?group=", "group must be a name of 1 to 128 bytes"),
        ("?group=%00", "group must be a name of 1 to 128 bytes"),
        ("?token=", "token must not be empty"),
        ("?token=a&group=b", "token and group exclude each other, and come once"),
        ("?group=a&group=b", "token and group exclude each other, and come once"),
        ("?end=true", "end needs a group"),
        ("?token=a&end=true", "end needs a group"),
        ("?group=a&end=yes", "end must be true or false"),
    ] {
        let body = format!(r#"{{"error":"Invalid request: {error}"}}"#);
        assert_eq!(refused(query, lines), (400, body), "{query}");
    }
    let body = r#"{"error":"Invalid request: an event stream needs a group or a token"}"#.to_owned();
    assert_eq!(refused("", "Content-Type: text/event-stream\r\n"), (400, body));
}

#[test]
fn a_hundred_continue_comes_before_the_body() {
    let setup = setup();
    let head = "POST /internal/send?group=a HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n\
                Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut feed = Feed { client: Client::open(setup.gateway.port, head) };
    assert_eq!(feed.client.head().status, 100);
    feed.line(&event("1"));
    assert_json(&feed.finish(), 200, r#"{"status":"ok","accepted":1}"#);
    setup.end("a");
    let mut client = Client::open(setup.gateway.port, head);
    assert_eq!(client.response().status, 410);
}

#[test]
fn the_timeout_of_requests_is_for_the_head() {
    let backend = Backend::accepting();
    let gateway =
        Gateway::for_backend(&backend).set("REQUEST_TIMEOUT_SECONDS", 1).set("KEEPALIVE_TIMEOUT_SECONDS", 1).start();
    let setup = Setup { backend, gateway };
    let mut feed = setup.feed("?group=a", LINES);
    feed.line(&event("1"));
    // An idle connection ends later than a request that takes too long.
    let mut idle = setup.gateway.client();
    idle.assert_open();
    idle.assert_closed();
    assert_eq!(Client::open(setup.gateway.port, "POST /internal/send").response().status, 408);
    feed.line(&event("2"));
    assert_json(&feed.finish(), 200, r#"{"status":"ok","accepted":2}"#);
}

#[test]
fn requests_follow_a_feed_on_its_connection() {
    let setup = setup();
    let line = event("1").to_string();
    let feed = format!(
        "POST /internal/send?group=a HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{line}",
        line.len()
    );
    let mut client = Client::open(setup.gateway.port, format!("{feed}{feed}{}", common::get("/healthz")));
    for _ in 0..2 {
        assert_json(&client.response(), 200, r#"{"status":"ok","accepted":1}"#);
    }
    assert_json(&client.response(), 200, common::OK);
    client.assert_open();
}
