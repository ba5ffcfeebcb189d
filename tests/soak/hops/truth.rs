//! What was sent to groups, what became of it, and in which order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// With `appendfsync everysec` a Redis that is killed may lose the last events that it has accepted: it postpones its writes
/// for up to 2 s while the disk is busy.
const LOST_WITHIN: Duration = Duration::from_secs(3);

/// An epoch and a position in it.
pub(crate) type Cursor = (u64, u64);

/// Reads a cursor.
pub(crate) fn cursor(id: &str) -> Cursor {
    let number = |digits| u64::from_str_radix(digits, 36).unwrap_or_else(|_| panic!("{id:?} is no cursor"));
    let (epoch, position) = id.split_once('.').unwrap_or_else(|| panic!("{id:?} is no cursor"));
    (number(epoch), number(position))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Unanswered,
    Accepted,
    /// It may reach nobody.
    Refused,
    /// It may reach everybody or nobody.
    Open,
}

#[derive(Debug)]
pub(crate) struct Event {
    pub groups: Vec<usize>,
    pub sent_at: Instant,
    pub fate: Fate,
    /// From its answer, or from the first client that has got it.
    pub position: Option<u64>,
    pub known_at: Instant,
    /// Redis may have lost it.
    pub may_be_lost: bool,
}

/// All events, by number.
pub(crate) struct Truth {
    events: Vec<Event>,
    /// Of each group the numbers of those that have a position, by that.
    groups: Vec<BTreeMap<u64, usize>>,
    /// The first events of unanswered sends, each with the newest position that was known before it.
    unanswered: BTreeMap<usize, u64>,
    newest: u64,
    /// Whether Redis writes before it answers.
    is_durable: bool,
}

impl Truth {
    pub(crate) fn new(groups: usize, is_durable: bool) -> Self {
        let groups = vec![BTreeMap::new(); groups];
        Self { events: Vec::new(), groups, unanswered: BTreeMap::new(), newest: 0, is_durable }
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn event(&self, number: usize) -> &Event {
        self.events.get(number).unwrap_or_else(|| panic!("event {number} was never sent"))
    }

    /// A send of several events begins. Returns the number of the first one.
    pub(crate) fn send(&mut self, groups: &[usize], count: usize) -> usize {
        let (first, now) = (self.events.len(), Instant::now());
        self.unanswered.insert(first, self.newest);
        self.events.extend((0..count).map(|_| Event {
            groups: groups.to_vec(),
            sent_at: now,
            fate: Fate::Unanswered,
            position: None,
            known_at: now,
            may_be_lost: false,
        }));
        first
    }

    /// The answer to a send is 200, with the position of its last event.
    pub(crate) fn accept(&mut self, first: usize, count: usize, last: u64) {
        self.close(first, count, Fate::Accepted);
        for (number, position) in (first..first + count).zip(last + 1 - count as u64..) {
            self.place(number, position);
        }
    }

    /// There is another answer to a send, or none.
    pub(crate) fn close(&mut self, first: usize, count: usize, fate: Fate) {
        self.unanswered.remove(&first).expect("one answer to each send");
        for event in &mut self.events[first..first + count] {
            event.fate = fate;
            let was_delivered = fate == Fate::Refused && event.position.is_some();
            assert!(!was_delivered, "it was refused, and delivered before: {event:?}");
        }
    }

    /// A client has got an event.
    pub(crate) fn delivered(&mut self, number: usize, position: u64) {
        assert_ne!(self.event(number).fate, Fate::Refused, "event {number} was refused, and is delivered");
        self.place(number, position);
    }

    fn place(&mut self, number: usize, position: u64) {
        self.saw(position);
        let event = &mut self.events[number];
        let known = *event.position.get_or_insert(position);
        assert_eq!(known, position, "event {number} has two positions: {event:?}");
        if event.fate != Fate::Unanswered {
            event.known_at = Instant::now();
        }
        for group in &event.groups {
            let other = self.groups[*group].insert(position, number);
            assert!(other.is_none_or(|other| other == number), "events {number} and {other:?} are at one position");
        }
    }

    /// A position was given out.
    pub(crate) fn saw(&mut self, position: u64) {
        self.newest = self.newest.max(position);
    }

    /// Up to here all events are known: what is unanswered has later positions, if it gets any.
    pub(crate) fn settled(&self) -> u64 {
        self.unanswered.first_key_value().map_or(self.newest, |(_, newest)| *newest)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// The events of a group behind a position, up to another one.
    pub(crate) fn between(&self, group: usize, behind: u64, until: u64) -> impl Iterator<Item = (u64, usize, &Event)> {
        let range = behind + 1..until.max(behind) + 1;
        self.groups[group].range(range).map(|(position, number)| (*position, *number, &self.events[*number]))
    }

    /// Behind which position the last `count` events of a group are; 0: there are no more.
    pub(crate) fn kept_from(&self, group: usize, count: usize) -> u64 {
        self.groups[group].keys().rev().nth(count).copied().unwrap_or(0)
    }

    /// The first event of a group behind a position.
    pub(crate) fn next(&self, group: usize, behind: u64) -> Option<&Event> {
        self.groups[group].range(behind + 1..).next().map(|(_, number)| &self.events[*number])
    }

    /// Redis was killed at that time.
    pub(crate) fn crashed(&mut self, at: Instant) {
        if self.is_durable {
            return;
        }
        let recent = |event: &&mut Event| event.sent_at + 2 * LOST_WITHIN > at;
        for event in self.events.iter_mut().rev().take_while(recent) {
            event.may_be_lost |= event.known_at + LOST_WITHIN > at;
        }
    }

    pub(crate) fn count(&self, fate: Fate) -> usize {
        self.events.iter().filter(|event| event.fate == fate).count()
    }
}
