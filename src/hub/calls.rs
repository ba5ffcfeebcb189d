//! Queued callbacks and callbacks in flight, in one lane per kind.
//!
//! The lanes are here and not in the worker pool, so that order and waiting times are part of the protocol, run in the
//! simulation, and need no lock. The pool only runs the calls it is given.

use super::outage::Outage;
use super::pace::{Ending, Pace};
use super::pending::{EndReason, Lane, Pending, PendingConnect, PendingDisconnect};
use super::tokens::ConnId;
use crate::callback::{Call, CallId, CallKind, Outcome};
use crate::clock::Millis;
use crate::planted;
use crate::table::Table;
use std::collections::VecDeque;
use std::time::Duration;

/// The progress of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Waiting for a worker.
    Waiting,
    /// Received by a worker at this time.
    InFlight(Millis),
    /// Timed out, but may still be answered.
    Late,
}

struct Entry {
    progress: Progress,
    pending: Pending,
}

impl Entry {
    /// What its request takes.
    fn request_bytes(&self) -> usize {
        let copies = match self.progress {
            Progress::Waiting => 1,
            Progress::InFlight(_) | Progress::Late => COPIES_IN_FLIGHT,
        };
        self.pending.request().json().len() * copies
    }
}

/// The number of callbacks in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneCounts {
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
}

#[derive(Default)]
struct Queue {
    /// May contain withdrawn ids, which are stale and skipped.
    waiting: VecDeque<CallId>,
    withdrawn: usize,
    in_flight: usize,
}

/// What callbacks are limited by.
pub(crate) struct CallSettings {
    /// Most in flight.
    pub(crate) concurrency: usize,
    /// The timeout of one.
    pub(crate) timeout: Duration,
    /// Connects wait for their turn while the backend is down, as their clients come back in any case.
    pub(crate) spare_dead_backend: bool,
}

pub(crate) struct Calls {
    table: Table<Entry>,
    lanes: [Queue; Lane::COUNT],
    /// Maximum in flight at once, all lanes together.
    pace: Pace,
    outage: Outage,
    spare_dead_backend: bool,
    /// No more connects start.
    draining: bool,
    started_last: Lane,
    /// Timed-out connects that may still be answered.
    late: Vec<CallId>,
    /// Once the drain has begun: the latest time for their answers.
    late_until: Millis,
    request_bytes: usize,
}

/// How often a call in flight holds its request: here, and in the worker's buffers.
const COPIES_IN_FLIGHT: usize = 4;

/// Withdrawn ids that a lane may contain before they are removed.
const WITHDRAWN_MAX: usize = 1024;

impl Calls {
    pub(crate) fn new(settings: &CallSettings) -> Self {
        Self {
            table: Table::default(),
            lanes: Default::default(),
            pace: Pace::new(settings.concurrency, settings.timeout),
            outage: Outage::default(),
            spare_dead_backend: settings.spare_dead_backend,
            draining: false,
            started_last: Lane::Disconnects,
            late: Vec::new(),
            late_until: Millis::NEVER,
            request_bytes: 0,
        }
    }

    /// Queued and in flight, all lanes.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes of the requests that calls hold.
    pub(crate) fn request_bytes(&self) -> usize {
        self.request_bytes
    }

    /// Frees unused memory.
    pub(crate) fn shrink(&mut self) {
        self.table.shrink();
        for lane in &mut self.lanes {
            lane.waiting.shrink_to_fit();
        }
    }

    fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.in_flight).sum()
    }

    /// The current maximum in flight, all lanes together.
    pub(crate) fn limit(&self) -> usize {
        self.pace.limit()
    }

    /// For how long no connect has been answered; zero if the last one was.
    pub(crate) fn outage(&self, now: Millis) -> Duration {
        self.outage.length(now)
    }

    /// Whether a worker has received that call.
    pub(crate) fn is_started(&self, id: CallId) -> bool {
        self.table.get(id).is_some_and(|entry| entry.progress != Progress::Waiting)
    }

    pub(crate) fn counts(&self, lane: Lane) -> LaneCounts {
        let queue = &self.lanes[lane as usize];
        LaneCounts { in_flight: queue.in_flight, waiting: queue.waiting.len() - queue.withdrawn }
    }

    /// From now on no connect starts, since all clients are about to be refused, and disconnects may use all workers.
    /// Late answers are awaited until `late_until`.
    pub(crate) fn drain(&mut self, late_until: Millis) {
        self.draining = true;
        self.late_until = late_until;
    }

    /// The next due time.
    pub(crate) fn next_deadline(&self) -> Option<Millis> {
        let late = (self.draining && !self.late.is_empty()).then_some(self.late_until);
        let LaneCounts { in_flight, waiting } = self.counts(Lane::Connects);
        let has_room = self.in_flight() < self.pace.limit() && in_flight < self.lane_limit();
        let connect = self.next_connect().filter(|_| waiting > 0 && has_room && !self.draining);
        [late, connect].into_iter().flatten().min()
    }

    /// When the next connect may start, where a dead backend is spared.
    fn next_connect(&self) -> Option<Millis> {
        self.spare_dead_backend.then(|| self.outage.next_try())
    }

    /// Removes a connect whose late answer is no longer awaited.
    pub(crate) fn give_up_late(&mut self, now: Millis) -> Option<PendingConnect> {
        // An order that only a slow backend shows.
        if now < self.late_until && !planted::is("late-answers-are-not-waited-for") {
            return None;
        }
        let id = self.late.pop()?;
        match self.take_out(id)? {
            Pending::Connect(connect) => Some(connect),
            Pending::Disconnect(_) => None,
        }
    }

    /// Queues a callback; it starts by [`Calls::start_next`].
    pub(crate) fn queue(&mut self, pending: Pending) -> CallId {
        let lane = pending.lane();
        self.request_bytes += pending.request().json().len();
        let id = self.table.insert(Entry { progress: Progress::Waiting, pending });
        self.lanes[lane as usize].waiting.push_back(id);
        id
    }

    /// The client of a connect no longer waits. A call that has not started is withdrawn; otherwise the reason is kept
    /// until the outcome is known.
    pub(crate) fn abandon(&mut self, id: CallId, ending: EndReason) {
        let Some(entry) = self.table.get_mut(id) else { return };
        // A surplus callback: a connect for a client that has left.
        if entry.progress != Progress::Waiting || planted::is("withdrawn-connect-is-made") {
            match &mut entry.pending {
                Pending::Connect(connect) => {
                    connect.owner = Err(ending);
                    // An order that only a slow backend shows.
                    if planted::is("disconnect-overtakes-its-connect") {
                        let (token, request) = (connect.token, connect.request.clone());
                        self.queue(Pending::Disconnect(PendingDisconnect { token, request, ending }));
                    }
                }
                Pending::Disconnect(_) => debug_assert!(false, "no client waits for a disconnect"),
            }
            return;
        }
        self.take_out(id);
        let queue = &mut self.lanes[Lane::Connects as usize];
        queue.withdrawn += 1;
        if queue.withdrawn > WITHDRAWN_MAX {
            queue.waiting.retain(|id| self.table.get(*id).is_some());
            queue.withdrawn = 0;
        }
    }

    fn take_out(&mut self, id: CallId) -> Option<Pending> {
        let entry = self.table.remove(id)?;
        self.request_bytes -= entry.request_bytes();
        Some(entry.pending)
    }

    /// Takes the next call that may start now, with the connection waiting for it.
    pub(crate) fn start_next(&mut self, now: Millis) -> Option<(Call, Option<ConnId>)> {
        let is_idle = self.lanes.iter().all(|lane| lane.waiting.is_empty());
        if is_idle || self.in_flight() >= self.pace.limit() {
            return None;
        }
        let lane = self.next_lane(now)?;
        if lane == Lane::Connects {
            self.outage.tried(now);
        }
        let queue = &mut self.lanes[lane as usize];
        let id = queue.waiting.pop_front()?;
        queue.in_flight += 1;
        self.started_last = lane;
        self.pace.started(now, self.in_flight());
        let entry = self.table.get_mut(id)?;
        entry.progress = Progress::InFlight(now);
        self.request_bytes += entry.pending.request().json().len() * (COPIES_IN_FLIGHT - 1);
        let (kind, token, request, owner) = match &entry.pending {
            Pending::Connect(PendingConnect { token, request, owner }) => {
                (CallKind::Connect, token, request, owner.ok())
            }
            Pending::Disconnect(PendingDisconnect { token, request, ending: EndReason { reason, detail } }) => {
                (CallKind::Disconnect { reason: *reason, detail: *detail }, token, request, None)
            }
        };
        Some((Call { id, kind, token: *token, request: request.clone() }, owner))
    }

    /// A connect has timed out, and its worker keeps reading: it is no longer in flight. `ending` becomes the reason of
    /// its disconnect. Returns the client, if it still waits, and the call's duration; `None` if the id is stale.
    pub(crate) fn overdue(&mut self, now: Millis, id: CallId, ending: EndReason) -> Option<(Option<ConnId>, Duration)> {
        let entry = self.table.get_mut(id)?;
        let (Progress::InFlight(started_at), Pending::Connect(connect)) = (entry.progress, &mut entry.pending) else {
            return None;
        };
        entry.progress = Progress::Late;
        self.late.push(id);
        let owner = std::mem::replace(&mut connect.owner, Err(ending)).ok();
        self.lanes[Lane::Connects as usize].in_flight -= 1;
        self.pace.ended(now, started_at, Ending::TimedOut);
        self.outage.ended(now, true);
        Some((owner, Duration::from_millis(now.since(started_at))))
    }

    /// Removes the answered call and returns it, with its duration unless it is late; `None` if the id is stale.
    pub(crate) fn finish(&mut self, now: Millis, id: CallId, outcome: &Outcome) -> Option<(Pending, Option<Duration>)> {
        let started_at = match self.table.get(id)?.progress {
            Progress::Waiting => return None,
            Progress::Late => {
                self.late.retain(|late| *late != id);
                return Some((self.take_out(id)?, None));
            }
            Progress::InFlight(started_at) => started_at,
        };
        let pending = self.take_out(id)?;
        self.lanes[pending.lane() as usize].in_flight -= 1;
        self.pace.ended(now, started_at, ending_of(outcome));
        if pending.lane() == Lane::Connects {
            self.outage.ended(now, outcome.is_temporary());
        }
        Some((pending, Some(Duration::from_millis(now.since(started_at)))))
    }

    /// A few places (2 of 128) are withheld from each lane, so that a flood in one does not block the others. When
    /// workers become free the lanes alternate, which gives each its share.
    fn lane_limit(&self) -> usize {
        // Starvation: callbacks of one kind wait for as long as others arrive.
        let shared = !planted::is("one-lane-takes-all-workers");
        // A drain that waits for callbacks that cannot start.
        let draining = self.draining && !planted::is("drain-keeps-a-worker-for-connects");
        self.pace.limit() - if shared && !draining { self.pace.reserve() } else { 0 }
    }

    /// The next lane, among those with a call that may start.
    fn next_lane(&mut self, now: Millis) -> Option<Lane> {
        let limit = self.lane_limit();
        let no_connects = self.draining || self.next_connect().is_some_and(|at| now < at);
        let turns = (1..=Lane::COUNT).map(|turn| Lane::ALL[(self.started_last as usize + turn) % Lane::COUNT]);
        turns.filter(|lane| !(no_connects && *lane == Lane::Connects)).find(|lane| {
            let queue = &mut self.lanes[*lane as usize];
            queue.pass_withdrawn(&self.table);
            !queue.waiting.is_empty() && queue.in_flight < limit
        })
    }

    /// Panics if the limit of calls in flight is out of its bounds.
    pub(crate) fn assert_invariants(&self) {
        self.pace.assert_invariants();
        let bytes = self.table.iter().map(|(_, entry)| entry.request_bytes());
        assert_eq!(self.request_bytes, bytes.sum::<usize>(), "bytes of requests are miscounted");
    }
}

