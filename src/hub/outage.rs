//! How long connects have been failing, and how often a dead backend is tried.

use crate::clock::Millis;
use crate::planted;
use std::time::Duration;

/// In an outage of this length connects are no longer tried as they come: a restart is over by then.
const SHORT: Duration = Duration::from_secs(5);
/// Time from one connect to the next in a longer one.
const INTERVAL: Duration = Duration::from_millis(500);

/// The time since which no connect has been answered.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// The first failure since the last answer.
    since: Option<Millis>,
    /// When the last connect started.
    tried_at: Millis,
}

impl Outage {
    /// A connect starts.
    pub(crate) fn tried(&mut self, now: Millis) {
        self.tried_at = now;
    }

    /// The outcome of a connect.
    pub(crate) fn ended(&mut self, now: Millis, is_failure: bool) {
        self.since = is_failure.then(|| self.since.unwrap_or(now));
    }

    /// How long it has lasted; zero without an outage.
    pub(crate) fn length(&self, now: Millis) -> Duration {
        Duration::from_millis(self.since.map_or(0, |since| now.since(since)))
    }

    /// When the next connect may start.
    pub(crate) fn next_try(&self) -> Millis {
        // Thousands of pages knock at a backend that is starting.
        if planted::is("dead-backend-is-tried-without-a-pause") {
            return Millis::ZERO;
        }
        match self.since {
            Some(since) if self.tried_at >= since.after(SHORT) => self.tried_at.after(INTERVAL),
            Some(_) | None => Millis::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outage_is_tried_twice_a_second_and_the_first_answer_ends_it() {
        let (at, mut outage) = (Millis::from_millis, Outage::default());
        for millis in [1000, 1001, 5999] {
            assert_eq!(outage.next_try(), at(0));
            outage.tried(at(millis));
            outage.ended(at(millis), true);
        }
        assert_eq!((outage.length(at(5999)), outage.next_try()), (Duration::from_millis(4999), at(0)));
        outage.tried(at(6000));
        outage.ended(at(6005), true);
        assert_eq!((outage.length(at(6005)), outage.next_try()), (Duration::from_millis(5005), at(6500)));
        outage.ended(at(6600), false);
        assert_eq!((outage.length(at(6600)), outage.next_try()), (Duration::ZERO, at(0)));
    }
}
