//! What concerns many streams at once, in slices: an epoch that begins, and events of a group that may be missing.

use super::backlog::{NewEpoch, Stage};
use super::connection::Connection;
use super::shared::Shared;
use super::sweep::Sweep;
use crate::clock::Millis;
use crate::cursor::{Epoch, Position};
use crate::table::Table;

/// Slots in a slice.
const SLICE: usize = 4;
/// What it takes to bring a stream out of its groups.
const EFFORT_OF_STREAM: usize = 4;

impl Shared {
    /// What was kept may be gone: all streams in groups leave them, and enter them again.
    pub(super) fn begin_epoch(&mut self, epoch: Epoch, head: Position) {
        self.backlog.new_epoch = Some(NewEpoch { epoch, head, stage: Stage::Streams(Sweep::default()) });
    }

    /// The next slice of a beginning epoch. Until its end no group is known, so that no stream enters one.
    pub(super) fn advance_epoch(&mut self, now: Millis, connections: &mut Table<Connection>, new: NewEpoch) {
        let NewEpoch { epoch, head, mut stage } = new;
        match &mut stage {
            Stage::Streams(sweep) => {
                for slot in sweep.slice(SLICE, connections.slots()) {
                    let connection = connections.in_slot_mut(slot as u32);
                    let Some(connection) = connection.filter(|connection| connection.is_member()) else { continue };
                    let id = connection.id;
                    self.suspend(now, connection, true);
                    self.settle(now, connections, id);
                    self.backlog.spend(EFFORT_OF_STREAM);
                }
                self.release_vacated();
                self.backlog.spend(1);
                if sweep.is_done() {
                    self.hub.groups.stop_walks();
                    stage = Stage::Groups(Sweep::default());
                }
            }
            Stage::Groups(sweep) => {
                let slots = sweep.slice(SLICE, self.hub.groups.slots());
                let events = self.hub.groups.forget_slots(slots);
                self.backlog.spend(SLICE + events / 4);
                if sweep.is_done() {
                    self.engine.set_epoch(epoch);
                    return self.hub.groups.restart(head);
                }
            }
        }
        self.backlog.new_epoch = Some(NewEpoch { epoch, head, stage });
    }

    /// Groups that nobody is in any more are followed no longer. They are known by their slots, which become free.
    fn release_vacated(&mut self) {
        while let Some(name) = self.hub.groups.next_vacated() {
            if !self.following.is_wanted(&name) {
                self.following.release(name);
            }
        }
    }

    /// The next of the first `left` members of a group of which events may be missing. From the last to the first: whoever
    /// leaves is replaced by one that has had its turn, or will.
    pub(super) fn advance_gap(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        (name, left): (Box<str>, usize),
    ) {
        let Some((slot, left)) = self.hub.groups.last_member(&name, left) else { return };
        if let Some(connection) = connections.in_slot_mut(slot) {
            let id = connection.id;
            if connection.is_resumable() {
                self.suspend(now, connection, false);
                self.settle(now, connections, id);
            }
        }
        self.backlog.spend(EFFORT_OF_STREAM);
        self.backlog.gap = Some((name, left - 1));
    }
}
