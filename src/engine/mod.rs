//! Puts what is sent to groups in order: one order for all groups, in which everything has a position.
//!
//! The gateway asks for an order and carries out what has one in two steps, so that an engine may take its time in
//! between. The only one there is stands in memory and answers at once.

mod memory;

pub(crate) use memory::Memory as Engine;
