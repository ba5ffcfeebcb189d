//! One run of the simulation, from its seed.

pub(crate) mod audience;
mod backend;
mod client;
#[cfg(feature = "redis")]
pub(crate) mod cluster;
mod faults;
mod frames;
mod kernel;
mod net;
pub(crate) mod scarcity;
pub(crate) mod senders;
mod trace;
mod world;

use crate::oracle::State;
use crate::oracle::limits::MANY_STREAMS;
use ssegateway::clock::Millis;
use ssegateway::gateway::Gateway;
use ssegateway::reactor::Reactor;
use world::World;

/// Maximum turns of one run; more would be an endless loop.
const TURNS_MAX: u64 = 2_000_000;

/// The result of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// A hash of everything that happened.
    pub hash: u64,
    /// Turns of the loop and events of the simulation.
    pub steps: u64,
    pub connections: u64,
    pub events: u64,
    pub heartbeats: u64,
}

/// Runs the seed; panics where the gateway fails.
pub(crate) fn run(seed: u64, aloud: bool) -> Summary {
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
    let state = loop {
        reactor.turn().expect("polling does not fail");
        turns += 1;
        assert!(turns < TURNS_MAX, "not finished after {turns} turns");
        let state = State::of(reactor.gateway());
        reactor.net().tell_news();
        if reactor.holds_deadlines() {
            reactor.net().oracle.turn_ends_early(&state);
        } else {
            reactor.net().oracle.turn_ends(&state);
        }
        if state.finished.is_some() || reactor.net().finished {
            break state;
        }
    };
    let world = reactor.net();
    world.oracle.ends(&state);
    if state.finished.is_none() {
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
