//! Limits: on time, on queued output, on excess input, and on memory.

use super::exchange::Exchange;
use super::streams::Phase;
use super::{Oracle, millis};
use ssegateway::timer::TICK_MS;

/// The most that one write offers.
pub(crate) const OFFER_MAX: usize = 64 * 1024;
/// A connection that was shut down is closed after this silence of its peer, or after this total time; while draining,
/// after a moment.
const LINGER_SILENCE: u64 = 5_000;
const LINGER_MAX: u64 = 30_000;
const LINGER_DRAINING: u64 = 1_000;
/// How long a client counts as reading after it has accepted bytes.
pub(crate) const READS_FOR: u64 = 1000;
/// How many times the usual limit a client that reads may have unsent.
pub(crate) const READER_FACTOR: usize = 4;
/// Waking this much later than planned counts as a jump of the clock.
pub(crate) const JUMP_MIN: u64 = 250;
/// The longest time that deadlines are held after a jump of the clock.
pub(crate) const HOLD_MAX: u64 = 1000;
/// Unsent bytes of answers above which no more requests are read.
pub(crate) const ANSWERS_MAX: usize = 64 * 1024;
/// After this many streams have gone, their memory is released.
pub(crate) const MANY_STREAMS: usize = 64;
/// Bytes allowed after a stream's GET and its body.
const EXCESS_MAX: u64 = 8 * 1024;

/// Whether a turn at `now` must have handled something due at `deadline`: timers have the resolution of a tick. (Before
/// the tick ends it may or may not be handled; the worlds avoid such times, so that the oracle can be exact.)
pub(crate) fn due(deadline: u64, now: u64) -> bool {
    now >= deadline.next_multiple_of(TICK_MS)
}

/// Whether it is uncertain if a turn at `now` handles something due at `deadline`.
fn doubtful(deadline: u64, now: u64) -> bool {
    now >= deadline && !due(deadline, now)
}

impl Exchange {
    /// Whether more bytes were sent after a stream's GET than allowed.
    pub(crate) fn is_flooded(&self) -> bool {
        self.stream.is_some() && self.excess() > EXCESS_MAX
    }
}

impl Oracle {
    /// The first time from `time` on at which the state of every deadline is certain.
    pub(crate) fn certain_time(&self, time: u64) -> u64 {
        let settings = &self.settings;
        let is_doubtful = self.open.iter().any(|n| {
            let it = &self.exchanges[*n];
            let request = it.started_at.is_some_and(|at| doubtful(at + millis(settings.request_timeout), time));
            let stream = it.stream.as_ref().is_some_and(|stream| match stream.phase {
                Phase::Connecting => doubtful(stream.answer_by, time),
                Phase::Open => doubtful(stream.heartbeat_at, time),
                Phase::Over => false,
            });
            let progress = [millis(settings.client_timeout), millis(settings.keepalive_timeout)]
                .iter()
                .any(|timeout| doubtful(it.progress_at + timeout, time));
            request || stream || progress
        });
        if is_doubtful { time.next_multiple_of(TICK_MS) } else { time }
    }

    /// Whether the client of connection `n` has accepted nothing for too long.
    pub(crate) fn is_stalled(&self, n: usize) -> bool {
        let it = &self.exchanges[n];
        it.backlog > 0 && due(it.progress_at + millis(self.settings.client_timeout), self.now)
    }

    /// When a shut-down connection is closed if its client stays silent.
    pub(crate) fn lingers_until(&self, n: usize) -> Option<u64> {
        let it = &self.exchanges[n];
        let shut_at = it.shut_at?;
        let client_timeout = millis(self.settings.client_timeout);
        let until = match (it.cut, it.wild) {
            (true, _) => shut_at + client_timeout,
            (false, true) => shut_at + LINGER_MAX.max(client_timeout),
            (false, false) => (it.heard_at.max(shut_at) + LINGER_SILENCE).min(shut_at + LINGER_MAX),
        };
        Some(self.drained_at.map_or(until, |at| until.min(at.max(shut_at) + LINGER_DRAINING)))
    }

    /// Memory is released, which is slow and only worth it after many streams have ended.
    pub(crate) fn memory_released(&mut self) {
        let streams = self.streams();
        assert!(self.streams_peak >= MANY_STREAMS, "memory released after a few streams");
        assert!(streams <= self.streams_peak / 2, "memory released before half of the streams have gone");
        self.streams_peak = streams;
    }

    /// The most that the gateway may queue for one client: a stream's limit, plus the output of the last input, each
    /// byte of which is a line break at worst.
    fn backlog_max(&self) -> usize {
        READER_FACTOR * self.settings.pending_bytes_max + 8 * (self.settings.body_bytes_max + OFFER_MAX)
    }

    /// At the end of a turn no limit on time or memory is exceeded.
    pub(super) fn check_limits(&self, n: usize) {
        let (it, now) = (&self.exchanges[n], self.now);
        let lingers = self.lingers_until(n).is_some_and(|until| due(until, now));
        assert!(!lingers, "client {n}: not closed in time after its last answer");
        assert!(!self.is_stalled(n), "client {n}: a stalled reader was not dropped");
        assert!(it.backlog <= self.backlog_max(), "client {n}: {} bytes queued", it.backlog);
        if it.wild {
            return;
        }
        if let Some(stream) = &it.stream {
            // One that ends with its group has no bytes to show for it, if it is not framed in chunks.
            let is_ending = stream.member.as_ref().is_some_and(|member| member.ending.is_some());
            let missed = stream.heartbeats_owed > 0 && it.backlog == 0 && !is_ending;
            assert!(!missed, "client {n}: a heartbeat is missing");
        } else if it.is_reading() && it.started_at.is_none() && it.backlog == 0 {
            let idle = due(it.progress_at + millis(self.settings.keepalive_timeout), now);
            assert!(!idle, "client {n}: an idle connection was not closed");
        }
    }
}
