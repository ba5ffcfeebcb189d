//! Keeping events for replay, and dropping them: by their number in a group, by the bytes of all, by age.

use super::groups::Groups;
use super::history::{Entry, Forgotten, HistoryLimits};
use crate::clock::Millis;
use crate::cursor::Position;
use crate::planted;
use crate::table::Key;
use std::cmp::Reverse;
use std::ops::Range;
use std::time::Duration;

/// How long the end of a group is remembered without history.
const END_AGE_WITHOUT_HISTORY: Duration = Duration::from_secs(60);

/// Events dropped for age, or for want of memory, in one turn of the loop: a millisecond.
const TURN_DROPS: usize = 4096;

/// What is kept of a group elsewhere.
pub(crate) struct Kept<'a> {
    pub(crate) name: &'a str,
    /// In order.
    pub(crate) entries: Vec<Entry>,
    /// The newest position that is not among them; 0: none is missing.
    pub(crate) dropped: Position,
    /// The same of those that are not kept there either.
    pub(crate) gone: Position,
    /// Events up to here may have been dropped.
    pub(crate) doubt: Position,
    pub(crate) is_ended: bool,
}

impl Groups {
    fn age(&self) -> Duration {
        let age = self.keeping.limits.age;
        if age.is_zero() { END_AGE_WITHOUT_HISTORY } else { age }
    }

    /// Keeps an event of a group.
    pub(super) fn keep(&mut self, now: Millis, slot: u32, entry: Entry) {
        if self.group(slot).ring.len() >= self.keeping.limits.events.max(1) {
            self.drop_oldest_of(slot, false);
            self.keeping.dropped_for_space += 1;
        }
        self.start_aging(now, slot);
        let key = self.table.key_of(slot);
        let keeping = &mut self.keeping;
        keeping.bytes += entry.bytes();
        keeping.events += 1;
        let group = self.table.in_slot_mut(slot).expect("a group is there while it is used");
        if group.is_followed && entry.position.saturating_sub(group.ring.newest()) > keeping.expires_behind {
            group.ring.lose(Position::MAX);
        }
        if let Some(key) = key.filter(|_| !std::mem::replace(&mut group.is_heaped, true)) {
            keeping.oldest.push(Reverse((entry.position, key)));
        }
        group.ring.push(now, entry);
    }

    /// Marks a group as ended.
    pub(super) fn mark_end(&mut self, now: Millis, slot: u32) {
        self.start_aging(now, slot);
        let group = self.group_mut(slot);
        let was_ended = group.ring.is_ended();
        group.ring.end(now);
        self.ended += usize::from(!was_ended);
    }

    /// The group has kept events from now on: counts it, and schedules its expiry.
    fn start_aging(&mut self, now: Millis, slot: u32) {
        let due = now.after(self.age());
        let key = self.table.key_of(slot);
        let group = self.group_mut(slot);
        if group.ring.is_used() {
            return;
        }
        let bytes = group.bytes();
        let is_aging = std::mem::replace(&mut group.is_aging, true);
        self.keeping.bytes += bytes;
        if let Some(key) = key.filter(|_| !is_aging) {
            self.keeping.aging.push_back((due, key));
        }
    }

    /// Drops the oldest event of a group. One in flight to the members stays until it has reached them. `is_for_space`: of
    /// all groups together, which says nothing of what is kept elsewhere.
    fn drop_oldest_of(&mut self, slot: u32, is_for_space: bool) {
        let group = self.table.in_slot_mut(slot).expect("a group is there while it is used");
        let is_elsewhere = is_for_space && group.is_followed;
        let Some(entry) = group.ring.pop(is_elsewhere) else { return };
        self.keeping.bytes -= entry.bytes();
        self.keeping.events -= 1;
        let is_pending = group.walk.as_ref().is_some_and(|walk| walk.pending_from <= entry.position);
        // Events lost to members that read, if one send exceeds what is kept.
        if is_pending && !planted::is("what-is-dropped-in-flight-is-lost") {
            group.pass(entry, false);
        }
        self.stop_keeping(slot);
    }

    /// Uncounts a group without kept events.
    fn stop_keeping(&mut self, slot: u32) {
        let group = self.group(slot);
        if !group.ring.is_used() {
            self.keeping.bytes -= group.bytes();
        }
    }

    /// Drops the oldest events of all groups, and then the oldest marks, until the rest fits. The last mark stays in any
    /// case: the members would not be told of an end that is forgotten at once.
    pub(super) fn make_room(&mut self) {
        while self.keeping.bytes > self.keeping.limits.bytes {
            let is_last = self.keeping.events == 0 && self.ended <= 1;
            if is_last || !self.drop_oldest() {
                return;
            }
        }
    }

    /// What is kept elsewhere of a group expires once no event has come for that long, as positions have it.
    pub(crate) fn expire_elsewhere_behind(&mut self, span: Position) {
        self.keeping.expires_behind = span;
    }

    /// Other limits hold from now on, of what is kept from now on.
    pub(crate) fn set_limits(&mut self, age: Duration, events: usize) {
        self.keeping.limits = HistoryLimits { age, events, ..self.keeping.limits };
    }

