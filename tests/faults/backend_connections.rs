//! Backends whose connections break.

use crate::common::{
    Answer, Backend, Client, Gateway, Ledger, OK, Random, Step, Verdict, assert_json, eventually, get, sys,
};
use crate::healthy::Healthy;
use crate::report;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn idle_connections_closed_at_random_moments_cause_no_error() {
    const THREADS: usize = 8;
    const STREAMS_EACH: usize = 400;
    sys::raise_descriptor_limit();
    let ledger = Ledger::default();
    let entries = ledger.clone();
    let calls = AtomicU64::new(0);
    let backend = Backend::new(move |call| {
        entries.enter(call, Verdict::Accepted);
        let random = Random::new(calls.fetch_add(1, Ordering::SeqCst)).next();
        // Whole milliseconds would miss the window in which the next call is in flight.
        let pause = Duration::from_micros(random % 3000);
        match random >> 32 & 3 {
            0 => Answer::ok(),
            1 => Answer::ok().then(Step::Close),
            2 => Answer::ok().then(Step::Pause(pause)).then(Step::Close),
            _ => Answer::ok().then(Step::Pause(pause)).then(Step::Reset),
        }
    });
    let mut gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 8).start();
    let clients: Vec<_> = (0..THREADS)
        .map(|thread| {
            let port = gateway.port;
            std::thread::spawn(move || {
                for n in 0..STREAMS_EACH {
                    let mut client = Client::open(port, get(&format!("/{thread}/{n}")));
                    let head = client.head();
                    assert_eq!(head.status, 200, "{head:?} {:?}", client.rest());
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("no client sees an error");
    }
    gateway.drain();
    let sums = ledger.sums();
    assert_eq!((sums.accepted, sums.disconnects), (THREADS * STREAMS_EACH, THREADS * STREAMS_EACH), "{sums:?}");
    ledger.assert_settled();
    assert!(!gateway.log().contains("callback failed"), "{}", gateway.log());
    report(&format!("{} callbacks on {} connections, no error", 2 * sums.accepted, backend.connections()));
}

#[test]
fn a_backend_restart_costs_no_stream() {
    let backend = Backend::accepting();
    let port = backend.port.clone();
    // Above that level only some of many failures are logged.
    let mut gateway = Gateway::for_backend(&backend).set("LOG_LEVEL", "debug").start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let (mut kept, kept_token) = gateway.open_with(&backend, "/kept");
    let (lost, lost_token) = gateway.open_with(&backend, "/lost");
    for round in 0..5 {
        // The first one is consumed by its end, the later ones are those of the previous round.
        if round == 0 {
            backend.shut();
        }
        let start = Instant::now();
        for n in 0..20 {
            let response = gateway.get(&format!("/dead/{round}/{n}"));
            assert_json(&response, 503, r#"{"error":"Backend unavailable"}"#);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "a dead backend is detected at once: {:?}", start.elapsed());
        assert_json(&gateway.event(&kept_token, "still here"), 200, OK);
        assert_eq!(kept.event(), "data: still here\n\n");
        let returned = Backend::on_port(port.clone(), |_| Answer::ok());
        eventually("it is used again", || {
            let mut client = Client::open(gateway.port, get("/again"));
            client.head().status == 200
        });
        for n in 0..20 {
            let (stream, token) = gateway.open_with(&returned, &format!("/alive/{round}/{n}"));
            drop(stream);
            assert_eq!(returned.disconnect(&token).reason(), "client_closed");
        }
        returned.stop();
        // The next round binds the port again, by when its connections are gone.
    }
    drop(lost);
    gateway.log_line(&["disconnect callback failed", &lost_token]);
    let seen = healthy.finish();
    report(&format!("a backend that died 5 times: {seen}"));
    gateway.drain();
}
