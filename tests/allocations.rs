//! In steady state no event and no heartbeat allocates: the protocol, under an allocator that counts.

#[path = "../benches/common/mod.rs"]
mod common;

use common::allocator::{self, Counting};
use common::requests::{Payload, push_send};
use common::streams::{Streams, token};
use ssegateway::timer::TICK_MS;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STREAMS: usize = 64;
const TURNS: usize = 100;

/// Allocations of so many turns, once the buffers have been through a few; each must write something.
fn allocations(mut turn: impl FnMut() -> usize) -> usize {
    for _ in 0..10 {
        turn();
    }
    let before = allocator::calls();
    let written: usize = (0..TURNS).map(|_| turn()).sum();
    assert!(written >= TURNS, "nothing happened");
    allocator::calls() - before
}

/// One batch of sends after the other, each to as many streams.
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
fn the_count_is_not_blind() {
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
fn a_heartbeat_allocates_nothing() {
    let mut streams = Streams::open(STREAMS);
    assert_eq!(allocations(|| streams.pass(15_000 + TICK_MS)), 0);
}
