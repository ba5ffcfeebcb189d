//! HTTP/1.1: framing of request bodies (contract, section 8; RFC 9112 sections 6 and 7).

mod common;

use common::{Backend, Client, Gateway, Stream, assert_error, assert_json, get, send_request};

const NOT_FOUND: &str = r#"{"error":"Token not found"}"#;

/// A send with these framing fields and this body.
fn send_framed(fields: &str, rest: &str) -> String {
    format!("POST /internal/send HTTP/1.1\r\nHost: h\r\n{fields}\r\n{rest}")
}

#[track_caller]
fn assert_refused(statuses: &[u16], requests: &[String]) {
    let gateway = Gateway::builder().start();
    for request in requests {
        let mut client = Client::open(gateway.port, request);
        let head = client.try_read_until(b"\r\n\r\n").unwrap_or_else(|| panic!("no answer to {request:?}"));
        client.buffer.splice(0..0, head);
        let response = client.response();
        assert!(statuses.contains(&response.status), "{request:?}: {response:?}");
        assert_error(&response, response.status);
        client.assert_closed();
    }
}

#[test]
fn a_length_with_a_coding_is_refused() {
    let body = "2\r\n{}\r\n0\r\n\r\n";
    let refused =
        ["Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 12\r\n"];
    assert_refused(&[400], &refused.map(|fields| send_framed(fields, body)));
}

#[test]
fn lengths_that_are_not_a_single_number_are_refused() {
    let values =
        ["+2", "-2", "", " ", "0x2", "2.0", "2 2", "two", "2;", "18446744073709551616", "99999999999999999999999999"];
    for value in values {
        assert_refused(&[400], &[send_framed(&format!("Content-Length: {value}\r\n"), "{}")]);
    }
    assert_refused(&[400], &[send_framed("Content-Length: 2\r\nContent-Length: 3\r\n", "{}")]);
    assert_refused(&[400], &[send_framed("Content-Length: 2, 3\r\n", "{}")]);
}

#[test]
fn two_equal_lengths_never_have_two_meanings() {
    let gateway = Gateway::builder().start();
    let body = r#"{"token":"x"}"#;
    let fields = format!("Content-Length: {0}\r\nContent-Length: {0}\r\n", body.len());
    let mut client = Client::open(gateway.port, send_framed(&fields, body) + &get("/healthz"));
    let response = client.response();
    if response.status == 400 {
        client.assert_closed();
    } else {
        assert_json(&response, 404, NOT_FOUND);
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn another_coding_than_chunked_is_refused() {
    let body = "2\r\n{}\r\n0\r\n\r\n";
    for value in ["gzip", "gzip, chunked", "br", "identity", "xchunked"] {
        assert_refused(&[501, 400], &[send_framed(&format!("Transfer-Encoding: {value}\r\n"), body)]);
    }
    assert_refused(&[501], &[send_framed("Transfer-Encoding: unknown\r\n", body)]);
    for fields in [
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
    ] {
        assert_refused(&[400, 501], &[send_framed(fields, body)]);
    }
}

#[test]
fn a_coding_in_http_1_0_is_refused() {
    let request = "POST /internal/send HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    assert_refused(&[400], &[request.to_owned()]);
}

#[test]
fn bad_chunks_are_refused() {
    for chunks in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}XX0\r\n\r\n",
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "ffffffffffffffffff\r\n{}\r\n",
        "1\r{}\r\n0\r\n\r\n",
        "2;a=\nb\r\n{}\r\n0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
    ] {
        assert_refused(&[400], &[send_framed("Transfer-Encoding: chunked\r\n", chunks)]);
    }
}

