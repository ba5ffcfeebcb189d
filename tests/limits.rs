//! Limits per client, per stream and in total (contract, sections 2 and 4).

mod common;

use common::{Answer, BUFFERED, Backend, Client, Gate, Gateway, OK, Stream, assert_json, eventually, get};
use std::time::{Duration, Instant};

const TOO_MANY: &str = r#"{"error":"Too many streams"}"#;
const WRITE_FAILED: &str = r#"{"error":"Write failed: connection closed"}"#;

/// More than the kernel's buffers on both ends can hold, in events of 64 KiB.
const FLOOD_EVENTS: usize = 320;

#[track_caller]
fn assert_too_many(gateway: &Gateway) {
    let response = gateway.get("/one-more");
    assert_json(&response, 503, TOO_MANY);
    let delay = response.header("retry-after").expect("Retry-After");
    assert!(delay.parse::<u32>().is_ok(), "{delay}");
}

#[test]
fn a_stream_over_the_limit_is_refused() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_STREAMS", 2).start();
    let (mut one, first) = gateway.open_with(&backend, "/one");
    let (two, second) = gateway.open_with(&backend, "/two");
    assert_too_many(&gateway);
    assert_eq!(gateway.get("/healthz").status, 200);
    assert_json(&gateway.event(&first, "x"), 200, OK);
    assert_eq!(one.frame(), "data: x\n\n");
    drop(two);
    backend.disconnect(&second);
    let (_three, _) = gateway.open_with(&backend, "/three");
    assert_too_many(&gateway);
    assert_eq!(backend.count("connect"), 3, "no callback for refused ones");
}

#[test]
fn streams_still_connecting_count() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::status(403).after(&gate));
    let gateway = Gateway::for_backend(&backend).set("MAX_STREAMS", 1).start();
    let mut first = Client::open(gateway.port, get("/first"));
    let token = backend.connect("/first").token().to_owned();
    assert_too_many(&gateway);
    assert_json(&gateway.event(&token, "x"), 200, BUFFERED);
    gate.open();
    assert_eq!(first.response().status, 403);
    assert_eq!(gateway.get("/second").status, 403, "the slot is free again");
}

/// Opens streams `/0`, `/1` and so on, until there are too many.
fn fill(gateway: &Gateway) -> Vec<Stream> {
    let mut streams = Vec::new();
    loop {
        let mut client = Client::open(gateway.port, get(&format!("/{}", streams.len())));
        let line = client.read_until(b"\r\n");
        let accepted = line.starts_with(b"HTTP/1.1 200 ");
        client.buffer.splice(0..0, line);
        if !accepted {
            assert_json(&client.response(), 503, TOO_MANY);
            return streams;
        }
        streams.push(Stream::accept(client));
    }
}

#[test]
fn descriptors_are_kept_for_callbacks_sends_and_probes() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 8).ulimit("-n 256").start();
    let mut streams = fill(&gateway);
    assert!((50..256).contains(&streams.len()), "{} streams of 256 descriptors", streams.len());
    assert_eq!(gateway.get("/healthz").status, 200);
    for (n, stream) in streams.iter_mut().enumerate() {
        let token = backend.connect(&format!("/{n}")).token().to_owned();
        assert_json(&gateway.event(&token, "x"), 200, OK);
        assert_eq!(stream.event(), "data: x\n\n");
    }
}

#[test]
fn few_descriptors_with_an_internal_port_leave_room_to_refuse_streams() {
    let backend = Backend::accepting();
    for descriptors in ["-n 64", "-n 128"] {
        let gateway = Gateway::for_backend(&backend).internal_port().ulimit(descriptors).start();
        let streams = fill(&gateway);
        assert!(streams.len() >= 8, "{} streams of {descriptors}", streams.len());
        assert_eq!(gateway.get("/healthz").status, 200);
    }
}

#[test]
fn the_soft_descriptor_limit_is_raised_to_the_hard_one() {
    let gateway = Gateway::builder().ulimit("-S -n 64").start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line for descriptors");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
    assert_ne!(words[3], "64");
}

/// Sends to a client that does not read until the gateway refuses; returns the number accepted.
fn flood(gateway: &Gateway, token: &str) -> usize {
    let data = "x".repeat(64 * 1024);
    let mut sender = gateway.client();
    let body = serde_json::json!({"token": token, "event": {"data": data}}).to_string();
    for sent in 0..FLOOD_EVENTS {
        let response = sender.exchange(common::send_request(&body));
        if response.status != 200 {
            assert_json(&response, 500, WRITE_FAILED);
            return sent;
        }
    }
    FLOOD_EVENTS
}

#[test]
fn a_slow_consumer_is_dropped_and_others_are_unaffected() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 128 * 1024).start();
    let (slow, token) = gateway.open_with(&backend, "/slow");
    let (mut healthy, other) = gateway.open_with(&backend, "/healthy");
    let sent = flood(&gateway, &token);
    assert!(sent < FLOOD_EVENTS, "it was not dropped");
    assert_json(&gateway.event(&token, "x"), 404, r#"{"error":"Token not found"}"#);
    let call = backend.disconnect(&token);
    assert_eq!((call.reason(), call.detail()), ("error", Some("slow_consumer")));
    assert!(!slow.finish().clean, "a cut stream must look cut");
    assert_json(&gateway.event(&other, "fine"), 200, OK);
    assert_eq!(healthy.event(), "data: fine\n\n");
}

/// `pending_bytes` of the only stream in the list.
fn pending_bytes(gateway: &Gateway) -> usize {
    let list: serde_json::Value = serde_json::from_str(gateway.get("/internal/connections").text()).expect("JSON");
    list["connections"][0]["pending_bytes"].as_u64().expect("a number") as usize
}

