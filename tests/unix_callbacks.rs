//! Callbacks over a Unix socket (contract, section 2).

mod common;

use common::{Backend, Directory, Gateway, assert_json, run};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

/// The URL of that socket.
fn url(socket: &Path, target: &str) -> String {
    let path = socket.display().to_string().replace('/', "%2F").replace(' ', "%20");
    format!("http+unix://{path}{target}")
}

/// Makes `backend` reachable at `path`.
fn serve(path: &Path, backend: &Backend) {
    let listener = UnixListener::bind(path).expect("a socket");
    let port = backend.url().split([':', '/']).nth(4).and_then(|port| port.parse().ok()).expect("a port");
    thread::spawn(move || {
        for socket in listener.incoming() {
            let near = socket.expect("a connection");
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { return };
            let (mut in_far, mut in_near) = (far.try_clone().expect("a copy"), near.try_clone().expect("a copy"));
            let (mut out_near, mut out_far) = (near, far);
            thread::spawn(move || {
                let _ = io::copy(&mut in_near, &mut out_far);
                let _ = out_far.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let _ = io::copy(&mut in_far, &mut out_near);
                let _ = out_near.shutdown(Shutdown::Both);
            });
        }
    });
}

#[test]
fn a_backend_may_listen_on_a_unix_socket() {
    let (directory, backend) = (Directory::new(), Backend::accepting());
    serve(&directory.path("a socket"), &backend);
    let mut gateway =
        Gateway::builder().set("CALLBACK_URL", url(&directory.path("a socket"), "/callback?key=1")).start();
    for n in 0..3 {
        let url = format!("/{n}");
        let stream = gateway.open(&url);
        let call = backend.connect(&url);
        assert_eq!((call.target.as_str(), call.header("host")), ("/callback?key=1", Some("localhost")));
        assert_eq!(gateway.close(call.token()).status, 200);
        stream.assert_ended();
        backend.disconnect(call.token());
    }
    // A disconnect may be under way when the next connect starts.
    assert!(backend.connections() <= 2, "connections are kept alive");
    gateway.drain();
}

#[test]
fn the_log_says_why_a_socket_cannot_be_reached() {
    let directory = Directory::new();
    let refused = |fix: &str| {
        let gateway = Gateway::builder().set("CALLBACK_URL", url(&directory.path("a socket"), "/")).start();
        assert_json(&gateway.get("/x"), 503, r#"{"error":"Backend unavailable"}"#);
        gateway.log_line(&["connect callback failed", "callback=http+unix://", "socket/", "written=false", fix]);
    };
    refused("no such socket");
    drop(UnixListener::bind(directory.path("a socket")).expect("a socket"));
    refused("nobody listens");
}

#[test]
fn a_connect_waits_for_a_full_socket_no_longer_than_its_timeout() {
    let directory = Directory::new();
    let path = directory.path("a socket");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    listener.bind(&SockAddr::unix(&path).expect("a path")).expect("a name");
    listener.listen(0).expect("a queue of one");
    let _first = UnixStream::connect(&path).expect("a place in it");
    let gateway = Gateway::builder().set("CALLBACK_URL", url(&path, "/")).set("CALLBACK_TIMEOUT_SECONDS", 1).start();
    assert_json(&gateway.get("/x"), 504, r#"{"error":"Gateway timeout"}"#);
    gateway.log_line(&["connect callback failed", "written=false", "no connection within CALLBACK_TIMEOUT_SECONDS"]);
}

#[test]
fn what_is_shown_of_such_a_url_can_be_read_back() {
    let output = run(&["check"], &[("CALLBACK_URL", "http+unix://u:secret@%2Frun%2fapp.sock/callback")]);
    assert!(output.stdout.starts_with("CALLBACK_URL=http+unix://u:***@%2Frun%2Fapp.sock/callback\n"), "{output:?}");
    let output = run(&["check"], &[("CALLBACK_URL", "http+unix:///run/app.sock")]);
    assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 1), "{output:?}");
}
