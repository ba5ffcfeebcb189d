//! A stampede: all clients connect at once, and leave again.

use crate::common::{Answer, Backend, Client, Gateway, Ledger, Verdict, eventually, get, process, sys};
use crate::few_workers::storm;
use crate::healthy::Healthy;
use crate::report;
use std::time::Duration;

const CLIENTS: usize = 2000;

#[test]
fn two_thousand_connects_that_are_reset_leave_nothing_behind() {
    sys::raise_descriptor_limit();
    let ledger = Ledger::default();
    let entries = ledger.clone();
    let backend = Backend::new(move |call| {
        if call.url() == "/healthy" {
            return Answer::ok();
        }
        // One in five is rejected.
        let rejected = call.url().ends_with(['3', '7']);
        entries.enter(call, if rejected { Verdict::Rejected } else { Verdict::Accepted });
        let answer = if call.action() == "connect" && rejected { Answer::status(403) } else { Answer::ok() };
        answer.delayed(Duration::from_millis(40))
    });
    let mut gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 64).start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let descriptors = gateway.descriptors();
    let threads = process::threads(gateway.pid());
    let mut memory = Vec::new();
    // Reset as early as possible, in the middle, and when nearly all of them are streams.
    for (round, seen) in [0, 700, 1900].into_iter().enumerate() {
        let already = answered(&ledger);
        let crowd: Vec<Client> =
            (0..CLIENTS).map(|n| Client::open(gateway.port, get(&format!("/{round}/{n}")))).collect();
        eventually("enough of them have connected", || answered(&ledger) >= already + seen);
        for client in crowd {
            client.reset();
        }
        eventually("their sockets are closed", || gateway.descriptors() <= descriptors + 70);
        eventually("every accepted one has its disconnect", || ledger.sums().open == 0);
        memory.push(process::rss_kib(gateway.pid()));
    }
    eventually("descriptors and threads are back", || {
        gateway.descriptors() <= descriptors + 2 && process::threads(gateway.pid()) <= threads + 2
    });
    let seen = healthy.finish();
    gateway.drain();
    ledger.assert_settled();
    let sums = ledger.sums();
    assert_eq!(sums.accepted, sums.disconnects);
    assert!(memory[2] < memory[0] + 8 * 1024, "KiB after each round: {memory:?}");
    report(&format!("3 x {CLIENTS} connects reset: {sums:?}, RSS KiB after each {memory:?}; {seen}"));
}

fn answered(ledger: &Ledger) -> usize {
    let sums = ledger.sums();
    sums.accepted + sums.rejected
}

/// The first answers show that all calls can be made at once.
#[test]
fn five_thousand_connects_are_asked_about_at_once() {
    const CLIENTS: usize = 5000;
    sys::raise_descriptor_limit();
    let backend = Backend::forgetful(|_| Answer::ok().delayed(Duration::from_millis(20)));
    let gateway = Gateway::for_backend(&backend).set("LOG_LEVEL", "warn").start();
    let (streams, took, clients) = storm(&gateway, CLIENTS);
    report(&format!("20 ms, all at once: {streams} streams of {CLIENTS} in {took:.2?}"));
    assert_eq!(streams, CLIENTS);
    drop(clients);
}
