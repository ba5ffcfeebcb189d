//! What the benchmarks share.

// Each of them is a crate of its own and uses another part of this.
#![allow(dead_code)]

pub mod allocator;
pub mod requests;
pub mod streams;
pub mod sys;
pub mod text;
