//! Queued callbacks and callbacks in flight, in one lane per kind.
//!
//! The lanes are here and not in the worker pool, so that order and waiting times are part of the protocol, run in the
//! simulation, and need no lock. The pool only runs the calls it is given.

use super::capacity::Capacity;
use super::outage::Outage;
use super::pace::Ending;
use super::pending::{EndReason, Lane, Pending, PendingConnect, PendingDisconnect};
use super::redelivery::Redelivery;
use super::start::Start;
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
    /// Calls are numbered in the order in which they were queued.
    number: u64,
    /// For disconnects, if they may be made again.
    queued_at: Millis,
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
        self.pending.bytes() * copies
    }
}

/// What becomes of a call at its end.
pub(crate) enum Ended {
    /// It is over, after so long; `None` for a late answer.
    Over(Pending, Option<Duration>),
    /// A disconnect was not received, after so long, and is made again.
    Again(Duration),
    /// The backend was told of the start; whether it has accepted that.
    Told(bool),
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
}

/// What callbacks are limited by.
pub(crate) struct CallSettings {
    /// Most in flight.
    pub(crate) concurrency: usize,
    /// The timeout of one.
    pub(crate) timeout: Duration,
    /// Connects wait for their turn while the backend is down, as their clients come back in any case.
    pub(crate) spare_dead_backend: bool,
    /// For how long disconnects that were not received are made again.
    pub(crate) disconnect_retry: Duration,
    /// The backend is told of the start before the first connect.
    pub(crate) tell_start: bool,
}

pub(crate) struct Calls {
    table: Table<Entry>,
    lanes: [Queue; Lane::COUNT],
    capacity: Capacity,
    outage: Outage,
    spare_dead_backend: bool,
    redelivery: Redelivery,
    start: Start,
    /// Number of the next call.
    next_number: u64,
    /// Disconnects at the end of the queue whose time is not noted yet.
    unstamped: usize,
    /// Of the requests of all disconnects that wait.
    waiting_bytes: usize,
    started_last: Lane,
    /// Timed-out connects that may still be answered.
    late: Vec<CallId>,
    /// Once the drain has begun: the latest time for their answers.
    late_until: Millis,
    /// From then on no connect starts, even if the drain is noticed later.
    drain_at: Millis,
    request_bytes: usize,
}

/// How often a call in flight holds its request: here, and in the worker's buffers.
const COPIES_IN_FLIGHT: usize = 4;

/// Connects looked at for one to try beside others: some tenths of a millisecond.
const OTHERS_MAX: usize = 4096;

/// Withdrawn ids that a lane may contain before they are removed.
const WITHDRAWN_MAX: usize = 1024;

impl Calls {
    pub(crate) fn new(settings: &CallSettings) -> Self {
        Self {
            table: Table::default(),
            lanes: Default::default(),
            capacity: Capacity::new(settings.concurrency, settings.timeout),
            outage: Outage::default(),
            spare_dead_backend: settings.spare_dead_backend,
            redelivery: Redelivery::new(settings.disconnect_retry),
            start: Start::new(settings.tell_start),
            next_number: 0,
            unstamped: 0,
            waiting_bytes: 0,
            started_last: Lane::Disconnects,
            late: Vec::new(),
            late_until: Millis::NEVER,
            drain_at: Millis::NEVER,
            request_bytes: 0,
        }
    }

