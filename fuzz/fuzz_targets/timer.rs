//! The timer wheel, compared with a plain list.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use ssegateway::clock::Millis;
use ssegateway::table::{Key, Table};
use ssegateway::timer::{TICK_MS, Timer};

#[derive(Debug)]
enum Operation {
    /// Due that many milliseconds from now.
    Insert {
        ahead: u64,
    },
    /// Due that many milliseconds ago.
    InsertLate {
        ago: u64,
    },
    InsertNever,
    /// Time passes, and every due entry is popped.
    Advance {
        by: u64,
    },
    /// Time passes, and only some of the due entries are popped.
    AdvanceAndTake {
        by: u64,
        at_most: u8,
    },
    /// Sleeps until the wheel's next due time.
    Sleep,
    /// Drops entries by the low bit of their slot.
    Shrink {
        keep: [bool; 2],
    },
}

impl<'a> Arbitrary<'a> for Operation {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Operation> {
        // Times of any magnitude, with small ones common.
        let mut time = |bits: u32| -> arbitrary::Result<u64> {
            let shift = u32::from(input.arbitrary::<u8>()?) % bits;
            Ok((1_u64 << shift) - 1 + u64::from(input.arbitrary::<u8>()?))
        };
        let (ahead, by) = (time(22)?, time(18)?);
        Ok(match input.int_in_range(0..=8)? {
            0..=2 => Operation::Insert { ahead },
            3 => Operation::InsertLate { ago: ahead },
            4 => Operation::InsertNever,
            5 => Operation::Advance { by },
            6 => Operation::AdvanceAndTake { by, at_most: input.int_in_range(0..=3)? },
            7 => Operation::Sleep,
            _ => Operation::Shrink { keep: input.arbitrary()? },
        })
    }
}

struct Entry {
    key: Key,
    due: Millis,
    /// When it was inserted; it cannot fire earlier.
    since: u64,
}

struct Twin {
    wheel: Timer,
    list: Vec<Entry>,
    now: u64,
    table: Table<()>,
}

fuzz_target!(|operations: Vec<Operation>| {
    let start = operations.len() as u64 * 1_000_003;
    let wheel = Timer::new(Millis::from_millis(start));
    let mut twin = Twin { wheel, list: Vec::new(), now: start, table: Table::default() };
    for operation in &operations {
        match *operation {
            Operation::Insert { ahead } => twin.insert(Millis::from_millis(twin.now.saturating_add(ahead))),
            Operation::InsertLate { ago } => twin.insert(Millis::from_millis(twin.now.saturating_sub(ago))),
            Operation::InsertNever => twin.insert(Millis::NEVER),
            Operation::Advance { by } => {
                twin.now += by;
                twin.take_all();
            }
            Operation::AdvanceAndTake { by, at_most } => {
                twin.now += by;
                for _ in 0..at_most {
                    twin.take();
                }
            }
            Operation::Sleep => twin.sleep(),
            Operation::Shrink { keep } => twin.shrink(keep),
        }
        twin.check();
    }
    // Every entry is popped in the end, except those that are never due.
    twin.now += 1 << 23;
    twin.take_all();
    assert!(twin.list.iter().all(|entry| entry.due == Millis::NEVER));
});

impl Twin {
    fn insert(&mut self, due: Millis) {
        let key = self.table.insert(());
        self.wheel.insert(due, key);
        self.list.push(Entry { key, due, since: self.now });
    }

    fn shrink(&mut self, keep: [bool; 2]) {
        let keeps = |key: Key| keep[key.slot() as usize % 2];
        self.wheel.shrink(|key, _| keeps(key));
        self.list.retain(|entry| keeps(entry.key));
    }

    fn take(&mut self) -> bool {
        let Some((key, due)) = self.wheel.pop(Millis::from_millis(self.now)) else { return false };
        let at = self.list.iter().position(|entry| entry.key == key).expect("fired twice");
        let entry = self.list.swap_remove(at);
        assert_eq!(entry.due, due);
        assert!(due.as_millis() <= self.now, "fired early");
        true
    }

    fn take_all(&mut self) {
        while self.take() {}
        for entry in &self.list {
            let latest = entry.due.as_millis().max(entry.since).saturating_add(TICK_MS);
            assert!(latest > self.now, "more than a tick late");
        }
        if let Some(next) = self.wheel.next_due() {
            assert!(next.as_millis() > self.now, "next_due does not advance");
        }
    }

    fn sleep(&mut self) {
        if let Some(next) = self.wheel.next_due() {
            // For a distant entry the wheel's next due time is too early once per lap, and never twice in one lap.
            if next.as_millis() < self.now + (1 << 23) {
                self.now = self.now.max(next.as_millis());
                self.take_all();
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.wheel.len(), self.list.len());
        assert_eq!(self.wheel.is_empty(), self.list.is_empty());
        let earliest = self.list.iter().map(|entry| entry.due.as_millis().max(entry.since)).min();
        match (earliest, self.wheel.next_due()) {
            (None, None) => {}
            (Some(due), Some(next)) => assert!(next.as_millis() <= due.saturating_add(TICK_MS), "would sleep too long"),
            (earliest, next) => panic!("{earliest:?} against {next:?}"),
        }
    }
}
