//! The calls in flight, and which of them hang.
//!
//! A backend takes calls in the order of their arrival. So a call that started well before one that has been answered no
//! longer waits there: it is slow in itself, or it hangs. It takes no place that others need, and its time says nothing
//! about theirs.

use super::pending::Lane;
use crate::callback::CallId;
use crate::clock::Millis;
use std::collections::VecDeque;

/// A call that started less before one that has been answered may still wait: threads and workers are not exact. In
/// milliseconds.
const SIGNIFICANT_MS: u64 = 100;

struct Flight {
    id: CallId,
    lane: Lane,
    started_at: Millis,
}

/// The calls in flight.
#[derive(Default)]
pub(super) struct Flights {
    /// By start.
    flights: VecDeque<Flight>,
    /// How many of each lane have been overtaken, and how many have not.
    overtaken: [usize; Lane::COUNT],
    others: [usize; Lane::COUNT],
    /// Calls that started earlier have been overtaken.
    frontier: Millis,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Those of one lane.
    pub(super) fn count(&self, lane: Lane) -> usize {
        self.overtaken[lane as usize] + self.others[lane as usize]
    }

    /// Those that take a place.
    pub(super) fn taken(&self) -> usize {
        self.others.iter().sum()
    }

    /// The same of one lane.
    pub(super) fn taken_by(&self, lane: Lane) -> usize {
        self.others[lane as usize]
    }

    /// How many have been overtaken.
    pub(super) fn overtaken(&self) -> usize {
        self.overtaken.iter().sum()
    }

    /// All, by start; those that have been overtaken come first.
    pub(super) fn ids(&self) -> impl Iterator<Item = CallId> {
        self.flights.iter().map(|flight| flight.id)
    }

    /// A call starts.
    pub(super) fn started(&mut self, now: Millis, id: CallId, lane: Lane) {
        self.flights.push_back(Flight { id, lane, started_at: now });
        self.others[lane as usize] += 1;
    }

    /// Whether a call that started then has been overtaken.
    pub(super) fn is_overtaken(&self, started_at: Millis) -> bool {
        started_at < self.frontier
    }

    /// A call has ended.
    pub(super) fn ended(&mut self, id: CallId, started_at: Millis) {
        let first = self.first_since(started_at);
        let place = (first..self.flights.len()).find(|place| self.flights[*place].id == id);
        if let Some(flight) = place.and_then(|place| self.flights.remove(place)) {
            let counts = if self.is_overtaken(started_at) { &mut self.overtaken } else { &mut self.others };
            counts[flight.lane as usize] -= 1;
        }
    }

    /// A call that started then has been answered.
    pub(super) fn answered(&mut self, started_at: Millis) {
        let frontier = Millis::from_millis(started_at.as_millis().saturating_sub(SIGNIFICANT_MS));
        if frontier <= self.frontier {
            return;
        }
        let passed = self.first_since(self.frontier)..self.first_since(frontier);
        for flight in self.flights.range(passed) {
            self.others[flight.lane as usize] -= 1;
            self.overtaken[flight.lane as usize] += 1;
        }
        self.frontier = frontier;
    }

    /// The place of the first call that has not started before then.
    fn first_since(&self, time: Millis) -> usize {
        self.flights.partition_point(|flight| flight.started_at < time)
    }

    /// Panics if the counts do not match the calls.
    pub(super) fn assert_invariants(&self) {
        let is_sorted = self.flights.iter().is_sorted_by_key(|flight| flight.started_at);
        assert!(is_sorted, "calls in flight out of order");
        for lane in Lane::ALL {
            let of_lane = self.flights.iter().filter(|flight| flight.lane == lane);
            let (overtaken, others): (Vec<_>, Vec<_>) =
                of_lane.partition(|flight| self.is_overtaken(flight.started_at));
            assert_eq!((overtaken.len(), others.len()), (self.overtaken[lane as usize], self.others[lane as usize]));
        }
    }
}
