//! The oracle: an independent model of the contract (docs/protocol.md).
//!
//! It does not see the gateway's internals. It sees the sockets (bytes read, offered and accepted, closes), the
//! callbacks and their outcomes, and it knows what the clients and the backend have sent. From these it derives what
//! the contract requires, and panics where the gateway deviates.
//!
//! Each step of the gateway is a function of its input so far, so the oracle is exact: once a request has been read in
//! full, it knows the answer and its time. Input that it cannot parse makes a connection
//! [wild](exchange::Exchange::wild): only the rules for every connection are checked on it.
//!
//! Two worlds use it: the simulation, which includes the event loop, and the fuzzer of the bare gateway.

// Each of the two uses only part of it.
#![allow(dead_code)]

pub(crate) mod callbacks;
pub(crate) mod entries;
pub(crate) mod exchange;
pub(crate) mod groups;
pub(crate) mod limits;
pub(crate) mod members;
mod places;
pub(crate) mod requests;
mod responses;
pub(crate) mod sends;
mod sockets;
mod start;
pub(crate) mod streams;

use callbacks::Lane;
use exchange::{Exchange, What};
use groups::Groups;
use limits::{HOLD_MAX, JUMP_MIN, due};
use sends::Send;
use ssegateway::callback::{CallId, Detail, Reason};
use ssegateway::gateway::{Finished, Gateway, Settings};
use start::Start;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::rc::Rc;
use streams::{DRAIN_RETRY, Expected, Phase};

