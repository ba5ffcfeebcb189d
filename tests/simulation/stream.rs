//! What the oracle knows of one stream: what the backend was asked and said, what was sent, what the
//! client must therefore see next, and why it ended.

use super::decode::{Decoder, Message};
use super::exchange::due;
use ssegateway::callback::{Detail, Outcome, Reason};
use std::collections::VecDeque;
use std::rc::Rc;

/// An event, as a backend sends it.
#[derive(Clone, Debug, Default)]
pub struct Event {
    pub name: Option<String>,
    pub id: Option<String>,
    pub retry: Option<u32>,
    pub data: String,
}

impl Event {
    /// How long its frame is (docs/protocol.md, section 5).
    pub fn frame_bytes(&self) -> usize {
        let name = self.name.as_ref().filter(|name| !name.is_empty()).map_or(0, |name| 8 + name.len());
        let id = self.id.as_ref().map_or(0, |id| 4 + id.len() + usize::from(!id.is_empty()));
        let retry = self.retry.map_or(0, |retry| 8 + retry.to_string().len());
        // Each line has its field's name and an end; CRLF and CR end one as LF does.
        let bytes = self.data.as_bytes();
        let pairs = bytes.windows(2).filter(|pair| pair == b"\r\n").count();
        let ends = bytes.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count();
        let data = bytes.len() - ends + 7 * (ends - pairs + 1);
        name + id + retry + data + 1
    }

    /// What `EventSource` dispatches for it.
    fn message(&self, last_id: &str) -> Message {
        let name = self.name.clone().filter(|name| !name.is_empty());
        Message {
            name: name.unwrap_or_else(|| "message".to_owned()),
            data: self.data.replace("\r\n", "\n").replace('\r', "\n"),
            id: last_id.to_owned(),
        }
    }
}

/// A frame that must come.
pub enum Expected {
    Event(Rc<Event>),
    /// `retry` alone, within a fifth of so many milliseconds.
    Retry(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The backend has not answered, as far as the gateway knows.
    Connecting,
    Open,
    /// Nobody can send to it any more, or it never came to be.
    Over,
}

/// What the client gets for its GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// A status with the text of its error; in retry mode perhaps a stream that says `retry`.
    Failed {
        status: u16,
        error: String,
        retries: bool,
    },
}

pub struct Stream {
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
    pub held: Vec<Rc<Event>>,
    pub held_bytes: usize,
    pub held_close: bool,
    pub expected: VecDeque<Expected>,
    /// The head of the answer to its GET was written.
    pub headed: bool,
    /// All of that answer was written.
    pub complete: bool,
    pub chunked: bool,
    /// When the next heartbeat falls due.
    pub heartbeat_at: u64,
    /// Heartbeats that must be seen yet; more than one is never owed.
    pub heartbeats_owed: u32,
    /// One may be seen: whether bytes waited when it fell due cannot be told from outside.
    pub heartbeat_may: bool,
    last_id: String,
    decoder: Decoder,
}

impl Stream {
    pub fn new(answer_by: u64, chunked: bool, asked_input: u64) -> Stream {
        Stream {
            phase: Phase::Connecting,
            verdict: None,
            answer_by,
            asked_input,
            called: false,
            outcome: None,
            disconnects: 0,
            cause: None,
            or_else: None,
            heartbeat_may: false,
            held: Vec::new(),
            held_bytes: 0,
            held_close: false,
            expected: VecDeque::new(),
            headed: false,
            complete: false,
            chunked,
            heartbeat_at: 0,
            heartbeats_owed: 0,
            last_id: String::new(),
            decoder: Decoder::default(),
        }
    }

