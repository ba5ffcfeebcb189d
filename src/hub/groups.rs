//! Groups by name: members and kept events.
//!
//! A group exists as long as it has members, kept events, or a walk over its members.

use super::history::{Completeness, Entry, Forgotten, HistoryLimits, Ring};
use super::memberships::{Join, Joined, Membership, Memberships};
use crate::clock::Millis;
use crate::cursor::Position;
use crate::planted;
use crate::table::{Key, Table};
use hashbrown::HashTable;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

/// Maximum number of groups of one stream.
pub(crate) const GROUPS_MAX: usize = 64;

/// A group's share of `HISTORY_BYTES` in addition to its name and its events.
const GROUP_BYTES: usize = 256;

/// An event in flight to the members that is not kept, or no longer.
pub(super) struct Passing {
    pub(super) entry: Entry,
    /// Lagging members do not get it.
    pub(super) is_transient: bool,
}

/// A walk over the members of a group, which brings each up to date. From the last to the first: whoever leaves
/// meanwhile is replaced by one that has been visited, or by one that will be.
#[derive(Default)]
pub(super) struct Walk {
    /// Nobody has been told yet of what is behind this, and not everybody of what is at it.
    pub(super) pending_from: Position,
    /// Whoever is visited in this round gets everything up to here.
    pub(super) covers: Position,
    /// Members not yet visited in this round.
    pub(super) left: usize,
    /// Streams that joined before one of these end after it; in order.
    pub(super) closes: Vec<Position>,
    /// In order.
    pub(super) passing: VecDeque<Passing>,
}

pub(super) struct Group {
    pub(super) name: Box<str>,
    pub(super) members: Vec<u32>,
    pub(super) ring: Ring,
    /// The position of the last send to it.
    pub(super) newest: Position,
    pub(super) walk: Option<Box<Walk>>,
    /// It has an entry in [`Keeping::aging`].
    pub(super) is_aging: bool,
    /// It has an entry in [`Keeping::oldest`].
    pub(super) is_heaped: bool,
    /// It stays, whoever is in it: what is known of it comes from elsewhere.
    pub(super) is_followed: bool,
}

/// All kept events, and the order in which they are dropped.
pub(super) struct Keeping {
    pub(super) limits: HistoryLimits,
    /// What was kept elsewhere of a group has expired, if the next event is so far behind it.
    pub(super) expires_behind: Position,
    pub(super) bytes: usize,
    pub(super) events: u64,
    pub(super) dropped_for_space: u64,
    pub(super) dropped_for_age: u64,
    /// Groups with something kept, each with the time at which its age is to be looked at; in order.
    pub(super) aging: VecDeque<(Millis, Key)>,
    /// Groups with events, by the oldest one; some have lost that already.
    pub(super) oldest: BinaryHeap<Reverse<(Position, Key)>>,
    pub(super) forgotten: Forgotten,
}

/// One event in flight from a group.
pub(super) struct Source {
    pub(super) group: u32,
    pub(super) index: usize,
    pub(super) is_passing: bool,
    pub(super) next: Position,
}

/// All groups.
pub(crate) struct Groups {
    pub(super) table: Table<Group>,
    /// Slots.
    names: HashTable<u32>,
    pub(super) memberships: Memberships,
    pub(super) keeping: Keeping,
    /// Slots of groups with a walk in progress, in the order of `pending_from`.
    pub(super) walks: VecDeque<u32>,
    /// Whose turn it is among them, and for how many members more.
    pub(super) turn: usize,
    pub(super) turn_left: usize,
    /// How many of them have a turn, this one included, before the first is next again.
    pub(super) turns_left: usize,
    /// Closes in flight, of all groups.
    pub(super) closing: usize,
    /// The newest position.
    pub(super) head: Position,
    /// Followed groups that the last member has left; somebody may have joined since.
    vacated: Vec<u32>,
    /// Groups that have ended.
    pub(super) ended: usize,
    /// Keyed, so that an attacker cannot choose colliding names.
    hash_key: u64,
    /// Memory for the next walks: nearly every event has one.
    #[allow(clippy::vec_box, reason = "the boxes are what a group holds")]
    pub(super) spare_walks: Vec<Box<Walk>>,
    /// Scratch memory of a merge.
    pub(super) sources: Vec<Source>,
}

