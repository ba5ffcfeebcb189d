//! A generational slab: values in slots, with keys that can go stale but never refer to another value.
//!
//! Slots are reused at once, so an event, timer entry or callback outcome for the previous owner of a slot could reach
//! the next one. Every key therefore contains the generation of its slot, and a lookup with an old generation fails.

use crate::planted;
use std::ops::Range;

/// The key of a value in a [`Table`]; stale once that value is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    /// Rebuilds a key from its [`Key::slot`] and [`Key::generation`].
    pub const fn from_parts(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The slot's index; small and dense, so that it can index a parallel table.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// How often the slot had been vacated when the value was inserted.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// Ends the list of free slots; a table never grows to that many.
const NO_SLOT: u32 = u32::MAX;

enum Content<T> {
    Free { next: u32 },
    Full(T),
}

/// Aligned to cache lines: an event for an idle stream mostly waits for memory, and a slot that starts in the middle of
/// a line touches one more than necessary.
#[repr(align(64))]
struct Slot<T> {
    generation: u32,
    content: Content<T>,
}

/// Slots in one contiguous piece of memory. A table grows by such pieces: no value ever moves, and the cost of an
/// insertion does not depend on the table's size.
const CHUNK_SLOTS: usize = 1024;

/// Values of one type, each in a slot of its own.
pub struct Table<T> {
    /// All except the last have the full number of slots; none is empty.
    chunks: Vec<Vec<Slot<T>>>,
    /// The head of the list of free slots: the one vacated last, as it is the likeliest to be cached.
    free: u32,
    len: usize,
    /// The generation of new slots: above that of any slot that was released.
    generation: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: NO_SLOT, len: 0, generation: 0 }
    }
}

impl<T> Table<T> {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Inserts `value` and returns its key.
    pub fn insert(&mut self, value: T) -> Key {
        self.insert_with(|_| value)
    }

