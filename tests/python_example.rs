//! The Python example: a single-threaded backend that calls the gateway from inside its callbacks.

mod common;

use common::{Client, Gateway, Port, Stream, eventually, get};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// The running example; killed when dropped.
struct Example {
    child: Child,
    port: Port,
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gateway with the example as its backend; `None` without Python.
fn start() -> Option<(Gateway, Example)> {
    if Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: no python3");
        return None;
    }
    let port = Port::reserve();
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{port}/callback")).start();
    let child = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/backend.py"))
        .env("PORT", port.to_string())
        .env("GATEWAY_URL", format!("http://127.0.0.1:{}", gateway.port))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 starts");
    let example = Example { child, port };
    eventually("the example listens", || TcpStream::connect(("127.0.0.1", example.port.number)).is_ok());
    Some((gateway, example))
}

#[test]
fn it_welcomes_and_ticks() {
    let Some((gateway, _example)) = start() else { return };
    let mut stream = gateway.open("/events");
    let welcome = stream.event();
    assert!(welcome.starts_with("event: welcome\ndata: {\"user\": null"), "{welcome}");
    // Sent while its connect callback was still in flight: the original gateway deadlocked here with such a backend.
    assert!(stream.event().starts_with("event: early\ndata: "));
    for _ in 0..2 {
        let tick = stream.event();
        assert!(tick.starts_with("data: tick "), "{tick}");
    }
}

#[test]
fn it_rejects_one_path() {
    let Some((gateway, _example)) = start() else { return };
    common::assert_json(&gateway.get("/forbidden"), 403, r#"{"error":"Backend returned 403"}"#);
}

#[test]
fn it_closes_the_older_stream_of_a_user_from_inside_its_callback() {
    let Some((gateway, _example)) = start() else { return };
    let mut previous: Option<Stream> = None;
    for _ in 0..5 {
        let mut stream = gateway.open("/events?user=ann");
        assert!(stream.event().starts_with("event: welcome\ndata: {\"user\": \"ann\""));
        assert!(stream.event().starts_with("event: early\n"));
        if let Some(mut old) = previous.replace(stream) {
            let mut last = old.event();
            while last.starts_with("data: tick ") {
                last = old.event();
            }
            assert!(last.starts_with("event: replaced\n"), "{last}");
            old.assert_ended();
        }
    }
}

#[test]
fn many_streams_at_once_are_all_welcomed() {
    let Some((gateway, _example)) = start() else { return };
    let clients: Vec<Client> = (0..50).map(|n| Client::open(gateway.port, get(&format!("/events?user={n}")))).collect();
    for client in clients {
        assert!(Stream::accept(client).event().starts_with("event: welcome\n"));
    }
}
