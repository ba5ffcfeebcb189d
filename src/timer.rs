//! A hashed timer wheel (Varghese and Lauck, scheme 6): when to check which connection.
//!
//! The wheel is only an index. It cannot cancel: the caller compares a popped entry with the deadline stored in the
//! connection and ignores it if it is stale. That makes insertion and expiry O(1), and an entry 24 bytes in one shared
//! vector: nothing is allocated in steady state.

use crate::clock::Millis;
use crate::planted;
use crate::table::Key;

/// Width of a slot: how late, in milliseconds, an entry may fire. Finer than any configured timeout, coarse enough that
/// thousands of heartbeats share a wake-up.
pub const TICK_MS: u64 = 16;

/// One turn is 2048 * 16 ms = 32.8 s, so that default heartbeats and timeouts need no second lap.
const SLOTS: u64 = 2048;
const WORDS: usize = (SLOTS / 64) as usize;

/// Ends a slot's list.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    due: Millis,
    key: Key,
    next: u32,
}

/// The wheel. An entry never fires before it is due, and at most [`TICK_MS`] after.
pub struct Timer {
    /// The first node of each slot's list.
    heads: Box<[u32; SLOTS as usize]>,
    /// One bit per slot: whether its list has nodes. Finds the next one without scanning the slots.
    occupied: [u64; WORDS],
    nodes: Vec<Node>,
    free: u32,
    len: usize,
    /// The first tick that is not yet emptied.
    hand: u64,
}

impl Timer {
    /// An empty wheel at `now`.
    pub fn new(now: Millis) -> Self {
        Self {
            heads: Box::new([NONE; SLOTS as usize]),
            occupied: [0; WORDS],
            nodes: Vec::new(),
            free: NONE,
            len: 0,
            hand: now.as_millis() / TICK_MS,
        }
    }

    /// The number of entries, stale ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry. One that is already due fires at the next [`Timer::pop`] that reaches the current tick.
    pub fn insert(&mut self, due: Millis, key: Key) {
        let node = Node { due, key, next: NONE };
        let index = if let Some(free) = self.nodes.get_mut(self.free as usize) {
            let index = self.free;
            self.free = free.next;
            *free = node;
            index
        } else {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        };
        self.len += 1;
        self.link(index);
    }

    /// Removes one entry that is due at `now` and returns it with its due time; `None` if there is none. The order of
    /// due entries is deterministic, but not by time.
    pub fn pop(&mut self, now: Millis) -> Option<(Key, Millis)> {
        let now_tick = now.as_millis() / TICK_MS;
        loop {
            let tick = match self.next_tick() {
                Some(tick) if tick <= now_tick => tick,
                _ => {
                    self.hand = self.hand.max(now_tick + 1);
                    // A missed update: entries inserted for the ticks between would fire a lap later.
                    if planted::is("timer-skips-ticks") {
                        self.hand += 2;
                    }
                    return None;
                }
            };
            self.hand = tick;
            let slot = (tick % SLOTS) as usize;
            let index = self.heads[slot];
            let node = self.nodes[index as usize];
            self.heads[slot] = node.next;
            if node.next == NONE {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
            }
            if node.due > now {
                // It was more than a lap ahead: one more lap.
                self.hand = tick + u64::from(node.next == NONE);
                self.link(index);
                continue;
            }
            self.nodes[index as usize].next = self.free;
            self.free = index;
            self.len -= 1;
            return Some((node.key, node.due));
        }
    }

    /// When to call [`Timer::pop`] next; `None` if there is no entry. Never later than a tick after
    /// the earliest entry is due.
    pub fn next_due(&self) -> Option<Millis> {
        self.next_tick().map(|tick| Millis::from_millis(tick.saturating_mul(TICK_MS)))
    }

    /// Drops the entries for which `keep` is false, and frees unused memory.
    pub fn shrink(&mut self, keep: impl Fn(Key, Millis) -> bool) {
        let mut entries = Vec::new();
        for head in self.heads.iter_mut() {
            let mut index = std::mem::replace(head, NONE);
            while index != NONE {
                let Node { due, key, next } = self.nodes[index as usize];
                if keep(key, due) {
                    entries.push((due, key));
                }
                index = next;
            }
        }
        self.occupied = [0; WORDS];
        self.nodes = Vec::with_capacity(entries.len());
        self.free = NONE;
        self.len = 0;
        for (due, key) in entries {
            self.insert(due, key);
        }
    }

