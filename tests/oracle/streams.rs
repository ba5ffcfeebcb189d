//! Streams: the backend's decisions and events, the client's next expected frame, and the reason of the end.

use super::entries::Change;
use super::limits::due;
use super::members::Member;
use super::responses::Answer;
use super::{Oracle, millis};
use ssegateway::callback::{Detail, Outcome, Reason};
use ssegateway::gateway::ConnectFailure;
use std::collections::VecDeque;
use std::rc::Rc;

pub(crate) const HEARTBEAT: &[u8] = b": heartbeat\n\n";
/// The error if too much was sent to a connecting stream.
pub(crate) const STREAM_OVERFLOWS: &str = "Too much was sent before the stream opened";
/// `retry` of a stream that the drain ends, if the settings name none.
pub(crate) const DRAIN_RETRY: u32 = 6_000;

/// `retry` of a stream that failed to open, if the settings name none.
const RETRY_DEFAULT: u32 = 3000;

/// An expected frame.
pub(crate) enum Expected {
    Frame(Rc<[u8]>),
    /// `retry` alone, within a fifth of that many milliseconds.
    Retry(u32),
    /// The same, or anything up to the second number.
    RetryUpTo(u32, u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The gateway has no answer from the backend yet.
    #[default]
    Connecting,
    Open,
    /// It has ended or never opened; sends to it fail.
    Over,
}

/// The answer to the client's GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    /// A status with the text of its error; in retry mode perhaps a stream with only `retry`.
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
    /// The latest time for a 504.
    pub answer_by: u64,
    /// The number of the input with its GET.
    pub asked_input: u64,
    /// The gateway has made the connect callback.
    pub called: bool,
    /// The gateway has received the outcome.
    pub outcome: Option<Outcome>,
    pub disconnects: u32,
    /// The place of its disconnect among all, once it was made for the first time.
    pub disconnect_number: Option<usize>,
    /// When the backend came to be owed a disconnect.
    pub owed_at: Option<u64>,
    /// The reason of its end: the first event that ended it.
    pub cause: Option<(Reason, Option<Detail>)>,
    /// Or this one, if both happened in one turn and cannot be distinguished from outside.
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
    /// Its GET in the JSON of callbacks.
    pub quoted: Rc<str>,
    /// The `Last-Event-ID` of its GET, and the newest position when that was read.
    pub cursor: Option<Rc<str>>,
    pub asked_head: u64,
    /// Changes of its groups, requested before it is open.
    pub held_changes: Vec<Change>,
    /// What it is to be written, if it is in groups.
    pub member: Option<Box<Member>>,
    pub opened_at: u64,
    /// When the next heartbeat falls due.
    pub heartbeat_at: u64,
    /// Heartbeats so far.
    pub heartbeats: u64,
    /// Heartbeats that must still appear, at most one.
    pub heartbeats_owed: u32,
    /// One may appear: whether bytes were unsent when it fell due cannot be known from outside.
    pub heartbeat_may: bool,
}

