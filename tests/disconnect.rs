//! The disconnect callback: its time, reason and number, and that nothing waits for it (contract, section 6).

mod common;

use common::{Answer, Backend, Call, Client, Gate, Gateway, Port, Stream, assert_json, eventually, get, post};
use std::sync::{Arc, OnceLock};

/// The disconnects made for a token.
fn disconnects(backend: &Backend, token: &str) -> Vec<Call> {
    backend.history().into_iter().filter(|call| call.action() == "disconnect" && call.token() == token).collect()
}

/// Opens and closes a stream: once its disconnect has arrived, every disconnect that was due earlier has too.
#[track_caller]
fn barrier(gateway: &Gateway, backend: &Backend) {
    let (stream, token) = gateway.open_with(backend, "/barrier");
    drop(stream);
    backend.disconnect(&token);
}

/// A backend that holds the connect of `/held` until the gate opens, and then gives this answer.
fn holding(answer: Answer) -> (Backend, Gate) {
    let gate = Gate::new();
    let held = answer.after(&gate);
    let backend =
        Backend::new(
            move |call| {
                if call.action() == "connect" && call.url() == "/held" { held.clone() } else { Answer::ok() }
            },
        );
    (backend, gate)
}

#[test]
fn the_body_is_exactly_this() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let request = "GET /a?b=c HTTP/1.1\r\nHost: h\r\nX-Q: \"q\"\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n";
    let stream = Stream::accept(Client::open(gateway.port, request));
    let connect = backend.connect("/a?b=c");
    drop(stream);
    let disconnect = backend.disconnect(connect.token());
    let expected = concat!(
        r#"{"action":"disconnect","reason":"client_closed","token":"TOKEN","#,
        r#""request":{"url":"/a?b=c","headers":{"host":"h","x-q":"\"q\"","cookie":"a=b; c=d"}}}"#
    );
    assert_eq!(String::from_utf8_lossy(&disconnect.body).replace(connect.token(), "TOKEN"), expected);
    assert_eq!(disconnect.json["request"], connect.json["request"]);
    assert_eq!(disconnect.header("content-type"), Some("application/json"));
    assert_eq!((disconnect.method.as_str(), disconnect.target.as_str()), ("POST", "/callback"));
}

#[test]
fn a_client_that_leaves_is_client_closed() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (fin, first) = gateway.open_with(&backend, "/fin");
    drop(fin);
    let (reset, second) = gateway.open_with(&backend, "/reset");
    reset.client.reset();
    let (half, third) = gateway.open_with(&backend, "/half");
    half.client.half_close();
    for token in [first, second, third] {
        let call = backend.disconnect(&token);
        assert_eq!((call.reason(), call.detail()), ("client_closed", None));
    }
}

