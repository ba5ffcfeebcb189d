//! Faults on the real binary: peers that stall, vanish, lie or crowd in, and a machine that runs short. What every test
//! asks is the same: the one at fault gets what the contract says, nobody else notices, and nothing stays behind.
//!
//! Run by `make faults`; too slow and too hungry for `cargo test`, so left out of it.

#[path = "../common/mod.rs"]
mod common;

mod backend_answers;
mod backend_connections;
mod clock;
mod descriptors;
mod few_workers;
mod healthy;
mod log_pipe;
mod mutations;
mod readers;
mod shutdown;
mod slow_requests;
mod stampede;
mod standard_descriptors;
mod vanished_host;

use std::io::Write;

/// Prints a line past the capture of the test harness: figures are wanted of tests that pass, too.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "    {line}");
}
