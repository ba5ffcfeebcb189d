//! Streaming sends: a POST that stays open, with a command per line, or with an event stream (docs/protocol.md, section 14).
//! How they are read, and their answers.

mod common;

use common::feed::{EVENTS, Feed, LINES, event, setup, setup_with};
use common::{Backend, Client, Gateway, OK, assert_json, eventually, get, post};
use serde_json::{Value, json};

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
        ("?group=a&end", "end must be true or false"),
        ("?group", "group must be a name of 1 to 128 bytes"),
        ("?token", "token must not be empty"),
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
    let setup = setup_with(|it| it.set("REQUEST_TIMEOUT_SECONDS", 1).set("KEEPALIVE_TIMEOUT_SECONDS", 1));
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
    let mut client = Client::open(setup.gateway.port, format!("{feed}{feed}{}", get("/healthz")));
    for _ in 0..2 {
        assert_json(&client.response(), 200, r#"{"status":"ok","accepted":1}"#);
    }
    assert_json(&client.response(), 200, OK);
    client.assert_open();
}

#[test]
fn a_client_of_http_1_0_may_send_lines_too() {
    let setup = setup();
    let line = event("1").to_string();
    let head = "POST /internal/send?group=a HTTP/1.0\r\nContent-Type: application/x-ndjson\r\n";
    let mut client = Client::open(setup.gateway.port, format!("{head}Content-Length: {}\r\n\r\n{line}", line.len()));
    assert_json(&client.response(), 200, r#"{"status":"ok","accepted":1}"#);
    client.assert_closed();
}

#[test]
fn lines_wait_for_the_backends_decision_like_other_sends() {
    let gate = common::Gate::new();
    let held = gate.clone();
    let backend = Backend::new(move |_| common::Answer::ok().after(&held));
    let gateway = Gateway::start(&backend);
    let client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    let lines = format!("{}\n{}\n", event("1"), event("2"));
    let head = format!("POST /internal/send?token={token} HTTP/1.1\r\nHost: h\r\nContent-Type: {LINES}\r\n");
    let response = gateway.request(format!("{head}Content-Length: {}\r\n\r\n{lines}", lines.len()));
    assert_json(&response, 200, r#"{"status":"ok","accepted":2}"#);
    gate.open();
    let mut stream = common::Stream::accept(client);
    assert_eq!([stream.event(), stream.event()], ["data: 1\n\n", "data: 2\n\n"]);
}

#[test]
fn other_refusals_do_not_wait_for_the_body_either() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).internal_port().start();
    for (port, method, status) in [(gateway.port, "POST", 404), (gateway.internal_port(), "PUT", 405)] {
        let head = format!("{method} /internal/send HTTP/1.1\r\nHost: h\r\nContent-Type: {LINES}\r\n");
        let mut client = Client::open(port, format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status, response.closes()), (status, true));
        client.assert_closed();
    }
    // Other types are read as JSON, whatever they are called.
    let mut client = Client::open(gateway.port, post("/internal/send", "{}"));
    assert_eq!(client.response().status, 404);
    client.assert_open();
}

#[test]
fn feeds_are_counted() {
    let setup = setup();
    let _stream = setup.open("a");
    let mut open = setup.feed("?group=a", LINES);
    open.line(&event("1"));
    setup.whole("", LINES, "{}\n\n[]\n{\"token\":\"x\"}");
    setup.feed("?token=x", EVENTS).client.response();
    drop(setup.feed("?group=b&end=true", EVENTS));
    let mut bad = setup.feed("?group=a", LINES);
    bad.client.send("xyz\r\n");
    bad.client.response();
    eventually("all is counted", || {
        let metrics = setup.gateway.get("/internal/metrics");
        let has = |sample: &str| metrics.text().lines().any(|line| line == format!("ssegateway_{sample}"));
        has("feeds_open 1")
            && has(r#"feeds_total{end="complete"} 1"#)
            && has(r#"feeds_total{end="gone"} 1"#)
            && has(r#"feeds_total{end="refused"} 1"#)
            && has(r#"feeds_total{end="broken_off"} 1"#)
            && has(r#"feed_sends_total{result="ok"} 1"#)
            && has(r#"feed_sends_total{result="invalid"} 2"#)
            && has(r#"feed_sends_total{result="not_found"} 1"#)
            && has(r#"sends_total{result="invalid"} 2"#)
    });
}

#[test]
fn what_comes_behind_a_close_in_one_read_is_for_nobody() {
    let setup = setup();
    let mut stream = setup.open("a");
    let line = |data: &str| json!({"event": {"data": data}, "close": true});
    let body = format!("{}\n{}\n{}\n", line("1"), event("2"), line("3"));
    assert_json(&setup.whole("?group=a", LINES, &body), 200, r#"{"status":"ok","accepted":3}"#);
    assert_eq!(stream.event(), "data: 1\n\n");
    stream.assert_ended();
}

#[test]
fn the_target_in_the_query_is_percent_decoded() {
    let backend = Backend::connecting(common::Answer::json(r#"{"groups":["user:4 2"]}"#));
    let gateway = Gateway::for_backend(&backend).set("HISTORY_SECONDS", 0).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    for query in [
        "?group=user%3A4%202",
        "?x=y&end=false&group=user:4%202",
        &format!("?token=%{:x}{}", token.as_bytes()[0], &token[1..]),
    ] {
        let line = event("1").to_string();
        let head = format!("POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: {LINES}\r\n");
        let response = gateway.request(format!("{head}Content-Length: {}\r\n\r\n{line}", line.len()));
        assert_json(&response, 200, r#"{"status":"ok","accepted":1}"#);
        assert_eq!(stream.event(), "data: 1\n\n");
    }
}

#[test]
fn a_line_that_finds_too_much_unsent_is_an_error_like_that_of_another_send() {
    let gate = common::Gate::new();
    let held = gate.clone();
    let backend = Backend::new(move |_| common::Answer::ok().after(&held));
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 100).start();
    let _client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    let line = json!({"token": token, "event": {"data": "x".repeat(100)}}).to_string();
    let lines = format!("{line}\n{line}\n{line}\n");
    let head = format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Type: {LINES}\r\n");
    let response = gateway.request(format!("{head}Content-Length: {}\r\n\r\n{lines}", lines.len()));
    let failed = r#"{"line":2,"status":500,"error":"Write failed: connection closed"}"#;
    let gone = r#"{"line":3,"status":404,"error":"Token not found"}"#;
    assert_json(&response, 200, &format!(r#"{{"status":"ok","accepted":1,"errors":[{failed},{gone}]}}"#));
    gate.open();
}
