//! Disconnects that were not received are made again: `DISCONNECT_RETRY_SECONDS` (contract, section 6).

mod common;

use common::{Answer, Backend, Gateway, Port, Step, Stream, eventually};
use std::net::TcpStream;

const STREAMS: usize = 10;

/// Streams that end while the backend is away; their tokens in this order, and the backend that takes its place.
fn away(retry_seconds: u32) -> (Gateway, Backend, Vec<String>) {
    let port = Port::reserve();
    let answer = Answer::new(200, &[("Connection", "close")], "").then(Step::Close);
    let backend = Backend::on_port(port.clone(), move |_| answer.clone());
    let gateway = Gateway::for_backend(&backend).set("DISCONNECT_RETRY_SECONDS", retry_seconds).start();
    let streams: Vec<(Stream, String)> = (0..STREAMS).map(|_| gateway.open_with(&backend, "/x")).collect();
    backend.stop();
    eventually("the backend is gone", || TcpStream::connect(("127.0.0.1", port.number)).is_err());
    let mut tokens = Vec::new();
    for (stream, token) in streams {
        drop(stream);
        gateway.log_line(&["stream closed", &token]);
        tokens.push(token);
    }
    gateway.log_line(&["disconnect callback failed"]);
    (gateway, Backend::on_port(port, |_| Answer::ok()), tokens)
}

#[test]
fn an_undelivered_disconnect_is_made_again_and_keeps_its_place() {
    let (mut gateway, backend, tokens) = away(30);
    for token in &tokens {
        backend.disconnect(token);
    }
    gateway.drain();
    assert_eq!(backend.count("disconnect"), STREAMS);
    assert_eq!(backend.history()[0].token(), tokens[0]);
}

#[test]
fn without_the_setting_it_is_made_once() {
    let (mut gateway, backend, _) = away(0);
    gateway.drain();
    assert!(backend.count("disconnect") < STREAMS);
}

#[test]
fn after_its_time_it_is_given_up() {
    let port = Port::reserve();
    let answer = Answer::new(200, &[("Connection", "close")], "").then(Step::Close);
    let backend = Backend::on_port(port, move |_| answer.clone());
    let mut gateway = Gateway::for_backend(&backend).set("DISCONNECT_RETRY_SECONDS", 1).start();
    let (stream, _) = gateway.open_with(&backend, "/x");
    backend.stop();
    drop(stream);
    gateway.log_line(&["disconnect callback failed"]);
    // The drain would wait for it.
    gateway.drain();
}
