//! `OPENING_COMMENT` and `PADDING_BYTES`: for proxies that hold back little data (contract, section 2).

mod common;

use common::{Answer, Backend, Client, Gateway, HEARTBEAT, Stream, run};

#[test]
fn a_stream_begins_with_a_comment() {
    let backend = Backend::connecting(Answer::json(r#"{"event":{"data":"hello"}}"#));
    let gateway =
        Gateway::for_backend(&backend).set("OPENING_COMMENT", "on").set("RECONNECT_DELAY_MILLISECONDS", 0).start();
    let mut stream = gateway.open("/x");
    assert_eq!(stream.frame(), ": open\n\n");
    assert_eq!(stream.frame(), "retry: 0\n\n");
    assert_eq!(stream.frame(), "data: hello\n\n");
    let mut old = Stream::accept(Client::open(gateway.port, "GET /x HTTP/1.0\r\n\r\n"));
    assert_eq!(old.frame(), ": open\n\n");
}

#[test]
fn nothing_else_opens_a_quiet_stream() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("OPENING_COMMENT", "on").start();
    let mut stream = gateway.open("/x");
    assert_eq!(stream.next_chunk(), Some(b": open\n\n".to_vec()));
    // A rejection is no stream.
    let refusing = Backend::connecting(Answer::status(403));
    let gateway = Gateway::for_backend(&refusing).set("OPENING_COMMENT", "on").start();
    assert_eq!(gateway.get("/x").text(), r#"{"error":"Backend returned 403"}"#);
}

#[test]
fn the_cursor_of_a_resumable_stream_follows_the_comment() {
    let backend = Backend::connecting(Answer::json(r#"{"groups":["a"]}"#));
    let gateway = Gateway::for_backend(&backend).set("OPENING_COMMENT", "on").set("PADDING_BYTES", 100).start();
    let mut stream = gateway.open("/x");
    assert_eq!(stream.frame(), format!(": open\n:{}\n\n", " ".repeat(98)));
    assert!(stream.frame().starts_with("id: "));
}

#[test]
fn heartbeats_are_padded_as_well() {
    let backend = Backend::new(|call| match call.url() {
        "/resumable" => Answer::json(r#"{"groups":["a"]}"#),
        _ => Answer::ok(),
    });
    let gateway =
        Gateway::for_backend(&backend).set("HEARTBEAT_INTERVAL_SECONDS", 1).set("PADDING_BYTES", 4096).start();
    let padded = format!("{}:{}\n", &HEARTBEAT[..HEARTBEAT.len() - 1], " ".repeat(4094));
    let mut plain = gateway.open("/plain");
    let mut resumable = gateway.open("/resumable");
    assert!(resumable.frame().starts_with("id: "));
    assert_eq!(plain.frame(), format!("{padded}\n"));
    let frame = resumable.frame();
    assert!(frame.starts_with(&format!("{padded}id: ")) && frame.len() > padded.len() + 10, "{}", frame.len());
}

#[test]
fn bad_values_are_refused() {
    for (name, value) in [("OPENING_COMMENT", "yes"), ("PADDING_BYTES", "65537"), ("PADDING_BYTES", "-1")] {
        let output = run(&["check"], &[(name, value)]);
        assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 1), "{output:?}");
    }
}
