//! Rate limiting of log lines: the first of a kind at once, then at most one a second with the number of those left
//! out, and one after recovery.

use crate::clock::Millis;

/// Minimum time between two lines of a kind.
const INTERVAL_MS: u64 = 1000;

/// The failures of one kind. Time is passed in.
#[derive(Debug, Default)]
pub struct Flood {
    /// When a failure last got a line.
    logged: Option<Millis>,
    /// Failures since then, without a line.
    left_out: u64,
    /// Failures since the last end, and the time of the first of them.
    current: Option<(u64, Millis)>,
    /// When a recovery last got a line.
    ended: Option<Millis>,
}

/// A flood from its first failure to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// The number of failures.
    pub failures: u64,
    /// From the first failure to the success that ended it.
    pub millis: u64,
}

impl Flood {
    /// Counts a failure. `Some` if it gets a line: the number of those left out since the last one.
    pub fn failed(&mut self, now: Millis) -> Option<u64> {
        let (failures, since) = self.current.unwrap_or((0, now));
        self.current = Some((failures + 1, since));
        if self.logged.is_none_or(|logged| now.since(logged) >= INTERVAL_MS) {
            self.logged = Some(now);
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }

    /// `Some` if failures have been left out for so long that they get a line of their own: their number.
    pub fn overdue(&mut self, now: Millis) -> Option<u64> {
        if self.left_out == 0 || self.logged.is_some_and(|logged| now.since(logged) < INTERVAL_MS) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }

    /// Records a success. `Some` if it ends a flood and gets a line. Alternating successes and failures are one flood.
    pub fn succeeded(&mut self, now: Millis) -> Option<Over> {
        let (failures, since) = self.current?;
        if self.ended.is_some_and(|ended| now.since(ended) < INTERVAL_MS) {
            return None;
        }
        self.current = None;
        self.left_out = 0;
        self.ended = Some(now);
        Some(Over { failures, millis: now.since(since) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Millis {
        Millis::from_millis(millis)
    }

    #[test]
    fn the_first_failure_is_logged_at_once_and_then_one_a_second() {
        let mut flood = Flood::default();
        assert_eq!(flood.failed(at(5000)), Some(0));
        for millis in 5000..5999 {
            assert_eq!(flood.failed(at(millis)), None);
        }
        assert_eq!(flood.failed(at(6000)), Some(999));
        assert_eq!(flood.failed(at(6999)), None);
        assert_eq!(flood.failed(at(9000)), Some(1));
        assert_eq!(flood.failed(at(60_000)), Some(0));
    }

    #[test]
    fn failures_without_a_successor_get_a_line_after_a_second() {
        let mut flood = Flood::default();
        assert_eq!(flood.overdue(at(0)), None);
        flood.failed(at(0));
        assert_eq!(flood.overdue(at(5000)), None, "the only one has its line");
        for _ in 0..3 {
            flood.failed(at(5000));
        }
        assert_eq!(flood.overdue(at(5999)), None);
        assert_eq!(flood.overdue(at(6000)), Some(2));
        assert_eq!(flood.overdue(at(7000)), None);
        assert_eq!(flood.failed(at(6999)), None, "that line counts");
    }

    #[test]
    fn the_first_success_ends_it() {
        let mut flood = Flood::default();
        assert_eq!(flood.succeeded(at(0)), None);
        flood.failed(at(1000));
        flood.failed(at(1500));
        assert_eq!(flood.succeeded(at(3500)), Some(Over { failures: 2, millis: 2500 }));
        assert_eq!(flood.succeeded(at(3501)), None);
        assert_eq!(flood.overdue(at(9000)), None, "the end has counted all");
        assert_eq!(flood.failed(at(9000)), Some(0));
        assert_eq!(flood.succeeded(at(9001)), Some(Over { failures: 1, millis: 1 }));
    }

    #[test]
    fn a_backend_that_fails_every_other_time_is_one_flood() {
        let mut flood = Flood::default();
        let (mut lines, mut logged, mut ended) = (0, 0, 0);
        for millis in 0..10_000 {
            if let Some(left_out) = flood.failed(at(millis)) {
                lines += 1;
                logged += 1 + left_out;
            }
            if let Some(over) = flood.succeeded(at(millis)) {
                lines += 1;
                ended += over.failures;
            }
        }
        assert!(lines <= 20, "{lines}");
        assert!(ended > 9000 && ended <= 10_000, "{ended}");
        assert!(logged <= 10_000);
    }
}
