//! Callbacks over TLS: the backend's certificate is verified (docs/security.md). Needs `openssl`.

#![cfg(feature = "tls")]

mod common;

use common::{Gateway, PATIENCE, Port, assert_json, eventually, find, run};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use ssegateway::callback::{Call, CallKind, Called, Outcome, Request, RequestParts};
use ssegateway::config::CallbackUrl;
use ssegateway::job::Completion;
use ssegateway::table::Key;
use ssegateway::workers::{WorkerSettings, Workers};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// A certificate authority for a test; its files are deleted when it is dropped.
struct Authority {
    directory: PathBuf,
    root: CertificateDer<'static>,
}

/// A server's certificate and key.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    fn new() -> Self {
        Self::named(&[])
    }

    fn named(arguments: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        openssl(&directory, "root", &[&["-subj", "/CN=An authority"], arguments].concat());
        let root = CertificateDer::from_pem_file(directory.join("root.pem")).expect("a certificate");
        Self { directory, root }
    }

    /// Certifies `names`, like `DNS:localhost`.
    fn certify(&self, names: &str) -> Identity {
        let names = format!("subjectAltName={names}");
        let leaf = ["-subj", "/CN=A backend", "-CA", "root.pem", "-CAkey", "root.key", "-addext", &names];
        openssl(&self.directory, "leaf", &[&leaf[..], &["-addext", "basicConstraints=critical,CA:FALSE"]].concat());
        self.identity("leaf")
    }

    fn identity(&self, name: &str) -> Identity {
        let path = self.directory.join(name);
        Identity {
            certificate: CertificateDer::from_pem_file(path.with_extension("pem")).expect("a certificate"),
            key: PrivateKeyDer::from_pem_file(path.with_extension("key")).expect("a key"),
        }
    }

    /// The file of its certificate.
    fn file(&self) -> String {
        self.directory.join("root.pem").display().to_string()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A certificate that nobody else has signed; its files are those of an authority.
fn self_signed(name: &str) -> (Authority, Identity) {
    let authority = Authority::named(&["-addext", &format!("subjectAltName=DNS:{name}")]);
    let identity = authority.identity("root");
    (authority, identity)
}

/// Creates `name.key` and a certificate for it, `name.pem`.
fn openssl(directory: &PathBuf, name: &str, arguments: &[&str]) {
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
        .args(arguments)
        .current_dir(directory)
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("openssl is installed").success());
}

/// A backend's record.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Heads and bodies, decrypted.
    requests: Mutex<Vec<String>>,
}

