//! Streams: what the backend decided and sent, what the client must therefore see next, and why the stream ended.

use super::limits::due;
use super::responses::Answer;
use super::{Oracle, millis};
use ssegateway::callback::{Detail, Outcome, Reason};
use ssegateway::gateway::ConnectFailure;
use std::collections::VecDeque;
use std::rc::Rc;

pub(crate) const HEARTBEAT: &[u8] = b": heartbeat\n\n";
/// The error of a connect to whose stream more was sent than it may hold.
pub(crate) const STREAM_OVERFLOWS: &str = "Too much was sent before the stream opened";
/// `retry` of a stream that failed to open, if the settings name none.
const RETRY_DEFAULT: u32 = 3000;

/// A frame that must come.
pub(crate) enum Expected {
    Frame(Rc<[u8]>),
    /// `retry` alone, within a fifth of so many milliseconds.
    Retry(u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The backend has not answered, as far as the gateway knows.
    #[default]
    Connecting,
    Open,
    /// Nobody can send to it any more, or it never came to be.
    Over,
}

/// What the client gets for its GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    /// A status with the text of its error; in retry mode perhaps a stream that says `retry`.
    Failed {
        status: u16,
        error: String,
        retries: bool,
    },
}

#[derive(Default)]
pub(crate) struct Stream {
    pub phase: Phase,
    pub verdict: Option<Verdict>,
    /// When the client gets 504 at the latest.
    pub answer_by: u64,
    /// The number of the input that its GET came with.
    pub asked_input: u64,
    /// The gateway has made the connect callback.
    pub called: bool,
    /// The gateway has learnt what came of it.
    pub outcome: Option<Outcome>,
    pub disconnects: u32,
    /// Why it ended: what happened first.
    pub cause: Option<(Reason, Option<Detail>)>,
    /// Or this, as the two came in one turn and cannot be told apart from outside.
    pub or_else: Option<(Reason, Option<Detail>)>,
    pub held: Vec<Rc<[u8]>>,
    pub held_bytes: usize,
    pub held_close: bool,
    pub expected: VecDeque<Expected>,
    /// The head of the answer to its GET was written.
    pub headed: bool,
    /// All of that answer was written.
    pub complete: bool,
    pub chunked: bool,
    /// Its GET, as callbacks quote it.
    pub quoted: Rc<str>,
    pub opened_at: u64,
    /// When the next heartbeat falls due.
    pub heartbeat_at: u64,
    /// Heartbeats so far.
    pub heartbeats: u64,
    /// Heartbeats that must be seen yet; more than one is never owed.
    pub heartbeats_owed: u32,
    /// One may be seen: whether bytes waited when it fell due cannot be told from outside.
    pub heartbeat_may: bool,
}

impl Stream {
    /// It is over, for this reason unless it was before.
    pub(crate) fn end(&mut self, reason: Reason, detail: Option<Detail>) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            self.cause = Some((reason, detail));
        }
    }

    /// Nobody waits for the backend any more; the client is told so.
    pub(crate) fn fail(&mut self, status: u16, error: &str, retries: bool, reason: Reason, detail: Detail) {
        if self.phase == Phase::Connecting {
            self.verdict = Some(Verdict::Failed { status, error: error.to_owned(), retries });
            self.end(reason, Some(detail));
        }
    }

    /// The backend accepted: it opens, with what was sent meanwhile.
    pub(crate) fn open(&mut self, now: u64, heartbeat: u64, retry: Option<u32>, event: Option<Rc<[u8]>>, close: bool) {
        self.verdict = Some(Verdict::Accepted);
        self.phase = Phase::Open;
        self.heartbeat_at = now + heartbeat;
        self.expected.extend(retry.map(Expected::Retry));
        self.expected.extend(event.map(Expected::Frame));
        self.expected.extend(self.held.drain(..).map(Expected::Frame));
        if close || self.held_close {
            self.end(Reason::ServerClosed, None);
        }
    }

    /// Whether it ended in a way that gives its client nothing more.
    pub(crate) fn was_cut(&self) -> bool {
        let refused = matches!(self.verdict, Some(Verdict::Failed { .. }));
        !refused && matches!(self.cause, Some((Reason::ClientClosed | Reason::Error, _)))
    }

    /// Whether the backend must hear of the end, once there is one.
    pub(crate) fn owes_disconnect(&self) -> bool {
        match &self.outcome {
            Some(Outcome::Answered { status, .. }) => (200..300).contains(status),
            Some(Outcome::Unavailable { written } | Outcome::TimedOut { written }) => *written,
            None => false,
        }
    }

    /// A frame was written.
    pub(crate) fn frame(&mut self, frame: &[u8]) {
        if frame == HEARTBEAT {
            assert!(self.may_beat(), "a heartbeat before its time");
            match self.heartbeats_owed {
                0 => self.heartbeat_may = false,
                _ => self.heartbeats_owed -= 1,
            }
            self.heartbeats += 1;
            return;
        }
        match self.expected.pop_front() {
            None => panic!("a frame that nobody sent: {}", frame.escape_ascii()),
            Some(Expected::Retry(delay)) => {
                let retry = frame.strip_prefix(b"retry: ").and_then(|rest| rest.strip_suffix(b"\n\n"));
                let retry =
                    retry.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|text| text.parse().ok());
                let retry: u32 = retry.unwrap_or_else(|| panic!("a retry was due: {}", frame.escape_ascii()));
                assert!(retry.abs_diff(delay) <= delay / 5, "another retry: {retry} for {delay}");
            }
            Some(Expected::Frame(due)) => {
                assert!(*frame == *due, "another event was due: {}, not {}", due.escape_ascii(), frame.escape_ascii());
            }
        }
    }

    /// A frame was written to a stream whose events are not known.
    pub(crate) fn wild_frame(&mut self, frame: &[u8], now: u64, interval: u64) {
        if frame == HEARTBEAT {
            self.heartbeats += 1;
            assert!(self.heartbeats <= (now - self.opened_at) / interval, "too many heartbeats");
            return;
        }
        let fields: [&[u8]; 4] = [b"event: ", b"id:", b"retry: ", b"data: "];
        let mut lines = frame[..frame.len() - 2].split(|byte| *byte == b'\n');
        let whole = lines.all(|line| fields.iter().any(|field| line.starts_with(field)));
        assert!(whole, "a torn frame: {}", frame.escape_ascii());
    }

    /// Whether a heartbeat may come now.
    pub(crate) fn may_beat(&self) -> bool {
        self.heartbeats_owed > 0 || self.heartbeat_may
    }

    /// The clock stands at `now`; `unsent`: bytes for the client wait; `wrote`: but some were written
    /// in this turn.
    pub(crate) fn beat(&mut self, now: u64, interval: u64, unsent: bool, wrote: bool) {
        if self.phase == Phase::Open && due(self.heartbeat_at, now) {
            let missed = (now - self.heartbeat_at) / interval;
            self.heartbeat_at += interval * (missed + 1);
            self.heartbeats_owed += u32::from(!unsent);
            self.heartbeat_may |= unsent && wrote;
        }
    }
}

