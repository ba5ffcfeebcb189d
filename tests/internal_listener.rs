//! Access to sends: the second listener and the token (contract, section 2).

mod common;

use common::{Backend, Client, Gateway, OK, Response, assert_error, assert_json, get, post, send_request};

fn with_field(request: &str, field: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
}

fn internal(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    Client::open(gateway.internal_port(), request).response()
}

#[test]
fn sends_go_to_the_internal_port_only() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).internal_port().start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let send = send_request(&format!(r#"{{"token":"{token}","event":{{"data":"x"}}}}"#));
    assert_error(&gateway.request(&send), 404);
    assert_json(&internal(&gateway, &send), 200, OK);
    assert_eq!(stream.frame(), "data: x\n\n");
    gateway.close(&token);
    stream.assert_ended();
}

#[test]
fn the_public_port_knows_nothing_of_internal_paths() {
    let gateway = Gateway::builder().internal_port().set("INTERNAL_TOKEN", "t").start();
    for request in [
        get("/internal/send"),
        get("/internal/x"),
        post("/internal/send", "{}"),
        get("/internal/send").replacen("GET", "PUT", 1),
    ] {
        assert_error(&gateway.request(&request), 404);
        assert_error(&gateway.request(with_field(&request, "Origin: https://a.example")), 404);
    }
}

#[test]
fn both_ports_serve_the_probes() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).internal_port().set("INTERNAL_TOKEN", "t").start();
    for port in [gateway.port, gateway.internal_port()] {
        assert_json(&Client::open(port, get("/healthz")).response(), 200, r#"{"status":"ok"}"#);
        assert_json(&Client::open(port, get("/readyz")).response(), 200, r#"{"status":"ready","configured":true}"#);
    }
}

#[test]
fn the_internal_port_opens_no_streams() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).internal_port().start();
    assert_error(&internal(&gateway, get("/x")), 404);
    assert_eq!(backend.history().len(), 0);
}

#[test]
fn the_internal_port_has_its_own_address() {
    let gateway = Gateway::builder().internal_port().set("INTERNAL_ADDRESS", "127.0.0.2").start();
    assert!(std::net::TcpStream::connect(("127.0.0.1", gateway.internal_port())).is_err());
    assert!(std::net::TcpStream::connect(("127.0.0.2", gateway.internal_port())).is_ok());
}

#[test]
fn sends_need_the_token() {
    let backend = Backend::accepting();
    for builder in [Gateway::for_backend(&backend), Gateway::for_backend(&backend).internal_port()] {
        let gateway = builder.set("INTERNAL_TOKEN", "opensesame").start();
        let (mut stream, token) = gateway.open_with(&backend, "/x");
        let send = send_request(&format!(r#"{{"token":"{token}","event":{{"data":"x"}}}}"#));
        for field in [
            "X-Other: opensesame",
            "Authorization: Bearer",
            "Authorization: Bearer opensesam",
            "Authorization: Bearer opensesamee",
            "Authorization: Bearer Opensesame",
            // Two characters swapped.
            "Authorization: Bearer poensesame",
            "Authorization: Basic opensesame",
            "Authorization: opensesame",
            "Proxy-Authorization: Bearer opensesame",
        ] {
            let mut client = Client::open(gateway.internal_port(), with_field(&send, field));
            let response = client.response();
            assert_error(&response, 401);
            assert_eq!(response.header("www-authenticate"), Some("Bearer"), "{field}");
            client.assert_open();
        }
        assert_json(&internal(&gateway, with_field(&send, "Authorization: Bearer opensesame")), 200, OK);
        assert_eq!(stream.frame(), "data: x\n\n");
        drop(stream);
        backend.disconnect(&token);
    }
}

#[test]
fn streams_and_probes_need_no_token() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("INTERNAL_TOKEN", "opensesame").start();
    gateway.open("/x");
    assert_eq!(gateway.get("/healthz").status, 200);
}

#[test]
fn checks_come_in_their_order() {
    let gateway = Gateway::builder().set("INTERNAL_TOKEN", "t").set("MAX_BODY_BYTES", 10).start();
    // Each also has every fault that is checked later.
    let fields =
        ["Content-Encoding: gzip", "Expect: nonsense", "Authorization: Bearer wrong", "Origin: https://a.example"];
    let length = "Content-Length: 11";
    let unknown = "PUT /internal/unknown HTTP/1.1\r\nHost: h\r\n\r\n";
    let known = "PUT /internal/send HTTP/1.1\r\nHost: h\r\n\r\n";
    let put = |request: &str, fields: &[&str]| {
        let request = fields.iter().fold(with_field(request, length), |request, field| with_field(&request, field));
        internal(&gateway, request).status
    };
    assert_eq!(put(unknown, &fields), 403);
    assert_eq!(put(unknown, &fields[..3]), 401);
    let fields = ["Authorization: Bearer t", "Content-Encoding: gzip", "Expect: nonsense"];
    assert_eq!(put(unknown, &fields), 404);
    assert_eq!(put(known, &fields), 405);
    let known = known.replacen("PUT", "POST", 1);
    assert_eq!(put(&known, &fields), 417);
    assert_eq!(put(&known, &fields[..2]), 415);
    assert_eq!(put(&known, &fields[..1]), 413);
}
