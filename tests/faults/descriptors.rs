//! More clients than descriptors.

use crate::common::{Backend, Builder, Client, Gateway, OK, Stream, assert_json, eventually, get, process, sys};
use crate::report;
use std::time::Duration;

const CLIENTS: usize = 200;
const OBSERVED: Duration = Duration::from_secs(1);
/// CPU time allowed in [`OBSERVED`] while the gateway is idle.
const BUSY_MAX: Duration = Duration::from_millis(200);

fn small(backend: &Backend) -> Builder {
    Gateway::for_backend(backend).ulimit("-n 128")
}

/// Processor time of a second of waiting.
#[track_caller]
fn assert_no_spin(gateway: &Gateway) -> Duration {
    let before = process::processor_time(gateway.pid());
    std::thread::sleep(OBSERVED);
    let busy = process::processor_time(gateway.pid()) - before;
    assert!(busy < BUSY_MAX, "{busy:?} of processor time in {OBSERVED:?}");
    busy
}

/// As many streams as before, each with its event.
fn assert_recovered(gateway: &Gateway, backend: &Backend) {
    let mut streams: Vec<(Stream, String)> =
        (0..40).map(|n| gateway.open_with(backend, &format!("/again/{n}"))).collect();
    for (stream, token) in &mut streams {
        assert_json(&gateway.event(token, "x"), 200, OK);
        assert_eq!(stream.event(), "data: x\n\n");
    }
    for (stream, token) in streams {
        drop(stream);
        backend.disconnect(&token);
    }
}

#[test]
fn streams_beyond_the_limit_get_503_and_the_others_are_served() {
    let backend = Backend::accepting();
    let mut gateway = small(&backend).start();
    let before = gateway.descriptors();
    let mut clients: Vec<Client> =
        (0..CLIENTS).map(|n| Client::open(gateway.port, get(&format!("/crowd/{n}")))).collect();
    let mut streams = Vec::new();
    let mut refused = 0;
    for (n, mut client) in clients.drain(..).enumerate() {
        let line = client.read_until(b"\r\n");
        let accepted = line.starts_with(b"HTTP/1.1 200 ");
        client.buffer.splice(0..0, line);
        if accepted {
            let token = backend.connect(&format!("/crowd/{n}")).token().to_owned();
            streams.push((Stream::accept(client), token));
        } else {
            assert_json(&client.response(), 503, r#"{"error":"Too many streams"}"#);
            refused += 1;
        }
    }
    assert!(streams.len() >= 50, "{} streams", streams.len());
    for (stream, token) in &mut streams {
        assert_json(&gateway.event(token, "x"), 200, OK);
        assert_eq!(stream.event(), "data: x\n\n");
    }
    let busy = assert_no_spin(&gateway);
    let held = streams.len();
    for (stream, token) in streams {
        drop(stream);
        assert_eq!(backend.disconnect(&token).reason(), "client_closed");
    }
    eventually("its descriptors are back", || gateway.descriptors() <= before + 4);
    assert_recovered(&gateway, &backend);
    report(&format!("limit 128: {held} streams, {refused} refused, {busy:?} busy in {OBSERVED:?}"));
    gateway.drain();
    assert_eq!(backend.count("connect"), backend.count("disconnect"));
}

#[test]
fn silent_connections_do_not_block_sends() {
    let backend = Backend::accepting();
    let mut gateway = small(&backend).internal_port().start();
    let before = gateway.descriptors();
    let mut streams: Vec<(Stream, String)> =
        (0..20).map(|n| gateway.open_with(&backend, &format!("/early/{n}"))).collect();
    let crowd: Vec<Client> = (0..CLIENTS).map(|_| gateway.client()).collect();
    eventually("no more can be accepted", || gateway.descriptors() > before + 50);
    let busy = assert_no_spin(&gateway);
    for (stream, token) in &mut streams {
        assert_json(&gateway.event(token, "x"), 200, OK);
        assert_eq!(stream.event(), "data: x\n\n");
    }
    for (stream, token) in streams {
        drop(stream);
        backend.disconnect(&token);
    }
    drop(crowd);
    eventually("its descriptors are back", || gateway.descriptors() <= before + 4);
    assert_recovered(&gateway, &backend);
    report(&format!("limit 128: {CLIENTS} silent connections, {busy:?} busy in {OBSERVED:?}"));
    gateway.drain();
}

#[test]
fn a_limit_lowered_at_run_time_does_no_lasting_harm() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::start(&backend);
    let before = gateway.descriptors();
    let (mut stream, token) = gateway.open_with(&backend, "/early");
    let mut sender = gateway.client();
    sender.assert_open();
    sys::limit_descriptors(gateway.pid(), 128);
    let mut crowd: Vec<Client> = (0..CLIENTS).map(|n| Client::open(gateway.port, get(&format!("/x/{n}")))).collect();
    gateway.log_line(&["accepting paused"]);
    // An open stream needs no further descriptor.
    let body = format!(r#"{{"token":"{token}","event":{{"data":"x"}}}}"#);
    assert_json(&sender.exchange(crate::common::send_request(&body)), 200, OK);
    assert_eq!(stream.event(), "data: x\n\n");
    // Callbacks get no descriptor, so accepted clients are refused one by one; then the others are accepted.
    for client in &mut crowd {
        let status = client.head().status;
        assert!(status == 200 || status == 503, "{status}");
    }
    let busy = assert_no_spin(&gateway);
    let lines = gateway.log().matches("accepting paused").count();
    assert!(lines <= 3, "{lines} lines say the same");
    drop(crowd);
    eventually("its descriptors are back", || gateway.descriptors() <= before + 6);
    assert_recovered(&gateway, &backend);
    report(&format!("limit lowered to 128: {busy:?} busy in {OBSERVED:?}, {lines} lines about it"));
    gateway.drain();
}
