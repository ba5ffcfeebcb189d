//! The groups that this gateway follows, and what it reads of them when it begins to, or was cut off.

use super::entries::{Entry, flags, ms_of, position_at, position_of};
use super::resp::Value;
use super::settings::Limits;
use crate::cursor::Position;
use crate::planted;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An event without `id` and chunk framing.
pub(crate) type Frame = Arc<[u8]>;

/// What is kept of a group that is followed from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) name: Box<str>,
    /// In order.
    pub(crate) entries: Vec<(Position, Frame)>,
    /// The newest position that is not among them; 0: none is missing.
    pub(crate) dropped: Position,
    /// The newest of those that Redis has dropped as well; 0: none was.
    pub(crate) gone: Position,
    /// Events up to here may have been dropped.
    pub(crate) doubt: Position,
    pub(crate) is_ended: bool,
}

/// Something sent to groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    /// Those of its groups that are followed here, joined by line breaks.
    pub(super) names: String,
    /// The position of the first event; the others follow.
    pub(crate) first: Position,
    pub(crate) frames: Vec<Frame>,
    pub(crate) is_transient: bool,
    pub(crate) closes: bool,
    pub(crate) ends: bool,
}

impl Published {
    pub(super) fn add_name(&mut self, name: &str) {
        if !self.names.is_empty() {
            self.names.push('\n');
        }
        self.names.push_str(name);
    }

    /// Those of its groups that are followed here.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.split('\n')
    }
}

/// How well a group is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not at all.
    Unread,
    /// Up to where the connection broke.
    Stale,
    /// The answer to that read makes it known; `was_stale`: up to where the connection broke, it is.
    Reading { number: u64, was_stale: bool },
    /// In full.
    Ready,
}

/// The groups that are followed, by name.
#[derive(Default)]
pub(super) struct Held(BTreeMap<Box<str>, Standing>);

impl Held {
    pub(super) fn get(&self, name: &str) -> Option<Standing> {
        self.0.get(name).copied()
    }

    pub(super) fn set(&mut self, name: &str, standing: Standing) {
        match self.0.get_mut(name) {
            Some(known) => *known = standing,
            None => drop(self.0.insert(Box::from(name), standing)),
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    pub(super) fn is_ready(&self, name: &str) -> bool {
        self.get(name) == Some(Standing::Ready)
    }

    /// The connection broke.
    pub(super) fn break_off(&mut self) {
        for standing in self.0.values_mut() {
            *standing = match *standing {
                Standing::Ready | Standing::Stale | Standing::Reading { was_stale: true, .. } => Standing::Stale,
                Standing::Unread | Standing::Reading { was_stale: false, .. } => Standing::Unread,
            };
        }
    }

    /// A new epoch: nothing is known.
    pub(super) fn forget(&mut self) {
        self.0.values_mut().for_each(|standing| *standing = Standing::Unread);
    }

    /// Those that are to be read: the unknown ones, and of the stale ones those that have changed. The others are known
    /// again.
    pub(super) fn select(&mut self, has_changed: impl Fn(&str) -> bool) -> Vec<Box<str>> {
        let mut selected = Vec::new();
        for (name, standing) in &mut self.0 {
            match *standing {
                Standing::Stale if !has_changed(name) => *standing = Standing::Ready,
                Standing::Stale | Standing::Unread => selected.push(name.clone()),
                Standing::Reading { .. } | Standing::Ready => {}
            }
        }
        selected
    }
}

/// One group in the answer to a read.
pub(super) struct Part<'a> {
    pub(super) is_ended: bool,
    /// The oldest one that is kept; 0: none is.
    oldest: Position,
    /// The newest one that is kept although it is more than there may be; 0: none is.
    surplus: Position,
    /// The newest one that had no room here; 0: all had.
    omitted: Position,
    /// The newest ones, in order.
    pub(super) entries: Vec<Entry<'a>>,
}

/// What there is of a group in an answer.
pub(super) const PART_ELEMENTS: usize = 5;

impl<'a> Part<'a> {
    pub(super) fn parse(elements: &'a [Value<'a>]) -> Option<Self> {
        let [is_ended, oldest, surplus, omitted, entries] = elements else { return None };
        let entries = entries.elements()?.iter().rev().map(|entry| Entry::parse(entry.bytes()?));
        Some(Self {
            is_ended: is_ended.integer()? == 1,
            oldest: position_of(oldest.bytes()?)?,
            surplus: position_of(surplus.bytes()?)?,
            omitted: position_of(omitted.bytes()?)?,
            entries: entries.collect::<Option<_>>()?,
        })
    }