    /// Queued and in flight, all lanes.
    pub(crate) fn len(&self) -> usize {
        self.table.len() + usize::from(self.start.is_in_flight())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
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

    /// The current maximum in flight, all lanes together.
    pub(crate) fn limit(&self) -> usize {
        self.capacity.limit()
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
        LaneCounts { in_flight: self.capacity.in_flight(lane), waiting: queue.waiting.len() - queue.withdrawn }
    }

    /// The drain begins at that time.
    pub(crate) fn drain_at(&mut self, drain_at: Millis) {
        self.drain_at = self.drain_at.min(drain_at);
    }

    /// From now on no connect starts, since all clients are about to be refused, and disconnects may use all workers.
    /// Late answers are awaited until `late_until`.
    pub(crate) fn drain(&mut self, late_until: Millis) {
        self.capacity.drain();
        self.start.give_up();
        self.late_until = late_until;
    }

    /// The next due time.
    pub(crate) fn next_deadline(&self) -> Option<Millis> {
        let late = (self.capacity.is_draining() && !self.late.is_empty()).then_some(self.late_until);
        let lanes = Lane::ALL.into_iter().filter_map(|lane| self.next_start(lane));
        lanes.chain(late).chain(self.start.due_at()).min()
    }

    /// When the next call of that lane starts by itself.
    fn next_start(&self, lane: Lane) -> Option<Millis> {
        let ready_at = self.ready_at(lane).filter(|_| self.counts(lane).waiting > 0)?;
        if self.capacity.has_place(lane) {
            // Without a time to wait for it has started already.
            (ready_at > Millis::ZERO).then_some(ready_at)
        } else {
            self.capacity.probe_at(lane).map(|probe_at| ready_at.max(probe_at))
        }
    }

    /// The earliest time for the next call of that lane; `None`: it waits for another one.
    fn ready_at(&self, lane: Lane) -> Option<Millis> {
        match lane {
            Lane::Connects => {
                // Streams that the backend removes again, as if they were of an earlier instance.
                let is_told = self.start.is_over() || planted::is("connects-do-not-wait-for-the-start");
                let spared_until = if self.spare_dead_backend { self.outage.next_try() } else { Millis::ZERO };
                (is_told && !self.capacity.is_draining()).then_some(spared_until)
            }
            Lane::Disconnects => {
                let next_at = self.redelivery.next_at();
                // After a failure one at a time, or the order is left to chance.
                (next_at == Millis::ZERO || self.capacity.in_flight(lane) == 0).then_some(next_at)
            }
        }
    }

    /// Removes a connect whose late answer is no longer awaited.
    pub(crate) fn give_up_late(&mut self, now: Millis) -> Option<PendingConnect> {
        // An order that only a slow backend shows.
        if now < self.late_until && !planted::is("late-answers-are-not-waited-for") {
            return None;
        }
        let id = self.late.pop()?;
        match self.take_out(id)?.pending {
            Pending::Connect(connect) => Some(connect),
            Pending::Disconnect(_) => None,
        }
    }

    /// Queues a callback; it starts by [`Calls::start_next`].
    pub(crate) fn queue(&mut self, pending: Pending) -> CallId {
        let lane = pending.lane();
        self.request_bytes += pending.bytes();
        if lane == Lane::Disconnects {
            self.unstamped += 1;
            self.waiting_bytes += pending.bytes();
        }
        let (number, queued_at) = (self.next_number, Millis::ZERO);
        self.next_number += 1;
        let id = self.table.insert(Entry { number, queued_at, progress: Progress::Waiting, pending });
        self.lanes[lane as usize].waiting.push_back(id);
        id
    }

    /// Notes when the last disconnects were queued.
    fn stamp(&mut self, now: Millis) {
        let unstamped = std::mem::take(&mut self.unstamped);
        if self.redelivery.is_on() {
            for id in self.lanes[Lane::Disconnects as usize].waiting.iter().rev().take(unstamped) {
                if let Some(entry) = self.table.get_mut(*id) {
                    entry.queued_at = now;
                }
            }
        }
    }

    /// Puts a disconnect back into the queue, before all that were queued after it.
    fn queue_again(&mut self, entry: Entry) {
        let number = entry.number;
        self.waiting_bytes += entry.pending.bytes();
        self.request_bytes += entry.request_bytes();
        let id = self.table.insert(entry);
        let waiting = &mut self.lanes[Lane::Disconnects as usize].waiting;
        let is_later = |other: &CallId| self.table.get(*other).is_some_and(|other| other.number > number);
        let mut place = waiting.iter().position(is_later).unwrap_or(waiting.len());
        // An order that only an outage shows.
        if planted::is("redelivery-loses-the-order") {
            place = waiting.len();
        }
        waiting.insert(place, id);
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

    fn take_out(&mut self, id: CallId) -> Option<Entry> {
        let entry = self.table.remove(id)?;
        self.request_bytes -= entry.request_bytes();
        Some(entry)
    }

    /// The call about the gateway's start, if it is due.
    pub(crate) fn tell_start(&mut self, now: Millis) -> Option<Call> {
        self.start.next(now)
    }

    /// Takes the next call that may start now, with the connection waiting for it.
    pub(crate) fn start_next(&mut self, now: Millis) -> Option<(Call, Option<ConnId>)> {
        self.stamp(now);
        let is_idle = self.lanes.iter().all(|lane| lane.waiting.is_empty());
        if is_idle || self.capacity.is_taken(now) {
            return None;
        }
        let (lane, place) = self.next_waiting(now)?;
        let id = self.lanes[lane as usize].waiting.remove(place)?;
        if lane == Lane::Connects {
            self.outage.tried(now);
        }
        self.started_last = lane;
        self.capacity.started(now, id, lane);
        let entry = self.table.get_mut(id)?;
        entry.progress = Progress::InFlight(now);
        self.request_bytes += entry.pending.bytes() * (COPIES_IN_FLIGHT - 1);
        let (kind, token, request, body, owner) = match &entry.pending {
            Pending::Connect(PendingConnect { token, request, body, owner }) => {
                (CallKind::Connect, token, request, body.clone(), owner.ok())
            }
            Pending::Disconnect(PendingDisconnect { token, request, ending: EndReason { reason, detail } }) => {
                self.waiting_bytes -= entry.pending.bytes();
                (CallKind::Disconnect { reason: *reason, detail: *detail }, token, request, None, None)
            }
        };
        Some((Call { id, kind, token: *token, request: request.clone(), body }, owner))
    }

    /// The lane of the next call that may start, and its place there.
    fn next_waiting(&mut self, now: Millis) -> Option<(Lane, usize)> {
        for queue in &mut self.lanes {
            queue.pass_withdrawn(&self.table);
        }
        self.capacity.note_time(now);
        let turns = [1, 2].map(|turn| Lane::ALL[(self.started_last as usize + turn) % Lane::COUNT]);
        let is_ready = |lane: &Lane| {
            let waits = !self.lanes[*lane as usize].waiting.is_empty();
            // What ends a wait may come in the turn in which the drain begins, and be noticed first.
            let is_late =
                *lane == Lane::Connects && now >= self.drain_at && !planted::is("connects-start-when-the-drain-is-due");
            waits && !is_late && self.ready_at(*lane).is_some_and(|at| at <= now)
        };
        let ready = || turns.into_iter().filter(is_ready);
        if let Some(lane) = ready().find(|lane| self.capacity.has_place(*lane)) {
            return Some((lane, 0));
        }
        let tried = ready().filter(|lane| self.capacity.probe_at(*lane).is_some_and(|at| at <= now));
        let next = tried.clone().find_map(|lane| Some((lane, self.other(now, lane)?)));
        if next.is_none() && tried.count() > 0 {
            self.capacity.probed(now);
        }
        next
    }

    /// The place of the call that is tried beside others that may hang: if possible a connect for another path.
    fn other(&self, now: Millis, lane: Lane) -> Option<usize> {
        let avoided: Vec<&str> = self.capacity.ids_to_avoid().filter_map(|id| self.path(id)).collect();
        let is_other = |id: &CallId| self.path(*id).is_some_and(|path| !avoided.contains(&path));
        let first = (lane == Lane::Disconnects || self.capacity.may_try_any(now)).then_some(0);
        self.lanes[lane as usize].waiting.iter().take(OTHERS_MAX).position(is_other).or(first)
    }

    /// The path of a connect's client.
    fn path(&self, id: CallId) -> Option<&str> {
        match &self.table.get(id)?.pending {
            Pending::Connect(connect) => connect.request.escaped_url().split('?').next(),
            Pending::Disconnect(_) => None,
        }
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
        self.capacity.ended(now, id, started_at, Ending::TimedOut);
        self.outage.ended(now, true);
        Some((owner, Duration::from_millis(now.since(started_at))))
    }

    /// Removes the ended call; `None` if the id is stale.
    pub(crate) fn finish(&mut self, now: Millis, id: CallId, outcome: &Outcome) -> Option<Ended> {
        if let Some(is_accepted) = self.start.ended(now, id, outcome) {
            self.outage.ended(now, !is_accepted);
            return Some(Ended::Told(is_accepted));
        }
        let started_at = match self.table.get(id)?.progress {
            Progress::Waiting => return None,
            Progress::Late => {
                self.late.retain(|late| *late != id);
                return Some(Ended::Over(self.take_out(id)?.pending, None));
            }
            Progress::InFlight(started_at) => started_at,
        };
        let took = Duration::from_millis(now.since(started_at));
        let entry = self.take_out(id)?;
        let lane = entry.pending.lane();
        self.capacity.ended(now, id, started_at, ending_of(outcome));
        match lane {
            Lane::Connects => self.outage.ended(now, outcome.is_temporary()),
            Lane::Disconnects => {
                let (waiting, bytes) = (self.counts(lane).waiting, self.waiting_bytes);
                let again = self.redelivery.tried(now, entry.queued_at, outcome, waiting, bytes);
                // A callback that is missing: only an outage shows it.
                if again && !planted::is("undelivered-disconnect-is-forgotten") {
                    self.queue_again(Entry { progress: Progress::Waiting, ..entry });
                    return Some(Ended::Again(took));
                }
            }
        }
        Some(Ended::Over(entry.pending, Some(took)))
    }

    /// Panics if the limit of calls in flight is out of its bounds.
    pub(crate) fn assert_invariants(&self) {
        self.capacity.assert_invariants();
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
mod hanging;
#[cfg(test)]
mod tests;
