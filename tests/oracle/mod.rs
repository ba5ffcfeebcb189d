//! The oracle: an independent account of what the gateway owes whom, by the contract (docs/protocol.md).
//!
//! It knows nothing of the gateway's insides. It sees what crosses the sockets (what was read, offered, taken,
//! closed), the callbacks and what came of them, and it knows what the clients and the backend have said. From that
//! it follows the contract and panics where the gateway does not.
//!
//! One step of the gateway is a function of what it has read so far, so the oracle is exact: at the moment when a
//! request has been read whole, it knows what must be answered, and when. Input that is not made of requests it knows
//! makes a connection [wild](exchange::Exchange::wild): that one is held to what every connection is, no more.
//!
//! Two worlds are judged by it: the simulation, with the event loop in it, and the fuzzer of the bare gateway.

// Each of the two uses another part of it.
#![allow(dead_code)]

pub(crate) mod callbacks;
pub(crate) mod exchange;
pub(crate) mod limits;
mod places;
pub(crate) mod requests;
mod responses;
pub(crate) mod sends;
mod sockets;
pub(crate) mod streams;

use callbacks::Lane;
use exchange::{Exchange, What};
use limits::{HOLD_MAX, JUMP_MIN, due};
use sends::Send;
use ssegateway::callback::{CallId, Detail, Reason};
use ssegateway::gateway::{Finished, Gateway, Settings};
use std::collections::HashSet;
use streams::{Expected, Phase};

#[derive(Default)]
pub(crate) struct Oracle {
    pub settings: Settings,
    pub exchanges: Vec<Exchange>,
    sends: Vec<Send>,
    call_ids: HashSet<CallId>,
    /// The loop's time.
    pub now: u64,
    /// Counts what the gateway was told: reads, outcomes, turns.
    input: u64,
    drain_at: Option<u64>,
    /// When the drain began.
    drained_at: Option<u64>,
    /// Callbacks in flight, by lane.
    pub flying: [usize; 2],
    /// Accepted and not closed.
    pub open: Vec<usize>,
    /// A turn is on, and its timers have not run as far as has been seen.
    in_turn: bool,
    /// The clock jumped then: deadlines are held until all that happened meanwhile is taken in.
    held_since: Option<u64>,
    /// Something that has happened is not taken in; told by the world while deadlines are held.
    pub news: bool,
    /// Every exchange before this one is over, callbacks included.
    settled: usize,
    /// Most streams at once since memory was last given back.
    pub streams_peak: usize,
    /// How many streams there are on wild connections: the one thing that the oracle has to be told.
    pub wild_streams: usize,
    /// The number of the input that had a send for a wild connection, whose stream may have ended with it.
    unsure_input: u64,
    pub frames: u64,
    pub heartbeats: u64,
}

pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    duration.as_millis() as u64
}

/// The wall clock at `time` (simulated milliseconds).
pub(crate) fn unix_seconds(time: u64) -> u64 {
    1_700_000_000 + time / 1000
}

impl Oracle {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// A turn begins.
    pub(crate) fn turn_begins(&mut self, now: u64, signalled: bool) {
        self.now = now;
        self.input += 1;
        if signalled && self.drain_at.is_none() {
            self.drain_at = Some(now + millis(self.settings.shutdown_delay));
        }
        self.in_turn = true;
        if signalled {
            self.drain_if_due();
        }
    }

