//! Callbacks that hang, beside others that the backend answers at once (contract, section 10).

mod common;

use common::{Answer, Backend, Client, Gate, Gateway, get};

const HANGING: &str = "/hanging";

/// A backend with a thread for each call. What is about a client of `HANGING` hangs until the gate opens, if `action` is
/// this one.
fn backend(action: &'static str, gate: &Gate) -> Backend {
    let gate = gate.clone();
    Backend::new(move |call| match call.url() {
        HANGING if call.action() == action => Answer::ok().after(&gate),
        _ => Answer::ok(),
    })
}

#[test]
fn connects_for_other_paths_go_on() {
    let gate = Gate::new();
    let backend = backend("connect", &gate);
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 10).start();
    // Far more than are in flight at first.
    let mut hanging: Vec<Client> = (0..40).map(|_| Client::open(gateway.port, get(HANGING))).collect();
    backend.connect(HANGING);
    for _ in 0..40 {
        let (stream, token) = gateway.open_with(&backend, "/x");
        assert_eq!(gateway.event(&token, "x").status, 200);
        drop(stream);
    }
    assert!(!gateway.log().contains("callback failed"), "none of them has waited for a timeout");
    gate.open();
    for client in &mut hanging {
        assert_eq!(client.head().status, 200);
    }
}

#[test]
fn a_drain_makes_all_other_disconnects() {
    const STREAMS: usize = 400;
    let gate = Gate::new();
    let backend = backend("disconnect", &gate);
    let mut gateway = Gateway::for_backend(&backend).start();
    // The drain begins with those that hang.
    let streams = (0..STREAMS).map(|n| gateway.open(if n < 30 || n % 10 == 0 { HANGING } else { "/x" }));
    let streams: Vec<_> = streams.collect();
    gateway.drain();
    assert_eq!(backend.count("disconnect"), streams.len());
    gate.open();
}
