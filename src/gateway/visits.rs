//! Visits of the members of groups, one by one, for writes by the owner of the sockets.

use super::Gateway;
use crate::clock::Millis;
use crate::hub::ConnId;

/// Consecutive visits without a write: as many as take a fraction of a millisecond.
const TURN_VISITS: usize = 4096;

impl Gateway {
    /// The next member of a group to be written to; to be followed by [`Gateway::wrote`]. `None`: all are up to date, or it
    /// is enough for now, and [`Gateway::next_deadline`] has come.
    pub fn next_member(&mut self, now: Millis) -> Option<ConnId> {
        // An offer without a result was not accepted.
        if let Some(id) = self.shared.delivery.offer.as_ref().map(|offer| offer.id) {
            match self.connections.get_mut(id) {
                Some(connection) => self.shared.settle_offer(now, connection, 0),
                None => self.shared.delivery.offer = None,
            }
            self.shared.settle(now, &mut self.connections, id);
        }
        for _ in 0..TURN_VISITS {
            let rest = self.shared.rest_of_visit();
            let visit = rest.or_else(|| self.shared.hub.groups.next_visit())?;
            let Some(connection) = self.connections.in_slot_mut(visit.stream) else { continue };
            let id = connection.id;
            if self.shared.visit(now, connection, visit) {
                return Some(id);
            }
            // It may have ended, and deadlines, with which calls start otherwise, may be held.
            if !connection.is_stream() {
                self.shared.start_calls(now, &mut self.connections);
            }
            if !self.shared.remove_closed(&mut self.connections, id)
                && let Some(connection) = self.connections.get_mut(id)
            {
                self.shared.deadlines.schedule(now, connection, &self.shared.settings);
            }
        }
        None
    }
}