#[test]
fn a_close_by_the_backend_is_server_closed() {
    let backend =
        Backend::new(|call| if call.url() == "/brief" { Answer::json(r#"{"close":true}"#) } else { Answer::ok() });
    let gateway = Gateway::start(&backend);
    let (sent, first) = gateway.open_with(&backend, "/sent");
    assert_eq!(gateway.close(&first).status, 200);
    sent.assert_ended();
    let (brief, second) = gateway.open_with(&backend, "/brief");
    brief.assert_ended();
    for token in [first, second] {
        assert_eq!(backend.disconnect(&token).reason(), "server_closed");
    }
}

#[test]
fn every_accepted_connect_gets_exactly_one() {
    let backend = Backend::new(|call| match call.url() {
        "/rejected" => Answer::status(403),
        "/brief" => Answer::json(r#"{"close":true}"#),
        _ => Answer::ok(),
    });
    let mut gateway = Gateway::start(&backend);
    let mut expected = Vec::new();
    let mut open = Vec::new();
    for _ in 0..5 {
        let (stream, token) = gateway.open_with(&backend, "/leaves");
        drop(stream);
        expected.push((token, "client_closed"));
        let (stream, token) = gateway.open_with(&backend, "/reset");
        stream.client.reset();
        expected.push((token, "client_closed"));
        let (stream, token) = gateway.open_with(&backend, "/closed");
        // Closing twice, and the client leaving as well, is still one end.
        gateway.close(&token);
        gateway.close(&token);
        drop(stream);
        expected.push((token, "server_closed"));
        let (stream, token) = gateway.open_with(&backend, "/brief");
        drop(stream);
        expected.push((token, "server_closed"));
        assert_eq!(gateway.get("/rejected").status, 403);
        let (stream, token) = gateway.open_with(&backend, "/stays");
        open.push(stream);
        expected.push((token, "server_closed"));
    }
    // The closes pending in the kernel must have been read before the drain ends those streams as `server_closed`.
    for (token, reason) in &expected {
        if *reason == "client_closed" {
            backend.disconnect(token);
        }
    }
    gateway.drain();
    for (token, reason) in &expected {
        let calls = disconnects(&backend, token);
        assert_eq!(calls.len(), 1, "{reason}: {calls:?}");
        assert_eq!(calls[0].reason(), *reason);
    }
    assert_eq!(backend.count("disconnect"), expected.len(), "none for a rejected connect");
}

#[test]
fn it_never_comes_before_the_connect_is_answered() {
    for reset in [false, true] {
        let (backend, gate) = holding(Answer::ok());
        let mut gateway = Gateway::start(&backend);
        let client = Client::open(gateway.port, get("/held"));
        let token = backend.connect("/held").token().to_owned();
        if reset {
            client.reset()
        } else {
            drop(client)
        }
        barrier(&gateway, &backend);
        assert_eq!(disconnects(&backend, &token).len(), 0);
        gate.open();
        assert_eq!(backend.disconnect(&token).reason(), "client_closed");
        gateway.drain();
        assert_eq!(disconnects(&backend, &token).len(), 1);
    }
}

#[test]
fn an_early_leaver_whose_connect_is_rejected_gets_none() {
    let (backend, gate) = holding(Answer::status(403));
    let mut gateway = Gateway::start(&backend);
    let client = Client::open(gateway.port, get("/held"));
    let token = backend.connect("/held").token().to_owned();
    drop(client);
    barrier(&gateway, &backend);
    gate.open();
    gateway.drain();
    assert_eq!(disconnects(&backend, &token).len(), 0);
}

#[test]
fn an_early_leaver_whose_connect_has_not_started_causes_no_callback() {
    let (backend, gate) = holding(Answer::ok());
    let mut gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 1).start();
    let held = Client::open(gateway.port, get("/held"));
    let token = backend.connect("/held").token().to_owned();
    let waiting = Client::open(gateway.port, get("/waiting"));
    gateway.client().assert_open();
    drop(waiting);
    // The loop has seen the client leave once it answers a later connection.
    gateway.client().assert_open();
    gate.open();
    drop(Stream::accept(held));
    backend.disconnect(&token);
    gateway.drain();
    assert!(backend.history().iter().all(|call| call.url() == "/held"), "{:?}", backend.history());
}

#[test]
fn an_early_leaver_keeps_its_token_until_the_answer() {
    let (backend, gate) = holding(Answer::json(r#"{"event":{"data":"nobody reads this"}}"#));
    let gateway = Gateway::start(&backend);
    let client = Client::open(gateway.port, get("/held"));
    let token = backend.connect("/held").token().to_owned();
    drop(client);
    barrier(&gateway, &backend);
    // Whether the gateway has noticed or not, the answer is not a 500.
    let status = gateway.event(&token, "x").status;
    assert!(matches!(status, 200 | 404), "{status}");
    gate.open();
    backend.disconnect(&token);
    assert_eq!(gateway.event(&token, "x").status, 404);
}

#[test]
fn an_early_leaver_with_a_buffered_close_gets_one() {
    let (backend, gate) = holding(Answer::json(r#"{"close":true}"#));
    let mut gateway = Gateway::start(&backend);
    let client = Client::open(gateway.port, get("/held"));
    let token = backend.connect("/held").token().to_owned();
    drop(client);
    barrier(&gateway, &backend);
    gate.open();
    backend.disconnect(&token);
    gateway.drain();
    assert_eq!(disconnects(&backend, &token).len(), 1);
}

/// Two clients whose connects time out; returns their tokens.
fn time_out(gateway: &Gateway, backend: &Backend) -> [String; 2] {
    let mut stays = Client::open(gateway.port, get("/stays"));
    let leaves = Client::open(gateway.port, get("/leaves"));
    let tokens = ["/stays", "/leaves"].map(|url| backend.connect(url).token().to_owned());
    drop(leaves);
    assert_eq!(stays.response().status, 504);
    // Its client gets no answer, and the log has one line for both.
    let both = r#"ssegateway_callback_failures_total{action="connect",reason="timeout"} 2"#;
    eventually("both have timed out", || gateway.get("/internal/metrics").text().contains(both));
    tokens
}

/// A backend that gives this answer to those connects when the gate opens, and answers everything else at once.
fn late(answer: Answer) -> (Backend, Gate, Gateway) {
    let gate = Gate::new();
    let answer = answer.after(&gate);
    let backend = Backend::new(move |call| {
        let is_late = call.action() == "connect" && ["/stays", "/leaves"].contains(&call.url());
        if is_late { answer.clone() } else { Answer::ok() }
    });
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 1).start();
    (backend, gate, gateway)
}

#[test]
fn after_a_timeout_it_waits_for_the_late_answer() {
    for answer in [Answer::ok(), Answer::raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), Answer::close()] {
        let (backend, gate, mut gateway) = late(answer);
        let tokens = time_out(&gateway, &backend);
        barrier(&gateway, &backend);
        assert_eq!(tokens.iter().map(|token| disconnects(&backend, token).len()).sum::<usize>(), 0);
        gate.open();
        for token in &tokens {
            let call = backend.disconnect(token);
            assert_eq!((call.reason(), call.detail()), ("error", Some("connect_timeout")));
        }
        gateway.drain();
        assert_eq!(backend.count("disconnect"), 3, "including the barrier's");
    }
}

#[test]
fn a_late_rejection_gets_none() {
    let (backend, gate, mut gateway) = late(Answer::status(403));
    time_out(&gateway, &backend);
    gate.open();
    gateway.drain();
    assert_eq!(backend.count("disconnect"), 0);
}

#[test]
fn a_drain_waits_for_late_answers_no_longer_than_half_its_time() {
    let backend = Backend::connecting(Answer::silence());
    let builder = Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 1);
    let mut gateway = builder.set("SHUTDOWN_TIMEOUT_SECONDS", 2).start();
    let tokens = time_out(&gateway, &backend);
    gateway.drain();
    assert!(tokens.iter().all(|token| disconnects(&backend, token).len() == 1));
}

#[test]
fn a_connect_whose_retry_is_rejected_may_have_been_accepted_before() {
    // The first connect leaves a kept-alive connection. The second one is stored, but its answer lost; its retry is
    // then rejected.
    let backend = Backend::new(|call| match (call.action(), call.url(), call.ordinal) {
        ("connect", "/x", 1) => Answer::close(),
        ("connect", "/x", _) => Answer::status(409),
        _ => Answer::ok(),
    });
    let mut gateway = Gateway::start(&backend);
    let (stream, _) = gateway.open_with(&backend, "/first");
    assert_json(&gateway.get("/x"), 409, r#"{"error":"Backend returned 409"}"#);
    let token = backend.connect("/x").token().to_owned();
    let call = backend.disconnect(&token);
    assert_eq!((call.reason(), call.detail()), ("error", Some("connect_broken")));
    drop(stream);
    gateway.drain();
    assert_eq!(disconnects(&backend, &token).len(), 1);
}

#[test]
fn a_connect_that_broke_after_it_was_written_may_have_been_accepted() {
    for answer in [Answer::close(), Answer::reset(), Answer::raw("HTTP/1.1 2").then(common::Step::Close)] {
        let backend = Backend::connecting(answer);
        let mut gateway = Gateway::start(&backend);
        assert_eq!(gateway.get("/x").status, 503);
        let token = backend.connect("/x").token().to_owned();
        let call = backend.disconnect(&token);
        assert_eq!((call.reason(), call.detail()), ("error", Some("connect_broken")));
        gateway.drain();
        assert_eq!(backend.count("disconnect"), 1);
    }
}

#[test]
fn a_connect_that_was_never_written_gets_none() {
    let port = Port::reserve();
    let mut gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{port}/")).start();
    assert_eq!(gateway.get("/x").status, 503);
    let backend = Backend::on_port(port, |_| Answer::ok());
    barrier(&gateway, &backend);
    gateway.drain();
    assert_eq!((backend.count("connect"), backend.count("disconnect")), (1, 1), "only those of the barrier");
}

#[test]
fn answers_to_sends_never_wait_for_it() {
    let gate = Gate::new();
    let slow = Answer::ok().after(&gate);
    let backend = Backend::new(move |call| if call.action() == "disconnect" { slow.clone() } else { Answer::ok() });
    let gateway = Gateway::start(&backend);
    let streams: Vec<(Stream, String)> = (0..10).map(|_| gateway.open_with(&backend, "/x")).collect();
    for (stream, token) in streams {
        assert_json(&gateway.close(&token), 200, common::OK);
        assert_json(&gateway.close(&token), 404, r#"{"error":"Token not found"}"#);
        stream.assert_ended();
        backend.disconnect(&token);
    }
    gateway.open("/new");
    gate.open();
}

/// A backend that serves one request at a time and calls the gateway meanwhile.
#[test]
fn a_single_threaded_backend_may_send_and_close_from_inside_its_callbacks() {
    const STREAMS: usize = 8;
    let port: Arc<OnceLock<u16>> = Arc::default();
    let known = port.clone();
    let previous: std::sync::Mutex<Option<String>> = std::sync::Mutex::default();
    let backend = Backend::single_threaded(move |call| {
        let port = *known.get().expect("the gateway is running");
        let send = |body: String| Client::open(port, post("/internal/send", &body)).response();
        let token = call.token();
        if call.action() == "connect" {
            let response = send(format!(r#"{{"token":"{token}","event":{{"data":"inside"}}}}"#));
            assert_json(&response, 200, common::BUFFERED);
            if let Some(old) = previous.lock().unwrap().replace(token.to_owned()) {
                assert_json(&send(format!(r#"{{"token":"{old}","close":true}}"#)), 200, common::OK);
            }
        } else {
            let response = send(format!(r#"{{"token":"{token}","event":{{"data":"too late"}}}}"#));
            assert_eq!(response.status, 404);
        }
        Answer::new(200, &[("Connection", "close")], "")
    });
    let gateway = Gateway::start(&backend);
    port.set(gateway.port).expect("set once");
    let streams: Vec<Stream> = (0..STREAMS).map(|n| gateway.open(&format!("/{n}"))).collect();
    for (n, mut stream) in streams.into_iter().enumerate() {
        assert_eq!(stream.frame(), "data: inside\n\n");
        if n < STREAMS - 1 {
            let token = backend.connect(&format!("/{n}")).token().to_owned();
            stream.assert_ended();
            assert_eq!(backend.disconnect(&token).reason(), "server_closed");
        }
    }
}

#[test]
fn connects_in_flight_do_not_starve_disconnects() {
    let gate = Gate::new();
    let slow = Answer::ok().after(&gate);
    let backend = Backend::new(move |call| if call.url().starts_with("/slow") { slow.clone() } else { Answer::ok() });
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 2).start();
    let (stream, token) = gateway.open_with(&backend, "/quick");
    let waiting: Vec<Client> = (0..10).map(|n| Client::open(gateway.port, get(&format!("/slow/{n}")))).collect();
    backend.connect("/slow/0");
    drop(stream);
    backend.disconnect(&token);
    gate.open();
    for client in waiting {
        Stream::accept(client);
    }
}

#[test]
fn disconnects_in_flight_do_not_starve_connects() {
    let gate = Gate::new();
    let slow = Answer::ok().after(&gate);
    let backend = Backend::new(move |call| if call.action() == "disconnect" { slow.clone() } else { Answer::ok() });
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 2).start();
    let streams: Vec<(Stream, String)> = (0..10).map(|_| gateway.open_with(&backend, "/x")).collect();
    let tokens: Vec<String> = streams.into_iter().map(|(_, token)| token).collect();
    backend.take("first disconnect", |call| call.action() == "disconnect");
    gateway.open("/new");
    gate.open();
    common::eventually("ten disconnects", || backend.count("disconnect") >= 10);
    for token in tokens {
        assert_eq!(disconnects(&backend, &token).len(), 1);
    }
}

#[test]
fn no_more_callbacks_are_in_flight_than_allowed() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 3).start();
    let clients: Vec<Client> = (0..12).map(|n| Client::open(gateway.port, get(&format!("/{n}")))).collect();
    backend.take("a connect", |_| true);
    // By the time the probe is answered, the loop has seen all twelve.
    assert_eq!(gateway.get("/healthz").status, 200);
    let in_flight = backend.count("connect");
    assert!(in_flight <= 3, "{in_flight}");
    gate.open();
    for client in clients {
        Stream::accept(client);
    }
    assert!(backend.connections() <= 6, "{} connections for 3 at a time", backend.connections());
}

#[test]
fn a_failed_disconnect_is_logged_and_not_retried() {
    for answer in [Answer::status(500), Answer::status(302), Answer::close()] {
        let backend = Backend::new(move |call| {
            if call.action() == "disconnect" {
                answer.clone()
            } else {
                Answer::new(200, &[("Connection", "close")], "").then(common::Step::Close)
            }
        });
        let mut gateway = Gateway::start(&backend);
        let (stream, token) = gateway.open_with(&backend, "/x");
        drop(stream);
        backend.disconnect(&token);
        gateway.log_line(&["WARN", &token]);
        gateway.drain();
        assert_eq!(disconnects(&backend, &token).len(), 1);
    }
}

#[test]
fn a_disconnect_that_hangs_times_out() {
    let backend = Backend::new(|call| if call.action() == "disconnect" { Answer::silence() } else { Answer::ok() });
    let mut gateway = Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 1).start();
    let (stream, token) = gateway.open_with(&backend, "/x");
    drop(stream);
    backend.disconnect(&token);
    gateway.log_line(&["WARN", &token]);
    gateway.drain();
    assert_eq!(disconnects(&backend, &token).len(), 1);
}

#[test]
fn commands_in_its_answer_are_logged_and_ignored() {
    for body in [r#"{"event":{"data":"x"}}"#, r#"{"close":true}"#] {
        let answer = Answer::json(body);
        let backend =
            Backend::new(move |call| if call.action() == "disconnect" { answer.clone() } else { Answer::ok() });
        let gateway = Gateway::start(&backend);
        let (stream, token) = gateway.open_with(&backend, "/x");
        drop(stream);
        backend.disconnect(&token);
        gateway.log_line(&["WARN", &token]);
    }
}
