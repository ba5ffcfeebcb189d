//! Backends that answer with garbage, partial or slow answers, floods, or nothing.

use crate::common::{
    Answer, Backend, Call, Client, Gateway, Ledger, Step, Stream, Verdict, eventually, get, process, sys,
};
use crate::healthy::Healthy;
use crate::report;

/// The most late answers that the gateway awaits.
const LATE_MAX: usize = 64;

/// A million bytes of a body in pieces.
static FLOOD: [u8; 64 * 1024] = [b' '; 64 * 1024];

/// The effect of a kind of answer to a connect: the client's status, and the backend's possible view.
struct Kind {
    name: &'static str,
    answer: Answer,
    status: u16,
    verdict: Verdict,
}

fn kinds() -> Vec<Kind> {
    let accepted = |name, answer| Kind { name, answer, status: 200, verdict: Verdict::Accepted };
    let rejected = |name, status| Kind {
        name,
        answer: Answer::new(status, &[("Location", "/let-me-in")], "x"),
        status,
        verdict: Verdict::Rejected,
    };
    let unclear = |name, status, answer| Kind { name, answer, status, verdict: Verdict::Unclear };
    let filler = "X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(1000);
    vec![
        accepted("fine", Answer::ok()),
        accepted("body-drips", Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").then(Step::Drip(b" "))),
        accepted("body-is-endless", Answer::raw("HTTP/1.1 200 OK\r\n\r\n").then(Step::Drip(&FLOOD))),
        accepted("body-is-cut", Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{").then(Step::Close)),
        accepted(
            "interim-first",
            Answer::raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
                .then(Step::Write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec())),
        ),
        rejected("moved", 301),
        rejected("found", 302),
        rejected("redirect", 307),
        rejected("forbidden", 403),
        rejected("broken", 500),
        unclear("garbage", 503, Answer::raw("\0\u{ff}\r\nthis is not HTTP\r\n\r\n").then(Step::Close)),
        unclear("half-a-head", 503, Answer::raw("HTTP/1.1 200 OK\r\nContent-Le").then(Step::Close)),
        unclear("head-stops", 504, Answer::raw("HTTP/1.1 200 OK\r\nContent-Le").then(Step::Hang)),
        unclear("head-drips", 504, Answer::raw("HTTP/1.1 200 OK\r\nX-Drip: ").then(Step::Drip(b"x"))),
        unclear("head-is-endless", 503, Answer::raw(format!("HTTP/1.1 200 OK\r\n{filler}")).then(Step::Hang)),
        unclear("nothing", 504, Answer::silence()),
        unclear("only-interim", 504, Answer::raw("HTTP/1.1 100 Continue\r\n\r\n").then(Step::Hang)),
        unclear("other-protocol", 503, Answer::raw("HTTP/1.1 101 Switching Protocols\r\n\r\n").then(Step::Hang)),
        unclear("closed", 503, Answer::close()),
        unclear("reset", 503, Answer::reset()),
    ]
}

/// The kind that a URL like `/garbage/7` selects.
fn kind_of<'a>(kinds: &'a [Kind], call: &Call) -> Option<&'a Kind> {
    let name = call.url().split('/').nth(1)?;
    kinds.iter().find(|kind| kind.name == name)
}

#[test]
fn odd_answers_do_not_affect_other_streams() {
    const CLIENTS: usize = 24;
    sys::raise_descriptor_limit();
    let ledger = Ledger::default();
    let entries = ledger.clone();
    let scripts = kinds();
    let backend = Backend::new(move |call| {
        let Some(kind) = kind_of(&scripts, call) else { return Answer::ok() };
        entries.enter(call, kind.verdict);
        match (call.action(), kind.name) {
            // After a close without a byte it may correctly be retried, which the ledger could not tell from a
            // duplicate.
            ("disconnect", "closed" | "reset") => Answer::ok(),
            // The drain sends many of these at once; each would take the whole timeout.
            ("disconnect", _) if kind.status == 504 => Answer::ok(),
            _ => kind.answer.clone(),
        }
    });
    let mut gateway = Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 1).start();
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let (descriptors, before) = (gateway.descriptors(), process::rss_kib(gateway.pid()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let port = gateway.port;
            std::thread::spawn(move || visit_all(port, n))
        })
        .collect();
    let streams: usize = clients.into_iter().map(|client| client.join().expect("every kind as expected")).sum();
    assert_eq!(streams, CLIENTS * kinds().iter().filter(|kind| kind.status == 200).count());
    eventually("every disconnect is made but those that wait for a late answer", || ledger.sums().open <= LATE_MAX);
    eventually("descriptors are back", || gateway.descriptors() <= descriptors + 4 + LATE_MAX);
    let peak = process::peak_rss_kib(gateway.pid());
    // At most 1 MiB of an endless body is read, into a buffer that doubles.
    assert!(peak < before + CLIENTS * 3 * 1024, "{peak} KiB, from {before}");
    let seen = healthy.finish();
    gateway.drain();
    ledger.assert_settled();
    report(&format!("odd answers: {:?}, RSS KiB {before}, peak {peak}; {seen}", ledger.sums()));
}

/// Requests every kind once; returns the number of streams.
fn visit_all(port: u16, n: usize) -> usize {
    let mut streams = 0;
    let kinds = kinds();
    let (tail, head) = kinds.split_at(n % kinds.len());
    for kind in head.iter().chain(tail) {
        let mut client = Client::open(port, get(&format!("/{}/{n}", kind.name)));
        if kind.status == 200 {
            drop(Stream::accept(client));
            streams += 1;
        } else {
            let response = client.response();
            assert_eq!(response.status, kind.status, "{}: {response:?}", kind.name);
        }
    }
    streams
}