    /// There was no room for any event.
    pub(super) fn is_left_out(&self) -> bool {
        self.omitted > 0 && self.entries.is_empty()
    }

    /// The newest one that is kept, and is not here only for want of room.
    pub(super) fn has_more_behind(&self, position: Position) -> bool {
        self.omitted > position.max(self.surplus)
    }

    pub(super) fn load(&self, name: &str, now_ms: u64, limits: Limits) -> Loaded {
        let age_ms = u64::try_from(limits.age.as_millis()).unwrap_or(u64::MAX);
        // A list begins when the one before it has expired, so nothing is missing that is younger.
        let began_ms = match self.oldest {
            _ if self.surplus > 0 => 0,
            0 => now_ms,
            oldest => ms_of(oldest),
        };
        let kept = self.entries.iter().filter(|entry| entry.position > self.surplus);
        let entries = kept.map(|entry| (entry.position, Frame::from(entry.frame))).collect();
        let mut loaded = Loaded {
            name: Box::from(name),
            entries,
            dropped: self.omitted.max(self.surplus),
            gone: self.surplus,
            doubt: position_at(began_ms.saturating_sub(age_ms)),
            is_ended: self.is_ended,
        };
        // What is kept proves nothing of what is not.
        if !loaded.entries.is_empty() && planted::is("kept-entries-prove-that-none-was-dropped") {
            (loaded.dropped, loaded.gone, loaded.doubt) = (0, 0, 0);
        }
        loaded
    }
}

impl Loaded {
    /// Whether something may be missing behind `position`.
    pub(super) fn has_gap_behind(&self, position: Position) -> bool {
        self.gap_until() > position
    }

    /// Up to here something may be missing.
    pub(super) fn gap_until(&self) -> Position {
        self.gone.max(self.doubt)
    }

    /// Takes over what came of the group since it was read.
    pub(super) fn add_messages(&mut self, replays: &mut [Replay]) {
        replays.sort_by_key(|replay| replay.position);
        for replay in replays {
            let Some(at) = replay.names.iter().position(|name| *name == self.name) else { continue };
            replay.names.swap_remove(at);
            self.is_ended |= replay.flags & flags::END != 0;
            if replay.flags & (flags::TRANSIENT | flags::BARE) == 0 {
                self.entries.push((replay.position, Frame::clone(&replay.frame)));
            }
        }
    }
}

/// One event of one send, or all of it if it has at most one.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    pub(super) position: Position,
    pub(super) names: Vec<Box<str>>,
    pub(super) flags: u32,
    pub(super) frame: Frame,
}

/// Puts together what is one event or command, in order. The same may come from a list, from the log, and as a message.
pub(super) fn in_order(mut replays: Vec<Replay>) -> Vec<Published> {
    replays.sort_by_key(|replay| replay.position);
    let mut merged: Vec<Replay> = Vec::new();
    for mut replay in replays {
        match merged.last_mut().filter(|last| last.position == replay.position) {
            Some(last) => {
                replay.names.retain(|name| !last.names.contains(name));
                last.names.append(&mut replay.names);
                if last.frame.is_empty() {
                    last.frame = replay.frame;
                }
                let bare = last.flags & replay.flags & flags::BARE;
                last.flags = (last.flags | replay.flags) & !flags::BARE | bare;
            }
            None => merged.push(replay),
        }
    }
    merged.into_iter().map(Replay::publish).collect()
}

