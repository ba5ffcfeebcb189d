//! What the benchmarks share.

// Each of them is a crate of its own and uses another part of this.
#![allow(dead_code)]

pub(crate) mod allocator;
pub(crate) mod requests;
pub(crate) mod streams;
pub(crate) mod sys;
pub(crate) mod text;
