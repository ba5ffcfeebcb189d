//! What happens near the limit of memory (docs/protocol.md, section 10): the oldest history is dropped, then requests that
//! are not complete are refused, then the streams with most unsent bytes are cut.

use super::actions::CloseMode;
use super::answers::Refusal;
use super::budget::{BLOCKED_BYTES, CONNECTION_BYTES};
use super::connection::{Connection, State};
use super::places::Places;
use super::shared::Shared;
use crate::callback::Detail;
use crate::clock::Millis;
use crate::hub::{ConnId, EndReason};
use crate::planted;
use crate::table::Table;

/// Streams cut at once.
const CUTS_MAX: usize = 8;
/// One with fewer unsent bytes would free little, unless its client has stopped reading.
const CUT_BYTES_MIN: u32 = 64 * 1024;

impl Shared {
    /// All bytes that peers make the gateway and the kernel hold now, as far as they are known.
    pub(super) fn memory(&self) -> u64 {
        let connections: usize = self.places.iter().map(Places::taken).sum();
        let redis = self.engine.link.as_ref().map_or(0, |link| link.bytes() + self.pages.bytes());
        redis as u64
            + connections as u64 * CONNECTION_BYTES
            + self.budget.bytes()
            + self.hub.calls.request_bytes() as u64
            + self.hub.groups.kept_bytes() as u64
            + self.outbox.unsent_bytes()
            + (self.outbox.blocked() + self.cut.len() as u64) * BLOCKED_BYTES
    }

    /// Whether that is near its limit.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.budget.is_short(self.memory())
    }

    /// Whether that has reached its limit.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.budget.is_exhausted(self.memory())
    }

    /// Gives up memory until there is enough; `current`: the connection that has just been read.
    #[cold]
    pub(super) fn relieve(&mut self, now: Millis, connections: &mut Table<Connection>, current: Option<ConnId>) {
        let excess = usize::try_from(self.budget.strain(self.memory())).unwrap_or(usize::MAX);
        self.hub.groups.give_up(excess);
        while self.budget.is_strained(self.memory()) && self.reset_oldest_cut(connections) {}
        // Streams pay for strangers.
        while self.budget.is_strained(self.memory()) && !planted::is("streams-are-cut-before-unfinished-requests") {
            let Some(id) = self.budget.next_victim(now, connections) else { break };
            self.refuse_unfinished(now, connections, id);
        }
        self.budget.end_search();
        if self.is_short_of_memory() {
            // Further down than to the limit of new streams, or the next event would keep them out.
            for _ in 0..CUTS_MAX {
                if !self.budget.is_strained(self.memory()) || !self.cut_most_unsent(now, connections) {
                    break;
                }
                // Its bytes in the kernel may be what is missing.
                if self.is_short_of_memory() {
                    self.reset_oldest_cut(connections);
                }
            }
        }
        if let Some(current) = current.filter(|_| self.is_out_of_memory()) {
            self.refuse_unfinished(now, connections, current);
        }
    }

    /// A stream that has been cut, and whose client may still read what the kernel holds. `false`: there is none.
    fn reset_oldest_cut(&mut self, connections: &mut Table<Connection>) -> bool {
        let Some(id) = self.cut.pop(connections) else { return false };
        if let Some(connection) = connections.get_mut(id) {
            self.close(connection, CloseMode::Abort);
            self.remove_closed(connections, id);
        }
        true
    }

    fn refuse_unfinished(&mut self, now: Millis, connections: &mut Table<Connection>, id: ConnId) {
        let Some(connection) = connections.get_mut(id) else { return };
        let bytes = connection.unfinished_bytes();
        if connection.refusable_bytes() > 0 {
            match connection.state {
                State::Feeding(_) => self.refuse_feed(now, connection, Refusal::Memory),
                State::Reading(_)
                | State::Answering(_)
                | State::Connecting(_)
                | State::Streaming(_)
                | State::Closing(_)
                | State::Closed(_) => self.refuse(now, connection, Refusal::Memory),
            }
            self.budget.recount(bytes, connection.unfinished_bytes());
            self.settle(now, connections, id);
        }
    }

    /// `false`: nobody has much unsent, or some and does not read; at the limit, nobody has anything unsent.
    fn cut_most_unsent(&mut self, now: Millis, connections: &mut Table<Connection>) -> bool {
        let is_exhausted = self.is_out_of_memory();
        let mut victim = None;
        self.outbox.sweep_unsent(|id| {
            let out = &mut connections.get_mut(id)?.out;
            let bytes = out.relist();
            // What the kernel holds for such a client is more than that.
            let is_late = bytes > 0 && (is_exhausted || out.is_stalled(now));
            // Clients that read lose their streams.
            if bytes >= CUT_BYTES_MIN || is_late || planted::is("whoever-has-a-byte-unsent-is-cut") {
                victim = victim.max(Some((bytes, id)));
            }
            Some(bytes)
        });
        let Some((bytes, id)) = victim else { return false };
        let Some(connection) = connections.get_mut(id) else { return false };
        log::debug!(token = connection.token.to_string(), bytes; "cut for want of memory");
        let unfinished = connection.unfinished_bytes();
        if connection.is_stream() {
            self.cut_stream(now, connection, EndReason::error(Detail::SlowConsumer));
        } else {
            self.break_off_feed(now, connection);
            self.close(connection, CloseMode::Abort);
        }
        self.budget.recount(unfinished, connection.unfinished_bytes());
        self.settle(now, connections, id);
        true
    }
}