    /// The same for a value that contains its own key.
    pub fn insert_with(&mut self, value: impl FnOnce(Key) -> T) -> Key {
        self.len += 1;
        let vacated = self.free;
        if let Some(slot) = self.slot_mut(vacated)
            && let Content::Free { next } = slot.content
        {
            let key = Key { slot: vacated, generation: slot.generation };
            slot.content = Content::Full(value(key));
            self.free = next;
            return key;
        }
        let key = Key { slot: self.slots() as u32, generation: self.generation };
        let slot = Slot { generation: self.generation, content: Content::Full(value(key)) };
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_SLOTS => chunk.push(slot),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_SLOTS);
                chunk.push(slot);
                self.chunks.push(chunk);
            }
        }
        key
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        let index = index as usize;
        self.chunks.get(index / CHUNK_SLOTS)?.get(index % CHUNK_SLOTS)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let index = index as usize;
        self.chunks.get_mut(index / CHUNK_SLOTS)?.get_mut(index % CHUNK_SLOTS)
    }

    /// Releases the free slots at the end and their memory; keys stay valid.
    pub fn shrink(&mut self) {
        while let Some(chunk) = self.chunks.last_mut() {
            while let Some(Slot { generation, content: Content::Free { .. } }) = chunk.last() {
                // A slot that is created again must not match a key from before. The same, in released memory: only a
                // crowd that leaves and returns shows it.
                if !planted::is("shrunk-table-repeats-its-keys") {
                    self.generation = self.generation.max(generation.wrapping_add(1));
                }
                chunk.pop();
            }
            if !chunk.is_empty() {
                break;
            }
            self.chunks.pop();
        }
        self.chunks.shrink_to_fit();
        self.free = NO_SLOT;
        let mut index = self.slots() as u32;
        for slot in self.chunks.iter_mut().flatten().rev() {
            index -= 1;
            if let Content::Free { next } = &mut slot.content {
                *next = std::mem::replace(&mut self.free, index);
            }
        }
    }

    /// Removes the value; `None` if `key` is stale.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let next = self.free;
        let slot = self.slot_mut(key.slot)?;
        if slot.generation != key.generation || matches!(slot.content, Content::Free { .. }) {
            return None;
        }
        let Content::Full(value) = std::mem::replace(&mut slot.content, Content::Free { next }) else {
            return None;
        };
        // A wrong key: it works until a slot is reused while an old key is still in use.
        if !planted::is("slot-keeps-its-generation") {
            slot.generation = slot.generation.wrapping_add(1);
        }
        self.free = key.slot;
        self.len -= 1;
        Some(value)
    }

    /// The value; `None` if `key` is stale.
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.slot(key.slot) {
            Some(Slot { generation, content: Content::Full(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The key of the value in a slot.
    pub fn key_of(&self, slot: u32) -> Option<Key> {
        match self.slot(slot) {
            Some(Slot { generation, content: Content::Full(_) }) => Some(Key { slot, generation: *generation }),
            _ => None,
        }
    }

    /// The value in a slot.
    pub fn in_slot(&self, slot: u32) -> Option<&T> {
        match self.slot(slot) {
            Some(Slot { content: Content::Full(value), .. }) => Some(value),
            _ => None,
        }
    }

    /// The value in a slot.
    pub fn in_slot_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.slot_mut(slot) {
            Some(Slot { content: Content::Full(value), .. }) => Some(value),
            _ => None,
        }
    }

    /// The value; `None` if `key` is stale.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slot_mut(key.slot) {
            Some(Slot { generation, content: Content::Full(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// All values with their keys, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.iter_slots(0..self.slots())
    }

    /// The values in those slots with their keys, in order; slots that do not exist are skipped.
    pub fn iter_slots(&self, slots: Range<usize>) -> impl Iterator<Item = (Key, &T)> {
        let end = slots.end.min(self.slots());
        (slots.start..end).filter_map(|index| match self.slot(index as u32) {
            Some(Slot { generation, content: Content::Full(value) }) => {
                Some((Key { slot: index as u32, generation: *generation }, value))
            }
            _ => None,
        })
    }

    /// The number of slots, free ones included.
    pub fn slots(&self) -> usize {
        match self.chunks.split_last() {
            Some((last, full)) => full.len() * CHUNK_SLOTS + last.len(),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_value_until_it_is_removed() {
        let mut table = Table::default();
        let key = table.insert("a");
        assert!(!table.is_empty());
        assert_eq!(table.get(key), Some(&"a"));
        assert_eq!(table.get_mut(key), Some(&mut "a"));
        assert_eq!(table.remove(key), Some("a"));
        assert_eq!(table.get(key), None);
        assert_eq!(table.remove(key), None);
        assert!(table.is_empty());
    }

    #[test]
    fn a_reused_slot_does_not_answer_to_the_old_key() {
        let mut table = Table::default();
        let old = table.insert("old");
        table.remove(old);
        let new = table.insert("new");
        assert_eq!(old.slot(), new.slot());
        assert_eq!(table.get(old), None);
        assert_eq!(table.get_mut(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get(new), Some(&"new"));
        let again = Key::from_parts(new.slot(), new.generation());
        assert_eq!(table.get(again), Some(&"new"));
        table.remove(new);
        assert_eq!(table.insert("newer").generation(), 2);
    }

    #[test]
    fn iteration_goes_by_slot_and_passes_over_free_ones() {
        let mut table = Table::default();
        let keys: Vec<Key> = (0..5).map(|n| table.insert(n)).collect();
        table.remove(keys[1]);
        table.remove(keys[3]);
        assert_eq!(table.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(table.iter_slots(1..4).map(|(key, _)| key).collect::<Vec<_>>(), [keys[2]]);
        assert_eq!(table.iter_slots(4..usize::MAX).count(), 1);
        assert_eq!(table.iter_slots(5..9).count(), 0);
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn shrinking_keeps_values_and_leaves_old_keys_stale() {
        let mut table = Table::default();
        let keys: Vec<Key> = (0..5).map(|n| table.insert(n)).collect();
        for n in [0, 3, 4] {
            table.remove(keys[n]);
        }
        assert_eq!(table.slots(), 5);
        table.shrink();
        assert_eq!(table.slots(), 3);
        assert_eq!(table.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1, 2]);
        let new: Vec<Key> = (5..8).map(|n| table.insert(n)).collect();
        assert_eq!(new.iter().map(|key| key.slot()).collect::<Vec<_>>(), [0, 3, 4]);
        assert!(keys.iter().all(|old| !new.contains(old)));
        assert_eq!(table.get(keys[4]), None);
        assert_eq!(table.get(new[2]), Some(&7));
    }

    #[test]
    fn the_slot_vacated_last_is_filled_first() {
        let mut table = Table::default();
        let keys: Vec<Key> = (0..3).map(|n| table.insert(n)).collect();
        table.remove(keys[0]);
        table.remove(keys[2]);
        assert_eq!(table.insert(7).slot(), 2);
        assert_eq!(table.insert(8).slot(), 0);
        assert_eq!(table.insert(9).slot(), 3);
    }

    #[test]
    fn a_table_of_many_chunks_is_one_table() {
        let mut table = Table::default();
        let count = 3 * CHUNK_SLOTS + 1;
        let keys: Vec<Key> = (0..count).map(|n| table.insert(n)).collect();
        assert!(keys.iter().enumerate().all(|(n, key)| key.slot() as usize == n && table.get(*key) == Some(&n)));
        assert_eq!((table.slots(), table.len(), table.iter().count()), (count, count, count));
        let edge = CHUNK_SLOTS - 1..CHUNK_SLOTS + 1;
        assert_eq!(table.iter_slots(edge).map(|(_, n)| *n).collect::<Vec<_>>(), [CHUNK_SLOTS - 1, CHUNK_SLOTS]);
        for key in &keys[CHUNK_SLOTS..] {
            table.remove(*key);
        }
        table.remove(keys[5]);
        table.shrink();
        assert_eq!(table.slots(), CHUNK_SLOTS);
        assert_eq!(table.insert(7).slot(), 5);
        let new = table.insert(8);
        assert_eq!(new.slot() as usize, CHUNK_SLOTS);
        assert_eq!((table.get(keys[CHUNK_SLOTS]), table.get(new)), (None, Some(&8)));
        assert_eq!(table.in_slot(new.slot()), Some(&8));
        assert_eq!(table.in_slot(new.slot() + 1), None);
    }
}
