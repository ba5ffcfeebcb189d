//! The protocol: connections, tokens, streams, callbacks, deadlines.
//!
//! [`Gateway`] is pure. What happened goes in (bytes came, a callback was answered, time passed); bytes
//! and [`Action`]s come out. It knows no socket, clock, thread or randomness, so a handler runs to
//! its end without an error in its middle, a fuzzer drives it by calling functions, and a simulation
//! decides everything that it sees.
//!
//! After each input the owner takes [`Gateway::next_action`] and [`Gateway::next_dirty`] until both
//! are empty.

mod calls;
mod connection;
mod hints;
mod output;
mod reports;
mod requests;
mod routes;
mod settings;
mod stats;
mod streams;
mod tokens;

pub use routes::{Cors, Listener, Peer};
pub use settings::{ConnectFailure, Settings};
pub use stats::ProcessFigures;

use crate::callback::{Call, Detail, Reason};
use crate::clock::Millis;
use crate::http::response::Date;
use crate::sse;
use crate::table::{Key, Table};
use crate::timer::Timer;
use calls::{Calls, EndReason};
use connection::{Connection, State};
use hints::Hints;
use output::Outbox;
use stats::{Refusal, Stats};
use std::time::Duration;
use tokens::Tokens;
use uuid::Uuid;

/// Names a connection; stale once it is closed.
pub type ConnId = Key;

/// Names an answer that a connection owes, one at a time; stale once the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(ConnId);

/// What the owner of the sockets and of the worker pool is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this callback, and tell what came of it through [`Gateway::answer`].
    Call(Call),
    /// The metrics are requested: pass the process's figures to [`Gateway::report`].
    Report(Ticket),
    /// Everything is flushed: shut the sending side down, so that the peer sees the end.
    ShutdownWrite(ConnId),
    /// Close the socket; the id is stale already.
    Close(ConnId, CloseMode),
    /// Close the listeners.
    StopAccepting,
}

/// How to close a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Let the kernel deliver what it has.
    Graceful,
    /// Throw away what the peer has not read, and reset: it has had its time.
    Abort,
}

/// What an I/O error amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketError {
    /// Reading failed: the peer reset the connection or is gone.
    Reset,
    /// Writing failed.
    WriteFailed,
    /// The kernel gave up on the peer (`TCP_USER_TIMEOUT`).
    TimedOut,
}

/// How the gateway came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Every stream was ended and every callback made.
    Clean,
    /// The time for the drain ran out first.
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Told to stop, and still serving so that load balancers notice.
    ShutdownDelay {
        drain_at: Millis,
    },
    Draining {
        give_up_at: Millis,
        /// The slot that the drain has come to; `None`: it has been everywhere.
        next: Option<usize>,
    },
    GivenUp,
}

/// Timers that fire before their output is flushed: few enough that what was read and written for them is still in the
/// cache then, and that few buffers serve them all.
const FIRED_AT_ONCE: usize = 16;

/// Connections that the drain ends in one turn: nobody waits for a million of them.
const TURN_CONNECTIONS: usize = 1024;

/// How long a peer may take to close after the last response.
const LINGER: Duration = Duration::from_secs(1);

/// Unsent answers on one connection before its requests are left unread: who pipelines must read.
const ANSWERS_UNSENT_MAX: usize = 64 * 1024;

/// A timer entry is never set further ahead, so that entries for deadlines that have moved do not
/// pile up: one per connection in this time and per shortest timeout at the most.
const TIMER_AHEAD_MAX: Duration = Duration::from_secs(30);

/// The protocol's state. See the module documentation.
pub struct Gateway {
    settings: Settings,
    connections: Table<Connection>,
    /// The streams that can be sent to: those connecting and those open.
    tokens: Tokens,
    calls: Calls,
    timer: Timer,
    outbox: Outbox,
    stats: Stats,
    hints: Hints,
    date: Date,
    /// The answer to a send that was delivered, complete: by far the most frequent one.
    ok: Vec<u8>,
    /// Where a request is encoded.
    scratch: String,
    /// State of the generator behind the jitter; secrets never come from it.
    random: u64,
    stage: Stage,
}

