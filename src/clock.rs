//! Time for the protocol: milliseconds of a monotonic clock, always passed in.
//!
//! The core never reads a clock. The reactor reads it once per turn and passes the value in, so a test or a simulation
//! controls the time.

use std::time::Duration;
use time::OffsetDateTime;

/// A point in time: milliseconds since some fixed start of this process's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(u64);

impl Millis {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// Later than any event; a deadline that is never due.
    pub const NEVER: Self = Self(u64::MAX);

    /// The point `millis` milliseconds after the start of the clock.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the start of the clock.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `duration` after this one, cut to whole milliseconds; saturates at [`Millis::NEVER`].
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this point; 0 if `earlier` is in fact later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A moment in UTC, `2026-11-26T10:22:08Z` (RFC 3339). Times past the year 9999 are shown as its last second.
pub fn rfc3339(unix_seconds: u64) -> String {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(unix_seconds).unwrap_or(LAST).min(LAST);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_in_whole_milliseconds_and_saturates() {
        let at = Millis::from_millis(5);
        assert_eq!(at.after(Duration::from_micros(1_999)), Millis::from_millis(6));
        assert_eq!(at.after(Duration::MAX), Millis::NEVER);
        assert_eq!(Millis::from_millis(12).since(at), 7);
        assert_eq!(at.since(Millis::from_millis(12)), 0);
    }

    #[test]
    fn moments_are_written_as_rfc_3339_demands() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (1_795_688_528, "2026-11-26T10:22:08Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