    /// It is over, for this reason unless it was before.
    pub fn end(&mut self, reason: Reason, detail: Option<Detail>) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            self.cause = Some((reason, detail));
        }
    }

    /// Nobody waits for the backend any more; the client is told so.
    pub fn fail(&mut self, status: u16, error: &str, retries: bool, reason: Reason, detail: Detail) {
        if self.phase == Phase::Connecting {
            self.verdict = Some(Verdict::Failed { status, error: error.to_owned(), retries });
            self.end(reason, Some(detail));
        }
    }

    /// The gateway takes note of the end of its connect callback.
    pub fn answered(&mut self, outcome: Outcome, now: u64, heartbeat: u64, retry: Option<u32>, said: Said) {
        assert!(self.called && self.outcome.is_none(), "an outcome nobody asked for");
        let waits = self.phase == Phase::Connecting;
        if waits {
            let (status, error, retries) = match &outcome {
                Outcome::Answered { status: 200..=299, .. } => (200, String::new(), false),
                Outcome::Answered { status, .. } => {
                    let temporary = matches!(status, 500 | 502 | 503 | 504);
                    (*status, format!("Backend returned {status}"), temporary)
                }
                Outcome::Unavailable { .. } => (503, "Backend unavailable".to_owned(), true),
                Outcome::TimedOut { .. } => (504, "Gateway timeout".to_owned(), true),
            };
            if status == 200 {
                self.verdict = Some(Verdict::Accepted);
                self.phase = Phase::Open;
                self.heartbeat_at = now + heartbeat;
                self.expected.extend(retry.map(Expected::Retry));
                self.expected.extend(said.event.map(Expected::Event));
                self.expected.extend(self.held.drain(..).map(Expected::Event));
                if said.close || self.held_close {
                    self.end(Reason::ServerClosed, None);
                }
            } else {
                self.verdict = Some(Verdict::Failed { status, error, retries });
                self.phase = Phase::Over;
            }
        }
        let doubt = match &outcome {
            Outcome::Answered { .. } => None,
            Outcome::Unavailable { .. } => Some(Detail::ConnectBroken),
            Outcome::TimedOut { .. } => Some(Detail::ConnectTimeout),
        };
        if let Some(detail) = doubt {
            self.cause = Some((Reason::Error, Some(detail)));
        }
        self.outcome = Some(outcome);
    }

    /// Whether it ended in a way that gives its client nothing more.
    pub fn was_cut(&self) -> bool {
        let refused = matches!(self.verdict, Some(Verdict::Failed { .. }));
        !refused && matches!(self.cause, Some((Reason::ClientClosed | Reason::Error, _)))
    }

    /// Whether the backend must hear of the end, once there is one.
    pub fn owes_disconnect(&self) -> bool {
        match &self.outcome {
            Some(Outcome::Answered { status, .. }) => (200..300).contains(status),
            Some(Outcome::Unavailable { written } | Outcome::TimedOut { written }) => *written,
            None => false,
        }
    }

    /// A frame was written.
    pub fn frame(&mut self, frame: &[u8]) {
        self.decoder.receive(frame);
        assert!(self.decoder.is_between_frames(), "a torn frame: {}", frame.escape_ascii());
        let messages = self.decoder.take_messages();
        if frame == b": heartbeat\n\n" {
            assert!(messages.is_empty() && self.may_beat(), "a heartbeat before its time");
            match self.heartbeats_owed {
                0 => self.heartbeat_may = false,
                _ => self.heartbeats_owed -= 1,
            }
            return;
        }
        match self.expected.pop_front() {
            None => panic!("a frame that nobody sent: {}", frame.escape_ascii()),
            Some(Expected::Retry(delay)) => {
                let is_retry = frame.starts_with(b"retry: ") && messages.is_empty();
                assert!(is_retry, "a retry was due: {}", frame.escape_ascii());
                let retry = self.decoder.retry().unwrap_or_default();
                assert!(retry.abs_diff(u64::from(delay)) <= u64::from(delay / 5), "another retry: {retry} for {delay}");
            }
            Some(Expected::Event(event)) => {
                if let Some(id) = &event.id {
                    self.last_id.clone_from(id);
                }
                assert_eq!(messages, [event.message(&self.last_id)], "another event was due");
                assert_eq!(frame.len(), event.frame_bytes(), "a frame of another length");
                if let Some(retry) = event.retry {
                    assert_eq!(self.decoder.retry(), Some(u64::from(retry)), "another retry");
                }
            }
        }
    }

    /// Whether a heartbeat may come now.
    pub fn may_beat(&self) -> bool {
        self.heartbeats_owed > 0 || self.heartbeat_may
    }

    /// The clock stands at `now`; `unsent`: bytes for the client wait; `wrote`: but some were written
    /// in this turn.
    pub fn beat(&mut self, now: u64, interval: u64, unsent: bool, wrote: bool) {
        if self.phase == Phase::Open && due(self.heartbeat_at, now) {
            let missed = (now - self.heartbeat_at) / interval;
            self.heartbeat_at += interval * (missed + 1);
            self.heartbeats_owed += u32::from(!unsent);
            self.heartbeat_may |= unsent && wrote;
        }
    }
}

/// What a backend's 2xx asks for.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub event: Option<Rc<Event>>,
    pub close: bool,
}
