//! When to return memory to the operating system: after most of many streams have ended.

use crate::clock::Millis;
use std::time::Duration;

/// At least this many streams are required, half of which must have ended.
const STREAMS_MIN: usize = 64;
/// The delay, since releasing costs milliseconds: by then their disconnects and callback threads have ended.
const DELAY: Duration = Duration::from_secs(6);

/// Watches the number of streams.
#[derive(Default)]
pub(super) struct Release {
    /// The highest number of streams since memory was last released.
    streams_peak: usize,
    release_at: Option<Millis>,
}

impl Release {
    pub(super) fn release_at(&self) -> Option<Millis> {
        self.release_at
    }

    /// Whether to release memory now. `calls`: callbacks queued or in flight, which hold memory too.
    pub(super) fn is_due(&mut self, now: Millis, streams: usize, calls: usize) -> bool {
        self.streams_peak = self.streams_peak.max(streams);
        let gone = streams <= self.streams_peak / 2 && calls <= self.streams_peak / 16;
        if self.streams_peak < STREAMS_MIN || !gone {
            self.release_at = None;
            return false;
        }
        let is_due = *self.release_at.get_or_insert(now.after(DELAY)) <= now;
        if is_due {
            self.release_at = None;
            self.streams_peak = streams;
        }
        is_due
    }
}
