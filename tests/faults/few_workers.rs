//! A backend with fewer workers than clients: every client gets a stream, in the time that the backend needs.

use crate::common::{Answer, Backend, Gateway, get, sys};
use crate::report;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const CLIENTS: usize = 600;

/// One call at a time, each on a connection of its own.
fn answer(pause: Duration) -> Answer {
    Answer::new(200, &[("Connection", "close")], "").delayed(pause)
}

/// That many clients at once; returns how many get a stream, and when the last one is answered.
pub(crate) fn storm(gateway: &Gateway, count: usize) -> (usize, Duration, Vec<TcpStream>) {
    let start = Instant::now();
    let mut clients: Vec<TcpStream> = (0..count)
        .map(|n| {
            let mut client = TcpStream::connect(("127.0.0.1", gateway.port)).expect("a connection");
            client.write_all(get(&format!("/{n}")).as_bytes()).expect("a request");
            client
        })
        .collect();
    let mut streams = 0;
    for client in &mut clients {
        client.set_read_timeout(Some(Duration::from_secs(90))).expect("a timeout");
        let mut status = [0; 12];
        client.read_exact(&mut status).expect("an answer");
        streams += usize::from(status == *b"HTTP/1.1 200");
    }
    (streams, start.elapsed(), clients)
}

fn all_get_a_stream(
    what: &str,
    workers: usize,
    needed: Duration,
    pause: impl Fn(Instant) -> Duration + Send + Sync + 'static,
) {
    sys::raise_descriptor_limit();
    let start = Instant::now();
    let backend = Backend::with_workers(workers, move |_| answer(pause(start)));
    let gateway = Gateway::start(&backend);
    let (streams, took, clients) = storm(&gateway, CLIENTS);
    let calls = backend.count("connect");
    report(&format!("{what}: {streams} streams of {CLIENTS}, {calls} callbacks, in {took:.1?} of {needed:.1?}"));
    assert_eq!((streams, calls), (CLIENTS, CLIENTS));
    assert!(took < needed * 115 / 100, "{took:?}, and the backend needs {needed:?}");
    drop(clients);
}

#[test]
fn four_workers() {
    all_get_a_stream("4 workers of 0.2 s", 4, Duration::from_secs(30), |_| Duration::from_millis(200));
}

#[test]
fn one_worker() {
    all_get_a_stream("1 worker of 0.045 s", 1, Duration::from_secs(27), |_| Duration::from_millis(45));
}

#[test]
fn sixty_four_workers() {
    all_get_a_stream("64 workers of 0.2 s", 64, Duration::from_secs(2), |_| Duration::from_millis(200));
}

/// Twice as fast, as fast as before, half as fast, and so on, each for two seconds.
#[test]
fn workers_that_change_their_speed() {
    all_get_a_stream("4 workers of 0.1 to 0.4 s", 4, Duration::from_secs(28), |start| {
        let pauses = [200, 100, 200, 400];
        Duration::from_millis(pauses[start.elapsed().as_secs() as usize / 2 % pauses.len()])
    });
}
