//! Mistakes in a user's first ten minutes: each gets a line that says what to do.

mod common;

use common::{Answer, Backend, Client, Gateway, Port, get, post, run};
use std::net::TcpListener;

#[test]
fn one_line_shows_the_startup() {
    let backend = Backend::accepting();
    let url = format!("http://user:secret@127.0.0.1:{}/call?key=secret", backend.port);
    let mut gateway = Gateway::builder().set("CALLBACK_URL", url).set("MAX_STREAMS", 10).start();
    let line = gateway.log_line(&["started"]);
    for part in [
        format!("version={}", env!("CARGO_PKG_VERSION")),
        format!("address=127.0.0.1:{}", gateway.port),
        format!("callback=http://127.0.0.1:{}/call ", backend.port),
        "streams_max=10".to_owned(),
    ] {
        assert!(line.contains(&part), "{part} is missing: {line}");
    }
    gateway.drain();
    let log = gateway.log();
    assert_eq!(log.lines().count(), 2, "one line at the start and one at the end: {log}");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn a_missing_callback_url_gets_a_hint() {
    let gateway = Gateway::builder().start();
    gateway.log_line(&["WARN", "CALLBACK_URL is not set", "http://127.0.0.1:8000/callback"]);
}

#[test]
fn a_port_in_use_is_named_with_a_fix() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = run(&[], &[("PORT", &port), ("LISTEN_ADDRESS", "127.0.0.1")]);
    assert_eq!(output.code, Some(1));
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    for part in [port.as_str(), "in use", "set PORT to a free one"] {
        assert!(output.stderr.contains(part), "{output:?}");
    }
    let free = Port::reserve();
    let variables = [("PORT", &*free.to_string()), ("INTERNAL_PORT", &port), ("LISTEN_ADDRESS", "127.0.0.1")];
    let output = run(&[], &variables);
    assert!(output.stderr.contains("set INTERNAL_PORT to a free one"), "{output:?}");
}

#[test]
fn a_bad_url_gets_an_example() {
    let output = run(&[], &[("CALLBACK_URL", "localhost:8000/callback")]);
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("like http://127.0.0.1:8000/callback"), "{output:?}");
}

#[test]
fn an_argument_points_to_the_help() {
    let output = run(&["--port", "3000"], &[]);
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("environment") && output.stderr.contains("--help"), "{output:?}");
}

#[test]
fn a_backend_that_is_down_is_named() {
    let port = Port::reserve();
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{port}/callback")).start();
    gateway.get("/x");
    let line = gateway.log_line(&["WARN", "connect callback failed", "refused", "container"]);
    assert!(line.contains(&format!("http://127.0.0.1:{port}/callback")), "{line}");
}

#[test]
fn a_host_that_is_not_found_is_named() {
    // An invalid name, so that no name server is asked.
    let gateway = Gateway::builder().set("CALLBACK_URL", "http://no..name:8000/callback").start();
    assert_eq!(gateway.get("/x").status, 503);
    gateway.log_line(&["WARN", "http://no..name:8000/callback", "check the host name in CALLBACK_URL"]);
}

#[test]
fn a_backend_that_gives_no_answer_comes_with_a_hint() {
    for (answer, hint) in [
        (Answer::silence(), "no answer within CALLBACK_TIMEOUT_SECONDS"),
        (Answer::close(), "its own log"),
        (Answer::raw("220 mail.example ESMTP\r\n"), "does not speak HTTP"),
    ] {
        let backend = Backend::connecting(answer);
        let gateway = Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 1).start();
        gateway.get("/x");
        gateway.log_line(&["WARN", "connect callback failed", hint]);
    }
}

#[test]
fn each_kind_of_rejection_gets_a_hint_once() {
    for (status, hint) in [(404, "path"), (403, "CSRF"), (301, "redirects"), (400, "JSON"), (500, "its own log")] {
        let backend = Backend::connecting(Answer::status(status));
        let mut gateway = Gateway::start(&backend);
        gateway.get("/x");
        gateway.log_line(&["WARN", "connect rejected", &format!("status={status}"), hint]);
        gateway.get("/x");
        gateway.drain();
        assert_eq!(gateway.log().matches("connect rejected").count(), 1, "{}", gateway.log());
    }
}

#[test]
fn a_backend_that_has_accepted_rejects_without_a_hint() {
    let backend = Backend::new(|call| if call.url() == "/y" { Answer::status(403) } else { Answer::ok() });
    let mut gateway = Gateway::start(&backend);
    let (_stream, _) = gateway.open_with(&backend, "/x");
    assert_eq!(gateway.get("/y").status, 403);
    gateway.drain();
    assert!(!gateway.log().contains("connect rejected"), "{}", gateway.log());
}

#[test]
fn a_page_of_another_origin_without_cors_gets_a_hint_once() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::start(&backend);
    let with_origin = |origin: &str| get("/x").replacen("\r\n\r\n", &format!("\r\nOrigin: {origin}\r\n\r\n"), 1);
    for origin in ["http://gateway", "https://app.example", "https://app.example"] {
        Client::open(gateway.port, with_origin(origin)).head();
    }
    gateway.log_line(&["WARN", "origin=https://app.example", "CORS_ORIGINS"]);
    gateway.drain();
    assert_eq!(gateway.log().matches("CORS_ORIGINS").count(), 1, "{}", gateway.log());
}

