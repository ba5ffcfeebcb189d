//! What a backend may add to a stream by its connect's answer: first events, header fields, 204, an end in time
//! (docs/protocol.md, section 15).

mod common;

use common::{Answer, Backend, Client, Gate, Gateway, Step, Stream, assert_json, eventually, get};
use serde_json::{Value, json};

fn answering(answer: &Value) -> Backend {
    Backend::connecting(Answer::json(&answer.to_string()))
}

#[test]
fn several_events_come_first_and_in_order() {
    let events = json!([{"data": "a", "id": "1"}, {"data": 2}, {"name": "n", "data": "c"}]);
    let backend = answering(&json!({"events": events, "close": true}));
    let gateway = Gateway::start(&backend);
    let finish = gateway.open("/x").finish();
    assert_eq!((&*finish.text, finish.clean), ("id: 1\ndata: a\n\nevent: n\ndata: c\n\n", true));
    gateway.log_line(&["connect answer partly ignored", "event.data is required"]);
}

#[test]
fn event_counts_where_both_stand() {
    let backend = answering(&json!({"events": [{"data": "b"}], "event": {"data": "a"}, "close": true}));
    assert_eq!(Gateway::start(&backend).open("/x").finish().text, "data: a\n\n");
}

#[test]
fn header_fields_are_on_the_response_and_reserved_ones_are_left_out() {
    let backend = answering(&json!({"headers": {
        "X-Run-Id": "42",
        "Set-Cookie": ["a=1", "b=2"],
        "Content-Type": "text/html",
        "cache-control": "public",
        "X-Split": "a\r\nSet-Cookie: forged=1",
    }}));
    let gateway = Gateway::start(&backend);
    let stream = gateway.open("/x");
    assert_eq!(stream.head.header("x-run-id"), Some("42"));
    assert_eq!(stream.head.header_values("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(stream.head.header("x-split"), None);
    assert_eq!(stream.head.header("access-control-expose-headers"), None);
    for name in ["Content-Type", "cache-control", "X-Split"] {
        gateway.log_line(&["header field left out", name]);
    }
}

#[test]
fn pages_of_allowed_origins_may_read_the_fields() {
    let backend = answering(&json!({"headers": {"X-Run-Id": "42", "X-B": "b"}}));
    let gateway = Gateway::for_backend(&backend).set("CORS_ORIGINS", "https://a.example").start();
    let from = |origin: &str| {
        let request = format!("GET /x HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n");
        let head = Stream::accept(Client::open(gateway.port, request)).head;
        head.header("access-control-expose-headers").map(str::to_owned)
    };
    assert_eq!(from("https://a.example").as_deref(), Some("X-B, X-Run-Id"));
    assert_eq!(from("https://other.example"), None);
}

#[test]
fn status_204_is_no_stream_and_has_no_disconnect() {
    let backend = answering(&json!({"status": 204, "headers": {"X-Why": "over"}, "event": {"data": "x"}}));
    let mut gateway = Gateway::start(&backend);
    let response = gateway.get("/x");
    assert_eq!((response.status, response.text()), (204, ""));
    assert_eq!(response.header("x-why"), Some("over"));
    let token = backend.connect("/x").token().to_owned();
    assert_eq!(gateway.event(&token, "y").status, 404);
    gateway.drain();
    assert_eq!(backend.count("disconnect"), 0);
}

#[test]
fn a_client_that_leaves_before_a_204_has_no_disconnect() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::json(r#"{"status":204}"#).after(&gate));
    let mut gateway = Gateway::start(&backend);
    let client = Client::open(gateway.port, get("/x"));
    backend.connect("/x");
    drop(client);
    eventually("the client has gone", || {
        gateway.get("/internal/metrics").text().contains("\nssegateway_streams_connecting 0\n")
    });
    gate.open();
    gateway.drain();
    assert_eq!(backend.count("disconnect"), 0);
}

#[test]
fn another_status_is_ignored_and_logged() {
    let backend = answering(&json!({"status": 200, "event": {"data": "x"}}));
    let gateway = Gateway::start(&backend);
    assert_eq!(gateway.open("/x").frame(), "data: x\n\n");
    gateway.log_line(&["connect answer partly ignored", "status must be 204"]);
}

#[test]
fn a_stream_that_expires_ends_cleanly_and_its_disconnect_says_so() {
    let backend = answering(&json!({"expires_in": 1}));
    let gateway = Gateway::start(&backend);
    let (stream, token) = gateway.open_with(&backend, "/x");
    stream.assert_ended();
    let disconnect = backend.disconnect(&token);
    assert_eq!((disconnect.reason(), disconnect.detail()), ("server_closed", Some("expired")));
}

#[test]
fn all_streams_may_be_given_an_age() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_STREAM_SECONDS", 1).start();
    let (stream, token) = gateway.open_with(&backend, "/x");
    stream.assert_ended();
    assert_eq!(backend.disconnect(&token).detail(), Some("expired"));
}

#[test]
fn the_body_of_a_rejection_is_passed_on_where_that_is_wanted() {
    let page = "<h1>log in first</h1>";
    let backend = Backend::connecting(Answer::new(401, &[("Content-Type", "text/html; charset=utf-8")], page));
    let response = Gateway::for_backend(&backend).set("REJECTION_BODY", "pass").start().get("/x");
    assert_eq!((response.status, response.text()), (401, page));
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    assert_json(&Gateway::start(&backend).get("/x"), 401, r#"{"error":"Backend returned 401"}"#);
}

#[test]
fn a_rejections_body_of_no_type_is_passed_on_without_one() {
    let backend = Backend::connecting(Answer::raw("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"));
    let response = Gateway::for_backend(&backend).set("REJECTION_BODY", "pass").start().get("/x");
    assert_eq!((response.status, response.text(), response.header("content-type")), (403, "no", None));
}

/// Nobody asked for a coding, and without its name the body could not be read.
#[test]
fn a_rejections_body_in_a_content_coding_is_replaced() {
    for (coding, passed) in [("gzip", false), ("br, gzip", false), ("Identity", true)] {
        let headers = [("Content-Type", "text/plain"), ("Content-Encoding", coding)];
        let backend = Backend::connecting(Answer::new(403, &headers, "coded"));
        let response = Gateway::for_backend(&backend).set("REJECTION_BODY", "pass").start().get("/x");
        if passed {
            assert_eq!((response.status, response.text()), (403, "coded"), "{coding}");
        } else {
            assert_json(&response, 403, r#"{"error":"Backend returned 403"}"#);
        }
    }
}

#[test]
fn a_rejections_body_that_is_not_whole_or_too_long_or_empty_is_replaced() {
    let longest = "x".repeat(64 * 1024);
    let types = [("Content-Type", "text/plain")];
    for (answer, passed) in [
        (Answer::new(403, &types, &longest), true),
        (Answer::new(403, &types, &format!("{longest}x")), false),
        (Answer::new(403, &types, ""), false),
        (Answer::raw("HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\nshort").then(Step::Close), false),
        // Late: the rest never comes.
        (Answer::raw("HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\nshort"), false),
    ] {
        let backend = Backend::connecting(answer);
        let settings = Gateway::for_backend(&backend).set("REJECTION_BODY", "pass").set("CALLBACK_TIMEOUT_SECONDS", 1);
        let response = settings.start().get("/x");
        if passed {
            assert_eq!((response.status, response.body.len()), (403, longest.len()));
        } else {
            assert_json(&response, 403, r#"{"error":"Backend returned 403"}"#);
        }
    }
}
