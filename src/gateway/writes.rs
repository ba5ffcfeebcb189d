//! Bytes for the owner of the sockets to write, and what the kernel has accepted of them.

use super::Gateway;
use super::actions::CloseMode;
use super::connection::{Closing, Input, State};
use crate::clock::Millis;
use crate::hub::ConnId;
use crate::planted;

impl Gateway {
    /// The next connection with fresh output; streams come before the answers to their sends. Must be followed by
    /// [`Gateway::wrote`].
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        loop {
            let id = self.shared.outbox.next_fresh()?;
            if let Some(connection) = self.connections.get_mut(id) {
                connection.out.start_write();
                return Some(id);
            }
        }
    }

    /// The bytes to write to that connection next; empty for a stale id.
    pub fn unsent(&mut self, id: ConnId) -> &[u8] {
        let Some(connection) = self.connections.get_mut(id) else { return &[] };
        if connection.out.is_empty() && (connection.is_lagging() || self.shared.is_offered(connection)) {
            return self.shared.offered(connection);
        }
        connection.out.unsent()
    }

    /// Whether that connection has something to be written.
    pub fn has_unsent(&self, id: ConnId) -> bool {
        self.connections.get(id).is_some_and(|connection| !connection.out.is_empty() || connection.is_lagging())
    }

    /// The kernel accepted `count` bytes; 0 if the socket is full.
    pub fn wrote(&mut self, now: Millis, id: ConnId, count: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let mut was_lagging = false;
        if self.shared.is_offered(connection) {
            was_lagging = true;
            self.shared.settle_offer(now, connection, count);
        } else if count == 0 && connection.is_lagging() && connection.out.is_empty() {
            was_lagging = true;
            self.shared.end_pull(now, connection);
            if let State::Closed(_) = connection.state {
                return self.shared.settle(now, &mut self.connections, id);
            }
        } else {
            self.shared.outbox.wrote(now, &mut connection.out, count);
        }
        if connection.out.is_empty()
            && let State::Closing(Closing::Flushing) = connection.state
        {
            if connection.input == Input::Ended {
                self.shared.close(connection, CloseMode::Graceful);
                self.shared.remove_closed(&mut self.connections, id);
                return;
            }
            self.shared.linger(now, connection);
        }
        let has_changed = self.shared.count_unsent(connection);
        self.shared.deadlines.schedule(now, connection, &self.shared.settings);
        if let State::Closing(_) = connection.state {
            self.shared.bound_lingering(&mut self.connections);
            // A stream that has caught up may end with that.
            if was_lagging {
                self.shared.start_calls(now, &mut self.connections);
            }
        }
        if has_changed && self.shared.outbox.is_unsent_stale(self.connections.len()) {
            self.shared.sweep_unsent(&mut self.connections);
        }
    }

    /// The kernel accepts no more for that connection now.
    pub fn refused(&mut self, now: Millis, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            self.shared.outbox.refused(now, &mut connection.out);
            self.shared.pages.discard(id);
        }
        self.wrote(now, id, 0);
        // One event to many clients can use all memory within a turn.
        if self.shared.is_out_of_memory() && !planted::is("memory-runs-out-between-two-inputs") {
            self.shared.relieve(now, &mut self.connections, None);
        }
    }
}
