//! A paused process, which sees the clock jump.

use crate::common::{
    Answer, Backend, Client, Gate, Gateway, HEARTBEAT, OK, PATIENCE, SIGCONT, SIGSTOP, Stream, assert_json, eventually,
    get, process, send_request, sys,
};
use crate::healthy::Healthy;
use crate::report;
use std::io::Read;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(4);

/// Stops the gateway while its loop sleeps, and returns once it is stopped: anything sent afterwards arrives during the
/// pause.
fn stop(gateway: &Gateway) {
    let reach = |state: char| {
        let start = Instant::now();
        while process::state(gateway.pid()) != state {
            assert!(start.elapsed() < PATIENCE, "never in state {state}");
            std::thread::yield_now();
        }
    };
    reach('S');
    gateway.signal(SIGSTOP);
    reach('T');
}

/// Stops the gateway for [`PAUSE`].
fn stand_still(gateway: &Gateway) {
    stop(gateway);
    std::thread::sleep(PAUSE);
    gateway.signal(SIGCONT);
}

#[test]
fn heartbeats_resume_one_at_a_time_and_no_stream_is_lost() {
    const STREAMS: usize = 50;
    let backend = Backend::accepting();
    // Every timeout is shorter than the jump.
    let mut gateway = Gateway::for_backend(&backend)
        .set("HEARTBEAT_INTERVAL_SECONDS", 1)
        .set("CLIENT_TIMEOUT_SECONDS", 2)
        .set("REQUEST_TIMEOUT_SECONDS", 2)
        .start();
    let mut streams: Vec<(Stream, String)> =
        (0..STREAMS).map(|n| gateway.open_with(&backend, &format!("/{n}"))).collect();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    stand_still(&gateway);
    let resumed = Instant::now();
    for (stream, token) in &mut streams {
        assert_json(&gateway.event(token, "x"), 200, OK);
        let mut heartbeats = 0;
        loop {
            match stream.frame().as_str() {
                HEARTBEAT => heartbeats += 1,
                event => break assert_eq!(event, "data: x\n\n"),
            }
        }
        // One before the jump, one for the jump, and those due since.
        let due = 3 + resumed.elapsed().as_secs() as usize;
        assert!(heartbeats <= due, "{heartbeats} heartbeats, {due} were due");
    }
    // The interval is unchanged.
    let (stream, _) = &mut streams[0];
    assert_eq!(stream.frame(), HEARTBEAT);
    let start = Instant::now();
    assert_eq!([stream.frame(), stream.frame()], [HEARTBEAT, HEARTBEAT]);
    let took = start.elapsed();
    assert!((Duration::from_millis(1700)..Duration::from_millis(2500)).contains(&took), "{took:?}");
    let seen = healthy.finish_whenever();
    report(&format!("{STREAMS} streams through a jump of {PAUSE:?}: all there, two heartbeats in {took:?}; {seen}"));
    // The disconnect of the healthy one, which has just been closed, may already have arrived.
    assert!(backend.count("disconnect") <= 1, "{}", gateway.log());
    gateway.drain();
    assert_eq!(backend.count("disconnect"), STREAMS + 1);
}

