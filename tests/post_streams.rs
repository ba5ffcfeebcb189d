//! Streams by POST, for pages that send more than a URL (docs/protocol.md, section 15).

mod common;

use common::{Answer, Backend, Builder, Client, Gateway, Stream, assert_json, find, post};
use serde_json::{Value, json};

const TOO_LARGE: &str = r#"{"error":"Request body too large"}"#;
const MEDIA_TYPE: &str = r#"{"error":"Unsupported charset or content coding"}"#;

fn with_posts(backend: &Backend) -> Builder {
    Gateway::for_backend(backend).set("POST_STREAMS", "on")
}

fn open(gateway: &Gateway, target: &str, body: &str) -> Stream {
    Stream::accept(Client::open(gateway.port, post(target, body)))
}

#[test]
fn a_post_opens_a_stream_and_its_connect_has_method_and_body() {
    let backend = Backend::connecting(Answer::json(r#"{"event":{"data":"hello"}}"#));
    let gateway = with_posts(&backend).start();
    let body = "{\"prompt\":\"\u{e9}\\n\u{1f600}\",\"quoted\":\"\\\"\"}";
    let mut stream = open(&gateway, "/chat?x=1", body);
    assert_eq!(stream.frame(), "data: hello\n\n");
    let connect = backend.connect("/chat?x=1");
    let request: Value = serde_json::from_slice(&connect.body).unwrap();
    assert_eq!(request["request"]["method"], "POST");
    assert_eq!(request["request"]["body"], body);
    let place = |field: &[u8]| find(&connect.body, field).expect("the field");
    assert!(place(b"\"headers\":") < place(b"\"method\":") && place(b"\"method\":") < place(b"\"body\":"));
    let token = connect.token().to_owned();
    assert_eq!(gateway.event(&token, "more").status, 200);
    assert_eq!(stream.frame(), "data: more\n\n");
    drop(stream);
    let disconnect: Value = serde_json::from_slice(&backend.disconnect(&token).body).unwrap();
    assert_eq!(disconnect["request"]["method"], "POST");
    assert_eq!(disconnect["request"]["body"], Value::Null);
}

#[test]
fn an_empty_body_is_an_empty_string() {
    let backend = Backend::accepting();
    let gateway = with_posts(&backend).start();
    let _streams = [
        Stream::accept(Client::open(gateway.port, "POST /a HTTP/1.1\r\nHost: h\r\n\r\n")),
        Stream::accept(Client::open(gateway.port, "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")),
    ];
    for url in ["/a", "/b"] {
        let request: Value = serde_json::from_slice(&backend.connect(url).body).unwrap();
        assert_eq!(request["request"]["body"], "");
    }
}

#[test]
fn a_body_may_come_in_chunks_and_pieces_and_on_request() {
    let backend = Backend::accepting();
    let gateway = with_posts(&backend).start();
    let mut client = Client::open(
        gateway.port,
        "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.read_until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    for piece in ["3\r\nab", "c\r\n2\r", "\nde\r\n0\r\n", "\r\n"] {
        client.send(piece);
    }
    Stream::accept(client);
    let request: Value = serde_json::from_slice(&backend.connect("/x").body).unwrap();
    assert_eq!(request["request"]["body"], "abcde");
}

#[test]
fn gets_are_told_of_without_method_and_body() {
    let backend = Backend::accepting();
    let gateway = with_posts(&backend).start();
    let _stream = gateway.open("/x");
    let request: Value = serde_json::from_slice(&backend.connect("/x").body).unwrap();
    let names: Vec<&String> = request["request"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["headers", "url"]);
}

#[test]
fn a_body_that_is_not_utf8_or_coded_is_refused_without_a_callback() {
    let backend = Backend::accepting();
    let gateway = with_posts(&backend).start();
    let latin = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n\xE9";
    assert_json(&gateway.request(latin), 415, MEDIA_TYPE);
    let coded = "POST /x HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx";
    assert_json(&gateway.request(coded), 415, MEDIA_TYPE);
    assert_eq!(backend.count("connect"), 0);
}

#[test]
fn its_own_limit_holds_for_its_body() {
    let backend = Backend::accepting();
    let gateway = with_posts(&backend).set("MAX_BODY_BYTES", 10).set("MAX_STREAM_BODY_BYTES", 20).start();
    drop(open(&gateway, "/fits", &"x".repeat(20)));
    backend.connect("/fits");
    assert_json(&gateway.request(post("/x", &"x".repeat(21))), 413, TOO_LARGE);
    let chunked =
        format!("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{}\r\n", "x".repeat(21));
    assert_json(&gateway.request(chunked), 413, TOO_LARGE);
    assert_json(&gateway.send(&json!({"token": "t", "event": {"data": "x"}}).to_string()), 413, TOO_LARGE);
    assert_eq!(backend.count("connect"), 1);
}

#[test]
fn pages_may_post_where_streams_can_be_posted() {
    let backend = Backend::accepting();
    let preflight =
        "OPTIONS /x HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let gateway = with_posts(&backend).set("CORS_ORIGINS", "https://a.example").start();
    assert_eq!(gateway.request(preflight).header("access-control-allow-methods"), Some("GET, POST"));
    assert_eq!(gateway.request("OPTIONS /x HTTP/1.1\r\nHost: h\r\n\r\n").header("allow"), Some("GET, POST, OPTIONS"));
    let too_long = format!(
        "POST /x HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\nContent-Length: {}\r\n\r\n",
        256 * 1024 + 1
    );
    let refusal = gateway.request(too_long);
    assert_eq!((refusal.status, refusal.header("access-control-allow-origin")), (413, Some("https://a.example")));
}

#[test]
fn without_the_switch_a_post_is_not_allowed() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let response = gateway.request(post("/x", "{}"));
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, OPTIONS")));
    assert_eq!(backend.count("connect"), 0);
}

#[test]
fn a_post_to_a_probe_is_no_stream() {
    let backend = Backend::accepting();
    let gateway = with_posts(&backend).start();
    for path in ["/healthz", "/readyz/"] {
        assert_eq!(gateway.request(post(path, "{}")).status, 405, "{path}");
    }
    assert_eq!(backend.count("connect"), 0);
}
