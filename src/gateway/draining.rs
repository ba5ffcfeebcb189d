//! The drain: a walk over the feeds, if there are any, and then one over all connections.

use super::actions::Action;
use super::connection::{Connection, State};
use super::shared::Shared;
use super::shutdown::DrainStage;
use super::sweep::Sweep;
use crate::clock::Millis;
use crate::planted;
use crate::table::Table;

/// Connections drained per turn, so that a large drain never stalls the loop.
const TURN_CONNECTIONS: usize = 1024;

impl Shared {
    /// Advances the shutdown, and the drain by one slice of the connections.
    pub(super) fn advance_shutdown(&mut self, now: Millis, connections: &mut Table<Connection>) {
        // Lines that have arrived are lost: their streams end before they are read.
        let has_feeds = self.stats.feeds.open > 0 && !planted::is("drain-ends-streams-before-feeds");
        if self.shutdown.advance(now, self.settings.shutdown_timeout, has_feeds) {
            self.hub.calls.drain(now.after(self.settings.drain_waits_for_connects()));
            self.outbox.act(Action::StopAccepting);
        }
        let Some(stage) = self.shutdown.stage() else { return };
        let next = match stage {
            DrainStage::Feeds(mut sweep) => {
                for slot in sweep.slice(TURN_CONNECTIONS, connections.slots()) {
                    if let Some(connection) = connections.in_slot_mut(slot as u32)
                        && let State::Feeding(_) = connection.state
                    {
                        self.drain(now, connection);
                    }
                }
                match sweep.is_done() {
                    true => DrainStage::LastReads { action: self.outbox.last_action() },
                    false => DrainStage::Feeds(sweep),
                }
            }
            DrainStage::LastReads { action } if !self.outbox.has_taken(action) => stage,
            DrainStage::LastReads { .. } => self.drain_slice(now, connections, Sweep::default()),
            DrainStage::All(sweep) => self.drain_slice(now, connections, sweep),
        };
        self.shutdown.set_stage(next);
    }

    fn drain_slice(&mut self, now: Millis, connections: &mut Table<Connection>, mut sweep: Sweep) -> DrainStage {
        for slot in sweep.slice(TURN_CONNECTIONS, connections.slots()) {
            let Some(connection) = connections.in_slot_mut(slot as u32) else { continue };
            let (id, unfinished) = (connection.id, connection.unfinished_bytes());
            self.drain(now, connection);
            self.settle(now, connections, id);
            self.recount(connections, id, unfinished);
        }
        DrainStage::All(sweep)
    }
}