#[test]
fn the_pending_bytes_of_a_client_that_does_not_read_stay_near_the_limit_and_are_shown() {
    const LIMIT: usize = 64 * 1024;
    /// The most that the kernels on both ends may hold.
    const KERNELS: usize = 256 * 1024;
    /// The part of it that the client's kernel has acknowledged.
    const ACKNOWLEDGED: usize = 128 * 1024;
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", LIMIT).start();
    // Open, since a connecting stream is not listed.
    let (_stream, token) = gateway.open_with(&backend, "/x");
    let data = "x".repeat(4000);
    let body = serde_json::json!({"token": token, "event": {"data": data}}).to_string();
    let mut sender = gateway.client();
    let (mut accepted, mut shown) = (0, 0);
    // Until it cannot be a client that is merely not through with a burst.
    for _ in 0..50 {
        assert_eq!(sender.exchange(common::send_request(&body)).status, 200);
        accepted += data.len();
    }
    std::thread::sleep(Duration::from_millis(1_100));
    while sender.exchange(common::send_request(&body)).status == 200 {
        accepted += data.len();
        shown = pending_bytes(&gateway);
        assert!(accepted <= LIMIT + KERNELS, "{accepted} bytes, {shown} of them shown");
        assert!(accepted <= shown + ACKNOWLEDGED, "{shown} bytes shown of {accepted}");
    }
    assert!(shown >= LIMIT, "cut with {shown} bytes pending");
    assert_eq!(backend.disconnect(&token).detail(), Some("slow_consumer"));
}

#[test]
fn one_event_may_exceed_the_limit() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 1024).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let data = "x".repeat(500_000);
    for _ in 0..3 {
        assert_json(&gateway.event(&token, &data), 200, OK);
        assert_eq!(stream.event().len(), data.len() + "data: \n\n".len());
    }
}

#[test]
fn events_buffered_during_a_connect_are_limited() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let mut gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 128 * 1024).start();
    let client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    let sent = flood(&gateway, &token);
    assert!((2..5).contains(&sent), "{sent} events of 64 KiB");
    gate.open();
    let call = backend.disconnect(&token);
    assert_eq!((call.reason(), call.detail()), ("error", Some("slow_consumer")));
    drop(client);
    gateway.drain();
    assert_eq!(backend.count("disconnect"), 1);
}

#[test]
fn a_reader_without_progress_is_dropped() {
    let backend = Backend::accepting();
    // Long enough for the flood itself on a machine with other work.
    let builder = Gateway::for_backend(&backend).set("CLIENT_TIMEOUT_SECONDS", 2);
    let gateway = builder.set("MAX_PENDING_BYTES", 256 * 1024 * 1024).start();
    let (stalled, token) = gateway.open_with(&backend, "/stalled");
    let (mut healthy, other) = gateway.open_with(&backend, "/healthy");
    let start = Instant::now();
    assert_eq!(flood(&gateway, &token), FLOOD_EVENTS);
    let call = backend.disconnect(&token);
    assert_eq!((call.reason(), call.detail()), ("error", Some("client_timeout")));
    let elapsed = start.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(8)).contains(&elapsed), "{elapsed:?}");
    assert_json(&gateway.event(&token, "x"), 404, r#"{"error":"Token not found"}"#);
    assert!(!stalled.finish().clean, "a cut stream must look cut");
    assert_json(&gateway.event(&other, "idle is not stalled"), 200, OK);
    assert_eq!(healthy.event(), "data: idle is not stalled\n\n");
}

#[test]
fn a_reader_without_progress_is_dropped_after_the_end_of_its_stream() {
    let backend = Backend::accepting();
    // Long enough for the flood itself on a machine with other work.
    let builder = Gateway::for_backend(&backend).set("CLIENT_TIMEOUT_SECONDS", 2);
    let gateway = builder.set("MAX_PENDING_BYTES", 256 * 1024 * 1024).start();
    let (mut stalled, token) = gateway.open_with(&backend, "/stalled");
    let start = Instant::now();
    assert_eq!(flood(&gateway, &token), FLOOD_EVENTS);
    assert_json(&gateway.close(&token), 200, OK);
    assert_eq!(backend.disconnect(&token).reason(), "server_closed");
    eventually("its socket is reset", || stalled.client.try_send("x").is_err());
    assert!(start.elapsed() > Duration::from_millis(1900), "{:?}", start.elapsed());
    assert!(!stalled.finish().clean, "a cut stream must look cut");
}

#[test]
fn a_slow_reader_that_makes_progress_gets_everything() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 256 * 1024 * 1024).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    assert_eq!(flood(&gateway, &token), FLOOD_EVENTS);
    assert_json(&gateway.close(&token), 200, OK);
    for _ in 0..FLOOD_EVENTS {
        assert_eq!(stream.event().len(), 64 * 1024 + "data: \n\n".len());
    }
    stream.assert_ended();
}

#[test]
fn descriptors_are_released() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (stream, token) = gateway.open_with(&backend, "/warm-up");
    drop(stream);
    backend.disconnect(&token);
    let before = gateway.descriptors();
    let streams: Vec<(Stream, String)> = (0..50).map(|_| gateway.open_with(&backend, "/x")).collect();
    assert!(gateway.descriptors() >= before + 50);
    for (stream, token) in streams {
        drop(stream);
        backend.disconnect(&token);
    }
    // Callback connections stay open for some time; there is one for each disconnect that was in flight at once.
    eventually("the sockets are closed", || gateway.descriptors() < before + 25);
}
