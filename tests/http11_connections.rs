//! HTTP/1.1: connections with sequential and pipelined requests, in pieces of any size, and their timeouts (contract,
//! section 8).

mod common;

use common::{Backend, Client, Gateway, Stream, assert_error, assert_json, get, send_request};
use std::io::Write;
use std::time::{Duration, Instant};

const NOT_FOUND: &str = r#"{"error":"Token not found"}"#;

#[test]
fn connections_are_kept_alive() {
    let gateway = Gateway::builder().start();
    let mut client = gateway.client();
    for _ in 0..20 {
        let response = client.exchange(get("/healthz"));
        assert_eq!(response.status, 200);
        assert!(!response.closes(), "{response:?}");
        assert_json(&client.exchange(send_request(r#"{"token":"x"}"#)), 404, NOT_FOUND);
    }
}

#[test]
fn the_first_answer_of_a_kept_alive_connection_announces_its_timeout() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("KEEPALIVE_TIMEOUT_SECONDS", 42).start();
    let (_stream, token) = gateway.open_with(&backend, "/x");
    let delivered = send_request(&format!(r#"{{"token":"{token}"}}"#));
    for request in [delivered.as_str(), &send_request("{"), &get("/healthz")] {
        let mut client = gateway.client();
        assert_eq!(client.exchange(request).header("keep-alive"), Some("timeout=42"));
        for again in [request, &delivered] {
            assert_eq!(client.exchange(again).header("keep-alive"), None);
        }
        let last = request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        assert_eq!(gateway.request(last).header("keep-alive"), None);
    }
}

#[test]
fn connection_close_closes() {
    let gateway = Gateway::builder().start();
    for value in ["close", "Close", "x, close", "close , y"] {
        let request = get("/healthz").replacen("\r\n\r\n", &format!("\r\nConnection: {value}\r\n\r\n"), 1);
        let mut client = Client::open(gateway.port, request + &get("/healthz"));
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(response.closes(), "{response:?}");
        client.assert_closed();
    }
}

#[test]
fn a_delivered_send_announces_that_it_is_the_last() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (_stream, token) = gateway.open_with(&backend, "/x");
    let send = send_request(&format!(r#"{{"token":"{token}"}}"#));
    let mut client = Client::open(gateway.port, send.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1));
    let response = client.response();
    assert_eq!(response.status, 200);
    assert!(response.closes(), "{response:?}");
    client.assert_closed();
}

#[test]
fn http_1_0_closes() {
    let gateway = Gateway::builder().start();
    let body = r#"{"token":"x"}"#;
    let post = format!("POST /internal/send HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for (request, status) in [("GET /healthz HTTP/1.0\r\n\r\n", 200), (post.as_str(), 404)] {
        let mut client = Client::open(gateway.port, request);
        assert_eq!(client.response().status, status);
        client.assert_closed();
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gateway = Gateway::builder().start();
    let mut client = gateway.client();
    let mut batch = String::new();
    for _ in 0..100 {
        batch += &get("/healthz");
        batch += &send_request("{");
        batch += &get("/readyz");
        batch += &send_request(r#"{"token":"x"}"#);
    }
    client.send(batch);
    for _ in 0..100 {
        let statuses: Vec<u16> = (0..4).map(|_| client.response().status).collect();
        assert_eq!(statuses, [200, 400, 503, 404]);
    }
}

#[test]
fn a_stream_may_follow_pipelined_requests() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let request = get("/healthz") + &send_request(r#"{"token":"x"}"#) + &get("/x") + &get("/never-parsed");
    let mut client = Client::open(gateway.port, request);
    assert_eq!(client.response().status, 200);
    assert_eq!(client.response().status, 404);
    let stream = Stream::accept(client);
    assert_eq!(stream.client.buffer, b"");
    assert_eq!(backend.count("connect"), 1);
}

#[test]
fn pipelined_requests_are_answered_after_the_client_has_finished_sending() {
    let gateway = Gateway::builder().start();
    let mut client = Client::open(gateway.port, get("/healthz") + &send_request(r#"{"token":"x"}"#));
    client.half_close();
    assert_eq!(client.response().status, 200);
    assert_eq!(client.response().status, 404);
    client.assert_closed();
}

#[test]
fn an_incomplete_request_gets_no_answer_but_a_close() {
    let gateway = Gateway::builder().start();
    for cut in [
        "",
        "GET /hea",
        "GET /healthz HTTP/1.1\r\nHost: h\r\n",
        "POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{",
    ] {
        let mut client = Client::open(gateway.port, cut);
        client.half_close();
        let answer = client.rest();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    }
}

/// A request arrives in two pieces, split at every byte; the answer is the same.
fn assert_splits(request: &str, expected: (u16, &str)) {
    let request = request.as_bytes();
    let gateway = Gateway::builder().start();
    let mut clients: Vec<Client> = (0..request.len()).map(|at| Client::open(gateway.port, &request[..at])).collect();
    // The loop has read every first piece once it answers a later connection.
    assert_eq!(gateway.get("/healthz").status, 200);
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(&request[at..]);
    }
    for (at, client) in clients.iter_mut().enumerate() {
        let response = client.response();
        assert_eq!((response.status, response.text()), expected, "split at {at}");
        client.assert_open();
    }
}

#[test]
fn a_probe_may_be_split_anywhere() {
    assert_splits(
        "\r\nGET /healthz?x HTTP/1.1\r\nHost: h\r\nX-A:  b \r\nContent-Length: 2\r\n\r\nhi",
        (200, r#"{"status":"ok"}"#),
    );
}

#[test]
fn a_send_may_be_split_anywhere() {
    assert_splits(&send_request("{\"token\":\"\u{e9}\",\"event\":{\"data\":\"x\"}}"), (404, NOT_FOUND));
}

#[test]
fn a_chunked_send_may_be_split_anywhere() {
    let request = "POST /internal/send HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x=y\r\n{\"tok\r\n8\r\nen\":\"x\"}\r\n0\r\nX-Trailer: t\r\n\r\n";
    assert_splits(request, (404, NOT_FOUND));
}

#[test]
fn a_refusal_is_the_same_however_the_request_is_split() {
    let gateway = Gateway::builder().start();
    let request = "GET /x HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n";
    let mut clients: Vec<Client> = (1..request.len()).map(|at| Client::open(gateway.port, &request[..at])).collect();
    assert_eq!(gateway.get("/healthz").status, 200);
    for (client, at) in clients.iter_mut().zip(1..) {
        // It may have been refused already.
        let _ = client.try_send(&request[at..]);
    }
    for client in &mut clients {
        assert_error(&client.response(), 400);
        client.assert_closed();
    }
}

#[test]
fn a_request_byte_by_byte_is_a_request() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let mut client = gateway.client();
    let mut other = gateway.client();
    for byte in get("/drip").as_bytes() {
        client.send([*byte]);
        other.assert_open();
    }
    Stream::accept(client);
    backend.connect("/drip");
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let gateway = Gateway::builder().set("KEEPALIVE_TIMEOUT_SECONDS", 1).start();
    let start = Instant::now();
    let mut client = Client::open(gateway.port, get("/healthz"));
    assert_eq!(client.response().status, 200);
    client.assert_closed();
    let elapsed = start.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn a_request_that_takes_too_long_ends_with_408_or_a_close() {
    let gateway = Gateway::builder().set("REQUEST_TIMEOUT_SECONDS", 1).start();
    let starts = [
        "",
        "G",
        "GET /x HTTP/1.1\r\nHost: h\r\n",
        "POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{",
    ];
    let mut clients: Vec<Client> = starts.iter().map(|start| Client::open(gateway.port, start)).collect();
    // On a kept-alive connection the time runs from the first byte of the request.
    let mut kept = gateway.client();
    kept.assert_open();
    let start = Instant::now();
    kept.send("GET /x");
    clients.push(kept);
    for client in &mut clients {
        let answer = client.rest();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    }
    let elapsed = start.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn the_time_for_a_request_is_absolute() {
    let gateway = Gateway::builder().set("REQUEST_TIMEOUT_SECONDS", 1).start();
    let mut client = Client::open(gateway.port, "GET /x HTTP/1.1\r\nHost: h\r\nX: ");
    let start = Instant::now();
    // An occasional byte does not extend the time.
    let mut socket = client.socket().try_clone().expect("a second handle");
    let dripping = std::thread::spawn(move || {
        while socket.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert_error(&client.response(), 408);
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    client.half_close();
    dripping.join().expect("a closed side takes no more");
}

#[test]
fn neither_time_applies_to_a_stream() {
    let backend = Backend::accepting();
    let builder = Gateway::for_backend(&backend).set("REQUEST_TIMEOUT_SECONDS", 1).set("KEEPALIVE_TIMEOUT_SECONDS", 1);
    let gateway = builder.start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    // This connection lives exactly the minimum time of the stream.
    gateway.client().assert_closed();
    let mut idle = gateway.client();
    idle.assert_open();
    idle.assert_closed();
    assert_eq!(gateway.event(&token, "x").status, 200);
    assert_eq!(stream.frame(), "data: x\n\n");
}

/// A GET of `/healthz` whose head has exactly this many bytes, the blank line included.
fn head_of(bytes: usize) -> String {
    let bare = get("/healthz").replacen("\r\n\r\n", "\r\nX: \r\n\r\n", 1);
    bare.replacen("X: ", &format!("X: {}", "x".repeat(bytes - bare.len())), 1)
}

#[test]
fn a_head_over_the_limit_is_refused() {
    let gateway = Gateway::builder().set("MAX_HEADER_BYTES", 1024).start();
    gateway.client().assert_open();
    let mut client = Client::open(gateway.port, head_of(1024));
    assert_eq!(client.response().status, 200, "exactly the limit");
    let mut client = Client::open(gateway.port, head_of(1025));
    assert_error(&client.response(), 431);
    client.assert_closed();
    let mut client = Client::open(gateway.port, "GET /".to_owned() + &"x".repeat(2000));
    assert_error(&client.response(), 431);
    client.assert_closed();
}

#[test]
fn the_default_limit_of_a_head_is_16_kib() {
    let gateway = Gateway::builder().start();
    assert_eq!(Client::open(gateway.port, head_of(16 * 1024)).response().status, 200);
    assert_error(&Client::open(gateway.port, head_of(16 * 1024 + 1)).response(), 431);
}

#[test]
fn a_refusal_is_readable_after_far_more_than_a_head() {
    let gateway = Gateway::builder().set("MAX_HEADER_BYTES", 128 * 1024).start();
    for start in ["GET /", "GET / HTTP/1.1\r\nHost: h\r\nX: "] {
        let mut client = Client::open(gateway.port, start.to_owned() + &"x".repeat(3_000_000));
        assert_error(&client.response(), 431);
        client.assert_closed();
    }
    let malformed = format!("{}\r\n bad: y\r\n\r\n", head_of(120_000).trim_end());
    let mut client = Client::open(gateway.port, malformed);
    assert_error(&client.response(), 400);
    client.assert_closed();
}

#[test]
fn more_than_256_fields_are_refused() {
    let gateway = Gateway::builder().start();
    let fields = |count: usize| {
        get("/healthz").replacen("\r\n\r\n", &("\r\n".to_owned() + &"x: y\r\n".repeat(count - 1) + "\r\n"), 1)
    };
    assert_eq!(gateway.request(fields(256)).status, 200, "Host is one of them");
    let mut client = Client::open(gateway.port, fields(257));
    assert_error(&client.response(), 431);
    client.assert_closed();
}
