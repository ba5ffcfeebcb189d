//! Callbacks over TLS: the backend's certificate is verified (docs/security.md). Needs `openssl`.

#![cfg(feature = "tls")]

mod common;

use common::{Authority, Gateway, IdentityFiles, PATIENCE, Port, assert_json, eventually, find, run};
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// A server's certificate and key.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn read(files: &IdentityFiles) -> Self {
        Self {
            certificate: CertificateDer::from_pem_file(&files.certificate).expect("a certificate"),
            key: PrivateKeyDer::from_pem_file(&files.key).expect("a key"),
        }
    }
}

/// What `authority` certifies for `names`, like `DNS:localhost`.
fn certified(authority: &Authority, names: &str) -> Identity {
    Identity::read(&authority.certify(names))
}

fn root(authority: &Authority) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(authority.file()).expect("a certificate")
}

/// A certificate that nobody else has signed; its files are those of an authority.
fn self_signed(name: &str) -> (Authority, Identity) {
    let authority = Authority::self_signed(name);
    let identity = Identity::read(&authority.own());
    (authority, identity)
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
    let (port, seen) = backend(certified(&authority, "DNS:localhost,IP:127.0.0.1"));
    for (n, host) in ["localhost", "127.0.0.1"].into_iter().enumerate() {
        let other = Authority::new();
        let outcomes = calls(format!("https://{host}:{port}/callback?key=1"), &[&root(&other), &root(&authority)], 3);
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
        ("DNS:localhost", "127.0.0.1", &root(&authority)),
        ("DNS:elsewhere.test", "localhost", &root(&authority)),
        ("DNS:localhost", "localhost", &root(&other)),
    ] {
        let (port, seen) = backend(certified(&authority, names));
        let outcomes = calls(format!("https://{host}:{port}/"), &[root], 1);
        assert_eq!(outcomes, [Outcome::Unavailable { written: false }], "{names} {host}");
        assert_eq!(*seen.requests.lock().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_backend_without_tls_gets_no_request() {
    let root = root(&Authority::new());
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
    let (port, seen) = backend(certified(&authority, "DNS:localhost,IP:127.0.0.1"));
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
    let outcomes = calls(format!("https://localhost:{port}/"), &[&root(&authority)], 1);
    assert_eq!(outcomes, [accepted()]);
    eventually("the backend sees a request", || seen.requests.lock().unwrap().len() == 1);
}

#[test]
fn a_file_of_certificates_makes_a_private_authority_known() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (port, _seen) = backend(certified(&authority, "DNS:localhost"));
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
    let path = |name: &str| authority.path(name).display().to_string();
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
