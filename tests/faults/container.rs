//! A container with 64 MB and strangers who want them, and a crowd that says nothing on all places.

use crate::common::{Backend, Cage, Client, Gateway, OK, Peak, Response, assert_json, get, send_request};
use crate::healthy::Healthy;
use crate::report;
use crate::swarm::{Conduct, Plan, attack};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const BYTES: u64 = 64 << 20;
const TIME: Duration = Duration::from_secs(5);
/// Between two new clients, and two looks at the memory.
const PACE: Duration = Duration::from_millis(50);

/// New clients get their streams, and the one that is open its events, while that goes on; the process lives, and it and
/// its sockets stay below the limit.
fn stays_within_a_container(what: &str, plan: Plan) {
    crate::common::sys::raise_descriptor_limit();
    let cage = Cage::make(BYTES);
    let backend = Backend::accepting();
    // The settings for that size (docs/deployment.md).
    let builder = Gateway::for_backend(&backend).set("MAX_STREAMS", 10_000).set("MAX_PENDING_BYTES", 65_536);
    let builder = builder.set("CALLBACK_CONCURRENCY", 32).set("LOG_LEVEL", "warn");
    let builder = match &cage {
        Some(cage) => builder.shell(&cage.entry()),
        None => builder.set("MEMORY_LIMIT_BYTES", BYTES / 4 * 3),
    };
    let mut gateway = builder.start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let (port, stopped) = (gateway.port, stop.clone());
    let attacker = std::thread::spawn(move || attack(port, plan, &stopped));
    let (start, mut peak, mut clients) = (Instant::now(), Peak::default(), 0);
    while start.elapsed() < TIME {
        drop(gateway.open(&format!("/new/{clients}")));
        clients += 1;
        peak.look(gateway.pid(), cage.as_ref());
        std::thread::sleep(PACE);
    }
    stop.store(true, Ordering::SeqCst);
    let deeds = attacker.join().expect("the attacker");
    let seen = healthy.finish();
    let connections = deeds.connections;
    report(&format!("{connections} {what}: {peak}; {clients} new clients; {seen}"));
    assert!(gateway.is_running());
    let ended = backend.history().into_iter().filter(|call| call.action() == "disconnect" && call.token() == token);
    assert!(ended.count() <= 1, "once, after its close");
    assert!(peak.kib() as u64 * 1024 <= BYTES, "{peak}");
}

#[test]
fn unfinished_sends_stay_within_a_container() {
    let head = format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 1 << 20);
    let bytes = [head.as_bytes(), &vec![b'x'; (1 << 20) - 1]].concat();
    stays_within_a_container("unfinished sends of 1 MiB", Plan::new(Conduct::Hold, 63, bytes));
}

#[test]
fn unfinished_heads_stay_within_a_container() {
    let bytes = format!("GET /x HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(16_000));
    stays_within_a_container("unfinished heads of 16 kB", Plan::new(Conduct::Hold, 5_000, bytes));
}

#[test]
fn streams_with_large_requests_stay_within_a_container() {
    let bytes = format!("GET /x HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "\"".repeat(16_300));
    stays_within_a_container("streams with 16,300 quotes", Plan::new(Conduct::Hold, 2_500, bytes));
}

/// Answered within five seconds: without eviction it would wait for the crowd's timeout, ten seconds, again and again. On a
/// busy machine it may be evicted itself before it is read, and the kernel repeats a SYN that found no room after a
/// second.
fn ask(gateway: &Gateway, request: &str) -> (Response, Duration) {
    let start = Instant::now();
    loop {
        let mut client = Client::connect(gateway.port);
        let sent = client.try_send(request);
        if let Some(response) = sent.ok().and_then(|()| client.try_response()) {
            return (response, start.elapsed());
        }
        assert!(start.elapsed() < Duration::from_secs(5), "no answer: {request}");
    }
}

#[test]
fn a_silent_crowd_on_few_places_delays_no_probe() {
    let backend = Backend::accepting();
    // Some 24 places for connections.
    let gateway = Gateway::for_backend(&backend).ulimit("-n 65").start();
    let (mut stream, token) = gateway.open_with(&backend, "/healthy");
    let stop = Arc::new(AtomicBool::new(false));
    let (port, stopped) = (gateway.port, stop.clone());
    let attacker = std::thread::spawn(move || attack(port, Plan::new(Conduct::Hold, 100, ""), &stopped));
    let (start, mut slowest, mut probes) = (Instant::now(), Duration::ZERO, 0);
    while start.elapsed() < TIME {
        let (health, probed) = ask(&gateway, &get("/healthz"));
        assert_eq!(health.status, 200);
        // One that was read and then reset is there twice.
        let body = format!(r#"{{"token":"{token}","event":{{"data":"{probes}"}}}}"#);
        let (sent, sending) = ask(&gateway, &send_request(&body));
        assert_json(&sent, 200, OK);
        while stream.event() != format!("data: {probes}\n\n") {}
        slowest = slowest.max(probed).max(sending);
        probes += 1;
        std::thread::sleep(PACE);
    }
    stop.store(true, Ordering::SeqCst);
    let connections = attacker.join().expect("the attacker").connections;
    report(&format!(
        "{connections} silent connections, 100 at a time: {probes} probes and sends, the slowest {slowest:.1?}"
    ));
}
