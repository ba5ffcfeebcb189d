//! The kept events of one group for replay, and the memory of groups without kept events.
//!
//! Whether a client has missed an event is proved by one number per group: the newest position that was ever dropped.

use crate::clock::Millis;
use crate::cursor::Position;
use crate::planted;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The limits of history (docs/protocol.md, section 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryLimits {
    /// After the last event of a group; zero: nothing is kept.
    pub(crate) age: Duration,
    /// Maximum number of events of one group.
    pub(crate) events: usize,
    /// All groups together.
    pub(crate) bytes: usize,
}

/// A kept event: its frame without `id` and chunk framing.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) frame: Arc<[u8]>,
}

/// What an entry takes beside its frame: itself, with the room that a ring has spare, and two headers in the heap.
const ENTRY_BYTES: usize = 64;

impl Entry {
    /// What it counts against `HISTORY_BYTES`.
    pub(crate) fn bytes(&self) -> usize {
        self.frame.len() + ENTRY_BYTES
    }
}

/// The kept events of one group, oldest first.
#[derive(Default)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    /// The newest position that was ever dropped; 0: none.
    dropped: Position,
    /// The same of those that cannot be had from elsewhere either.
    gone: Position,
    /// Events up to here may have been dropped before the group was known, and forgotten.
    doubt: Position,
    /// When its last event was kept, or the group ended.
    touched_at: Millis,
    is_ended: bool,
}

impl Ring {
    /// The ring of a group that was known before, or may have been.
    pub(crate) fn remembering(known: Known) -> Self {
        match known {
            Known::Dropped(dropped) => Self { dropped, gone: dropped, ..Self::default() },
            Known::Perhaps(doubt) => Self { doubt, ..Self::default() },
        }
    }

    /// What is known of the events before those that are pushed next; there are none yet.
    pub(crate) fn restore(&mut self, dropped: Position, gone: Position, doubt: Position) {
        debug_assert!(self.entries.is_empty());
        (self.dropped, self.gone, self.doubt) = (dropped, gone, doubt);
    }

    /// Of the events that were dropped here, those up to that position cannot be had from elsewhere.
    pub(crate) fn lose(&mut self, until: Position) {
        self.gone = self.gone.max(until.min(self.dropped));
    }

    /// Events up to here may be missing, too.
    pub(crate) fn doubt(&mut self, until: Position) {
        self.doubt = self.doubt.max(until);
    }

    pub(crate) fn push(&mut self, now: Millis, entry: Entry) {
        debug_assert!(self.newest() < entry.position, "events out of order");
        if self.entries.len() == self.entries.capacity() {
            // By an eighth instead of a half: the memory limit counts used bytes.
            self.entries.reserve_exact((self.entries.len() / 8).max(2));
        }
        self.entries.push_back(entry);
        self.touched_at = now;
    }

    /// Drops the oldest event. `is_elsewhere`: it can still be had.
    pub(crate) fn pop(&mut self, is_elsewhere: bool) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.dropped = entry.position;
        if !is_elsewhere {
            self.gone = entry.position;
        }
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        Some(entry)
    }

    /// The group has ended.
    pub(crate) fn end(&mut self, now: Millis) {
        self.is_ended = true;
        self.touched_at = now;
    }

    /// Forgets that the group has ended.
    pub(crate) fn forget_end(&mut self) {
        self.is_ended = false;
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Whether anything is kept: events or the mark of an end.
    pub(crate) fn is_used(&self) -> bool {
        self.is_ended || !self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// When its last event was kept, or the group ended.
    pub(crate) fn touched_at(&self) -> Millis {
        self.touched_at
    }

    /// The position of the oldest event kept.
    pub(crate) fn oldest(&self) -> Option<Position> {
        self.entries.front().map(|entry| entry.position)
    }

    /// The position of the newest event that is or was kept; 0: there was none.
    pub(crate) fn newest(&self) -> Position {
        self.newest_kept().unwrap_or(self.dropped)
    }

    /// The position of the newest event kept.
    pub(crate) fn newest_kept(&self) -> Option<Position> {
        self.entries.back().map(|entry| entry.position)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// The index of the first event after `position`.
    pub(crate) fn first_after(&self, position: Position) -> usize {
        // Nearly always one of the last.
        match self.entries.back() {
            Some(newest) if newest.position <= position => self.entries.len(),
            Some(_) | None => self.entries.partition_point(|entry| entry.position <= position),
        }
    }

    /// The newest position that was dropped.
    pub(crate) fn dropped(&self) -> Position {
        self.dropped
    }

    /// The newest position that was dropped and cannot be had from elsewhere.
    pub(crate) fn gone(&self) -> Position {
        self.gone
    }

    /// What a client that has everything up to `position` can know of the rest.
    pub(crate) fn completeness(&self, position: Position) -> Completeness {
        // What is kept proves nothing of what is not: only a client that was away for long shows it.
        if self.newest_kept().is_some() && planted::is("completeness-is-judged-by-the-newest-event") {
            Completeness::Complete
        } else if self.gone > position {
            Completeness::Dropped
        } else if self.doubt > position {
            Completeness::Forgotten
        } else {
            Completeness::Complete
        }
    }
}

/// Whether all events after a position are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Completeness {
    Complete,
    /// Nothing is known to be missing, but the gateway has forgotten too much to be sure.
    Forgotten,
    /// Something was dropped.
    Dropped,
}

/// The memory of a group that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The newest position that was dropped.
    Dropped(Position),
    /// Nothing; but what was dropped up to here may have been forgotten. 0: nothing was.
    Perhaps(Position),
}

