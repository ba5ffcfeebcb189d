//! The oracle's view of one connection: its requests, their progress, and their answers.

use super::groups::Shown;
use super::requests::Asked;
use super::responses::{Body, Responses};
use super::streams::Stream;
use ssegateway::callback::Outcome;
use std::ops::RangeInclusive;
use std::rc::Rc;

/// The kind of a request, which determines its answer.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A stream. `chunked`: its client speaks HTTP/1.1. `declared`: bytes of a body to ignore. `quoted`: the request in
    /// callbacks. `cursor`: its `Last-Event-ID`.
    Stream { chunked: bool, declared: u64, quoted: Rc<str>, cursor: Option<Rc<str>> },
    /// `/readyz`, whose answer depends on the time.
    Ready { close: bool },
    /// The metrics, always the last answer on a connection; the number of open streams they must show.
    Metrics { open: RangeInclusive<usize> },
    /// The first page of the streams, always the last answer on a connection; the total number they must show.
    List { limit: usize, open: RangeInclusive<usize> },
    /// How a group stands, or else the newest cursor; what must be shown once it has arrived.
    Look { group: Option<usize>, shows: Option<Rc<Shown>> },
    /// A send, by its number.
    Send(usize),
    /// A constant answer.
    Fixed { status: u16, body: &'static str, head_only: bool, close: bool },
    /// Refused, perhaps before its end; the connection closes.
    Broken { status: u16 },
}

/// A request and its end in the connection's input.
struct Request {
    end: u64,
    what: What,
}

/// One connection, seen from outside.
#[derive(Default)]
pub(crate) struct Exchange {
    requests: Vec<Request>,
    /// Bytes in its client's script.
    pub scripted: u64,
    /// Where the client begins to send input that the oracle cannot parse.
    pub followed_to: Option<u64>,
    /// Such input was sent, by the client or to its stream. Only the rules for every connection are checked.
    pub wild: bool,
    /// Requests that the gateway has read in full.
    pub arrived: usize,
    /// Requests that it has answered.
    pub answered: usize,
    /// Bytes that it has read.
    pub read: u64,
    pub responses: Responses,
    pub stream: Option<Stream>,
    /// When the request that is being read began.
    pub started_at: Option<u64>,
    /// When output last made progress or began to queue, or a request was answered.
    pub progress_at: u64,
    /// Bytes queued in the gateway for the client. Exact, since every write shows them.
    pub backlog: usize,
    /// Bytes that the last write refused; more may be queued.
    pub left_over: usize,
    /// Bytes in the chunk of this batch of input.
    pub chunk: usize,
    pub chunk_input: u64,
    /// The last write was refused, and no edge has followed.
    pub refused: bool,
    /// The kernel has refused something since the backlog began.
    pub was_refused: bool,
    /// Until then the client counts as reading, and may have more unsent.
    pub reads_until: u64,
    /// A write was cut short by a fault: the loop must retry without an edge.
    pub unlucky: bool,
    /// The number of the input before the last write, and the time of that write.
    pub written_input: u64,
    pub written_at: Option<u64>,
    /// That write was accepted in full.
    pub written_whole: bool,
    /// End of input was read.
    pub ended: bool,
    /// A system call failed: the connection is unusable.
    pub failed: bool,
    /// The error due for an incomplete request that will not be read to its end.
    pub refusal_owed: Option<u16>,
    /// No more requests are read.
    pub closing: bool,
    /// It is read once more in this turn before it ends; an incomplete request then gets this status.
    pub last_look: Option<u16>,
    /// When it was last read, even without input.
    pub looked_at: Option<u64>,
    /// When it was to be read once more, its unsent answers were over the limit for reading requests.
    pub look_waived: bool,
    /// The index of the request whose answer must be the last one.
    pub concludes: Option<usize>,
    /// When bytes were last read.
    pub heard_at: u64,
    /// The last answer was written.
    pub concluded: bool,
    pub shut_at: Option<u64>,
    /// Its stream was cut: the kernel sends its remaining bytes and then the end.
    pub cut: bool,
    pub accepted: bool,
    pub accepted_at: u64,
    pub closed: bool,
}

impl Exchange {
    /// The next answer is a report: it is made once all other output has been offered, so it has a write of its own.
    pub(crate) fn is_report_next(&self) -> bool {
        let next = self.requests.get(self.answered).filter(|_| self.answered < self.arrived);
        next.is_some_and(|request| matches!(request.what, What::Metrics { .. } | What::List { .. }))
    }

    /// What its stream is to be written, if it is in groups.
    pub(super) fn describe_due(&self) -> String {
        let member = self.stream.as_ref().and_then(|stream| stream.member.as_ref());
        member.map_or(String::new(), |member| format!(": {}", member.describe()))
    }

