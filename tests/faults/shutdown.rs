//! SIGTERM under load and faults: the process always ends in time, with the right exit status.
//!
//! The files of the log's pipes and of the vanished host have their own shutdown tests.

use crate::common::{
    Answer, Backend, Builder, Client, Gate, Gateway, Ledger, SIGCONT, SIGSTOP, SIGTERM, Stream, Verdict, eventually,
    get, send_request, sys,
};
use crate::report;
use std::fs::{self, File};
use std::io::PipeWriter;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Allowed on top of the contract's time, for a loaded machine.
const SLACK: Duration = Duration::from_secs(3);

/// Sends SIGTERM; asserts the exit status and the time.
#[track_caller]
fn assert_ends(state: &str, gateway: &mut Gateway, code: i32, within: Duration) {
    let start = Instant::now();
    gateway.signal(SIGTERM);
    assert_exit(state, gateway, code, within, start);
}

#[track_caller]
fn assert_exit(state: &str, gateway: &mut Gateway, code: i32, within: Duration, start: Instant) {
    assert_eq!(gateway.exit_code(), Some(code), "{state}: {}", gateway.log());
    let took = start.elapsed();
    assert!(took < within + SLACK, "{state}: {took:?}");
    report(&format!("SIGTERM, {state}: exit {code} after {took:?}"));
}

/// A gateway and a backend with a ledger.
fn with_ledger(configure: impl Fn(Builder) -> Builder) -> (Backend, Gateway, Ledger) {
    let ledger = Ledger::default();
    let entries = ledger.clone();
    let backend = Backend::new(move |call| {
        entries.enter(call, Verdict::Accepted);
        Answer::ok()
    });
    let gateway = configure(Gateway::for_backend(&backend)).start();
    (backend, gateway, ledger)
}

#[test]
fn among_readers_that_do_not_read() {
    const TIMEOUT: u64 = 2;
    let (backend, mut gateway, ledger) = with_ledger(|builder| {
        builder.set("SHUTDOWN_TIMEOUT_SECONDS", TIMEOUT).set("MAX_PENDING_BYTES", 64 * 1024 * 1024)
    });
    let mut lazy = Vec::new();
    for n in 0..5 {
        let mut client = gateway.client();
        client.take_little();
        client.send(get(&format!("/{n}")));
        lazy.push(Stream::accept(client));
        let token = backend.connect(&format!("/{n}")).token().to_owned();
        let data = "x".repeat(64 * 1024);
        let body = serde_json::json!({"token": token, "event": {"data": data}}).to_string();
        let mut sender = gateway.client();
        for _ in 0..100 {
            assert_eq!(sender.exchange(send_request(&body)).status, 200);
        }
    }
    // The queued bytes cannot be delivered, and the exit status reports that.
    assert_ends("readers that do not read", &mut gateway, 1, Duration::from_secs(TIMEOUT));
    ledger.assert_settled();
}

#[test]
fn among_slow_requests_and_silent_connections() {
    let (_backend, mut gateway, _) = with_ledger(|builder| builder);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..100 {
        clients.push(gateway.client());
        clients.push(Client::open(gateway.port, "GET /slow HTTP/1.1\r\nHost: h\r\nX: "));
        clients.push(Client::open(
            gateway.port,
            "POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{",
        ));
    }
    let mut last = gateway.client();
    last.assert_open();
    assert_ends("300 slow requests and silent connections", &mut gateway, 0, Duration::from_secs(2));
    for mut client in clients {
        let answer = client.rest_or_reset();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn without_descriptors() {
    let (_backend, mut gateway, _) = with_ledger(|builder| builder);
    let streams: Vec<Stream> = (0..20).map(|n| gateway.open(&format!("/{n}"))).collect();
    sys::limit_descriptors(gateway.pid(), 64);
    let crowd: Vec<Client> = (0..200).map(|_| gateway.client()).collect();
    gateway.log_line(&["accepting paused"]);
    assert_ends("no descriptor left", &mut gateway, 0, Duration::from_secs(2));
    for stream in streams {
        stream.assert_drained(6_000);
    }
    drop(crowd);
}

#[test]
fn in_a_stampede() {
    let ledger = Ledger::default();
    let entries = ledger.clone();
    let backend = Backend::new(move |call| {
        entries.enter(call, Verdict::Accepted);
        Answer::ok().delayed(Duration::from_millis(40))
    });
    let mut gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 32).start();
    let crowd: Vec<Client> = (0..500).map(|n| Client::open(gateway.port, get(&format!("/{n}")))).collect();
    eventually("some are streams", || ledger.sums().accepted > 100);
    assert_ends("500 connects in flight", &mut gateway, 0, Duration::from_secs(2));
    ledger.assert_settled();
    for mut client in crowd {
        // Each gets the end of a stream or an answer. A client that was never accepted is reset.
        let answer = client.rest_or_reset();
        let start = String::from_utf8_lossy(&answer[..answer.len().min(13)]).into_owned();
        assert!(["", "HTTP/1.1 200 ", "HTTP/1.1 503 "].contains(&start.as_str()), "{start:?}");
    }
}

#[test]
fn with_a_silent_backend() {
    let backend = Backend::new(|call| if call.url() == "/open" { Answer::ok() } else { Answer::silence() });
    let builder = Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 1);
    // Half of it is reserved for late answers.
    let mut gateway = builder.set("SHUTDOWN_TIMEOUT_SECONDS", 4).start();
    let stream = gateway.open("/open");
    let clients: Vec<Client> = (0..20).map(|n| Client::open(gateway.port, get(&format!("/{n}")))).collect();
    // The concurrency stays low for a backend that has hardly answered yet.
    eventually("seven connects have arrived", || backend.count("connect") == 8);
    assert_ends("a silent backend", &mut gateway, 0, Duration::from_secs(3));
    stream.assert_drained(6_000);
    assert_eq!(backend.count("disconnect"), 8, "each of them may have been accepted");
    drop(clients);
}

