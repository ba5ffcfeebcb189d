//! Clients that do not read their output.

use crate::common::{Backend, Client, Gateway, Stream, assert_json, eventually, get, process, send_request};
use crate::healthy::Healthy;
use crate::report;
use std::time::{Duration, Instant};

const WRITE_FAILED: &str = r#"{"error":"Write failed: connection closed"}"#;
const EVENT_BYTES: usize = 64 * 1024;

/// A stream of a client with a small receive buffer.
fn open_lazy(gateway: &Gateway, backend: &Backend, target: &str) -> (Stream, String) {
    let mut client = gateway.client();
    client.take_little();
    client.send(get(target));
    (Stream::accept(client), backend.connect(target).token().to_owned())
}

fn big_event(token: &str) -> String {
    serde_json::json!({"token": token, "event": {"data": "x".repeat(EVENT_BYTES)}}).to_string()
}

#[test]
fn readers_that_stop_are_dropped_and_cost_no_more_than_their_limit() {
    const READERS: usize = 20;
    const PENDING_BYTES: usize = 1024 * 1024;
    const ROUNDS_MAX: usize = 500;
    /// Slow enough that the first second of a backlog, in which four times as much is allowed, ends below the limit.
    const ROUND: Duration = Duration::from_millis(75);
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", PENDING_BYTES).start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let before = process::rss_kib(gateway.pid());
    let mut lazy: Vec<(Stream, String, bool)> = (0..READERS)
        .map(|n| open_lazy(&gateway, &backend, &format!("/lazy/{n}")))
        .map(|(stream, token)| (stream, token, false))
        .collect();
    // One event each in turn, so that all their backlogs grow at the same time.
    let mut sender = gateway.client();
    let mut rounds = 0;
    while lazy.iter().any(|(_, _, dropped)| !dropped) {
        rounds += 1;
        assert!(rounds < ROUNDS_MAX, "a reader is never dropped");
        for (_, token, dropped) in lazy.iter_mut().filter(|(_, _, dropped)| !dropped) {
            let response = sender.exchange(send_request(&big_event(token)));
            if response.status != 200 {
                assert_json(&response, 500, WRITE_FAILED);
                *dropped = true;
            }
        }
        std::thread::sleep(ROUND);
    }
    let peak = process::peak_rss_kib(gateway.pid());
    for (stream, token, _) in lazy {
        let call = backend.disconnect(&token);
        assert_eq!((call.reason(), call.detail()), ("error", Some("slow_consumer")));
        assert!(!stream.finish().clean, "a cut stream must look cut");
    }
    // A buffer grows by doubling; one event may exceed the limit.
    let allowed = READERS * 2 * (PENDING_BYTES + 2 * EVENT_BYTES) / 1024;
    assert!(peak < before + allowed, "{peak} KiB, from {before}");
    eventually("the memory is released", || process::rss_kib(gateway.pid()) < before + 8 * 1024);
    let seen = healthy.finish();
    let after = process::rss_kib(gateway.pid());
    report(&format!("{READERS} readers that stop: RSS KiB before {before}, peak {peak}, after {after}; {seen}"));
    let mut gateway = gateway;
    gateway.drain();
    assert_eq!(backend.count("disconnect"), READERS + 1);
}

/// Sends until the backlog exceeds both kernels' buffers.
fn pile_up(gateway: &Gateway, token: &str, events: usize) {
    let mut sender = gateway.client();
    for _ in 0..events {
        assert_eq!(sender.exchange(send_request(&big_event(token))).status, 200);
    }
}

#[test]
fn stalled_readers_are_dropped_in_time() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    const READERS: usize = 10;
    let backend = Backend::accepting();
    let builder = Gateway::for_backend(&backend).set("CLIENT_TIMEOUT_SECONDS", TIMEOUT.as_secs());
    let gateway = builder.set("MAX_PENDING_BYTES", 64 * 1024 * 1024).start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let stalled: Vec<(Stream, String)> =
        (0..READERS).map(|n| open_lazy(&gateway, &backend, &format!("/stalled/{n}"))).collect();
    for (_, token) in &stalled {
        pile_up(&gateway, token, 100);
    }
    let start = Instant::now();
    for (stream, token) in stalled {
        let call = backend.disconnect(&token);
        assert_eq!((call.reason(), call.detail()), ("error", Some("client_timeout")));
        assert!(!stream.finish().clean, "a cut stream must look cut");
    }
    let took = start.elapsed();
    assert!(took < TIMEOUT + Duration::from_secs(3), "{took:?}");
    report(&format!("{READERS} stalled readers given up {took:?} after their last event; {}", healthy.finish()));
}