impl Gateway {
    /// A gateway at `now` without connections. `seed` feeds the jitter of `retry`.
    pub fn new(settings: Settings, now: Millis, seed: u64) -> Gateway {
        Gateway {
            calls: Calls::new(settings.callback_concurrency),
            settings,
            connections: Table::default(),
            tokens: Tokens::default(),
            timer: Timer::new(now),
            outbox: Outbox::default(),
            stats: Stats::default(),
            hints: Hints::default(),
            date: Date::new(0),
            ok: requests::delivered(&Date::new(0)),
            scratch: String::new(),
            random: seed,
            stage: Stage::Serving,
        }
    }

    /// The wall clock, for `Date` fields: seconds since the Unix epoch.
    pub fn set_date(&mut self, unix_seconds: u64) {
        if self.date.unix_seconds() != unix_seconds {
            self.date = Date::new(unix_seconds);
            self.ok = requests::delivered(&self.date);
        }
    }

    /// A client connected. `token` is a fresh random one, used if the connection becomes a stream.
    /// `None`: no more connections are taken.
    pub fn accept(&mut self, now: Millis, listener: Listener, peer: Peer, token: Uuid) -> Option<ConnId> {
        if self.is_draining() {
            return None;
        }
        self.stats.connections_accepted += 1;
        let id = self.connections.insert(Connection::new(now, listener, peer, token));
        self.reschedule(now, id);
        Some(id)
    }

