//! The oracle: an independent account of what the gateway owes whom.
//!
//! It knows nothing of the gateway's insides. It sees the system calls (what was read, offered, taken,
//! closed), the callbacks and what came of them, and it knows what the clients and the backend have
//! said. From that it follows the contract and panics where the gateway does not.
//!
//! One step of the gateway's is a function of what it has read so far, so the oracle is exact: at the
//! moment when a request has been read whole, it knows what must be answered, and when.

use super::exchange::{Exchange, What, doubtful, due};
use super::stream::{Event, Expected, Phase};
use ssegateway::callback::{Detail, Reason};
use ssegateway::gateway::{ConnectFailure, Settings};
use std::rc::Rc;

/// A write offers no more than this at once.
pub const OFFER_MAX: usize = 64 * 1024;
/// A connection that was shut down is closed after this, whatever its peer does.
pub const LINGER: u64 = 1000;
/// Bytes of answers that wait for a client before no more of its requests are read.
pub const ANSWERS_MAX: usize = 64 * 1024;
/// When so many streams have gone their memory is given back.
pub const MANY_STREAMS: usize = 64;
/// What may be sent behind a stream's GET.
pub const EXCESS_MAX: u64 = 8 * 1024;

/// A send, from the backend's side.
pub struct Send {
    /// The stream's connection; `None`: a token that nobody has.
    pub stream: Option<usize>,
    /// The answer that its form deserves, if that is an error.
    pub invalid: Option<&'static str>,
    pub event: Option<Rc<Event>>,
    pub close: bool,
    /// The answer it must get; known when it has arrived.
    pub answer: Option<(u16, &'static str)>,
    /// The number of the input that it arrived with, if an event went to an open stream with room.
    pub delivered: Option<u64>,
}

pub struct Oracle {
    pub settings: Settings,
    pub exchanges: Vec<Exchange>,
    pub sends: Vec<Send>,
    /// The loop's time.
    pub now: u64,
    /// Counts what the gateway was told: reads, outcomes, turns.
    pub input: u64,
    pub drain_at: Option<u64>,
    /// When the drain began.
    pub drained_at: Option<u64>,
    /// Connects and disconnects in flight.
    pub flying: [usize; 2],
    /// Accepted and not closed.
    pub open: Vec<usize>,
    /// A turn is on, and its timers have not run as far as has been seen.
    pub in_turn: bool,
    /// Every exchange before this one is over, callbacks included.
    pub settled: usize,
    /// Most streams at once since memory was last given back.
    pub streams_peak: usize,
    pub frames: u64,
    pub heartbeats: u64,
}

/// The places of the two kinds of callbacks in `flying`.
pub const CONNECT: usize = 0;
pub const DISCONNECT: usize = 1;

pub fn millis(duration: std::time::Duration) -> u64 {
    duration.as_millis() as u64
}

/// The wall clock at `time` (simulated milliseconds).
pub fn unix_seconds(time: u64) -> u64 {
    1_700_000_000 + time / 1000
}

impl Oracle {
    pub fn new(settings: Settings) -> Oracle {
        Oracle {
            settings,
            exchanges: Vec::new(),
            sends: Vec::new(),
            now: 0,
            input: 0,
            drain_at: None,
            drained_at: None,
            flying: [0; 2],
            open: Vec::new(),
            in_turn: false,
            settled: 0,
            streams_peak: 0,
            frames: 0,
            heartbeats: 0,
        }
    }

    /// Whether at `time` some deadline may or may not be seen to.
    pub fn is_doubtful(&self, time: u64) -> bool {
        let settings = &self.settings;
        self.open.iter().any(|n| {
            let it = &self.exchanges[*n];
            let request = it.started_at.is_some_and(|at| doubtful(at + millis(settings.request_timeout), time));
            let stream = it.stream.as_ref().is_some_and(|stream| match stream.phase {
                Phase::Connecting => doubtful(stream.answer_by, time),
                Phase::Open => doubtful(stream.heartbeat_at, time),
                Phase::Over => false,
            });
            let progress = [millis(settings.client_timeout), millis(settings.keepalive_timeout)]
                .iter()
                .any(|timeout| doubtful(it.progress_at + timeout, time));
            request || stream || progress
        })
    }

