//! The pure gateway under any sequence of what can happen to it, driven as the event loop drives it, with an
//! oracle that knows only what crosses the sockets and the callbacks.
//!
//! After every operation the gateway's own invariants are asserted. What clients received, and which
//! callbacks were made, is judged as it happens and once more at the end, when everything must have come to
//! rest and been released.
#![no_main]

#[path = "gateway/client.rs"]
mod client;
#[path = "gateway/operation.rs"]
mod operation;
#[path = "gateway/responses.rs"]
mod responses;
#[path = "gateway/sends.rs"]
mod sends;
#[path = "gateway/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;
use operation::Script;

fuzz_target!(|script: Script| {
    let mut world = world::World::new(script.settings);
    for operation in script.operations {
        if world.is_finished() {
            break;
        }
        world.perform(operation);
        world.check();
    }
    world.come_to_rest(script.shut_down_at_the_end);
});
