//! The order of a single gateway.

use crate::cursor::{Cursor, Epoch, Position};

/// Counts positions. Each run of the process is an epoch, since kept events end with it.
pub(crate) struct Memory {
    epoch: Epoch,
    head: Position,
}

impl Memory {
    /// `random` is the id of the epoch.
    pub(crate) fn new(random: u64) -> Self {
        Self { epoch: Epoch::new(random), head: 0 }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The cursor of a position of this epoch.
    pub(crate) fn cursor(&self, position: Position) -> Cursor {
        Cursor { epoch: self.epoch, position }
    }

    /// The next `count` positions: returns the first.
    pub(crate) fn order(&mut self, count: Position) -> Position {
        let first = self.head + 1;
        self.head += count;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_each_other() {
        let mut memory = Memory::new(7);
        assert_eq!([memory.order(1), memory.order(3), memory.order(1)], [1, 2, 5]);
        assert_eq!(memory.cursor(5), Cursor { epoch: Epoch::new(7), position: 5 });
    }
}
