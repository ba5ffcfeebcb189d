//! The pure gateway under any sequence of what can happen to it, driven as the event loop drives it, and judged by the
//! oracle that judges the simulation.
//!
//! After every operation the gateway's own invariants are asserted. What clients receive, and which callbacks are made,
//! is judged as it happens; at the end everything must come to rest and be released. With `ALOUD` in the environment it
//! prints what crosses the sockets.
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

/// More would only make the run longer, not stranger.
const OPERATIONS_MAX: usize = 300;

fuzz_target!(|bytes: &[u8]| run(&mut Unstructured::new(bytes)).expect("any bytes are a script"));

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new(input::settings(input)?);
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
