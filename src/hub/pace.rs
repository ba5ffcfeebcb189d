//! The limit of callbacks in flight: as many as the backend answers promptly.
//!
//! A backend with a few synchronous workers queues the calls it cannot serve yet, and queued calls time out. So the
//! calls wait here instead. The limit follows the latency of the calls: in a queue latency grows with the number of
//! calls, below the number of workers it does not. The target latency is a small part of the timeout, or twice the
//! lowest latency seen; so a backend that becomes several times slower still answers the calls in flight.

use crate::clock::Millis;
use std::time::Duration;

/// The initial limit, for an unknown backend. A single worker can serve them all within the timeout of 5 s if each
/// takes no more than half a second.
const START: f64 = 8.0;
/// The lowest limit: one call of each kind.
const LEAST: f64 = 2.0;
/// Fraction of the timeout below which a call is not slow.
const TARGET_PART: f64 = 0.2;
/// Multiple of the lowest latency below which a call is not slow.
const TARGET_MULTIPLE: f64 = 2.0;
/// Fraction of the timeout up to which that multiple applies, and the fraction above which every call is slow.
const MULTIPLE_PART_MAX: f64 = 0.5;
const TARGET_PART_MAX: f64 = 0.7;
/// Fraction of the timeout that calls may take if the limit jumps to the capacity shown by the first answers.
const JUMP_PART: f64 = 1.0 / 3.0;
/// Calls whose latencies differ by less have not waited for each other.
const SAME_MS: f64 = 10.0;
/// A limit that has not been reached for this long is no longer trusted: the backend may have changed.
const TRUST_MS: u64 = 10_000;
/// Multiple of the lowest latency after which nothing answered is remarkable, and the fractions of the timeout that limit it.
const PATIENCE_MULTIPLE: f64 = 3.0;
const PATIENCE_PARTS: [f64; 2] = [0.1, 0.25];
/// Fractions of the timeout between two calls that are tried while nothing is answered: if so many cannot overload even a
/// single worker; if they could; and after timeouts, when the backend may be down.
const PROBE_PART_HARMLESS: f64 = 0.004;
const PROBE_PART: f64 = 0.04;
const PROBE_PART_FAILING: f64 = 0.2;
/// Minimum number of answers in a mean.
const SAMPLES_MIN: u32 = 4;

/// The outcome of a call, as far as it shows the backend's capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Answered,
    /// Answered with a server error. Its latency is not meaningful.
    Erred,
    TimedOut,
    /// Refused, reset, unresolvable.
    Unavailable,
}

/// How the limit grows while it is reached and answers are prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    /// With the answers: at least doubled in the time of one call.
    Fast,
    /// By an eighth in the time of one call.
    Slow,
}

/// A limit that was lowered because answers were slow.
#[derive(Clone, Copy, Debug)]
struct Lowered {
    /// The highest expected latency now, if the cause was a queue.
    expected_ms: f64,
    /// How many times in a row it was lowered without effect.
    in_vain: u32,
}

/// The limit of callbacks in flight. Time is passed in.
#[derive(Debug)]
pub(crate) struct Pace {
    ceiling: f64,
    timeout_ms: f64,
    limit: f64,
    growth: Growth,
    /// The lowest mean latency so far, or a higher one, if lowering the limit has shown that the backend cannot be
    /// faster.
    lowest_ms: Option<f64>,
    /// The first mean is not complete yet.
    is_new: bool,
    /// Answers to calls that started since then are averaged; earlier ones belong to another limit.
    since: Millis,
    samples: u32,
    sum_ms: f64,
    /// When the first of them arrived, and how many calls started by then took no longer than the quickest.
    first_end: Option<Millis>,
    at_once: u32,
    /// The limit was reached in this period.
    reached: bool,
    reached_at: Millis,
    lowered: Option<Lowered>,
    /// When a failure lowered the limit; calls started by then do not lower it again.
    cut_at: Option<Millis>,
    /// The kind of the last failure, if no call has been answered since.
    failing: Option<Ending>,
}

impl Pace {
    /// At most `ceiling` (at least 1) in flight; `timeout` is that of a call.
    pub(crate) fn new(ceiling: usize, timeout: Duration) -> Self {
        let ceiling = ceiling.max(1) as f64;
        Self {
            ceiling,
            timeout_ms: timeout.as_millis() as f64,
            limit: START.min(ceiling),
            growth: Growth::Fast,
            lowest_ms: None,
            is_new: true,
            since: Millis::ZERO,
            samples: 0,
            sum_ms: 0.0,
            first_end: None,
            at_once: 0,
            reached: false,
            reached_at: Millis::ZERO,
            lowered: None,
            cut_at: None,
            failing: None,
        }
    }

