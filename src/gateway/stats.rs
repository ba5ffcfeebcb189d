//! The counters for `/internal/metrics`: plain integers, changed where things happen.

use super::answers::{ConnectResult, Refusal};
use super::feed::FeedEnd;
use super::group_stats::{GroupStats, Lag};
use super::redis_stats::{RedisFigures, RemoteCounts};
use super::results::SendResult;
use crate::callback::{Detail, Outcome, Reason};
use crate::hub::{EndReason, GroupCounts, Lane, LaneCounts};
use crate::metrics::{Exposition, Histogram};
use std::time::Duration;

/// Why a callback failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallFailure {
    Status,
    Unavailable,
    Timeout,
}

impl CallFailure {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Status, "status"), (Self::Unavailable, "unavailable"), (Self::Timeout, "timeout")];
}

const REASONS: [Reason; 3] = [Reason::ClientClosed, Reason::ServerClosed, Reason::Error];

/// The possible details of a reason; `None` is "none".
const DETAILS: [Option<Detail>; 11] = [
    None,
    Some(Detail::SlowConsumer),
    Some(Detail::ClientTimeout),
    Some(Detail::Shutdown),
    Some(Detail::WriteFailed),
    Some(Detail::ExcessInput),
    Some(Detail::ConnectTimeout),
    Some(Detail::ConnectBroken),
    Some(Detail::GroupEnded),
    Some(Detail::NothingToAttach),
    Some(Detail::Expired),
];

/// The `action` of each lane's callbacks, at its index.
const ACTIONS: [&str; Lane::COUNT] = ["connect", "disconnect"];

/// From a backend on the same machine to the longest usual timeouts.
const CALLBACK_BOUNDS: [u64; 14] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    u64::MAX,
];

/// A turn that serves a few events takes tens of microseconds; one above 10 ms delays all clients noticeably.
const TURN_BOUNDS: [u64; 12] = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, u64::MAX];

/// The operating system's figures of the process; see [`crate::reactor::System::process_figures`]. Unavailable ones are
/// left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// User and system time of all threads.
    pub cpu: Option<Duration>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Virtual memory.
    pub virtual_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// The limit of descriptors.
    pub descriptors_max: Option<u64>,
    /// Seconds since the Unix epoch.
    pub started_at: Option<u64>,
}

/// The counters.
pub(super) struct Stats {
    /// Open streams, without connecting ones.
    pub streams_open: u64,
    pub connections_accepted: u64,
    pub connections_evicted: u64,
    pub events: u64,
    pub event_bytes: u64,
    pub heartbeats: u64,
    pub groups: GroupStats,
    pub feeds: Feeds,
    pub remote: RemoteCounts,
    /// Disconnects that were queued for another attempt.
    pub redeliveries: u64,
    connects: [u64; ConnectResult::COUNT],
    sends: [u64; SendResult::LABELS.len()],
    refusals: [u64; Refusal::COUNT],
    disconnects: [[u64; DETAILS.len()]; REASONS.len()],
    call_failures: [[u64; CallFailure::ALL.len()]; ACTIONS.len()],
    call_times: [Histogram<{ CALLBACK_BOUNDS.len() }>; ACTIONS.len()],
    turns: Histogram<{ TURN_BOUNDS.len() }>,
}

/// Feeds.
#[derive(Clone, Copy, Default)]
pub(super) struct Feeds {
    /// Being read now.
    pub open: u64,
    /// By how they ended.
    ends: [u64; FeedEnd::LABELS.len()],
    /// Sends in them, by what became of each.
    lines: [u64; SendResult::LABELS.len()],
}

impl Feeds {
    /// One has ended.
    pub(super) fn end(&mut self, end: FeedEnd) {
        self.open -= 1;
        self.ends[end.index()] += 1;
    }
}

