//! One connection: its state, its output, its deadline.

use super::output::Output;
use super::requests::ResponseMode;
use super::routes::{Listener, Peer, Reply};
use crate::callback::{CallId, Request};
use crate::clock::Millis;
use crate::http::body::Chunked;
use crate::http::response::CorsHeaders;
use uuid::Uuid;

pub(super) struct Connection {
    pub state: State,
    pub out: Output,
    /// Names the stream, if the connection becomes one; drawn beforehand as the core has no randomness.
    pub token: Uuid,
    pub listener: Listener,
    pub peer: Peer,
    /// What a client may still send behind its GET.
    pub discard: DiscardBudget,
    /// The peer has ended its side: nothing more will be read.
    pub read_closed: bool,
    /// When something must happen.
    pub deadline: Millis,
    /// Due time of this connection's live timer entry; any other entry is stale.
    pub scheduled: Millis,
}

/// A state owns its data.
pub(super) enum State {
    /// Collecting a request, or waiting for one.
    Reading(Reading),
    /// The backend is deciding.
    Connecting(Box<Connecting>),
    /// The stream is open.
    Streaming(Streaming),
    /// The answer to the last request read is owed, and no further request is read until it is there.
    Answering(Box<Answering>),
    /// The last response is on its way: flush, shut down writing, discard input for a while, close.
    Closing(Closing),
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

/// A request whose head is done with, and what to do once its body is there.
pub(super) struct Body {
    pub purpose: Purpose,
    pub mode: ResponseMode,
    pub remaining: Remaining,
    /// Bytes of data in the chunks so far.
    pub taken: u64,
    /// The body so far; stays empty if it means nothing.
    pub bytes: Vec<u8>,
}

pub(super) enum Purpose {
    Send,
    /// Read past the body, then answer.
    Answer(Reply),
}

pub(super) enum Remaining {
    /// So many bytes; at least 1.
    Length(u64),
    Chunked(Chunked),
}

pub(super) struct Answering {
    pub mode: ResponseMode,
    /// Input behind the request.
    pub rest: Vec<u8>,
}

pub(super) struct Connecting {
    pub call: CallId,
    pub chunked: bool,
    pub cors: CorsHeaders,
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
    /// Encoded once, kept for the disconnect callback.
    pub request: Request,
    pub heartbeat_at: Millis,
    /// Seconds since the Unix epoch.
    pub opened_at: u64,
}

pub(super) struct Closing {
    /// Output is flushed and the sending side shut down; until then, the peer may still be reading.
    pub shut: bool,
}

/// Input that will still be discarded.
#[derive(Clone, Copy, Default)]
pub(super) struct DiscardBudget(u64);

impl DiscardBudget {
    pub fn new(bytes: u64) -> DiscardBudget {
        DiscardBudget(bytes)
    }

    /// Takes `count` bytes out; `false` if there is not so much left.
    pub fn take(&mut self, count: usize) -> bool {
        let left = self.0.checked_sub(count as u64);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

impl Connection {
    pub fn new(now: Millis, listener: Listener, peer: Peer, token: Uuid) -> Connection {
        Connection {
            // The first request is timed from here, not from its first byte.
            state: State::Reading(Reading { started: Some(now), ..Reading::default() }),
            out: Output::new(now),
            token,
            listener,
            peer,
            discard: DiscardBudget::default(),
            read_closed: false,
            deadline: Millis::NEVER,
            scheduled: Millis::NEVER,
        }
    }

    /// Unsent bytes, those held for a pending connect included.
    pub fn unsent_bytes(&self) -> usize {
        match &self.state {
            State::Connecting(connecting) => connecting.held.len() + self.out.len(),
            State::Reading(_) | State::Answering(_) | State::Streaming(_) | State::Closing(_) => self.out.len(),
        }
    }
}