    /// A turn begins.
    pub fn turn_begins(&mut self, now: u64, signalled: bool) {
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
    pub fn timers_run(&mut self) {
        if !std::mem::take(&mut self.in_turn) {
            return;
        }
        self.input += 1;
        let now = self.now;
        self.drain_if_due();
        let interval = millis(self.settings.heartbeat_interval);
        for place in 0..self.open.len() {
            let n = self.open[place];
            let stalled = self.is_stalled(n);
            let it = &mut self.exchanges[n];
            if it.is_reading() && it.started_at.is_some_and(|at| due(at + millis(self.settings.request_timeout), now)) {
                it.refuse_rest(408);
                it.late = true;
            }
            let Some(stream) = &mut it.stream else { continue };
            if it.failed && it.written_at == now && due(stream.answer_by, now) && !stream.headed {
                stream.or_else = Some((Reason::Error, Some(Detail::ConnectTimeout)));
            }
            if stalled {
                stream.end(Reason::Error, Some(Detail::ClientTimeout));
            }
            if stream.phase == Phase::Connecting && due(stream.answer_by, now) {
                stream.fail(504, "Gateway timeout", true, Reason::Error, Detail::ConnectTimeout);
            }
            let wrote = it.written_at == now;
            stream.beat(now, interval, it.backlog > 0, wrote);
        }
    }

    fn drain_if_due(&mut self) {
        if self.drain_at.is_some_and(|at| at <= self.now) && !self.is_draining() {
            self.drained_at = Some(self.now);
            self.drain();
        }
    }

    pub fn is_draining(&self) -> bool {
        self.drained_at.is_some()
    }

    pub fn is_stalled(&self, n: usize) -> bool {
        let it = &self.exchanges[n];
        it.backlog > 0 && due(it.progress_at + millis(self.settings.client_timeout), self.now)
    }

    fn drain(&mut self) {
        for n in self.open.clone() {
            let now = self.now;
            let it = &mut self.exchanges[n];
            if it.is_reading() {
                it.refuse_rest(503);
            }
            let Some(stream) = &mut it.stream else { continue };
            if it.failed && it.written_at == now {
                stream.or_else = Some((Reason::ServerClosed, Some(Detail::Shutdown)));
            }
            if stream.phase == Phase::Open {
                stream.expected.extend(self.settings.reconnect_delay_ms.map(Expected::Retry));
                stream.end(Reason::ServerClosed, Some(Detail::Shutdown));
            }
            stream.fail(503, "Shutting down", true, Reason::ServerClosed, Detail::Shutdown);
        }
    }

    pub fn accepted(&mut self, n: usize) {
        let it = &mut self.exchanges[n];
        it.accepted = true;
        it.accepted_at = self.now;
        it.started_at = Some(self.now);
        it.progress_at = self.now;
        self.open.push(n);
    }

    /// A turn ends: nobody may have been left waiting.
    pub fn turn_ends(&mut self) {
        self.timers_run();
        self.streams_peak = self.streams_peak.max(self.streams());
        let now = self.now;
        while self.exchanges.get(self.settled).is_some_and(Exchange::is_settled) {
            self.settled += 1;
        }
        for n in &self.open {
            let it = &self.exchanges[*n];
            let it_is_shut = it.shut_at.is_some_and(|at| due(at + LINGER, now));
            assert!(!it_is_shut, "client {n}: not closed a second after it was shut down");
            assert!(!self.is_stalled(*n), "client {n}: a stalled reader was not dropped");
            assert!(it.backlog <= self.backlog_max(), "client {n}: {} bytes held", it.backlog);
            if let Some(stream) = &it.stream {
                let missed = stream.heartbeats_owed > 0 && it.backlog == 0;
                assert!(!missed, "client {n}: a heartbeat is missing");
            } else if it.is_reading() && it.started_at.is_none() && it.backlog == 0 {
                let idle = due(it.progress_at + millis(self.settings.keepalive_timeout), now);
                assert!(!idle, "client {n}: an idle connection was not closed");
            }
        }
    }

    /// Memory is given back: that takes its time, and is for when many have left.
    pub fn memory_released(&mut self) {
        let streams = self.streams();
        assert!(self.streams_peak >= MANY_STREAMS, "memory given back behind a few streams");
        assert!(streams <= self.streams_peak / 2, "memory given back before half of the streams have gone");
        self.streams_peak = streams;
    }

    /// The most that the gateway may hold for one client: what a stream may pile up, and what the last
    /// input can have added to it, each of its bytes a line break at worst.
    fn backlog_max(&self) -> usize {
        self.settings.pending_bytes_max + 8 * (self.settings.body_bytes_max + OFFER_MAX)
    }

    /// The loop goes to sleep: whatever the gateway has to say must have been offered.
    pub fn falls_asleep(&self) {
        for (n, exchange) in self.exchanges.iter().enumerate().skip(self.settled) {
            let Some(stream) = &exchange.stream else { continue };
            let asks = stream.phase == Phase::Connecting && !stream.called;
            assert!(!asks || !self.may_call(CONNECT), "client {n}: asleep with a connect not made");
            let owes = stream.phase == Phase::Over && stream.owes_disconnect() && stream.disconnects == 0;
            assert!(!owes || !self.may_call(DISCONNECT), "client {n}: asleep with a disconnect not made");
        }
        for n in &self.open {
            let it = &self.exchanges[*n];
            if it.refused || it.failed {
                continue;
            }
            assert!(!it.unlucky && it.backlog == 0, "client {n}: asleep with bytes unsent and room for them");
            let open =
                it.requests.get(it.answered).filter(|_| it.answered < it.arrived || it.late).filter(|_| !it.concluded);
            match (open.map(|request| &request.what), &it.stream) {
                (Some(What::Stream { .. }), Some(stream)) => {
                    let silent = stream.verdict.is_some() && !stream.headed;
                    assert!(!silent, "client {n}: asleep with no answer to a stream's GET");
                    assert!(stream.expected.is_empty(), "client {n}: asleep with an event unsent");
                }
                (Some(What::Broken), _) | (None, _) => {}
                (Some(what), _) => panic!("client {n}: asleep with no answer to a request: {what:?}"),
            }
            assert!(!it.ended, "client {n}: asleep with a connection that its client has ended");
            let over = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Over);
            let finished = over || it.closing;
            assert!(!finished || it.shut_at.is_some(), "client {n}: asleep with a connection that is over");
        }
    }

    /// Whether the connect failure of that kind shows as a stream that says `retry`.
    pub fn retries(&self, retries: bool) -> bool {
        retries && self.settings.connect_failure == ConnectFailure::Retry
    }
}
