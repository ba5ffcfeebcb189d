//! Pauses of the process: it was stopped, or its machine was suspended or migrated. The clock then jumps past
//! deadlines, although peers and workers were in time. So for a moment no deadline is judged, until all events of the
//! pause have been processed.

use crate::clock::Millis;
use crate::planted;
use std::time::Duration;

/// The shortest jump that counts as a pause: longer than usual scheduling delays on a loaded machine, and shorter than
/// any timeout that can be set.
const JUMP_MIN: Duration = Duration::from_millis(250);
/// The longest time that deadlines are held after a pause. Paused workers need a moment to report; a loop that never
/// runs out of events must not wait forever.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// Watches the clock for jumps.
#[derive(Default)]
pub(super) struct Pause {
    hold_until: Option<Millis>,
}

impl Pause {
    /// The clock is at `now` instead of `expected`, apart from the duration of a call or a turn. Short jumps do not add
    /// up, or a machine that is always late would never judge a deadline.
    pub(super) fn watch(&mut self, expected: Duration, now: Duration) {
        let jump_min = if self.hold_until.is_some() { HOLD_MAX } else { JUMP_MIN };
        // Only a jump of the clock shows it.
        if now.saturating_sub(expected) >= jump_min && !planted::is("pause-is-held-against-peers") {
            self.hold_until = Some(Millis::ZERO.after(now).after(HOLD_MAX));
        }
    }

    /// The latest time until which deadlines are held, or now if there are unprocessed events; `None`: they are not
    /// held.
    pub(super) fn wake_at(&self, events_waiting: bool) -> Option<Millis> {
        self.hold_until.map(|until| if events_waiting { Millis::ZERO } else { until })
    }

    /// Whether deadlines may be judged now. `is_quiet`: all events have been processed.
    pub(super) fn may_judge(&mut self, now: Millis, is_quiet: bool) -> bool {
        if self.hold_until.is_some_and(|until| is_quiet || until <= now) {
            self.hold_until = None;
        }
        self.hold_until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_holds_deadlines_until_all_is_quiet_or_for_a_second() {
        let (at, ms) = (Millis::from_millis, Duration::from_millis);
        let mut pause = Pause::default();
        pause.watch(ms(1_000), ms(1_249));
        assert!(pause.may_judge(at(1_249), false));
        pause.watch(ms(1_000), ms(9_000));
        assert_eq!(pause.wake_at(false), Some(at(10_000)));
        pause.watch(ms(9_000), ms(9_999));
        assert!(!pause.may_judge(at(9_999), false));
        assert!(pause.may_judge(at(10_000), false));
        pause.watch(ms(10_000), ms(20_000));
        assert!(pause.may_judge(at(20_000), true));
        assert!(pause.may_judge(at(20_000), false));
    }
}