/// The number of groups, and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupCounts {
    pub(crate) groups: u64,
    pub(crate) memberships: u64,
    pub(crate) kept_events: u64,
    /// As counted against `HISTORY_BYTES`.
    pub(crate) kept_bytes: u64,
    pub(crate) dropped_for_space: u64,
    pub(crate) dropped_for_age: u64,
}

/// What a stream is owed of one of its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owing<'a> {
    pub(crate) name: &'a str,
    /// What comes behind this.
    pub(crate) behind: Position,
    /// The newest position that was dropped here.
    pub(crate) dropped: Position,
    /// An event that it is owed, and behind which all are known; 0: there is none.
    pub(crate) known: Position,
}

/// The state of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) members: usize,
    /// Of the newest event kept.
    pub(crate) newest_kept: Option<Position>,
    /// Of the newest event that is or was kept.
    pub(crate) newest: Position,
    pub(crate) is_ended: bool,
    /// It has kept events or members.
    pub(crate) is_alive: bool,
}

impl Groups {
    /// `random`: unknown to clients.
    pub(crate) fn new(limits: HistoryLimits, random: u64) -> Self {
        Self {
            table: Table::default(),
            names: HashTable::new(),
            memberships: Memberships::default(),
            keeping: Keeping {
                limits,
                expires_behind: Position::MAX,
                bytes: 0,
                events: 0,
                dropped_for_space: 0,
                dropped_for_age: 0,
                aging: VecDeque::new(),
                oldest: BinaryHeap::new(),
                forgotten: Forgotten::default(),
            },
            walks: VecDeque::new(),
            turn: 0,
            turn_left: 0,
            turns_left: 0,
            closing: 0,
            head: 0,
            vacated: Vec::new(),
            ended: 0,
            hash_key: random,
            spare_walks: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// Whether anything is kept for replay.
    pub(crate) fn has_history(&self) -> bool {
        !self.keeping.limits.age.is_zero()
    }

    /// The newest position there is.
    pub(crate) fn head(&self) -> Position {
        self.head
    }

    /// The order of others has got so far: nothing before that will come any more.
    pub(crate) fn advance(&mut self, head: Position) {
        self.head = self.head.max(head);
    }

    /// Whether all of a group is known that is kept elsewhere.
    pub(crate) fn is_followed(&self, name: &str) -> bool {
        self.find(name).is_some_and(|slot| self.group(slot).is_followed)
    }

    /// Takes the name of a followed group that has lost its last member.
    pub(crate) fn next_vacated(&mut self) -> Option<Box<str>> {
        while let Some(slot) = self.vacated.pop() {
            if let Some(group) = self.table.in_slot(slot).filter(|group| group.is_followed && group.members.is_empty())
            {
                return Some(group.name.clone());
            }
        }
        None
    }

    /// The connection's slot of the last of the first `count` members of a group, and how many that are.
    pub(crate) fn last_member(&self, name: &str, count: usize) -> Option<(u32, usize)> {
        let members = &self.group(self.find(name)?).members;
        let count = count.min(members.len());
        let last = members.get(count.checked_sub(1)?)?;
        Some((self.memberships.get(*last).stream(), count))
    }

    /// The names of a stream's groups in the order in which it joined them, each with whether the answer to its connect
    /// granted it.
    pub(crate) fn grants_of(&self, joined: Joined) -> Vec<(Box<str>, bool)> {
        let grant = |membership: &Membership| (self.group(membership.group).name.clone(), membership.is_granted());
        let mut grants: Vec<_> = self.memberships.of(joined).map(grant).collect();
        grants.reverse();
        grants
    }

    /// How many there are, and what they hold.
    pub(crate) fn counts(&self) -> GroupCounts {
        GroupCounts {
            groups: self.table.len() as u64,
            memberships: self.memberships.len() as u64,
            kept_events: self.keeping.events,
            kept_bytes: self.keeping.bytes as u64,
            dropped_for_space: self.keeping.dropped_for_space,
            dropped_for_age: self.keeping.dropped_for_age,
        }
    }

    pub(super) fn hash(&self, name: &str) -> u64 {
        hash_of(self.hash_key, name)
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        let is_named = |slot: &u32| self.table.in_slot(*slot).is_some_and(|group| *group.name == *name);
        self.names.find(self.hash(name), is_named).copied()
    }

    pub(super) fn group(&self, slot: u32) -> &Group {
        self.table.in_slot(slot).expect("a group is there while it is used")
    }

    pub(super) fn group_mut(&mut self, slot: u32) -> &mut Group {
        self.table.in_slot_mut(slot).expect("a group is there while it is used")
    }

    pub(super) fn find_or_create(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.find(name) {
            return slot;
        }
        let hash = self.hash(name);
        let ring = Ring::remembering(self.keeping.forgotten.take(hash));
        let (newest, members) = (ring.newest(), Vec::new());
        let name = Box::from(name);
        let group =
            Group { name, members, ring, newest, walk: None, is_aging: false, is_heaped: false, is_followed: false };
        let slot = self.table.insert(group).slot();
        let (table, key) = (&self.table, self.hash_key);
        self.names.insert_unique(hash, slot, |slot| hash_in(table, key, *slot));
        slot
    }

    /// Frees the group if nothing needs it any more.
    pub(super) fn release(&mut self, slot: u32) {
        let group = self.group(slot);
        if !group.members.is_empty() || group.walk.is_some() || group.ring.is_used() || group.is_followed {
            return;
        }
        let hash = self.hash(&group.name);
        if let Ok(entry) = self.names.find_entry(hash, |known| *known == slot) {
            entry.remove();
        }
        if let Some(key) = self.table.key_of(slot)
            && let Some(group) = self.table.remove(key)
        {
            // A missing gap, of a group that nobody has used for long.
            if !planted::is("groups-that-are-gone-leave-no-trace") {
                self.keeping.forgotten.remember(hash, &group.ring);
            }
        }
    }

    /// Adds the stream in a slot to a group, unless it is a member. The kept events after `from` are due to it.
    pub(crate) fn join(&mut self, stream: u32, joined: &mut Joined, name: &str, from: Position, is_granted: bool) {
        let group = self.find_or_create(name);
        if self.memberships.of(*joined).any(|membership| membership.group == group) {
            return;
        }
        let Group { members, ring, .. } = self.table.in_slot_mut(group).expect("just found");
        // What is gone is not missing on this stream: its client has been told of the gap.
        let from = from.max(ring.gone());
        self.memberships.join(joined, members, Join { from, group, stream, is_granted });
    }

    /// Removes a stream from a group, if it is a member.
    pub(crate) fn leave(&mut self, joined: &mut Joined, name: &str) {
        if let Some(group) = self.find(name)
            && let Some(index) = self.memberships.unlink(joined, group)
        {
            self.vacate(index);
        }
    }

    /// Removes a stream from all groups.
    pub(crate) fn leave_all(&mut self, joined: &mut Joined) {
        while let Some(index) = self.memberships.unlink_first(joined) {
            self.vacate(index);
        }
    }

    fn vacate(&mut self, index: u32) {
        let group = self.memberships.get(index).group;
        let Group { members, is_followed, .. } = self.table.in_slot_mut(group).expect("it has a member");
        self.memberships.vacate(index, members);
        if *is_followed && members.is_empty() {
            self.vacated.push(group);
        }
        self.release(group);
    }

    /// How a group stands; `None`: nothing is known of it but perhaps what was dropped.
    pub(crate) fn standing(&self, name: &str) -> Option<Standing> {
        let group = self.group(self.find(name)?);
        Some(Standing {
            members: group.members.len(),
            newest_kept: group.ring.newest_kept(),
            newest: group.ring.newest(),
            is_ended: group.ring.is_ended(),
            is_alive: group.ring.is_used() || !group.members.is_empty(),
        })
    }

    /// What a client that has everything of a group up to `position` can know of the rest.
    pub(crate) fn completeness(&self, name: &str, position: Position) -> Completeness {
        match self.find(name) {
            Some(slot) => self.group(slot).ring.completeness(position),
            None => self.keeping.forgotten.known(self.hash(name)).completeness(position),
        }
    }

    /// The names of a stream's groups, the last one joined first.
    pub(crate) fn names_of(&self, joined: Joined) -> impl Iterator<Item = &str> {
        self.memberships.of(joined).map(|membership| &*self.group(membership.group).name)
    }

    /// Whether a stream is a member of the group of that name.
    pub(crate) fn is_member(&self, joined: Joined, name: &str) -> bool {
        self.find(name).is_some_and(|group| self.memberships.of(joined).any(|known| known.group == group))
    }

    /// The position since which all groups have ended that the answer to the connect has granted, and that the stream is
    /// still in; `None`: there are none, or one goes on.
    pub(crate) fn over_since(&self, joined: Joined) -> Option<Position> {
        if self.ended == 0 {
            return None;
        }
        let mut since = None;
        for membership in self.memberships.of(joined).filter(|membership| membership.is_granted()) {
            let group = self.group(membership.group);
            if !group.ring.is_ended() {
                return None;
            }
            since = since.max(Some(group.newest));
        }
        since
    }

    /// Whether all of those have ended as soon as the groups of these names have, too.
    pub(crate) fn is_over_without(&self, joined: Joined, names: &[Cow<'_, str>]) -> bool {
        let mut granted = self.memberships.of(joined).filter(|membership| membership.is_granted()).peekable();
        let is_over = |group: &Group| group.ring.is_ended() || names.iter().any(|name| **name == *group.name);
        granted.peek().is_some() && granted.all(|membership| is_over(self.group(membership.group)))
    }

    /// Whether an event due to a stream at `position` was dropped.
    pub(crate) fn is_lost(&self, joined: Joined, position: Position) -> bool {
        self.is_due_before(joined, position, Ring::dropped)
    }

    /// The same of one that cannot be had from elsewhere either.
    pub(crate) fn is_gone(&self, joined: Joined, position: Position) -> bool {
        self.is_due_before(joined, position, Ring::gone)
    }

    fn is_due_before(&self, joined: Joined, position: Position, end: impl Fn(&Ring) -> Position) -> bool {
        let mut memberships = self.memberships.of(joined);
        memberships.any(|membership| end(&self.group(membership.group).ring) > position.max(membership.from))
    }

    /// What a stream that has got to `position` is owed of each of its groups.
    pub(crate) fn owing(&self, joined: Joined, position: Position) -> impl Iterator<Item = Owing<'_>> {
        self.memberships.of(joined).map(move |membership| {
            let group = self.group(membership.group);
            let (behind, dropped) = (position.max(membership.from), group.ring.dropped());
            let first = group.ring.get(group.ring.first_after(behind)).map_or(0, |entry| entry.position);
            Owing { name: &group.name, behind, dropped, known: if dropped > behind { dropped } else { first } }
        })
    }

    /// The position right before everything that is kept of a group; `None`: nothing is. If some of it is only kept
    /// elsewhere, it begins no earlier.
    pub(crate) fn kept_behind(&self, name: &str) -> Option<Position> {
        let ring = &self.group(self.find(name)?).ring;
        let is_all_here = ring.gone() == ring.dropped();
        if is_all_here { ring.oldest().map(|oldest| oldest - 1) } else { Some(ring.gone()) }
    }

    /// The position behind which something of a group is kept, or `from` if that is later.
    pub(crate) fn kept_from(&self, name: &str, from: Position) -> Position {
        self.find(name).map_or(from, |slot| from.max(self.group(slot).ring.dropped()))
    }

    /// Frees unused memory.
    pub(crate) fn shrink(&mut self) {
        self.table.shrink();
        let (table, key) = (&self.table, self.hash_key);
        self.names.shrink_to_fit(|slot| hash_in(table, key, *slot));
        self.memberships.shrink();
        self.keeping.forgotten.shrink();
        self.keeping.aging.shrink_to_fit();
        self.keeping.oldest.shrink_to_fit();
        self.walks.shrink_to_fit();
        self.spare_walks = Vec::new();
        self.sources = Vec::new();
    }
}

fn hash_of(key: u64, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(key);
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// The hash of the name of the group in a slot.
fn hash_in(table: &Table<Group>, key: u64, slot: u32) -> u64 {
    hash_of(key, table.in_slot(slot).map_or("", |group| &group.name))
}

impl Walk {
    /// Its memory, for another one.
    pub(super) fn emptied(mut self: Box<Self>) -> Box<Self> {
        self.closes = Vec::new();
        self.passing = VecDeque::new();
        self
    }
}

impl Group {
    /// What the group counts against `HISTORY_BYTES` beside its events.
    pub(super) fn bytes(&self) -> usize {
        self.name.len() + GROUP_BYTES
    }

    /// Keeps an event for the walk in progress, although it is not kept otherwise.
    pub(super) fn pass(&mut self, entry: Entry, is_transient: bool) {
        if let Some(walk) = &mut self.walk {
            let at = walk.passing.partition_point(|passing| passing.entry.position < entry.position);
            walk.passing.insert(at, Passing { entry, is_transient });
        }
    }
}

/// A frame without `id` and chunk framing, shared by all members.
pub(crate) type Frame = Arc<[u8]>;