#[test]
fn chunked_bodies_are_read() {
    let gateway = Gateway::builder().start();
    let mut client = gateway.client();
    for chunks in [
        "d\r\n{\"token\":\"x\"}\r\n0\r\n\r\n",
        "5\r\n{\"tok\r\n8\r\nen\":\"x\"}\r\n0\r\n\r\n",
        "D;name=value;flag\r\n{\"token\":\"x\"}\r\n000;last\r\n\r\n",
        "00000d\r\n{\"token\":\"x\"}\r\n0\r\nX-Trailer: ignored\r\nContent-Length: 5\r\n\r\n",
    ] {
        assert_json(&client.exchange(send_framed("Transfer-Encoding: chunked\r\n", chunks)), 404, NOT_FOUND);
    }
    let single: String = r#"{"token":"x"}"#.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let request = send_framed("Transfer-Encoding: chunked\r\n", &(single + "0\r\n\r\n"));
    client.send(request.repeat(3) + &get("/healthz"));
    for _ in 0..3 {
        assert_json(&client.response(), 404, NOT_FOUND);
    }
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_post_without_a_length_has_no_body() {
    let gateway = Gateway::builder().start();
    let mut client = Client::open(gateway.port, send_framed("", "") + &get("/healthz"));
    let response = client.response();
    assert!(matches!(response.status, 400 | 411), "{response:?}");
    if !response.closes() {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn the_body_of_a_get_is_consumed_and_never_parsed() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let smuggled = get("/smuggled");
    let fields = format!("\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    let mut client = gateway.client();
    client.send(get("/healthz").replacen("\r\n\r\n", &fields, 1) + &get("/readyz"));
    assert_json(&client.response(), 200, r#"{"status":"ok"}"#);
    assert_json(&client.response(), 200, r#"{"status":"ready","configured":true}"#);
    client.send(get("/x").replacen("\r\n\r\n", &fields, 1));
    let mut stream = Stream::accept(client);
    let token = backend.connect("/x").token().to_owned();
    assert_eq!(gateway.event(&token, "fine").status, 200);
    assert_eq!(stream.frame(), "data: fine\n\n");
    assert_eq!(backend.count("connect"), 1);
}

#[test]
fn the_body_of_a_request_decided_at_its_head_is_consumed() {
    let gateway = Gateway::builder().set("INTERNAL_TOKEN", "opensesame").start();
    let mut client = gateway.client();
    let smuggled = get("/x");
    for (head, status) in [
        ("POST /x HTTP/1.1\r\nHost: h\r\n", 405),
        ("POST /internal/send HTTP/1.1\r\nHost: h\r\n", 401),
        ("POST /internal/send HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\n", 403),
        ("POST /internal/x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer opensesame\r\n", 404),
        ("PUT /internal/send HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer opensesame\r\n", 405),
        (
            "POST /internal/send HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer opensesame\r\nContent-Encoding: gzip\r\n",
            415,
        ),
    ] {
        let request = format!("{head}Content-Length: {}\r\n\r\n{smuggled}", smuggled.len());
        assert_error(&client.exchange(request), status);
    }
    client.assert_open();
}

#[test]
fn continue_is_sent_before_the_body_is_read() {
    let gateway = Gateway::builder().start();
    let mut client = gateway.client();
    let body = r#"{"token":"x"}"#;
    for expectation in ["100-continue", "100-Continue"] {
        client.send(send_framed(&format!("Expect: {expectation}\r\nContent-Length: {}\r\n", body.len()), ""));
        let interim = client.head();
        assert_eq!((interim.status_line.as_str(), interim.headers.len()), ("HTTP/1.1 100 Continue", 0));
        assert_json(&client.exchange(body), 404, NOT_FOUND);
    }
    client.assert_open();
}

#[test]
fn continue_is_not_sent_for_a_body_that_is_refused() {
    let gateway = Gateway::builder().set("MAX_BODY_BYTES", 100).start();
    let mut client = Client::open(gateway.port, send_framed("Expect: 100-continue\r\nContent-Length: 101\r\n", ""));
    assert_error(&client.response(), 413);
    client.assert_closed();
}

#[test]
fn another_expectation_fails() {
    let gateway = Gateway::builder().start();
    let mut client = Client::open(gateway.port, send_framed("Expect: 200-ok\r\nContent-Length: 2\r\n", "{}"));
    assert_error(&client.response(), 417);
    client.assert_closed();
    for target in ["/healthz", "/x", "/internal/metrics"] {
        let request = get(target).replacen("\r\n\r\n", "\r\nExpect: nonsense\r\n\r\n", 1);
        assert_error(&gateway.request(request), 417);
    }
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let gateway = Gateway::builder().set("MAX_BODY_BYTES", 1000).start();
    let head = send_framed("Content-Length: 1001\r\n", "");
    let mut client = Client::open(gateway.port, head);
    assert_error(&client.response(), 413);
    client.assert_closed();
    let padded = format!("{{\"token\":\"x\"{}}}", " ".repeat(1000 - 13));
    assert_eq!(padded.len(), 1000);
    assert_json(&gateway.request(send_request(&padded)), 404, NOT_FOUND);
}

#[test]
fn a_chunked_body_over_the_limit_is_refused() {
    let gateway = Gateway::builder().set("MAX_BODY_BYTES", 1000).start();
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", " ".repeat(size));
    let fits = send_framed(
        "Transfer-Encoding: chunked\r\n",
        &format!("{}d\r\n{{\"token\":\"x\"}}\r\n0\r\n\r\n", chunk(1000 - 13)),
    );
    assert_json(&gateway.request(fits), 404, NOT_FOUND);
    let one_more = send_framed(
        "Transfer-Encoding: chunked\r\n",
        &format!("{}d\r\n{{\"token\":\"x\"}}\r\n0\r\n\r\n", chunk(1001 - 13)),
    );
    let mut client = Client::open(gateway.port, one_more);
    assert_error(&client.response(), 413);
    client.assert_closed();
}

#[test]
fn a_chunk_that_cannot_fit_is_refused_before_it_is_read() {
    let gateway = Gateway::builder().set("MAX_BODY_BYTES", 1000).start();
    let mut client = Client::open(gateway.port, send_framed("Transfer-Encoding: chunked\r\n", "fffffff\r\n"));
    assert_error(&client.response(), 413);
    client.assert_closed();
}

#[test]
fn a_refusal_is_readable_while_the_client_is_still_sending() {
    let gateway = Gateway::builder().set("MAX_BODY_BYTES", 1000).start();
    for _ in 0..10 {
        let mut client = gateway.client();
        client.send(send_framed("Content-Length: 60000\r\n", ""));
        // The gateway may close at any point of the body.
        for _ in 0..60 {
            client.send([b'x'; 1000]);
        }
        assert_error(&client.response(), 413);
        client.assert_closed();
    }
}

#[test]
fn the_body_of_a_get_has_the_same_limit() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_BODY_BYTES", 1000).start();
    let framed = |target: &str, fields: &str| get(target).replacen("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"), 1);
    for target in ["/x", "/healthz", "/internal/metrics"] {
        for length in [1001, u64::MAX] {
            let mut client = Client::open(gateway.port, framed(target, &format!("Content-Length: {length}")));
            assert_error(&client.response(), 413);
            client.assert_closed();
        }
    }
    let options = framed("*", "Content-Length: 1001").replacen("GET", "OPTIONS", 1);
    assert_error(&gateway.request(options), 413);
    let mut client = Client::open(gateway.port, framed("/healthz", "Transfer-Encoding: chunked") + "3e9\r\n");
    assert_error(&client.response(), 413);
    client.assert_closed();
    assert_eq!(backend.history().len(), 0, "no callback was made");
    // The error decided by the head takes precedence.
    assert_error(&gateway.request(framed("/internal/nothing", "Content-Length: 1001")), 404);
    let mut stream =
        Stream::accept(Client::open(gateway.port, framed("/x", "Content-Length: 1000") + &"x".repeat(1000)));
    let token = backend.connect("/x").token().to_owned();
    assert_eq!(gateway.event(&token, "fine").status, 200);
    assert_eq!(stream.frame(), "data: fine\n\n");
}

#[test]
fn a_chunked_body_of_a_streams_get_has_the_same_limit() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_BODY_BYTES", 50_000).start();
    let head = get("/x").replacen("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n", 1);
    let half = format!("61a8\r\n{}\r\n", "x".repeat(25_000));
    for too_long in [format!("{half}{half}1\r\nx\r\n0\r\n\r\n"), "c351\r\n".to_owned()] {
        let mut client = Client::open(gateway.port, format!("{head}{too_long}"));
        assert_error(&client.response(), 413);
        client.assert_closed();
    }
    let mut client = Client::open(gateway.port, format!("{head}zz\r\n"));
    assert_error(&client.response(), 400);
    assert_eq!(backend.history().len(), 0, "no callback was made");
    // In pieces, and at the limit.
    let mut client = Client::open(gateway.port, &head);
    client.send(&half);
    client.send(&half);
    client.send("0\r\n\r\n");
    let mut stream = Stream::accept(client);
    let token = backend.connect("/x").token().to_owned();
    assert_eq!(gateway.event(&token, "fine").status, 200);
    assert_eq!(stream.frame(), "data: fine\n\n");
    // It does not count as input behind the request.
    let mut empty = Stream::accept(Client::open(gateway.port, format!("{}0\r\n\r\n", head.replacen("/x", "/y", 1))));
    let token = backend.connect("/y").token().to_owned();
    empty.client.send("x".repeat(8 * 1024));
    assert_eq!(gateway.event(&token, "fine").status, 200);
    assert_eq!(empty.frame(), "data: fine\n\n");
    let _ = empty.client.try_send("x");
    assert_eq!(backend.disconnect(&token).detail(), Some("excess_input"));
}

/// As most clients do, these two write the whole request before they read.
#[test]
fn a_refusal_is_readable_however_much_input_follows() {
    let gateway = Gateway::builder().start();
    let body = vec![b'x'; 10_000_000];
    for head in [
        send_framed(&format!("Content-Length: {}\r\n", body.len()), ""),
        get("/internal/nothing").replacen("\r\n\r\n", &format!("\r\nContent-Length: {}\r\n\r\n", body.len()), 1),
    ] {
        let expected = if head.contains("nothing") { 404 } else { 413 };
        let mut client = Client::open(gateway.port, head);
        client.send(&body);
        assert_error(&client.response(), expected);
        client.assert_closed();
    }
}

#[test]
fn an_ignored_chunked_body_has_the_same_limit() {
    let gateway = Gateway::builder().set("MAX_BODY_BYTES", 1000).start();
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", " ".repeat(size));
    let head = get("/internal/nothing").replacen("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n", 1);
    let mut client = Client::open(gateway.port, format!("{head}{}{}0\r\n\r\n", chunk(990), chunk(10)));
    assert_error(&client.response(), 404);
    client.assert_open();
    let mut client = Client::open(gateway.port, format!("{head}{}{}", chunk(990), chunk(11)));
    let response = client.response();
    assert_error(&response, 404);
    assert_eq!(response.header("connection"), Some("close"));
    client.assert_closed();
}

#[test]
fn the_default_limit_is_a_mebibyte() {
    let gateway = Gateway::builder().start();
    let padded = format!("{{\"token\":\"x\"{}}}", " ".repeat(1024 * 1024 - 13));
    assert_json(&gateway.request(send_request(&padded)), 404, NOT_FOUND);
    assert_error(&gateway.request(send_framed("Content-Length: 1048577\r\n", "")), 413);
}