#[test]
fn a_slow_reader_is_kept() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let backend = Backend::accepting();
    let builder = Gateway::for_backend(&backend).set("CLIENT_TIMEOUT_SECONDS", TIMEOUT.as_secs());
    let gateway = builder.set("MAX_PENDING_BYTES", 64 * 1024 * 1024).start();
    let (mut stream, token) = open_lazy(&gateway, &backend, "/slow");
    const EVENTS: usize = 160;
    pile_up(&gateway, &token, EVENTS);
    let start = Instant::now();
    for _ in 0..EVENTS {
        assert_eq!(stream.event().len(), EVENT_BYTES + "data: \n\n".len());
        if start.elapsed() < 3 * TIMEOUT {
            // The slowness is deliberate.
            std::thread::sleep(Duration::from_millis(80));
        }
    }
    assert!(start.elapsed() > 3 * TIMEOUT, "it must be slower than the timeout: {:?}", start.elapsed());
    assert_eq!(gateway.close(&token).status, 200);
    stream.assert_ended();
    assert_eq!(backend.disconnect(&token).reason(), "server_closed");
}

#[test]
fn a_sender_that_reads_no_answers_is_no_longer_read_and_dropped() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("CLIENT_TIMEOUT_SECONDS", 2).start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let before = process::rss_kib(gateway.pid());
    let client = gateway.client();
    client.take_little();
    let probes = get("/healthz").repeat(1000);
    let mut client: Client = client;
    // It ends with a reset: the answers are not read, so the gateway stops reading the requests.
    let start = Instant::now();
    while client.try_send(&probes).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(12), "it may continue forever");
    }
    let peak = process::peak_rss_kib(gateway.pid());
    assert!(peak < before + 8 * 1024, "{peak} KiB, from {before}");
    report(&format!(
        "a sender that reads nothing: given up after {:?}, RSS peak {peak} KiB; {}",
        start.elapsed(),
        healthy.finish()
    ));
}

#[test]
fn a_cut_stream_delivers_what_the_kernel_has() {
    const PENDING_BYTES: usize = 256 * 1024;
    const EVENTS_MAX: usize = 2_000;
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", PENDING_BYTES).start();
    let (stream, token) = gateway.open_with(&backend, "/burst");
    let mut sender = gateway.client();
    let data = "x".repeat(4_000);
    let body = serde_json::json!({"token": token, "event": {"data": data}}).to_string();
    let sent = (0..EVENTS_MAX).take_while(|_| sender.exchange(send_request(&body)).status == 200).count();
    assert!(sent < EVENTS_MAX, "the stream was never cut");
    // Its client resumes reading only after the disconnect.
    assert_eq!(backend.disconnect(&token).detail(), Some("slow_consumer"));
    let finish = stream.finish_unbroken();
    assert!(!finish.clean, "a cut stream must look cut");
    let got = finish.text.matches("\n\n").count();
    // The bytes in the process are lost: at most four times the limit, and one event.
    let lost = (4 * PENDING_BYTES).div_ceil(data.len()) + 1;
    report(&format!("a burst of {sent} events of {} bytes, then cut: {got} of them arrive", data.len()));
    assert!(got > 0 && got + lost >= sent, "{got} of {sent}");
}

#[test]
fn cut_streams_that_nobody_reads_give_their_sockets_up_in_time() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    const READERS: usize = 10;
    let backend = Backend::accepting();
    let builder = Gateway::for_backend(&backend).set("CLIENT_TIMEOUT_SECONDS", TIMEOUT.as_secs());
    let gateway = builder.set("MAX_PENDING_BYTES", 64 * 1024).start();
    let mut sender = gateway.client();
    sender.assert_open();
    let before = gateway.descriptors();
    let lazy: Vec<(Stream, String)> = (0..READERS).map(|n| open_lazy(&gateway, &backend, &format!("/{n}"))).collect();
    for (_, token) in &lazy {
        while sender.exchange(send_request(&big_event(token))).status == 200 {}
        backend.disconnect(token);
    }
    let start = Instant::now();
    eventually("their sockets are closed", || gateway.descriptors() <= before + 1);
    report(&format!(
        "{READERS} cut streams that nobody reads: sockets closed {:?} after the last cut",
        start.elapsed()
    ));
    drop(lazy);
}
