//! A soak test: thousands of streams open and close for minutes, with sends, slow readers, resets, garbage and a flaky
//! backend. No event may be lost, duplicated or out of order, and no resource usage may grow.
//!
//! Run by `make soak MINUTES=15`. Also settable: `SOAK_STREAMS`, `SOAK_RATE` (sends a second), `SOAK_SEED`. With
//! `SOAK_GATEWAYS` there are several gateways: see `hops`.

#[path = "../common/mod.rs"]
mod common;

mod backend;
mod crowd;
#[cfg(feature = "redis")]
mod hops;
mod pace;
mod reader;
mod senders;
mod visitor;

use common::{Gateway, Ledger, SIGTERM, process, sys};
use crowd::Crowd;
use std::time::{Duration, Instant};

/// Longest wait for all work to finish at the end.
const REST: Duration = Duration::from_secs(60);
/// Callback connections, and sockets that the gateway still holds for clients that have left.
const OTHER_DESCRIPTORS_MAX: usize = 128 + 64 + 256;
/// Normal fluctuation in callback connections.
const DESCRIPTORS_SLACK: usize = 48;
/// Memory of one callback thread; measured: 66.
const THREAD_KIB: usize = 80;
/// Callbacks in flight, connects whose late answers are awaited, and the rest.
const THREADS_MAX: usize = 128 + 64 + 8;

fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value:?} is not a number")),
        Err(_) => default,
    }
}

/// The process at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    descriptors: usize,
    /// Descriptors not used for the crowd's connections.
    other_descriptors: usize,
    threads: usize,
    rss_kib: usize,
}

impl Sample {
    fn take(pid: u32, connections: usize) -> Self {
        let descriptors = process::descriptors(pid);
        let other_descriptors = descriptors.saturating_sub(connections);
        Self { descriptors, other_descriptors, threads: process::threads(pid), rss_kib: process::rss_kib(pid) }
    }

    fn assert_within_limits(&self) {
        assert!(self.other_descriptors <= OTHER_DESCRIPTORS_MAX, "{self:?}");
        assert!(self.threads <= THREADS_MAX, "{} threads", self.threads);
    }

    fn mean(samples: &[Self]) -> Self {
        let mean = |field: fn(&Self) -> usize| samples.iter().map(field).sum::<usize>() / samples.len().max(1);
        Self {
            descriptors: mean(|sample| sample.descriptors),
            other_descriptors: mean(|sample| sample.other_descriptors),
            threads: mean(|sample| sample.threads),
            rss_kib: mean(|sample| sample.rss_kib),
        }
    }
}

fn main() {
    match setting("SOAK_GATEWAYS", 1) {
        1 => soak(),
        #[cfg(feature = "redis")]
        gateways => hops::run(gateways),
        #[cfg(not(feature = "redis"))]
        _ => panic!("a build without Redis has one gateway"),
    }
}

fn soak() {
    let minutes = setting("SOAK_MINUTES", 1);
    let streams = setting("SOAK_STREAMS", 5_000);
    let rate = setting("SOAK_RATE", 1_000);
    let seed = setting("SOAK_SEED", 1);
    let limit = sys::raise_descriptor_limit();
    assert!(limit as usize > streams + 500, "a descriptor limit of {limit} is too low for {streams} streams");
    let time = Duration::from_secs(minutes as u64 * 60);
    let lifetime = (time / 4).min(Duration::from_secs(60));
    println!("soak: {minutes} min, {streams} streams, mean lifetime {lifetime:?}, {rate} sends/s, seed {seed}");

    let ledger = Ledger::default();
    let (tell, news) = std::sync::mpsc::channel();
    let backend = backend::start(ledger.clone(), tell);
    let mut gateway = Gateway::for_backend(&backend)
        .set("HEARTBEAT_INTERVAL_SECONDS", 5)
        .set("REQUEST_TIMEOUT_SECONDS", 5)
        .set("MAX_PENDING_BYTES", 256 * 1024)
        // At warn, most lines about failed disconnects are suppressed.
        .set("LOG_LEVEL", "debug")
        .start();
    let idle = Sample::take(gateway.pid(), 0);
    let mut crowd = Crowd::new(gateway.port, streams, rate, lifetime, seed as u64, news);
    let samples = run(&mut crowd, &gateway, &ledger, time);
    assert_flat(&samples);
    finish(crowd, &mut gateway, &ledger, idle);
}

