//! Delivery of group events: walks over the members, and the events due to each at its visit.
//!
//! All events have one order, so a stream's progress is one position. A walk brings every member of a group up to date
//! with the events of all its groups; one whose socket is full is left behind, and reads kept events once there is
//! space. Delivery goes by position, so no event is delivered twice or out of order.

use super::groups::{Frame, Groups, Source};
use super::history::Entry;
use super::memberships::{Joined, Membership};
use crate::clock::Millis;
use crate::cursor::Position;
use crate::planted;

/// Members of a group visited before the next group's turn.
const TURN_MEMBERS: usize = 64;

/// Walks at the same time whose memory stays allocated: those of the events of one read.
const SPARE_WALKS_MAX: usize = 256;

/// Something sent to groups.
pub(crate) struct Publication<'a> {
    /// The position of the first event or command; the others follow.
    pub(crate) first: Position,
    pub(crate) frames: &'a [Frame],
    pub(crate) is_transient: bool,
    /// The members' streams end after the events.
    pub(crate) closes: bool,
    /// The groups end after the events.
    pub(crate) ends: bool,
}

impl Publication<'_> {
    /// The number of positions it takes; an end or a close without an event takes one too.
    pub(crate) fn positions(&self) -> Position {
        self.frames.len().max(1) as Position
    }
}

/// A member of a group to bring up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visit {
    /// The connection's slot.
    pub(crate) stream: u32,
    /// The group's events up to here are in flight.
    pub(crate) newest: Position,
    /// The only event in flight in all groups together, if there is exactly one.
    pub(crate) sole: Option<Position>,
}

/// Whether an event is kept for replay, if there is history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    Replayable,
    Transient,
}

/// The events that a stream gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Kept events: the stream lags.
    Kept,
    /// The same, and what is on its way without being kept; transient events as well.
    Live,
    /// The same without transient events: the stream's socket is full.
    Queued,
}

