//! The log: its content, the secrets kept out of it, and that its reader cannot harm the gateway.

mod common;

use common::{Answer, Backend, Client, Gateway, Stream, get, send_request};
use std::io::Write;
use std::os::fd::OwnedFd;

/// The capacity of a pipe (pipe(7)).
const PIPE_BYTES: usize = 64 * 1024;

/// A stream opens, gets an event, and its client leaves.
fn live(backend: &Backend, gateway: &Gateway) -> String {
    let (mut stream, token) = gateway.open_with(backend, "/live?q=1");
    assert_eq!(gateway.event(&token, "the-event").status, 200);
    assert_eq!(stream.frame(), "data: the-event\n\n");
    drop(stream);
    backend.disconnect(&token);
    token
}

#[test]
fn lifecycles_are_logged_with_their_token() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::start(&backend);
    let token = live(&backend, &gateway);
    let opened = gateway.log_line(&["INFO", "stream opened", &format!("token={token}"), "url=/live?q=1"]);
    let closed = gateway.log_line(&["INFO", "stream closed", &format!("token={token}"), "client_closed"]);
    for line in [opened, closed] {
        let time = line.split_whitespace().next().expect("a timestamp");
        assert!(time.len() >= 20 && time.starts_with("20") && time.contains('T') && time.ends_with('Z'), "{line}");
    }
    gateway.drain();
    assert!(!gateway.log().contains("the-event"), "events are not logged at info");
}

#[test]
fn the_level_decides_what_is_logged() {
    let backend = Backend::accepting();
    for (level, lines) in
        [("off", false), ("error", false), ("warn", false), ("info", true), ("debug", true), ("trace", true)]
    {
        let mut gateway = Gateway::for_backend(&backend).set("LOG_LEVEL", level).start();
        live(&backend, &gateway);
        gateway.drain();
        assert_eq!(gateway.log().contains("stream opened"), lines, "{level}: {}", gateway.log());
        assert_eq!(gateway.log().is_empty(), !lines, "{level}: {}", gateway.log());
    }
}

#[test]
fn json_is_one_object_per_line_with_stable_keys() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("LOG_FORMAT", "json").start();
    let token = live(&backend, &gateway);
    let long = Client::open(gateway.port, get(&format!("/{}", "\"".repeat(12_000)))).head();
    assert_eq!(long.status, 200);
    gateway.drain();
    let lines: Vec<serde_json::Value> =
        gateway.log().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    for line in &lines {
        for key in ["ts", "level", "msg"] {
            assert!(line[key].is_string(), "{key} in {line}");
        }
        let time = line["ts"].as_str().unwrap();
        assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{line}");
    }
    let find = |msg: &str| lines.iter().find(|line| line["msg"] == msg).unwrap_or_else(|| panic!("no {msg}"));
    assert_eq!(find("started")["address"], format!("127.0.0.1:{}", gateway.port));
    let (opened, closed) = (find("stream opened"), find("stream closed"));
    assert_eq!((&opened["token"], &opened["url"]), (&token.clone().into(), &"/live?q=1".into()));
    assert_eq!((&closed["token"], &closed["reason"]), (&token.into(), &"client_closed".into()));
}

#[test]
fn queries_stay_out_of_the_log_on_request() {
    let backend = Backend::accepting();
    for format in ["text", "json"] {
        let builder = Gateway::for_backend(&backend).set("LOG_QUERY", "off").set("LOG_FORMAT", format);
        let mut gateway = builder.set("LOG_LEVEL", "trace").start();
        let (stream, _) = gateway.open_with(&backend, "/live?access_token=secret?x");
        drop(stream);
        gateway.drain();
        assert!(gateway.log().contains("/live") && !gateway.log().contains("secret"), "{}", gateway.log());
    }
}

