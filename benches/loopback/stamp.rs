//! What events carry, so that who reads one can tell whether it is the right one, and how old it is.

use std::sync::OnceLock;
use std::time::Instant;

/// Nanoseconds since this was asked first.
pub(crate) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// To which stream,
    pub stream: u32,
    /// as which of its events, counted from 0,
    pub number: u32,
    /// and when it was sent.
    pub sent: u64,
}

impl Stamp {
    /// Characters of a stamp, all of them hexadecimal.
    pub(crate) const LENGTH: usize = 32;

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let digits = u128::from(self.stream) << 96 | u128::from(self.number) << 64 | u128::from(self.sent);
        for digit in (0..Self::LENGTH).rev() {
            out.push(b"0123456789abcdef"[(digits >> (4 * digit)) as usize & 15]);
        }
    }

    /// Reads it from the start of an event's data.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let mut digits = 0_u128;
        for byte in data.get(..Self::LENGTH)? {
            digits = digits << 4 | u128::from(char::from(*byte).to_digit(16)?);
        }
        Some(Self { stream: (digits >> 96) as u32, number: (digits >> 64) as u32, sent: digits as u64 })
    }
}

/// What became of the events; by the stamps, so nothing that goes wrong stays hidden behind something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub received: u64,
    pub lost: u64,
    pub doubled: u64,
    pub reordered: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
    }
}

/// The events of one stream in the order of their numbers.
#[derive(Default)]
pub(crate) struct Sequence {
    /// Numbers given out.
    pub sent: u32,
    /// One more than the highest number that has come.
    expected: u32,
    /// Numbers below that which have not come.
    missing: Vec<u32>,
}

impl Sequence {
    pub(crate) fn take(&mut self, number: u32, tally: &mut Tally) {
        tally.received += 1;
        if number >= self.expected {
            self.missing.extend(self.expected..number);
            self.expected = number + 1;
        } else if let Some(at) = self.missing.iter().position(|missing| *missing == number) {
            self.missing.swap_remove(at);
            tally.reordered += 1;
        } else {
            tally.doubled += 1;
        }
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.missing.len() as u64 + u64::from(self.sent.saturating_sub(self.expected))
    }

    /// Forgets what has not come, so that it counts once.
    pub(crate) fn settle(&mut self) -> u64 {
        let lost = self.outstanding();
        self.missing.clear();
        self.expected = self.sent;
        lost
    }
}
