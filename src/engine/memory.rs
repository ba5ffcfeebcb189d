//! The order of a single gateway.

use crate::cursor::Position;

/// Counts positions. Each run of the process is an epoch, since kept events end with it.
#[derive(Default)]
pub(crate) struct Memory {
    head: Position,
}

impl Memory {
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
        let mut memory = Memory::default();
        assert_eq!([memory.order(1), memory.order(3), memory.order(1)], [1, 2, 5]);
    }
}
