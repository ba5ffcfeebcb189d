//! `INTERNAL_SOCKET`: sends over a Unix socket (contract, section 2).

mod common;

use common::{
    Backend, Client, Directory, Gateway, OK, Port, SIGTERM, assert_error, assert_json, eventually, get, run,
    send_request,
};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

fn exchange(path: &Path, request: impl AsRef<[u8]>) -> common::Response {
    Client::connect_unix(path).exchange(request)
}

#[test]
fn sends_go_over_the_socket_only() {
    let (directory, backend) = (Directory::new(), Backend::accepting());
    let path = directory.path("s");
    let mut gateway = Gateway::for_backend(&backend).set("INTERNAL_SOCKET", path.display()).start();
    let mode = std::fs::metadata(&path).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let event = send_request(&format!(r#"{{"token":"{token}","event":{{"data":"x"}}}}"#));
    assert_error(&gateway.request(&event), 404);
    gateway.log_line(&["INTERNAL_SOCKET is set"]);
    // Kept alive, pipelined, and several at once.
    let mut clients = [(); 3].map(|()| Client::connect_unix(&path));
    for client in &mut clients {
        client.send([event.as_bytes(), event.as_bytes()].concat());
        for _ in 0..2 {
            assert_json(&client.response(), 200, OK);
            assert_eq!(stream.frame(), "data: x\n\n");
        }
    }
    // The list of tokens needs no other guard, and streams are for the public port.
    assert_eq!(exchange(&path, get("/internal/connections")).status, 200);
    assert_eq!(exchange(&path, get("/healthz")).status, 200);
    assert_error(&exchange(&path, get("/x")), 404);
    gateway.drain();
    stream.assert_drained(6_000);
    assert!(!path.exists(), "the socket is removed at the end");
}

#[test]
fn a_port_and_a_token_may_be_used_beside_it() {
    let directory = Directory::new();
    let path = directory.path("s");
    let gateway = Gateway::builder()
        .set("INTERNAL_SOCKET", path.display())
        .set("INTERNAL_SOCKET_MODE", "0600")
        .set("INTERNAL_TOKEN", "t")
        .internal_port()
        .start();
    assert_eq!(std::fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    let authorized = get("/internal/cursor").replacen("\r\n\r\n", "\r\nAuthorization: Bearer t\r\n\r\n", 1);
    assert_error(&exchange(&path, get("/internal/cursor")), 401);
    assert_eq!(exchange(&path, &authorized).status, 200);
    assert_eq!(Client::open(gateway.internal_port(), &authorized).response().status, 200);
    assert_error(&gateway.request(&authorized), 404);
}

#[test]
fn a_socket_left_behind_is_replaced_and_a_live_one_is_not() {
    let directory = Directory::new();
    let path = directory.path("s");
    drop(UnixListener::bind(&path).expect("a socket"));
    let mut first = Gateway::builder().set("INTERNAL_SOCKET", path.display()).start();
    assert_eq!(exchange(&path, get("/healthz")).status, 200);
    let refused = |path: &Path| {
        let port = Port::reserve().to_string();
        let output = run(&[], &[("PORT", &port), ("INTERNAL_SOCKET", &path.display().to_string())]);
        assert_eq!((output.code, output.stderr.lines().count()), (Some(1), 1), "{output:?}");
        output.stderr
    };
    let line = refused(&path);
    assert!(line.contains(&format!("cannot listen on {}: ", path.display())), "{line}");
    assert!(line.contains("another process listens there"), "{line}");
    assert_eq!(exchange(&path, get("/healthz")).status, 200);
    let file = directory.path("file");
    std::fs::write(&file, "kept").expect("a file");
    assert!(refused(&file).contains("no socket"));
    assert!(refused(&directory.path("none/s")).contains("its directory must exist"));
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "kept");
    first.drain();
}

#[test]
fn the_socket_goes_when_the_drain_begins() {
    let (directory, backend) = (Directory::new(), Backend::accepting());
    let path = directory.path("s");
    let gateway = |timeout: u32| {
        Gateway::for_backend(&backend).set("INTERNAL_SOCKET", path.display()).set("SHUTDOWN_TIMEOUT_SECONDS", timeout)
    };
    let mut first = gateway(60).start();
    // A request that is not complete holds up the drain.
    let (mut stuck, reader) = (Client::connect_unix(&path), backend);
    stuck.send("POST /internal/send HTTP/1.1\r\n");
    first.signal(SIGTERM);
    eventually("the file is removed", || !path.exists());
    let mut second = Gateway::for_backend(&reader).set("INTERNAL_SOCKET", path.display()).start();
    first.signal(SIGTERM);
    first.exit_code();
    assert_eq!(exchange(&path, get("/healthz")).status, 200, "the first leaves the file of the second");
    second.drain();
}

#[test]
fn the_healthcheck_uses_it() {
    let directory = Directory::new();
    let socket = directory.path("s").display().to_string();
    let check = || run(&["healthcheck"], &[("PORT", "1"), ("INTERNAL_SOCKET", &socket)]);
    assert_eq!(check().code, Some(1));
    let _gateway = Gateway::builder().set("INTERNAL_SOCKET", &socket).start();
    assert_eq!(check().code, Some(0));
}

#[test]
fn bad_values_are_refused() {
    let long = format!("/{}", "x".repeat(200));
    for (name, value) in [("INTERNAL_SOCKET", long.as_str()), ("INTERNAL_SOCKET_MODE", "rw")] {
        let output = run(&["check"], &[(name, value)]);
        assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 1), "{output:?}");
    }
}
