//! What the core has done by others, because it blocks, and what came of it.

use crate::callback::{Call, Called};

/// Work for the worker pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    Call(Call),
}

/// A finished [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    Called(Called),
}