    /// Bytes came.
    pub fn receive(&mut self, now: Millis, id: ConnId, bytes: &[u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        match connection.state {
            State::Reading(_) => self.read_input(now, id, bytes),
            State::Answering(_) | State::Connecting(_) | State::Streaming(_) | State::Closing(_) => {
                self.keep_rest(id, bytes);
            }
        }
        // The answers go last: what they speak of is offered to the kernel before them.
        self.settle(now, id);
    }

    /// The peer will send nothing more.
    pub fn receive_eof(&mut self, now: Millis, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.read_closed = true;
        match &connection.state {
            State::Reading(_) if !connection.out.is_empty() => self.start_closing(id),
            State::Closing(closing) if !closing.shut => {}
            State::Reading(_) | State::Closing(_) => self.release(id, CloseMode::Graceful),
            // The answer is still wanted.
            State::Answering(_) => {}
            State::Connecting(_) | State::Streaming(_) => {
                self.cut_stream(id, EndReason { reason: Reason::ClientClosed, detail: None }, CloseMode::Graceful);
            }
        }
        self.settle(now, id);
    }

    /// The socket failed.
    pub fn fail(&mut self, now: Millis, id: ConnId, fault: SocketError) {
        let ending = match fault {
            SocketError::Reset => EndReason { reason: Reason::ClientClosed, detail: None },
            SocketError::WriteFailed => EndReason { reason: Reason::Error, detail: Some(Detail::WriteFailed) },
            SocketError::TimedOut => EndReason { reason: Reason::Error, detail: Some(Detail::ClientTimeout) },
        };
        self.cut_stream(id, ending, CloseMode::Graceful);
        self.start_calls(now);
    }

    /// What is to be written to that connection next; empty for a stale id.
    pub fn unsent(&mut self, id: ConnId) -> &[u8] {
        match self.connections.get_mut(id) {
            Some(connection) => connection.out.unsent(),
            None => &[],
        }
    }

    /// A write was tried, or given up because the socket is full: the kernel took `count` bytes.
    pub fn wrote(&mut self, now: Millis, id: ConnId, count: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        self.outbox.wrote(now, &mut connection.out, count);
        if connection.out.is_empty()
            && let State::Closing(closing) = &mut connection.state
        {
            if connection.read_closed {
                return self.release(id, CloseMode::Graceful);
            }
            if !closing.shut {
                closing.shut = true;
                connection.out.touch(now);
                self.outbox.act(Action::ShutdownWrite(id));
            }
        }
        self.count_unsent(id);
        self.reschedule(now, id);
    }

    /// Whether input of that connection should be read now.
    pub fn wants_input(&self, id: ConnId) -> bool {
        self.connections.get(id).is_some_and(|connection| match connection.state {
            State::Reading(_) => !connection.read_closed && connection.out.len() < ANSWERS_UNSENT_MAX,
            State::Answering(_) => false,
            State::Connecting(_) | State::Streaming(_) | State::Closing(_) => !connection.read_closed,
        })
    }

    /// Time has passed: does what is due, or as much of it as one turn may take. Of the timers only the first few fire:
    /// `true` if there may be more, for [`Gateway::expire_more`].
    pub fn expire(&mut self, now: Millis) -> bool {
        match self.stage {
            Stage::ShutdownDelay { drain_at } if drain_at <= now => self.drain(now),
            Stage::Draining { give_up_at, .. } if give_up_at <= now => self.stage = Stage::GivenUp,
            Stage::Draining { next: Some(slot), .. } => self.drain_from(now, slot),
            Stage::Serving | Stage::ShutdownDelay { .. } | Stage::Draining { .. } | Stage::GivenUp => {}
        }
        self.expire_more(now)
    }

    /// The same for a few more timers, once everything is flushed.
    pub fn expire_more(&mut self, now: Millis) -> bool {
        let mut more = true;
        for _ in 0..FIRED_AT_ONCE {
            let Some((id, due)) = self.timer.pop(now) else {
                more = false;
                break;
            };
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.scheduled != due {
                continue;
            }
            connection.scheduled = Millis::NEVER;
            if connection.deadline <= now {
                self.time_out(now, id);
            }
            self.reschedule(now, id);
        }
        self.start_calls(now);
        more
    }

    /// When to call [`Gateway::expire`] at the latest; `None`: not before something else happens.
    pub fn next_deadline(&self) -> Option<Millis> {
        let stage = match self.stage {
            Stage::Serving | Stage::GivenUp => None,
            Stage::ShutdownDelay { drain_at } => Some(drain_at),
            Stage::Draining { next: Some(_), .. } => Some(Millis::ZERO),
            Stage::Draining { give_up_at, next: None } => Some(give_up_at),
        };
        match (stage, self.timer.next_due()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.outbox.next_action()
    }

    /// The next connection that has fresh output to be written; streams come before the answers to
    /// the sends that fed them. To be followed by [`Gateway::wrote`].
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        loop {
            let id = self.outbox.next_fresh()?;
            if let Some(connection) = self.connections.get_mut(id) {
                connection.out.start_write();
                return Some(id);
            }
        }
    }

    /// Told to stop (docs/protocol.md, section 9).
    pub fn shut_down(&mut self, now: Millis) {
        if self.stage == Stage::Serving {
            let drain_at = now.after(self.settings.shutdown_delay);
            self.stage = Stage::ShutdownDelay { drain_at };
            if drain_at <= now {
                self.drain(now);
            }
        }
    }

    /// Whether it is over, and how; only after [`Gateway::shut_down`].
    pub fn finished(&self) -> Option<Finished> {
        match self.stage {
            Stage::Draining { .. } if self.connections.is_empty() && self.calls.is_empty() => Some(Finished::Clean),
            Stage::GivenUp => Some(Finished::TimedOut),
            Stage::Serving | Stage::ShutdownDelay { .. } | Stage::Draining { .. } => None,
        }
    }

    /// Connections of every kind.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Streams, those still connecting included.
    pub fn stream_count(&self) -> usize {
        self.tokens.len()
    }

    /// One turn of the loop took so long, waiting not included.
    pub fn turn_took(&mut self, time: Duration) {
        self.stats.turn(time);
    }

    /// Callbacks that wait or are in flight.
    pub fn call_count(&self) -> usize {
        self.calls.len()
    }

    /// Many streams have gone: gives up memory that is not in use.
    pub fn shrink(&mut self) {
        self.connections.shrink();
        self.tokens.shrink();
        self.calls.shrink();
        let connections = &self.connections;
        self.timer.shrink(|id, due| connections.get(id).is_some_and(|connection| connection.scheduled == due));
        self.sweep_unsent();
        self.outbox.shrink();
        self.scratch = String::new();
    }

    fn is_leaving(&self) -> bool {
        self.stage != Stage::Serving
    }

    fn is_draining(&self) -> bool {
        match self.stage {
            Stage::Serving | Stage::ShutdownDelay { .. } => false,
            Stage::Draining { .. } | Stage::GivenUp => true,
        }
    }

    /// Ends everything in an orderly way.
    fn drain(&mut self, now: Millis) {
        let give_up_at = now.after(self.settings.shutdown_timeout);
        self.stage = Stage::Draining { give_up_at, next: Some(0) };
        self.calls.drain();
        self.outbox.act(Action::StopAccepting);
        self.drain_from(now, 0);
    }

    /// Ends the connections in the slots from `first` on, as many as one turn may take. New ones do not come.
    fn drain_from(&mut self, now: Millis, first: usize) {
        let end = first + TURN_CONNECTIONS;
        let ids: Vec<ConnId> = self.connections.iter_slots(first..end).map(|(id, _)| id).collect();
        if let Stage::Draining { next, .. } = &mut self.stage {
            *next = (end < self.connections.slots()).then_some(end);
        }
        for id in ids {
            let Some(connection) = self.connections.get(id) else { continue };
            match &connection.state {
                State::Reading(reading) if !reading.inbox.is_empty() || reading.body.is_some() => {
                    self.refuse(now, id, Refusal::ShuttingDown);
                }
                State::Reading(_) if connection.out.is_empty() => self.release(id, CloseMode::Graceful),
                State::Reading(_) => self.start_closing(id),
                State::Connecting(_) => self.drain_connecting(now, id),
                State::Streaming(_) => self.drain_stream(now, id),
                State::Answering(_) | State::Closing(_) => {}
            }
            self.settle(now, id);
        }
    }

    /// A connection's deadline has come.
    fn time_out(&mut self, now: Millis, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let stalled =
            !connection.out.is_empty() && connection.out.progress_at().after(self.settings.client_timeout) <= now;
        match &mut connection.state {
            State::Connecting(_) | State::Streaming(_) if stalled => {
                let ending = EndReason { reason: Reason::Error, detail: Some(Detail::ClientTimeout) };
                self.cut_stream(id, ending, CloseMode::Abort);
            }
            State::Reading(_) | State::Answering(_) if stalled => self.release(id, CloseMode::Abort),
            State::Reading(reading) => {
                if reading.inbox.is_empty() && reading.body.is_none() {
                    self.release(id, CloseMode::Graceful);
                } else {
                    self.refuse(now, id, Refusal::Timeout);
                }
            }
            State::Answering(_) => {}
            State::Connecting(_) => self.connect_timed_out(now, id),
            State::Streaming(streaming) => {
                // From the last one, not from now: heartbeats do not drift. What a jump of the clock
                // left out stays out.
                let interval = (self.settings.heartbeat_interval.as_millis() as u64).max(1);
                let missed = now.since(streaming.heartbeat_at) / interval;
                let ahead = Duration::from_millis(interval.saturating_mul(missed + 1));
                streaming.heartbeat_at = streaming.heartbeat_at.after(ahead);
                if connection.out.is_empty() {
                    self.stats.heartbeats += 1;
                    self.write_frames(now, id, |out| out.extend_from_slice(sse::HEARTBEAT));
                }
            }
            State::Closing(closing) => {
                let how = if closing.shut { CloseMode::Graceful } else { CloseMode::Abort };
                self.release(id, how);
            }
        }
    }

    /// When something must happen to that connection.
    fn deadline_of(&self, connection: &Connection) -> Millis {
        let settings = &self.settings;
        let stalled = if connection.out.is_empty() {
            Millis::NEVER
        } else {
            connection.out.progress_at().after(settings.client_timeout)
        };
        match &connection.state {
            State::Reading(reading) => stalled.min(match reading.started {
                Some(started) => started.after(settings.request_timeout),
                // Whoever still has an answer to read is not idle.
                None if !connection.out.is_empty() => Millis::NEVER,
                None => connection.out.progress_at().after(settings.keepalive_timeout),
            }),
            State::Connecting(connecting) => stalled.min(connecting.answer_by),
            State::Streaming(streaming) => stalled.min(streaming.heartbeat_at),
            State::Answering(_) => stalled,
            State::Closing(closing) if closing.shut => connection.out.progress_at().after(LINGER),
            State::Closing(_) => stalled,
        }
    }

    /// Sees to it that the deadline will be looked at in time.
    fn reschedule(&mut self, now: Millis, id: ConnId) {
        let Some(connection) = self.connections.get(id) else { return };
        let deadline = self.deadline_of(connection);
        let due = deadline.min(now.after(TIMER_AHEAD_MAX));
        if let Some(connection) = self.connections.get_mut(id) {
            connection.deadline = deadline;
            if due < connection.scheduled {
                connection.scheduled = due;
                self.timer.insert(due, id);
            }
        }
    }

    /// What every input to a connection ends with.
    fn settle(&mut self, now: Millis, id: ConnId) {
        self.start_calls(now);
        if self.connections.get(id).is_some_and(|connection| !connection.out.is_empty()) {
            self.mark_dirty(id);
        }
        self.reschedule(now, id);
    }

    fn mark_dirty(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            self.outbox.queue(id, &mut connection.out);
        }
    }