    /// The current maximum of callbacks in flight.
    pub(crate) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// The places among those that one kind leaves to the other.
    pub(crate) fn reserve(&self) -> usize {
        reserve_of(self.limit())
    }

    /// How long nothing may be answered until another call is tried although there is no place: several times the time of
    /// a call.
    pub(crate) fn patience(&self) -> Duration {
        let usual = self.lowest_ms.map_or(f64::INFINITY, |lowest| PATIENCE_MULTIPLE * lowest);
        let [least, most] = PATIENCE_PARTS.map(|part| part * self.timeout_ms);
        Duration::from_millis(usual.clamp(least, most) as u64)
    }

    /// From one such call to the next, if `in_flight` are.
    pub(crate) fn probe_interval(&self, in_flight: usize) -> Duration {
        // A single worker could answer as many as that in time.
        let harmless = self.lowest_ms.map_or(START, |lowest| JUMP_PART * self.timeout_ms / lowest);
        let part = if self.failing.is_some() {
            PROBE_PART_FAILING
        } else if (in_flight as f64) < harmless {
            PROBE_PART_HARMLESS
        } else {
            PROBE_PART
        };
        Duration::from_millis((part * self.timeout_ms) as u64)
    }

    /// A call starts; `in_flight` includes it, but not those that hang.
    pub(crate) fn started(&mut self, now: Millis, in_flight: usize) {
        if now.since(self.reached_at) > TRUST_MS && self.limit > START {
            self.limit = self.limit.min(START.max(2.0 * in_flight as f64));
            self.growth = Growth::Fast;
            self.reached_at = now;
            self.restart(now);
        }
        if in_flight + self.reserve() >= self.limit() {
            self.reached = true;
            self.reached_at = now;
        }
    }

    /// A call has ended. `true`: it is a failure that lowers the limit.
    pub(crate) fn ended(&mut self, now: Millis, started_at: Millis, ending: Ending) -> bool {
        match ending {
            Ending::Answered => self.answered(now, started_at),
            Ending::Erred => {}
            Ending::TimedOut | Ending::Unavailable => return self.failed(now, started_at, ending),
        }
        false
    }

    fn answered(&mut self, now: Millis, started_at: Millis) {
        if self.failing.take() == Some(Ending::Unavailable) {
            self.set(self.limit.max(START));
        }
        if started_at < self.since {
            return;
        }
        let took_ms = now.since(started_at).max(1) as f64;
        self.samples += 1;
        self.sum_ms += took_ms;
        let mean_ms = self.sum_ms / f64::from(self.samples);
        if self.is_new {
            self.lowest_ms = Some(self.lowest_ms.map_or(took_ms, |lowest| lowest.min(took_ms)));
        }
        let target_ms = self.target_ms();
        if self.growth == Growth::Fast {
            if is_slow(took_ms, target_ms) && mean_ms > target_ms / 2.0 {
                // The limit has about doubled since that call started.
                self.growth = Growth::Slow;
                self.is_new = false;
                self.set(self.limit / 2.0);
                return self.restart(now);
            }
            if self.reached {
                self.grow_fast(now, started_at, took_ms, target_ms);
            }
        }
        if f64::from(self.samples) >= self.limit.max(f64::from(SAMPLES_MIN)) {
            self.judge(now, mean_ms);
        }
    }

    fn grow_fast(&mut self, now: Millis, started_at: Millis, took_ms: f64, target_ms: f64) {
        let lowest_ms = self.lowest_ms.unwrap_or(took_ms);
        let first_end = *self.first_end.get_or_insert(now);
        let is_same = took_ms <= (1.5 * lowest_ms).max(lowest_ms + SAME_MS);
        let mut limit = self.limit;
        if is_same || took_ms <= target_ms / 2.0 {
            // Twice as many in the time of a call, or fewer if that could make them late.
            limit += (TARGET_PART_MAX * self.timeout_ms / lowest_ms - 1.0).clamp(0.0, 1.0);
        }
        if is_same && (started_at < first_end || self.at_once == 0) {
            // At least this many are served in parallel; they answer this many in that fraction of the timeout.
            self.at_once += 1;
            limit = limit.max(f64::from(self.at_once) * JUMP_PART * self.timeout_ms / lowest_ms);
        }
        self.set(limit);
    }

    /// Decides by the mean latency of the calls that started under this limit.
    fn judge(&mut self, now: Millis, mean_ms: f64) {
        self.is_new = false;
        self.lowest_ms = Some(self.lowest_ms.map_or(mean_ms, |lowest| lowest.min(mean_ms)));
        let mut in_vain = 0;
        if let Some(lowered) = self.lowered.take()
            && mean_ms > lowered.expected_ms
        {
            in_vain = lowered.in_vain + 1;
            if in_vain >= 2 {
                // Not a queue: the backend is that slow, or has become so.
                self.lowest_ms = Some(mean_ms);
                self.growth = Growth::Fast;
            }
        }
        let target_ms = self.target_ms();
        if is_slow(mean_ms, target_ms) {
            self.lower(mean_ms, target_ms, in_vain);
        } else if self.reached && self.growth == Growth::Slow {
            self.set(self.limit + (self.limit / 8.0).max(1.0));
        }
        self.restart(now);
    }