    /// Whether its stream is in groups.
    pub(crate) fn is_member(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.member.is_some())
    }

    /// Adds a request to its client's script.
    pub(crate) fn ask(&mut self, asked: &Asked) {
        let end = self.scripted + asked.end as u64;
        self.requests.push(Request { end, what: asked.what.clone() });
        self.scripted += asked.bytes.len() as u64;
    }

    /// Adds bytes that are not a request to its client's script. After the last request they are just excess.
    pub(crate) fn send_garbage(&mut self, bytes: usize) {
        self.followed_to.get_or_insert(self.scripted);
        self.scripted += bytes as u64;
    }

    /// Whether a request may still be read.
    pub(crate) fn is_reading(&self) -> bool {
        self.accepted && !self.closed && !self.closing && self.stream.is_none()
    }

    /// Records the next request if it was read in full.
    pub(crate) fn arrive(&mut self) -> Option<What> {
        let request = self.requests.get(self.arrived).filter(|request| request.end <= self.read)?;
        self.arrived += 1;
        self.started_at = None;
        Some(request.what.clone())
    }

    /// Whether nothing has been read after the request that arrived last.
    pub(crate) fn arrived_last(&self) -> bool {
        self.read == self.requests[self.arrived - 1].end
    }

    /// The answer to the request that arrived last must be the last one.
    pub(crate) fn conclude(&mut self) {
        self.closing = true;
        self.concludes = Some(self.arrived - 1);
    }

    /// It is about to end, unless one more read finds input.
    pub(crate) fn end_reading(&mut self, status: u16) {
        self.refuse_rest(status);
        self.last_look = Some(status);
        self.look_waived = self.backlog > 0;
    }

    /// Sets the kind of the request that arrived last, once it is known.
    pub(crate) fn decide(&mut self, what: What) {
        self.requests[self.arrived - 1].what = what;
    }

    /// The request that is answered next, if it has arrived.
    pub(crate) fn next_answered(&self) -> Option<&What> {
        self.requests.get(self.answered).filter(|_| self.answered < self.arrived).map(|request| &request.what)
    }

    /// The request that is answered next, whether it has arrived or not.
    pub(crate) fn next_unanswered(&self) -> Option<&What> {
        self.requests.get(self.answered).map(|request| &request.what)
    }

    /// The request that was answered last, whether it has arrived or not.
    pub(crate) fn last_answered(&self) -> Option<&What> {
        Some(&self.requests.get(self.answered.checked_sub(1)?)?.what)
    }

    /// Whether the next answer has a body.
    pub(crate) fn next_body(&self) -> Body {
        match self.next_answered() {
            _ if self.wild => Body::Unknown,
            Some(What::Fixed { head_only: true, .. }) => Body::Missing,
            Some(_) | None => Body::Follows,
        }
    }

    /// Whether it is over, with nothing left to happen.
    pub(crate) fn is_settled(&self) -> bool {
        let done = self.stream.as_ref().is_none_or(|stream| {
            let is_late = stream.outcome == Some(Outcome::Overdue);
            let answered = (stream.outcome.is_some() && !is_late) || !stream.called;
            answered && stream.disconnects == u32::from(stream.owes_disconnect())
        });
        self.closed && done
    }

    /// Bytes that the client sent after its last valid request.
    pub(crate) fn excess(&self) -> u64 {
        let end = |request: &Request| match request.what {
            What::Broken { .. } => None,
            What::Stream { declared, .. } => Some(request.end + declared),
            What::Ready { .. }
            | What::Metrics { .. }
            | What::List { .. }
            | What::Look { .. }
            | What::Send(_)
            | What::Fixed { .. } => Some(request.end),
        };
        self.read.saturating_sub(self.requests[..self.arrived].iter().rev().find_map(end).unwrap_or(0))
    }

    /// Whether a request has begun and is not complete.
    pub(crate) fn is_within_request(&self) -> bool {
        self.read > self.requests[..self.arrived].last().map_or(0, |request| request.end)
    }

    /// No more requests are read; if one has begun and its client has not ended its side, an error is due.
    pub(crate) fn refuse_rest(&mut self, status: u16) {
        self.closing = true;
        self.refusal_owed = (self.excess() > 0 && !self.ended).then_some(status);
    }

    /// Whether a request that was read in full still has no answer.
    pub(crate) fn owes_answer(&self) -> bool {
        let streams = self.stream.as_ref().is_some_and(|stream| stream.headed && !stream.chunked);
        self.answered + usize::from(streams) < self.arrived && !self.concluded
    }

    /// Adds a frame of that many bytes to the backlog, in the chunk of its input.
    pub(crate) fn pile(&mut self, bytes: usize, input: u64) {
        if !self.stream.as_ref().is_some_and(|stream| stream.chunked) {
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

/// The length of a chunk with that much data (RFC 9112 section 7.1).
fn framed(bytes: usize) -> usize {
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4) as usize;
    bytes + digits + 4
}
