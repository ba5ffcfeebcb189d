//! Callbacks over TLS: the backend's certificate is verified (docs/security.md). Needs `openssl`.

#![cfg(feature = "tls")]

mod common;

use common::{Gateway, PATIENCE, assert_json, eventually, free_port};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A self-signed certificate for `localhost` and 127.0.0.1, in a directory of its own.
fn certificate() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&directory)
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("openssl is installed").success());
    directory
}

/// `openssl s_server`, which prints what it decrypts; ended when dropped.
struct Server {
    child: Child,
    port: u16,
    printed: PathBuf,
}

impl Server {
    fn start(directory: &Path) -> Server {
        let port = free_port();
        let printed = directory.join("printed");
        let output = std::fs::File::create(&printed).expect("a file");
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-cert", "cert.pem", "-key", "key.pem", "-accept", &format!("127.0.0.1:{port}")])
            .current_dir(directory)
            // An end of its input would end it.
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("a second descriptor"))
            .stderr(output)
            .spawn()
            .expect("openssl is installed");
        let server = Server { child, port, printed };
        eventually("openssl listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.printed).expect("the file")).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let directory = certificate();
    let server = Server::start(&directory);
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}/callback", server.port);
        let mut gateway = Gateway::builder().set("CALLBACK_URL", url).set("CALLBACK_TOKEN", "opensesame").start();
        assert_json(&gateway.get("/x"), 503, r#"{"error":"Backend unavailable"}"#);
        let line = gateway.log_line(&["callback failed", "kind=connect"]);
        assert!(line.contains("written=false") && line.to_lowercase().contains("certificate"), "{line}");
        gateway.drain();
    }
    // It told us why it was left, and got nothing else: no token, no request.
    let start = Instant::now();
    while !server.printed().contains("alert") && start.elapsed() < PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let printed = server.printed();
    assert!(printed.contains("alert"), "{printed}");
    assert!(!printed.contains("POST") && !printed.contains("opensesame"), "{printed}");
    drop(server);
    let _ = std::fs::remove_dir_all(directory);
}
