//! A generational slab: values in slots, named by keys that can go stale but never lie.
//!
//! Slots are reused at once, so an event, timer entry or callback outcome that was meant for the
//! last owner of a slot would reach the next one. Every key therefore carries the generation of its
//! slot, and a lookup with an old generation finds nothing.

use std::ops::Range;

/// Names one value that was inserted into a [`Table`]; stale once that value is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    /// Puts a key together again from what [`Key::slot`] and [`Key::generation`] gave.
    pub const fn from_parts(slot: u32, generation: u32) -> Key {
        Key { slot, generation }
    }

    /// The slot's index; small and dense, fit to index a table kept beside this one.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// How often the slot had been vacated when the value moved in.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// Ends the list of free slots; a table never grows to so many.
const NO_SLOT: u32 = u32::MAX;

enum Content<T> {
    Free { next: u32 },
    Full(T),
}

/// Aligned to cache lines: an event for an idle stream waits for memory more than for anything else, and a slot
/// that starts in the middle of a line touches one more than it must.
#[repr(align(64))]
struct Slot<T> {
    generation: u32,
    content: Content<T>,
}

/// Values of one type, each in a slot of its own.
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    /// The head of the list of free slots: the one vacated last, as it is the likeliest to be cached.
    free: u32,
    len: usize,
    /// The generation that new slots start with: above that of any slot that was given up.
    generation: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { slots: Vec::new(), free: NO_SLOT, len: 0, generation: 0 }
    }
}

impl<T> Table<T> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves `value` in and names it.
    pub fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        if let Some(slot) = self.slots.get_mut(self.free as usize)
            && let Content::Free { next } = slot.content
        {
            let key = Key { slot: self.free, generation: slot.generation };
            self.free = next;
            slot.content = Content::Full(value);
            return key;
        }
        let key = Key { slot: self.slots.len() as u32, generation: self.generation };
        self.slots.push(Slot { generation: self.generation, content: Content::Full(value) });
        key
    }

    /// Gives up the free slots at the end and the memory they take; keys stay as they are.
    pub fn shrink(&mut self) {
        while let Some(Slot { generation, content: Content::Free { .. } }) = self.slots.last() {
            // A slot that comes back must not answer to a key that it gave out before.
            self.generation = self.generation.max(generation.wrapping_add(1));
            self.slots.pop();
        }
        self.slots.shrink_to_fit();
        self.free = NO_SLOT;
        for (index, slot) in self.slots.iter_mut().enumerate().rev() {
            if let Content::Free { next } = &mut slot.content {
                *next = std::mem::replace(&mut self.free, index as u32);
            }
        }
    }

    /// Moves the value out; `None` if `key` is stale.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation || matches!(slot.content, Content::Free { .. }) {
            return None;
        }
        let Content::Full(value) = std::mem::replace(&mut slot.content, Content::Free { next: self.free }) else {
            return None;
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free = key.slot;
        self.len -= 1;
        Some(value)
    }

    /// The value; `None` if `key` is stale.
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.slots.get(key.slot as usize) {
            Some(Slot { generation, content: Content::Full(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The value in a slot, with its key.
    pub fn in_slot(&self, slot: u32) -> Option<(Key, &T)> {
        match self.slots.get(slot as usize) {
            Some(Slot { generation, content: Content::Full(value) }) => {
                Some((Key { slot, generation: *generation }, value))
            }
            _ => None,
        }
    }

    /// The value; `None` if `key` is stale.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.slot as usize) {
            Some(Slot { generation, content: Content::Full(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// All values with their keys, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.iter_slots(0..self.slots.len())
    }

    /// The values in those slots with their keys, in order; slots that do not exist are passed over.
    pub fn iter_slots(&self, slots: Range<usize>) -> impl Iterator<Item = (Key, &T)> {
        let end = slots.end.min(self.slots.len());
        let start = slots.start.min(end);
        (start..end).zip(&self.slots[start..end]).filter_map(|(index, slot)| match &slot.content {
            Content::Full(value) => Some((Key { slot: index as u32, generation: slot.generation }, value)),
            Content::Free { .. } => None,
        })
    }

    /// How many slots there are, free ones included.
    pub fn slots(&self) -> usize {
        self.slots.len()
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
}