    /// By a large step, so that the effect can be distinguished from noise.
    fn lower(&mut self, mean_ms: f64, target_ms: f64, in_vain: u32) {
        self.growth = Growth::Slow;
        let before = self.limit;
        self.set(before * (0.8 * target_ms / mean_ms).clamp(0.5, 0.7));
        // A limit that cannot be lowered counts as one without effect.
        let part = if self.limit < before { f64::midpoint(1.0, self.limit / before) } else { 0.0 };
        self.lowered = Some(Lowered { expected_ms: mean_ms * part, in_vain });
    }

    fn failed(&mut self, now: Millis, started_at: Millis, ending: Ending) -> bool {
        if self.cut_at.is_some_and(|cut_at| started_at <= cut_at) {
            self.failing.get_or_insert(ending);
            return false;
        }
        // Halved once, and lowered to a few if the next calls fail too: the backend is then down, and may return
        // changed.
        let is_down = self.failing.is_some();
        let limit = if is_down { LEAST } else { self.limit / 2.0 };
        self.growth = if is_down || ending == Ending::Unavailable { Growth::Fast } else { Growth::Slow };
        self.failing = Some(ending);
        self.cut_at = Some(now);
        self.set(limit);
        self.restart(now);
        true
    }

    /// The latency above which the limit is lowered.
    fn target_ms(&self) -> f64 {
        let usual = TARGET_PART * self.timeout_ms;
        let lowest_ms = self.lowest_ms.unwrap_or(0.0);
        let multiple = (TARGET_MULTIPLE * lowest_ms).min((MULTIPLE_PART_MAX * self.timeout_ms).max(1.25 * lowest_ms));
        usual.max(multiple).min(TARGET_PART_MAX * self.timeout_ms)
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.max(LEAST).min(self.ceiling);
    }

    /// Starts a new mean.
    fn restart(&mut self, now: Millis) {
        self.since = now;
        self.samples = 0;
        self.sum_ms = 0.0;
        self.first_end = None;
        self.at_once = 0;
        self.reached = false;
    }

    /// Panics if the limit is out of its bounds.
    pub(crate) fn assert_invariants(&self) {
        assert!(self.limit >= LEAST.min(self.ceiling) && self.limit <= self.ceiling, "a limit of {}", self.limit);
    }
}

/// The places among `limit` that one kind of callbacks leaves to the other: a sixty-fourth, at least one.
pub(crate) fn reserve_of(limit: usize) -> usize {
    if limit > 1 { (limit / 64).max(1) } else { 0 }
}