impl Stream {
    /// It ends for this reason, unless it has already ended.
    pub(crate) fn end(&mut self, reason: Reason, detail: Option<Detail>) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            self.cause = Some((reason, detail));
            // It may have ended before, which nothing has shown.
            let ending = self.member.as_ref().and_then(|member| member.ending);
            self.or_else = self.or_else.or(ending);
        }
    }

    /// The backend's answer is no longer awaited; the client gets an error.
    pub(crate) fn fail(&mut self, status: u16, error: &str, retries: bool, reason: Reason, detail: Detail) {
        if self.phase == Phase::Connecting {
            self.verdict = Some(Verdict::Failed { status, error: error.to_owned(), retries });
            self.end(reason, Some(detail));
        }
    }

    /// The backend accepted: it opens with the events buffered so far.
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

    /// Whether it ended so that its client receives nothing more.
    pub(crate) fn was_cut(&self) -> bool {
        let refused = matches!(self.verdict, Some(Verdict::Failed { .. }));
        !refused && matches!(self.cause, Some((Reason::ClientClosed | Reason::Error, _)))
    }

    /// Whether it ended so, and its client can distinguish that from a clean end: bytes in the kernel are still
    /// delivered.
    pub(crate) fn ends_visibly_cut(&self) -> bool {
        let cut = matches!(self.cause, Some((Reason::Error, _)));
        cut && self.chunked && self.verdict == Some(Verdict::Accepted)
    }

    /// Nothing more is written on it.
    pub(crate) fn fall_silent(&mut self) {
        assert!(!self.complete, "a second end");
        self.expected.clear();
        if let Some(member) = &mut self.member {
            member.forget_due();
        }
        (self.headed, self.heartbeats_owed, self.heartbeat_may) = (true, 0, false);
    }

    /// Whether its end requires a disconnect.
    pub(crate) fn owes_disconnect(&self) -> bool {
        match &self.outcome {
            Some(Outcome::Answered { status, in_doubt, .. }) => (200..300).contains(status) || *in_doubt,
            Some(Outcome::Overdue) => false,
            Some(Outcome::Unavailable { written } | Outcome::TimedOut { written }) => *written,
            None => false,
        }
    }

    /// A frame was written.
    pub(crate) fn frame(&mut self, frame: &[u8]) {
        if frame == HEARTBEAT {
            return self.count_heartbeat();
        }
        match self.expected.pop_front() {
            None => panic!("an unexpected frame: {}", frame.escape_ascii()),
            Some(Expected::Retry(delay)) => {
                let retry = due_retry(frame);
                assert!(retry.abs_diff(delay) <= delay / 5, "wrong retry: {retry} for {delay}");
            }
            Some(Expected::RetryUpTo(delay, most)) => {
                let retry = due_retry(frame);
                assert!((delay - delay / 5..=most).contains(&retry), "wrong retry: {retry} for {delay} to {most}");
            }
            Some(Expected::Frame(due)) => {
                assert!(*frame == *due, "wrong event: {}, not {}", due.escape_ascii(), frame.escape_ascii());
            }
        }
    }

    /// A heartbeat was written.
    pub(super) fn count_heartbeat(&mut self) {
        assert!(self.may_beat(), "a heartbeat too early");
        match self.heartbeats_owed {
            0 => self.heartbeat_may = false,
            _ => self.heartbeats_owed -= 1,
        }
        self.heartbeats += 1;
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

    /// Advances to `now`; `unsent`: bytes for the client are queued; `wrote`: some were written in this turn.
    pub(crate) fn beat(&mut self, now: u64, interval: u64, unsent: bool, wrote: bool) {
        if self.phase == Phase::Open && due(self.heartbeat_at, now) {
            let missed = (now - self.heartbeat_at) / interval;
            self.heartbeat_at += interval * (missed + 1);
            self.heartbeats_owed += u32::from(!unsent);
            self.heartbeat_may |= unsent && (wrote || self.member.is_some());
        }
    }
}

/// The delay of a frame that is nothing but a `retry`.
pub(super) fn parse_retry(frame: &[u8]) -> Option<u32> {
    let digits = frame.strip_prefix(b"retry: ").and_then(|rest| rest.strip_suffix(b"\n\n"));
    digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|text| text.parse().ok())
}

fn due_retry(frame: &[u8]) -> u32 {
    parse_retry(frame).unwrap_or_else(|| panic!("a retry was due: {}", frame.escape_ascii()))
}

impl Oracle {
    /// A GET for a stream has been read.
    pub(super) fn arrive_stream(&mut self, n: usize, chunked: bool, quoted: Rc<str>, cursor: Option<Rc<str>>) {
        if self.unsure_input == self.input {
            // A wild stream may have ended with this input and freed a place for this one.
            self.exchanges[n].wild = true;
            return;
        }
        let answer_by = self.now + millis(self.settings.connect_queue);
        let (asked_input, asked_head) = (self.input, self.groups.head);
        let mut stream = Stream { answer_by, chunked, quoted, cursor, asked_input, asked_head, ..Stream::default() };
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
        // The gateway sees it too, however short it lasts.
        self.streams_peak = self.streams_peak.max(self.streams());
    }

