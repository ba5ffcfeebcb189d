//! Cross-origin streams (contract, section 8, CORS).

mod common;

use common::{Answer, Backend, Client, Gateway, Response, Stream, assert_error, get};

const LISTED: &str = "https://a.example";

fn with_origin(request: &str, origin: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\nOrigin: {origin}\r\n\r\n"), 1)
}

/// The answer to a preflight of a stream.
fn preflight(gateway: &Gateway, origin: &str) -> Response {
    preflight_for(gateway, origin, "")
}

/// The same, with further fields.
fn preflight_for(gateway: &Gateway, origin: &str, fields: &str) -> Response {
    let fields = format!("\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: GET\r\n{fields}\r\n");
    let request = get("/x").replacen("GET", "OPTIONS", 1).replacen("\r\n\r\n", &fields, 1);
    Client::open(gateway.port, request).response()
}

fn stream_head(gateway: &Gateway, origin: &str) -> Response {
    Stream::accept(Client::open(gateway.port, with_origin(&get("/x"), origin))).head
}

#[track_caller]
fn assert_allowed(response: &Response, origin: &str) {
    assert_eq!(response.header("access-control-allow-origin"), Some(origin), "{response:?}");
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"), "{response:?}");
    assert_eq!(response.header("vary"), Some("Origin"), "{response:?}");
}

#[track_caller]
fn assert_not_allowed(response: &Response) {
    assert_eq!(response.header("access-control-allow-origin"), None, "{response:?}");
    assert_eq!(response.header("access-control-allow-credentials"), None, "{response:?}");
}

fn listing(backend: &Backend) -> Gateway {
    Gateway::for_backend(backend).set("CORS_ORIGINS", "https://a.example, http://localhost:8080").start()
}

#[test]
fn without_a_list_there_are_no_cors_fields() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    assert_not_allowed(&stream_head(&gateway, LISTED));
    let response = preflight(&gateway, LISTED);
    assert_eq!(response.status, 204);
    assert_eq!(response.header("allow"), Some("GET, OPTIONS"));
    assert_not_allowed(&response);
}

#[test]
fn a_listed_origin_is_echoed() {
    let backend = Backend::accepting();
    let gateway = listing(&backend);
    for origin in [LISTED, "http://localhost:8080"] {
        assert_allowed(&stream_head(&gateway, origin), origin);
    }
}

#[test]
fn another_origin_is_not() {
    let backend = Backend::accepting();
    let gateway = listing(&backend);
    for origin in
        ["https://b.example", "http://a.example", "https://a.example:444", "https://a.example.evil", "null", "*"]
    {
        assert_not_allowed(&stream_head(&gateway, origin));
        assert_not_allowed(&preflight(&gateway, origin));
    }
    assert_not_allowed(&gateway.open("/x").head);
}

#[test]
fn errors_of_streams_carry_it_as_well() {
    let backend = Backend::connecting(Answer::status(403));
    let gateway = listing(&backend);
    let response = gateway.request(with_origin(&get("/x"), LISTED));
    assert_eq!(response.status, 403);
    assert_allowed(&response, LISTED);
    let unset = Gateway::builder().set("CORS_ORIGINS", LISTED).start();
    let response = unset.request(with_origin(&get("/x"), LISTED));
    assert_eq!(response.status, 503);
    assert_allowed(&response, LISTED);
}

#[test]
fn a_star_allows_every_origin_without_credentials() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("CORS_ORIGINS", "*").start();
    for response in [stream_head(&gateway, LISTED), preflight(&gateway, "https://b.example")] {
        assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{response:?}");
        assert_eq!(response.header("access-control-allow-credentials"), None, "{response:?}");
    }
}

#[test]
fn preflights_are_answered_without_a_callback() {
    let backend = Backend::accepting();
    let gateway = listing(&backend);
    let response = preflight(&gateway, LISTED);
    assert_eq!(response.status, 204, "{response:?}");
    assert_allowed(&response, LISTED);
    assert_eq!(response.header("access-control-allow-methods"), Some("GET"));
    let headers = "Authorization, Cache-Control, Content-Type, Last-Event-ID";
    assert_eq!(response.header("access-control-allow-headers"), Some(headers));
    assert_eq!(response.header("access-control-max-age"), Some("86400"));
    assert_eq!(backend.history().len(), 0);
}

