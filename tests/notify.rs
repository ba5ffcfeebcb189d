//! Notifications to a service manager (`sd_notify(3)`), over a socket like its own.

mod common;

use common::{Answer, Backend, Gate, Gateway, PATIENCE, Port, SIGTERM, run};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The manager's end, under a name of this process and `purpose`.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn with_file(purpose: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("notify-{}-{purpose}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket with a file");
        Self::new(socket, path.to_str().expect("a plain path").to_owned())
    }

    fn abstract_one(purpose: &str) -> Self {
        let name = format!("ssegateway-test-{}-{purpose}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        Self::new(UnixDatagram::bind_addr(&address).expect("a socket without a file"), format!("@{name}"))
    }

    fn new(socket: UnixDatagram, name: String) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, name }
    }

    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let count = self.socket.recv(&mut buffer).expect("a notification from the gateway");
        String::from_utf8(buffer[..count].to_vec()).expect("text")
    }

    #[track_caller]
    fn assert_nothing_more(&self) {
        self.socket.set_nonblocking(true).expect("an option");
        let error = self.socket.recv(&mut [0; 4096]).expect_err("nothing more");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ready_means_that_clients_are_served() {
    let manager = Manager::with_file("ready");
    // Started without the harness, which would wait until it listens.
    let (port, internal_port) = (Port::reserve(), Port::reserve());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssegateway"));
    command.env_clear().env("LISTEN_ADDRESS", "127.0.0.1").env("NOTIFY_SOCKET", &manager.name);
    command.env("PORT", port.to_string()).env("INTERNAL_PORT", internal_port.to_string());
    let _process = Process(command.stderr(Stdio::null()).spawn().expect("the binary starts"));
    assert_eq!(manager.hear(), "READY=1");
    for port in [port, internal_port] {
        TcpStream::connect(("127.0.0.1", port.number)).expect("it listens");
    }
}

#[test]
fn stopping_is_sent_when_the_shutdown_begins() {
    for (manager, delay) in [(Manager::with_file("stop"), 0), (Manager::abstract_one("stop"), 60)] {
        let gate = Gate::new();
        let answer = Answer::ok().after(&gate);
        let backend =
            Backend::new(move |call| if call.action() == "disconnect" { answer.clone() } else { Answer::ok() });
        let builder = Gateway::for_backend(&backend).set("NOTIFY_SOCKET", &manager.name);
        let mut gateway = builder.set("SHUTDOWN_DELAY_SECONDS", delay).start();
        let (stream, token) = gateway.open_with(&backend, "/x");
        assert_eq!(manager.hear(), "READY=1");
        gateway.signal(SIGTERM);
        assert_eq!(manager.hear(), "STOPPING=1");
        assert!(gateway.is_running(), "the stream or its disconnect delays the end");
        if delay == 0 {
            stream.assert_drained(6_000);
            backend.disconnect(&token);
            gate.open();
            assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
        } else {
            // The second signal ends it without another notification.
            gateway.signal(SIGTERM);
            gateway.exit_code();
            gate.open();
        }
        manager.assert_nothing_more();
    }
}

#[test]
fn a_failed_start_is_not_ready() {
    let manager = Manager::abstract_one("failed");
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let variables = [("LISTEN_ADDRESS", "127.0.0.1"), ("NOTIFY_SOCKET", manager.name.as_str()), ("PORT", &port)];
    assert_eq!(run(&[], &variables).code, Some(1));
    manager.assert_nothing_more();
}

#[test]
fn a_missing_manager_is_logged_and_otherwise_ignored() {
    let backend = Backend::accepting();
    for name in ["/nonexistent/notify", "@ssegateway-nobody-listens", "vsock:2:1234", &"x".repeat(200)] {
        let mut gateway = Gateway::for_backend(&backend).set("NOTIFY_SOCKET", name).start();
        gateway.log_line(&["ERROR", "service manager", "READY=1"]);
        gateway.open("/x");
        gateway.drain();
        gateway.log_line(&["ERROR", "service manager", "STOPPING=1"]);
    }
}

#[test]
fn an_empty_name_is_an_unset_one() {
    let mut gateway = Gateway::builder().set("NOTIFY_SOCKET", "").start();
    gateway.drain();
    assert!(!gateway.log().contains("service manager"), "{}", gateway.log());
}
