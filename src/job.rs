//! Blocking work that the core delegates, and its results.

use crate::callback::{Call, Called};

/// Work for the worker pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// A callback.
    Call(Call),
}

/// A finished [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// A callback's outcome.
    Called(Called),
}
