//! The client's answer for each outcome of a connect callback (contract, section 3, points 3 and 5).

mod common;

use common::{Answer, Backend, Client, Gate, Gateway, Port, Step, Stream, assert_json, get};
use std::time::{Duration, Instant};

const UNAVAILABLE: &str = r#"{"error":"Backend unavailable"}"#;
const TIMEOUT: &str = r#"{"error":"Gateway timeout"}"#;

/// The answer to a GET if the backend answers its connect like this.
fn outcome(answer: Answer) -> common::Response {
    let backend = Backend::connecting(answer);
    Gateway::start(&backend).get("/x")
}

/// A gateway with a callback timeout of one second.
fn impatient(backend: &Backend) -> Gateway {
    Gateway::for_backend(backend).set("CALLBACK_TIMEOUT_SECONDS", 1).start()
}

/// Asserts that this answer accepts, and that the stream works.
#[track_caller]
fn accepts(answer: Answer) {
    let backend = Backend::connecting(answer);
    let gateway = impatient(&backend);
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    assert_eq!(gateway.event(&token, "after").status, 200);
    assert_eq!(stream.frame(), "data: after\n\n");
    drop(stream);
    assert_eq!(backend.disconnect(&token).reason(), "client_closed");
    assert_eq!(backend.count("connect"), 1);
}

#[test]
fn any_2xx_opens_the_stream() {
    for status in [200, 201, 202, 206, 299] {
        accepts(Answer::status(status));
    }
    accepts(Answer::raw("HTTP/1.1 204 No Content\r\n\r\n"));
}