    /// The gateway looks at its timers in each turn, behind the input that has come: a process that
    /// stood still must not hold that against its peers. No system call says when. So this is called
    /// once it shows: at what no input explains, and at the latest where the turn moves on to accepting.
    pub(crate) fn timers_run(&mut self) {
        if !std::mem::take(&mut self.in_turn) {
            return;
        }
        assert!(!self.news || self.may_judge(), "a deadline judged before what happened in a pause is taken in");
        self.input += 1;
        let now = self.now;
        self.drain_if_due();
        let interval = millis(self.settings.heartbeat_interval);
        for place in 0..self.open.len() {
            let n = self.open[place];
            let stalled = self.is_stalled(n);
            let it = &mut self.exchanges[n];
            if it.wild {
                continue;
            }
            if it.is_reading() && it.started_at.is_some_and(|at| due(at + millis(self.settings.request_timeout), now)) {
                it.refuse_rest(408);
                it.late = true;
            }
            let wrote = it.written_at == Some(now);
            let Some(stream) = &mut it.stream else { continue };
            if it.failed && wrote && due(stream.answer_by, now) && !stream.headed {
                stream.or_else = Some((Reason::Error, Some(Detail::ConnectTimeout)));
            }
            if stalled {
                stream.end(Reason::Error, Some(Detail::ClientTimeout));
            }
            if stream.phase == Phase::Connecting && due(stream.answer_by, now) {
                stream.fail(504, "Gateway timeout", true, Reason::Error, Detail::ConnectTimeout);
            }
            stream.beat(now, interval, it.backlog > 0, wrote);
        }
    }

    /// The clock is at `now`, so much later than the loop was to wake: after a pause deadlines wait for what happened
    /// meanwhile. Short ones do not add up, or a machine that is always late would judge nothing.
    pub(crate) fn woke(&mut self, now: u64, late: u64) {
        if late >= if self.holds_deadlines() { HOLD_MAX } else { JUMP_MIN } {
            self.held_since = Some(now);
        }
    }

    pub(crate) fn holds_deadlines(&self) -> bool {
        self.held_since.is_some()
    }

    /// Whether deadlines may be judged, whatever else there is to be taken in.
    fn may_judge(&self) -> bool {
        self.held_since.is_none_or(|since| self.now >= since + HOLD_MAX)
    }

    fn drain_if_due(&mut self) {
        if self.drain_at.is_some_and(|at| at <= self.now) && !self.is_draining() {
            self.drained_at = Some(self.now);
            self.drain();
        }
    }

    /// The gateway is told the process's own figures.
    pub(crate) fn figures_told(&mut self) {
        self.input += 1;
    }

    /// SIGTERM has come.
    pub(crate) fn is_leaving(&self) -> bool {
        self.drain_at.is_some()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drained_at.is_some()
    }

    fn drain(&mut self) {
        for n in self.open.clone() {
            let now = self.now;
            let it = &mut self.exchanges[n];
            if it.wild {
                continue;
            }
            if it.is_reading() {
                it.refuse_rest(503);
            }
            let Some(stream) = &mut it.stream else { continue };
            if it.failed && it.written_at == Some(now) {
                stream.or_else = Some((Reason::ServerClosed, Some(Detail::Shutdown)));
            }
            if stream.phase == Phase::Open {
                stream.expected.extend(self.settings.reconnect_delay_ms.map(Expected::Retry));
                stream.end(Reason::ServerClosed, Some(Detail::Shutdown));
            }
            stream.fail(503, "Shutting down", true, Reason::ServerClosed, Detail::Shutdown);
        }
    }

    /// A turn ends that has left deadlines for later, as the clock has jumped.
    pub(crate) fn turn_ends_early(&mut self, state: &State) {
        assert!(!self.may_judge(), "deadlines held without a pause, or for too long after one");
        assert_eq!(state.connections, self.open.len(), "connections and sockets differ");
        assert_eq!(state.streams, self.streams(), "another number of streams");
    }

