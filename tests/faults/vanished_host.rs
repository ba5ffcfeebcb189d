//! A client's host that vanishes without a FIN: its link is down, and the kernel keeps retransmitting.
//!
//! Two network namespaces joined by a virtual cable, so the machine's own network is not touched. They end with the
//! threads that use them.

use crate::common::{Backend, Client, Gateway, OK, Stream, assert_json, get, sys};
use crate::healthy::Healthy;
use crate::report;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The intervals of retransmissions double, and the kernel checks the timeout only then.
const SLACK: Duration = Duration::from_secs(4);
const GATEWAY_ADDRESS: [u8; 4] = [10, 77, 0, 1];

/// Runs `ip` in this thread's network namespace.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The far side: a thread in a network namespace of its own that runs jobs.
struct Far {
    thread_id: u32,
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Far {
    fn start() -> Self {
        let (jobs, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            tell.send(sys::leave_network().expect("a second network")).expect("the receiver exists");
            todo.into_iter().for_each(|job| job());
        });
        Self { thread_id: told.recv().expect("it starts"), jobs }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = move || {
            let _ = tell.send(job());
        };
        self.jobs.send(Box::new(job)).expect("it runs");
        told.recv().expect("the job ends")
    }
}

/// The setup around the vanished host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// The kernel has forgotten the host's hardware address, gets no ARP reply and reports it unreachable.
    Unreachable,
    Sigterm,
}

fn vanish(beside: Beside) {
    // The kernel sends three ARP requests, a second apart, before it reports the host unreachable.
    let client_timeout = Duration::from_secs(if beside == Beside::Unreachable { 6 } else { 2 });
    ip("link set lo up");
    let far = Far::start();
    ip(&format!("link add near type veth peer name far netns {}", far.thread_id));
    ip("addr add 10.77.0.1/30 dev near");
    ip("link set near up");
    far.run(|| {
        ip("addr add 10.77.0.2/30 dev far");
        ip("link set far up");
    });
    let backend = Backend::accepting();
    let mut gateway = Gateway::for_backend(&backend)
        .set("LISTEN_ADDRESS", "0.0.0.0")
        .set("HEARTBEAT_INTERVAL_SECONDS", 1)
        .set("CLIENT_TIMEOUT_SECONDS", client_timeout.as_secs())
        .start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let port = gateway.port;
    let distant = far.run(move || {
        let open = |target: &str| Stream::accept(Client::open_at((GATEWAY_ADDRESS, port).into(), get(target)));
        (open("/idle"), open("/busy"))
    });
    let idle_token = backend.connect("/idle").token().to_owned();
    let busy_token = backend.connect("/busy").token().to_owned();
    assert_json(&gateway.event(&busy_token, "before"), 200, OK);
    let (idle, mut busy) = distant;
    assert_eq!(busy.event(), "data: before\n\n");
    far.run(|| ip("link set far down"));
    let start = Instant::now();
    assert_json(&gateway.event(&busy_token, "into the void"), 200, OK);
    let what = match beside {
        Beside::Nothing => "a vanished host",
        Beside::Unreachable => {
            ip("neigh flush dev near");
            "a vanished host called unreachable"
        }
        Beside::Sigterm => {
            let seen = healthy.finish();
            gateway.drain();
            let took = start.elapsed();
            assert!(took < SLACK, "{took:?}");
            assert_eq!(backend.count("disconnect"), 3);
            return report(&format!("SIGTERM, a vanished host: exit 0 after {took:?}; {seen}"));
        }
    };
    for token in [busy_token, idle_token] {
        let call = backend.disconnect(&token);
        assert_eq!((call.reason(), call.detail()), ("error", Some("client_timeout")));
    }
    let took = start.elapsed();
    assert!(took < client_timeout + Duration::from_secs(1) + SLACK, "{took:?}");
    report(&format!("{what}: ended after {took:?}; {}", healthy.finish()));
    gateway.drain();
    assert_eq!(backend.count("disconnect"), 3);
    drop((idle, busy));
}

/// Runs in a network namespace of its own, if permitted.
fn isolated(test: fn()) {
    let thread = std::thread::spawn(move || match sys::leave_network() {
        Ok(_) => test(),
        Err(error) => report(&format!("SKIPPED: a vanished host: no network namespace to be had: {error}")),
    });
    thread.join().expect("the test passes");
}

#[test]
fn streams_of_a_vanished_host_are_ended() {
    isolated(|| vanish(Beside::Nothing));
}

#[test]
fn a_drain_does_not_wait_for_a_vanished_host() {
    isolated(|| vanish(Beside::Sigterm));
}

#[test]
fn streams_of_a_host_reported_unreachable_are_ended_the_same_way() {
    isolated(|| vanish(Beside::Unreachable));
}
