//! The core's configuration.

use crate::secret::Secret;
use std::time::Duration;

/// Which web pages may read streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cors {
    Off,
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
    pub callback_timeout: Duration,
    pub connect_queue: Duration,
    /// Callbacks in flight at once; at least 1.
    pub callback_concurrency: usize,
    pub connect_failure: ConnectFailure,
    pub heartbeat_interval: Duration,
    pub reconnect_delay_ms: Option<u32>,
    pub cors: Cors,
    /// Whether `/internal/*` has a listener of its own.
    pub internal_listener: bool,
    pub internal_token: Option<Secret>,
    pub streams_max: usize,
    pub head_bytes_max: usize,
    pub body_bytes_max: usize,
    pub pending_bytes_max: usize,
    pub request_timeout: Duration,
    pub keepalive_timeout: Duration,
    pub client_timeout: Duration,
    pub shutdown_delay: Duration,
    pub shutdown_timeout: Duration,
    /// Whether URLs are logged with their query.
    pub log_query: bool,
}

/// The defaults of the contract, for a gateway with a backend.
impl Default for Settings {
    fn default() -> Self {
        Settings {
            instance: "none".to_owned(),
            callback_configured: true,
            callback_timeout: Duration::from_secs(5),
            connect_queue: Duration::from_secs(30),
            callback_concurrency: 128,
            connect_failure: ConnectFailure::Status,
            heartbeat_interval: Duration::from_secs(15),
            reconnect_delay_ms: None,
            cors: Cors::Off,
            internal_listener: false,
            internal_token: None,
            // Really derived from the descriptor limit.
            streams_max: 1024,
            head_bytes_max: 16 * 1024,
            body_bytes_max: 1024 * 1024,
            pending_bytes_max: 1024 * 1024,
            request_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(75),
            client_timeout: Duration::from_secs(30),
            shutdown_delay: Duration::ZERO,
            shutdown_timeout: Duration::from_secs(10),
            log_query: true,
        }
    }
}
