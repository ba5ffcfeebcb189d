//! The drain: a walk over all connections.

use super::actions::Action;
use super::connection::Connection;
use super::shared::Shared;
use crate::clock::Millis;
use crate::table::Table;

/// Connections drained per turn, so that a large drain never stalls the loop.
const TURN_CONNECTIONS: usize = 1024;

impl Shared {
    /// Advances the shutdown, and the drain by one slice of the connections.
    pub(super) fn advance_shutdown(&mut self, now: Millis, connections: &mut Table<Connection>) {
        if self.shutdown.advance(now, self.settings.shutdown_timeout) {
            self.hub.calls.drain(now.after(self.settings.drain_waits_for_connects()));
            self.outbox.act(Action::StopAccepting);
        }
        let Some(sweep) = self.shutdown.sweep() else { return };
        let slots = sweep.slice(TURN_CONNECTIONS, connections.slots());
        for slot in slots {
            let Some(connection) = connections.in_slot_mut(slot as u32) else { continue };
            let (id, unfinished) = (connection.id, connection.unfinished_bytes());
            self.drain(now, connection);
            self.settle(now, connections, id);
            let left = connections.get(id).map_or(0, Connection::unfinished_bytes);
            self.budget.recount(unfinished, left);
        }
    }
}
