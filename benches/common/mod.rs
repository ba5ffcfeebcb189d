//! What the benchmarks share.

// Each benchmark is a crate of its own and uses only part of this module.
#![allow(dead_code)]

pub(crate) mod allocator;
pub(crate) mod redis;
pub(crate) mod requests;
pub(crate) mod streams;
pub(crate) mod sys;
pub(crate) mod text;
