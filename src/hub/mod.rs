//! Which connection a token names, and which callbacks are queued: connection ids in, connection ids out.

mod calls;
mod outage;
mod pace;
mod tokens;

pub(crate) use calls::{CallSettings, Calls, EndReason, Lane, LaneCounts, Pending, PendingConnect, PendingDisconnect};
pub use tokens::ConnId;
pub(crate) use tokens::{Tokens, parse as parse_token};

/// Tokens and callbacks.
pub(crate) struct Hub {
    /// The streams that can be sent to, connecting and open ones.
    pub(crate) tokens: Tokens,
    pub(crate) calls: Calls,
}

impl Hub {
    /// Without streams and callbacks.
    pub(crate) fn new(settings: &CallSettings) -> Self {
        Self { tokens: Tokens::default(), calls: Calls::new(settings) }
    }

    /// Frees unused memory.
    pub(crate) fn shrink(&mut self) {
        self.tokens.shrink();
        self.calls.shrink();
    }
}