fn is_slow(latency_ms: f64, target_ms: f64) -> bool {
    latency_ms > target_ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    const TIMEOUT_MS: u64 = 5000;

    /// A backend whose workers take calls one by one from one queue, and the gateway in front of it.
    struct Model {
        pace: Pace,
        /// When each worker is free.
        workers: BinaryHeap<Reverse<u64>>,
        /// Duration of a call by its start time, in milliseconds.
        service_ms: fn(u64) -> u64,
        now: u64,
        /// End, start and ending of the calls in flight.
        flying: BinaryHeap<Reverse<(u64, u64, bool)>>,
        timeouts: usize,
        answered: usize,
    }

    impl Model {
        fn new(workers: usize, service_ms: fn(u64) -> u64) -> Self {
            Self {
                pace: Pace::new(128, Duration::from_millis(TIMEOUT_MS)),
                workers: (0..workers).map(|_| Reverse(0)).collect(),
                service_ms,
                now: 0,
                flying: BinaryHeap::new(),
                timeouts: 0,
                answered: 0,
            }
        }

        fn start(&mut self) {
            let Reverse(free) = self.workers.pop().unwrap();
            let begin = free.max(self.now);
            let end = begin + (self.service_ms)(begin);
            // It also works on calls that have timed out.
            self.workers.push(Reverse(end));
            let in_time = end < self.now + TIMEOUT_MS;
            self.flying.push(Reverse((end.min(self.now + TIMEOUT_MS), self.now, in_time)));
            self.pace.started(Millis::from_millis(self.now), self.flying.len());
        }

        fn finish_one(&mut self) {
            let Reverse((end, start, in_time)) = self.flying.pop().unwrap();
            self.now = end;
            let ending = if in_time { Ending::Answered } else { Ending::TimedOut };
            self.pace.ended(Millis::from_millis(end), Millis::from_millis(start), ending);
            self.pace.assert_invariants();
            self.timeouts += usize::from(!in_time);
            self.answered += usize::from(in_time);
        }

        /// Makes that many calls at once; returns the time until all have ended.
        fn wave(&mut self, count: usize) -> u64 {
            let start = self.now;
            let mut waiting = count;
            loop {
                while waiting > 0 && self.flying.len() + self.pace.reserve() < self.pace.limit() {
                    waiting -= 1;
                    self.start();
                }
                if self.flying.is_empty() {
                    return self.now - start;
                }
                self.finish_one();
            }
        }
    }

    /// Sends a wave of 600 calls to a backend that needs `ideal_ms` for them.
    fn assert_all_answered(workers: usize, service_ms: fn(u64) -> u64, ideal_ms: u64, what: &str) {
        let mut model = Model::new(workers, service_ms);
        let took_ms = model.wave(600);
        assert_eq!(model.timeouts, 0, "{what}");
        assert!(took_ms <= ideal_ms * 115 / 100, "{what}: {took_ms} of {ideal_ms} ms");
    }

    #[test]
    fn a_wave_takes_as_long_as_the_backend_needs_and_no_call_times_out() {
        type Service = (u64, fn(u64) -> u64);
        let services: [Service; 5] = [(5, |_| 5), (20, |_| 20), (50, |_| 50), (200, |_| 200), (500, |_| 500)];
        for workers in [1, 2, 3, 4, 8, 16, 64] {
            for (time_ms, service_ms) in services {
                // It takes the time of a call to find out how many can be in flight.
                let ideal_ms = 600_u64.div_ceil(workers) * time_ms + 2 * time_ms;
                assert_all_answered(workers as usize, service_ms, ideal_ms, &format!("{workers} x {time_ms} ms"));
            }
        }
    }

    #[test]
    fn workers_that_double_and_halve_their_speed_are_not_overloaded() {
        // 200 ms at first, then 100, 200, 400 and so on, each for two seconds.
        assert_all_answered(4, |now| [200, 100, 200, 400][(now / 2000 % 4) as usize], 28_000, "slowly");
        assert_all_answered(4, |now| [100, 400][(now / 3000 % 2) as usize], 25_000, "fourfold");
        assert_all_answered(4, |now| [200, 400][usize::from(now > 5000)], 55_000, "permanently slower");
        assert_all_answered(1, |now| [50, 25, 50, 100][(now / 2000 % 4) as usize], 28_000, "one worker");
    }

    #[test]
    fn a_slow_backend_with_enough_workers_gets_all_calls() {
        for time_ms in [300_u64, 1000, 2000, 3000] {
            let service_ms: fn(u64) -> u64 = match time_ms {
                300 => |_| 300,
                1000 => |_| 1000,
                2000 => |_| 2000,
                _ => |_| 3000,
            };
            let mut model = Model::new(10_000, service_ms);
            model.wave(5000);
            assert_eq!((model.timeouts, model.pace.limit()), (0, 128), "{time_ms} ms");
        }
        // Immediate answers say nothing about the others.
        let mut model = Model::new(10_000, |now| if now % 3 == 0 { 1 } else { 1500 });
        model.wave(5000);
        assert!(model.timeouts == 0 && model.pace.limit() > 64, "{}", model.pace.limit());
    }

    #[test]
    fn a_fast_backend_gets_all_calls_after_its_first_answers() {
        let mut model = Model::new(10_000, |_| 20);
        let took_ms = model.wave(5000);
        // 40 rounds of 126.
        assert!(took_ms <= 41 * 20, "{took_ms} ms");
    }

    #[test]
    fn a_limit_not_reached_for_long_is_reset() {
        let mut model = Model::new(10_000, |now| if now < 60_000 { 20 } else { 300 });
        model.wave(1000);
        assert_eq!(model.pace.limit(), 128);
        model.now = 60_000;
        model.workers = [Reverse(0)].into();
        model.wave(30);
        assert_eq!((model.timeouts, model.answered), (0, 1030));
    }

    #[test]
    fn while_calls_fail_only_a_few_at_a_time_are_tried() {
        for ending in [Ending::TimedOut, Ending::Unavailable] {
            let mut model = Model::new(10_000, |_| 20);
            model.wave(1000);
            let mut at = 60_000;
            for round in 0..5 {
                let count = model.pace.limit();
                for _ in 0..count {
                    model.pace.started(Millis::from_millis(at), count);
                }
                for _ in 0..count {
                    model.pace.ended(Millis::from_millis(at + 10), Millis::from_millis(at), ending);
                }
                assert!(round < 2 || count == 2, "{count} in round {round}");
                at += 20;
            }
            model.now = at;
            assert!(model.wave(600) < 600, "it comes back at once");
        }
    }
}
