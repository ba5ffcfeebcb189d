//! Groups: the one order of all events, and what is kept of it (docs/protocol.md, sections 11 and 12).

use super::members::Ending;
use super::streams::Phase;
use super::{Oracle, millis};
use ssegateway::callback::{Detail, Reason};
use ssegateway::cursor::{Cursor, Epoch};
use ssegateway::gateway::Settings;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::rc::Rc;

/// The groups of a run.
pub(crate) const GROUPS: usize = 4;

/// What an event and a group count against `HISTORY_BYTES`, beside their own bytes.
const EVENT_BYTES: usize = 64;
const GROUP_BYTES: usize = 256;

/// Below this limit the oldest events go; which group loses one of several groups first is not known outside.
const AMPLE_BYTES: usize = 1 << 20;

pub(crate) const CLOSED: Ending = (Reason::ServerClosed, None);
pub(crate) const NOTHING_TO_ATTACH: Ending = (Reason::ServerClosed, Some(Detail::NothingToAttach));
pub(crate) const GROUP_ENDED: Ending = (Reason::ServerClosed, Some(Detail::GroupEnded));

pub(crate) fn name_of(group: usize) -> String {
    format!("g{group}")
}

/// Whether a send may name several groups.
pub(crate) fn may_share(settings: &Settings) -> bool {
    settings.history_bytes >= AMPLE_BYTES
}

/// Groups, a bit each.
pub(super) type Mask = u8;

/// A kept event.
struct Kept {
    position: u64,
    frame: Rc<[u8]>,
}

#[derive(Default)]
pub(super) struct Group {
    kept: VecDeque<Kept>,
    /// The newest position that was dropped.
    pub dropped: u64,
    touched_at: u64,
    pub is_ended: bool,
}

impl Group {
    fn bytes(&self, group: usize) -> usize {
        let events: usize = self.kept.iter().map(|kept| kept.frame.len() + EVENT_BYTES).sum();
        let is_used = self.is_ended || !self.kept.is_empty();
        events + if is_used { name_of(group).len() + GROUP_BYTES } else { 0 }
    }

    pub(super) fn newest(&self) -> u64 {
        self.kept.back().map_or(0, |kept| kept.position)
    }
}

#[derive(Default)]
pub(crate) struct Groups {
    pub(super) head: u64,
    pub(super) groups: [Group; GROUPS],
    /// As in all cursors.
    epoch: Option<Epoch>,
}

impl Groups {
    /// The position of a cursor that the gateway has written.
    pub(super) fn position_of(&mut self, text: &str) -> u64 {
        let Cursor { epoch, position } = Cursor::parse(text.as_bytes()).expect("an id is a cursor");
        assert_eq!(*self.epoch.get_or_insert(epoch), epoch, "an id of another epoch");
        assert!(position <= self.head, "a position that there is not");
        position
    }

    /// The position of a client's cursor, if it is one of ours.
    pub(super) fn known(&self, text: &str) -> Option<u64> {
        let cursor = Cursor::parse(text.as_bytes())?;
        (Some(cursor.epoch) == self.epoch && cursor.position <= self.head).then_some(cursor.position)
    }

    /// What is kept of these groups, each behind a position, in order; with the groups of each event.
    pub(super) fn kept(&self, groups: &[(usize, u64)]) -> Vec<(u64, Rc<[u8]>, Mask)> {
        let mut events: BTreeMap<u64, (Rc<[u8]>, Mask)> = BTreeMap::new();
        for (group, from) in groups {
            let due = self.groups[*group].kept.iter().filter(|kept| kept.position > *from);
            for kept in due {
                events.entry(kept.position).or_insert_with(|| (Rc::clone(&kept.frame), 0)).1 |= 1 << group;
            }
        }
        events.into_iter().map(|(position, (frame, groups))| (position, frame, groups)).collect()
    }
}

/// What a look at a group, or at the newest cursor, must show.
#[derive(Debug)]
pub(crate) struct Shown {
    position: Option<u64>,
    streams: RangeInclusive<usize>,
    is_ended: bool,
}

/// A send to groups.
pub(crate) struct Publication {
    pub groups: Vec<usize>,
    pub frames: Vec<Rc<[u8]>>,
    pub is_transient: bool,
    pub close: bool,
    pub end: bool,
}

/// The answer to it.
#[derive(Clone, Copy)]
pub(crate) enum Published {
    /// The position in its id, and whether anybody was reached; `None`: that cannot be told.
    Ok {
        position: Option<u64>,
        reached: Option<bool>,
    },
    Ended,
}

impl Oracle {
    pub(super) fn has_history(&self) -> bool {
        !self.settings.history_age.is_zero()
    }