#[test]
fn with_a_backend_that_outlasts_the_drain() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let mut gateway =
        Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 60).set("SHUTDOWN_TIMEOUT_SECONDS", 1).start();
    let client = Client::open(gateway.port, get("/x"));
    backend.connect("/x");
    assert_ends("a backend slower than the drain", &mut gateway, 1, Duration::from_secs(1));
    gate.open();
    drop(client);
}

#[test]
fn with_a_dead_backend_and_with_one_that_answers_garbage() {
    let (backend, mut gateway, _) = with_ledger(|builder| builder);
    let streams: Vec<Stream> = (0..50).map(|n| gateway.open(&format!("/{n}"))).collect();
    backend.shut();
    assert_ends("a dead backend", &mut gateway, 0, Duration::from_secs(2));
    for stream in streams {
        stream.assert_drained(6_000);
    }
    let nonsense = Answer::raw("\0\r\n\r\nnonsense");
    let backend = Backend::new(move |call| if call.action() == "connect" { Answer::ok() } else { nonsense.clone() });
    let mut gateway = Gateway::start(&backend);
    let streams: Vec<Stream> = (0..50).map(|n| gateway.open(&format!("/{n}"))).collect();
    assert_ends("a backend that answers garbage", &mut gateway, 0, Duration::from_secs(2));
    assert_eq!(backend.count("disconnect"), 50);
    for stream in streams {
        stream.assert_drained(6_000);
    }
}

#[test]
fn while_it_is_paused() {
    let (_backend, mut gateway, ledger) = with_ledger(|builder| builder);
    let streams: Vec<Stream> = (0..20).map(|n| gateway.open(&format!("/{n}"))).collect();
    gateway.signal(SIGSTOP);
    gateway.signal(SIGTERM);
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    gateway.signal(SIGCONT);
    assert_exit("sent while stopped", &mut gateway, 0, Duration::from_secs(2), start);
    for stream in streams {
        stream.assert_drained(6_000);
    }
    ledger.assert_settled();
}

#[test]
fn under_senders_that_never_pause() {
    let (backend, mut gateway, ledger) = with_ledger(|builder| builder);
    let (stream, token) = gateway.open_with(&backend, "/x");
    let port = gateway.port;
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let batch = send_request(&format!(r#"{{"token":"{token}","event":{{"data":"x"}}}}"#)).repeat(20);
            std::thread::spawn(move || {
                let mut sender = Client::connect(port);
                while sender.try_send(&batch).is_ok() && sender.fill() > 0 {
                    sender.buffer.clear();
                }
            })
        })
        .collect();
    let reader = std::thread::spawn(move || stream.finish());
    eventually("they are sending", || {
        crate::common::process::processor_time(gateway.pid()) > Duration::from_millis(100)
    });
    assert_ends("senders that never pause", &mut gateway, 0, Duration::from_secs(2));
    let finish = reader.join().expect("the stream is read");
    assert!(finish.clean, "the stream ends cleanly");
    let rest = finish.text.replace("data: x\n\n", "");
    assert!(rest.starts_with("retry: ") && rest.lines().count() == 2, "whole frames only: {rest}");
    senders.into_iter().for_each(|sender| sender.join().expect("a sender ends"));
    ledger.assert_settled();
}

#[test]
fn with_a_backend_too_slow_for_all_disconnects() {
    const STREAMS: usize = 2_000;
    /// Callbacks in flight at once.
    const CONCURRENCY: usize = 128;
    let slow = Answer::ok().delayed(Duration::from_millis(400));
    let backend = Backend::new(move |call| if call.action() == "connect" { Answer::ok() } else { slow.clone() });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drain.log");
    let log = File::create(&path).expect("a file for the log");
    let builder = Gateway::for_backend(&backend).set("SHUTDOWN_TIMEOUT_SECONDS", 2);
    let mut gateway = builder.stderr(PipeWriter::from(OwnedFd::from(log))).start();
    let streams: Vec<Stream> = (0..STREAMS).map(|n| gateway.open(&format!("/{n}"))).collect();
    assert_ends("disconnects that take too long", &mut gateway, 1, Duration::from_secs(2));
    for stream in streams {
        stream.assert_drained(6_000);
    }
    let text = fs::read_to_string(&path).expect("the log");
    let line = text.lines().find(|line| line.contains("stopped")).expect("a last line");
    let left = line.split_once("disconnects_left=").map(|(_, count)| count.split(' ').next().unwrap_or_default());
    let left: usize = left.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no number: {line}"));
    // Those in flight at the end have reached the backend and still count as left.
    let (made, answered) = (backend.count("disconnect"), STREAMS - left);
    assert!(answered <= made && made <= answered + CONCURRENCY, "{made} made, {left} of {STREAMS} left");
    assert!(line.contains("streams_left=0"), "{line}");
    assert_eq!(text.matches("stream closed").count(), STREAMS, "every line is there");
    assert!(!text.contains("log lines dropped"));
    report(&format!("a drain of {STREAMS} streams with a backend of 0.4 s: {left} disconnects left, and logged"));
}
