//! One connection: its state, its output, its deadline.

use super::requests::ResponseMode;
use super::routes::{Listener, Peer, Reply};
use crate::buffer::{Buffer, Pool};
use crate::callback::CallId;
use crate::clock::Millis;
use crate::http::body::Chunked;
use crate::http::response::CorsHeaders;
use std::sync::Arc;
use uuid::Uuid;

pub(super) struct Connection {
    pub state: State,
    pub out: Buffer,
    /// Names the stream, if the connection becomes one; drawn beforehand as the core has no randomness.
    pub token: Uuid,
    pub listener: Listener,
    pub peer: Peer,
    /// In the list of connections with fresh output.
    pub dirty: bool,
    /// In the list of connections whose output waits for the peer.
    pub backlogged: bool,
    /// Bytes that are known to wait, as counted in the sum over all connections.
    pub pending: u32,
    /// The peer has ended its side: nothing more will be read.
    pub ended: bool,
    /// When output last moved, or began to wait.
    pub progress_at: Millis,
    /// When something must happen.
    pub deadline: Millis,
    /// The timer entry that will look at the deadline; others for this connection are stale.
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
    /// The last request asks for the metrics; the owner is about to tell the process's figures.
    Reporting,
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
    pub input: Input,
}

pub(super) struct Streaming {
    /// Encoded once, kept for the disconnect callback.
    pub request: Arc<str>,
    pub heartbeat_at: Millis,
    /// Seconds since the Unix epoch.
    pub opened_at: u64,
    pub chunked: bool,
    pub input: Input,
}

/// How much more a client may send behind its GET.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub left: u64,
}

pub(super) struct Closing {
    /// Output is flushed and the sending side shut down; until then, the peer may still be reading.
    pub shut: bool,
    /// Input that will still be discarded, at the most.
    pub input: Input,
}

impl Input {
    /// Takes note of `count` bytes; `false`: that was too much.
    pub fn take(&mut self, count: usize) -> bool {
        match self.left.checked_sub(count as u64) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// Room kept for the size of a chunk: most batches for a stream have 16 to 255 bytes.
const CHUNK_SIZE_ROOM: &[u8] = b"00\r\n";
/// The last chunk (RFC 9112 section 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Connection {
    pub fn new(now: Millis, listener: Listener, peer: Peer, token: Uuid) -> Connection {
        Connection {
            // The first request is timed from here, not from its first byte.
            state: State::Reading(Reading { started: Some(now), ..Reading::default() }),
            out: Buffer::default(),
            token,
            listener,
            peer,
            dirty: false,
            backlogged: false,
            pending: 0,
            ended: false,
            progress_at: now,
            deadline: Millis::NEVER,
            scheduled: Millis::NEVER,
        }
    }

    /// Bytes that the peer, or the backend's decision, keeps waiting.
    pub fn waiting_bytes(&self) -> usize {
        match &self.state {
            State::Connecting(connecting) => connecting.held.len() + self.out.len(),
            State::Reading(_) | State::Streaming(_) | State::Reporting | State::Closing(_) => self.out.len(),
        }
    }

    /// The vector to append output to.
    pub fn output(&mut self, now: Millis, pool: &mut Pool) -> &mut Vec<u8> {
        if self.out.is_empty() {
            self.progress_at = now;
        }
        self.out.appendable(pool)
    }

    /// The vector to append frames to: inside a chunk, on a stream that is chunked.
    pub fn frames(&mut self, now: Millis, pool: &mut Pool) -> &mut Vec<u8> {
        if self.out.is_empty() {
            self.progress_at = now;
        }
        let content = self.out.content(pool);
        if content.unfinished.is_none() && matches!(&self.state, State::Streaming(streaming) if streaming.chunked) {
            content.unfinished = Some(content.bytes.len());
            content.bytes.extend_from_slice(CHUNK_SIZE_ROOM);
        }
        &mut content.bytes
    }

    /// Finishes the chunk that frames were appended to, if there is one.
    pub fn seal(&mut self) {
        let Some((out, start)) = self.out.finish() else { return };
        let size = out.len() - start - CHUNK_SIZE_ROOM.len();
        let mut digits = [0; 16];
        let digits = hex_digits(size, &mut digits);
        // The room was a guess; what follows moves if it was wrong.
        let room = CHUNK_SIZE_ROOM.len() - 2;
        let end = out.len();
        out.resize(end + digits.len().saturating_sub(room), 0);
        if digits.len() != room {
            out.copy_within(start + room..end, start + digits.len());
        }
        out.truncate(end + digits.len() - room);
        out[start..start + digits.len()].copy_from_slice(digits);
        out.extend_from_slice(b"\r\n");
    }

    /// Finishes the stream's body.
    pub fn end_body(&mut self, now: Millis, pool: &mut Pool) {
        self.seal();
        if matches!(&self.state, State::Streaming(streaming) if streaming.chunked) {
            self.output(now, pool).extend_from_slice(LAST_CHUNK);
        }
    }
}

fn hex_digits(mut number: usize, digits: &mut [u8; 16]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[number % 16];
        number /= 16;
        if number == 0 {
            return &digits[at..];
        }
    }
}
