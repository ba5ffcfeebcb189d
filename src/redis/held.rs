//! The groups that this gateway follows, and what it reads of them when it begins to, or was cut off.

use super::entries::{Entry, flags, ms_of, position_at};
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
    /// The newest position that was dropped; 0: none was.
    pub(crate) dropped: Position,
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

/// One group in the answer to a read: `entries` is the list as it is kept, with one event more than there may be.
pub(super) fn load(name: &str, is_ended: bool, entries: &[Entry<'_>], now_ms: u64, limits: Limits) -> Loaded {
    let age_ms = u64::try_from(limits.age.as_millis()).unwrap_or(u64::MAX);
    let surplus = entries.len().saturating_sub(limits.events.max(1));
    // What is kept proves nothing of what is not.
    if !entries.is_empty() && planted::is("kept-entries-prove-that-none-was-dropped") {
        let entries = entries.iter().map(|entry| (entry.position, Frame::from(entry.frame))).collect();
        return Loaded { name: Box::from(name), entries, dropped: 0, doubt: 0, is_ended };
    }
    let dropped = surplus.checked_sub(1).map_or(0, |last| entries[last].position);
    // A list begins when the one before it has expired, so nothing is missing that is younger.
    let began_ms = match entries.first() {
        Some(_) if surplus > 0 => 0,
        Some(oldest) => ms_of(oldest.position),
        None => now_ms,
    };
    Loaded {
        name: Box::from(name),
        entries: entries[surplus..].iter().map(|entry| (entry.position, Frame::from(entry.frame))).collect(),
        dropped,
        doubt: position_at(began_ms.saturating_sub(age_ms)),
        is_ended,
    }
}

impl Loaded {
    /// Whether something may be missing behind `position`.
    pub(super) fn has_gap_behind(&self, position: Position) -> bool {
        self.gap_until() > position
    }

    /// Up to here something may be missing.
    pub(super) fn gap_until(&self) -> Position {
        self.dropped.max(self.doubt)
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

    fn entry(ms: u64) -> Entry<'static> {
        Entry { position: position_at(ms), flags: 0, frame: b"data: x\n\n" }
    }

    #[test]
    fn the_event_beyond_the_limit_is_the_newest_one_dropped() {
        let list = [entry(NOW_MS - 30), entry(NOW_MS - 20), entry(NOW_MS - 10)];
        let loaded = load("g", false, &list, NOW_MS, LIMITS);
        assert_eq!((loaded.entries.len(), loaded.dropped), (2, list[0].position));
        assert!(loaded.has_gap_behind(list[0].position - 1));
        assert!(!loaded.has_gap_behind(list[0].position));
    }

    #[test]
    fn a_list_that_was_never_trimmed_has_all_since_the_one_before_it_expired() {
        let loaded = load("g", false, &[entry(NOW_MS - 1000)], NOW_MS, LIMITS);
        assert_eq!(loaded.dropped, 0);
        assert!(loaded.has_gap_behind(position_at(NOW_MS - 1000 - 300_001)));
        assert!(!loaded.has_gap_behind(position_at(NOW_MS - 1000 - 300_000)));
        let none = load("g", false, &[], NOW_MS, LIMITS);
        assert!(none.has_gap_behind(position_at(NOW_MS - 300_001)));
        assert!(!none.has_gap_behind(position_at(NOW_MS - 300_000)));
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
