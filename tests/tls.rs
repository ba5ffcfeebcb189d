//! Callbacks over TLS: the backend's certificate is verified (docs/security.md). Needs `openssl`.

#![cfg(feature = "tls")]

mod common;

use common::{Gateway, Port, assert_json, eventually};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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

/// `openssl s_server`, which prints what it decrypts, or a client of it; ended when dropped.
struct Server {
    child: Child,
    port: Port,
    printed: PathBuf,
}

impl Server {
    fn start(directory: &Path) -> Server {
        let port = Port::reserve();
        let printed = directory.join("printed");
        let output = std::fs::File::create(&printed).expect("a file");
        let child = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-cert",
                "cert.pem",
                "-key",
                "key.pem",
                "-accept",
                &format!("127.0.0.1:{port}"),
            ])
            .current_dir(directory)
            // An end of its input would end it.
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("a second descriptor"))
            .stderr(output)
            .spawn()
            .expect("openssl is installed");
        let server = Server { child, port, printed };
        eventually("openssl listens", || std::net::TcpStream::connect(("127.0.0.1", server.port.number)).is_ok());
        server
    }

    /// A client that does not look at the certificate and sends a line.
    fn trusting_client(&self, line: &str) -> Server {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", self.port)])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        writeln!(child.stdin.as_mut().expect("piped"), "{line}").expect("it reads");
        Server { child, port: self.port.clone(), printed: self.printed.clone() }
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
        let line = gateway.log_line(&["connect callback failed"]);
        assert!(line.contains("written=false") && line.to_lowercase().contains("certificate"), "{line}");
        gateway.drain();
    }
    // It serves one client after the other and prints what it decrypts: here is what a client that trusts it sends.
    let _client = server.trusting_client("a control");
    eventually("the server prints what it is sent", || server.printed().contains("a control"));
    let printed = server.printed();
    assert!(!printed.contains("POST") && !printed.contains("opensesame"), "{printed}");
    drop(server);
    let _ = std::fs::remove_dir_all(directory);
}
