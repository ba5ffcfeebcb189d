//! The stamp in an event's data: it identifies the event and gives its age.

use std::sync::OnceLock;
use std::time::Instant;

/// Nanoseconds since the first call.
pub(crate) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The stream's number.
    pub stream: u32,
    /// The event's number on its stream, counted from 0.
    pub number: u32,
    /// When it was sent.
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

/// How the events arrived. Judged by their stamps, so that one error cannot mask another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
    }
}

/// The events of one stream in the order of their numbers.
#[derive(Default)]
pub(crate) struct Sequence {
    /// Numbers given out.
    pub sent: u32,
    /// One more than the highest number received.
    expected: u32,
    /// Numbers below that are still missing.
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
            tally.duplicated += 1;
        }
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.missing.len() as u64 + u64::from(self.sent.saturating_sub(self.expected))
    }

    /// Counts the missing events as lost and forgets them, so that each counts once.
    pub(crate) fn settle(&mut self) -> u64 {
        let lost = self.outstanding();
        self.missing.clear();
        self.expected = self.sent;
        lost
    }
}
