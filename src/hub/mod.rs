//! Which connection a token names, and which callbacks are queued: connection ids in, connection ids out.

mod calls;
mod pace;
mod tokens;

pub(crate) use calls::{Calls, EndReason, Lane, LaneCounts, Pending, PendingConnect, PendingDisconnect};
pub use tokens::ConnId;
pub(crate) use tokens::{Tokens, parse as parse_token};

use std::time::Duration;

/// Tokens and callbacks.
pub(crate) struct Hub {
    /// The streams that can be sent to, connecting and open ones.
    pub(crate) tokens: Tokens,
    pub(crate) calls: Calls,
}

impl Hub {
    /// `callback_concurrency`: maximum callbacks in flight; `callback_timeout`: that of one.
    pub(crate) fn new(callback_concurrency: usize, callback_timeout: Duration) -> Self {
        Self { tokens: Tokens::default(), calls: Calls::new(callback_concurrency, callback_timeout) }
    }

    /// Frees unused memory.
    pub(crate) fn shrink(&mut self) {
        self.tokens.shrink();
        self.calls.shrink();
    }
}
