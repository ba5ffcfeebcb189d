//! Time as the protocol sees it: milliseconds of a monotonic clock, always passed in.
//!
//! Nothing below the reactor reads a clock. The reactor reads it once per turn and hands the value
//! down, so a test or a simulation decides what time it is.

use std::time::Duration;

/// A point in time: milliseconds since some fixed start of this process's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(u64);

impl Millis {
    /// The start of the clock.
    pub const ZERO: Millis = Millis(0);
    /// Later than anything that will happen; a deadline that never comes.
    pub const NEVER: Millis = Millis(u64::MAX);

    /// The point `millis` milliseconds after the start of the clock.
    pub const fn from_millis(millis: u64) -> Millis {
        Millis(millis)
    }

    /// Milliseconds since the start of the clock.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `duration` after this one, cut to whole milliseconds; saturates at [`Millis::NEVER`].
    pub fn after(self, duration: Duration) -> Millis {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Millis(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this point; 0 if `earlier` is in fact later.
    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
