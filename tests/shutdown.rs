//! SIGTERM and similar signals: a clean shutdown, in time (contract, section 9).

mod common;

use common::{
    Answer, Backend, Client, Gate, Gateway, SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGSTOP, SIGTERM,
    SIGUSR1, SIGUSR2, SIGXFSZ, Stream, assert_json, eventually, get,
};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const NOT_READY: &str = r#"{"status":"not_ready","configured":true}"#;

#[test]
fn a_gateway_without_streams_ends_at_once() {
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        let mut gateway = Gateway::builder().start();
        let start = Instant::now();
        gateway.signal(signal);
        assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[test]
fn streams_get_a_clean_end_and_the_backend_is_notified() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::start(&backend);
    let streams: Vec<(Stream, String)> = (0..20).map(|_| gateway.open_with(&backend, "/x")).collect();
    let (old, old_token) = {
        let stream = Stream::accept(Client::open(gateway.port, "GET /old HTTP/1.0\r\n\r\n"));
        (stream, backend.connect("/old").token().to_owned())
    };
    gateway.drain();
    for (stream, token) in streams {
        stream.assert_drained(6_000);
        let call = backend.disconnect(&token);
        assert_eq!((call.reason(), call.detail()), ("server_closed", Some("shutdown")));
    }
    old.assert_drained(6_000);
    backend.disconnect(&old_token);
    assert_eq!(backend.count("disconnect"), 21);
}

#[test]
fn a_hangup_drains() {
    for signal in [SIGHUP, SIGQUIT] {
        let backend = Backend::accepting();
        let mut gateway = Gateway::start(&backend);
        let (stream, token) = gateway.open_with(&backend, "/x");
        gateway.signal(signal);
        stream.assert_drained(6_000);
        assert_eq!(backend.disconnect(&token).detail(), Some("shutdown"));
        assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    }
}

#[test]
fn a_hangup_that_nohup_ignores_stays_ignored() {
    let mut gateway = Gateway::builder().shell("trap '' HUP").start();
    gateway.signal(SIGHUP);
    assert_eq!(gateway.get("/healthz").status, 200);
    gateway.drain();
}

#[test]
fn ignored_signals_change_nothing() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::start(&backend);
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    for signal in [SIGUSR1, SIGUSR2, SIGALRM, SIGPIPE, SIGXFSZ] {
        gateway.signal(signal);
        assert_eq!(gateway.event(&token, "still").status, 200, "after signal {signal}");
        assert_eq!(stream.frame(), "data: still\n\n");
    }
    gateway.drain();
}

#[test]
fn queued_bytes_are_delivered_first() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 256 * 1024 * 1024).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let data = "x".repeat(512 * 1024);
    for _ in 0..40 {
        assert_eq!(gateway.event(&token, &data).status, 200);
    }
    gateway.signal(SIGTERM);
    for _ in 0..40 {
        assert_eq!(stream.event().len(), data.len() + "data: \n\n".len());
    }
    stream.assert_drained(6_000);
    assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    assert_eq!(backend.disconnect(&token).detail(), Some("shutdown"));
}

#[test]
fn pages_get_jittered_reconnect_delays() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("RECONNECT_DELAY_MILLISECONDS", 5000).start();
    let mut streams: Vec<Stream> = (0..10).map(|_| gateway.open("/x")).collect();
    let first: Vec<String> = streams.iter_mut().map(Stream::frame).collect();
    assert!(first.iter().all(|frame| frame.starts_with("retry: ")), "{first:?}");
    gateway.drain();
    let delays: std::collections::HashSet<u32> =
        streams.into_iter().map(|stream| stream.assert_drained(5_000)).collect();
    assert!(delays.len() > 1, "no jitter");
}

#[test]
fn during_the_delay_it_serves_and_is_not_ready() {
    let backend = Backend::accepting();
    // Longer than the test, on any machine.
    let gateway = Gateway::for_backend(&backend).set("SHUTDOWN_DELAY_SECONDS", 600).start();
    let (mut stream, token) = gateway.open_with(&backend, "/before");
    gateway.signal(SIGTERM);
    eventually("readyz turns 503", || gateway.get("/readyz").status == 503);
    assert_json(&gateway.get("/readyz"), 503, NOT_READY);
    assert_json(&gateway.get("/healthz"), 200, r#"{"status":"ok"}"#);
    assert_eq!(gateway.event(&token, "still").status, 200);
    assert_eq!(stream.frame(), "data: still\n\n");
    gateway.open_with(&backend, "/during");
}

#[test]
fn after_the_delay_it_drains() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("SHUTDOWN_DELAY_SECONDS", 1).start();
    let stream = gateway.open("/x");
    let start = Instant::now();
    gateway.signal(SIGTERM);
    assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    let elapsed = start.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
    stream.assert_drained(6_000);
    assert_eq!(backend.count("disconnect"), 1);
}

/// A gateway whose drain is delayed by a disconnect callback until the gate opens.
fn held(builder: impl Fn(&Backend) -> common::Builder) -> (Backend, Gateway, Gate) {
    let gate = Gate::new();
    let answer = Answer::ok().after(&gate);
    let backend = Backend::new(move |call| if call.action() == "disconnect" { answer.clone() } else { Answer::ok() });
    let gateway = builder(&backend).set("CALLBACK_TIMEOUT_SECONDS", 14).start();
    (backend, gateway, gate)
}

