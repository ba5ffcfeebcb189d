//! A process that stood still: it was stopped, or its machine was suspended or moved. To it the clock jumps over
//! deadlines, though peers and workers were in time. So for a moment no deadline is judged, until everything is taken in
//! that has happened meanwhile.

use crate::clock::Millis;
use crate::planted;
use std::time::Duration;

/// How far the clock jumps in a pause at least: longer than a loaded machine keeps a thread waiting as a rule, and shorter
/// than any timeout that can be set.
const JUMP_MIN: Duration = Duration::from_millis(250);
/// How long deadlines are held after one at most. Stopped workers need a moment to say what they have; a loop that never
/// comes to the end of its events must not wait for it.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// Watches the clock for jumps.
#[derive(Default)]
pub(super) struct Pause {
    hold_until: Option<Millis>,
}

impl Pause {
    /// The clock says `now` where it would say `expected` but for the time that a call or a turn takes. Short jumps do not
    /// add up, or a machine that is always late would judge nothing.
    pub(super) fn watch(&mut self, expected: Duration, now: Duration) {
        let jump_min = if self.hold_until.is_some() { HOLD_MAX } else { JUMP_MIN };
        // What only a clock that jumps shows.
        if now.saturating_sub(expected) >= jump_min && !planted::is("pause-is-held-against-peers") {
            self.hold_until = Some(Millis::ZERO.after(now).after(HOLD_MAX));
        }
    }

    /// Until when deadlines are held at most, or now if there are events to be taken in; `None`: they are not held.
    pub(super) fn wake_at(&self, events_waiting: bool) -> Option<Millis> {
        self.hold_until.map(|until| if events_waiting { Millis::ZERO } else { until })
    }

    /// Whether deadlines may be judged now. `is_quiet`: nothing is left to take in.
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
