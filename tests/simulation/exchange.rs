//! What the oracle knows of one connection: the requests on it, how far they have come, and what was
//! answered.

use super::response::Responses;
use super::stream::Stream;
use ssegateway::timer::TICK_MS;

/// A request and where in its connection's input it ends.
pub struct Request {
    pub end: u64,
    pub what: What,
}

/// What a request asks for, and so what its answer must be.
#[derive(Clone, Debug)]
pub enum What {
    /// A stream; chunked, if its client speaks HTTP/1.1.
    Stream { chunked: bool },
    /// `/readyz`: depends on the moment.
    Ready,
    /// The metrics, always the last answer on a connection; how many streams they must show.
    Metrics { open: usize },
    /// The list of streams, all on one page, always the last answer on a connection; how many it must show.
    List { open: usize },
    /// A send, by its number.
    Send(usize),
    /// An answer that depends on nothing.
    Fixed { status: u16, body: &'static str, head_only: bool, close: bool },
    /// Something that is no request: an error, and the end of the connection, or just that.
    Broken,
}

/// One connection from the outside.
pub struct Exchange {
    pub requests: Vec<Request>,
    /// Requests that the gateway has read whole.
    pub arrived: usize,
    /// Requests that it has answered.
    pub answered: usize,
    /// Bytes that it has read.
    pub read: u64,
    /// The request as the callbacks quote it.
    pub quoted: String,
    pub responses: Responses,
    pub stream: Option<Stream>,
    /// When the request that is being read began.
    pub started_at: Option<u64>,
    /// When output moved last, or began to wait, or a request was answered.
    pub progress_at: u64,
    /// What the gateway holds for the client. Exact, as every write tells.
    pub backlog: usize,
    /// What the last write was offered and did not take; there may have been more.
    pub left_over: usize,
    /// Bytes of the chunk that this batch of input fills.
    pub chunk: usize,
    pub chunk_input: u64,
    /// The loop was told that there is no room, and nothing else since.
    pub refused: bool,
    /// A write was cut short by nothing but chance: the loop must try again by itself.
    pub unlucky: bool,
    /// The number of the input that the last write followed.
    pub written_input: u64,
    /// When that was.
    pub written_at: u64,
    /// It took all there was.
    pub written_whole: bool,
    /// End of input was read.
    pub ended: bool,
    /// A call failed: nothing works any more.
    pub failed: bool,
    /// An error that is due for a request that was begun and will not be read to its end.
    pub refusal_owed: Option<u16>,
    /// No more requests are read.
    pub closing: bool,
    /// The request timed out.
    pub late: bool,
    /// An answer was the last one.
    pub concluded: bool,
    pub shut_at: Option<u64>,
    pub accepted: bool,
    pub accepted_at: u64,
    pub closed: bool,
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange {
            requests: Vec::new(),
            arrived: 0,
            answered: 0,
            read: 0,
            quoted: String::new(),
            responses: Responses::default(),
            stream: None,
            started_at: None,
            progress_at: 0,
            backlog: 0,
            left_over: 0,
            chunk: 0,
            chunk_input: 0,
            refused: false,
            unlucky: false,
            written_input: 0,
            written_at: u64::MAX,
            written_whole: true,
            ended: false,
            failed: false,
            refusal_owed: None,
            closing: false,
            late: false,
            concluded: false,
            shut_at: None,
            accepted: false,
            accepted_at: 0,
            closed: false,
        }
    }
}

impl Exchange {
    /// Whether a request may still be read.
    pub fn is_reading(&self) -> bool {
        self.accepted && !self.closed && !self.closing && self.stream.is_none()
    }

    /// Whether nothing can come of it any more.
    pub fn is_settled(&self) -> bool {
        let done = self.stream.as_ref().is_none_or(|stream| {
            let answered = stream.outcome.is_some() || !stream.called;
            answered && stream.disconnects == u32::from(stream.owes_disconnect())
        });
        self.closed && done
    }

    /// Bytes that the client sent behind the last request that is one.
    pub fn excess(&self) -> u64 {
        let is_request = |request: &&Request| !matches!(request.what, What::Broken);
        self.read - self.requests[..self.arrived].iter().rev().find(is_request).map_or(0, |last| last.end)
    }

    /// No more requests are read; if one was begun and its client has not ended its side, it is told.
    pub fn refuse_rest(&mut self, status: u16) {
        self.closing = true;
        self.refusal_owed = (self.excess() > 0 && !self.ended).then_some(status);
    }

    /// Whether a request that was read whole still has no answer.
    pub fn owes_answer(&self) -> bool {
        let streams = self.stream.as_ref().is_some_and(|stream| stream.headed && !stream.chunked);
        self.answered + usize::from(streams) < self.arrived && !self.concluded
    }

    /// A frame of so many bytes joins the backlog.
    pub fn pile(&mut self, bytes: usize, input: u64) {
        let chunked = self.stream.as_ref().is_some_and(|stream| stream.chunked);
        if !chunked {
            self.backlog += bytes;
            return;
        }
        if self.chunk_input != input {
            self.chunk_input = input;
            self.chunk = 0;
        } else {
            self.backlog -= framed(self.chunk);
        }
        self.chunk += bytes;
        self.backlog += framed(self.chunk);
    }
}

/// The length of a chunk with so much in it (RFC 9112 section 7.1).
fn framed(bytes: usize) -> usize {
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4) as usize;
    bytes + digits + 4
}

/// Whether something due at `deadline` has been seen to by a turn at `now`: timers have the
/// resolution of a tick. (Between the two it may or may not; the world keeps the loop from waking
/// then, so that the oracle can be exact.)
pub fn due(deadline: u64, now: u64) -> bool {
    now >= deadline.next_multiple_of(TICK_MS)
}

/// Whether a turn at `now` may or may not see to something due at `deadline`.
pub fn doubtful(deadline: u64, now: u64) -> bool {
    now >= deadline && !due(deadline, now)
}
