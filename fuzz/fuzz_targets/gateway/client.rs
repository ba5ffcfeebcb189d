//! One client as the oracle sees it: what it did, what it received, and what its stream owes it.

use crate::responses::{self, Body, Response, Stream, text};
use crate::sends::Expected;
use ssegateway::callback::{CallId, Reason};
use ssegateway::gateway::{ConnId, ConnectFailure, CloseMode, Settings};
use uuid::Uuid;

/// How a connect callback was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    Rejected { status: u16 },
    Broken { written: bool },
}

pub struct Client {
    pub id: ConnId,
    pub token: Uuid,
    pub internal: bool,
    pub accepted_at: u64,
    /// Written by the client, not yet arrived.
    pub outbox: Vec<u8>,
    pub delivered: usize,
    /// Fits into the client's socket; `None`: any number.
    pub room: Option<usize>,
    /// There was never a bound.
    pub roomy: bool,
    pub received: Vec<u8>,
    /// What the tame client asked for, in order.
    pub requests: Vec<Expected>,
    /// It wrote nothing but whole requests.
    pub tame: bool,
    pub shut_at: Option<u64>,
    pub closed: Option<CloseMode>,
    /// When unsent bytes last moved, or began to wait.
    pub progress_at: u64,
    pub stalled: bool,

    /// The text of the request in its connect callback.
    pub request: Option<String>,
    pub call: Option<CallId>,
    pub called_at: u64,
    pub verdict: Option<Verdict>,
    pub opened_at: Option<u64>,
    pub leapt: bool,
    pub welcome: Option<String>,
    /// Frames of events accepted for it, in order.
    pub frames: Vec<String>,
    /// A send has asked for the close, and nothing may be taken any more.
    pub told_to_close: bool,
    pub disconnects: Vec<String>,
    /// Known for certain to be over, and why.
    pub ended_by: Option<Reason>,
    pub may: May,
}

/// What could have ended the stream without the oracle's knowing it at once.
#[derive(Default)]
pub struct May {
    pub have_left: bool,
    pub have_been_closed: bool,
    pub have_failed: bool,
    /// Events were sent in ways that the oracle does not follow.
    pub have_more_events: bool,
}

impl Client {
    pub fn new(id: ConnId, token: Uuid, internal: bool, now: u64) -> Client {
        Client {
            id,
            token,
            internal,
            accepted_at: now,
            outbox: Vec::new(),
            delivered: 0,
            room: None,
            roomy: true,
            received: Vec::new(),
            requests: Vec::new(),
            tame: true,
            shut_at: None,
            closed: None,
            progress_at: now,
            stalled: false,
            request: None,
            call: None,
            called_at: 0,
            verdict: None,
            opened_at: None,
            leapt: false,
            welcome: None,
            frames: Vec::new(),
            told_to_close: false,
            disconnects: Vec::new(),
            ended_by: None,
            may: May::default(),
        }
    }

    pub fn is_surely_streaming(&self) -> bool {
        let may = &self.may;
        self.request.is_some()
            && self.ended_by.is_none()
            && self.closed.is_none()
            && matches!(self.verdict, None | Some(Verdict::Accepted))
            && !(may.have_left || may.have_been_closed || may.have_failed)
    }

    /// Bytes of all frames so far.
    pub fn frames_bytes(&self) -> usize {
        self.frames.iter().map(String::len).sum()
    }

    /// Judges everything received so far.
    pub fn judge(&self, settings: &Settings, now: u64) {
        let read = responses::read(&self.received);
        let count = read.whole.len();
        for (index, response) in read.whole.iter().enumerate() {
            if self.tame {
                self.judge_status(index, response, settings);
            }
            if let Body::Stream(stream) = &response.body {
                self.judge_stream(stream, settings, now);
            }
            assert!(!response.close || index + 1 == count);
        }
        if self.shut_at.is_some() {
            // A lone head at the end may have answered HEAD.
            assert!(read.rest.is_empty() || read.rest.ends_with(b"\r\n\r\n"), "cut: {}", text(read.rest));
            if let Some(Response { body: Body::Stream(stream), .. }) = read.whole.last() {
                assert!(stream.ended || !stream.chunked, "a stream that was cut looks like one that is still going");
            }
        }
    }