#[test]
fn a_preflight_is_allowed_the_headers_that_it_requests() {
    let gateway = Gateway::builder().set("CORS_ORIGINS", LISTED).start();
    let allowed = |asked: &str| {
        let fields = format!("Access-Control-Request-Headers: {asked}\r\n");
        let response = preflight_for(&gateway, LISTED, &fields);
        assert_allowed(&response, LISTED);
        response.header("access-control-allow-headers").unwrap_or_default().to_owned()
    };
    assert_eq!(allowed("x-tenant,authorization"), "x-tenant, authorization");
    assert_eq!(allowed("x-a\r\nAccess-Control-Request-Headers: x-b"), "x-a, x-b");
    // Invalid names are left out.
    assert_eq!(allowed("x(y), \"z\", x-a"), "x-a");
    assert_eq!(allowed("x y"), "Authorization, Cache-Control, Content-Type, Last-Event-ID");
    let denied = preflight_for(&gateway, "https://b.example", "Access-Control-Request-Headers: x-a\r\n");
    assert_eq!(denied.header("access-control-allow-headers"), None);
}

#[test]
fn errors_of_requests_that_cannot_be_read_carry_it_as_well() {
    let gateway = Gateway::builder().set("CORS_ORIGINS", LISTED).set("MAX_BODY_BYTES", 10).start();
    let cookie = format!("Cookie: {}", "c".repeat(20_000));
    for (field, status) in [
        (cookie.as_str(), 431),
        ("Bad Name: x", 400),
        ("Transfer-Encoding: gzip", 501),
        ("Content-Length: 11", 413),
        ("Expect: nonsense", 417),
    ] {
        let fields = format!("\r\nOrigin: {LISTED}\r\n{field}\r\n\r\n");
        let response = gateway.request(get("/x").replacen("\r\n\r\n", &fields, 1));
        assert_error(&response, status);
        assert_allowed(&response, LISTED);
        if status != 413 && status != 417 {
            let response = gateway.request(get("/internal/send").replacen("\r\n\r\n", &fields, 1));
            assert_not_allowed(&response);
            let response = gateway.request(get("/healthz").replacen("\r\n\r\n", &fields, 1));
            assert_not_allowed(&response);
        }
    }
    let fields = format!("\r\nOrigin: https://b.example\r\n{cookie}\r\n\r\n");
    assert_not_allowed(&gateway.request(get("/x").replacen("\r\n\r\n", &fields, 1)));
}

#[test]
fn the_error_of_a_body_that_is_cut_short_carries_it_as_well() {
    let gateway = Gateway::builder().set("CORS_ORIGINS", LISTED).start();
    let request = with_origin(&get("/x").replacen("GET", "OPTIONS", 1), LISTED);
    let request = request.replacen("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 1);
    let response = gateway.request(request);
    assert_error(&response, 400);
    assert_allowed(&response, LISTED);
}

#[test]
fn the_error_of_a_request_that_does_not_come_to_its_end_carries_it_as_well() {
    let gateway = Gateway::builder()
        .set("CORS_ORIGINS", LISTED)
        .set("REQUEST_TIMEOUT_SECONDS", 1)
        .set("POST_STREAMS", "on")
        .start();
    let head = format!("GET /x HTTP/1.1\r\nHost: x\r\nOrigin: {LISTED}\r\n");
    let body = format!("{}Content-Length: 10\r\n\r\n", head.replacen("GET", "POST", 1));
    for (unfinished, has_origin) in [
        (format!("{head}Cookie: a"), true),
        (body, true),
        (head.trim_end().to_owned(), false),
        (head.replacen("/x", "/internal/send", 1), false),
    ] {
        let response = Client::open(gateway.port, &unfinished).response();
        assert_error(&response, 408);
        if has_origin {
            assert_allowed(&response, LISTED);
        } else {
            assert_not_allowed(&response);
        }
    }
}

#[test]
fn options_without_a_requested_method_is_not_a_preflight() {
    let gateway = Gateway::builder().set("CORS_ORIGINS", LISTED).start();
    let response = gateway.request(with_origin(&get("/x").replacen("GET", "OPTIONS", 1), LISTED));
    assert_eq!(response.status, 204);
    assert_eq!(response.header("allow"), Some("GET, OPTIONS"));
    assert_eq!(response.header("access-control-allow-methods"), None);
    assert_allowed(&response, LISTED);
}

#[test]
fn no_browser_may_call_internal_paths() {
    for builder in [
        Gateway::builder(),
        Gateway::builder().set("CORS_ORIGINS", "*"),
        Gateway::builder().set("CORS_ORIGINS", LISTED),
    ] {
        let gateway = builder.start();
        let send = common::send_request(r#"{"token":"x"}"#);
        for request in [send.clone(), get("/internal/unknown"), send.replacen("POST", "OPTIONS", 1)] {
            let mut client = Client::open(gateway.port, with_origin(&request, LISTED));
            let response = client.response();
            assert_error(&response, 403);
            assert_not_allowed(&response);
        }
    }
}
