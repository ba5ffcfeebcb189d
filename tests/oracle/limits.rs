//! Limits: of time, of what is held for a client, of what it may send, and of memory.

use super::exchange::Exchange;
use super::streams::Phase;
use super::{Oracle, millis};
use ssegateway::timer::TICK_MS;

/// A write offers no more than this at once.
pub(crate) const OFFER_MAX: usize = 64 * 1024;
/// A connection that was shut down is closed after this, whatever its peer does.
pub(crate) const LINGER: u64 = 1000;
/// A client that has taken something in counts as one that reads for so long.
pub(crate) const READS_FOR: u64 = 1000;
/// So many times as much as others may a client that reads have unsent.
pub(super) const READER_FACTOR: usize = 4;
/// The clock jumps if it moves so far beyond the time that the loop was to sleep.
pub(crate) const JUMP_MIN: u64 = 250;
/// After a jump of the clock deadlines are held for so long at most.
pub(crate) const HOLD_MAX: u64 = 1000;
/// Bytes of answers that wait for a client before no more of its requests are read.
pub(crate) const ANSWERS_MAX: usize = 64 * 1024;
/// When so many streams have gone their memory is given back.
pub(crate) const MANY_STREAMS: usize = 64;
/// What may be sent behind a stream's GET and its body.
const EXCESS_MAX: u64 = 8 * 1024;

/// Whether something due at `deadline` has been seen to by a turn at `now`: timers have the
/// resolution of a tick. (Between the two it may or may not; the worlds keep the gateway from being
/// told the time then, so that the oracle can be exact.)
pub(crate) fn due(deadline: u64, now: u64) -> bool {
    now >= deadline.next_multiple_of(TICK_MS)
}

/// Whether a turn at `now` may or may not see to something due at `deadline`.
fn doubtful(deadline: u64, now: u64) -> bool {
    now >= deadline && !due(deadline, now)
}

impl Exchange {
    /// More was sent behind a stream's GET than may be.
    pub(crate) fn is_flooded(&self) -> bool {
        self.stream.is_some() && self.excess() > EXCESS_MAX
    }
}

impl Oracle {
    /// The next time from `time` on at which it is certain of every deadline whether it has been seen to.
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

    /// Whether the client of connection `n` has taken nothing for too long.
    pub(crate) fn is_stalled(&self, n: usize) -> bool {
        let it = &self.exchanges[n];
        it.backlog > 0 && due(it.progress_at + millis(self.settings.client_timeout), self.now)
    }

    /// Memory is given back: that takes its time, and is for when many have left.
    pub(crate) fn memory_released(&mut self) {
        let streams = self.streams();
        assert!(self.streams_peak >= MANY_STREAMS, "memory given back behind a few streams");
        assert!(streams <= self.streams_peak / 2, "memory given back before half of the streams have gone");
        self.streams_peak = streams;
    }

    /// The most that the gateway may hold for one client: what a stream may pile up, and what the last
    /// input can have added to it, each of its bytes a line break at worst.
    fn backlog_max(&self) -> usize {
        READER_FACTOR * self.settings.pending_bytes_max + 8 * (self.settings.body_bytes_max + OFFER_MAX)
    }

    /// At the end of a turn nobody has got more time or room than is allowed.
    pub(super) fn check_limits(&self, n: usize) {
        let (it, now) = (&self.exchanges[n], self.now);
        let lingers = it.shut_at.is_some_and(|at| due(at + LINGER, now));
        assert!(!lingers, "client {n}: not closed a second after it was shut down");
        assert!(!self.is_stalled(n), "client {n}: a stalled reader was not dropped");
        assert!(it.backlog <= self.backlog_max(), "client {n}: {} bytes held", it.backlog);
        if it.wild {
            return;
        }
        if let Some(stream) = &it.stream {
            let missed = stream.heartbeats_owed > 0 && it.backlog == 0;
            assert!(!missed, "client {n}: a heartbeat is missing");
        } else if it.is_reading() && it.started_at.is_none() && it.backlog == 0 {
            let idle = due(it.progress_at + millis(self.settings.keepalive_timeout), now);
            assert!(!idle, "client {n}: an idle connection was not closed");
        }
    }
}