/// Gauges: the current state, which counters do not have.
pub(super) struct Gauges {
    pub ready: bool,
    pub streams_connecting: u64,
    pub streams_max: u64,
    pub connections_open: u64,
    pub calls: [LaneCounts; Lane::COUNT],
    pub calls_limit: u64,
    pub pending_bytes: u64,
    pub pending_bytes_largest: u64,
    pub groups: GroupCounts,
    pub lag: Lag,
    pub memory_bytes: u64,
    pub memory_bytes_max: Option<u64>,
    pub redis: Option<RedisFigures>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            streams_open: 0,
            connections_accepted: 0,
            connections_evicted: 0,
            events: 0,
            event_bytes: 0,
            heartbeats: 0,
            groups: GroupStats::default(),
            feeds: Feeds::default(),
            remote: RemoteCounts::default(),
            redeliveries: 0,
            connects: [0; _],
            sends: [0; _],
            refusals: [0; _],
            disconnects: [[0; _]; _],
            call_failures: [[0; _]; _],
            call_times: [const { Histogram::new(&CALLBACK_BOUNDS) }; _],
            turns: Histogram::new(&TURN_BOUNDS),
        }
    }
}

impl Stats {
    pub(super) fn connect(&mut self, result: ConnectResult) {
        self.connects[result as usize] += 1;
    }

    /// The number of streams with that result so far.
    pub(super) fn connects(&self, result: ConnectResult) -> u64 {
        self.connects[result as usize]
    }

    pub(super) fn send(&mut self, result: SendResult) {
        self.sends[result.index()] += 1;
    }

    /// A send in a feed; it counts as any other, too.
    pub(super) fn feed_line(&mut self, result: SendResult) {
        self.send(result);
        self.feeds.lines[result.index()] += 1;
    }

    /// Events of groups were written to a stream.
    pub(super) fn deliver(&mut self, events: u64, bytes: usize) {
        self.sent(events, bytes);
        self.groups.deliveries += events;
    }

    /// Events were appended to a stream, in so many bytes of frames.
    pub(super) fn sent(&mut self, events: u64, bytes: usize) {
        self.events += events;
        self.event_bytes += bytes as u64;
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.refusals[refusal as usize] += 1;
    }

    pub(super) fn disconnect(&mut self, ending: EndReason) {
        self.disconnects[ending.reason as usize][detail_index(ending.detail)] += 1;
    }

    pub(super) fn call_ended(&mut self, lane: Lane, outcome: &Outcome, took: Duration) {
        self.call_times[lane as usize].observe(took);
        let failure = match (lane, outcome) {
            (_, Outcome::Answered { status: 200..=299, .. }) => return,
            // A rejection is an answer.
            (Lane::Connects, Outcome::Answered { .. }) => return,
            (Lane::Disconnects, Outcome::Answered { .. }) => CallFailure::Status,
            (_, Outcome::Unavailable { .. }) => CallFailure::Unavailable,
            (_, Outcome::Overdue | Outcome::TimedOut { .. }) => CallFailure::Timeout,
        };
        self.call_failures[lane as usize][failure as usize] += 1;
    }

    pub(super) fn turn(&mut self, took: Duration) {
        self.turns.observe(took);
    }

