//! The protocol under a counting allocator: in steady state events and heartbeats do not allocate, and a crowd's memory
//! is released.

#[path = "../benches/common/mod.rs"]
mod common;

use common::allocator::{self, Counting};
use common::requests::{Payload, push_send, push_send_to};
use common::streams::{Streams, token};
use ssegateway::callback::{Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, Gateway, Listener, Peer, Settings};
use ssegateway::job::{Completion, Job};
use ssegateway::timer::TICK_MS;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STREAMS: usize = 64;
const TURNS: usize = 100;

/// Allocations in that many turns after a warm-up of the buffers; each turn must write something.
fn allocations(mut turn: impl FnMut() -> usize) -> usize {
    for _ in 0..10 {
        turn();
    }
    let before = allocator::calls();
    let written: usize = (0..TURNS).map(|_| turn()).sum();
    assert!(written >= TURNS, "nothing was written");
    allocator::calls() - before
}

/// Batches of sends, each to as many streams.
fn allocations_of_sends(payload: Payload, depth: usize) -> usize {
    let data = payload.escaped();
    let mut batch = Vec::new();
    for n in 0..depth {
        push_send(&mut batch, &token(n as u128).to_string(), data.as_bytes());
    }
    let mut streams = Streams::open(STREAMS);
    allocations(|| streams.send(&batch))
}

#[test]
fn the_counter_counts() {
    let mut streams = Streams::open(STREAMS);
    assert_ne!(allocations(|| streams.connect_and_leave()), 0);
}

#[test]
fn an_event_allocates_nothing() {
    for depth in [1, 16, STREAMS] {
        assert_eq!(allocations_of_sends(Payload::Plain, depth), 0, "{depth} pipelined");
    }
}

#[test]
fn an_event_with_escapes_in_its_data_allocates_nothing() {
    for depth in [1, 16, STREAMS] {
        assert_eq!(allocations_of_sends(Payload::Json, depth), 0, "{depth} pipelined");
    }
}

#[test]
#[cfg(feature = "redis")]
fn a_send_over_redis_allocates_its_event_its_request_and_its_answer() {
    const DEPTH: usize = 16;
    let mut streams = Streams::open_over_redis(STREAMS, |n| format!(r#"{{"groups":["user:{n}"]}}"#));
    let mut batch = Vec::new();
    for n in 0..DEPTH {
        push_send_to(&mut batch, "group", &format!("user:{n}"), &[b'x'; 100]);
    }
    let mut answers = None;
    let count = allocations(|| streams.publish_over_redis(&batch, &mut answers));
    // Tables of requests grow and shrink meanwhile, and so does what is kept.
    let each = count as f64 / (DEPTH * TURNS) as f64;
    assert!(each < 4.0, "{each} allocations for each of them");
}

#[test]
fn a_heartbeat_allocates_nothing() {
    let mut streams = Streams::open(STREAMS);
    assert_eq!(allocations(|| streams.pass(15_000 + TICK_MS)), 0);
}

#[test]
fn what_many_full_sockets_refuse_of_a_large_event_is_kept_once() {
    const LARGE: usize = 100_000;
    let mut streams = Streams::open_with(STREAMS, |_| r#"{"groups":["a"]}"#.to_owned());
    let mut batch = Vec::new();
    push_send_to(&mut batch, "group", "a", &[b'x'; LARGE]);
    let before = allocator::bytes_in_use();
    let written = streams.publish_to_sockets_of(1_000, &batch);
    assert!(written >= STREAMS * 1_000, "{written} bytes were written");
    let kept = allocator::bytes_in_use().wrapping_sub(before);
    assert!(kept < 10 * LARGE, "{kept} bytes for {STREAMS} members");
}

/// Takes the gateway's callbacks and discards its other actions.
fn take_calls(gateway: &mut Gateway) -> Vec<Action> {
    let calls = std::iter::from_fn(|| gateway.next_action()).filter(|action| matches!(action, Action::Start(_)));
    calls.collect()
}

/// Accepts every connect and acknowledges every disconnect.
fn answer(gateway: &mut Gateway, mut calls: Vec<Action>) {
    while !calls.is_empty() {
        for action in calls {
            if let Action::Start(Job::Call(call)) = action {
                let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false };
                gateway.complete(Millis::ZERO, Completion::Called(Called { id: call.id, outcome }));
            }
        }
        calls = take_calls(gateway);
    }
}

#[test]
fn the_memory_of_a_crowd_is_released() {
    const CROWD: usize = 10_000;
    let settings = Settings { streams_max: CROWD, ..Settings::default() };
    let mut gateway = Gateway::new(settings, Millis::ZERO, 0);
    let before = allocator::bytes_in_use();
    let open = |n| {
        let id = gateway.accept(Millis::ZERO, Listener::Public, Peer::Remote, token(n)).expect("a connection");
        gateway.receive(Millis::ZERO, id, b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
        id
    };
    let ids: Vec<_> = (0..CROWD as u128).map(open).collect();
    let connects = take_calls(&mut gateway);
    answer(&mut gateway, connects);
    assert_eq!(gateway.stream_count(), CROWD);
    // None reads more than the first byte.
    while let Some(id) = gateway.next_dirty() {
        gateway.wrote(Millis::ZERO, id, 1);
    }
    // All of them leave, and their disconnects are queued.
    for id in ids {
        gateway.receive_eof(Millis::ZERO, id);
    }
    let disconnects = take_calls(&mut gateway);
    answer(&mut gateway, disconnects);
    while gateway.next_dirty().is_some() {}
    assert_eq!((gateway.connection_count(), gateway.call_count()), (0, 0));
    gateway.shrink();
    let kept = allocator::bytes_in_use().wrapping_sub(before);
    assert!(kept < 64 * 1024, "{kept} bytes of {CROWD} streams that are gone");
}
