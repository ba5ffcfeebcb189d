//! Connections that linger after their last response. Their number is limited: the oldest is closed first.

use crate::hub::ConnId;
use crate::table::Table;
use std::collections::VecDeque;

/// So many entries of gone connections are kept in any case.
const GONE_MIN: usize = 64;

/// Connections of one kind, oldest first.
pub(super) struct Lingering {
    /// Some may be gone.
    queue: VecDeque<ConnId>,
    live: usize,
    max: usize,
}

impl Lingering {
    /// A limit of `max` at once.
    pub(super) fn new(max: usize) -> Self {
        Self { queue: VecDeque::new(), live: 0, max }
    }

    /// Adds a connection.
    pub(super) fn push(&mut self, id: ConnId) {
        self.live += 1;
        self.queue.push_back(id);
    }

    /// One of them is gone.
    pub(super) fn left(&mut self) {
        self.live -= 1;
    }

    /// Whether there may be something for [`Lingering::excess`] to do: too many connections, or entries of gone ones.
    pub(super) fn is_crowded(&self) -> bool {
        self.live > self.max || self.queue.len() > 2 * self.live + GONE_MIN
    }

    /// The connection to close if there are too many: the oldest. `connections` are all live ones.
    pub(super) fn excess<T>(&mut self, connections: &Table<T>) -> Option<ConnId> {
        let is_live = |id: &ConnId| connections.get(*id).is_some();
        if self.live > self.max
            && let Some(oldest) = self.pop(connections)
        {
            return Some(oldest);
        }
        // Entries of gone connections would accumulate after one that stays.
        if self.queue.len() > 2 * self.live + GONE_MIN {
            self.queue.retain(is_live);
        }
        None
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Takes the oldest.
    pub(super) fn pop<T>(&mut self, connections: &Table<T>) -> Option<ConnId> {
        while let Some(id) = self.queue.pop_front() {
            if connections.get(id).is_some() {
                return Some(id);
            }
        }
        None
    }

    /// Frees unused memory.
    pub(super) fn shrink(&mut self) {
        self.queue.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_closed_and_gone_ones_do_not_accumulate() {
        let mut table = Table::default();
        let mut lingering = Lingering::new(2);
        let ids: Vec<ConnId> = (0..3).map(|n| table.insert(n)).collect();
        for id in &ids[..2] {
            lingering.push(*id);
            assert_eq!(lingering.excess(&table), None);
        }
        lingering.push(ids[2]);
        assert_eq!(lingering.excess(&table), Some(ids[0]));
        table.remove(ids[0]);
        lingering.left();
        assert_eq!((lingering.excess(&table), lingering.live), (None, 2));
        table.remove(ids[2]);
        lingering.left();
        for n in 0..10_000 {
            let id = table.insert(n);
            lingering.push(id);
            assert_eq!(lingering.excess(&table), None);
            table.remove(id);
            lingering.left();
            assert!(lingering.queue.len() < 100);
        }
    }
}