impl Groups {
    /// Puts something into the groups in which it is to be found, and on its way to their members. Returns whether there
    /// are any.
    pub(crate) fn publish<'n>(
        &mut self,
        now: Millis,
        names: impl Iterator<Item = &'n str>,
        publication: &Publication<'_>,
    ) -> bool {
        let Publication { first, frames, is_transient, closes, ends } = *publication;
        self.head = first + publication.positions() - 1;
        let is_kept = self.has_history() && !is_transient;
        let mut reached = false;
        for name in names {
            let needs_group = ends || (is_kept && !frames.is_empty());
            let slot = match self.find(name) {
                Some(slot) => slot,
                None if needs_group => self.find_or_create(name),
                None => continue,
            };
            let has_members = !self.group(slot).members.is_empty();
            reached |= has_members;
            if has_members {
                self.start_walk(slot, first, closes);
            }
            for (position, frame) in (first..).zip(frames) {
                let entry = Entry { position, frame: Frame::clone(frame) };
                if is_kept {
                    self.keep(now, slot, entry);
                } else {
                    self.group_mut(slot).pass(entry, is_transient);
                }
            }
            self.group_mut(slot).newest = self.head;
            if ends {
                self.mark_end(now, slot);
            }
        }
        self.make_room();
        reached
    }

    /// Schedules visits of the members.
    fn start_walk(&mut self, slot: u32, first: Position, closes: bool) {
        let head = self.head;
        let group = self.table.in_slot_mut(slot).expect("a group is there while it is used");
        let left = group.members.len();
        let walk = match &mut group.walk {
            Some(walk) => {
                // No member has been visited yet in this round, so it covers this too. Otherwise those that have been would
                // never get it, which only a slice between two sends shows.
                if walk.left >= left || planted::is("sends-behind-a-slice-count-as-covered") {
                    walk.covers = head;
                }
                walk
            }
            None => {
                self.walks.push_back(slot);
                let mut walk = self.spare_walks.pop().unwrap_or_default();
                (walk.pending_from, walk.covers, walk.left) = (first, head, left);
                group.walk.insert(walk)
            }
        };
        if closes {
            walk.closes.push(head);
            self.closing += 1;
        }
    }

    /// The position behind which a stream ends, as one of its groups was closed and it has not been visited since.
    pub(crate) fn close_of(&self, joined: Joined) -> Option<Position> {
        // Only a send right behind the close shows it.
        if self.closing == 0 || planted::is("closes-wait-for-the-walk") {
            return None;
        }
        let close = |membership: &Membership| {
            let walk = self.group(membership.group).walk.as_ref()?;
            walk.closes.iter().copied().find(|close| *close > membership.from)
        };
        self.memberships.of(joined).filter_map(close).min()
    }

    /// Everything up to here has been brought to everybody, but for streams that lag.
    pub(crate) fn settled(&self) -> Position {
        let oldest = self.walks.front().and_then(|slot| self.group(*slot).walk.as_ref());
        oldest.map_or(self.head, |walk| walk.pending_from - 1)
    }

    /// Whether there are members left to visit.
    pub(crate) fn has_walks(&self) -> bool {
        !self.walks.is_empty()
    }

    /// How many groups have some.
    pub(crate) fn walk_count(&self) -> usize {
        self.walks.len()
    }

    /// The next member to visit.
    pub(crate) fn next_visit(&mut self) -> Option<Visit> {
        loop {
            if self.turn_left == 0 {
                self.turn += 1;
                self.start_turn();
            }
            let slot = *self.walks.get(self.turn)?;
            let is_sole = self.walks.len() == 1;
            let group = self.table.in_slot_mut(slot).expect("a group is there while it is used");
            let Some(walk) = &mut group.walk else { return None };
            walk.left = walk.left.min(group.members.len());
            if walk.left == 0 {
                self.finish_round(slot);
                continue;
            }
            self.turn_left -= 1;
            walk.left -= 1;
            // From the front, whoever takes the place of one that ends is passed by.
            let is_forward = planted::is("walk-forgets-its-place");
            let place = if is_forward { group.members.len() - 1 - walk.left } else { walk.left };
            let membership = self.memberships.get(group.members[place]);
            let sole = (is_sole && walk.pending_from == group.newest).then_some(group.newest);
            return Some(Visit { stream: membership.stream(), newest: group.newest, sole });
        }
    }

    /// It is the turn of the group that `turn` points at, or of the first one once all that were there have had theirs:
    /// groups that keep arriving at the end do not hold up those in front.
    fn start_turn(&mut self) {
        self.turn_left = TURN_MEMBERS;
        self.turns_left = self.turns_left.saturating_sub(1);
        if self.turns_left == 0 || self.turn >= self.walks.len() {
            (self.turn, self.turns_left) = (0, self.walks.len());
        }
    }

    /// All members have been visited; events since then need another round.
    fn finish_round(&mut self, slot: u32) {
        let turn = self.turn;
        let group = self.table.in_slot_mut(slot).expect("a group is there while it is used");
        let Some(walk) = &mut group.walk else { return };
        let done = walk.passing.partition_point(|passing| passing.entry.position <= walk.covers);
        walk.passing.drain(..done);
        self.walks.remove(turn);
        let closed = walk.closes.partition_point(|close| *close <= walk.covers);
        walk.closes.drain(..closed);
        self.closing -= closed;
        if group.newest > walk.covers && !planted::is("events-behind-a-walk-are-forgotten") {
            walk.pending_from = walk.covers + 1;
            walk.covers = group.newest;
            walk.left = group.members.len();
            let from = walk.pending_from;
            let table = &self.table;
            let pending_from = |slot: &u32| {
                let walk = table.in_slot(*slot).and_then(|group| group.walk.as_ref());
                walk.map_or(0, |walk| walk.pending_from)
            };
            let mut at = self.walks.partition_point(|slot| pending_from(slot) <= from);
            // Streams in two groups are taken to be ahead of where they are: a send to each while both are walked shows it.
            if planted::is("walks-lose-their-order") {
                at = self.walks.len();
            }
            self.walks.insert(at, slot);
            self.turn += usize::from(at <= turn);
        } else {
            self.closing -= walk.closes.len();
            if let Some(walk) = group.walk.take().filter(|_| self.spare_walks.len() < SPARE_WALKS_MAX) {
                self.spare_walks.push(walk.emptied());
            }
            self.release(slot);
        }
        // The next group has moved up to this place.
        self.start_turn();
    }

    /// Whether a stream is owed anything that has got to `floor` and does not lag.
    pub(crate) fn owes(&self, joined: Joined, floor: Position) -> bool {
        self.memberships.of(joined).any(|membership| self.group(membership.group).newest > floor.max(membership.from))
    }

    /// Whether anything is kept of what a stream is owed behind `floor`, up to `until`.
    pub(crate) fn owes_kept(&self, joined: Joined, (floor, until): (Position, Position)) -> bool {
        self.memberships.of(joined).any(|membership| {
            let ring = &self.group(membership.group).ring;
            ring.get(ring.first_after(floor.max(membership.from))).is_some_and(|entry| entry.position <= until)
        })
    }

    /// How many events are kept of what a stream is owed behind `floor`, for each of its groups.
    pub(crate) fn kept_after(&self, joined: Joined, floor: Position) -> u64 {
        let kept = |membership: &Membership| {
            let ring = &self.group(membership.group).ring;
            (ring.len() - ring.first_after(floor.max(membership.from))) as u64
        };
        self.memberships.of(joined).map(kept).sum()
    }

    /// Whether that is more than so many bytes, without what is transient.
    pub(crate) fn exceeds(&mut self, joined: Joined, range: (Position, Position), bytes_max: usize) -> bool {
        let mut bytes = 0;
        !self.take_due(joined, range, Due::Queued, |_, frame, _| {
            bytes += frame.len();
            bytes <= bytes_max
        })
    }

    /// The newest position up to `until` of what is kept for a stream; 0: nothing is.
    pub(crate) fn last_kept(&self, joined: Joined, until: Position) -> Position {
        let last = |membership: &Membership| {
            let ring = &self.group(membership.group).ring;
            let last = ring.get(ring.first_after(until).checked_sub(1)?)?.position;
            (last > membership.from).then_some(last)
        };
        self.memberships.of(joined).filter_map(last).max().unwrap_or(0)
    }

    /// Hands over what a stream is owed that has got to `floor`, in order, up to `until`. Ends early when `take` returns
    /// `false`: then there may be more, and the result is `false`.
    pub(crate) fn take_due(
        &mut self,
        joined: Joined,
        (floor, until): (Position, Position),
        due: Due,
        mut take: impl FnMut(Position, &Frame, Keeps) -> bool,
    ) -> bool {
        let mut sources = std::mem::take(&mut self.sources);
        sources.clear();
        for membership in self.memberships.of(joined) {
            let after = floor.max(membership.from);
            let group = self.group(membership.group);
            if group.newest <= after {
                continue;
            }
            let index = group.ring.first_after(after);
            if let Some(entry) = group.ring.get(index) {
                let next = entry.position;
                sources.push(Source { group: membership.group, index, is_passing: false, next });
            }
            if let Some(walk) = group.walk.as_ref().filter(|_| due != Due::Kept) {
                let index = walk.passing.partition_point(|passing| passing.entry.position <= after);
                if let Some(passing) = walk.passing.get(index) {
                    let next = passing.entry.position;
                    sources.push(Source { group: membership.group, index, is_passing: true, next });
                }
            }
        }
        let is_complete = self.merge(&mut sources, (floor, until), due, &mut take);
        self.sources = sources;
        is_complete
    }

    fn merge(
        &self,
        sources: &mut Vec<Source>,
        (floor, until): (Position, Position),
        due: Due,
        take: &mut impl FnMut(Position, &Frame, Keeps) -> bool,
    ) -> bool {
        let mut last = floor;
        loop {
            // A wrong order that only a stream in several groups shows, which has got behind.
            let by_group = planted::is("groups-are-merged-one-by-one");
            let key = |(at, source): &(usize, &mut Source)| if by_group { *at as Position } else { source.next };
            let Some((at, source)) = sources.iter_mut().enumerate().min_by_key(key) else {
                return true;
            };
            if source.next > until {
                return true;
            }
            let group = self.group(source.group);
            let passing = group.walk.as_ref().map(|walk| &walk.passing).filter(|_| source.is_passing);
            let (entry, keeps) = match passing {
                Some(passing) => {
                    let passing = &passing[source.index];
                    (&passing.entry, if passing.is_transient { Keeps::Transient } else { Keeps::Replayable })
                }
                None => (
                    group.ring.get(source.index).expect("the index was found in this ring just now"),
                    Keeps::Replayable,
                ),
            };
            let is_wanted = due == Due::Live || keeps == Keeps::Replayable;
            // An event of several groups comes once.
            if (entry.position > last || planted::is("events-of-two-groups-come-twice")) && is_wanted {
                if !take(entry.position, &entry.frame, keeps) {
                    return false;
                }
                last = entry.position;
            }
            source.index += 1;
            let next = match passing {
                Some(passing) => passing.get(source.index).map(|passing| passing.entry.position),
                None => group.ring.get(source.index).map(|entry| entry.position),
            };
            match next {
                Some(next) => source.next = next,
                None => drop(sources.swap_remove(at)),
            }
        }
    }

    /// Panics if an invariant is broken; for tests, simulations and fuzzers.
    pub(crate) fn assert_invariants(&self) {
        let (mut events, mut bytes, mut members, mut ended, mut walks) = (0, 0, 0, 0, 0);
        for (_, group) in self.table.iter() {
            let is_used = group.walk.is_some() || group.ring.is_used() || group.is_followed;
            assert!(is_used || !group.members.is_empty(), "a group of nobody");
            let entries = (0..group.ring.len()).filter_map(|index| group.ring.get(index));
            bytes += entries.map(Entry::bytes).sum::<usize>() + if group.ring.is_used() { group.bytes() } else { 0 };
            events += group.ring.len() as u64;
            members += group.members.len();
            ended += usize::from(group.ring.is_ended());
            walks += usize::from(group.walk.is_some());
            assert!(!group.ring.is_used() || group.is_aging, "a group that is kept for ever");
            assert!(group.ring.oldest().is_none() || group.is_heaped, "an event that is never dropped for space");
        }
        assert_eq!((events, bytes), (self.keeping.events, self.keeping.bytes), "what is kept is miscounted");
        assert!(bytes <= self.keeping.limits.bytes, "more is kept than may be");
        assert_eq!(members, self.memberships.len(), "memberships and members differ");
        assert_eq!((ended, walks), (self.ended, self.walks.len()), "ends or walks are miscounted");
    }
}