#[test]
fn a_fixed_mistake_does_not_hide_the_next() {
    let backend = Backend::new(|call| Answer::status(if call.url() == "/first" { 404 } else { 403 }));
    let gateway = Gateway::start(&backend);
    gateway.get("/first");
    gateway.get("/second");
    gateway.log_line(&["connect rejected", "path of CALLBACK_URL"]);
    gateway.log_line(&["connect rejected", "CSRF"]);
}

/// A backend may ignore the answers to its sends.
#[test]
fn a_refused_send_gets_a_hint_once() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::start(&backend);
    let (_stream, token) = gateway.open_with(&backend, "/x");
    let cases = [
        (r#"{"token":"T","event":{"data":{"EUR":3}}}"#, 400, "json.dumps"),
        (r#"{"token":"T","event":"hello"}"#, 400, "an event is an object"),
        (r#"{"event":{"data":"hello"}}"#, 400, "connect callback"),
        ("token=T&data=hello", 400, "json="),
        (r#"{"token":"T","data":"hello"}"#, 200, "data belongs inside event"),
        (r#"{"token":"T","close":"true"}"#, 400, "close must be a boolean"),
        (r#"{"token":"T","event":{"data":"x","id":[7]}}"#, 400, "a string or an integer"),
        (r#"{"token":"T","event":{"event":"x","data":"y"}}"#, 200, "field name"),
        (r#"{"token":"T","event":{"data":"y","meta":{"a":1}}}"#, 200, "data, name, id and retry"),
        (r#"{"token":"T","event":{"data":"y"},"channel":"a"}"#, 200, "field=channel"),
    ];
    for (body, status, hint) in cases {
        for _ in 0..2 {
            assert_eq!(gateway.send(&body.replace('T', &token)).status, status, "{body}");
        }
        gateway.log_line(&["WARN", "a send ", hint]);
    }
    // These are legitimate.
    assert_eq!(gateway.send(&format!(r#"{{"token":"{token}"}}"#)).status, 200);
    assert_eq!(gateway.close(&token).status, 200);
    assert_eq!(gateway.event(&token, "to nobody").status, 404);
    gateway.drain();
    assert_eq!(gateway.log().matches("WARN").count(), cases.len(), "{}", gateway.log());
}

#[test]
fn a_request_to_the_wrong_port_or_path_gets_a_hint_once() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).internal_port().set("INTERNAL_TOKEN", "secret").start();
    let with_token = |request: String| request.replacen("\r\n\r\n", "\r\nAuthorization: Bearer secret\r\n\r\n", 1);
    let with_origin = |request: String| request.replacen("\r\n\r\n", "\r\nOrigin: http://a.example\r\n\r\n", 1);
    let (public, internal) = (gateway.port, gateway.internal_port());
    let cases = [
        (public, post("/internal/send", "{}"), 404, "INTERNAL_PORT or INTERNAL_SOCKET is set"),
        (public, post("/send", "{}"), 405, "a stream is opened by GET"),
        (internal, get("/news"), 404, "streams are served on PORT"),
        (internal, post("/internal/send", "{}"), 401, "INTERNAL_TOKEN is set"),
        (internal, with_origin(post("/internal/send", "{}")), 403, "send from the backend"),
        (internal, with_token(post("/internal/sned", "{}")), 404, "the paths are /internal/send"),
        (internal, with_token(get("/internal/send")), 405, "a send is a POST"),
    ];
    for (port, request, status, hint) in &cases {
        for _ in 0..2 {
            assert_eq!(Client::open(*port, request).response().status, *status, "{request}");
        }
        gateway.log_line(&["WARN", "a request was refused", hint]);
    }
    gateway.drain();
    assert_eq!(gateway.log().matches("WARN").count(), cases.len(), "{}", gateway.log());
}

#[test]
fn a_wrong_internal_path_gets_the_right_ones() {
    let gateway = Gateway::builder().start();
    assert_eq!(gateway.request(post("/internal/sned", "{}")).status, 404);
    gateway.log_line(&["WARN", "a request was refused", "the paths are /internal/send"]);
}

#[test]
fn a_large_request_gets_the_name_of_its_limit() {
    let builder = Gateway::builder().set("MAX_HEADER_BYTES", 1024).set("MAX_BODY_BYTES", 1024);
    let mut gateway = builder.set("CALLBACK_URL", "http://127.0.0.1:1/").start();
    for (target, body, status, limit) in [
        (format!("/{}", "x".repeat(2000)), String::new(), 431, "MAX_HEADER_BYTES"),
        ("/internal/send".to_owned(), "x".repeat(2000), 413, "MAX_BODY_BYTES"),
    ] {
        for _ in 0..2 {
            assert_eq!(gateway.request(post(&target, &body)).status, status);
        }
        gateway.log_line(&["WARN", "a request was refused", limit]);
    }
    gateway.drain();
    assert_eq!(gateway.log().matches("WARN").count(), 2, "{}", gateway.log());
}

#[test]
fn https_to_the_gateway_gets_a_hint() {
    let gateway = Gateway::builder().start();
    assert_eq!(gateway.request(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").status, 400);
    gateway.log_line(&["WARN", "a client sent TLS", "http://"]);
}

#[test]
fn a_stream_over_the_limit_gets_a_hint() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_STREAMS", 1).start();
    let (_stream, _) = gateway.open_with(&backend, "/x");
    assert_eq!(gateway.get("/y").status, 503);
    gateway.log_line(&["WARN", "too many", "streams_max=1", "raise MAX_STREAMS"]);
}