    fn judge_status(&self, index: usize, response: &Response<'_>, settings: &Settings) {
        let status = response.status;
        let is_stream = matches!(response.body, Body::Stream(_));
        let cut_short = matches!(status, 408 | 503) && response.close;
        match self.requests.get(index) {
            None => assert!(cut_short, "{status} although nothing was asked"),
            Some(Expected::Status(expected)) => assert!(status == *expected || cut_short, "{status}, not {expected}"),
            Some(Expected::Readyz) => assert!(matches!(status, 200 | 503) || cut_short, "{status} for /readyz"),
            Some(Expected::Any) => assert!(!is_stream),
            Some(Expected::Stream) => {
                let retries = settings.connect_failure == ConnectFailure::Retry;
                match self.verdict {
                    _ if is_stream => assert!(retries || self.opened_at.is_some()),
                    Some(Verdict::Rejected { status: rejected }) => {
                        assert!(status == rejected || matches!(status, 408 | 503 | 504), "{status}, not {rejected}");
                    }
                    None | Some(Verdict::Accepted | Verdict::Broken { .. }) => {
                        assert!(matches!(status, 408 | 503 | 504), "{status}");
                    }
                }
            }
        }
    }

    fn judge_stream(&self, stream: &Stream, settings: &Settings, now: u64) {
        let bytes = &stream.bytes[..];
        let Some(opened_at) = self.opened_at else {
            // A stream that never opened says just when to come back.
            assert_eq!(settings.connect_failure, ConnectFailure::Retry);
            let middle = settings.reconnect_delay_ms.unwrap_or(3000);
            match take_retry(bytes) {
                Some((number, rest)) => assert!(rest.is_empty() && number.abs_diff(middle) <= middle / 5),
                None => assert!(!stream.ended && bytes.len() < b"retry: 0000\n\n".len(), "{}", text(bytes)),
            }
            return;
        };
        if stream.ended {
            assert!(self.disconnects.iter().all(|reason| reason == "server_closed"), "{:?}", self.disconnects);
        }
        let (heartbeats, complete) = self.match_frames(bytes);
        if stream.ended || self.is_whole() {
            assert!(complete, "an event is missing: {} of {:?}", text(bytes), self.frames);
        }
        let interval = settings.heartbeat_interval.as_millis() as u64;
        assert!(heartbeats <= (now - opened_at) / interval, "too many heartbeats");
        if self.is_whole() && self.roomy && !self.leapt {
            let due = (now - opened_at).saturating_sub(16) / interval;
            assert!(heartbeats >= due, "{heartbeats} heartbeats where {due} were due");
        }
    }

    /// A stream of which nothing may be missing at this moment.
    fn is_whole(&self) -> bool {
        self.is_surely_streaming() && self.room.is_none()
    }

    /// How many heartbeats there were, and whether every frame was.
    fn match_frames(&self, mut bytes: &[u8]) -> (u64, bool) {
        let mut expected = self.welcome.iter().chain(&self.frames).map(String::as_bytes).peekable();
        let (mut heartbeats, mut retries) = (0, 0);
        loop {
            if bytes.is_empty() {
                return (heartbeats, expected.peek().is_none());
            }
            let beat = b": heartbeat\n\n";
            if let Some(rest) = bytes.strip_prefix(beat) {
                heartbeats += 1;
                bytes = rest;
            } else if let Some(rest) = expected.peek().and_then(|frame| bytes.strip_prefix(*frame)) {
                expected.next();
                bytes = rest;
            } else if let Some((number, rest)) = take_retry(bytes) {
                assert!((800..=1200).contains(&number), "{number} is not within a fifth");
                retries += 1;
                assert!(retries <= 2, "once at the start, once at the end");
                bytes = rest;
            } else if beat.starts_with(bytes) || expected.peek().is_some_and(|frame| frame.starts_with(bytes)) {
                return (heartbeats, false);
            } else if b"retry: 0000\n".len() >= bytes.len() && bytes.starts_with(&b"retry: "[..bytes.len().min(7)]) {
                return (heartbeats, false);
            } else if self.may.have_more_events {
                let Some(end) = responses::find(bytes, b"\n\n") else { return (heartbeats, false) };
                bytes = &bytes[end + 2..];
            } else {
                panic!("{:?} where {:?} was due", text(bytes), expected.peek().map(|frame| text(frame)));
            }
        }
    }

    /// What the backend must have been told once everything is over.
    pub fn judge_callbacks(&self) {
        let told = &self.disconnects[..];
        match (&self.request, self.verdict) {
            (None, _) => assert!(told.is_empty(), "a disconnect without a connect"),
            (Some(_), Some(Verdict::Accepted)) => assert_eq!(told.len(), 1, "{told:?}"),
            (Some(_), Some(Verdict::Rejected { .. } | Verdict::Broken { written: false })) => {
                assert!(told.is_empty(), "{told:?}");
            }
            (Some(_), Some(Verdict::Broken { written: true })) => assert_eq!(told, ["error"]),
            (Some(_), None) => panic!("a connect was never answered"),
        }
    }
}

/// A frame that is nothing but a reconnection time.
fn take_retry(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let rest = bytes.strip_prefix(b"retry: ")?;
    let end = responses::find(rest, b"\n\n")?;
    let number = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((number, &rest[end + 2..]))
}