    /// A turn ends: nobody may have been left waiting, and the gateway must know as much as the oracle.
    pub(crate) fn turn_ends(&mut self, state: &State) {
        self.timers_run();
        (self.held_since, self.news) = (None, false);
        self.streams_peak = self.streams_peak.max(self.streams());
        while self.exchanges.get(self.settled).is_some_and(Exchange::is_settled) {
            self.settled += 1;
        }
        for n in &self.open {
            self.check_limits(*n);
        }
        assert_eq!(state.connections, self.open.len(), "connections and sockets differ");
        assert_eq!(state.streams, self.streams(), "another number of streams");
        assert!(state.streams <= self.settings.streams_max, "more streams than there may be");
        assert!(state.calls >= self.flying.iter().sum(), "callbacks in flight that are not counted");
        // The drain ends when it is done, or when its time is over, and not before.
        let over = self.drained_at.map(|at| at + millis(self.settings.shutdown_timeout));
        match state.finished {
            Some(Finished::Clean) => assert!(self.is_draining() && state.is_at_rest(), "finished before the drain"),
            Some(Finished::TimedOut) => assert!(over.is_some_and(|over| over <= self.now), "gave up before its time"),
            None => {
                assert!(over.is_none_or(|over| self.now <= over + 500), "the drain does not end");
                assert!(!self.is_draining() || !state.is_at_rest(), "the drain is over, and does not end");
            }
        }
    }

    /// Everything is over.
    pub(crate) fn ends(&self, state: &State) {
        if state.finished == Some(Finished::TimedOut) {
            return;
        }
        assert!(state.is_at_rest(), "connections, streams or calls are left");
        self.check_disconnects();
    }

    /// The loop goes to sleep: whatever the gateway has to say must have been offered.
    pub(crate) fn falls_asleep(&self) {
        for (n, exchange) in self.exchanges.iter().enumerate().skip(self.settled).filter(|(_, it)| !it.wild) {
            let Some(stream) = &exchange.stream else { continue };
            let asks = stream.phase == Phase::Connecting && !stream.called;
            assert!(!asks || !self.may_call(Lane::Connects), "client {n}: asleep with a connect not made");
            let owes = stream.phase == Phase::Over && stream.owes_disconnect() && stream.disconnects == 0;
            assert!(!owes || !self.may_call(Lane::Disconnects), "client {n}: asleep with a disconnect not made");
        }
        for n in &self.open {
            let it = &self.exchanges[*n];
            if it.refused || it.failed {
                continue;
            }
            assert!(!it.unlucky && it.backlog == 0, "client {n}: asleep with bytes unsent and room for them");
            assert!(!it.ended, "client {n}: asleep with a connection that its client has ended");
            if !it.wild {
                self.check_answered(*n);
            }
        }
    }

    /// Nothing is owed to a client that has room.
    fn check_answered(&self, n: usize) {
        let it = &self.exchanges[n];
        match (it.next_answered().filter(|_| !it.concluded), &it.stream) {
            (Some(What::Stream { .. }), Some(stream)) => {
                let silent = stream.verdict.is_some() && !stream.headed;
                assert!(!silent, "client {n}: asleep with no answer to a stream's GET");
                assert!(stream.expected.is_empty(), "client {n}: asleep with an event unsent");
            }
            (Some(What::Broken { .. }), _) | (None, _) => {}
            (Some(what), _) => panic!("client {n}: asleep with no answer to a request: {what:?}"),
        }
        assert!(it.refusal_owed.is_none(), "client {n}: asleep with an error not told");
        let over = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Over);
        let finished = over || it.closing;
        assert!(!finished || it.shut_at.is_some(), "client {n}: asleep with a connection that is over");
    }
}

/// What the gateway says of itself.
pub(crate) struct State {
    connections: usize,
    streams: usize,
    calls: usize,
    pub finished: Option<Finished>,
}

impl State {
    pub(crate) fn of(gateway: &Gateway) -> Self {
        gateway.assert_invariants();
        Self {
            connections: gateway.connection_count(),
            streams: gateway.stream_count(),
            calls: gateway.call_count(),
            finished: gateway.finished(),
        }
    }

    /// Whether there is nothing left.
    pub(crate) fn is_at_rest(&self) -> bool {
        (self.connections, self.streams, self.calls) == (0, 0, 0)
    }
}
