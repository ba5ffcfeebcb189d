//! The oracle: an independent account of what the gateway owes whom.
//!
//! It knows nothing of the gateway's insides. It sees the system calls (what was read, offered, taken,
//! closed), the callbacks and what came of them, and it knows what the clients and the backend have
//! said. From that it follows the contract and panics where the gateway does not.
//!
//! One step of the gateway's is a function of what it has read so far, so the oracle is exact: at the
//! moment when a request has been read whole, it knows what must be answered, and when.

use super::exchange::{Exchange, Request, What, doubtful, due};
use super::response::Part;
use super::stream::{Event, Expected, Phase, Said, Stream, Verdict};
use ssegateway::callback::{Detail, Outcome, Reason};
use ssegateway::gateway::{ConnectFailure, How, Settings};
use std::io::ErrorKind;
use std::rc::Rc;

/// A write offers no more than this at once.
const OFFER_MAX: usize = 64 * 1024;
/// A connection that was shut down is closed after this, whatever its peer does.
const LINGER: u64 = 1000;
/// A callback may take this much longer than its timeout.
const GRACE: u64 = 1000;
/// What may be sent behind a stream's GET.
const EXCESS_MAX: u64 = 8 * 1024;
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
    Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

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

const OK: (u16, &str) = (200, r#"{"status":"ok"}"#);
const BUFFERED: (u16, &str) = (200, r#"{"status":"buffered"}"#);
const NOT_FOUND: (u16, &str) = (404, r#"{"error":"Token not found"}"#);
const FAILED: (u16, &str) = (500, r#"{"error":"Write failed: connection closed"}"#);

const NOT_READY: &str = r#"{"status":"not_ready","configured":true}"#;
const NOT_CONFIGURED: &str = r#"{"status":"not_ready","configured":false}"#;

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
    /// Callbacks in flight.
    pub in_flight: usize,
    /// Accepted and not closed.
    pub open: Vec<usize>,
    pub frames: u64,
    pub heartbeats: u64,
}

pub fn millis(duration: std::time::Duration) -> u64 {
    duration.as_millis() as u64
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
            in_flight: 0,
            open: Vec::new(),
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

    /// A turn begins: what is due is done before anything else.
    pub fn turn_begins(&mut self, now: u64, signalled: bool) {
        self.now = now;
        self.input += 1;
        if signalled && self.drain_at.is_none() {
            self.drain_at = Some(now + millis(self.settings.shutdown_delay));
        }
        if self.drain_at.is_some_and(|at| at <= now) && !self.is_draining() {
            self.drained_at = Some(now);
            self.drain();
        }
        let interval = millis(self.settings.heartbeat_interval);
        for place in 0..self.open.len() {
            let n = self.open[place];
            let stalled = self.is_stalled(n);
            let it = &mut self.exchanges[n];
            if it.is_reading()
                && it.started_at.is_some_and(|at| due(at + millis(self.settings.request_timeout), now))
            {
                it.closing = true;
                it.late = true;
            }
            let Some(stream) = &mut it.stream else { continue };
            if stalled {
                stream.end(Reason::Error, Some(Detail::ClientTimeout));
            }
            if stream.phase == Phase::Connecting && due(stream.answer_by, now) {
                stream.fail(504, "Gateway timeout", true, Reason::Error, Detail::ConnectTimeout);
            }
            stream.beat(now, interval, it.backlog > 0);
        }
    }

    pub fn is_draining(&self) -> bool {
        self.drained_at.is_some()
    }

    fn is_stalled(&self, n: usize) -> bool {
        let it = &self.exchanges[n];
        it.backlog > 0 && due(it.progress_at + millis(self.settings.client_timeout), self.now)
    }

    fn drain(&mut self) {
        for n in self.open.clone() {
            let it = &mut self.exchanges[n];
            let Some(stream) = &mut it.stream else {
                it.closing = true;
                continue;
            };
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
        it.started_at = Some(self.now);
        it.progress_at = self.now;
        self.open.push(n);
    }

    /// The gateway read from a connection.
    pub fn read(&mut self, n: usize, result: Result<usize, ErrorKind>) {
        self.input += 1;
        let it = &mut self.exchanges[n];
        assert!(!it.ended && !it.failed, "read again behind the end");
        let count = match result {
            Ok(0) => {
                it.ended = true;
                if let Some(stream) = &mut it.stream {
                    stream.end(Reason::ClientClosed, None);
                }
                return;
            }
            Ok(count) => count as u64,
            Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(error) => {
                it.failed = true;
                let timed_out = error == ErrorKind::TimedOut;
                if let Some(stream) = &mut it.stream {
                    match timed_out {
                        true => stream.end(Reason::Error, Some(Detail::ClientTimeout)),
                        false => stream.end(Reason::ClientClosed, None),
                    }
                }
                return;
            }
        };
        it.read += count;
        while self.exchanges[n].is_reading()
            && let it = &mut self.exchanges[n]
            && let Some(request) = it.requests.get(it.arrived).filter(|request| request.end <= it.read)
        {
            let what = request.what.clone();
            it.arrived += 1;
            it.started_at = None;
            if it.backlog == 0 {
                it.progress_at = self.now;
            }
            self.arrive(n, what);
        }
        let it = &mut self.exchanges[n];
        let behind = it.requests.get(it.arrived.wrapping_sub(1)).map_or(0, |request| request.end);
        if it.is_reading() && it.read > behind {
            it.started_at.get_or_insert(self.now);
        }
        if it.excess() > EXCESS_MAX
            && let Some(stream) = &mut it.stream
        {
            stream.end(Reason::Error, Some(Detail::ExcessInput));
        }
    }

    /// A request has been read whole.
    fn arrive(&mut self, n: usize, what: What) {
        match what {
            What::Stream { chunked } => self.arrive_stream(n, chunked),
            What::Send(send) => self.arrive_send(send),
            What::Fixed { close: true, .. } | What::Broken => self.exchanges[n].closing = true,
            What::Ready => {
                let ready = self.drain_at.is_none() && self.settings.callback_configured;
                let (status, body) = match (ready, self.settings.callback_configured) {
                    (true, _) => (200, r#"{"status":"ready","configured":true}"#),
                    (false, configured) => (503, if configured { NOT_READY } else { NOT_CONFIGURED }),
                };
                let it = &mut self.exchanges[n];
                it.requests[it.arrived - 1].what = What::Fixed { status, body, head_only: false, close: false };
            }
            What::Fixed { close: false, .. } => {}
        }
    }

    fn arrive_stream(&mut self, n: usize, chunked: bool) {
        let mut stream = Stream::new(self.now + millis(self.settings.connect_queue), chunked, self.input);
        let refused = if !self.settings.callback_configured {
            Some(("Service not configured", false))
        } else if self.is_draining() {
            Some(("Shutting down", true))
        } else if self.streams() >= self.settings.streams_max {
            Some(("Too many streams", true))
        } else {
            None
        };
        if let Some((error, retries)) = refused {
            stream.phase = Phase::Over;
            stream.verdict = Some(Verdict::Failed { status: 503, error: error.to_owned(), retries });
        }
        self.exchanges[n].stream = Some(stream);
    }

    /// Streams that count against the limit.
    pub fn streams(&self) -> usize {
        let alive = |n: &&usize| {
            let stream = self.exchanges[**n].stream.as_ref();
            stream.is_some_and(|stream| stream.phase != Phase::Over)
        };
        self.open.iter().filter(alive).count()
    }

    fn arrive_send(&mut self, number: usize) {
        let send = &mut self.sends[number];
        if send.invalid.is_some() {
            return;
        }
        let exchange = send.stream.map(|n| &mut self.exchanges[n]);
        let Some((it, stream)) = exchange.and_then(|it| Some((it.stream.take()?, it))).map(|(s, it)| (it, s)) else {
            send.answer = Some(NOT_FOUND);
            return;
        };
        let stream = it.stream.insert(stream);
        let pending_max = self.settings.pending_bytes_max;
        send.answer = Some(match stream.phase {
            Phase::Over => NOT_FOUND,
            Phase::Connecting if stream.held_close => NOT_FOUND,
            Phase::Connecting if send.event.is_some() && stream.held_bytes > pending_max => {
                let error = "Too much was sent before the stream opened";
                stream.fail(503, error, true, Reason::Error, Detail::SlowConsumer);
                FAILED
            }
            Phase::Connecting => {
                if let Some(event) = &send.event {
                    stream.held_bytes += event.frame_bytes();
                    stream.held.push(event.clone());
                }
                stream.held_close = send.close;
                BUFFERED
            }
            // What came with the same input has not been offered yet and is no backlog.
            Phase::Open if send.event.is_some() && it.backlog > pending_max && it.chunk_input != self.input => {
                stream.end(Reason::Error, Some(Detail::SlowConsumer));
                FAILED
            }
            Phase::Open => {
                if let Some(event) = &send.event {
                    stream.expected.push_back(Expected::Event(event.clone()));
                    send.delivered = (!it.refused).then_some(self.input);
                    let bytes = event.frame_bytes();
                    if it.backlog == 0 {
                        it.progress_at = self.now;
                    }
                    it.pile(bytes, self.input);
                    it.chunk_input = self.input;
                }
                if send.close
                    && let Some(stream) = &mut it.stream
                {
                    stream.end(Reason::ServerClosed, None);
                }
                OK
            }
        });
    }

    /// The gateway makes a connect callback for the stream on connection `n`.
    pub fn connect_called(&mut self, n: usize, request: &str) {
        let (now, settings) = (self.now, &self.settings);
        self.in_flight += 1;
        assert!(self.in_flight <= settings.callback_concurrency, "too many callbacks at once");
        let it = &mut self.exchanges[n];
        assert_eq!(request, it.quoted, "another request is quoted");
        let stream = it.stream.as_mut().expect("a connect for what is no stream");
        assert!(!stream.called, "a second connect");
        // What came behind the GET, with it, may have ended the stream at once.
        let waits = stream.phase == Phase::Connecting || stream.asked_input == self.input;
        assert!(waits, "a connect that nobody waits for");
        stream.called = true;
        stream.answer_by = now + millis(settings.callback_timeout) + GRACE;
    }

    pub fn disconnect_called(&mut self, n: usize, request: &str, reason: &str, detail: Option<Detail>) {
        self.in_flight += 1;
        assert!(self.in_flight <= self.settings.callback_concurrency, "too many callbacks at once");
        let it = &mut self.exchanges[n];
        assert_eq!(request, it.quoted, "another request is quoted");
        let stream = it.stream.as_mut().expect("a disconnect for what is no stream");
        assert!(stream.owes_disconnect(), "a disconnect for what was not accepted, or not yet");
        assert_eq!(stream.phase, Phase::Over, "a disconnect of a stream that lives");
        stream.disconnects += 1;
        assert_eq!(stream.disconnects, 1, "a second disconnect");
        let (expected, expected_detail) = stream.cause.expect("a cause");
        assert_eq!((reason, detail), (expected.as_str(), expected_detail), "another reason");
    }

    /// The gateway learns what came of a connect callback.
    pub fn connect_answered(&mut self, n: usize, outcome: Outcome, said: Said) {
        self.input += 1;
        let (now, heartbeat) = (self.now, millis(self.settings.heartbeat_interval));
        let retry = self.settings.reconnect_delay_ms;
        let input = self.input;
        let it = &mut self.exchanges[n];
        let Some(stream) = &mut it.stream else { panic!("an answer for what is no stream") };
        let waited = stream.phase == Phase::Connecting;
        stream.answered(outcome, now, heartbeat, retry, said);
        if waited && stream.verdict == Some(Verdict::Accepted) {
            if it.backlog == 0 {
                it.progress_at = now;
            }
            it.backlog += STREAM_HEAD.len() + if stream.chunked { CHUNKED.len() } else { 0 };
            let frames = stream.expected.iter().map(|expected| match expected {
                Expected::Event(event) => event.frame_bytes(),
                Expected::Retry(_) => 8,
            });
            let frames: usize = frames.sum();
            if frames > 0 {
                it.pile(frames, input);
            }
        }
    }

    /// The gateway offered bytes; how many were taken, or what went wrong. `whole`: `false` if chance
    /// kept the kernel from taking more.
    pub fn wrote(&mut self, n: usize, offered: &[u8], result: Result<usize, ErrorKind>, whole: bool) {
        let (now, input) = (self.now, self.input);
        let it = &mut self.exchanges[n];
        assert!(!it.closed && it.shut_at.is_none() && !it.failed, "a write behind the end");
        let again = it.written_input == input && it.written_whole;
        assert!(!again, "two writes for one input: the second {}", offered.escape_ascii());
        it.written_input = input;
        it.unlucky = !whole;
        let taken = match result {
            Ok(0) => {
                self.write_failed(n, Detail::WriteFailed);
                return;
            }
            Ok(taken) => taken,
            Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => {
                let timed_out = error == ErrorKind::TimedOut;
                self.write_failed(n, if timed_out { Detail::ClientTimeout } else { Detail::WriteFailed });
                return;
            }
        };
        it.refused = result == Err(ErrorKind::WouldBlock);
        it.written_whole = taken == offered.len() && taken < OFFER_MAX;
        if it.backlog == 0 || taken > 0 {
            it.progress_at = now;
        }
        it.backlog = match offered.len() {
            OFFER_MAX.. => it.backlog.saturating_sub(taken).max(1),
            offered => offered - taken,
        };
        if it.backlog > 0 {
            // What comes with this input from now on starts another chunk.
            it.chunk_input = u64::MAX;
        }
        self.decode(n, &offered[..taken]);
        let it = &self.exchanges[n];
        if let (true, Some(stream)) = (it.written_whole, &it.stream) {
            assert!(stream.expected.is_empty(), "an event left out of the write for its batch");
        }
    }

    fn write_failed(&mut self, n: usize, detail: Detail) {
        let it = &mut self.exchanges[n];
        it.failed = true;
        if let Some(stream) = &mut it.stream {
            stream.end(Reason::Error, Some(detail));
        }
    }

    fn decode(&mut self, n: usize, mut taken: &[u8]) {
        loop {
            let it = &mut self.exchanges[n];
            let request = it.requests.get(it.answered).filter(|_| it.answered < it.arrived);
            let head_only = matches!(request, Some(Request { what: What::Fixed { head_only: true, .. }, .. }));
            let Some(part) = it.responses.next(&mut taken, head_only) else { return };
            match part {
                Part::Interim => {}
                Part::Answer(answer) => self.answered(n, &answer),
                Part::StreamHead => self.stream_headed(n),
                Part::Frame(frame) => {
                    let stream = it.stream.as_mut().expect("a frame on what is no stream");
                    match frame == ssegateway::sse::HEARTBEAT {
                        true => self.heartbeats += 1,
                        false => self.frames += 1,
                    }
                    stream.frame(&frame);
                }
                Part::StreamEnd => {
                    let stream = it.stream.as_mut().expect("the end of what is no stream");
                    let clean = matches!(stream.cause, Some((Reason::ServerClosed, _)));
                    let failed = matches!(stream.verdict, Some(Verdict::Failed { .. }));
                    assert!(clean || failed, "a clean end of a stream that was cut: {:?}", stream.cause);
                    assert!(stream.expected.is_empty(), "the stream ends before its events");
                    stream.complete = true;
                    it.answered += 1;
                }
            }
        }
    }

    /// The gateway shuts its side down.
    pub fn shut(&mut self, n: usize) {
        let it = &mut self.exchanges[n];
        assert!(it.responses.is_between(), "shut down within a response");
        assert!(it.shut_at.is_none(), "shut down twice");
        if let Some(stream) = &it.stream {
            assert!(stream.expected.is_empty() && (!stream.headed || !stream.chunked || stream.complete), "cut off");
        }
        it.shut_at = Some(self.now);
        it.progress_at = self.now;
    }

    /// The gateway closes a connection: it must have a reason.
    pub fn closed(&mut self, n: usize, how: How) {
        self.open.retain(|open| *open != n);
        let (stalled, now, draining) = (self.is_stalled(n), self.now, self.is_draining());
        let it = &mut self.exchanges[n];
        it.closed = true;
        let lingered = it.shut_at.is_some_and(|at| now >= at + LINGER) || (it.shut_at.is_some() && it.ended);
        if it.ended || it.failed || stalled || draining || lingered || it.late {
            return;
        }
        if let Some(stream) = &mut it.stream {
            let excess = it.read > EXCESS_MAX;
            let cut = matches!(stream.cause, Some((Reason::Error, _)));
            assert!(stream.phase == Phase::Over, "a stream closed for no reason ({how:?})");
            assert!(cut || excess || it.shut_at.is_some(), "closed before its time");
            return;
        }
        let idle = it.started_at.is_none() && now >= it.progress_at + millis(self.settings.keepalive_timeout);
        assert!(idle || it.closing, "closed for no reason ({how:?})");
    }

    /// A turn ends: nobody may have been left waiting.
    pub fn turn_ends(&self) {
        let now = self.now;
        for n in &self.open {
            let it = &self.exchanges[*n];
            let it_is_shut = it.shut_at.is_some_and(|at| due(at + LINGER, now));
            assert!(!it_is_shut, "client {n}: not closed a second after it was shut down");
            assert!(!self.is_stalled(*n), "client {n}: a stalled reader was not dropped");
            if let Some(stream) = &it.stream {
                let missed = stream.heartbeats_owed > 0 && it.backlog == 0;
                assert!(!missed, "client {n}: a heartbeat is missing");
            } else if it.is_reading() && it.started_at.is_none() && it.backlog == 0 {
                let idle = due(it.progress_at + millis(self.settings.keepalive_timeout), now);
                assert!(!idle, "client {n}: an idle connection was not closed");
            }
        }
    }

    /// The loop goes to sleep: whatever the gateway has to say must have been offered.
    pub fn falls_asleep(&self) {
        for n in &self.open {
            let it = &self.exchanges[*n];
            if it.refused || it.failed {
                continue;
            }
            assert!(!it.unlucky && it.backlog == 0, "client {n}: asleep with bytes unsent and room for them");
            let open = it.requests.get(it.answered).filter(|_| it.answered < it.arrived || it.late).filter(|_| !it.concluded);
            match (open.map(|request| &request.what), &it.stream) {
                (Some(What::Stream { .. }), Some(stream)) => {
                    let silent = stream.verdict.is_some() && !stream.headed;
                    assert!(!silent, "client {n}: asleep with no answer to a stream's GET");
                    assert!(stream.expected.is_empty(), "client {n}: asleep with an event unsent");
                }
                (Some(What::Broken), _) | (None, _) => {}
                (Some(what), _) => panic!("client {n}: asleep with no answer to {what:?}"),
            }
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
