//! Eviction when connections exceed their limit (contract, section 10). All timeouts are too long to help.

mod common;

use common::{Backend, Client, Gateway, OK, assert_json, eventually, get, send_request};

/// Far beyond the end of the test.
const LONG: u64 = 3600;

/// Connects that many clients, which send `bytes` and no more.
fn crowd(port: u16, count: usize, bytes: &str) -> Vec<Client> {
    (0..count).map(|_| Client::open(port, bytes)).collect()
}

/// A gateway with some 24 places for connections, most of them for streams.
fn small(backend: &Backend) -> common::Builder {
    let builder = Gateway::for_backend(backend).set("REQUEST_TIMEOUT_SECONDS", LONG);
    builder.set("KEEPALIVE_TIMEOUT_SECONDS", LONG).ulimit("-n 65")
}

/// A sample of the metrics, by its name.
fn sample(gateway: &Gateway, name: &str) -> u64 {
    let response = gateway.get("/internal/metrics");
    let line = response.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("a sample").parse().expect("a number")
}

fn evicted(gateway: &Gateway) -> u64 {
    sample(gateway, "ssegateway_connections_evicted_total")
}

/// Places for streams that are not taken.
fn free_streams(gateway: &Gateway) -> u64 {
    sample(gateway, "ssegateway_streams_max") - sample(gateway, "ssegateway_streams_open")
}

#[test]
fn a_silent_crowd_is_evicted_for_probes_and_sends() {
    let backend = Backend::accepting();
    let gateway = small(&backend).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let crowd = crowd(gateway.port, 120, "");
    for _ in 0..10 {
        assert_eq!(gateway.get("/healthz").status, 200);
        assert_json(&gateway.event(&token, "x"), 200, OK);
        assert_eq!(stream.event(), "data: x\n\n");
    }
    assert!(evicted(&gateway) >= 97, "{} evicted", evicted(&gateway));
    drop(crowd);
}

#[test]
fn incomplete_heads_and_bodies_are_evicted() {
    let backend = Backend::accepting();
    let gateway = small(&backend).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let mut crowds = crowd(gateway.port, 60, "GET /slow HTTP/1.1\r\nHost: ");
    assert_json(&gateway.event(&token, "heads"), 200, OK);
    crowds.extend(crowd(gateway.port, 60, "POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{"));
    assert_json(&gateway.event(&token, "bodies"), 200, OK);
    assert_eq!([stream.event(), stream.event()], ["data: heads\n\n", "data: bodies\n\n"]);
}

#[test]
fn streams_are_never_evicted_and_sends_get_through_when_all_are_taken() {
    let backend = Backend::accepting();
    let gateway = small(&backend).start();
    let mut streams = Vec::new();
    while free_streams(&gateway) > 0 {
        streams.push(gateway.open_with(&backend, &format!("/{}", streams.len())));
    }
    let crowd = crowd(gateway.port, 100, "");
    assert_eq!(gateway.get("/one-more").status, 503);
    for (stream, token) in &mut streams {
        assert_json(&gateway.event(token, "x"), 200, OK);
        assert_eq!(stream.event(), "data: x\n\n");
    }
    assert_eq!(backend.count("disconnect"), 0);
    drop(crowd);
}

#[test]
fn a_sender_that_is_not_silent_keeps_its_connection() {
    let backend = Backend::accepting();
    let gateway = small(&backend).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let mut sender = gateway.client();
    let body = serde_json::json!({"token": token, "event": {"data": "x"}}).to_string();
    for _ in 0..60 {
        let _silent = crowd(gateway.port, 5, "");
        assert_json(&sender.exchange(send_request(&body)), 200, OK);
        assert_eq!(stream.event(), "data: x\n\n");
    }
}

#[test]
fn a_crowd_on_the_public_port_takes_no_slot_of_the_internal_one() {
    let backend = Backend::accepting();
    let gateway = small(&backend).internal_port().start();
    let mut sender = Client::open(gateway.internal_port(), get("/healthz"));
    assert_eq!(sender.response().status, 200);
    let _silent = crowd(gateway.port, 100, "");
    assert_eq!(sender.exchange(get("/healthz")).status, 200);
    let _idle = crowd(gateway.internal_port(), 40, "");
    assert_eq!(Client::open(gateway.internal_port(), get("/healthz")).response().status, 200);
    assert_eq!(gateway.get("/healthz").status, 200);
}

#[test]
fn a_limit_of_streams_limits_connections_too() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_STREAMS", 10).set("REQUEST_TIMEOUT_SECONDS", LONG).start();
    let before = gateway.descriptors();
    let crowd = crowd(gateway.port, 200, "GET / HTTP/1.1\r\n");
    eventually("all have been accepted", || evicted(&gateway) >= 186);
    assert!(gateway.descriptors() <= before + 14, "{} descriptors, from {before}", gateway.descriptors());
    drop(crowd);
}
