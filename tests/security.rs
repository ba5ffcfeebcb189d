//! Attacks by hostile clients, by web pages and by a faulty backend (docs/security.md). The rows of the contract have
//! their tests elsewhere.

mod common;

use common::{Answer, Backend, Client, Gateway, Stream, assert_error, find, get, send_request};
use serde_json::Value;

fn with_field(request: &str, field: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
}

/// Header names of a callback, sorted, in lower case.
fn field_names(call: &common::Call) -> Vec<String> {
    let mut names: Vec<String> = call.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    names
}

#[test]
fn what_a_client_sends_becomes_no_field_of_a_callback() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_TOKEN", "the-gateway").start();
    let (plain, plain_token) = gateway.open_with(&backend, "/plain");
    drop(plain);
    let plain = backend.disconnect(&plain_token);

    let fields = [
        "Authorization: Bearer the-client",
        "SSEGateway-Detail: shutdown",
        "User-Agent: evil",
        "Content-Length: 0",
        "Content-Type: text/evil",
        "Transfer-Encoding-X: chunked",
        "X-Forwarded-For: 10.0.0.1",
        "X-Real-IP: 10.0.0.1",
        "Forwarded: for=10.0.0.1",
        "Connection: keep-alive, Authorization",
        "Upgrade: h2c",
        "X-HTTP-Method-Override: DELETE",
    ];
    let hostile = fields.iter().fold(get("/hostile"), |request, field| with_field(&request, field));
    let stream = Stream::accept(Client::open(gateway.port, hostile));
    let connect = backend.connect("/hostile");
    drop(stream);
    let disconnect = backend.disconnect(connect.token());
    for call in [&connect, &disconnect] {
        assert_eq!(field_names(call), field_names(&plain));
        assert_eq!((call.method.as_str(), call.target.as_str()), ("POST", "/callback"));
        assert_eq!(call.header("authorization"), Some("Bearer the-gateway"));
        assert_eq!(call.header("content-type"), Some("application/json"));
        assert!(!call.header("user-agent").is_some_and(|agent| agent.contains("evil")));
        assert_eq!(
            call.json["request"]["headers"]["x-forwarded-for"], "10.0.0.1",
            "the client's claim, inside the body"
        );
    }
}

#[test]
fn what_a_client_sends_stays_inside_its_strings() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let target = r#"/"},"token":"forged","x":{"\u0022"#;
    let value = r#"a"},"url":"/forged"},"action":"disconnect"\"#;
    let request = with_field(&with_field(&get(target), &format!("token: {value}")), "__proto__: x");
    let _stream = Stream::accept(Client::open(gateway.port, request));
    let call = backend.connect(target);
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let mut names = keys(&call.json);
    names.sort();
    assert_eq!(names, ["action", "request", "token"]);
    let mut names = keys(&call.json["request"]);
    names.sort();
    assert_eq!(names, ["headers", "url"]);
    assert_eq!(call.action(), "connect");
    assert_ne!(call.token(), "forged");
    assert_eq!(call.json["request"]["headers"]["token"], value);
    assert_eq!(call.json["request"]["headers"]["__proto__"], "x");
    // No key twice, since JSON parsers differ in which one they use.
    let text = String::from_utf8(call.body.clone()).expect("UTF-8");
    for key in [r#""token":"#, r#""action":"#, r#""url":"#] {
        let within = if key == r#""token":"# { 2 } else { 1 };
        assert_eq!(text.matches(key).count(), within, "{key} in {text}");
    }
}

#[test]
fn a_backend_cannot_split_the_answer_to_a_client() {
    for value in [
        "5\r\n X-Injected: folded",
        "5\r\n\tX-Injected: folded",
        "5\rX-Injected: cr",
        "5\nX-Injected: lf",
        "5\0X-Injected: nul",
        "5\x0bX-Injected: vt",
        "5\r\r\nX-Injected: crcrlf",
        "5\x7fX-Injected: del",
        "5\u{10d}\u{10a}X-Injected: wide",
    ] {
        for name in ["Retry-After", "WWW-Authenticate"] {
            let answer = format!("HTTP/1.1 401 No\r\n{name}: {value}\r\nContent-Length: 0\r\n\r\n");
            let backend = Backend::connecting(Answer::raw(answer));
            let gateway = Gateway::start(&backend);
            let mut client = Client::open(gateway.port, get("/x"));
            let bytes = client.rest();
            let head_end = find(&bytes, b"\r\n\r\n").expect("a head") + 4;
            let (head, body) = bytes.split_at(head_end);
            for line in head.split(|byte| *byte == b'\n') {
                let shown = String::from_utf8_lossy(line);
                assert!(!line.starts_with(b"X-Injected") && !line.starts_with(b" X-"), "{value:?}: {shown:?}");
                let text = line.strip_suffix(b"\r").unwrap_or(line);
                assert!(text.iter().all(|byte| !byte.is_ascii_control()), "{value:?}: {shown:?}");
            }
            assert!(head.starts_with(b"HTTP/1.1 401 ") || head.starts_with(b"HTTP/1.1 503 "), "{value:?}");
            assert!(body.starts_with(b"{\"error\":\""), "{value:?}");
        }
    }
}