    /// All metrics as text.
    pub(super) fn render(&self, gauges: &Gauges, process: &ProcessFigures) -> String {
        let mut text = Exposition::default();
        text.family("ssegateway_build_info", "gauge", "1, with the version as a label.");
        text.sample("ssegateway_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        text.gauge("ssegateway_ready", "Whether /readyz says so.", u64::from(gauges.ready));
        self.render_streams(&mut text, gauges);
        self.groups.render(&mut text, &gauges.groups, gauges.lag);
        self.render_callbacks(&mut text, gauges);
        self.render_connections(&mut text, gauges);
        if let Some(redis) = &gauges.redis {
            redis.render(&mut text, &self.remote);
        }
        render_process(&mut text, process);
        text.into_text()
    }

    fn render_streams(&self, text: &mut Exposition, gauges: &Gauges) {
        text.gauge("ssegateway_streams_open", "Streams that are open now.", self.streams_open);
        text.gauge(
            "ssegateway_streams_connecting",
            "Clients that wait for the backend's decision now.",
            gauges.streams_connecting,
        );
        text.gauge(
            "ssegateway_streams_max",
            "Most streams there may be, connecting ones included.",
            gauges.streams_max,
        );
        let name = "ssegateway_connects_total";
        text.family(name, "counter", "Requests for a stream, by what became of them.");
        for (label, count) in ConnectResult::labels().zip(self.connects) {
            text.sample(name, &[("result", label)], count);
        }
        let name = "ssegateway_disconnects_total";
        text.family(name, "counter", "Ends of accepted streams, by the reason and detail told to the backend.");
        for reason in REASONS {
            for (detail, count) in DETAILS.iter().zip(self.disconnects[reason as usize]) {
                // Every possible combination from the start; others cannot occur.
                if count > 0 || goes_with(reason, *detail) {
                    let detail = detail.map_or("none", Detail::as_str);
                    text.sample(name, &[("reason", reason.as_str()), ("detail", detail)], count);
                }
            }
        }
        let slow = |detail| self.disconnects[Reason::Error as usize][detail_index(Some(detail))];
        text.counter(
            "ssegateway_slow_readers_dropped_total",
            "Streams ended because their client did not keep up (slow_consumer and client_timeout).",
            slow(Detail::SlowConsumer) + slow(Detail::ClientTimeout),
        );
        text.counter("ssegateway_events_sent_total", "Events written to streams.", self.events);
        text.counter("ssegateway_event_bytes_sent_total", "Bytes of those events' frames.", self.event_bytes);
        text.counter("ssegateway_heartbeats_sent_total", "Heartbeats written to streams.", self.heartbeats);
        text.gauge(
            "ssegateway_pending_bytes",
            "Bytes that wait for slow clients now, or for the backend's decision, not counting those in the kernel.",
            gauges.pending_bytes,
        );
        text.gauge(
            "ssegateway_pending_bytes_largest",
            "Of those, the bytes of the client that has most.",
            gauges.pending_bytes_largest,
        );
        let name = "ssegateway_sends_total";
        text.family(name, "counter", "Sends by the backend, by what became of them.");
        for (label, count) in SendResult::LABELS.into_iter().zip(self.sends) {
            text.sample(name, &[("result", label)], count);
        }
        text.gauge("ssegateway_feeds_open", "Streaming sends that are being read now.", self.feeds.open);
        let name = "ssegateway_feeds_total";
        text.family(name, "counter", "Streaming sends that are over, by how they ended.");
        for (label, count) in FeedEnd::LABELS.into_iter().zip(self.feeds.ends) {
            text.sample(name, &[("end", label)], count);
        }
        let name = "ssegateway_feed_sends_total";
        text.family(name, "counter", "Of the sends, those that came in streaming sends, by what became of them.");
        for (label, count) in SendResult::LABELS.into_iter().zip(self.feeds.lines) {
            text.sample(name, &[("result", label)], count);
        }
    }

    fn render_callbacks(&self, text: &mut Exposition, gauges: &Gauges) {
        let name = "ssegateway_callback_duration_seconds";
        text.family(name, "histogram", "Time from the start of a callback to its outcome.");
        for (action, times) in ACTIONS.iter().zip(&self.call_times) {
            text.histogram(name, &[("action", action)], times);
        }
        let name = "ssegateway_callback_failures_total";
        text.family(name, "counter", "Callbacks that got no usable answer; a rejected connect got one.");
        for lane in Lane::ALL {
            for (failure, label) in CallFailure::ALL {
                if (lane, failure) != (Lane::Connects, CallFailure::Status) {
                    let count = self.call_failures[lane as usize][failure as usize];
                    text.sample(name, &[("action", ACTIONS[lane as usize]), ("reason", label)], count);
                }
            }
        }
        text.counter(
            "ssegateway_disconnect_retries_total",
            "Disconnects queued again because the backend did not receive them (DISCONNECT_RETRY_SECONDS).",
            self.redeliveries,
        );
        let name = "ssegateway_callbacks_in_flight";
        text.family(name, "gauge", "Callbacks being made now.");
        for (action, counts) in ACTIONS.iter().zip(gauges.calls) {
            text.sample(name, &[("action", action)], counts.in_flight as u64);
        }
        text.gauge(
            "ssegateway_callbacks_limit",
            "Callbacks that may be in flight now, by what the backend can take; at most CALLBACK_CONCURRENCY.",
            gauges.calls_limit,
        );
        let name = "ssegateway_callbacks_waiting";
        text.family(name, "gauge", "Callbacks that wait for a free worker now.");
        for (action, counts) in ACTIONS.iter().zip(gauges.calls) {
            text.sample(name, &[("action", action)], counts.waiting as u64);
        }
    }

    fn render_connections(&self, text: &mut Exposition, gauges: &Gauges) {
        text.counter(
            "ssegateway_connections_accepted_total",
            "Connections accepted on both ports.",
            self.connections_accepted,
        );
        text.counter(
            "ssegateway_connections_evicted_total",
            "Connections closed because others needed their places: silent ones, then unfinished requests.",
            self.connections_evicted,
        );
        text.gauge(
            "ssegateway_memory_bytes",
            "Memory that clients and senders make the gateway and the kernel hold, estimated.",
            gauges.memory_bytes,
        );
        if let Some(max) = gauges.memory_bytes_max {
            text.gauge("ssegateway_memory_max_bytes", "Most of it there may be (MEMORY_LIMIT_BYTES).", max);
        }
        text.gauge("ssegateway_connections_open", "Connections that are open now.", gauges.connections_open);
        let name = "ssegateway_requests_refused_total";
        text.family(name, "counter", "Requests refused before they came to a stream or a send.");
        for (label, count) in Refusal::labels().zip(self.refusals) {
            text.sample(name, &[("reason", label)], count);
        }
        let name = "ssegateway_loop_turn_seconds";
        text.family(name, "histogram", "Time of one turn of the event loop, waiting not included.");
        text.histogram(name, &[], &self.turns);
    }
}

fn detail_index(detail: Option<Detail>) -> usize {
    DETAILS.iter().position(|known| *known == detail).unwrap_or(0)
}

fn goes_with(reason: Reason, detail: Option<Detail>) -> bool {
    match (reason, detail) {
        (Reason::ClientClosed | Reason::ServerClosed, None) => true,
        (Reason::ServerClosed, Some(detail)) => is_clean(detail),
        (Reason::Error, Some(detail)) => !is_clean(detail),
        (Reason::ClientClosed, Some(_)) | (Reason::Error, None) => false,
    }
}

/// Whether a stream with that detail ends as it should.
fn is_clean(detail: Detail) -> bool {
    match detail {
        Detail::Shutdown | Detail::GroupEnded | Detail::NothingToAttach | Detail::Expired => true,
        Detail::SlowConsumer
        | Detail::ClientTimeout
        | Detail::WriteFailed
        | Detail::ExcessInput
        | Detail::ConnectTimeout
        | Detail::ConnectBroken => false,
    }
}

/// The names used by all Prometheus client libraries.
fn render_process(text: &mut Exposition, process: &ProcessFigures) {
    if let Some(cpu) = process.cpu {
        text.time_counter("process_cpu_seconds_total", "User and system time.", cpu);
    }
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
        ("process_virtual_memory_bytes", "Virtual memory.", process.virtual_bytes),
        ("process_threads", "Threads.", process.threads),
        ("process_open_fds", "Open descriptors.", process.descriptors),
        ("process_max_fds", "Most open descriptors there may be.", process.descriptors_max),
        ("process_start_time_seconds", "When the process started, in seconds since 1970.", process.started_at),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            text.gauge(name, help, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_at_their_index() {
        assert!(CallFailure::ALL.iter().enumerate().all(|(index, (failure, _))| *failure as usize == index));
        assert!(REASONS.iter().enumerate().all(|(index, reason)| *reason as usize == index));
        assert!(Lane::ALL.iter().enumerate().all(|(index, lane)| *lane as usize == index));
    }
}
