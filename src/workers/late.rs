//! Late answers to timed-out connects. Their clients have gone, but the answer decides whether the connect needs a
//! disconnect, which must not overtake it.

use super::idle::Connection;
use crate::callback::Outcome;
use httparse::Status;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::time::Duration as UreqDuration;
use ureq::{Error, Timeout};

/// As for answers in time.
const FIELDS_MAX: usize = 128;

/// The awaited late answers.
pub(super) struct LateAnswers {
    waiting: Arc<AtomicUsize>,
    max: usize,
    time_max: Duration,
}

impl LateAnswers {
    /// At most `max` at a time, each for `time_max`.
    pub(super) fn new(max: usize, time_max: Duration) -> Self {
        Self { waiting: Arc::default(), max, time_max }
    }

    /// Whether one more may be awaited.
    pub(super) fn is_possible(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < self.max
    }

    /// Awaits the answer on `connection`, unless there are too many. `in_doubt`: see [`Outcome::Answered`].
    pub(super) fn admit(&self, connection: Connection, in_doubt: bool) -> Option<LateAnswer> {
        let place = Place(Arc::clone(&self.waiting));
        let others = self.waiting.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + self.time_max;
        (others < self.max).then_some(LateAnswer { connection, in_doubt, until, _place: place })
    }
}

/// A place among the awaited ones, released on drop.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer that may still come.
pub(super) struct LateAnswer {
    connection: Connection,
    in_doubt: bool,
    until: Instant,
    _place: Place,
}

/// The part of an answer received so far.
enum Head {
    Partial,
    /// That many bytes, not yet conclusive.
    Interim(usize),
    Final(u16),
    Malformed,
}

impl LateAnswer {
    /// Waits for its head, the end of its connection or the end of the time.
    pub(super) fn read(mut self) -> Outcome {
        let transport = &mut self.connection.transport;
        loop {
            match parse(transport.buffers().input()) {
                Head::Interim(bytes) => {
                    transport.buffers().input_consume(bytes);
                    continue;
                }
                Head::Final(status) => {
                    return Outcome::Answered { status, passed: Vec::new(), body: None, in_doubt: self.in_doubt };
                }
                Head::Malformed => return Outcome::Unavailable { written: true },
                Head::Partial => {}
            }
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Outcome::TimedOut { written: true };
            }
            let timeout = NextTimeout {
                after: UreqDuration::Exact(left),
                reason: Timeout::Global,
                per_read: None,
                per_write: None,
            };
            match transport.await_input(timeout) {
                Ok(true) | Err(Error::Timeout(_)) => {}
                Ok(false) | Err(_) => return Outcome::Unavailable { written: true },
            }
        }
    }
}

fn parse(input: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match (response.parse(input), response.code) {
        (Ok(Status::Complete(bytes)), Some(100 | 102..=199)) => Head::Interim(bytes),
        (Ok(Status::Complete(_)), Some(status)) if status >= 200 => Head::Final(status),
        (Ok(Status::Partial), _) => Head::Partial,
        (Ok(Status::Complete(_)) | Err(_), _) => Head::Malformed,
    }
}
