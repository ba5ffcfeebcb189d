//! The table of environment variables. `--help`, `check` and the parser all read it, so that what is
//! documented, shown and done cannot differ.

/// One environment variable; also its row in [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    CallbackUrl,
    Port,
    HeartbeatInterval,
    ListenAddress,
    InternalPort,
    InternalAddress,
    InternalToken,
    CallbackToken,
    CallbackTimeout,
    ConnectQueue,
    CallbackConcurrency,
    ConnectFailure,
    ReconnectDelay,
    CorsOrigins,
    MaxStreams,
    MaxHeaderBytes,
    MaxBodyBytes,
    MaxPendingBytes,
    RequestTimeout,
    KeepaliveTimeout,
    ClientTimeout,
    ShutdownDelay,
    ShutdownTimeout,
    LogLevel,
    LogFormat,
    LogQuery,
}

/// What the value of a variable is when the environment does not set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This text, parsed like a value from the environment.
    Text(&'static str),
    /// Worked out, as the phrase says; or simply absent.
    Computed(&'static str),
}

/// One row: docs/protocol.md, section 2.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub variable: Variable,
    pub name: &'static str,
    pub default: Fallback,
    pub meaning: &'static str,
}

impl Variable {
    /// The row of this variable.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The name in the environment.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether the value must never be shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Variable::InternalToken | Variable::CallbackToken)
    }
}

const fn row(variable: Variable, name: &'static str, default: Fallback, meaning: &'static str) -> Row {
    Row { variable, name, default, meaning }
}

/// All variables, in the order of [`Variable`].
#[rustfmt::skip]
pub const TABLE: [Row; 26] = {
    use Fallback::{Computed, Text};
    use Variable as V;
    [
        row(V::CallbackUrl, "CALLBACK_URL", Computed("none"), "backend endpoint, http or https; user:pass@ is sent as Basic auth"),
        row(V::Port, "PORT", Text("3000"), "port for clients, 1-65535"),
        row(V::HeartbeatInterval, "HEARTBEAT_INTERVAL_SECONDS", Text("15"), "time between heartbeats of a stream"),
        row(V::ListenAddress, "LISTEN_ADDRESS", Text("::"), "address of PORT; :: takes IPv4 too, and becomes 0.0.0.0 where there is no IPv6"),
        row(V::InternalPort, "INTERNAL_PORT", Computed("none"), "a second port; if set, /internal/* is served there only"),
        row(V::InternalAddress, "INTERNAL_ADDRESS", Computed("LISTEN_ADDRESS"), "address of INTERNAL_PORT"),
        row(V::InternalToken, "INTERNAL_TOKEN", Computed("none"), "bearer token that /internal/* asks for"),
        row(V::CallbackToken, "CALLBACK_TOKEN", Computed("none"), "bearer token that callbacks carry"),
        row(V::CallbackTimeout, "CALLBACK_TIMEOUT_SECONDS", Text("5"), "time for one callback, name lookup to answer"),
        row(V::ConnectQueue, "CONNECT_QUEUE_SECONDS", Text("30"), "longest wait of a connect for a free callback worker"),
        row(V::CallbackConcurrency, "CALLBACK_CONCURRENCY", Text("128"), "most callbacks in flight"),
        row(V::ConnectFailure, "CONNECT_FAILURE", Text("status"), "an unreachable backend gives clients an error (status) or a short stream to retry after (retry)"),
        row(V::ReconnectDelay, "RECONNECT_DELAY_MILLISECONDS", Computed("none"), "retry field sent to clients, give or take 20 %"),
        row(V::CorsOrigins, "CORS_ORIGINS", Computed("none"), "origins that may read streams, comma-separated, or *"),
        row(V::MaxStreams, "MAX_STREAMS", Computed("from the descriptor limit"), "most streams at once"),
        row(V::MaxHeaderBytes, "MAX_HEADER_BYTES", Text("16384"), "longest request line and headers"),
        row(V::MaxBodyBytes, "MAX_BODY_BYTES", Text("1048576"), "longest body of a send"),
        row(V::MaxPendingBytes, "MAX_PENDING_BYTES", Text("1048576"), "most unsent bytes of a stream"),
        row(V::RequestTimeout, "REQUEST_TIMEOUT_SECONDS", Text("10"), "time for a whole request to arrive"),
        row(V::KeepaliveTimeout, "KEEPALIVE_TIMEOUT_SECONDS", Text("75"), "longest idle time of a connection between requests"),
        row(V::ClientTimeout, "CLIENT_TIMEOUT_SECONDS", Text("30"), "longest time without progress while bytes for a client are unsent"),
        row(V::ShutdownDelay, "SHUTDOWN_DELAY_SECONDS", Text("0"), "time of normal service, but not ready, after SIGTERM"),
        row(V::ShutdownTimeout, "SHUTDOWN_TIMEOUT_SECONDS", Text("10"), "longest drain after that"),
        row(V::LogLevel, "LOG_LEVEL", Text("info"), "error, warn, info, debug, trace or off"),
        row(V::LogFormat, "LOG_FORMAT", Text("text"), "text, or json: one object a line"),
        row(V::LogQuery, "LOG_QUERY", Text("on"), "off leaves the query out of logged URLs, since tokens travel in it"),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_variables() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.variable as usize, index, "{}", row.name);
            assert_eq!(row.variable.row().name, row.name);
        }
    }
}
