//! Feeds: lines and event streams, cut anywhere, on the pure gateway. A second reader takes the body as a whole, and says what
//! two streams get, and how the sender is answered (docs/protocol.md, section 14).
//!
//! The input: how the body is sent, where it is cut, the body.
#![no_main]

#[path = "shared/commands.rs"]
mod commands;
#[path = "../../tests/common/decode.rs"]
mod decode;
#[path = "feed/expected.rs"]
mod expected;
#[path = "shared/json.rs"]
mod json;
#[path = "feed/world.rs"]
mod world;

use expected::{Account, Query};
use libfuzzer_sys::fuzz_target;
use world::World;

/// Bytes of a line or an event, if they are few.
const FEW_BYTES: usize = 40;

fuzz_target!(|input: &[u8]| {
    let Some(([manner, cuts], body)) = input.split_first_chunk() else { return };
    let bit = |at: u8| manner >> at & 1 == 1;
    let is_lines = bit(0);
    let query = match manner >> 1 & 3 {
        0 if is_lines => Query::None,
        0 | 1 => Query::Token,
        2 => Query::Group,
        _ => Query::GroupThatEnds,
    };
    let bytes_max = if bit(3) { FEW_BYTES } else { 1 << 20 };
    let (is_chunked, breaks_off) = (bit(4), bit(5));

    let mut account = Account::new(query, bytes_max);
    let is_read = if is_lines { account.read_lines(body, !breaks_off) } else { account.read_events(body) };
    // The second reader cannot represent some numbers.
    let is_known = is_read.is_some();
    account.end(breaks_off);

    let mut world = World::new(bytes_max);
    world.feed(is_lines, query, body, is_chunked.then_some(*cuts), breaks_off);
    world.deliver(*cuts);
    if is_known {
        let [own, member] = world.got();
        account.check(&own, &member, &world.answer());
    }
});
