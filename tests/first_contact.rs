//! The slips of somebody's first ten minutes: each is answered by a line that says what to do.

mod common;

use common::{Answer, Backend, Client, Gateway, free_port, get, run};
use std::net::TcpListener;

#[test]
fn one_line_says_what_has_started() {
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
fn no_callback_url_is_pointed_out() {
    let gateway = Gateway::builder().start();
    gateway.log_line(&["WARN", "CALLBACK_URL is not set", "http://127.0.0.1:8000/callback"]);
}

#[test]
fn a_taken_port_is_named_with_a_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = run(&[], &[("PORT", &port), ("LISTEN_ADDRESS", "127.0.0.1")]);
    assert_eq!(output.code, Some(1));
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    for part in [port.as_str(), "in use", "choose another"] {
        assert!(output.stderr.contains(part), "{output:?}");
    }
}

#[test]
fn a_backend_that_is_down_is_named() {
    let port = free_port();
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{port}/callback")).start();
    gateway.get("/x");
    let line = gateway.log_line(&["WARN", "connect callback failed", "refused"]);
    assert!(line.contains(&format!("http://127.0.0.1:{port}/callback")), "{line}");
}

#[test]
fn the_first_rejection_comes_with_a_hint_and_only_the_first() {
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
fn a_page_of_another_origin_without_cors_is_pointed_out_once() {
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
