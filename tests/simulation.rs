//! The whole event loop and the whole protocol in a deterministic simulation.
//!
//! The real `Reactor` and `Gateway` run on a simulated kernel, clock, backend and clients, all driven by one seed and
//! subject to faults at every step. An independent oracle checks them against the contract (docs/protocol.md). The same
//! seed gives the same run, byte for byte, on any machine.
//!
//! `make sim SEEDS=1000` runs many seeds and prints the rate; `make sim SEED=42` replays one with a trace.
//! docs/proof.md describes the checks.

#[path = "oracle/mod.rs"]
mod oracle;
#[path = "common/random.rs"]
mod random;
#[path = "simulation/mod.rs"]
mod simulation;

use simulation::{Summary, run};
use std::panic::catch_unwind;

/// Seeds of every test run.
const SEEDS: u64 = 300;
/// Failing seeds after which a run stops.
const FAILURES_MAX: u64 = 5;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")))
}

/// CPU seconds of this thread, independent of other load. 0 where there is no /proc.
fn seconds_on_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds: f64 = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default();
    nanoseconds / 1e9
}

#[test]
fn every_seed_keeps_the_contract() {
    if let Some(seed) = number_from("SIM_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let first = number_from("SIM_FIRST").unwrap_or(0);
    let seeds = number_from("SIM_SEEDS").unwrap_or(SEEDS);
    let failures_max = number_from("SIM_FAILURES").unwrap_or(FAILURES_MAX) as usize;
    let start = seconds_on_cpu();
    let mut sum = Summary::default();
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        match catch_unwind(|| run(seed, false)) {
            Ok(summary) => {
                sum.hash = sum.hash.rotate_left(1) ^ summary.hash;
                sum.steps += summary.steps;
                sum.connections += summary.connections;
                sum.events += summary.events;
                sum.heartbeats += summary.heartbeats;
            }
            Err(_) => {
                eprintln!("seed {seed} failed; replay it: make sim SEED={seed}");
                failed.push(seed);
                if failed.len() >= failures_max {
                    break;
                }
            }
        }
    }
    let seconds = seconds_on_cpu() - start;
    println!(
        "{seeds} seeds: {} steps in {seconds:.1} s of CPU, {:.0} a second; {} connections, {} events, {} heartbeats; hash {:016x}",
        sum.steps,
        sum.steps as f64 / seconds,
        sum.connections,
        sum.events,
        sum.heartbeats,
        sum.hash
    );
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

/// Runs every seed.
fn simulate(run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let first = number_from("SIM_FIRST").unwrap_or(0);
    let seeds = number_from("SIM_SEEDS").unwrap_or(SEEDS);
    let failures_max = number_from("SIM_FAILURES").unwrap_or(FAILURES_MAX) as usize;
    let mut failed = Vec::new();
    for seed in number_from("SIM_SEED").map_or(first..first + seeds, |seed| seed..seed + 1) {
        if catch_unwind(|| run(seed)).is_err() {
            eprintln!("seed {seed} failed; replay it: make sim SEED={seed}");
            failed.push(seed);
            if failed.len() >= failures_max {
                break;
            }
        }
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

#[test]
fn every_seed_loses_nothing_that_its_groups_keep() {
    simulate(simulation::audience::run);
}

#[test]
fn every_seed_stays_below_its_limit_of_memory() {
    simulate(simulation::scarcity::run);
}

#[test]
fn every_seed_tells_senders_what_has_happened() {
    simulate(simulation::senders::run);
}

#[cfg(feature = "redis")]
#[test]
fn every_seed_loses_nothing_between_gateways() {
    simulate(simulation::cluster::run);
}

#[cfg(feature = "redis")]
#[test]
fn a_gateway_with_redis_is_one_without_to_clients_and_senders() {
    simulate(simulation::cluster::alone::compare);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