impl Known {
    /// As [`Ring::completeness`].
    pub(crate) fn completeness(self, position: Position) -> Completeness {
        Ring::remembering(self).completeness(position)
    }
}

/// The maximum number of remembered groups that are gone; a megabyte and a half.
const FORGOTTEN_MAX: usize = 64 * 1024;

/// The newest dropped positions of groups that are gone, by the hash of their names: two names with the same 64 bits
/// cost a needless gap. Bounded: of the older half one position speaks for all.
#[derive(Default)]
pub(crate) struct Forgotten {
    dropped: HashTable<(u64, Position)>,
    floor: Position,
}

impl Forgotten {
    pub(crate) fn known(&self, hash: u64) -> Known {
        match self.dropped.find(hash, |(known, _)| *known == hash) {
            Some((_, dropped)) => Known::Dropped(*dropped),
            None => Known::Perhaps(self.floor),
        }
    }

    /// The group exists again.
    pub(crate) fn take(&mut self, hash: u64) -> Known {
        let known = self.known(hash);
        if let Ok(entry) = self.dropped.find_entry(hash, |(known, _)| *known == hash) {
            entry.remove();
        }
        known
    }

    /// The group is gone; `ring` is its last state.
    pub(crate) fn remember(&mut self, hash: u64, ring: &Ring) {
        debug_assert!(!ring.is_used());
        if ring.dropped <= self.floor {
            return;
        }
        if self.dropped.len() >= FORGOTTEN_MAX {
            self.forget_half();
        }
        self.dropped.insert_unique(hash, (hash, ring.dropped), |(hash, _)| *hash);
    }

    fn forget_half(&mut self) {
        let mut positions: Vec<Position> = self.dropped.iter().map(|(_, dropped)| *dropped).collect();
        let middle = positions.len() / 2;
        self.floor = *positions.select_nth_unstable(middle).1;
        let floor = self.floor;
        self.dropped.retain(|(_, dropped)| *dropped > floor);
    }

    pub(crate) fn shrink(&mut self) {
        self.dropped.shrink_to_fit(|(hash, _)| *hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: Position) -> Entry {
        Entry { position, frame: Arc::from(b"data: x\n\n".as_slice()) }
    }

    fn ring(positions: &[Position]) -> Ring {
        let mut ring = Ring::default();
        for position in positions {
            ring.push(Millis::ZERO, entry(*position));
        }
        ring
    }

    #[test]
    fn a_ring_finds_what_is_behind_a_position() {
        let ring = ring(&[3, 5, 9]);
        let first = |position| ring.get(ring.first_after(position)).map(|entry| entry.position);
        assert_eq!(
            [0, 2, 3, 4, 5, 8, 9, 10].map(first),
            [Some(3), Some(3), Some(5), Some(5), Some(9), Some(9), None, None]
        );
    }

    #[test]
    fn what_was_dropped_is_missing_for_those_before_it_only() {
        let mut ring = ring(&[3, 5, 9]);
        assert_eq!(ring.completeness(0), Completeness::Complete);
        ring.pop(false);
        ring.pop(false);
        assert_eq!((ring.oldest(), ring.dropped()), (Some(9), 5));
        assert_eq!(ring.completeness(4), Completeness::Dropped);
        assert_eq!(ring.completeness(5), Completeness::Complete);
        ring.pop(false);
        assert_eq!((ring.newest(), ring.newest_kept(), ring.is_used()), (9, None, false));
    }

    #[test]
    fn what_was_dropped_and_is_elsewhere_is_not_missing_until_it_is_gone_there() {
        let mut ring = ring(&[3, 5, 9]);
        ring.pop(true);
        ring.pop(true);
        assert_eq!((ring.dropped(), ring.completeness(0)), (5, Completeness::Complete));
        ring.lose(3);
        assert_eq!(
            (ring.gone(), ring.completeness(2), ring.completeness(3)),
            (3, Completeness::Dropped, Completeness::Complete)
        );
        // What is kept here is not gone.
        ring.lose(9);
        assert_eq!(ring.completeness(5), Completeness::Complete);
    }

    #[test]
    fn a_group_of_which_nothing_is_known_is_complete() {
        let mut forgotten = Forgotten::default();
        assert_eq!(forgotten.known(7), Known::Perhaps(0));
        assert_eq!(forgotten.known(7).completeness(0), Completeness::Complete);
        let mut gone = ring(&[3]);
        gone.pop(false);
        forgotten.remember(7, &gone);
        assert_eq!(forgotten.known(7).completeness(2), Completeness::Dropped);
        assert_eq!(forgotten.known(7).completeness(3), Completeness::Complete);
        assert_eq!(forgotten.known(8), Known::Perhaps(0));
        assert_eq!(Ring::remembering(forgotten.take(7)).dropped(), 3);
        assert_eq!(forgotten.known(7), Known::Perhaps(0));
    }

    #[test]
    fn of_very_many_groups_that_are_gone_one_position_speaks_for_the_older_half() {
        let mut forgotten = Forgotten::default();
        let count = FORGOTTEN_MAX as u64 + 1;
        for n in 1..=count {
            let mut gone = ring(&[n]);
            gone.pop(false);
            forgotten.remember(n, &gone);
        }
        assert!(forgotten.dropped.len() <= FORGOTTEN_MAX / 2 + 1);
        assert_eq!(forgotten.known(count), Known::Dropped(count));
        let Known::Perhaps(floor) = forgotten.known(1) else { panic!("the oldest is remembered") };
        assert!(floor >= count / 2, "{floor}");
        assert_eq!(forgotten.known(1).completeness(floor - 1), Completeness::Forgotten);
        assert_eq!(Ring::remembering(forgotten.take(1)).completeness(floor), Completeness::Complete);
    }
}
