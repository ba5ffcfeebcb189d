//! Pages of events that this gateway has dropped, and Redis has not: which streams wait for one, and what has come.

use crate::cursor::Position;
use crate::hub::{ConnId, Frame};
use crate::redis::Page;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Pages that are on their way or have not been written: what they take together is bounded.
const PAGES_MAX: usize = 8;

/// What has come for a stream.
pub(super) struct Arrived {
    /// Its groups, in the order of the page.
    pub names: Vec<Box<str>>,
    pub page: Page,
}

/// The pages of all streams.
#[derive(Default)]
pub(super) struct Pages {
    /// Streams whose page is to be asked for, in order; some are not in `waiting` any more.
    queue: VecDeque<ConnId>,
    waiting: BTreeSet<ConnId>,
    asked: BTreeSet<ConnId>,
    arrived: BTreeMap<ConnId, Arrived>,
}

impl Pages {
    /// A stream needs a page.
    pub(super) fn want(&mut self, stream: ConnId) {
        if !self.asked.contains(&stream) && !self.arrived.contains_key(&stream) && self.waiting.insert(stream) {
            self.queue.push_back(stream);
        }
    }

    /// Whether the page of a stream has not come.
    pub(super) fn awaits(&self, stream: ConnId) -> bool {
        self.waiting.contains(&stream) || self.asked.contains(&stream)
    }

    /// Takes the next stream whose page is to be asked for.
    pub(super) fn next_to_ask(&mut self) -> Option<ConnId> {
        while self.asked.len() + self.arrived.len() < PAGES_MAX {
            let stream = self.queue.pop_front()?;
            if self.waiting.remove(&stream) {
                self.asked.insert(stream);
                return Some(stream);
            }
        }
        None
    }

    /// Whether the stream still waits for the page that has come.
    pub(super) fn take_asked(&mut self, stream: ConnId) -> bool {
        self.asked.remove(&stream)
    }

    pub(super) fn put(&mut self, stream: ConnId, arrived: Arrived) {
        self.arrived.insert(stream, arrived);
    }

    /// The page of a stream, if it is here.
    pub(super) fn get(&self, stream: ConnId) -> Option<&Arrived> {
        self.arrived.get(&stream)
    }

    /// The page of a stream is of no use: it is asked for again once the stream can be written to.
    pub(super) fn discard(&mut self, stream: ConnId) {
        self.arrived.remove(&stream);
    }

    /// The stream needs no page any more.
    pub(super) fn forget(&mut self, stream: ConnId) {
        self.waiting.remove(&stream);
        self.asked.remove(&stream);
        self.arrived.remove(&stream);
    }

    /// All streams that need one.
    pub(super) fn streams(&self) -> impl Iterator<Item = ConnId> {
        self.waiting.iter().chain(&self.asked).chain(self.arrived.keys()).copied()
    }

    /// What they take.
    pub(super) fn bytes(&self) -> usize {
        self.arrived.values().map(|arrived| arrived.page.bytes()).sum()
    }
}

impl Arrived {
    /// What is due to its stream that is owed what comes behind these positions of its groups, up to `until`: each event
    /// once.
    pub(super) fn due(&self, behind: &[Position], until: Position) -> impl Iterator<Item = (Position, &Frame)> {
        let until = until.min(self.page.covers);
        let mut last = 0;
        let due = self.page.events.iter().take_while(move |event| event.position <= until);
        due.filter(move |event| {
            let is_due =
                event.position > last && behind.get(event.group).is_some_and(|behind| event.position > *behind);
            if is_due {
                last = event.position;
            }
            is_due
        })
        .map(|event| (event.position, &event.frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_a_time_have_a_page() {
        let mut pages = Pages::default();
        let streams: Vec<ConnId> = (0..20).map(|slot| ConnId::from_parts(slot, 1)).collect();
        for stream in streams.iter().chain(&streams) {
            pages.want(*stream);
        }
        pages.forget(streams[0]);
        let asked: Vec<ConnId> = std::iter::from_fn(|| pages.next_to_ask()).collect();
        assert_eq!(asked, streams[1..=PAGES_MAX]);
        // One that is here keeps its place until it is written.
        assert!(pages.take_asked(asked[0]) && !pages.take_asked(streams[0]));
        pages.put(asked[0], Arrived { names: Vec::new(), page: Page::default() });
        assert_eq!(pages.next_to_ask(), None);
        pages.discard(asked[0]);
        assert_eq!(pages.next_to_ask(), Some(streams[PAGES_MAX + 1]));
        asked[1..].iter().for_each(|stream| pages.forget(*stream));
        assert_eq!(std::iter::from_fn(|| pages.next_to_ask()).count(), 7);
    }
}
