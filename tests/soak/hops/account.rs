//! What one client was given over all its connections, and whether that was right.
//!
//! Each `id` on a stream is a claim: all events of its groups up to there have come. A claim is checked once all sends are
//! answered that may have a place before it.

use super::HISTORY_EVENTS;
use super::truth::{Cursor, Truth, cursor};
use std::collections::VecDeque;
use std::time::Instant;

/// Events of a group that Redis may have executed and this test does not know of yet.
const UNKNOWN: usize = 16;

/// Where a page begins that has no cursor of an earlier stream.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    /// Where its GET is read.
    Live,
    /// With all that is kept.
    Beginning,
    /// At a cursor that its backend knows.
    Since(String),
}

/// A part of what a client was given, in which nothing may be missing: it ends with a gap, or with the page.
struct Span {
    start: Option<Start>,
    epoch: Option<u64>,
    /// It was told that it has everything up to here.
    has: u64,
    /// It was found to have everything up to here.
    checked: u64,
    /// It may lack what was sent before that time, and has no later position than that of its group.
    since: Instant,
    floor: Vec<u64>,
    /// The position of the first event of each group since a gap: what was kept goes on from there without a hole.
    replayed: Vec<(usize, u64)>,
    /// Of the events behind `checked`, in order.
    received: Vec<u64>,
}

/// Why a client was told that something may be missing, by what happened before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gaps {
    /// A new epoch began while its stream was open, and events were sent that it did not get.
    pub lost: usize,
    /// The same, but there were none.
    pub unlucky: usize,
    /// It came back with a cursor of an earlier epoch, and got all that was kept.
    pub replayed: usize,
    /// A page that wants everything, or whose start fell into a time without Redis.
    pub started: usize,
    /// It left while it got what was kept, and something of that was dropped before it was back.
    pub dropped: usize,
}

/// What happens on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Event(usize),
    Gap,
    Bare,
}

pub(crate) struct Account {
    pub groups: Vec<usize>,
    spans: VecDeque<Span>,
    /// The stream has told its position.
    is_placed: bool,
}

impl Account {
    pub(crate) fn new(groups: Vec<usize>) -> Self {
        Self { groups, spans: VecDeque::new(), is_placed: false }
    }

    /// A page without a cursor of its own.
    pub(crate) fn begin(&mut self, start: Start) {
        let (epoch, position) = match &start {
            Start::Live | Start::Beginning => (None, 0),
            Start::Since(id) => (Some(cursor(id).0), cursor(id).1),
        };
        let floor = vec![position; self.groups.len()];
        self.spans.push_back(Span { start: Some(start), ..Span::new(epoch, position, floor) });
    }

    /// A stream opens, at whatever gateway.
    pub(crate) fn reconnect(&mut self) {
        self.is_placed = false;
    }

    /// A block with an id. `asked_at`: when the backend was asked for the stream; `crashed`: Redis was killed since.
    pub(crate) fn take(
        &mut self,
        truth: &mut Truth,
        gaps: &mut Gaps,
        (block, (epoch, position)): (Block, Cursor),
        (asked_at, crashed): (Instant, bool),
    ) {
        truth.saw(position);
        if block == Block::Gap {
            self.take_gap(truth, gaps, (epoch, position), crashed);
        }
        let span = self.spans.back_mut().expect("a page");
        if span.epoch.is_none() {
            span.epoch = Some(epoch);
            if let Some(Start::Live) = span.start {
                (span.since, span.floor) = (asked_at, vec![position; self.groups.len()]);
            }
        }
        assert_eq!(span.epoch, Some(epoch), "another epoch without a gap");
        if let Block::Event(number) = block {
            truth.delivered(number, position);
            let due = &truth.event(number).groups;
            let mut mine = self.groups.iter().filter(|group| due.contains(group));
            let first = mine.next().unwrap_or_else(|| panic!("an event of {due:?}, not of {:?}", self.groups));
            assert!(position > span.has, "event {number} at {position} comes behind {}", span.has);
            // Of several groups it is not known which has kept it.
            if mine.next().is_none() && !span.replayed.iter().any(|(known, _)| known == first) {
                span.replayed.push((*first, position));
            }
            span.received.push(position);
        }
        assert!(position >= span.has, "{block:?} at {position} comes behind {}", span.has);
        span.has = position;
        self.is_placed = true;
    }

