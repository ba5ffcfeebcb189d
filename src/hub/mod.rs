//! Which connection a token names, who is in which group and what is kept of it, who is told of its end, and which
//! callbacks are queued: connection ids and frames in, connection ids and frames out.

mod calls;
mod capacity;
mod flights;
mod groups;
mod history;
mod keeping;
mod memberships;
mod outage;
mod pace;
mod pending;
mod redelivery;
mod start;
mod tokens;
mod walks;
mod watches;

pub(crate) use calls::{CallSettings, Calls, Ended, LaneCounts};
pub(crate) use groups::{Frame, GROUPS_MAX, GroupCounts, Groups, Owing, Standing};
pub(crate) use history::{Completeness, Entry, HistoryLimits};
pub(crate) use keeping::Kept;
pub(crate) use memberships::Joined;
pub(crate) use pending::{EndReason, Lane, Pending, PendingConnect, PendingDisconnect};
pub use tokens::ConnId;
pub(crate) use tokens::{Tokens, parse as parse_token};
pub(crate) use walks::{Due, Keeps, Publication, Visit};
pub(crate) use watches::{Watched, Watches};

/// Tokens, groups, their ends, and callbacks.
pub(crate) struct Hub {
    /// The streams that can be sent to, connecting and open ones.
    pub(crate) tokens: Tokens,
    pub(crate) calls: Calls,
    pub(crate) groups: Groups,
    pub(crate) watches: Watches,
}

impl Hub {
    /// Without streams and callbacks.
    pub(crate) fn new(calls: Calls, groups: Groups) -> Self {
        Self { tokens: Tokens::default(), calls, groups, watches: Watches::default() }
    }

    /// Frees unused memory.
    pub(crate) fn shrink(&mut self) {
        self.tokens.shrink();
        self.calls.shrink();
        self.groups.shrink();
    }
}
