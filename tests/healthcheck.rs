//! `ssegateway healthcheck`: a container's health without curl.

mod common;

use common::{Backend, Gateway, Port, run};
use std::net::TcpListener;

fn healthcheck(arguments: &[&str], port: u16) -> Option<i32> {
    let mut all = vec!["healthcheck"];
    all.extend(arguments);
    run(&all, &[("PORT", &port.to_string()), ("LISTEN_ADDRESS", "127.0.0.1")]).code
}

#[test]
fn a_running_gateway_is_healthy() {
    let gateway = Gateway::builder().start();
    assert_eq!(healthcheck(&[], gateway.port), Some(0));
}

#[test]
fn the_default_address_is_reached_as_well() {
    let gateway = Gateway::builder().unset("LISTEN_ADDRESS").start();
    assert_eq!(run(&["healthcheck"], &[("PORT", &gateway.port.to_string())]).code, Some(0));
}

#[test]
fn ready_requests_readyz() {
    let bare = Gateway::builder().start();
    assert_eq!(healthcheck(&["--ready"], bare.port), Some(1), "no callback URL");
    let backend = Backend::accepting();
    let ready = Gateway::start(&backend);
    assert_eq!(healthcheck(&["--ready"], ready.port), Some(0));
}

#[test]
fn the_internal_port_is_used_if_set() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).internal_port().start();
    let closed = Port::reserve();
    let of = |port: u16, internal_port: u16| {
        let (port, internal_port) = (port.to_string(), internal_port.to_string());
        let address = ("LISTEN_ADDRESS", "127.0.0.1");
        run(&["healthcheck", "--ready"], &[("PORT", &port), ("INTERNAL_PORT", &internal_port), address]).code
    };
    assert_eq!(of(closed.number, gateway.internal_port()), Some(0));
    assert_eq!(of(gateway.port, closed.number), Some(1));
    let port = gateway.internal_port().to_string();
    let elsewhere = [("LISTEN_ADDRESS", "127.0.0.2"), ("INTERNAL_ADDRESS", "127.0.0.1"), ("INTERNAL_PORT", &port)];
    assert_eq!(run(&["healthcheck"], &elsewhere).code, Some(0));
}

#[test]
fn no_listener_is_unhealthy() {
    assert_eq!(healthcheck(&[], Port::reserve().number), Some(1));
}

#[test]
fn another_server_or_silence_is_unhealthy() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let silent = std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("a connection");
        let (mut other, _) = listener.accept().expect("another one");
        let _ = std::io::Write::write_all(&mut other, b"SSH-2.0-OpenSSH_9.2\r\n");
        drop((socket, other));
    });
    let output = run(&["healthcheck"], &[("PORT", &port.to_string()), ("LISTEN_ADDRESS", "127.0.0.1")]);
    // The first connection is held open and silent until the second one arrives.
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(healthcheck(&[], port), Some(1));
    silent.join().expect("the listener");
}