#[test]
fn listeners_and_idle_connections_close() {
    let (backend, mut gateway, gate) = held(|backend| Gateway::for_backend(backend).internal_port());
    let mut idle = gateway.client();
    idle.assert_open();
    let (stream, token) = gateway.open_with(&backend, "/x");
    gateway.signal(SIGTERM);
    stream.assert_drained(6_000);
    backend.disconnect(&token);
    idle.assert_closed();
    for port in [gateway.port, gateway.internal_port()] {
        eventually("the listener is closed", || TcpStream::connect(("127.0.0.1", port)).is_err());
    }
    assert!(gateway.is_running(), "the disconnect callback is awaited");
    gate.open();
    assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
}

#[test]
fn running_out_of_time_is_status_1() {
    let (backend, mut gateway, gate) = held(|backend| Gateway::for_backend(backend).set("SHUTDOWN_TIMEOUT_SECONDS", 1));
    let (_stream, token) = gateway.open_with(&backend, "/x");
    let start = Instant::now();
    gateway.signal(SIGTERM);
    backend.disconnect(&token);
    assert_eq!(gateway.exit_code(), Some(1), "{}", gateway.log());
    gateway.log_line(&["WARN", "stopped", "clean=false", "streams_left=0", "connects_left=0", "disconnects_left=1"]);
    let elapsed = start.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
    gate.open();
}

#[test]
fn a_reader_that_does_not_read_cannot_delay_it() {
    let backend = Backend::accepting();
    let builder = Gateway::for_backend(&backend).set("SHUTDOWN_TIMEOUT_SECONDS", 1);
    let mut gateway = builder.set("MAX_PENDING_BYTES", 256 * 1024 * 1024).start();
    let (_stalled, token) = gateway.open_with(&backend, "/x");
    let data = "x".repeat(512 * 1024);
    for _ in 0..40 {
        assert_eq!(gateway.event(&token, &data).status, 200);
    }
    gateway.signal(SIGTERM);
    assert_eq!(gateway.exit_code(), Some(1), "{}", gateway.log());
    gateway.log_line(&["stopped", "streams_left=1", "disconnects_left=0"]);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for signals in [[SIGTERM, SIGTERM], [SIGTERM, SIGINT]] {
        let (backend, mut gateway, gate) = held(Gateway::for_backend);
        let (stream, token) = gateway.open_with(&backend, "/x");
        let start = Instant::now();
        gateway.signal(signals[0]);
        backend.disconnect(&token);
        drop(stream);
        gateway.signal(signals[1]);
        gateway.exit_code();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        gate.open();
    }
}

#[test]
fn disconnects_may_use_all_workers() {
    let gate = Gate::new();
    let answer = Answer::ok().after(&gate);
    let backend = Backend::new(move |call| if call.action() == "disconnect" { answer.clone() } else { Answer::ok() });
    let mut gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 2).start();
    let streams: Vec<Stream> = (0..3).map(|_| gateway.open("/x")).collect();
    gateway.signal(SIGTERM);
    eventually("two disconnects are in flight", || backend.count("disconnect") == 2);
    gate.open();
    assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    assert_eq!(backend.count("disconnect"), streams.len());
}

#[test]
fn two_signals_read_together_count_as_two() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("SHUTDOWN_DELAY_SECONDS", 100).start();
    let _stream = gateway.open("/x");
    for signal in [SIGSTOP, SIGTERM, SIGINT, SIGCONT] {
        gateway.signal(signal);
    }
    assert_eq!(gateway.exit_code(), Some(1));
}

#[test]
fn a_second_signal_cuts_the_delay_short_as_well() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("SHUTDOWN_DELAY_SECONDS", 600).start();
    assert_eq!(gateway.get("/readyz").status, 200);
    gateway.signal(SIGTERM);
    // Two pending instances of the same signal merge into one.
    eventually("the first signal is seen", || gateway.get("/readyz").status == 503);
    gateway.signal(SIGTERM);
    gateway.exit_code();
}

#[test]
fn clients_still_connecting_get_503() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let mut gateway = Gateway::start(&backend);
    let mut client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    gateway.signal(SIGTERM);
    assert_eq!(client.response().status, 503);
    gate.open();
    let call = backend.disconnect(&token);
    assert_eq!((call.reason(), call.detail()), ("server_closed", Some("shutdown")));
    assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    assert_eq!(backend.count("disconnect"), 1);
}

#[test]
fn a_connect_in_flight_that_is_rejected_has_no_disconnect() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::status(403).after(&gate));
    let mut gateway = Gateway::start(&backend);
    let mut client = Client::open(gateway.port, get("/x"));
    backend.connect("/x");
    gateway.signal(SIGTERM);
    assert_eq!(client.response().status, 503);
    gate.open();
    assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    assert_eq!(backend.count("disconnect"), 0);
}

#[test]
fn an_incomplete_request_does_not_delay_it() {
    let mut gateway = Gateway::builder().start();
    let mut half = Client::open(gateway.port, "POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{");
    gateway.client().assert_open();
    let start = Instant::now();
    gateway.signal(SIGTERM);
    gateway.exit_code();
    assert!(start.elapsed() < Duration::from_secs(14), "{:?}", start.elapsed());
    half.rest_or_reset();
}
