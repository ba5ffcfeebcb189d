//! Senders whose connection the gateway ends: whatever they have written, they can read all answers due and then a
//! clean end, never a reset.

use crate::common::{Backend, Client, Gateway, SIGTERM, assert_error, eventually, send_request};
use crate::report;
use std::io::ErrorKind;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Results of senders that had written a request.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// An answer.
    answered: usize,
    /// The end of input instead: the gateway had ended the connection before.
    unanswered: usize,
    reset: usize,
}

impl Ends {
    fn count(&mut self, answer: &std::io::Result<Option<bool>>) {
        match answer {
            Ok(Some(_)) => self.answered += 1,
            Ok(None) => self.unanswered += 1,
            Err(_) => self.reset += 1,
        }
    }

    fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |sum, one| Self {
            answered: sum.answered + one.answered,
            unanswered: sum.unanswered + one.unanswered,
            reset: sum.reset + one.reset,
        })
    }
}

/// Sends a request and reads its answer; returns whether it is announced as the last one. `None`: no answer. Errors: a
/// reset.
fn exchange(client: &mut Client, request: &str) -> std::io::Result<Option<bool>> {
    client.try_send(request)?;
    match client.try_response() {
        Some(response) => Ok(Some(response.closes())),
        None if client.was_reset() => Err(ErrorKind::ConnectionReset.into()),
        None => Ok(None),
    }
}

/// Sends until the gateway ends the connection.
fn send_on(port: u16, request: String) -> JoinHandle<Ends> {
    let mut client = Client::connect(port);
    thread::spawn(move || {
        let mut ends = Ends::default();
        loop {
            let answer = exchange(&mut client, &request);
            match answer {
                Ok(Some(false)) => continue,
                Ok(Some(true)) => {
                    client.rest_or_reset();
                    let end = if client.was_reset() { Err(ErrorKind::ConnectionReset.into()) } else { answer };
                    ends.count(&end);
                }
                Ok(None) | Err(_) => ends.count(&answer),
            }
            return ends;
        }
    })
}

#[test]
fn a_drain_resets_no_sender() {
    const ROUNDS: usize = 10;
    const SENDERS: usize = 100;
    let backend = Backend::accepting();
    let mut all = Ends::default();
    for _ in 0..ROUNDS {
        let mut gateway = Gateway::start(&backend);
        let (stream, token) = gateway.open_with(&backend, "/x");
        let request = send_request(&format!(r#"{{"token":"{token}","event":{{"data":"x"}}}}"#));
        let reader = thread::spawn(move || stream.finish());
        let senders: Vec<_> = (0..SENDERS).map(|_| send_on(gateway.port, request.clone())).collect();
        thread::sleep(Duration::from_millis(50));
        gateway.signal(SIGTERM);
        let ends = senders.into_iter().map(|sender| sender.join().expect("a sender ends"));
        all = Ends::sum([all, Ends::sum(ends)]);
        assert!(reader.join().expect("the stream is read").clean, "the stream ends in order");
        assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    }
    report(&format!("{} senders at it when the gateway drains: {all:?}", ROUNDS * SENDERS));
    assert_eq!(all.reset, 0, "{all:?}");
}

#[test]
fn a_drain_answers_clients_who_have_just_connected() {
    const ROUNDS: usize = 10;
    const SENDERS: usize = 20;
    let backend = Backend::accepting();
    let (mut asked, mut lost) = (0, 0);
    for _ in 0..ROUNDS {
        let mut gateway = Gateway::start(&backend);
        let port = gateway.port;
        let senders: Vec<JoinHandle<(usize, usize)>> = (0..SENDERS)
            .map(|_| {
                thread::spawn(move || {
                    let (mut asked, mut lost) = (0, 0);
                    // Until the listener is closed.
                    while let Some(mut client) = Client::try_connect(port) {
                        asked += 1;
                        let answer = exchange(&mut client, &send_request(r#"{"token":"x"}"#));
                        lost += usize::from(!matches!(answer, Ok(Some(_))));
                    }
                    (asked, lost)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(50));
        gateway.signal(SIGTERM);
        for sender in senders {
            let (sent, without) = sender.join().expect("a sender ends");
            (asked, lost) = (asked + sent, lost + without);
        }
        assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    }
    report(&format!("{asked} requests on fresh connections around {ROUNDS} drains: {lost} without an answer"));
    // The kernel resets clients that connect between the last accept and the end of the listener: microseconds.
    assert!(lost <= ROUNDS, "{lost} of {asked}");
}

#[test]
fn the_idle_timer_resets_no_sender() {
    const ROUNDS: u64 = 4;
    const SENDERS: u64 = 300;
    let gateway = Gateway::builder().set("KEEPALIVE_TIMEOUT_SECONDS", 1).start();
    let port = gateway.port;
    let senders: Vec<JoinHandle<Ends>> = (0..SENDERS)
        .map(|n| {
            thread::spawn(move || {
                let request = send_request(r#"{"token":"x"}"#);
                let mut ends = Ends::default();
                for round in 0..ROUNDS {
                    let mut client = Client::connect(port);
                    assert_eq!(exchange(&mut client, &request).expect("an answer"), Some(false));
                    // Each slightly later than the previous one, from just before the timeout to just after it.
                    thread::sleep(Duration::from_millis(990) + Duration::from_micros((n * ROUNDS + round) * 30));
                    ends.count(&exchange(&mut client, &request));
                }
                ends
            })
        })
        .collect();
    let all = Ends::sum(senders.into_iter().map(|sender| sender.join().expect("a sender ends")));
    report(&format!("{} requests around the idle timer: {all:?}", ROUNDS * SENDERS));
    assert_eq!(all.reset, 0, "{all:?}");
}

#[test]
fn an_upload_that_goes_on_reads_its_refusal() {
    const TIME: Duration = Duration::from_secs(4);
    let gateway = Gateway::builder().set("MAX_BODY_BYTES", 64 * 1024).start();
    let mut client = gateway.client();
    client.send("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n");
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < TIME {
        client.try_send([b'x'; 16 * 1024]).unwrap_or_else(|error| panic!("{error} after {:?}", start.elapsed()));
        sent += 16;
        thread::sleep(Duration::from_millis(20));
    }
    assert_error(&client.response(), 413);
    let (silent, descriptors) = (Instant::now(), gateway.descriptors());
    eventually("the gateway gives a silent client up", || gateway.descriptors() < descriptors);
    let took = silent.elapsed();
    report(&format!("a refused upload of {sent} KiB in {TIME:?} read its 413; closed {took:?} behind its last byte"));
    assert!(took > Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_refused_upload_without_an_end_is_given_up() {
    const TIME_MAX: Duration = Duration::from_secs(30);
    let gateway = Gateway::builder().set("MAX_BODY_BYTES", 1024).start();
    let mut client = gateway.client();
    client.send("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n");
    let start = Instant::now();
    while client.try_send("x").is_ok() {
        assert!(start.elapsed() < 2 * TIME_MAX, "it continues forever");
        thread::sleep(Duration::from_millis(100));
    }
    let took = start.elapsed();
    report(&format!("a refused upload that never ends: given up after {took:?}"));
    assert!(took > TIME_MAX.mul_f32(0.9) && took < TIME_MAX + Duration::from_secs(5), "{took:?}");
}
