//! Jitter for `retry`, so that pages that lost their streams together do not reconnect together.

use std::time::Duration;

/// A generator of pseudo-random numbers: SplitMix64 (Steele, Lea and Flood, 2014). Not for secrets.
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number within a fifth of `delay`.
    pub(super) fn spread(&mut self, delay: u32) -> u32 {
        self.between(delay - delay / 5, delay.saturating_add(delay / 5))
    }

    /// A number within a fifth of `delay`, or anywhere up to `most` if that is more.
    pub(super) fn spread_up_to(&mut self, delay: u32, most: u32) -> u32 {
        self.between(delay - delay / 5, delay.saturating_add(delay / 5).max(most))
    }

    /// A time within a tenth of `age`, in milliseconds.
    pub(super) fn spread_age(&mut self, age: Duration) -> Duration {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX / 2);
        Duration::from_millis(self.next_between(age - age / 10, age + age / 10))
    }

    /// A time up to `most`, in milliseconds.
    pub(super) fn within(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.next_between(0, most.as_millis() as u64))
    }

    fn between(&mut self, least: u32, most: u32) -> u32 {
        u32::try_from(self.next_between(least.into(), most.into())).unwrap_or(u32::MAX)
    }

    fn next_between(&mut self, least: u64, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        least + mixed % (most.saturating_sub(least) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_a_fifth_to_either_side() {
        let mut jitter = Jitter::new(1);
        let delays: Vec<u32> = (0..10_000).map(|_| jitter.spread(1000)).collect();
        assert_eq!((delays.iter().min(), delays.iter().max()), (Some(&800), Some(&1200)));
        let mean = delays.iter().sum::<u32>() / 10_000;
        assert!((990..=1010).contains(&mean), "{mean}");
        assert_eq!(jitter.spread(0), 0);
        assert_eq!(jitter.spread(4), 4);
        let delays: Vec<u32> = (0..10_000).map(|_| jitter.spread_up_to(100, 300)).collect();
        assert_eq!((delays.iter().min(), delays.iter().max()), (Some(&80), Some(&300)));
        assert!((0..1000).all(|_| jitter.spread_up_to(100, 90) <= 120));
        let ages: Vec<Duration> = (0..10_000).map(|_| jitter.spread_age(Duration::from_secs(1))).collect();
        let bounds = (Duration::from_millis(900), Duration::from_millis(1100));
        assert_eq!((ages.iter().min(), ages.iter().max()), (Some(&bounds.0), Some(&bounds.1)));
    }
}
