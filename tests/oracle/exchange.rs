//! What the oracle knows of one connection: the requests on it, how far they have come, and what was answered.

use super::requests::Asked;
use super::responses::{Body, Responses};
use super::streams::Stream;
use std::ops::RangeInclusive;
use std::rc::Rc;

/// What a request asks for, and so what its answer must be.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A stream. Chunked if its client speaks HTTP/1.1; so many bytes of a body follow, which mean nothing; quoted in
    /// callbacks as that.
    Stream { chunked: bool, declared: u64, quoted: Rc<str> },
    /// `/readyz`: depends on the moment.
    Ready { close: bool },
    /// The metrics, always the last answer on a connection; how many open streams they must show.
    Metrics { open: RangeInclusive<usize> },
    /// The first page of the streams, always the last answer on a connection; how many there must be in all.
    List { limit: usize, open: RangeInclusive<usize> },
    /// A send, by its number.
    Send(usize),
    /// An answer that depends on nothing.
    Fixed { status: u16, body: &'static str, head_only: bool, close: bool },
    /// Refused, perhaps before its end, and the end of the connection.
    Broken { status: u16 },
}

/// A request and where in its connection's input it ends.
struct Request {
    end: u64,
    what: What,
}

/// One connection from the outside.
#[derive(Default)]
pub(crate) struct Exchange {
    requests: Vec<Request>,
    /// Bytes that its client has been given to send.
    pub scripted: u64,
    /// From here on the client sends what the oracle does not read.
    pub followed_to: Option<u64>,
    /// That has happened, or somebody sent such things to its stream. It is held to what every connection is.
    pub wild: bool,
    /// Requests that the gateway has read whole.
    pub arrived: usize,
    /// Requests that it has answered.
    pub answered: usize,
    /// Bytes that it has read.
    pub read: u64,
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
    /// The kernel has refused something since the backlog began.
    pub was_refused: bool,
    /// Until then the client counts as one that reads, and may be owed more.
    pub reads_until: u64,
    /// A write was cut short by nothing but chance: the loop must try again by itself.
    pub unlucky: bool,
    /// The number of the input that the last write followed, and when that was.
    pub written_input: u64,
    pub written_at: Option<u64>,
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

impl Exchange {
    /// The next answer is a report: it is made once all other output has been offered, so it has a write of its own.
    pub(crate) fn is_report_next(&self) -> bool {
        let next = self.requests.get(self.answered).filter(|_| self.answered < self.arrived);
        next.is_some_and(|request| matches!(request.what, What::Metrics { .. } | What::List { .. }))
    }

    /// Its client is given a request to send.
    pub(crate) fn ask(&mut self, asked: &Asked) {
        let end = self.scripted + asked.end as u64;
        self.requests.push(Request { end, what: asked.what.clone() });
        self.scripted += asked.bytes.len() as u64;
    }

    /// Its client is given something to send that is no request. Behind the last request that is just excess.
    pub(crate) fn babble(&mut self, bytes: usize) {
        self.followed_to.get_or_insert(self.scripted);
        self.scripted += bytes as u64;
    }

    /// Whether a request may still be read.
    pub(crate) fn is_reading(&self) -> bool {
        self.accepted && !self.closed && !self.closing && self.stream.is_none()
    }

    /// Takes note of the next request if it was read whole.
    pub(crate) fn arrive(&mut self) -> Option<What> {
        let request = self.requests.get(self.arrived).filter(|request| request.end <= self.read)?;
        self.arrived += 1;
        self.started_at = None;
        Some(request.what.clone())
    }

    /// The oracle knows now what the request that arrived last asks for.
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

    /// Whether nothing can come of it any more.
    pub(crate) fn is_settled(&self) -> bool {
        let done = self.stream.as_ref().is_none_or(|stream| {
            let answered = stream.outcome.is_some() || !stream.called;
            answered && stream.disconnects == u32::from(stream.owes_disconnect())
        });
        self.closed && done
    }

    /// Bytes that the client sent behind the last request that is one.
    pub(crate) fn excess(&self) -> u64 {
        let end = |request: &Request| match request.what {
            What::Broken { .. } => None,
            What::Stream { declared, .. } => Some(request.end + declared),
            What::Ready { .. } | What::Metrics { .. } | What::List { .. } | What::Send(_) | What::Fixed { .. } => {
                Some(request.end)
            }
        };
        self.read.saturating_sub(self.requests[..self.arrived].iter().rev().find_map(end).unwrap_or(0))
    }

    /// Whether a request has been begun and not read to its end.
    pub(crate) fn is_within_request(&self) -> bool {
        self.read > self.requests[..self.arrived].last().map_or(0, |request| request.end)
    }

    /// No more requests are read; if one was begun and its client has not ended its side, it is told.
    pub(crate) fn refuse_rest(&mut self, status: u16) {
        self.closing = true;
        self.refusal_owed = (self.excess() > 0 && !self.ended).then_some(status);
    }

    /// Whether a request that was read whole still has no answer.
    pub(crate) fn owes_answer(&self) -> bool {
        let streams = self.stream.as_ref().is_some_and(|stream| stream.headed && !stream.chunked);
        self.answered + usize::from(streams) < self.arrived && !self.concluded
    }

    /// A frame of so many bytes joins the backlog, in the chunk of its input.
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

/// The length of a chunk with so much in it (RFC 9112 section 7.1).
fn framed(bytes: usize) -> usize {
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4) as usize;
    bytes + digits + 4
}