#[test]
fn an_answer_too_many_decides_nothing() {
    let twice = "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let with_body = "HTTP/1.1 204 No Content\r\nContent-Length: 42\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (first, expected) in [(twice, 403), (with_body, 200)] {
        let backend = Backend::new(move |call| match call.url() {
            "/first" => Answer::raw(first),
            _ => Answer::status(418),
        });
        let gateway = Gateway::start(&backend);
        assert_eq!(Client::open(gateway.port, get("/first")).head().status, expected);
        for _ in 0..3 {
            assert_eq!(gateway.get("/second").status, 418, "decided by its own answer");
        }
    }
}

#[test]
fn pages_in_browsers_cannot_send() {
    let backend = Backend::accepting();
    for builder in [Gateway::for_backend(&backend), Gateway::for_backend(&backend).internal_port()] {
        let gateway = builder.set("CORS_ORIGINS", "*").start();
        let port = gateway.internal_port();
        let (mut stream, token) = gateway.open_with(&backend, "/x");
        let send = send_request(&format!(r#"{{"token":"{token}","event":{{"data":"forged"}}}}"#));
        // A form, fetch in any mode, sendBeacon, a sandboxed frame, a page whose name was rebound to this address: all
        // carry an Origin (Fetch, section 3.1), whatever their referrer policy.
        for origin in ["https://evil.example", "null", "", "http://127.0.0.1", &format!("http://127.0.0.1:{port}")] {
            for kind in ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
                let request = send.replacen("application/json", kind, 1);
                let response = Client::open(port, with_field(&request, &format!("Origin: {origin}"))).response();
                assert_error(&response, 403);
                assert_eq!(response.header("access-control-allow-origin"), None);
            }
        }
        let preflight =
            with_field(&get("/internal/send").replacen("GET", "OPTIONS", 1), "Origin: https://evil.example");
        let response = Client::open(port, with_field(&preflight, "Access-Control-Request-Method: POST")).response();
        assert_error(&response, 403);
        // Requests without an Origin, navigation and images, are GETs.
        let image = get(&format!("/internal/send?token={token}&event=forged"));
        assert_error(&Client::open(port, image).response(), 405);
        assert_eq!(gateway.event(&token, "real").status, 200);
        assert_eq!(stream.frame(), "data: real\n\n", "and nothing before it");
    }
}

#[test]
fn a_key_in_the_callback_url_is_not_logged() {
    let backend = Backend::accepting();
    let url = format!("http://a-key@127.0.0.1:{}/?key=another-key", backend.port);
    let mut gateway = Gateway::builder().set("CALLBACK_URL", url).set("LOG_LEVEL", "trace").start();
    gateway.open_with(&backend, "/x");
    gateway.drain();
    let log = gateway.log();
    assert!(
        log.contains("callback=http://127.0.0.1:") && !log.contains("a-key") && !log.contains("another-key"),
        "{log}"
    );
}

#[test]
fn a_request_can_forge_no_field_of_a_log_line() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("LOG_LEVEL", "trace").start();
    let target = r#"/a","headers":{"token=forged%0d%0a%1b[31m\n"#;
    let stream = Stream::accept(Client::open(gateway.port, get(target)));
    let token = backend.connect(target).token().to_owned();
    drop(stream);
    backend.disconnect(&token);
    gateway.drain();
    let line = gateway.log_line(&["stream opened"]);
    let fields: Vec<&str> = line.split_whitespace().collect();
    // Time, level, module, two words, and two fields: a target contains no space.
    assert_eq!(fields.len(), 7, "{line}");
    assert_eq!(fields[5], format!("token={token}"));
    assert_eq!(fields[6], format!("url=\"{}\"", target.replace('\\', r"\\").replace('"', r#"\""#)));
}