    /// Streams that count against the limit.
    pub(crate) fn streams(&self) -> usize {
        self.count_streams(|phase| phase != Phase::Over) + self.wild_streams
    }

    /// Streams that the backend has accepted and that have not ended; the upper bound includes wild ones.
    pub(super) fn open_streams(&self) -> std::ops::RangeInclusive<usize> {
        let open = self.count_streams(|phase| phase == Phase::Open);
        open.saturating_sub(self.unsure_ends())..=open + self.wild_streams
    }

    /// The gateway has that many streams: those that are not on known connections are on wild ones.
    pub(crate) fn note_streams(&mut self, streams: usize) {
        let followed = self.count_streams(|phase| phase != Phase::Over);
        let wild = self.open.iter().filter(|n| self.exchanges[**n].wild).count();
        self.wild_streams = streams.saturating_sub(followed).min(wild);
    }

    fn count_streams(&self, counts: impl Fn(Phase) -> bool) -> usize {
        let followed = self.open.iter().map(|n| &self.exchanges[*n]).filter(|it| !it.wild);
        followed.filter(|it| it.stream.as_ref().is_some_and(|stream| counts(stream.phase))).count()
    }

    /// Whether a connect failure of that kind is answered with a stream that has only `retry`.
    fn shows_as_retry(&self, retries: bool) -> bool {
        retries && self.settings.connect_failure == ConnectFailure::Retry
    }

    /// The GET of a stream is answered with an error.
    pub(super) fn stream_refused(&mut self, n: usize, answer: &Answer, body: &str) {
        let stream = self.exchanges[n].stream.as_ref().expect("a stream");
        let Some(Verdict::Failed { status, error, retries }) = stream.verdict.clone() else {
            panic!("a stream is refused although nothing failed: {} {body}", answer.status);
        };
        let due = if matches!(status, 204 | 304) { String::new() } else { format!(r#"{{"error":"{error}"}}"#) };
        assert_eq!((answer.status, body), (status, &*due), "wrong answer to a stream's GET");
        assert!(answer.close, "a refusal does not end the connection");
        assert!(!self.shows_as_retry(retries), "a status instead of a retry");
        if let Some(stream) = &mut self.exchanges[n].stream {
            (stream.headed, stream.complete) = (true, true);
        }
    }

    /// The head of an event stream.
    pub(super) fn stream_headed(&mut self, n: usize) {
        let retry = self.settings.reconnect_delay_ms.unwrap_or(RETRY_DEFAULT);
        let retry_max = self.retry_max(retry);
        let it = &self.exchanges[n];
        assert!(it.answered < it.arrived, "a stream without a request");
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
            assert_eq!(stream.phase, Phase::Over, "a retry for a live stream");
            stream.expected.push_back(Expected::RetryUpTo(retry, retry_max));
        }
    }

    /// The last chunk of an event stream.
    pub(super) fn stream_ended(&mut self, n: usize) {
        let it = &mut self.exchanges[n];
        let stream = it.stream.as_mut().expect("an end without a stream");
        if let Some((reason, detail)) = stream.member.as_ref().and_then(|member| member.ending) {
            stream.end(reason, detail);
        }
        let clean = matches!(stream.cause, Some((Reason::ServerClosed, _)));
        let failed = matches!(stream.verdict, Some(Verdict::Failed { .. }));
        assert!(clean || failed, "a clean end of a stream that was cut: {:?}", stream.cause);
        assert!(!stream.is_owed_frames(), "the stream ends before its events");
        stream.complete = true;
        it.answered += 1;
    }
}