#[test]
fn secrets_are_never_logged() {
    let backend = Backend::accepting();
    let url = format!("http://user:hunter2@127.0.0.1:{}/", backend.port);
    let basic = Gateway::builder().set("CALLBACK_URL", url);
    let bearer = Gateway::for_backend(&backend).set("CALLBACK_TOKEN", "correct-horse");
    for builder in [basic, bearer] {
        let mut gateway = builder.set("INTERNAL_TOKEN", "opensesame").set("LOG_LEVEL", "trace").start();
        let (stream, token) = gateway.open_with(&backend, "/x");
        for secret in ["opensesame", "battery-staple"] {
            let field = format!("\r\nAuthorization: Bearer {secret}\r\n\r\n");
            let request = send_request(&format!(r#"{{"token":"{token}"}}"#)).replacen("\r\n\r\n", &field, 1);
            gateway.request(request);
        }
        let request =
            "GET /y HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer client-secret\r\nCookie: id=client-cookie\r\n\r\n";
        Stream::accept(Client::open(gateway.port, request));
        drop(stream);
        backend.disconnect(&token);
        gateway.drain();
        let log = gateway.log();
        assert!(log.contains(&token), "{log}");
        let secrets = [
            "hunter2",
            "dXNlcjpodW50ZXIy",
            "correct-horse",
            "opensesame",
            "battery-staple",
            "client-secret",
            "client-cookie",
        ];
        for secret in secrets {
            assert!(!log.contains(secret), "{secret}: {log}");
        }
    }
}

#[test]
fn control_characters_of_others_are_escaped() {
    let evil = Answer::raw(
        "HTTP/1.1 200 \x1b[31mRed\r\nX-E: \x1b[0m\r\nContent-Length: 30\r\n\r\n{\"event\":\"\x1b[2J\\u001b[2J\",\"x\":1}",
    );
    let backend = Backend::connecting(evil);
    let mut gateway = Gateway::for_backend(&backend).set("LOG_LEVEL", "trace").start();
    for request in [
        "GET /\x1b[31m HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a\rb HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: h\r\nUser-Agent: \x1b[31m\x07\r\n\r\n",
        "G\x1bT /x HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        Client::open(gateway.port, request).head();
    }
    let long = "\u{9b}31m\u{7f}";
    Client::open(gateway.port, get("/x").replacen("Host: h", &format!("Host: {long}"), 1)).head();
    gateway.send("{\"token\":\"a\\u001b[31m\\nb\\u009b\",\"event\":{\"data\":\"x\"}}");
    gateway.send("{\"token\":\"\x1b[31m\"}");
    gateway.drain();
    let log = gateway.log();
    let stray = log.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(stray, None, "{log:?}");
    for line in log.lines() {
        assert!(line.starts_with("20"), "every line starts with its time: {line:?}");
    }
}

#[test]
fn what_a_client_sends_cannot_forge_a_line() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("LOG_LEVEL", "trace").start();
    gateway.send("{\"token\":\"x\\n2026-01-01T00:00:00Z INFO forged\"}");
    gateway.drain();
    assert!(!gateway.log().lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{}", gateway.log());
}

/// Asserts that the gateway serves and drains normally without a working log.
fn assert_unharmed(builder: common::Builder, backend: &Backend) {
    let mut gateway = builder.set("LOG_LEVEL", "trace").start();
    for _ in 0..50 {
        live(backend, &gateway);
    }
    // The longest possible line, many times: more than any pipe can hold.
    let long = get(&format!("/{}", "x".repeat(15_000)));
    let streams: Vec<Stream> = (0..20).map(|_| Stream::accept(Client::open(gateway.port, &long))).collect();
    drop(streams);
    gateway.client().assert_open();
    gateway.drain();
}

#[test]
fn a_closed_pipe_does_no_harm() {
    let backend = Backend::accepting();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_unharmed(Gateway::for_backend(&backend).stderr(writer), &backend);
}

#[test]
fn a_full_pipe_does_no_harm() {
    let backend = Backend::accepting();
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&[b'x'; PIPE_BYTES]).expect("room for exactly this");
    assert_unharmed(Gateway::for_backend(&backend).stderr(writer), &backend);
    drop(reader);
}

#[test]
fn a_full_disk_does_no_harm() {
    let backend = Backend::accepting();
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a full disk");
    assert_unharmed(Gateway::for_backend(&backend).stderr(OwnedFd::from(full).into()), &backend);
}

#[test]
fn a_closed_stderr_does_no_harm() {
    let backend = Backend::accepting();
    assert_unharmed(Gateway::for_backend(&backend).ulimit("-c 0 && exec 2>&-"), &backend);
}

#[test]
fn a_reader_that_closes_later_does_no_harm() {
    let backend = Backend::accepting();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut gateway = Gateway::for_backend(&backend).stderr(writer).start();
    live(&backend, &gateway);
    drop(reader);
    for _ in 0..10 {
        live(&backend, &gateway);
    }
    gateway.drain();
}
