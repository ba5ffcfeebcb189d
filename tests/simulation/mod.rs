//! One run of the simulation, from its seed.

mod answers;
mod arrivals;
mod backend;
mod callbacks;
mod client;
#[path = "../common/decode.rs"]
mod decode;
mod exchange;
mod faults;
mod kernel;
mod net;
mod oracle;
mod requests;
mod response;
mod stream;
mod trace;
mod world;
mod writes;

use oracle::{MANY_STREAMS, Oracle, millis};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Finished, Gateway};
use ssegateway::reactor::Reactor;
use world::World;

/// Turns of one run; more of them would be a loop that never comes to rest.
const TURNS_MAX: u64 = 2_000_000;

/// What came of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// A hash over everything that happened.
    pub hash: u64,
    /// Turns of the loop and events of the world.
    pub steps: u64,
    pub connections: u64,
    pub events: u64,
    pub heartbeats: u64,
}

/// Runs the seed; panics where the gateway fails.
pub fn run(seed: u64, aloud: bool) -> Summary {
    let world = World::new(seed, aloud);
    if aloud {
        println!("seed {seed}: {}", world.faults.describe());
        println!("{:?} connections_max={}", world.settings, world.connections_max);
    }
    let settings = world.settings.clone();
    let (connections_max, internal) = (world.connections_max, settings.internal_listener);
    let gateway = Gateway::new(settings, Millis::from_millis(world.clock), seed);
    let mut reactor = Reactor::new(world, gateway, connections_max, internal);
    let mut turns = 0;
    let finished = loop {
        reactor.turn().expect("polling does not fail");
        turns += 1;
        assert!(turns < TURNS_MAX, "no rest after {turns} turns");
        reactor.gateway().assert_invariants();
        reactor.net().oracle.turn_ends();
        let finished = reactor.gateway().finished();
        let gateway = reactor.gateway();
        let tables = (gateway.connection_count(), gateway.stream_count(), gateway.call_count());
        let world = reactor.net();
        check_tables(world, tables);
        check_drain(&world.oracle, finished, tables == (0, 0, 0));
        if finished.is_some() || reactor.net().finished {
            break finished;
        }
    };
    let gateway = reactor.gateway();
    let tables = (gateway.connection_count(), gateway.stream_count(), gateway.call_count());
    let world = reactor.net();
    if finished != Some(Finished::TimedOut) {
        assert_eq!(tables, (0, 0, 0), "connections, streams and calls are left");
        assert!(world.kernel.open.is_empty(), "sockets are left open");
        check_disconnects(&world.oracle);
    }
    if finished.is_none() {
        assert!(world.oracle.streams_peak < MANY_STREAMS, "the memory of many streams is kept");
    }
    Summary {
        hash: world.trace.hash(),
        steps: world.trace.steps(),
        connections: world.clients.len() as u64,
        events: world.oracle.frames,
        heartbeats: world.oracle.heartbeats,
    }
}

/// The gateway's count of connections, streams and calls is the world's.
fn check_tables(world: &World, (connections, streams, calls): (usize, usize, usize)) {
    assert_eq!(connections, world.kernel.open.len(), "connections and sockets differ");
    assert_eq!(streams, world.oracle.streams(), "another number of streams");
    assert!(calls >= world.oracle.flying.iter().sum(), "callbacks in flight that are not counted");
}

/// The drain ends when it is done, or when its time is over, and not before.
fn check_drain(oracle: &Oracle, finished: Option<Finished>, at_rest: bool) {
    let over = oracle.drained_at.map(|at| at + millis(oracle.settings.shutdown_timeout));
    match finished {
        Some(Finished::Clean) => assert!(oracle.is_draining(), "finished before the drain"),
        Some(Finished::TimedOut) => assert!(over.is_some_and(|over| over <= oracle.now), "gave up before its time"),
        None => {
            assert!(over.is_none_or(|over| oracle.now <= over + 500), "the drain does not end");
            assert!(!oracle.is_draining() || !at_rest, "the drain is over, and does not end");
        }
    }
}

/// At the end every stream that the backend accepted has had its one disconnect.
fn check_disconnects(oracle: &Oracle) {
    for (n, exchange) in oracle.exchanges.iter().enumerate() {
        if let Some(stream) = &exchange.stream {
            let owed = u32::from(stream.owes_disconnect());
            assert_eq!(stream.disconnects, owed, "client {n}: not the disconnect that is owed");
        }
    }
}
