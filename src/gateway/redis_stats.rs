//! The metrics of several gateways: of the connection to Redis, and of what came over it.

use crate::metrics::Exposition;
use crate::redis::{Link, LinkCounts};

/// Counters of what gateways ask each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RemoteCounts {
    /// Sends to tokens of other gateways, by their result.
    pub answered: u64,
    pub not_found: u64,
    pub unanswered: u64,
    /// Streams that were told of a gap while they were open.
    pub gaps: u64,
    /// Pages of kept events that were asked for.
    pub pages: u64,
}

/// The state of the connection.
pub(super) struct RedisFigures {
    is_live: bool,
    waiting: u64,
    followed: u64,
    counts: LinkCounts,
}

impl RedisFigures {
    pub(super) fn of(link: &Link) -> Self {
        Self {
            is_live: link.is_live(),
            waiting: link.waiting() as u64,
            followed: link.followed() as u64,
            counts: link.counts(),
        }
    }

    pub(super) fn render(&self, text: &mut Exposition, remote: &RemoteCounts) {
        let LinkCounts { connects, catch_ups, epochs } = self.counts;
        for (name, help, value) in [
            (
                "ssegateway_redis_up",
                "Whether there is a connection to Redis, and all was read that was missed.",
                u64::from(self.is_live),
            ),
            ("ssegateway_redis_requests_waiting", "Requests to Redis without an answer now.", self.waiting),
            ("ssegateway_redis_groups_followed", "Groups that this gateway is subscribed to now.", self.followed),
        ] {
            text.gauge(name, help, value);
        }
        for (name, help, count) in [
            ("ssegateway_redis_connects_total", "Connections to Redis that were made.", connects),
            ("ssegateway_redis_catch_ups_total", "Of these, those in which what was missed could be read.", catch_ups),
            ("ssegateway_redis_epochs_total", "New epochs, in which every stream gets a gap.", epochs),
            ("ssegateway_redis_gaps_total", "Streams that were told of a gap while they were open.", remote.gaps),
            (
                "ssegateway_redis_pages_total",
                "Reads of up to 64 KiB of kept events that this gateway had dropped for HISTORY_BYTES.",
                remote.pages,
            ),
        ] {
            text.counter(name, help, count);
        }
        let name = "ssegateway_remote_sends_total";
        text.family(name, "counter", "Sends to streams of other gateways, by what became of them.");
        for (label, count) in
            [("answered", remote.answered), ("not_found", remote.not_found), ("unanswered", remote.unanswered)]
        {
            text.sample(name, &[("result", label)], count);
        }
    }
}
