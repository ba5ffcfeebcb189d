//! One connection: its state, its output, its deadline.

use super::actions::CloseMode;
use super::answers::ResponseMode;
use super::output::Output;
use super::routes::{Listener, Peer, Reply};
use crate::callback::{CallId, Request};
use crate::clock::Millis;
use crate::http::body::Chunked;
use crate::http::response::CorsHeaders;
use crate::hub::ConnId;
use uuid::Uuid;

/// A connection fills two cache lines with its slot of the table.
pub(super) struct Connection {
    pub id: ConnId,
    pub state: State,
    pub out: Output,
    /// Names the stream, if the connection becomes one; drawn beforehand as the core has no randomness.
    pub token: Uuid,
    pub listener: Listener,
    pub peer: Peer,
    pub input: Input,
    /// Whether an answer has said how long the connection may be idle.
    pub keepalive_told: bool,
    /// What a client may still send behind its GET.
    pub discard: DiscardBudget,
    /// When something must happen.
    pub deadline: Millis,
    /// Due time of this connection's live timer entry; any other entry is stale.
    pub scheduled: Millis,
}

/// Whether more of the peer's input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Open,
    /// Once more; then the connection ends, unless something has come.
    Ending,
    /// The peer has ended its side.
    Ended,
}

/// A state owns its data.
pub(super) enum State {
    /// Collecting a request, or waiting for one.
    Reading(Reading),
    /// The answer to the last request read is owed, and no further request is read until it is there.
    Answering(Box<Answering>),
    /// The backend is deciding.
    Connecting(Box<Connecting>),
    /// The stream is open.
    Streaming(Streaming),
    /// The last response is on its way: flush, shut down writing, discard input for a while, close.
    Closing(Closing),
    /// Over: the slot is freed at the end of the input in hand.
    Closed(CloseMode),
}

#[derive(Default)]
pub(super) struct Reading {
    /// Input that awaits the rest of a head. Empty unless a head spans two reads.
    pub inbox: Vec<u8>,
    /// The request whose body is being read.
    pub body: Option<Box<Body>>,
    /// When the request's first byte came; `None` while idle.
    pub started: Option<Millis>,
}

impl Reading {
    /// Whether a part of a request has arrived.
    pub(super) fn has_begun(&self) -> bool {
        !self.inbox.is_empty() || self.body.is_some()
    }
}

/// What a request asks for.
pub(super) enum Purpose {
    Send,
    /// Read past the body, then answer.
    Answer(Reply),
}

impl Purpose {
    /// Whether the head has decided on an error: what comes behind it changes nothing.
    pub(super) fn is_refused(&self) -> bool {
        match self {
            Self::Answer(Reply::Refused(..) | Reply::MethodNotAllowed(..) | Reply::BadParameter(_)) => true,
            Self::Send
            | Self::Answer(
                Reply::Healthz
                | Reply::Readyz
                | Reply::Metrics
                | Reply::Connections(_)
                | Reply::Options(..)
                | Reply::Preflight(..),
            ) => false,
        }
    }

    /// What a page may read of the answer.
    pub(super) fn cors(&self) -> &CorsHeaders {
        match self {
            Self::Answer(
                Reply::Options(_, cors)
                | Reply::Preflight(cors, _)
                | Reply::Refused(_, cors)
                | Reply::MethodNotAllowed(_, cors),
            ) => cors,
            Self::Send
            | Self::Answer(
                Reply::Healthz | Reply::Readyz | Reply::Metrics | Reply::Connections(_) | Reply::BadParameter(_),
            ) => &CorsHeaders::Off,
        }
    }
}

/// A request whose head has been read, and what to do once its body is there.
pub(super) struct Body {
    pub purpose: Purpose,
    pub mode: ResponseMode,
    remaining: Remaining,
    /// Bytes of data in the chunks so far.
    taken: u64,
    /// The body so far; stays empty if it means nothing.
    pub bytes: Vec<u8>,
}

pub(super) enum Remaining {
    /// So many bytes; at least 1.
    Length(u64),
    Chunked(Chunked),
}

/// How far [`Body::read`] has come, and how many bytes it took.
pub(super) enum Progress {
    More(usize),
    Done(usize),
    TooLong(usize),
    /// The chunk framing is bad.
    Malformed,
}

impl Body {
    pub(super) fn new(purpose: Purpose, mode: ResponseMode, remaining: Remaining) -> Self {
        Self { purpose, mode, remaining, taken: 0, bytes: Vec::new() }
    }

