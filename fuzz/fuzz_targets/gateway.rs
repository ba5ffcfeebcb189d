//! The pure gateway under any sequence of inputs, driven like by the event loop, and checked by the simulation's
//! oracle.
//!
//! The gateway's own invariants are asserted after every operation. Output and callbacks are checked as they happen; at
//! the end all work must finish and all resources be released. With `ALOUD` in the environment it prints the traffic of
//! the sockets.
#![no_main]

#[path = "gateway/input.rs"]
mod input;
#[path = "../../tests/oracle/mod.rs"]
mod oracle;
#[path = "gateway/world.rs"]
mod world;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use world::World;

/// More would make runs longer without new behaviour.
const OPERATIONS_MAX: usize = 300;

fuzz_target!(|bytes: &[u8]| run(&mut Unstructured::new(bytes)).expect("any bytes are a script"));

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let (settings, has_groups) = input::settings(input)?;
    let mut world = World::new(settings, has_groups);
    let shut_down_at_the_end = input.arbitrary()?;
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() || world.is_finished() {
            break;
        }
        world.perform(input)?;
    }
    world.come_to_rest(shut_down_at_the_end);
    Ok(())
}