/// A backend that accepts every callback with `{"close":true}` on kept-alive connections.
fn backend(identity: Identity) -> (Port, Arc<Seen>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.expect("TLS 1.2 and 1.3").with_no_client_auth();
    let config = config.with_single_cert(vec![identity.certificate], identity.key).expect("they match");
    let (config, port, seen) = (Arc::new(config), Port::reserve(), Arc::new(Seen::default()));
    let listener = TcpListener::bind(("127.0.0.1", port.number)).expect("a port for the backend");
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (config, log) = (Arc::clone(&config), Arc::clone(&log));
            std::thread::spawn(move || {
                log.connections.fetch_add(1, Ordering::SeqCst);
                let connection = ServerConnection::new(config).expect("a valid configuration");
                let mut stream = StreamOwned::new(connection, socket.expect("a connection"));
                while let Some(request) = read_request(&mut stream) {
                    log.requests.lock().unwrap().push(request);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"close\":true}";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, seen)
}

/// The next request, head and body; `None` if the connection ends or its handshake failed.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = find(&bytes, b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            if bytes.len() == head + 4 + length.parse::<usize>().expect("a number") {
                return Some(text);
            }
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// Makes connect callbacks to `url` one after the other; returns their outcomes.
fn calls(url: String, extra_roots: &[&CertificateDer<'_>], count: u32) -> Vec<Outcome> {
    let (sender, completions) = mpsc::channel();
    let settings = WorkerSettings {
        url: CallbackUrl::parse(&url).expect("a URL"),
        authorization: Some("Bearer opensesame".to_owned()),
        instance: "an-instance".to_owned(),
        timeout: Duration::from_secs(1),
        pass_rejections: false,
        extra_roots: extra_roots.iter().map(|root| root.to_vec()).collect(),
        threads_max: 1,
        late_max: 0,
    };
    let workers = Workers::start(settings, sender, Arc::new(|| {})).expect("valid settings");
    (0..count)
        .map(|number| {
            let token = uuid::Uuid::from_u128(number.into());
            let request = Request::encode(&mut String::new(), &RequestParts { url: "/x", headers: &[] });
            workers.submit(Call {
                id: Key::from_parts(number, 1),
                kind: CallKind::Connect,
                token,
                request,
                body: None,
            });
            let Completion::Called(Called { outcome, .. }) = completions.recv_timeout(PATIENCE).expect("a completion")
            else {
                panic!("a lookup")
            };
            outcome
        })
        .collect()
}

fn accepted() -> Outcome {
    Outcome::Answered { status: 200, passed: Vec::new(), body: Some(b"{\"close\":true}".to_vec()), in_doubt: false }
}

#[test]
fn callbacks_succeed_under_a_known_authority() {
    let authority = Authority::new();
    let (port, seen) = backend(authority.certify("DNS:localhost,IP:127.0.0.1"));
    for (n, host) in ["localhost", "127.0.0.1"].into_iter().enumerate() {
        let other = Authority::new();
        let outcomes = calls(format!("https://{host}:{port}/callback?key=1"), &[&other.root, &authority.root], 3);
        assert_eq!(outcomes, vec![accepted(); 3]);
        assert_eq!(seen.connections.load(Ordering::SeqCst), n + 1, "connections are kept alive");
    }
    let requests = seen.requests.lock().unwrap();
    assert_eq!(requests.len(), 6);
    for request in &*requests {
        assert!(request.starts_with("POST /callback?key=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer opensesame\r\n"), "{request}");
        assert!(request.contains(r#""action":"connect""#), "{request}");
    }
}

#[test]
fn a_certificate_must_be_for_the_host_and_from_a_known_authority() {
    let authority = Authority::new();
    let other = Authority::new();
    for (names, host, root) in [
        ("DNS:localhost", "127.0.0.1", &authority.root),
        ("DNS:elsewhere.test", "localhost", &authority.root),
        ("DNS:localhost", "localhost", &other.root),
    ] {
        let (port, seen) = backend(authority.certify(names));
        let outcomes = calls(format!("https://{host}:{port}/"), &[root], 1);
        assert_eq!(outcomes, [Outcome::Unavailable { written: false }], "{names} {host}");
        assert_eq!(*seen.requests.lock().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_backend_without_tls_gets_no_request() {
    let root = Authority::new().root.clone();
    for (answer, outcome) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", Outcome::Unavailable { written: false }),
        ("", Outcome::TimedOut { written: false }),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}/", listener.local_addr().expect("its address"));
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut hello = [0; 4096];
            let count = socket.read(&mut hello).expect("a hello");
            socket.write_all(answer.as_bytes()).expect("it reads");
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest);
            [&hello[..count], &rest].concat()
        });
        assert_eq!(calls(url, &[&root], 1), [outcome]);
        assert_eq!(find(&server.join().expect("it ends"), b"opensesame"), None);
    }
}

#[test]
fn a_certificate_from_an_unknown_authority_is_refused() {
    let authority = Authority::new();
    let (port, seen) = backend(authority.certify("DNS:localhost,IP:127.0.0.1"));
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{port}/callback");
        let mut gateway = Gateway::builder().set("CALLBACK_URL", url).set("CALLBACK_TOKEN", "opensesame").start();
        assert_json(&gateway.get("/x"), 503, r#"{"error":"Backend unavailable"}"#);
        let line = gateway.log_line(&["connect callback failed"]);
        assert!(line.contains("written=false") && line.contains("unknown issuer: "), "{line}");
        assert!(line.contains("set CALLBACK_CA_FILE"), "{line}");
        gateway.drain();
    }
    // A client that trusts it does get through.
    let outcomes = calls(format!("https://localhost:{port}/"), &[&authority.root], 1);
    assert_eq!(outcomes, [accepted()]);
    eventually("the backend sees a request", || seen.requests.lock().unwrap().len() == 1);
}

#[test]
fn a_file_of_certificates_makes_a_private_authority_known() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (port, _seen) = backend(authority.certify("DNS:localhost"));
    let gateway = || Gateway::builder().set("CALLBACK_URL", format!("https://localhost:{port}/"));
    for gateway in [
        gateway().set("CALLBACK_CA_FILE", authority.file()),
        gateway().set("SSL_CERT_FILE", authority.file()),
        gateway().set("CALLBACK_CA_FILE", authority.file()).set("SSL_CERT_FILE", other.file()),
    ] {
        gateway.start().open("/x").assert_ended();
    }
    // Ours goes first. What is set for other programs never stops this one.
    let mut refusing = gateway().set("CALLBACK_CA_FILE", other.file()).set("SSL_CERT_FILE", authority.file()).start();
    assert_json(&refusing.get("/x"), 503, r#"{"error":"Backend unavailable"}"#);
    refusing.drain();
    let gateway = gateway().set("SSL_CERT_FILE", "/nowhere").start();
    gateway.log_line(&[r#"SSL_CERT_FILE="/nowhere": must name a readable file: "#, "; not used"]);
}

#[test]
fn a_self_signed_certificate_in_that_file_is_good_for_its_own_name() {
    let (authority, identity) = self_signed("localhost");
    let (port, _seen) = backend(identity);
    let gateway = |host: &str| {
        let url = format!("https://{host}:{port}/");
        Gateway::builder().set("CALLBACK_URL", url).set("CALLBACK_CA_FILE", authority.file()).start()
    };
    gateway("localhost").open("/x").assert_ended();
    let other = gateway("127.0.0.1");
    assert_json(&other.get("/x"), 503, r#"{"error":"Backend unavailable"}"#);
    other.log_line(&["connect callback failed", "wrong name: ", "localhost", "subjectAltName"]);
}

#[test]
fn a_bad_file_of_certificates_stops_the_start() {
    let authority = Authority::new();
    let path = |name: &str| authority.directory.join(name).display().to_string();
    std::fs::write(path("text.pem"), "no certificate").expect("a file");
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let good = std::fs::read_to_string(authority.file()).expect("a certificate");
    std::fs::write(path("second.pem"), format!("{good}{bad}")).expect("a file");
    std::fs::write(path("cut.pem"), &good[..good.len() / 2]).expect("a file");
    for (name, allowed) in [
        ("none.pem", "must name a readable file: No such file"),
        ("text.pem", "must name a file with -----BEGIN CERTIFICATE----- in it"),
        ("root.key", "must name a file with -----BEGIN CERTIFICATE----- in it"),
        ("second.pem", "must name a file of certificates, and number 2 in it is none"),
        ("cut.pem", "must name a file of certificates in PEM: "),
    ] {
        for arguments in [&[][..], &["check"]] {
            let output = run(arguments, &[("CALLBACK_CA_FILE", &path(name))]);
            assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 1), "{output:?}");
            let line = format!("CALLBACK_CA_FILE=\"{}\": {allowed}", path(name));
            assert!(output.stderr.starts_with(&line), "{output:?}");
        }
    }
}