impl Replay {
    fn publish(self) -> Published {
        let Self { position, names, flags, frame } = self;
        Published {
            names: names.join("\n"),
            first: position,
            frames: if flags & flags::BARE == 0 { vec![frame] } else { Vec::new() },
            is_transient: flags & flags::TRANSIENT != 0,
            closes: flags & flags::CLOSE != 0,
            ends: flags & flags::END != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: Limits = Limits { age: Duration::from_secs(300), events: 2 };
    const NOW_MS: u64 = 1_790_000_000_000;

    /// A group in an answer: the ids, of some milliseconds before now, of the oldest, the surplus, and the omitted one, and
    /// of all entries.
    fn load(ids: [Option<u64>; 3], entries: &[u64]) -> Loaded {
        let id = |ago: u64| format!("{}-0", NOW_MS - ago);
        let ids = ids.map(|ago| ago.map_or("0-0".to_owned(), id));
        let entries: Vec<String> = entries.iter().map(|ago| format!("{} 0 data: x\n\n", id(*ago))).collect();
        let elements = [Value::Integer(0)].into_iter().chain(ids.iter().map(|id| Value::Blob(id.as_bytes())));
        let entries = Value::Array(entries.iter().rev().map(|text| Value::Blob(text.as_bytes())).collect());
        let elements: Vec<Value<'_>> = elements.chain([entries]).collect();
        Part::parse(&elements).expect("a group").load("g", NOW_MS, LIMITS)
    }

    fn ago(ms: u64) -> Position {
        position_at(NOW_MS - ms)
    }

    #[test]
    fn the_event_beyond_the_limit_is_the_newest_one_dropped() {
        let loaded = load([Some(30), Some(30), None], &[30, 20, 10]);
        assert_eq!((loaded.entries.len(), loaded.dropped, loaded.gone), (2, ago(30), ago(30)));
        assert!(loaded.has_gap_behind(ago(30) - 1));
        assert!(!loaded.has_gap_behind(ago(30)));
    }

    #[test]
    fn what_had_no_room_is_not_gone() {
        let loaded = load([Some(50), Some(40), Some(20)], &[10]);
        assert_eq!((loaded.entries.len(), loaded.dropped, loaded.gone), (1, ago(20), ago(40)));
        assert!(!loaded.has_gap_behind(ago(40)));
    }

    #[test]
    fn a_list_that_was_never_trimmed_has_all_since_the_one_before_it_expired() {
        let loaded = load([Some(1000), None, None], &[1000]);
        assert_eq!(loaded.dropped, 0);
        assert!(loaded.has_gap_behind(ago(1000 + 300_001)));
        assert!(!loaded.has_gap_behind(ago(1000 + 300_000)));
        let none = load([None; 3], &[]);
        assert!(none.has_gap_behind(ago(300_001)));
        assert!(!none.has_gap_behind(ago(300_000)));
    }

    #[test]
    fn what_comes_three_times_is_one_event() {
        let replay = |name: &str, position, flags, frame: &[u8]| Replay {
            position,
            names: vec![Box::from(name)],
            flags,
            frame: Frame::from(frame),
        };
        let published = in_order(vec![
            replay("a", 7, flags::CLOSE | flags::BARE, b""),
            replay("a", 7, 0, b"x"),
            replay("b", 7, 0, b"x"),
            replay("a", 3, flags::END | flags::BARE, b""),
        ]);
        assert_eq!(published.len(), 2);
        assert!(published[0].frames.is_empty() && published[0].ends);
        assert_eq!((published[1].frames.len(), &*published[1].names, published[1].closes), (1, "a\nb", true));
    }
}