    /// A send to groups has been read in full.
    pub(super) fn publish(&mut self, publication: &Publication) -> Published {
        let Publication { groups, frames, is_transient, close, end } = publication;
        let groups: Vec<usize> = groups.iter().copied().filter(|group| !self.groups.groups[*group].is_ended).collect();
        if groups.is_empty() {
            return Published::Ended;
        }
        let reached = self.reaches(&groups);
        if frames.is_empty() && !close && !end {
            return Published::Ok { position: None, reached };
        }
        let first = self.groups.head + 1;
        self.groups.head += frames.len().max(1) as u64;
        let is_kept = self.has_history() && !is_transient;
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << group);
        for n in self.members_of(&groups) {
            for (position, frame) in (first..).zip(frames) {
                self.member(n).push_event(position, frame, *is_transient, mask);
            }
        }
        for group in groups.iter().filter(|_| is_kept) {
            for (position, frame) in (first..).zip(frames) {
                self.keep(*group, position, frame);
            }
        }
        if *end {
            for group in &groups {
                (self.groups.groups[*group].is_ended, self.groups.groups[*group].touched_at) = (true, self.now);
            }
        }
        while self.kept_bytes() > self.settings.history_bytes {
            let with_events = (0..GROUPS).filter(|group| !self.groups.groups[*group].kept.is_empty());
            let oldest = with_events.min_by_key(|group| self.groups.groups[*group].kept[0].position);
            self.drop_oldest(oldest.expect("marks alone do not exceed the limit"));
        }
        if *close {
            self.members_of(&groups).into_iter().for_each(|n| self.end_member(n, CLOSED));
        }
        if *end {
            self.members_of(&groups).into_iter().for_each(|n| self.end_if_over(n));
        }
        Published::Ok { position: (is_kept && !frames.is_empty()).then_some(self.groups.head), reached }
    }

    /// What there is to be seen now.
    pub(super) fn shown(&self, group: Option<usize>) -> Shown {
        let Some(group) = group else {
            let position = self.has_history().then_some(self.groups.head);
            return Shown { position, streams: 0..=0, is_ended: false };
        };
        let members = self.members_of(&[group]);
        let certain = members.iter().filter(|n| self.ending_of(**n).is_none()).count();
        let is_ended = self.groups.groups[group].is_ended;
        let position = self.groups.groups[group].kept.back().map(|kept| kept.position);
        Shown { position, streams: certain..=members.len(), is_ended }
    }

    /// The answer to that.
    pub(super) fn check_look(&mut self, group: Option<usize>, shows: &Shown, body: &str) {
        let answer: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let position = answer["cursor"].as_str().map(|cursor| self.groups.position_of(cursor));
        assert_eq!(position, shows.position, "a wrong cursor: {body}");
        let Some(group) = group else { return };
        let is_right = answer["group"] == name_of(group) && answer["ended"] == shows.is_ended;
        let streams = answer["streams"].as_u64().is_some_and(|streams| shows.streams.contains(&(streams as usize)));
        assert!(is_right && streams, "a group does not stand so: {body}, but {shows:?}");
    }

    /// Whether the answer to a connect with `attach` finds anything to attach to; `None`: that is not known outside.
    pub(crate) fn finds_anything(&self, groups: &[usize]) -> Option<bool> {
        let is_kept =
            |group: &usize| self.groups.groups[*group].is_ended || !self.groups.groups[*group].kept.is_empty();
        if groups.iter().any(is_kept) { Some(true) } else { self.reaches(groups) }
    }

    /// Whether a stream is in one of these groups.
    fn reaches(&self, groups: &[usize]) -> Option<bool> {
        let members = self.members_of(groups);
        if members.iter().any(|n| self.ending_of(*n).is_none()) {
            return Some(true);
        }
        members.is_empty().then_some(false)
    }

    /// The open streams in one of these groups; some are about to end.
    fn members_of(&self, groups: &[usize]) -> Vec<usize> {
        let is_in = |n: &usize| {
            let stream = self.exchanges[*n].stream.as_ref().filter(|stream| stream.phase == Phase::Open);
            let member = stream.and_then(|stream| stream.member.as_ref());
            member.is_some_and(|member| groups.iter().any(|group| member.groups.contains_key(group)))
        };
        self.open.iter().copied().filter(is_in).collect()
    }

    fn keep(&mut self, group: usize, position: u64, frame: &Rc<[u8]>) {
        if self.groups.groups[group].kept.len() >= self.settings.history_events.max(1) {
            self.drop_oldest(group);
        }
        let group = &mut self.groups.groups[group];
        group.kept.push_back(Kept { position, frame: Rc::clone(frame) });
        group.touched_at = self.now;
    }

    fn kept_bytes(&self) -> usize {
        self.groups.groups.iter().enumerate().map(|(group, kept)| kept.bytes(group)).sum()
    }

    fn drop_oldest(&mut self, group: usize) {
        let position = self.groups.groups[group].kept.pop_front().expect("an event").position;
        self.groups.groups[group].dropped = position;
        for n in self.members_of(&[group]) {
            self.member(n).lose(group, position);
        }
    }

    /// Events that are too old go.
    pub(super) fn expire_history(&mut self) {
        let age = if self.has_history() { millis(self.settings.history_age) } else { 60_000 };
        for group in 0..GROUPS {
            if self.groups.groups[group].touched_at + age <= self.now {
                while !self.groups.groups[group].kept.is_empty() {
                    self.drop_oldest(group);
                }
                self.groups.groups[group].is_ended = false;
            }
        }
    }
}
