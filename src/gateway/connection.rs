//! One connection: its state, its output, its deadline.

use super::actions::CloseMode;
use super::answering::Answering;
use super::answers::ResponseMode;
use super::feed::Feed;
use super::output::Output;
use super::reached::Reached;
use super::routes::{Listener, Peer, Reply};
use crate::callback::{CallId, Request};
use crate::clock::Millis;
use crate::cursor::{Cursor, Position};
use crate::http::body::{BadChunk, Remaining};
use crate::http::response::CorsHeaders;
use crate::hub::{ConnId, Joined};
use crate::table::Table;
use uuid::Uuid;

/// A connection fills two cache lines with its slot of the table.
pub(super) struct Connection {
    pub id: ConnId,
    pub state: State,
    pub out: Output,
    /// The stream's token, if the connection becomes one; generated in advance, as the core has no randomness.
    pub token: Uuid,
    pub listener: Listener,
    pub peer: Peer,
    pub input: Input,
    /// Whether an answer has announced the idle timeout.
    pub keepalive_told: bool,
    /// Bytes that a client may still send after its GET.
    pub discard: DiscardBudget,
    /// The connection's deadline.
    pub deadline: Millis,
    /// Due time of this connection's live timer entry; any other entry is stale.
    pub scheduled: Millis,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Connection>() == 120, "with its slot's own eight bytes, two cache lines");

/// Whether more input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Open,
    /// Once more; then the connection ends, unless there was input.
    Ending,
    /// The peer has ended its side.
    Ended,
}

/// The state, with its data.
pub(super) enum State {
    /// Collecting a request, or waiting for one.
    Reading(Reading),
    /// The answer to the last request is deferred, and no further request is read until it is written, but for sends that
    /// Redis puts behind it.
    Answering(Box<Answering>),
    /// The body of a feed is being read, and what it says is applied.
    Feeding(Box<Feed>),
    /// The backend is deciding.
    Connecting(Box<Connecting>),
    /// The stream is open.
    Streaming(Streaming),
    /// The last response is being written: flush, shut down writing, discard input for some time, close.
    Closing(Closing),
    /// Over: the slot is freed at the end of the current input.
    Closed(CloseMode),
}

#[derive(Default)]
pub(super) struct Reading {
    /// An incomplete head. Empty unless a head spans two reads.
    pub inbox: Vec<u8>,
    /// The request whose body is being read.
    pub body: Option<Box<Body>>,
    /// When the request's first byte arrived; `None` while idle.
    pub started: Option<Millis>,
}

impl Reading {
    /// Whether a part of a request has arrived.
    pub(super) fn has_begun(&self) -> bool {
        !self.inbox.is_empty() || self.body.is_some()
    }

    /// Bytes of that part.
    fn bytes(&self) -> usize {
        self.inbox.len()
            + self.body.as_ref().map_or(0, |body| size_of::<Body>() + body.bytes.len() + body.purpose.bytes())
    }
}

/// The action for a request.
pub(super) enum Purpose {
    Send,
    /// Change the groups of a stream.
    Groups,
    /// A stream, by a POST.
    Stream(Box<StreamRequest>),
    /// A stream, by a GET with a chunked body, which means nothing.
    Get(Box<StreamRequest>),
    /// Read past the body, then answer.
    Answer(Reply),
}

/// A client's request for a stream.
pub(super) struct StreamRequest {
    pub request: Request,
    pub mode: StreamMode,
    pub resume: Resume,
}

impl Purpose {
    /// Whether the head has decided on an error, whatever the body.
    pub(super) fn is_refused(&self) -> bool {
        match self {
            Self::Answer(Reply::Refused(..) | Reply::MethodNotAllowed(..) | Reply::BadParameter(_)) => true,
            Self::Send
            | Self::Groups
            | Self::Stream(_)
            | Self::Get(_)
            | Self::Answer(
                Reply::Healthz
                | Reply::Readyz
                | Reply::Dashboard
                | Reply::Metrics
                | Reply::Connections(_)
                | Reply::Group(_)
                | Reply::Cursor
                | Reply::Options(..)
                | Reply::Preflight(..),
            ) => false,
        }
    }