    fn link(&mut self, index: u32) {
        let due = self.nodes[index as usize].due;
        let tick = due.as_millis().div_ceil(TICK_MS).clamp(self.hand, self.hand + SLOTS - 1);
        let slot = (tick % SLOTS) as usize;
        self.nodes[index as usize].next = self.heads[slot];
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// The first tick from the hand on whose slot has entries.
    fn next_tick(&self) -> Option<u64> {
        let start = (self.hand % SLOTS) as usize;
        let (word, bit) = (start / 64, start % 64);
        for step in 0..=WORDS {
            let index = (word + step) % WORDS;
            let mask = match step {
                0 => u64::MAX << bit,
                // Back at the first word: the slots before the hand.
                WORDS => !(u64::MAX << bit),
                _ => u64::MAX,
            };
            let bits = self.occupied[index] & mask;
            if bits != 0 {
                let slot = index as u64 * 64 + u64::from(bits.trailing_zeros());
                return Some(self.hand + (slot + SLOTS - start as u64) % SLOTS);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    fn keys(count: usize) -> Vec<Key> {
        let mut table = Table::default();
        (0..count).map(|_| table.insert(())).collect()
    }

    fn at(millis: u64) -> Millis {
        Millis::from_millis(millis)
    }

    #[test]
    fn fires_never_early_and_at_most_a_tick_late() {
        let key = keys(1)[0];
        for due in [0, 1, 15, 16, 17, 1000, 32_767, 32_768, 32_769, 100_000] {
            let mut timer = Timer::new(at(0));
            timer.insert(at(due), key);
            assert!(!timer.is_empty());
            let mut now = 0;
            let fired = loop {
                if timer.pop(at(now)).is_some() {
                    break now;
                }
                now += 1;
            };
            assert!(fired >= due && fired < due + TICK_MS, "due {due} fired {fired}");
            assert!(timer.is_empty());
            assert_eq!(timer.next_due(), None);
        }
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let keys = keys(100);
        let mut timer = Timer::new(at(5));
        for (n, key) in keys.iter().enumerate() {
            timer.insert(at(n as u64 * 997), *key);
        }
        let mut fired: Vec<Key> = std::iter::from_fn(|| timer.pop(at(1_000_000))).map(|(key, _)| key).collect();
        fired.sort();
        assert_eq!(fired, keys);
    }

    #[test]
    fn an_entry_inserted_while_expiring_fires_when_due() {
        let keys = keys(2);
        let mut timer = Timer::new(at(0));
        timer.insert(at(100), keys[0]);
        assert_eq!(timer.pop(at(112)), Some((keys[0], at(100))));
        timer.insert(at(101), keys[1]);
        assert_eq!(timer.pop(at(112)), Some((keys[1], at(101))));
        timer.insert(at(50), keys[1]);
        assert_eq!(timer.pop(at(127)), Some((keys[1], at(50))), "the past fires with the current tick");
    }

    #[test]
    fn shrinking_keeps_what_is_wanted_and_gives_up_the_rest() {
        let keys = keys(2);
        let mut timer = Timer::new(at(0));
        for n in 0..1000 {
            timer.insert(at(n * TICK_MS), keys[usize::from(n >= 10)]);
        }
        timer.shrink(|key, _| key == keys[0]);
        assert_eq!(timer.len(), 10);
        assert!(timer.nodes.capacity() < 100);
        let due: Vec<u64> = std::iter::from_fn(|| timer.pop(at(1_000_000))).map(|(_, due)| due.as_millis()).collect();
        assert_eq!(due, Vec::from_iter((0..10).map(|n| n * TICK_MS)));
    }

    #[test]
    fn agrees_with_a_sorted_list() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let keys = keys(64);
        let mut timer = Timer::new(at(0));
        let mut list: Vec<(Millis, Key)> = Vec::new();
        let mut now = 0;
        for _ in 0..20_000 {
            if random(2) == 0 {
                let due = at(now + random(90_000));
                let key = keys[random(64) as usize];
                timer.insert(due, key);
                list.push((due, key));
            } else if random(50) == 0 {
                let dropped = keys[random(64) as usize];
                timer.shrink(|key, _| key != dropped);
                list.retain(|(_, key)| *key != dropped);
            } else {
                now += [0, 1, 7, 16, 400, 50_000][random(6) as usize];
                let mut fired: Vec<(Millis, Key)> =
                    std::iter::from_fn(|| timer.pop(at(now))).map(|(key, due)| (due, key)).collect();
                for entry in &fired {
                    assert!(entry.0 <= at(now), "fired early");
                    let index = list.iter().position(|other| other == entry).expect("fired twice or never inserted");
                    list.swap_remove(index);
                }
                fired.clear();
                assert!(list.iter().all(|(due, _)| due.as_millis() + TICK_MS > now), "more than a tick late");
            }
            assert_eq!(timer.len(), list.len());
            let earliest = list.iter().map(|(due, _)| *due).min();
            match (earliest, timer.next_due()) {
                (None, None) => {}
                (Some(due), Some(next)) => assert!(next.as_millis() < due.as_millis().max(now) + 2 * TICK_MS),
                other => panic!("{other:?}"),
            }
        }
    }
}