fn ending_of(outcome: &Outcome) -> Ending {
    match outcome {
        Outcome::Answered { status: 500.., .. } => Ending::Erred,
        Outcome::Answered { .. } => Ending::Answered,
        Outcome::Unavailable { .. } => Ending::Unavailable,
        Outcome::Overdue | Outcome::TimedOut { .. } => Ending::TimedOut,
    }
}

impl Queue {
    fn pass_withdrawn(&mut self, table: &Table<Entry>) {
        while self.withdrawn > 0 && self.waiting.front().is_some_and(|id| table.get(*id).is_none()) {
            self.waiting.pop_front();
            self.withdrawn -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callback::Request;
    use crate::table::Key;
    use uuid::Uuid;

    fn settings(concurrency: usize) -> CallSettings {
        CallSettings { concurrency, timeout: Duration::from_secs(5), spare_dead_backend: false }
    }

    fn queue_both(calls: &mut Calls, count: usize) {
        let ending = EndReason::CLIENT_CLOSED;
        for _ in 0..count {
            let (token, request) = (Uuid::nil(), Request::default());
            calls.queue(Pending::Connect(PendingConnect { token, request, owner: Ok(Key::from_parts(0, 0)) }));
            calls.queue(Pending::Disconnect(PendingDisconnect { token, request: Request::default(), ending }));
        }
    }

    fn queue_connects(calls: &mut Calls, count: usize) {
        let owner = Ok(Key::from_parts(0, 0));
        for _ in 0..count {
            let (token, request) = (Uuid::nil(), Request::default());
            calls.queue(Pending::Connect(PendingConnect { token, request, owner }));
        }
    }

    fn start(calls: &mut Calls) -> Option<(CallId, bool)> {
        calls.start_next(Millis::ZERO).map(|(call, _)| (call.id, call.kind == CallKind::Connect))
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, passed: Vec::new(), body: None, in_doubt: false }
    }

    /// With a measured capacity of `limit` calls at once.
    fn at_limit(limit: usize) -> Calls {
        let mut calls = Calls::new(&settings(limit));
        while calls.limit() < limit {
            let count = calls.limit();
            queue_connects(&mut calls, count);
            let started = Vec::from_iter(std::iter::from_fn(|| start(&mut calls)));
            for (id, _) in started {
                calls.finish(Millis::ZERO, id, &answered(200));
            }
        }
        while let Some((id, _)) = start(&mut calls) {
            calls.finish(Millis::ZERO, id, &answered(500));
        }
        calls
    }

    #[test]
    fn a_flood_in_one_lane_leaves_the_other_moving() {
        for limit in [1, 2, 16, 128, 1000] {
            let mut calls = at_limit(limit);
            queue_connects(&mut calls, 2 * limit);
            let mut flying = VecDeque::new();
            while let Some((id, connect)) = start(&mut calls) {
                assert!(connect);
                flying.push_back(id);
            }
            // All except the places reserved for the others.
            assert_eq!(limit - flying.len(), if limit == 1 { 0 } else { (limit / 64).max(1) });
            queue_both(&mut calls, 2 * limit);
            let mut disconnects = 0;
            for _ in 0..2 * limit {
                while let Some((id, connect)) = start(&mut calls) {
                    flying.push_back(id);
                    disconnects += usize::from(!connect);
                }
                assert_eq!(flying.len(), limit);
                assert!(disconnects > 0 || limit == 1);
                // The limit does not change.
                calls.finish(Millis::ZERO, flying.pop_front().unwrap(), &answered(500));
            }
            assert!(
                disconnects >= limit && disconnects <= limit + limit.div_ceil(64),
                "{disconnects} of {}",
                2 * limit
            );
        }
    }

    #[test]
    fn withdrawn_connects_are_passed_over_and_do_not_pile_up() {
        let mut calls = Calls::new(&settings(2));
        let left = EndReason::CLIENT_CLOSED;
        let connect = |calls: &mut Calls, slot| {
            let owner = Ok(Key::from_parts(slot, 0));
            let (token, request) = (Uuid::nil(), Request::default());
            calls.queue(Pending::Connect(PendingConnect { token, request, owner }))
        };
        let start = |calls: &mut Calls| calls.start_next(Millis::ZERO).and_then(|(_, owner)| owner);
        let first = connect(&mut calls, 0);
        assert_eq!(start(&mut calls), Some(Key::from_parts(0, 0)));
        for slot in 1..10_000 {
            let id = connect(&mut calls, slot);
            calls.abandon(id, left);
            assert!(calls.lanes[0].waiting.len() <= WITHDRAWN_MAX + 1);
            assert_eq!(calls.len(), 1, "the one in flight");
        }
        connect(&mut calls, 10_000);
        assert!(start(&mut calls).is_none(), "one worker is kept for disconnects");
        assert!(calls.finish(Millis::ZERO, first, &answered(200)).is_some());
        assert_eq!(start(&mut calls), Some(Key::from_parts(10_000, 0)));
        assert_eq!((calls.lanes[0].waiting.len(), calls.lanes[0].withdrawn), (0, 0));
    }
}
