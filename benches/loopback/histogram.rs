//! A histogram of latencies: 32 buckets per doubling, so the error is at most 3 %.

use std::time::Duration;

const BITS: u32 = 5;
const BUCKETS: usize = ((64 - BITS as usize) << BITS) + (1 << BITS);

#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
        self.sum += nanoseconds;
        self.max = self.max.max(nanoseconds);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum / self.total.max(1))
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The latency below which the share `quantile` of all latencies lies.
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        let rank = (quantile * self.total as f64).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return Duration::from_nanos(highest(index).min(self.max));
            }
        }
        Duration::ZERO
    }

    /// The non-empty buckets: lowest and highest latency in nanoseconds, and the count.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let lowest = |index: usize| if index == 0 { 0 } else { highest(index - 1) + 1 };
        let full = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        full.map(move |(index, count)| (lowest(index), highest(index), *count))
    }
}

fn bucket(value: u64) -> usize {
    let shift = (64 - BITS).saturating_sub(value.leading_zeros() + 1);
    ((u64::from(shift) << BITS) + (value >> shift)) as usize
}

/// The highest value in a bucket.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index >> BITS).saturating_sub(1);
    let mantissa = index - (shift << BITS);
    ((mantissa + 1) << shift) - 1
}