    /// What is kept, in bytes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.keeping.bytes
    }

    /// The same until `bytes` less are kept, within the budget of a turn.
    pub(crate) fn give_up(&mut self, bytes: usize) {
        let bytes_max = self.keeping.bytes.saturating_sub(bytes);
        for _ in 0..TURN_DROPS {
            if self.keeping.bytes <= bytes_max || !self.drop_oldest() {
                return;
            }
        }
    }

    /// Drops the oldest event, or else the oldest mark; `false`: there is neither.
    fn drop_oldest(&mut self) -> bool {
        let Some(Reverse((position, key))) = self.keeping.oldest.pop() else { return self.drop_oldest_mark() };
        let slot = key.slot();
        let Some(group) = self.table.get_mut(key) else { return true };
        // It may have lost its oldest event since, or all of them.
        if group.ring.oldest() == Some(position) {
            self.drop_oldest_of(slot, true);
            self.keeping.dropped_for_space += 1;
            self.heap_again(key);
            self.release(slot);
        } else {
            self.heap_again(key);
        }
        true
    }

    fn heap_again(&mut self, key: Key) {
        let Some(group) = self.table.get_mut(key) else { return };
        let oldest = group.ring.oldest();
        group.is_heaped = oldest.is_some();
        self.keeping.oldest.extend(oldest.map(|oldest| Reverse((oldest, key))));
    }

    /// Forgets the oldest end of a group; `false` if there is none.
    fn drop_oldest_mark(&mut self) -> bool {
        while let Some((_, key)) = self.keeping.aging.pop_front() {
            let Some(group) = self.table.get_mut(key) else { continue };
            group.is_aging = false;
            if group.ring.is_ended() {
                self.forget_all(key.slot());
                return true;
            }
        }
        false
    }

    /// Takes over what is kept of a group elsewhere, in place of what was known of it.
    pub(crate) fn load(&mut self, now: Millis, kept: Kept<'_>) {
        self.unload(kept.name);
        let slot = self.find_or_create(kept.name);
        let group = self.group_mut(slot);
        group.ring.restore(kept.dropped, kept.gone, kept.doubt);
        for entry in kept.entries {
            self.group_mut(slot).newest = entry.position;
            self.keep(now, slot, entry);
        }
        if kept.is_ended {
            self.mark_end(now, slot);
        }
        self.group_mut(slot).is_followed = true;
        self.make_room();
    }

    /// Events of a group may have been missed, up to that position.
    pub(crate) fn doubt(&mut self, name: &str, until: Position) {
        if let Some(slot) = self.find(name) {
            self.group_mut(slot).ring.doubt(until);
        }
    }

    /// What was dropped of a group up to that position cannot be had from elsewhere.
    pub(crate) fn lose(&mut self, name: &str, until: Position) {
        if let Some(slot) = self.find(name) {
            self.group_mut(slot).ring.lose(until);
        }
    }

    /// Forgets what was known of a group.
    pub(crate) fn unload(&mut self, name: &str) {
        let hash = self.hash(name);
        if let Some(slot) = self.find(name) {
            self.group_mut(slot).is_followed = false;
            self.forget_all(slot);
        }
        self.keeping.forgotten.take(hash);
    }

    /// Nothing is on its way any more: there are no members.
    pub(crate) fn stop_walks(&mut self) {
        debug_assert_eq!(self.memberships.len(), 0);
        self.closing = 0;
        for slot in std::mem::take(&mut self.walks) {
            self.group_mut(slot).walk = None;
            self.release(slot);
        }
    }

    /// How many slots there are for groups.
    pub(crate) fn slots(&self) -> usize {
        self.table.slots()
    }

    /// Forgets what was known of the groups in these slots. Returns how many events that were.
    pub(crate) fn forget_slots(&mut self, slots: Range<usize>) -> usize {
        let mut events = 0;
        for slot in slots {
            let Some(group) = self.table.in_slot_mut(slot as u32) else { continue };
            group.is_followed = false;
            events += group.ring.len();
            self.forget_all(slot as u32);
        }
        events
    }

    /// Positions begin anew at `head`; nothing is known of any group.
    pub(crate) fn restart(&mut self, head: Position) {
        self.keeping.forgotten = Forgotten::default();
        self.head = head;
    }

    /// Drops all kept events of a group.
    fn forget_all(&mut self, slot: u32) {
        while self.group(slot).ring.len() > 0 {
            self.drop_oldest_of(slot, false);
        }
        let group = self.group_mut(slot);
        if group.ring.is_ended() {
            group.ring.forget_end();
            self.ended -= 1;
            self.stop_keeping(slot);
        }
        self.release(slot);
    }

    /// When [`Groups::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Millis> {
        self.keeping.aging.front().map(|(due, _)| *due)
    }

    /// Drops expired events, within the budget of a turn.
    pub(crate) fn expire(&mut self, now: Millis) {
        let mut left = TURN_DROPS;
        while let Some((due, key)) = self.keeping.aging.front().copied()
            && due <= now
            && left > 0
        {
            self.keeping.aging.pop_front();
            let age = self.age();
            let Some(group) = self.table.get_mut(key) else { continue };
            group.is_aging = false;
            if !group.ring.is_used() {
                continue;
            }
            let expires_at = group.ring.touched_at().after(age);
            if expires_at > now && !planted::is("history-expires-by-its-oldest-event") {
                group.is_aging = true;
                // The queue stays in order: a group touched later was queued later, or is queued again.
                let at = self.keeping.aging.partition_point(|(due, _)| *due <= expires_at);
                self.keeping.aging.insert(at, (expires_at, key));
                continue;
            }
            let events = group.ring.len();
            self.keeping.dropped_for_age += events as u64;
            left = left.saturating_sub(events.max(1));
            self.forget_all(key.slot());
        }
    }
}
