//! The metrics of groups: sends to them, replays, and what is kept.

use crate::hub::GroupCounts;
use crate::metrics::Exposition;

/// Counters.
#[derive(Clone, Copy, Default)]
pub(super) struct GroupStats {
    pub sends: GroupSends,
    /// Events of groups written to streams.
    pub deliveries: u64,
    pub replays: Replays,
}

/// Streams that have not been written all events of their groups.
#[derive(Clone, Copy, Default)]
pub(super) struct Lag {
    pub streams: u64,
    /// The most events that one of them has not been written; those of several of its groups count for each.
    pub events: u64,
}

/// Sends to groups, by what became of them.
#[derive(Clone, Copy, Default)]
pub(super) struct GroupSends {
    pub reached: u64,
    pub unreached: u64,
    pub ended: u64,
}

/// Clients that came back with a cursor, or for all that is kept, by what they got.
#[derive(Clone, Copy, Default)]
pub(super) struct Replays {
    /// Everything that they had missed.
    pub complete: u64,
    /// A gap, as their cursor is of another epoch.
    pub unknown: u64,
    /// A gap, as something was dropped.
    pub dropped: u64,
    /// A gap, as too much is forgotten to be sure.
    pub forgotten: u64,
}

impl GroupStats {
    pub(super) fn render(&self, text: &mut Exposition, groups: &GroupCounts, lag: Lag) {
        let name = "ssegateway_group_sends_total";
        text.family(name, "counter", "Sends to groups, by whether any stream was in one, or all had ended.");
        let GroupSends { reached, unreached, ended } = self.sends;
        for (label, count) in [("reached", reached), ("unreached", unreached), ("ended", ended)] {
            text.sample(name, &[("result", label)], count);
        }
        let Replays { complete, unknown, dropped, forgotten } = self.replays;
        for (name, help, count) in [
            ("ssegateway_group_deliveries_total", "Events of groups written to streams.", self.deliveries),
            ("ssegateway_replays_total", "Streams that went on without a gap behind a cursor.", complete),
        ] {
            text.counter(name, help, count);
        }
        let name = "ssegateway_gaps_total";
        text.family(name, "counter", "Streams that were told of a gap, by its cause.");
        for (label, count) in [("unknown_cursor", unknown), ("dropped", dropped), ("forgotten", forgotten)] {
            text.sample(name, &[("cause", label)], count);
        }
        let name = "ssegateway_history_dropped_total";
        text.family(name, "counter", "Kept events that were dropped, by the limit that they met.");
        for (label, count) in [("space", groups.dropped_for_space), ("age", groups.dropped_for_age)] {
            text.sample(name, &[("cause", label)], count);
        }
        for (name, help, value) in [
            ("ssegateway_groups", "Groups that have members or something kept now.", groups.groups),
            ("ssegateway_memberships", "Streams in groups now, each once for each of its groups.", groups.memberships),
            ("ssegateway_streams_lagging", "Streams not yet written all kept events of their groups.", lag.streams),
            (
                "ssegateway_lag_events_largest",
                "Of those, the events that the slowest has not been written.",
                lag.events,
            ),
            ("ssegateway_history_events", "Events kept for replay now.", groups.kept_events),
            ("ssegateway_history_bytes", "What they count against HISTORY_BYTES.", groups.kept_bytes),
        ] {
            text.gauge(name, help, value);
        }
    }
}
