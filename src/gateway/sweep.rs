//! A walk over a table in slices, so that the duration of a turn does not depend on the table's size.

use std::ops::Range;

/// The position of a walk. A value that stays in its slot from the first slice to the last is visited once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sweep {
    next: usize,
    is_done: bool,
}

impl Sweep {
    pub(super) fn starting_at(slot: usize) -> Self {
        Self { next: slot, is_done: false }
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// The next `count` slots of a table that has `slots` now; empty at the end.
    pub(super) fn slice(&mut self, count: usize, slots: usize) -> Range<usize> {
        let start = self.next.min(slots);
        let end = start.saturating_add(count).min(slots);
        self.next = end;
        self.is_done = end == slots;
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_each_slot_once_while_the_table_grows_and_shrinks() {
        let mut sweep = Sweep::default();
        assert_eq!([sweep.slice(4, 6), sweep.slice(4, 9), sweep.slice(4, 5)], [0..4, 4..8, 5..5]);
        assert!(sweep.is_done());
        assert_eq!(Sweep::starting_at(7).slice(4, 5), 5..5);
    }
}