#[test]
fn any_other_status_is_passed_on() {
    for status in [300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 410, 429, 499, 500, 502, 503, 504, 599] {
        let response = outcome(Answer::status(status));
        assert_json(&response, status, &format!(r#"{{"error":"Backend returned {status}"}}"#));
    }
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = Backend::accepting();
    let location = elsewhere.url();
    let response = outcome(Answer::new(302, &[("Location", &location)], ""));
    assert_json(&response, 302, r#"{"error":"Backend returned 302"}"#);
    assert_eq!(response.header("location"), None);
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn retry_after_and_www_authenticate_are_passed_on_and_nothing_else() {
    let headers = [
        ("Retry-After", "120"),
        ("WWW-Authenticate", "Basic realm=\"a, b\""),
        ("WWW-Authenticate", "Bearer"),
        ("Set-Cookie", "a=b"),
        ("X-Secret", "internal"),
        ("Content-Type", "text/html"),
    ];
    let response = outcome(Answer::new(401, &headers, "<h1>no</h1>"));
    assert_json(&response, 401, r#"{"error":"Backend returned 401"}"#);
    assert_eq!(response.header("retry-after"), Some("120"));
    assert_eq!(response.header_values("www-authenticate"), ["Basic realm=\"a, b\"", "Bearer"]);
    assert_eq!((response.header("set-cookie"), response.header("x-secret")), (None, None));
}

#[test]
fn the_body_of_a_rejection_is_ignored() {
    let event = r#"{"event":{"data":"x"}}"#;
    assert_json(&outcome(Answer::new(403, &[], event)), 403, r#"{"error":"Backend returned 403"}"#);
    let large = "x".repeat(2 * 1024 * 1024);
    assert_json(&outcome(Answer::new(403, &[], &large)), 403, r#"{"error":"Backend returned 403"}"#);
    let cut = Answer::raw("HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\nshort").then(Step::Close);
    assert_json(&outcome(cut), 403, r#"{"error":"Backend returned 403"}"#);
}

#[test]
fn a_rejected_client_may_keep_using_its_connection() {
    let backend = Backend::connecting(Answer::status(403));
    let gateway = Gateway::start(&backend);
    let mut client = gateway.client();
    let response = client.exchange(get("/x"));
    assert_eq!(response.status, 403);
    if !response.closes() {
        client.assert_open();
    } else {
        client.assert_closed();
    }
}

#[test]
fn a_refused_connection_is_unavailable() {
    let nobody = Port::reserve();
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{nobody}/")).start();
    assert_json(&gateway.get("/x"), 503, UNAVAILABLE);
}

#[test]
fn a_name_that_does_not_resolve_is_unavailable() {
    // A label of more than 63 bytes fails in the resolver itself, without a query.
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://{}/", "a".repeat(64))).start();
    assert_json(&gateway.get("/x"), 503, UNAVAILABLE);
    assert_json(&gateway.get("/x"), 503, UNAVAILABLE);
}

#[test]
fn localhost_resolves() {
    let backend = Backend::accepting();
    let url = format!("http://localhost:{}/", backend.port);
    let gateway = Gateway::builder().set("CALLBACK_URL", url).start();
    gateway.open("/x");
}

#[test]
fn a_reset_or_a_close_without_an_answer_is_unavailable_and_not_retried() {
    for answer in [Answer::reset(), Answer::close()] {
        let backend = Backend::connecting(answer);
        let mut gateway = Gateway::start(&backend);
        assert_json(&gateway.get("/x"), 503, UNAVAILABLE);
        gateway.drain();
        assert_eq!(backend.count("connect"), 1, "a fresh connection is never retried");
    }
}

#[test]
fn garbage_is_unavailable() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "<html>hello</html>\r\n\r\n",
    ] {
        let response = outcome(Answer::raw(garbage).then(Step::Close));
        assert_json(&response, 503, UNAVAILABLE);
    }
    let half = Answer::raw("HTTP/1.1 200 OK\r\nContent-Le").then(Step::Close);
    assert_json(&outcome(half), 503, UNAVAILABLE);
}

#[test]
fn a_head_that_is_too_long_is_named_with_its_size() {
    let long = format!("X: {}\r\n", "x".repeat(20_000));
    let many = "X: y\r\n".repeat(200);
    for (fields, limit, sizes) in [(long, "16384 bytes", 16_385..=20_024), (many, "128 fields", 1219..=1219)] {
        let backend = Backend::connecting(Answer::raw(format!("HTTP/1.1 200 OK\r\n{fields}\r\n")));
        let gateway = Gateway::start(&backend);
        assert_json(&gateway.get("/x"), 503, UNAVAILABLE);
        let line = gateway.log_line(&["connect callback failed", "written=true"]);
        let size = line
            .split_once(&format!("the answer's head has more than {limit} ("))
            .and_then(|(_, rest)| rest.split_once(' '));
        assert!(size.is_some_and(|(size, _)| sizes.contains(&size.parse().expect("a number"))), "{line}");
        assert!(line.contains("cookies") && !line.contains("https"), "{line}");
    }
}

#[test]
fn a_408_at_the_end_of_an_idle_time_reaches_no_client() {
    let stray = Answer::raw("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n").then(Step::Close);
    let backend = Backend::new(move |call| if call.ordinal > 0 { stray.clone() } else { Answer::ok() });
    let gateway = Gateway::start(&backend);
    let _first = gateway.open("/first");
    let (_second, token) = gateway.open_with(&backend, "/second");
    assert_eq!(backend.connect("/second").token(), token);
    assert_json(&outcome(Answer::status(408)), 408, r#"{"error":"Backend returned 408"}"#);
}

#[test]
fn silence_is_a_timeout() {
    let backend = Backend::connecting(Answer::silence());
    let gateway = impatient(&backend);
    let start = Instant::now();
    assert_json(&gateway.get("/x"), 504, TIMEOUT);
    let elapsed = start.elapsed();
    assert!((Duration::from_millis(950)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn a_slow_head_is_a_timeout() {
    let backend = Backend::connecting(Answer::raw("HTTP/1.1 200 OK\r\nX-Drip: ").then(Step::Drip(b"x")));
    let gateway = impatient(&backend);
    assert_json(&gateway.get("/x"), 504, TIMEOUT);
}

#[test]
fn a_backend_that_never_accepts_a_connection_is_a_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let url = format!("http://127.0.0.1:{port}/");
    let gateway = Gateway::builder().set("CALLBACK_URL", url).set("CALLBACK_TIMEOUT_SECONDS", 1).start();
    assert_json(&gateway.get("/x"), 504, TIMEOUT);
}

#[test]
fn without_a_callback_url_nothing_is_configured() {
    for builder in [Gateway::builder(), Gateway::builder().set("CALLBACK_URL", "")] {
        assert_json(&builder.start().get("/x"), 503, r#"{"error":"Service not configured"}"#);
    }
}

#[test]
fn a_2xx_head_decides_though_its_body_is_late() {
    accepts(Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{\"event\"").then(Step::Hang));
}

#[test]
fn a_2xx_head_decides_though_its_chunks_are_late() {
    accepts(Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").then(Step::Hang));
}

#[test]
fn a_2xx_head_decides_though_its_body_drips() {
    accepts(Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").then(Step::Drip(b" ")));
}

#[test]
fn a_2xx_head_decides_though_its_body_is_cut_short() {
    accepts(
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n{\"event\":{\"data\":\"x\"}}").then(Step::Close),
    );
    accepts(Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"e").then(Step::Reset));
    accepts(Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").then(Step::Close));
}

#[test]
fn a_2xx_head_decides_though_its_body_is_too_long() {
    let data = "x".repeat(1024 * 1024);
    accepts(Answer::json(&format!(r#"{{"event":{{"data":"{data}"}}}}"#)));
}

#[test]
fn a_2xx_head_decides_though_its_body_is_malformed() {
    for body in ["{", "null", "[1]", "<html>", "\"text\"", "\u{1}\u{2}", r#"{"event":5,"close":"yes"}"#] {
        accepts(Answer::json(body));
    }
    accepts(Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xfe{".to_vec()));
}

#[test]
fn a_large_answer_within_the_limit_is_delivered() {
    let data = "x".repeat(1_000_000);
    let backend = Backend::connecting(Answer::json(&format!(r#"{{"event":{{"data":"{data}"}}}}"#)));
    let gateway = Gateway::start(&backend);
    assert_eq!(gateway.open("/x").frame().len(), "data: \n\n".len() + data.len());
}

#[test]
fn the_answer_may_be_chunked_or_end_with_its_connection() {
    let body = r#"{"event":{"data":"hello"}}"#;
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x};ext=1\r\n{}\r\n{:x}\r\n{}\r\n0\r\nX-Trailer: t\r\n\r\n",
        10,
        &body[..10],
        body.len() - 10,
        &body[10..]
    );
    let until_close = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}");
    for answer in [Answer::raw(chunked), Answer::raw(until_close).then(Step::Close)] {
        let backend = Backend::connecting(answer);
        let gateway = Gateway::start(&backend);
        assert_eq!(gateway.open("/x").frame(), "data: hello\n\n");
    }
}

#[test]
fn interim_answers_are_skipped() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    accepts(Answer::raw(format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")));
    let response = outcome(Answer::raw(format!("{interim}HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")));
    assert_json(&response, 403, r#"{"error":"Backend returned 403"}"#);
    let backend = Backend::connecting(Answer::raw("HTTP/1.1 100 Continue\r\n\r\n").then(Step::Hang));
    assert_json(&impatient(&backend).get("/x"), 504, TIMEOUT);
}

#[test]
fn a_stale_kept_alive_connection_is_retried_once_with_the_same_token() {
    for stale in [Answer::close(), Answer::reset()] {
        let backend = Backend::new(move |call| if call.ordinal > 0 { stale.clone() } else { Answer::ok() });
        let gateway = Gateway::start(&backend);
        let (_first, _) = gateway.open_with(&backend, "/first");
        let (_second, token) = gateway.open_with(&backend, "/second");
        let again = backend.connect("/second");
        assert_eq!((again.token(), again.connection), (token.as_str(), 1));
        assert_eq!(backend.count("connect"), 3);
        assert_eq!(gateway.event(&token, "x").status, 200);
    }
}

#[test]
fn the_retry_is_not_retried() {
    let backend = Backend::new(|call| if call.url() == "/first" { Answer::ok() } else { Answer::close() });
    let mut gateway = Gateway::start(&backend);
    let _first = gateway.open("/first");
    assert_json(&gateway.get("/second"), 503, UNAVAILABLE);
    gateway.drain();
    let tries = backend.history().iter().filter(|call| call.action() == "connect" && call.url() == "/second").count();
    assert_eq!(tries, 2, "once on the kept-alive connection, once on a fresh one");
}

#[test]
fn a_partial_answer_on_a_kept_alive_connection_is_not_retried() {
    let half = Answer::raw("HTTP/1.1 2").then(Step::Close);
    let backend = Backend::new(move |call| if call.url() == "/first" { Answer::ok() } else { half.clone() });
    let mut gateway = Gateway::start(&backend);
    let _first = gateway.open("/first");
    assert_json(&gateway.get("/second"), 503, UNAVAILABLE);
    gateway.drain();
    let tries = backend.history().iter().filter(|call| call.action() == "connect" && call.url() == "/second").count();
    assert_eq!(tries, 1);
}

#[test]
fn a_kept_alive_connection_that_times_out_is_not_retried() {
    let backend = Backend::new(|call| if call.url() == "/first" { Answer::ok() } else { Answer::silence() });
    let gateway = impatient(&backend);
    let _first = gateway.open("/first");
    assert_json(&gateway.get("/second"), 504, TIMEOUT);
    assert_eq!(backend.count("connect"), 2);
}

#[test]
fn proxy_variables_are_ignored() {
    let backend = Backend::accepting();
    let nobody = Port::reserve();
    let proxy = format!("http://127.0.0.1:{nobody}");
    let mut builder = Gateway::for_backend(&backend);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        builder = builder.set(name, &proxy);
    }
    builder.start().open("/x");
}

#[test]
fn a_connect_waits_a_limited_time_for_a_worker() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let builder = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 1).set("CONNECT_QUEUE_SECONDS", 1);
    let mut gateway = builder.set("CALLBACK_TIMEOUT_SECONDS", 14).start();
    let first = Client::open(gateway.port, get("/first"));
    backend.connect("/first");
    let start = Instant::now();
    assert_json(&gateway.get("/second"), 504, TIMEOUT);
    let elapsed = start.elapsed();
    assert!((Duration::from_millis(950)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
    gate.open();
    let _first = Stream::accept(first);
    gateway.drain();
    let urls: Vec<String> = backend.history().iter().map(|call| call.url().to_owned()).collect();
    assert_eq!(urls, ["/first", "/first"], "a connect that was never made has no disconnect");
}

#[test]
fn waiting_for_a_worker_does_not_count_towards_the_timeout() {
    let backend = Backend::new(|call| if call.url() == "/slow" { Answer::silence() } else { Answer::ok() });
    let builder = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 1).set("CALLBACK_TIMEOUT_SECONDS", 1);
    let gateway = builder.start();
    let mut slow = Client::open(gateway.port, get("/slow"));
    backend.connect("/slow");
    let waiting = Client::open(gateway.port, get("/waiting"));
    assert_json(&slow.response(), 504, TIMEOUT);
    Stream::accept(waiting);
}

#[test]
fn a_restarted_backend_is_used_again() {
    let backend = Backend::accepting();
    let port = backend.port.clone();
    let gateway = Gateway::start(&backend);
    let _one = gateway.open("/one");
    backend.stop();
    common::eventually("the backend is gone", || std::net::TcpStream::connect(("127.0.0.1", port.number)).is_err());
    assert_json(&gateway.get("/two"), 503, UNAVAILABLE);
    let backend = Backend::on_port(port, |_| Answer::ok());
    let _three = gateway.open("/three");
    backend.connect("/three");
}
