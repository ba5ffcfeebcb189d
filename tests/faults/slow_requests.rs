//! Slow requests: slow heads, slow bodies, and silent connections.

use crate::common::{Backend, Client, Gateway, assert_error, eventually};
use crate::healthy::Healthy;
use crate::report;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(2);
/// After the 408 a connection is closed once the client has closed, or slightly later.
const SLACK: Duration = Duration::from_secs(3);
/// Connections of each kind.
const CONNECTIONS: usize = 300;
const PACE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Head,
    Body,
    Chunks,
    Silent,
}

struct Slow {
    kind: Kind,
    client: Client,
    since: Instant,
    answer: Vec<u8>,
    ended: Option<Duration>,
}

impl Slow {
    fn start(gateway: &Gateway, kind: Kind) -> Self {
        let since = Instant::now();
        let mut client = gateway.client();
        let start = match kind {
            Kind::Head => "GET /slow HTTP/1.1\r\nHost: h\r\nX-Slow: ",
            Kind::Body => "POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{",
            Kind::Chunks => "POST /internal/send HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3E8\r\n{",
            Kind::Silent => "",
        };
        client.send(start);
        client.socket().set_nonblocking(true).expect("nonblocking");
        Self { kind, client, since, answer: Vec::new(), ended: None }
    }

    /// Sends one more byte, and reads any output of the gateway.
    fn drip(&mut self) {
        if self.kind != Kind::Silent {
            let _ = self.client.socket().write(b"x");
        }
        let mut scratch = [0; 4096];
        loop {
            match self.client.socket().read(&mut scratch) {
                Ok(0) => break,
                Ok(count) => self.answer.extend_from_slice(&scratch[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.ended = Some(self.since.elapsed());
    }
}

#[test]
fn slow_requests_end_in_time_and_affect_no_other() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend).set("REQUEST_TIMEOUT_SECONDS", TIMEOUT.as_secs()).start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let before = gateway.descriptors();
    let mut slow: Vec<Slow> = [Kind::Head, Kind::Body, Kind::Chunks, Kind::Silent]
        .into_iter()
        .flat_map(|kind| [kind; CONNECTIONS])
        .map(|kind| Slow::start(&gateway, kind))
        .collect();
    while slow.iter().any(|slow| slow.ended.is_none()) {
        for slow in slow.iter_mut().filter(|slow| slow.ended.is_none()) {
            slow.drip();
            assert!(slow.since.elapsed() < TIMEOUT + SLACK, "{:?} goes on", slow.kind);
        }
        std::thread::sleep(PACE);
    }
    let mut times: Vec<Duration> = Vec::new();
    for slow in slow {
        times.extend(slow.ended);
        if slow.kind == Kind::Silent {
            assert!(slow.answer.is_empty(), "{:?}", String::from_utf8_lossy(&slow.answer));
            continue;
        }
        // A reset may overtake an unread answer, but not come early.
        if !slow.answer.is_empty() {
            let mut client = slow.client;
            client.buffer = slow.answer;
            assert_error(&client.response(), 408);
        }
    }
    let (first, last) = (times.iter().min().copied(), times.iter().max().copied());
    assert!(first >= Some(TIMEOUT.mul_f32(0.9)), "one ended after {first:?}");
    eventually("their sockets are closed", || gateway.descriptors() <= before + 2);
    let seen = healthy.finish();
    report(&format!("{} slow connections ended after {first:?} to {last:?}; {seen}", times.len()));
    assert_eq!(backend.count("connect"), 1, "no incomplete request reaches the backend");
    gateway.drain();
}
