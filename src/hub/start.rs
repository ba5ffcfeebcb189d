//! The callback about the start of the gateway: it comes before all others, and is tried until the backend accepts it.

use crate::callback::{Call, CallId, CallKind, Outcome, Request};
use crate::clock::Millis;
use crate::planted;
use std::time::Duration;
use uuid::Uuid;

/// From one attempt to the next at first, when the backend may be starting too; each may take a line in the log.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The same after a long time. Clients that connect wait for the next attempt.
const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Not the slot of any other call: a table never grows to that many.
const SLOT: u32 = u32::MAX;

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Waiting for this time.
    Due(Millis),
    InFlight(CallId),
    /// The backend has accepted it, or need not know.
    Over,
}

/// Makes its attempts.
#[derive(Debug)]
pub(crate) struct Start {
    progress: Progress,
    attempts: u32,
    /// The start of the first attempt.
    since: Option<Millis>,
}

impl Start {
    /// `is_on`: as `START_CALLBACK` says.
    pub(crate) fn new(is_on: bool) -> Self {
        let progress = if is_on { Progress::Due(Millis::ZERO) } else { Progress::Over };
        Self { progress, attempts: 0, since: None }
    }

    /// Whether other callbacks may be made.
    pub(crate) fn is_over(&self) -> bool {
        self.progress == Progress::Over
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        matches!(self.progress, Progress::InFlight(_))
    }

    /// When the next attempt starts, unless one is in flight.
    pub(crate) fn due_at(&self) -> Option<Millis> {
        match self.progress {
            Progress::Due(at) => Some(at),
            Progress::InFlight(_) | Progress::Over => None,
        }
    }

    /// The attempt that starts now.
    pub(crate) fn next(&mut self, now: Millis) -> Option<Call> {
        if self.due_at().is_none_or(|at| now < at) {
            return None;
        }
        self.since.get_or_insert(now);
        self.attempts = self.attempts.wrapping_add(1);
        let id = CallId::from_parts(SLOT, self.attempts);
        self.progress = Progress::InFlight(id);
        Some(Call { id, kind: CallKind::Start, token: Uuid::nil(), request: Request::default(), body: None })
    }

    /// An attempt has ended. `Some` unless the id is that of another call: whether the backend has accepted it.
    pub(crate) fn ended(&mut self, now: Millis, id: CallId, outcome: &Outcome) -> Option<bool> {
        if self.progress != Progress::InFlight(id) {
            return None;
        }
        let is_answered = matches!(outcome, Outcome::Answered { .. });
        let is_accepted = matches!(outcome, Outcome::Answered { status: 200..=299, .. });
        // A backend that answers, but was not able to forget the earlier streams.
        if is_accepted || (is_answered && planted::is("rejected-start-counts-as-told")) {
            self.progress = Progress::Over;
        } else {
            let lasted = Duration::from_millis(now.since(self.since.unwrap_or(now)));
            self.progress = Progress::Due(now.after((lasted / 10).clamp(INTERVAL_MIN, INTERVAL_MAX)));
        }
        Some(is_accepted)
    }

    /// There will be no streams: it is no longer needed, nor is the outcome of an attempt in flight.
    pub(crate) fn give_up(&mut self) {
        self.progress = Progress::Over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, passed: Vec::new(), body: None, in_doubt: false }
    }

    #[test]
    fn it_is_tried_until_a_2xx_at_intervals_that_grow_with_time() {
        let (at, mut start) = (Millis::from_millis, Start::new(true));
        let mut due = 0;
        for (outcome, ended, next) in [
            (answered(404), 4990, 5990),
            (Outcome::Unavailable { written: false }, 20_000, 22_000),
            (Outcome::TimedOut { written: true }, 900_000, 905_000),
        ] {
            assert!(!start.is_over() && start.due_at() == Some(at(due)));
            assert!(due == 0 || start.next(at(due - 1)).is_none());
            let id = start.next(at(due)).expect("it is due").id;
            assert!(start.is_in_flight() && start.due_at().is_none() && start.next(at(due)).is_none());
            assert_eq!(start.ended(at(ended), id, &outcome), Some(false));
            assert_eq!(start.ended(at(ended), id, &answered(200)), None, "an outcome counts once");
            due = next;
        }
        let id = start.next(at(due)).expect("it is due").id;
        assert_eq!(start.ended(at(due), id, &answered(204)), Some(true));
        assert!(start.is_over() && start.next(at(due)).is_none());
    }

    #[test]
    fn given_up_it_holds_nothing_back() {
        assert!(Start::new(false).is_over());
        let mut start = Start::new(true);
        let id = start.next(Millis::ZERO).expect("it is due").id;
        start.give_up();
        assert!(start.is_over() && !start.is_in_flight());
        assert_eq!(start.ended(Millis::ZERO, id, &answered(200)), None);
    }
}