/// The busy part: a sample a second, a line every ten.
fn run(crowd: &mut Crowd, gateway: &Gateway, ledger: &Ledger, time: Duration) -> Vec<Sample> {
    let start = Instant::now();
    let mut samples = Vec::new();
    while start.elapsed() < time {
        crowd.turn();
        if start.elapsed().as_secs() as usize <= samples.len() {
            continue;
        }
        let sample = Sample::take(gateway.pid(), crowd.connections());
        sample.assert_within_limits();
        samples.push(sample);
        if samples.len() % 10 == 0 {
            print_line(crowd, ledger, samples.len(), sample);
            crowd.figures.slowest = Duration::ZERO;
        }
    }
    samples
}

fn print_line(crowd: &Crowd, ledger: &Ledger, seconds: usize, sample: Sample) {
    let (figures, sums) = (crowd.figures, ledger.sums());
    println!(
        "{seconds:>4} s  connections {} fds {} threads {} RSS {} KiB  visits {} opened {} refused {} dropped {}  \
         sends {} events {} slowest {:?}  accepted {} disconnects {}",
        crowd.connections(),
        sample.descriptors,
        sample.threads,
        sample.rss_kib,
        figures.visits,
        figures.opened,
        figures.refused,
        figures.dropped,
        figures.sends,
        figures.events,
        figures.slowest,
        sums.accepted + sums.unclear,
        sums.disconnects,
    );
}

/// Asserts that the first and the last third after the warm-up are alike.
fn assert_flat(samples: &[Sample]) {
    let warm = &samples[samples.len() / 4..];
    let third = warm.len() / 3;
    let (first, last) = (Sample::mean(&warm[..third]), Sample::mean(&warm[warm.len() - third..]));
    println!("after the warm-up: {first:?}\nat the end:        {last:?}");
    // Callback threads come and go with the load, up to their limit; each has its stack and buffers.
    let threads_kib = last.threads.saturating_sub(first.threads) * THREAD_KIB;
    assert!(last.rss_kib <= first.rss_kib + first.rss_kib / 10 + 2048 + threads_kib, "memory grows");
    assert!(last.other_descriptors <= first.other_descriptors + DESCRIPTORS_SLACK, "descriptors grow");
}

/// All work finishes, most clients leave, the rest are drained, and the ledger balances.
fn finish(mut crowd: Crowd, gateway: &mut Gateway, ledger: &Ledger, idle: Sample) {
    crowd.busy = false;
    until(&mut crowd, "every event has come", Crowd::is_settled);
    crowd.thin_out();
    let pid = gateway.pid();
    let held = crowd.connections() + idle.descriptors + 8;
    until(&mut crowd, "descriptors are released", |_| process::descriptors(pid) <= held);
    println!("most have left: {:?}", Sample::take(gateway.pid(), crowd.connections()));
    let streams = crowd.connections();
    let start = Instant::now();
    crowd.draining = true;
    gateway.signal(SIGTERM);
    until(&mut crowd, "every stream has ended", Crowd::is_empty);
    assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    println!("SIGTERM with {streams} connections: exit 0 after {:?}", start.elapsed());
    // A call that timed out may be read after the gateway has exited.
    let start = Instant::now();
    while ledger.sums().open > 0 && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    // On an overloaded machine a callback may time out before the backend has seen it. That is logged, and a logged
    // failure is not a silent loss.
    let log = gateway.log();
    let failed = ledger.assert_settled_but(|token| log.contains(&format!("disconnect callback failed token={token}")));
    let (figures, sums) = (crowd.figures, ledger.sums());
    println!("{figures:?}\n{sums:?}, disconnects that failed and were logged: {failed}");
    assert!(failed <= sums.accepted / 1000, "too many disconnects failed");
    assert_eq!(
        sums.accepted + sums.unclear,
        sums.disconnects + failed,
        "one for each connect that may have been accepted"
    );
    assert!(figures.opened <= sums.accepted, "a stream that was not accepted");
    println!("soak: all is well");
}

fn until(crowd: &mut Crowd, what: &str, done: impl Fn(&Crowd) -> bool) {
    let start = Instant::now();
    while !done(crowd) {
        assert!(start.elapsed() < REST, "never happened: {what}; {:?}", crowd.figures);
        crowd.turn();
    }
}