#[test]
fn a_client_that_reads_during_a_pause_is_not_stalled() {
    let backend = Backend::accepting();
    let builder = Gateway::for_backend(&backend).set("CLIENT_TIMEOUT_SECONDS", 2);
    let mut gateway = builder.set("MAX_PENDING_BYTES", 64 * 1024 * 1024).start();
    let mut client = gateway.client();
    client.take_little();
    client.send(get("/backlog"));
    let mut stream = Stream::accept(client);
    let token = backend.connect("/backlog").token().to_owned();
    // More than both kernels buffer, so that bytes are unsent when the clock jumps.
    let data = "x".repeat(64 * 1024);
    let body = serde_json::json!({"token": token, "event": {"data": data}}).to_string();
    let mut sender = gateway.client();
    const EVENTS: usize = 150;
    for _ in 0..EVENTS {
        assert_json(&sender.exchange(send_request(&body)), 200, OK);
    }
    stop(&gateway);
    let start = Instant::now();
    // The kernels' buffers are read while the gateway is paused.
    stream.client.socket().set_read_timeout(Some(Duration::from_millis(50))).expect("a short timeout");
    let mut scratch = vec![0; 64 * 1024];
    while start.elapsed() < PAUSE {
        if let Ok(count) = stream.client.socket().read(&mut scratch) {
            assert_ne!(count, 0, "the stream ended");
            stream.client.buffer.extend_from_slice(&scratch[..count]);
        }
    }
    stream.client.socket().set_read_timeout(Some(PATIENCE)).expect("a long timeout");
    assert!(stream.client.buffer.len() < EVENTS * data.len(), "nothing was unsent");
    gateway.signal(SIGCONT);
    for _ in 0..EVENTS {
        assert_eq!(stream.event().len(), data.len() + "data: \n\n".len());
    }
    assert_json(&gateway.close(&token), 200, OK);
    stream.assert_ended();
    gateway.drain();
    assert_eq!(backend.disconnect(&token).reason(), "server_closed");
}

#[test]
fn a_request_that_arrives_during_a_pause_is_answered() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("REQUEST_TIMEOUT_SECONDS", 2).start();
    let mut kept = gateway.client();
    kept.assert_open();
    let mut half = Client::open(gateway.port, "GET /healthz HTTP/1.1\r\nHost: h\r\n");
    kept.assert_open();
    stop(&gateway);
    kept.send(get("/healthz"));
    half.send("\r\n");
    std::thread::sleep(PAUSE);
    gateway.signal(SIGCONT);
    assert_eq!(kept.response().status, 200);
    assert_eq!(half.response().status, 200, "it was complete in time");
    gateway.drain();
}

#[test]
fn connects_answered_during_a_pause_are_accepted() {
    const CONNECTS: usize = 40;
    const LONG: Duration = Duration::from_secs(8);
    let gate = Gate::new();
    let answer = Answer::ok().after(&gate);
    let backend = Backend::new(move |call| if call.action() == "connect" { answer.clone() } else { Answer::ok() });
    let mut gateway = Gateway::start(&backend);
    let clients: Vec<Client> = (0..CONNECTS).map(|n| Client::open(gateway.port, get(&format!("/{n}")))).collect();
    // The others wait until the gateway knows what the backend can take.
    eventually("the backend has received several of them", || backend.count("connect") > 4);
    stop(&gateway);
    gate.open();
    std::thread::sleep(LONG);
    gateway.signal(SIGCONT);
    let statuses: Vec<u16> = clients.into_iter().map(|mut client| client.head().status).collect();
    let accepted = statuses.iter().filter(|status| **status == 200).count();
    report(&format!("{CONNECTS} connects answered while the gateway stood still for {LONG:?}: {accepted} accepted"));
    assert_eq!(accepted, CONNECTS, "{statuses:?}");
    gateway.drain();
    assert_eq!(backend.count("disconnect"), CONNECTS);
}

#[test]
fn thousands_of_requests_that_arrive_during_a_pause_are_answered() {
    const CLIENTS: usize = 4_000;
    const LONG: Duration = Duration::from_secs(7);
    sys::raise_descriptor_limit();
    let mut gateway = Gateway::builder().set("REQUEST_TIMEOUT_SECONDS", 5).set("KEEPALIVE_TIMEOUT_SECONDS", 5).start();
    // Half of them have sent a request before.
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client()).collect();
    clients.iter_mut().step_by(2).for_each(Client::assert_open);
    stop(&gateway);
    clients.iter_mut().for_each(|client| client.send(get("/healthz")));
    std::thread::sleep(LONG);
    gateway.signal(SIGCONT);
    let answered = clients.iter_mut().filter_map(|client| client.try_read_until(b"\r\n\r\n")).count();
    report(&format!("{CLIENTS} requests that came while the gateway stood still for {LONG:?}: {answered} answered"));
    assert_eq!(answered, CLIENTS);
    drop(clients);
    gateway.drain();
}