    /// What is kept of the head.
    fn bytes(&self) -> usize {
        match self {
            Self::Stream(stream) | Self::Get(stream) => stream.request.json().len(),
            Self::Send | Self::Groups | Self::Answer(_) => 0,
        }
    }

    /// The CORS fields of the answer.
    pub(super) fn cors(&self) -> &CorsHeaders {
        match self {
            Self::Stream(stream) | Self::Get(stream) => &stream.mode.cors,
            Self::Answer(
                Reply::Options(_, cors)
                | Reply::Preflight(cors, _)
                | Reply::Refused(_, cors)
                | Reply::MethodNotAllowed(_, cors),
            ) => cors,
            Self::Send
            | Self::Groups
            | Self::Answer(
                Reply::Healthz
                | Reply::Readyz
                | Reply::Dashboard
                | Reply::Metrics
                | Reply::Connections(_)
                | Reply::Group(_)
                | Reply::Cursor
                | Reply::BadParameter(_),
            ) => &CorsHeaders::Off,
        }
    }
}

/// A request whose head has been read, and the action once its body is complete.
pub(super) struct Body {
    pub purpose: Purpose,
    pub mode: ResponseMode,
    remaining: Remaining,
    /// Bytes of data so far.
    taken: u64,
    /// The body so far; stays empty if it is ignored.
    pub bytes: Vec<u8>,
}

/// The progress of [`Body::read`], and the number of bytes consumed.
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

    /// Continues reading. `bytes_max` limits a chunked body; a declared length has been checked earlier.
    pub(super) fn read(&mut self, input: &[u8], bytes_max: usize) -> Progress {
        let keep = match self.purpose {
            Purpose::Send | Purpose::Groups | Purpose::Stream(_) => true,
            Purpose::Get(_) | Purpose::Answer(_) => false,
        };
        let mut rest = input;
        loop {
            match self.remaining.next_data(&mut rest) {
                Ok([]) => break,
                Ok(data) => {
                    self.taken += data.len() as u64;
                    if keep {
                        self.bytes.extend_from_slice(data);
                    }
                }
                Err(BadChunk) => return Progress::Malformed,
            }
        }
        let count = input.len() - rest.len();
        if self.remaining.announced().saturating_add(self.taken) > bytes_max as u64 {
            Progress::TooLong(count)
        } else if self.remaining.is_done() {
            Progress::Done(count)
        } else {
            Progress::More(count)
        }
    }
}

/// The parameters of a response to a request for a stream.
pub(super) struct StreamMode {
    /// Whether the client understands chunks (RFC 9112 section 7.1).
    pub chunked: bool,
    pub cors: CorsHeaders,
}

pub(super) struct Connecting {
    pub call: CallId,
    pub mode: StreamMode,
    /// Frames buffered so far, in order.
    pub held: Vec<u8>,
    /// Their number.
    pub held_events: u64,
    /// A send has closed the stream; no more sends are accepted.
    pub held_close: bool,
    /// When the client gets 504: while the call waits for a worker, and then while it runs.
    pub answer_by: Millis,
    /// What the client has got of its groups already.
    pub resume: Resume,
    /// Groups to join and to leave, in the order in which that was requested.
    pub held_changes: Vec<HeldChange>,
    /// The backend's answer, while its groups are not known yet.
    pub accepted: Option<Accepted>,
}

/// A stream that the backend has accepted.
pub(super) struct Accepted {
    pub request: Request,
    pub body: Option<Vec<u8>>,
}

/// Where a stream goes on if its groups are replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// The client gives no cursor; its GET was read at this position.
    Live(Position),
    /// The client's cursor; `None`: it is not one of ours.
    Cursor(Option<Cursor>),
}

/// A change of a stream's groups before the stream is open.
pub(super) struct HeldChange {
    pub join: Vec<Box<str>>,
    pub leave: Vec<Box<str>>,
}

pub(super) struct Streaming {
    /// Kept for the disconnect callback.
    pub request: Request,
    pub heartbeat_at: Millis,
    /// Seconds since the Unix epoch.
    pub opened_at: u32,
    pub joined: Joined,
    pub reached: Reached,
}