    fn take_gap(&mut self, truth: &Truth, gaps: &mut Gaps, (epoch, position): Cursor, crashed: bool) {
        let span = self.spans.back().expect("a page");
        let kind = match (span.epoch, &span.start) {
            (Some(known), _) if known != epoch => {
                let missed = |group: &usize| truth.between(*group, span.has, position).next().is_some();
                if !self.is_placed {
                    &mut gaps.replayed
                } else if self.groups.iter().any(missed) {
                    &mut gaps.lost
                } else {
                    &mut gaps.unlucky
                }
            }
            // The beginning of its groups may have been dropped for age.
            (None, Some(Start::Beginning)) => &mut gaps.started,
            (None, Some(Start::Live)) if crashed => &mut gaps.started,
            // It left before it got anything of what was kept, or in the middle of that.
            (Some(_), _) if span.has == 0 || self.may_be_cut(truth) => &mut gaps.dropped,
            (known, start) => {
                panic!("a gap without need: {known:?} {start:?} behind {}, {epoch} at {position}", span.has)
            }
        };
        *kind += 1;
        let mut next = Span::new(Some(epoch), position, vec![position; self.groups.len()]);
        if !self.is_placed {
            // All that is kept follows.
            next.checked = 0;
            let kept_from = |group: &usize| truth.kept_from(*group, HISTORY_EVENTS / 2);
            next.floor = self.groups.iter().map(kept_from).collect();
        }
        self.spans.push_back(next);
    }

    /// Checks what can be checked by now.
    pub(crate) fn check(&mut self, truth: &Truth) {
        let settled = truth.settled();
        while let Some(span) = self.spans.front_mut() {
            let until = span.has.min(settled);
            if until > span.checked {
                self.groups.iter().enumerate().for_each(|(n, group)| span.check(truth, (*group, span.floor[n]), until));
                span.checked = until;
                span.received.retain(|position| *position > until);
            }
            if self.spans.len() == 1 || settled < self.spans[0].has {
                return;
            }
            self.spans.pop_front();
        }
    }

    /// When the oldest event became known that is due and has not come.
    pub(crate) fn waits_since(&self, truth: &Truth) -> Option<Instant> {
        let has = self.spans.back().map_or(u64::MAX, |span| span.has);
        let next = |group: &usize| truth.next(*group, has).filter(|event| !event.may_be_lost);
        self.groups.iter().filter_map(next).map(|event| event.known_at).min()
    }

    /// Whether it may be behind what is kept.
    pub(crate) fn may_be_cut(&self, truth: &Truth) -> bool {
        let has = self.spans.back().map_or(0, |span| span.has);
        self.groups.iter().any(|group| truth.kept_from(*group, HISTORY_EVENTS - UNKNOWN) > has)
    }

    /// Whether it has everything, and all of that was checked.
    pub(crate) fn is_even(&self, truth: &Truth) -> bool {
        self.spans.len() == 1 && self.waits_since(truth).is_none() && self.spans[0].checked == self.spans[0].has
    }
}

impl Span {
    fn new(epoch: Option<u64>, position: u64, floor: Vec<u64>) -> Self {
        let (since, replayed, received) = (Instant::now(), Vec::new(), Vec::new());
        Self { start: None, epoch, has: position, checked: position, since, floor, replayed, received }
    }

    fn check(&self, truth: &Truth, (group, floor): (usize, u64), until: u64) {
        for (position, number, event) in truth.between(group, self.checked, until) {
            let follows = self.replayed.iter().any(|(known, first)| *known == group && position > *first);
            let is_due = position > floor || event.sent_at >= self.since || follows;
            if is_due && !event.may_be_lost && self.received.binary_search(&position).is_err() {
                let Self { start, epoch, has, .. } = self;
                panic!(
                    "event {number} of group {group} at {position} is missing: {event:?}; \
                     {start:?} {epoch:?} has {has} floor {floor}"
                );
            }
        }
    }
}
