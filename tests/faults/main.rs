//! Faults on the real binary: peers that stall, vanish, misbehave or flood, and exhausted resources. Every test asserts
//! the same: the faulty peer gets the answer in the contract, no other is affected, and all resources are released.
//!
//! Run by `make faults`; too slow and too resource-hungry for `cargo test`.

#[path = "../common/mod.rs"]
mod common;
// The siege uses the rest.
#[allow(dead_code)]
#[path = "../siege/swarm.rs"]
mod swarm;

mod backend_answers;
mod backend_connections;
mod clock;
mod container;
mod descriptors;
mod few_workers;
mod healthy;
mod last_answers;
mod log_pipe;
mod moved_backend;
mod mutations;
mod readers;
mod shutdown;
mod slow_requests;
mod stampede;
mod standard_descriptors;
mod vanished_host;

use std::io::Write;

/// Prints a line despite the capture of the test harness, to show figures of passing tests too.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "    {line}");
}