#[derive(Default)]
pub(crate) struct Oracle {
    pub settings: Settings,
    pub exchanges: Vec<Exchange>,
    sends: Vec<Send>,
    groups: Groups,
    /// Cursors that clients were told.
    pub cursors: VecDeque<Rc<str>>,
    call_ids: HashSet<CallId>,
    /// The loop's time.
    pub now: u64,
    /// Counts the gateway's inputs: reads, outcomes, turns.
    input: u64,
    drain_at: Option<u64>,
    /// When the drain began.
    drained_at: Option<u64>,
    /// Callbacks in flight, by lane.
    pub flying: [usize; 2],
    /// The limit of callbacks in flight, as the gateway reports it. Whether it fits the backend is checked by backends
    /// with few workers.
    call_limit: usize,
    /// The first failed connect since the last answered one, and the end of the last outage.
    failing_since: Option<u64>,
    outage: (u64, u64),
    /// When the last callback was made, or ended.
    call_moved_at: u64,
    /// When the last connect callback was made.
    connect_called_at: u64,
    start: Start,
    /// Disconnects made so far, by their clients; again for those that are to be made again, by number.
    disconnected: Vec<usize>,
    pub undelivered: BTreeSet<usize>,
    /// When the next disconnect may be made after one that was not received.
    disconnect_at: u64,
    /// Accepted and not closed.
    pub open: Vec<usize>,
    /// In a turn, and its timers are not known to have run.
    in_turn: bool,
    /// When the clock jumped: deadlines are held until all events of the pause have been processed.
    held_since: Option<u64>,
    /// Some event has not been processed; set by the world while deadlines are held.
    pub news: bool,
    /// Every exchange before this one is over, callbacks included.
    settled: usize,
    /// Most streams at once since memory was last released.
    pub streams_peak: usize,
    /// The number of streams on wild connections: the one fact that the oracle takes from the gateway.
    pub wild_streams: usize,
    /// The number of the input with a send to a wild connection, whose stream may have ended with it.
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
        self.note_rooms();
        for n in &self.open {
            let it = &mut self.exchanges[*n];
            // Unless it waits for room.
            let is_written = !it.refused && it.left_over == 0 && it.responses.is_between();
            let stream = it.stream.as_mut().filter(|stream| stream.member.is_some() && is_written);
            stream.into_iter().for_each(|stream| stream.heartbeat_may = false);
        }
        if signalled && self.drain_at.is_none() {
            self.drain_at = Some(now + millis(self.settings.shutdown_delay));
        }
        self.in_turn = true;
        if signalled {
            self.drain_if_due();
        }
    }

    /// The gateway runs its timers in each turn, after the input, so that a paused process does not time out its peers.
    /// No system call shows when. So this is called once it is evident: at output that no input explains, and at the
    /// latest when the turn starts accepting.
    pub(crate) fn timers_run(&mut self) {
        if !std::mem::take(&mut self.in_turn) {
            return;
        }
        assert!(!self.news || self.may_judge(), "a deadline judged before the events of a pause were processed");
        self.input += 1;
        let now = self.now;
        self.drain_if_due();
        self.expire_history();
        self.give_up_late();
        let interval = millis(self.settings.heartbeat_interval);
        for place in 0..self.open.len() {
            let n = self.open[place];
            let stalled = self.is_stalled(n);
            let it = &mut self.exchanges[n];
            if it.wild {
                continue;
            }
            if it.is_reading() && it.started_at.is_some_and(|at| due(at + millis(self.settings.request_timeout), now)) {
                match it.is_within_request() {
                    true => it.refuse_rest(408),
                    false => it.end_reading(408),
                }
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

    fn note_rooms(&mut self) {
        (0..self.open.len()).for_each(|place| self.note_member_room(self.open[place]));
    }

    /// The loop woke at `now`, `late` milliseconds after the planned time: after a pause deadlines are held until its
    /// events are processed. Short delays do not add up, or a machine that is always late would never judge a deadline.
    pub(crate) fn woke(&mut self, now: u64, late: u64) {
        if late >= if self.holds_deadlines() { HOLD_MAX } else { JUMP_MIN } {
            self.held_since = Some(now);
        }
    }

    pub(crate) fn holds_deadlines(&self) -> bool {
        self.held_since.is_some()
    }

    /// Whether deadlines may be judged even with unprocessed events.
    fn may_judge(&self) -> bool {
        self.held_since.is_none_or(|since| self.now >= since + HOLD_MAX)
    }

    fn drain_if_due(&mut self) {
        if self.drain_at.is_some_and(|at| at <= self.now) && !self.is_draining() {
            self.drained_at = Some(self.now);
            self.drain();
        }
    }

    /// The gateway receives the process's figures.
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
                it.end_reading(503);
            }
            let Some(stream) = &mut it.stream else { continue };
            if it.failed && it.written_at == Some(now) {
                stream.or_else = Some((Reason::ServerClosed, Some(Detail::Shutdown)));
            }
            if stream.phase == Phase::Open {
                let retry = self.settings.reconnect_delay_ms.unwrap_or(DRAIN_RETRY);
                match &mut stream.member {
                    Some(member) => member.leave(retry, !self.settings.history_age.is_zero()),
                    None => stream.expected.push_back(Expected::Retry(retry)),
                }
                stream.end(Reason::ServerClosed, Some(Detail::Shutdown));
            }
            stream.fail(503, "Shutting down", true, Reason::ServerClosed, Detail::Shutdown);
        }
    }

    /// A connection is read although no event has announced input: the last look of a drain that has begun.
    pub(crate) fn looks_unasked(&mut self) {
        if !self.holds_deadlines() && !self.is_draining() && self.drain_at.is_some_and(|at| at <= self.now) {
            self.timers_run();
        }
    }

    /// Every connection that had to be read once more has been.
    fn end_looks(&mut self) {
        for n in &self.open {
            self.exchanges[*n].last_look = None;
        }
    }

    /// A turn ends that has deferred deadlines after a jump of the clock.
    pub(crate) fn turn_ends_early(&mut self, state: &State) {
        self.end_looks();
        assert!(!self.may_judge(), "deadlines held without a pause, or for too long after one");
        self.note_call_limit(state);
        self.note_owed();
        assert_eq!(state.connections, self.open.len(), "connections and sockets differ");
        self.check_streams(state);
    }

    fn check_streams(&self, state: &State) {
        let streams = self.streams();
        let due = streams - self.unsure_ends()..=streams;
        assert!(due.contains(&state.streams), "wrong number of streams: {}, not {due:?}", state.streams);
    }

    fn note_call_limit(&mut self, state: &State) {
        assert!((1..=self.settings.callback_concurrency).contains(&state.call_limit), "a limit out of its bounds");
        self.call_limit = state.call_limit;
    }

    /// A turn ends: no work may be left, and the gateway's counts must match the oracle's.
    pub(crate) fn turn_ends(&mut self, state: &State) {
        self.timers_run();
        self.end_looks();
        (self.held_since, self.news) = (None, false);
        self.streams_peak = self.streams_peak.max(self.streams());
        while self.exchanges.get(self.settled).is_some_and(Exchange::is_settled) {
            self.settled += 1;
        }
        for n in &self.open {
            self.check_limits(*n);
        }
        assert_eq!(state.connections, self.open.len(), "connections and sockets differ");
        self.check_streams(state);
        assert!(state.streams <= self.settings.streams_max, "too many streams");
        assert!(state.calls >= self.flying.iter().sum(), "callbacks in flight that are not counted");
        self.note_call_limit(state);
        self.note_owed();
        self.check_tried();
        // The drain ends when it is done or its time is over, not before.
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

    /// The loop goes to sleep: all output must have been offered.
    pub(crate) fn falls_asleep(&mut self) {
        self.note_rooms();
        for (n, exchange) in self.exchanges.iter().enumerate().skip(self.settled).filter(|(_, it)| !it.wild) {
            let Some(stream) = &exchange.stream else { continue };
            // After a pause calls whose time has come are deferred, like deadlines.
            let asks = stream.phase == Phase::Connecting && !stream.called && !self.holds_deadlines();
            assert!(!asks || !self.may_call(Lane::Connects), "client {n}: asleep with a connect not made");
            let owes = stream.phase == Phase::Over && stream.owes_disconnect() && stream.disconnects == 0;
            assert!(!owes || !self.may_call(Lane::Disconnects), "client {n}: asleep with a disconnect not made");
        }
        assert!(!self.owes_start(), "asleep with the start not told");
        let again = !self.undelivered.is_empty() && self.may_call(Lane::Disconnects);
        assert!(!again, "asleep with a disconnect not made again");
        for n in &self.open {
            let it = &self.exchanges[*n];
            if it.refused || it.failed {
                continue;
            }
            let is_unlucky = it.unlucky && !it.is_member();
            let is_done = !is_unlucky && it.backlog == 0;
            assert!(is_done, "client {n}: asleep with unsent bytes and space for them{}", it.describe_due());
            assert!(!it.ended, "client {n}: asleep with a connection that its client has ended");
            if !it.wild {
                self.check_answered(*n);
            }
        }
        self.note_prompt_members();
    }

    /// A client with space in its socket has received everything due.
    fn check_answered(&self, n: usize) {
        let it = &self.exchanges[n];
        match (it.next_answered().filter(|_| !it.concluded), &it.stream) {
            (Some(What::Stream { .. }), Some(stream)) => {
                let silent = stream.verdict.is_some() && !stream.headed;
                assert!(!silent, "client {n}: asleep with no answer to a stream's GET");
                assert!(!stream.is_owed_frames(), "client {n}: asleep with an event unsent");
            }
            (Some(What::Broken { .. }), _) | (None, _) => {}
            (Some(what), _) => panic!("client {n}: asleep with no answer to a request: {what:?}"),
        }
        assert!(it.refusal_owed.is_none(), "client {n}: asleep with an error unsent");
        let over = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Over);
        let finished = over || it.closing;
        assert!(!finished || it.shut_at.is_some(), "client {n}: asleep with a connection that is over");
    }
}

/// The gateway's own counts.
pub(crate) struct State {
    connections: usize,
    streams: usize,
    calls: usize,
    call_limit: usize,
    pub finished: Option<Finished>,
}

impl State {
    pub(crate) fn of(gateway: &Gateway) -> Self {
        gateway.assert_invariants();
        Self {
            connections: gateway.connection_count(),
            streams: gateway.stream_count(),
            calls: gateway.call_count(),
            call_limit: gateway.call_limit(),
            finished: gateway.finished(),
        }
    }

    /// Whether there is nothing left.
    pub(crate) fn is_at_rest(&self) -> bool {
        (self.connections, self.streams, self.calls) == (0, 0, 0)
    }
}