    /// Reads on. `bytes_max` bounds a chunked body; a declared length has been checked before.
    pub(super) fn read(&mut self, input: &[u8], bytes_max: usize) -> Progress {
        let keep = match self.purpose {
            Purpose::Send => true,
            Purpose::Answer(_) => false,
        };
        let (bytes, taken) = (&mut self.bytes, &mut self.taken);
        match &mut self.remaining {
            Remaining::Length(left) => {
                let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                if keep {
                    bytes.extend_from_slice(&input[..count]);
                }
                *left -= count as u64;
                if *left == 0 { Progress::Done(count) } else { Progress::More(count) }
            }
            Remaining::Chunked(decoder) => {
                let append = |data: &[u8]| {
                    *taken += data.len() as u64;
                    if keep {
                        bytes.extend_from_slice(data);
                    }
                };
                let Ok(count) = decoder.decode(input, append) else { return Progress::Malformed };
                if decoder.announced().saturating_add(*taken) > bytes_max as u64 {
                    Progress::TooLong(count)
                } else if decoder.is_done() {
                    Progress::Done(count)
                } else {
                    Progress::More(count)
                }
            }
        }
    }
}

pub(super) struct Answering {
    pub mode: ResponseMode,
    /// Input behind the request.
    pub rest: Vec<u8>,
}

/// What a response to a request for a stream depends on.
pub(super) struct StreamMode {
    /// Whether the client understands chunks (RFC 9112 section 7.1).
    pub chunked: bool,
    pub cors: CorsHeaders,
}

pub(super) struct Connecting {
    pub call: CallId,
    pub mode: StreamMode,
    /// Frames that were sent meanwhile, in order.
    pub held: Vec<u8>,
    /// How many those are.
    pub held_events: u64,
    /// A send has asked for the end of the stream; nothing more is taken for it.
    pub held_close: bool,
    /// When the client is told 504: while the call waits for a worker, and then while it runs.
    pub answer_by: Millis,
}

pub(super) struct Streaming {
    /// Kept for the disconnect callback.
    pub request: Request,
    pub heartbeat_at: Millis,
    /// Seconds since the Unix epoch.
    pub opened_at: u64,
}

pub(super) enum Closing {
    /// The output is not written to its end.
    Flushing,
    /// It is, and the sending side is shut down: input is discarded until the peer ends its side or falls silent, at most
    /// until then.
    Lingering { until: Millis },
    /// The stream was cut, and what the process had for it dropped. The kernel sends what it has, and the end of input (FIN)
    /// behind it, at most until then.
    Cut { until: Millis },
}

/// Input that will still be discarded.
#[derive(Clone, Copy, Default)]
pub(super) struct DiscardBudget(u32);

impl DiscardBudget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    /// Takes `count` bytes out; `false` if there is not so much left.
    pub(super) fn take(&mut self, count: usize) -> bool {
        let left = u32::try_from(count).ok().and_then(|count| self.0.checked_sub(count));
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

impl Connection {
    pub(super) fn new(id: ConnId, now: Millis, listener: Listener, peer: Peer, token: Uuid) -> Self {
        Self {
            id,
            // The first request is timed from here, not from its first byte.
            state: State::Reading(Reading { started: Some(now), ..Reading::default() }),
            out: Output::new(now),
            token,
            listener,
            peer,
            input: Input::Open,
            keepalive_told: false,
            discard: DiscardBudget::default(),
            deadline: Millis::NEVER,
            scheduled: Millis::NEVER,
        }
    }

    /// Unsent bytes, those held for a pending connect included.
    pub(super) fn unsent_bytes(&self) -> usize {
        let held = match &self.state {
            State::Connecting(connecting) => connecting.held.len(),
            State::Reading(_) | State::Answering(_) | State::Streaming(_) | State::Closing(_) | State::Closed(_) => 0,
        };
        held + self.out.len()
    }

    /// Whether further input is to be read now. `answers_max` is how many bytes of answers may be unsent.
    pub(super) fn wants_input(&self, answers_max: usize) -> bool {
        self.input != Input::Ended
            && match self.state {
                State::Reading(_) => self.out.len() < answers_max,
                State::Answering(_) | State::Closed(_) => false,
                State::Connecting(_) | State::Streaming(_) | State::Closing(_) => true,
            }
    }

    /// Whether the connection has a response, a stream or another last one, that is not written to its end.
    pub(super) fn is_unfinished(&self) -> bool {
        match self.state {
            State::Answering(_) | State::Connecting(_) | State::Streaming(_) => true,
            State::Reading(_) | State::Closing(_) | State::Closed(_) => !self.out.is_empty(),
        }
    }

    /// Whether a token names this connection.
    pub(super) fn is_stream(&self) -> bool {
        match self.state {
            State::Connecting(_) | State::Streaming(_) => true,
            State::Reading(_) | State::Answering(_) | State::Closing(_) | State::Closed(_) => false,
        }
    }
}
