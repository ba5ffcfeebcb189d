//! Blocking work that the core delegates, and its results.

use crate::callback::{Call, Called};
use core::net::SocketAddr;

/// Work for the worker pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// A callback.
    Call(Call),
    /// The addresses of a host and port.
    Resolve(String, u16),
}

/// A finished [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// A callback's outcome.
    Called(Called),
    /// Addresses, the best first. Errors: why there are none.
    Resolved(Result<Vec<SocketAddr>, String>),
}
