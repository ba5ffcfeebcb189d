//! The deadlines of connections.

use super::connection::{Closing, Connection, Input, State};
use super::settings::Settings;
use crate::clock::Millis;
use crate::hub::ConnId;
use crate::table::Table;
use crate::timer::Timer;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// How long a peer may be silent after the last response before its connection is closed, and the longest time that its
/// input is discarded: the values of nginx (`lingering_timeout`, `lingering_time`).
const LINGER_SILENCE: Duration = Duration::from_secs(5);
const LINGER_MAX: Duration = Duration::from_secs(30);
/// The same while draining: only a moment for input in flight, since the process must end.
const LINGER_DRAINING: Duration = Duration::from_secs(1);

/// A timer entry is never set further ahead, so that entries of moved deadlines do not accumulate: at most one per
/// connection in this time and per shortest timeout.
const TIMER_AHEAD_MAX: Duration = Duration::from_secs(30);

/// The deadlines of all connections.
pub(super) struct Deadlines {
    timer: Timer,
    /// When streams expire. Apart from the other deadlines, as few streams do, and the others are not to pay for it. Some
    /// have ended since.
    expiries: BinaryHeap<Reverse<(Millis, ConnId)>>,
}

impl Deadlines {
    pub(super) fn new(now: Millis) -> Self {
        Self { timer: Timer::new(now), expiries: BinaryHeap::new() }
    }

    /// Schedules a check of the connection's deadline.
    pub(super) fn schedule(&mut self, now: Millis, connection: &mut Connection, settings: &Settings) {
        connection.deadline = deadline_of(connection, settings);
        let due = connection.deadline.min(now.after(TIMER_AHEAD_MAX));
        if due < connection.scheduled {
            connection.scheduled = due;
            self.timer.insert(due, connection.id);
        }
    }

    /// Takes the next connection whose deadline must be checked. Some entries are stale: the connection is gone, or its
    /// deadline has moved.
    pub(super) fn pop(&mut self, now: Millis) -> Option<(ConnId, Millis)> {
        self.timer.pop(now)
    }

    pub(super) fn next_due(&self) -> Option<Millis> {
        let expiry = self.expiries.peek().map(|Reverse((at, _))| *at);
        self.timer.next_due().into_iter().chain(expiry).min()
    }

    /// Ends that stream at `at`.
    pub(super) fn expire_at(&mut self, at: Millis, id: ConnId) {
        self.expiries.push(Reverse((at, id)));
    }

    /// Takes the next stream that expires; it may have ended already.
    pub(super) fn pop_expiry(&mut self, now: Millis) -> Option<ConnId> {
        let Reverse((at, _)) = self.expiries.peek()?;
        if *at > now {
            return None;
        }
        self.expiries.pop().map(|Reverse((_, id))| id)
    }

    /// Forgets expiries of streams that have ended, once these are most of them. `streams`: how many are open.
    pub(super) fn bound_expiries(&mut self, streams: u64, connections: &Table<Connection>) {
        const STALE_MIN: u64 = 64;
        if self.expiries.len() as u64 > 2 * streams + STALE_MIN {
            self.expiries.retain(|Reverse((_, id))| connections.get(*id).is_some_and(Connection::is_stream));
        }
    }

    /// Frees unused memory.
    pub(super) fn shrink(&mut self, connections: &Table<Connection>) {
        self.timer.shrink(|id, due| connections.get(id).is_some_and(|connection| connection.scheduled == due));
    }
}

/// Whether the peer has accepted no output for longer than the client timeout.
pub(super) fn is_stalled(now: Millis, connection: &Connection, settings: &Settings) -> bool {
    stalls_at(connection, settings) <= now
}

fn stalls_at(connection: &Connection, settings: &Settings) -> Millis {
    let has_unsent = !connection.out.is_empty() || connection.is_lagging();
    if has_unsent { connection.out.progress_at().after(settings.client_timeout) } else { Millis::NEVER }
}

/// The latest time until which input after the last response is discarded.
pub(super) fn linger_until(now: Millis, is_draining: bool) -> Millis {
    now.after(if is_draining { LINGER_DRAINING } else { LINGER_MAX })
}

/// The latest time for a client of a cut stream to read the kernel's remaining bytes.
pub(super) fn cut_until(now: Millis, is_draining: bool, settings: &Settings) -> Millis {
    let until = now.after(settings.client_timeout);
    if is_draining { until.min(now.after(LINGER_DRAINING)) } else { until }
}

/// Whether that connection's deadline has passed.
pub(super) fn is_due(now: Millis, connection: &Connection, settings: &Settings) -> bool {
    deadline_of(connection, settings) <= now
}

/// That connection's deadline.
// Of every input and output: as a call it costs each of them 15 instructions more.
#[inline(always)]
fn deadline_of(connection: &Connection, settings: &Settings) -> Millis {
    let stalled = stalls_at(connection, settings);
    match &connection.state {
        State::Reading(_) if connection.input == Input::Ending => stalled,
        State::Reading(reading) => stalled.min(match reading.started {
            Some(started) => started.after(settings.request_timeout),
            // A client with unread answers is not idle.
            None if !connection.out.is_empty() => Millis::NEVER,
            None => connection.out.progress_at().after(settings.keepalive_timeout),
        }),
        State::Connecting(connecting) => stalled.min(connecting.answer_by),
        State::Streaming(streaming) => stalled.min(streaming.heartbeat_at),
        State::Closing(Closing::Lingering { until }) => connection.out.progress_at().after(LINGER_SILENCE).min(*until),
        State::Closing(Closing::Cut { until }) => *until,
        // A feed may be silent for ever: TCP finds a peer that has vanished.
        State::Answering(_) | State::Feeding(_) | State::Closing(Closing::Flushing) => stalled,
        State::Closed(_) => Millis::NEVER,
    }
}

/// Panics if no timer entry covers the connection's deadline.
pub(super) fn assert_scheduled(connection: &Connection, settings: &Settings) {
    assert_eq!(connection.deadline, deadline_of(connection, settings), "a deadline that nobody looks at");
    assert!(connection.deadline == Millis::NEVER || connection.scheduled != Millis::NEVER);
}
