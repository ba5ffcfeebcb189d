//! A generational slab: values in slots, named by keys that can go stale but never lie.
//!
//! Slots are reused at once, so an event, timer entry or callback outcome that was meant for the
//! last owner of a slot would reach the next one. Every key therefore carries the generation of its
//! slot, and a lookup with an old generation finds nothing.

/// Names one value that was inserted into a [`Table`]; stale once that value is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    slot: u32,
    generation: u32,
}