    fn output(&mut self, now: Millis, id: ConnId) -> Option<&mut Vec<u8>> {
        self.connections.get_mut(id).map(|connection| self.outbox.bytes(now, &mut connection.out))
    }

    /// Input that nobody reads.
    fn discard(&mut self, id: ConnId, count: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        match &connection.state {
            // However much it is: time is what bounds it.
            State::Reading(_) | State::Answering(_) | State::Closing(_) => {}
            State::Connecting(_) | State::Streaming(_) => {
                if !connection.discard.take(count) {
                    let excess = EndReason { reason: Reason::Error, detail: Some(Detail::ExcessInput) };
                    self.cut_stream(id, excess, CloseMode::Abort);
                }
            }
        }
    }

    /// Counts what a connection has unsent.
    fn count_unsent(&mut self, id: ConnId) {
        let connections = self.connections.len();
        let Some(connection) = self.connections.get_mut(id) else { return };
        let bytes = connection.unsent_bytes();
        if self.outbox.count_unsent(id, &mut connection.out, bytes, connections) {
            self.sweep_unsent();
        }
    }

    /// Returns the most bytes that a connection has unsent.
    fn sweep_unsent(&mut self) -> u32 {
        let connections = &mut self.connections;
        self.outbox.sweep_unsent(|id| connections.get_mut(id).map(|connection| connection.out.relist()))
    }