impl Oracle {
    /// A GET for a stream has been read.
    pub(super) fn arrive_stream(&mut self, n: usize, chunked: bool, quoted: Rc<str>) {
        if self.unsure_input == self.input {
            // A stream that is not followed may have ended with this input: is there room for this one?
            self.exchanges[n].wild = true;
            return;
        }
        let answer_by = self.now + millis(self.settings.connect_queue);
        let mut stream = Stream { answer_by, chunked, quoted, asked_input: self.input, ..Stream::default() };
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
    pub(crate) fn streams(&self) -> usize {
        self.count_streams(|phase| phase != Phase::Over) + self.wild_streams
    }

    /// Streams that the backend has accepted and that have not ended; the second number counts with those that are not
    /// followed.
    pub(super) fn open_streams(&self) -> std::ops::RangeInclusive<usize> {
        let open = self.count_streams(|phase| phase == Phase::Open);
        open..=open + self.wild_streams
    }

    /// The gateway has so many streams: those that cannot be on connections that are followed are on wild ones.
    pub(crate) fn note_streams(&mut self, streams: usize) {
        let followed = self.count_streams(|phase| phase != Phase::Over);
        let wild = self.open.iter().filter(|n| self.exchanges[**n].wild).count();
        self.wild_streams = streams.saturating_sub(followed).min(wild);
    }

    fn count_streams(&self, counts: impl Fn(Phase) -> bool) -> usize {
        let followed = self.open.iter().map(|n| &self.exchanges[*n]).filter(|it| !it.wild);
        followed.filter(|it| it.stream.as_ref().is_some_and(|stream| counts(stream.phase))).count()
    }

    /// Whether the connect failure of that kind shows as a stream that says `retry`.
    fn shows_as_retry(&self, retries: bool) -> bool {
        retries && self.settings.connect_failure == ConnectFailure::Retry
    }

    /// The GET of a stream is answered with an error.
    pub(super) fn stream_refused(&mut self, n: usize, answer: &Answer, body: &str) {
        let stream = self.exchanges[n].stream.as_ref().expect("a stream");
        let Some(Verdict::Failed { status, error, retries }) = stream.verdict.clone() else {
            panic!("a stream is refused although nothing failed: {} {body}", answer.status);
        };
        let due = if status == 304 { String::new() } else { format!(r#"{{"error":"{error}"}}"#) };
        assert_eq!((answer.status, body), (status, &*due), "another answer to a stream's GET");
        assert!(answer.close, "a refusal does not end the connection");
        assert!(!self.shows_as_retry(retries), "a status where there should be a retry");
        if let Some(stream) = &mut self.exchanges[n].stream {
            (stream.headed, stream.complete) = (true, true);
        }
    }

    /// The head of an event stream.
    pub(super) fn stream_headed(&mut self, n: usize) {
        let retry = self.settings.reconnect_delay_ms.unwrap_or(RETRY_DEFAULT);
        let it = &self.exchanges[n];
        assert!(it.answered < it.arrived, "a stream that nobody asked for");
        let failed = match it.stream.as_ref().and_then(|stream| stream.verdict.as_ref()) {
            Some(Verdict::Accepted) => false,
            Some(Verdict::Failed { retries, .. }) => {
                assert!(self.shows_as_retry(*retries), "a stream although the connect failed");
                true
            }
            None => panic!("a stream before the backend accepted it"),
        };
        let stream = self.exchanges[n].stream.as_mut().expect("a stream");
        stream.headed = true;
        if failed {
            assert_eq!(stream.phase, Phase::Over, "a retry for a stream that lives");
            stream.expected.push_back(Expected::Retry(retry));
        }
    }

    /// The last chunk of an event stream.
    pub(super) fn stream_ended(&mut self, n: usize) {
        let it = &mut self.exchanges[n];
        let stream = it.stream.as_mut().expect("the end of what is no stream");
        let clean = matches!(stream.cause, Some((Reason::ServerClosed, _)));
        let failed = matches!(stream.verdict, Some(Verdict::Failed { .. }));
        assert!(clean || failed, "a clean end of a stream that was cut: {:?}", stream.cause);
        assert!(stream.expected.is_empty(), "the stream ends before its events");
        stream.complete = true;
        it.answered += 1;
    }
}
