//! The core's configuration.

use crate::hub::CallSettings;
use crate::redis::RedisSettings;
use crate::secret::Secret;
use std::time::Duration;

/// The web pages that may read streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cors {
    /// Only those of the same origin.
    Off,
    /// Those of any origin.
    Any,
    /// Origins in lower case.
    Origins(Vec<String>),
}

/// The answer to a client whose connect callback failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// 503 or 504.
    Status,
    /// A stream that carries only `retry:` and ends (docs/protocol.md, section 9).
    Retry,
}

/// The part of the configuration that the protocol depends on; docs/protocol.md, section 2, explains each field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Identifies this run of the gateway: letters, digits and hyphens.
    pub instance: String,
    /// Whether there is a `CALLBACK_URL`.
    pub callback_configured: bool,
    /// `CALLBACK_TIMEOUT_SECONDS`: from the start of an attempt to the head of its answer.
    pub callback_timeout: Duration,
    /// `CONNECT_QUEUE_SECONDS`: the longest wait for a free worker.
    pub connect_queue: Duration,
    /// Callbacks in flight at once; at least 1.
    pub callback_concurrency: usize,
    /// `DISCONNECT_RETRY_SECONDS`: for how long a disconnect that was not received is made again; zero: not at all.
    pub disconnect_retry: Duration,
    /// `START_CALLBACK`: whether the backend is told of the start before the first connect.
    pub start_callback: bool,
    /// `CONNECT_FAILURE`.
    pub connect_failure: ConnectFailure,
    /// `HEARTBEAT_INTERVAL_SECONDS`.
    pub heartbeat_interval: Duration,
    /// `OPENING_COMMENT`: whether a stream begins with a comment.
    pub opening_comment: bool,
    /// `PADDING_BYTES`: the least size of that comment's and each heartbeat's second line; 0: they have none.
    pub padding_bytes: usize,
    /// `RECONNECT_DELAY_MILLISECONDS`: the `retry` that every stream begins with.
    pub reconnect_delay_ms: Option<u32>,
    /// `CORS_ORIGINS`.
    pub cors: Cors,
    /// Whether `/internal/*` has a listener of its own.
    pub internal_listener: bool,
    /// `INTERNAL_TOKEN`.
    pub internal_token: Option<Secret>,
    /// `MAX_STREAMS`, or the number allowed by the descriptor limit.
    pub streams_max: usize,
    /// Places for feeds beside those of all streams; further ones take theirs.
    pub feeds_room: usize,
    /// `MAX_STREAM_SECONDS`: a stream ends after so long, give or take a tenth.
    pub stream_age_max: Option<Duration>,
    /// `POST_STREAMS`: whether a POST outside `/internal/` asks for a stream.
    pub post_streams: bool,
    /// `MAX_STREAM_BODY_BYTES`: the body of such a POST.
    pub stream_body_bytes_max: usize,
    /// `MAX_HEADER_BYTES`.
    pub head_bytes_max: usize,
    /// `MAX_BODY_BYTES`.
    pub body_bytes_max: usize,
    /// `MAX_PENDING_BYTES`: unsent bytes of one stream.
    pub pending_bytes_max: usize,
    /// `MEMORY_LIMIT_BYTES`: all that peers can pile up together.
    pub memory_bytes_max: Option<u64>,
    /// `REQUEST_TIMEOUT_SECONDS`: for a head, and for a body.
    pub request_timeout: Duration,
    /// `KEEPALIVE_TIMEOUT_SECONDS`: silence between two requests.
    pub keepalive_timeout: Duration,
    /// `CLIENT_TIMEOUT_SECONDS`: without any progress of unsent output.
    pub client_timeout: Duration,
    /// `SHUTDOWN_DELAY_SECONDS`: from the signal to the drain.
    pub shutdown_delay: Duration,
    /// `SHUTDOWN_TIMEOUT_SECONDS`: the longest drain.
    pub shutdown_timeout: Duration,
    /// `HISTORY_SECONDS`: how long the events of a group are kept behind the last one; zero: there is no replay.
    pub history_age: Duration,
    /// `HISTORY_EVENTS`: most events kept of one group.
    pub history_events: usize,
    /// `HISTORY_BYTES`: most that is kept in all groups together.
    pub history_bytes: usize,
    /// Whether URLs are logged with their query.
    pub log_query: bool,
    /// `REDIS_URL`: what makes several gateways one.
    pub redis: Option<RedisSettings>,
}

impl Settings {
    /// The limits of callbacks.
    pub(super) fn calls(&self) -> CallSettings {
        CallSettings {
            concurrency: self.callback_concurrency,
            timeout: self.callback_timeout,
            disconnect_retry: self.disconnect_retry,
            tell_start: self.start_callback && self.callback_configured,
            spare_dead_backend: self.connect_failure == ConnectFailure::Retry,
        }
    }

    /// How long a drain awaits the late answers of connects. The disconnects that follow need time of their own: that of
    /// a callback, and a tenth to spare.
    pub(super) fn drain_waits_for_connects(&self) -> Duration {
        let whole = self.shutdown_timeout;
        (whole * 9 / 10).saturating_sub(self.callback_timeout).clamp(whole / 4, whole / 2)
    }
}

/// The defaults of the contract, for a gateway with a backend.
impl Default for Settings {
    fn default() -> Self {
        Self {
            instance: "none".to_owned(),
            callback_configured: true,
            callback_timeout: Duration::from_secs(5),
            connect_queue: Duration::from_secs(30),
            callback_concurrency: 128,
            disconnect_retry: Duration::ZERO,
            start_callback: false,
            connect_failure: ConnectFailure::Status,
            heartbeat_interval: Duration::from_secs(15),
            opening_comment: false,
            padding_bytes: 0,
            reconnect_delay_ms: None,
            cors: Cors::Off,
            internal_listener: false,
            internal_token: None,
            // A placeholder; it is derived from the descriptor limit.
            streams_max: 1024,
            feeds_room: 96,
            post_streams: false,
            stream_body_bytes_max: 256 * 1024,
            stream_age_max: None,
            head_bytes_max: 16 * 1024,
            body_bytes_max: 1024 * 1024,
            pending_bytes_max: 1024 * 1024,
            // Really derived from the limit of the cgroup.
            memory_bytes_max: None,
            request_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(75),
            client_timeout: Duration::from_secs(30),
            shutdown_delay: Duration::ZERO,
            shutdown_timeout: Duration::from_secs(10),
            history_age: Duration::from_secs(300),
            history_events: 16 * 1024,
            history_bytes: 16 * 1024 * 1024,
            log_query: true,
            redis: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_leaves_the_last_disconnects_time_for_their_callback() {
        for (whole, callback, wait_ms) in [(10, 5, 4000), (10, 1, 5000), (10, 30, 2500)] {
            let [shutdown_timeout, callback_timeout] = [whole, callback].map(Duration::from_secs);
            let settings = Settings { shutdown_timeout, callback_timeout, ..Settings::default() };
            assert_eq!(settings.drain_waits_for_connects().as_millis(), wait_ms, "{whole} {callback}");
        }
    }
}
