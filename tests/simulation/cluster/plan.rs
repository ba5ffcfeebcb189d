//! What a seed is about.

use crate::random::Random;
use std::time::Duration;

/// What may happen to Redis, to connections to it, and to gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A connection breaks, at any byte on both ways.
    Cut,
    /// On one way of a connection nothing arrives any more, and nobody is told.
    HalfOpen,
    /// A gateway cannot connect, for longer than what is kept lives.
    Partition,
    /// Redis does not answer for a while.
    Stall,
    /// It is away for a while, and comes back with its data and another replication id.
    Restart,
    /// The same without its data.
    RestartEmpty,
    /// A replica takes its place that may lack the last sends.
    Failover,
    /// Keys that would expire are dropped.
    Eviction,
    /// All of them are, by an operator.
    Flush,
    /// Scripts are refused that write.
    OutOfMemory,
    /// Connections are cut that read too slowly.
    OutputLimit,
    /// Its clock goes wrong by up to 25 s in either direction, and right again.
    Clock,
    /// A gateway is killed, and started again.
    Crash,
    /// It is stopped and started.
    Drain,
}

const FAULTS: [Fault; 14] = [
    Fault::Cut,
    Fault::HalfOpen,
    Fault::Partition,
    Fault::Stall,
    Fault::Restart,
    Fault::RestartEmpty,
    Fault::Failover,
    Fault::Eviction,
    Fault::Flush,
    Fault::OutOfMemory,
    Fault::OutputLimit,
    Fault::Clock,
    Fault::Crash,
    Fault::Drain,
];

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) gateways: usize,
    /// In so many of 1000 steps all that is on its way arrives.
    pub(super) prompt: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) history_events: usize,
    pub(super) history_age: Duration,
    /// What a gateway holds of it: Redis has the rest.
    pub(super) history_bytes: usize,
    /// The longest part of a page, as if events were large.
    pub(super) page_bytes: Option<usize>,
    /// Entries of the log of sends, as if there were those of others.
    pub(super) log_entries: Option<usize>,
    /// The name of Redis must be looked up.
    pub(super) is_named: bool,
    pub(super) has_redis: bool,
    pub(super) slow_readers: bool,
}

impl Plan {
    /// Even seeds mix all faults, odd ones have one; some have none.
    pub(super) fn draw(seed: u64) -> Self {
        // Others than those of the run.
        let random = &mut Random::new(!seed);
        let faults = match (random.below(8), seed % 2) {
            (0, _) => Vec::new(),
            (_, 0) => FAULTS.into_iter().filter(|_| random.chance(350)).collect(),
            _ => vec![random.pick(&FAULTS)],
        };
        let ages = faults.contains(&Fault::Clock) || faults.contains(&Fault::Partition);
        Self {
            gateways: random.within(1, 4) as usize,
            prompt: random.pick(&[1000, 1000, 500, 150]),
            history_events: random.pick(&[4, 100_000, 100_000]),
            history_age: Duration::from_secs(if ages || random.chance(150) { random.within(2, 20) } else { 300 }),
            history_bytes: random.pick(&[16 << 20, 16 << 20, 1500, 400]),
            page_bytes: random.chance(700).then(|| random.within(1, 500) as usize),
            log_entries: random.chance(200).then(|| random.within(3, 30) as usize),
            is_named: random.chance(300),
            has_redis: true,
            slow_readers: true,
            faults,
        }
    }

    /// One gateway to which nothing happens.
    pub(super) fn calm(has_redis: bool) -> Self {
        Self {
            gateways: 1,
            prompt: 1000,
            faults: Vec::new(),
            history_events: 100_000,
            history_age: Duration::from_secs(300),
            history_bytes: 16 << 20,
            page_bytes: None,
            log_entries: None,
            is_named: false,
            has_redis,
            slow_readers: false,
        }
    }

    /// Whether Redis gets everything in the order in which it is asked, whoever asks.
    pub(super) fn is_orderly(&self) -> bool {
        self.prompt == 1000 && self.faults.is_empty()
    }

    /// Whether Redis knows which gateways there are, and they are there for more than moments.
    pub(super) fn keeps_registrations(&self) -> bool {
        let forgets = |fault: &Fault| match fault {
            Fault::Partition | Fault::Eviction | Fault::Flush | Fault::Clock | Fault::Crash | Fault::OutputLimit => {
                true
            }
            Fault::Cut
            | Fault::HalfOpen
            | Fault::Stall
            | Fault::Restart
            | Fault::RestartEmpty
            | Fault::Failover
            | Fault::OutOfMemory
            | Fault::Drain => false,
        };
        !self.faults.iter().any(forgets)
    }

    /// Whether there may be a gap at all: less is kept than is sent, or for less long than it lasts, or data may be lost.
    pub(super) fn may_lose(&self) -> bool {
        let loses = |fault: &Fault| match fault {
            Fault::Partition
            | Fault::Restart
            | Fault::RestartEmpty
            | Fault::Failover
            | Fault::Eviction
            | Fault::Flush
            | Fault::Clock => true,
            Fault::Cut
            | Fault::HalfOpen
            | Fault::Stall
            | Fault::OutOfMemory
            | Fault::OutputLimit
            | Fault::Crash
            | Fault::Drain => false,
        };
        self.history_events < 1000 || self.history_age.as_secs() < 300 || self.faults.iter().any(loses)
    }
}