pub(super) enum Closing {
    /// The output is not fully written.
    Flushing,
    /// It is, and the sending side is shut down: input is discarded until the peer ends its side or is silent, at most
    /// until this time.
    Lingering { until: Millis },
    /// The stream was cut, and its unsent bytes dropped. The kernel sends its remaining bytes and the end of input
    /// (FIN), at most until this time.
    Cut { until: Millis },
}

/// Bytes of input that may still be discarded.
#[derive(Clone, Copy, Default)]
pub(super) struct DiscardBudget(u32);

impl DiscardBudget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    /// Subtracts `count` bytes; `false` if fewer are left.
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

    /// Bytes of a request that is not complete, or that waits for the answer to the one before it.
    // Of every input and every timer, and nearly always of a stream or an idle connection.
    #[inline(always)]
    pub(super) fn unfinished_bytes(&self) -> usize {
        match &self.state {
            State::Reading(reading) => reading.bytes(),
            State::Answering(answering) => answering.bytes(),
            State::Feeding(feed) => feed.bytes(),
            State::Connecting(_) | State::Streaming(_) | State::Closing(_) | State::Closed(_) => 0,
        }
    }

    /// The same as far as a refusal would free them: a feed whose lines are complete is no victim.
    pub(super) fn refusable_bytes(&self) -> usize {
        match &self.state {
            State::Feeding(feed) => feed.partial_bytes(),
            State::Reading(_)
            | State::Answering(_)
            | State::Connecting(_)
            | State::Streaming(_)
            | State::Closing(_)
            | State::Closed(_) => self.unfinished_bytes(),
        }
    }

    /// Whether a send has closed the stream before it is open.
    pub(super) fn is_closed_early(&self) -> bool {
        matches!(&self.state, State::Connecting(connecting) if connecting.held_close)
    }

    /// Whether more input should be read now. `answers_max`: the maximum unsent bytes of answers.
    pub(super) fn wants_input(&self, answers_max: usize) -> bool {
        self.input != Input::Ended
            && match &self.state {
                State::Reading(_) => self.out.len() < answers_max,
                State::Feeding(feed) => feed.wants_input() && self.out.len() < answers_max,
                State::Answering(answering) => {
                    answering.reads_ahead() && answering.rest.is_empty() && self.out.len() < answers_max
                }
                State::Closed(_) => false,
                State::Connecting(_) | State::Streaming(_) | State::Closing(_) => true,
            }
    }

    /// Whether the connection has a stream or another last response that is not fully written.
    pub(super) fn is_unfinished(&self) -> bool {
        match self.state {
            State::Answering(_) | State::Feeding(_) | State::Connecting(_) | State::Streaming(_) => true,
            State::Reading(_) | State::Closing(_) | State::Closed(_) => !self.out.is_empty(),
        }
    }

    /// Whether it is a stream that has something of its groups to come, which is not in its output.
    pub(super) fn is_lagging(&self) -> bool {
        match &self.state {
            State::Streaming(streaming) => streaming.reached.is_lagging(),
            State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Closing(_)
            | State::Closed(_) => false,
        }
    }

    /// Whether something follows once it has caught up with its groups.
    pub(super) fn has_tail(&self) -> bool {
        matches!(&self.state, State::Streaming(streaming) if streaming.reached.has_tail())
    }

    /// Whether it is a stream in groups.
    pub(super) fn is_member(&self) -> bool {
        matches!(&self.state, State::Streaming(streaming) if streaming.joined != Joined::NONE)
    }

    /// Whether it is a stream that goes on where its client left off.
    pub(super) fn is_resumable(&self) -> bool {
        matches!(&self.state, State::Streaming(streaming) if streaming.reached.is_resumable())
    }

    /// Whether a token names this connection.
    pub(super) fn is_stream(&self) -> bool {
        match self.state {
            State::Connecting(_) | State::Streaming(_) => true,
            State::Reading(_) | State::Answering(_) | State::Feeding(_) | State::Closing(_) | State::Closed(_) => false,
        }
    }
}

/// The connection whose input is being handled.
pub(super) fn current(connections: &mut Table<Connection>, id: ConnId) -> &mut Connection {
    connections.get_mut(id).expect("slots are freed only once the input in hand is settled")
}
