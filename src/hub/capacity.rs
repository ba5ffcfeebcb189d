//! Places for calls to the backend: which lane has one, and when a call is tried without one.
//!
//! The number of places adapts ([`Pace`]); calls that hang take none ([`Flights`]). If nothing is answered at all, the calls
//! in flight may all hang, or be too many for a few workers. So from time to time one more is tried: its answer shows that
//! the others hang. If they do not, it is too few to matter. Once many are known to hang, connects for other paths need no
//! place.

use super::flights::Flights;
use super::pace::{Ending, Pace, reserve_of};
use super::pending::Lane;
use crate::callback::CallId;
use crate::clock::Millis;
use crate::planted;
use std::time::Duration;

/// From this number on the calls that hang count as many: more than a backend with few workers has in work, and fewer than
/// there are places at first.
const MANY: usize = 6;

pub(super) struct Capacity {
    flights: Flights,
    pace: Pace,
    /// Maximum in flight, whatever the backend can take.
    concurrency: usize,
    /// When the next call is tried without a place.
    probe_at: Millis,
    /// When nothing has been answered for long.
    silent_at: Millis,
    /// Until then calls for a path that hung may hang again; and whether that is now.
    wary_until: Millis,
    is_wary: bool,
    timeout: Duration,
    draining: bool,
}

impl Capacity {
    /// At most `concurrency` (at least 1) in flight; `timeout` is that of a call.
    pub(super) fn new(concurrency: usize, timeout: Duration) -> Self {
        let (pace, concurrency) = (Pace::new(concurrency, timeout), concurrency.max(1));
        Self {
            flights: Flights::default(),
            pace,
            concurrency,
            probe_at: Millis::ZERO,
            silent_at: Millis::ZERO,
            wary_until: Millis::ZERO,
            is_wary: false,
            timeout,
            draining: false,
        }
    }

    /// The current number of places.
    pub(super) fn limit(&self) -> usize {
        self.pace.limit()
    }

    /// Calls in flight, with or without a place.
    pub(super) fn in_flight(&self, lane: Lane) -> usize {
        self.flights.count(lane)
    }

    /// Calls for whose paths no other is tried: those that hang, if these are many, or else all in flight.
    pub(super) fn ids_to_avoid(&self) -> impl Iterator<Item = CallId> {
        self.flights.ids().take(if self.many_hang() { self.flights.overtaken() } else { self.flights.len() })
    }

    /// Whether a call for one of those paths may be tried if there is no other.
    pub(super) fn may_try_any(&self, now: Millis) -> bool {
        now >= self.silent_at && !self.is_crowded()
    }

    fn many_hang(&self) -> bool {
        self.flights.overtaken() >= MANY
    }

    /// Whether nearly the maximum is in flight, and many hang, or may. The last eighth is for other paths.
    fn is_crowded(&self) -> bool {
        (self.is_wary || self.many_hang()) && 8 * self.flights.len() >= 7 * self.concurrency
    }

    /// It is now that time.
    pub(super) fn note_time(&mut self, now: Millis) {
        self.is_wary = now < self.wary_until;
    }

    /// From now on disconnects may take all places.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether no call can start now, of whatever lane.
    pub(super) fn is_taken(&self, now: Millis) -> bool {
        self.flights.taken() >= self.pace.limit() && now < self.probe_at
    }

    /// Whether a call of that lane may start.
    pub(super) fn has_place(&self, lane: Lane) -> bool {
        let (limit, flights) = (self.pace.limit(), &self.flights);
        let is_free = flights.taken() < limit && flights.taken_by(lane) < self.lane_limit(limit);
        is_free && self.is_below_maximum(lane) && !(lane == Lane::Connects && self.is_crowded())
    }

    /// When a call of that lane is tried although there is no place; `None`: not before another one ends.
    pub(super) fn probe_at(&self, lane: Lane) -> Option<Millis> {
        // A backend of which a part hangs: calls that it would answer wait for the timeouts of others.
        let is_possible = self.is_below_maximum(lane) && !planted::is("calls-that-hang-hold-all-places");
        is_possible.then_some(self.probe_at)
    }

    fn is_below_maximum(&self, lane: Lane) -> bool {
        let max = self.concurrency;
        self.flights.len() < max && self.flights.count(lane) < self.lane_limit(max)
    }

    /// How many of `limit` places one lane may take. A few (2 of 128) are withheld from each, so that a flood in one does
    /// not block the others. When places become free the lanes alternate, which gives each its share.
    fn lane_limit(&self, limit: usize) -> usize {
        // Starvation: callbacks of one kind wait for as long as others arrive.
        let shared = !planted::is("one-lane-takes-all-workers");
        // A drain that waits for callbacks that cannot start.
        let draining = self.draining && !planted::is("drain-keeps-a-worker-for-connects");
        limit - if shared && !draining { reserve_of(limit) } else { 0 }
    }

    /// A call starts, as [`Capacity::has_place`] or [`Capacity::probe_at`] has said.
    pub(super) fn started(&mut self, now: Millis, id: CallId, lane: Lane) {
        if !self.has_place(lane) {
            self.probed(now);
        } else if self.flights.taken() == 0 {
            self.wait(now, self.pace.patience());
        }
        self.flights.started(now, id, lane);
        self.pace.started(now, self.flights.taken());
    }

    /// No call is tried for so long.
    fn wait(&mut self, now: Millis, time: Duration) {
        self.silent_at = now.after(time);
        self.probe_at = self.silent_at;
    }

    /// A call was tried without a place, or there was none to try.
    pub(super) fn probed(&mut self, now: Millis) {
        self.probe_at = now.after(self.pace.probe_interval(self.flights.taken()));
    }

    /// A call has ended, or is no longer waited for.
    pub(super) fn ended(&mut self, now: Millis, id: CallId, started_at: Millis, ending: Ending) {
        let hangs = self.flights.is_overtaken(started_at);
        self.flights.ended(id, started_at);
        match ending {
            // It shows nothing about the others.
            Ending::Answered if hangs => {}
            Ending::TimedOut if hangs => self.wary_until = now.after(2 * self.timeout),
            Ending::Answered | Ending::Erred | Ending::TimedOut | Ending::Unavailable => {
                if self.pace.ended(now, started_at, ending) {
                    self.wait(now, self.pace.probe_interval(self.flights.taken()));
                }
            }
        }
        match ending {
            Ending::Answered | Ending::Erred => {
                self.flights.answered(started_at);
                self.wait(now, self.pace.patience());
                if self.many_hang() {
                    self.probed(now);
                }
            }
            Ending::TimedOut | Ending::Unavailable => {}
        }
    }

    /// Panics if the limit is out of its bounds, or calls are miscounted.
    pub(super) fn assert_invariants(&self) {
        self.pace.assert_invariants();
        self.flights.assert_invariants();
        assert!(self.flights.len() <= self.concurrency, "too many calls in flight");
    }
}