    /// The one door out: frees the slot. A stream has left before.
    fn release(&mut self, id: ConnId, how: CloseMode) {
        debug_assert!(self.connections.get(id).is_none_or(|connection| {
            matches!(connection.state, State::Reading(_) | State::Answering(_) | State::Closing(_))
                || self.tokens.get(connection.token, &self.connections).is_none()
        }));
        if let Some(connection) = self.connections.remove(id) {
            self.outbox.close(id, connection.out, how);
        }
    }

    /// A number that is `delay` give or take a fifth.
    fn jittered(&mut self, delay: u32) -> u32 {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let fifth = u64::from(delay / 5);
        let value = u64::from(delay) - fifth + mixed % (2 * fifth + 1);
        u32::try_from(value).unwrap_or(u32::MAX)
    }

    /// Panics if what must always hold does not: invariants 2, 3 and 6 of the design. Walks every
    /// connection; for tests, simulations and fuzzers.
    pub fn assert_invariants(&self) {
        let (mut streams, mut open, mut unsent) = (0, 0, 0);
        for (id, connection) in self.connections.iter() {
            unsent += u64::from(connection.out.counted());
            connection.out.assert_invariants(connection.unsent_bytes());
            let named = self.tokens.get(connection.token, &self.connections) == Some(id);
            match &connection.state {
                State::Connecting(_) | State::Streaming(_) => {
                    assert!(named, "a stream without its token");
                    streams += 1;
                    open += u64::from(matches!(connection.state, State::Streaming(_)));
                }
                State::Reading(reading) => {
                    assert!(!named, "a token for what is no stream");
                    assert!(reading.inbox.len() < self.settings.head_bytes_max, "an inbox over its limit");
                }
                State::Answering(_) | State::Closing(_) => assert!(!named, "a token for what is no stream"),
            }
            assert_eq!(connection.deadline, self.deadline_of(connection), "a deadline that nobody looks at");
            assert!(connection.deadline == Millis::NEVER || connection.scheduled != Millis::NEVER);
        }
        assert_eq!(streams, self.tokens.len(), "tokens and streams differ");
        assert_eq!(open, self.stats.streams_open, "open streams are miscounted");
        assert_eq!(unsent, self.outbox.unsent_bytes(), "unsent bytes are miscounted");
        assert!(self.calls.in_flight() <= self.settings.callback_concurrency.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_fills_a_fifth_to_either_side() {
        let mut gateway = Gateway::new(Settings::default(), Millis::ZERO, 1);
        let delays: Vec<u32> = (0..10_000).map(|_| gateway.jittered(1000)).collect();
        assert_eq!((delays.iter().min(), delays.iter().max()), (Some(&800), Some(&1200)));
        let mean = delays.iter().sum::<u32>() / 10_000;
        assert!((990..=1010).contains(&mean), "{mean}");
        assert_eq!(gateway.jittered(0), 0);
        assert_eq!(gateway.jittered(4), 4);
    }
}
