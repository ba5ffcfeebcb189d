//! HTTP/1.1: requests that are refused, and methods (contract, section 8; RFC 9112).

mod common;

use common::{Backend, Client, Gateway, assert_error, get, post};

/// Each of these is answered with the status and a JSON error, then the connection closes; no callback is made.
#[track_caller]
fn assert_refused(statuses: &[u16], requests: &[&[u8]]) {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    for request in requests {
        let shown = String::from_utf8_lossy(request);
        let mut client = Client::open(gateway.port, request);
        let head = client.try_read_until(b"\r\n\r\n").unwrap_or_else(|| panic!("no answer to {shown:?}"));
        client.buffer.splice(0..0, head);
        let response = client.response();
        assert!(statuses.contains(&response.status), "{shown:?}: {response:?}");
        assert_error(&response, response.status);
        client.assert_closed();
    }
    assert_eq!(backend.history().len(), 0, "no callback");
}

#[test]
fn exactly_one_host_is_required() {
    assert_refused(
        &[400],
        &[
            b"GET /x HTTP/1.1\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nX: y\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: a\r\nHOST: a\r\n\r\n",
        ],
    );
}

#[test]
fn broken_header_fields_are_refused() {
    assert_refused(
        &[400],
        &[
            b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\r\n\tb\r\n\r\n",
            b"GET /x HTTP/1.1\r\n Host: h\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX\t: a\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\n: no name\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX(Y): a\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX\xc3\xa9: a\r\n\r\n",
        ],
    );
}

#[test]
fn bare_line_breaks_and_nul_are_refused() {
    assert_refused(
        &[400],
        &[
            b"GET /x HTTP/1.1\nHost: h\n\n",
            b"GET /x HTTP/1.1\r\nHost: h\nX: a\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\nY: b\r\n\r\n",
            b"GET /x HTTP/1.1\nHost: h\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
            b"GET /x HTTP/1.1\rHost: h\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
            b"GET /x\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\nX\x00: a\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: h\r\n\n",
        ],
    );
}

#[test]
fn broken_request_lines_are_refused() {
    assert_refused(
        &[400],
        &[
            b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET  /x HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /x  HTTP/1.1\r\nHost: h\r\n\r\n",
            b" GET /x HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET\t/x HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /\x1b HTTP/1.1\r\nHost: h\r\n\r\n",
            b"get /x HTTP/1.1\r\nHost: h\r\n\r\n",
            b"Get /x HTTP/1.1\r\nHost: h\r\n\r\n",
            b"G@T /x HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET HTTP/1.1\r\nHost: h\r\n\r\n",
            b"/x HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /x\r\nHost: h\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET foo HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /x HTTP/1.1 \r\nHost: h\r\n\r\n",
            b"GET /x http/1.1\r\nHost: h\r\n\r\n",
        ],
    );
}

#[test]
fn other_protocols_are_refused_at_once() {
    assert_refused(
        &[400],
        &[
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x00\x00\x00\x00",
        ],
    );
}

#[test]
fn another_version_is_not_supported() {
    assert_refused(
        &[505],
        &[
            b"GET /x HTTP/1.2\r\nHost: h\r\n\r\n",
            b"GET /x HTTP/2.0\r\nHost: h\r\n\r\n",
            b"GET /x HTTP/3.0\r\nHost: h\r\n\r\n",
            b"POST /internal/send HTTP/1.9\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
        ],
    );
    assert_refused(&[400, 505], &[b"GET /x HTTP/0.9\r\nHost: h\r\n\r\n", b"GET /x HTTP/1.11\r\nHost: h\r\n\r\n"]);
}

#[test]
fn nothing_is_served_after_a_refusal() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let request = format!("GET /x HTTP/1.1\r\n\r\n{}{}", get("/healthz"), get("/x"));
    let mut client = Client::open(gateway.port, request);
    assert_error(&client.response(), 400);
    client.assert_closed();
    assert_eq!(backend.history().len(), 0);
}

#[test]
fn a_few_line_breaks_before_a_request_are_skipped() {
    let gateway = Gateway::builder().start();
    let mut client = gateway.client();
    for _ in 0..3 {
        assert_eq!(client.exchange("\r\n\r\n".to_owned() + &get("/healthz")).status, 200);
    }
}

#[test]
fn other_methods_on_a_stream_path_are_not_allowed() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW", "M-SEARCH"] {
        let mut client = Client::open(gateway.port, get("/x").replacen("GET", method, 1));
        let response = client.response();
        assert_error(&response, 405);
        let allow = response.header("allow").expect("Allow");
        assert!(allow.contains("GET") && !allow.contains("POST"), "{allow}");
    }
    let mut client = Client::open(gateway.port, get("/x").replacen("GET", "HEAD", 1));
    let head = client.head();
    assert_eq!(head.status, 405);
    assert!(head.header("allow").is_some_and(|allow| allow.contains("GET")), "{head:?}");
    client.assert_open();
    assert_eq!(backend.history().len(), 0, "no callback");
}

#[test]
fn a_refused_method_leaves_the_connection_usable() {
    let gateway = Gateway::builder().start();
    let mut client = gateway.client();
    assert_error(&client.exchange(post("/x", "a body that is consumed")), 405);
    assert_error(&client.exchange(post("/internal/unknown", "{}")), 404);
    client.assert_open();
}

#[test]
fn internal_paths_have_their_own_methods() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
        let mut client = Client::open(gateway.port, get("/internal/send").replacen("GET", method, 1));
        let head = client.head();
        assert_eq!(head.status, 405, "{method}");
        assert!(head.header("allow").is_some_and(|allow| allow.contains("POST")), "{head:?}");
    }
    for target in ["/internal/unknown", "/internal/send//", "/internal/sendx", "/internal//send"] {
        for request in [get(target), post(target, "{}")] {
            assert_error(&gateway.request(request), 404);
        }
    }
    assert_eq!(backend.history().len(), 0, "no callback");
}

#[test]
fn options_lists_the_allowed_methods() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    for (target, allow) in [
        ("/x", "GET, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/internal/send", "POST, OPTIONS"),
        ("/internal/metrics", "GET, OPTIONS"),
        ("/internal/connections", "GET, OPTIONS"),
        ("*", "GET, HEAD, POST, OPTIONS"),
    ] {
        let mut client = Client::open(gateway.port, get(target).replacen("GET", "OPTIONS", 1));
        let response = client.response();
        assert_eq!(response.status, 204, "{target}: {response:?}");
        assert_eq!(response.header("allow"), Some(allow), "{target}");
        assert_eq!(response.header("access-control-allow-origin"), None);
        client.assert_open();
    }
    assert_eq!(backend.history().len(), 0, "no callback");
}
