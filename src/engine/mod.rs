//! The order of sends to groups: one order for all groups, in which every event has a position.
//!
//! The gateway requests an order and executes an ordered send in two steps, so that an engine may be asynchronous. The
//! only one so far is in memory and answers at once.

mod memory;

pub(crate) use memory::Memory as Engine;
