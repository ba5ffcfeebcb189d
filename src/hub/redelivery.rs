//! Disconnects that the backend certainly has not received, and when they are tried again.

use crate::callback::Outcome;
use crate::clock::Millis;
use std::time::Duration;

/// Time between two attempts. Meanwhile no other disconnect starts, so that the order is kept.
const INTERVAL: Duration = Duration::from_millis(500);
/// With more disconnects waiting, or more bytes of their requests, none is kept for another attempt.
const WAITING_MAX: usize = 16 * 1024;
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Decides on further attempts.
#[derive(Debug)]
pub(crate) struct Redelivery {
    /// For how long after the end of a stream; zero: not at all.
    time: Duration,
    next_at: Millis,
}

impl Redelivery {
    /// `time` is that of `DISCONNECT_RETRY_SECONDS`.
    pub(crate) fn new(time: Duration) -> Self {
        Self { time, next_at: Millis::ZERO }
    }

    pub(crate) fn is_on(&self) -> bool {
        !self.time.is_zero()
    }

    /// When the next disconnect may start.
    pub(crate) fn next_at(&self) -> Millis {
        self.next_at
    }

    /// A disconnect has been tried, which was queued at `queued_at`; `waiting` others are, with so many `bytes`. Whether
    /// it is to be tried again.
    pub(crate) fn tried(
        &mut self,
        now: Millis,
        queued_at: Millis,
        outcome: &Outcome,
        waiting: usize,
        bytes: usize,
    ) -> bool {
        let undelivered = match outcome {
            Outcome::Unavailable { written } | Outcome::TimedOut { written } => !written,
            Outcome::Answered { .. } | Outcome::Overdue => false,
        };
        if !undelivered {
            self.next_at = Millis::ZERO;
            return false;
        }
        let in_time = self.is_on() && now < queued_at.after(self.time);
        let again = in_time && waiting < WAITING_MAX && bytes < BYTES_MAX;
        if again {
            self.next_at = now.after(INTERVAL);
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDELIVERED: Outcome = Outcome::Unavailable { written: false };

    #[test]
    fn a_disconnect_is_tried_again_for_its_time_unless_it_may_have_been_received() {
        let (at, mut redelivery) = (Millis::from_millis, Redelivery::new(Duration::from_secs(10)));
        assert!(redelivery.tried(at(1000), at(1000), &UNDELIVERED, 0, 0));
        assert_eq!(redelivery.next_at(), at(1500));
        assert!(redelivery.tried(at(10_999), at(1000), &Outcome::TimedOut { written: false }, 0, 0));
        assert!(!redelivery.tried(at(11_000), at(1000), &UNDELIVERED, 0, 0));
        assert!(!redelivery.tried(at(1000), at(1000), &Outcome::Unavailable { written: true }, 0, 0));
        assert_eq!(redelivery.next_at(), at(0));
        assert!(!Redelivery::new(Duration::ZERO).tried(at(1000), at(1000), &UNDELIVERED, 0, 0));
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let (at, mut redelivery) = (Millis::from_millis, Redelivery::new(Duration::from_secs(10)));
        assert!(redelivery.tried(at(0), at(0), &UNDELIVERED, WAITING_MAX - 1, BYTES_MAX - 1));
        assert!(!redelivery.tried(at(0), at(0), &UNDELIVERED, WAITING_MAX, 0));
        assert!(!redelivery.tried(at(0), at(0), &UNDELIVERED, 0, BYTES_MAX));
    }
}
