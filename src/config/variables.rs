//! The table of environment variables. Startup, `check` and `--help` all use it, so that behaviour and documentation
//! cannot differ.
//!
//! To add a variable, add a row here and a field, with its default, to [`Config`] or to the core's
//! [`Settings`](crate::gateway::Settings); then use it.

use super::certificates;
use super::fields::{Config, line};
use super::redis;
use super::url::{self, CallbackUrl};
use super::values::{
    address, choice, integer, log_level, mode, name_of, origins, port, seconds, socket_path, token, token_file,
};
use crate::gateway::{ConnectFailure, Cors};
use crate::logger::LogFormat;
use crate::secret::Secret;
use std::ffi::OsString;
use std::fmt::Display;

/// 1 GiB: more in one buffer is a typing error. It fits every `usize`.
const BYTES_MAX: u64 = 1 << 30;
/// Some 11 days; with the jitter it fits the 31 bits of the `retry` field.
const RECONNECT_DELAY_MAX: u64 = 1_000_000_000;
/// Each takes a thread; far more than is useful.
const CONCURRENCY_MAX: u64 = 10_000;
/// More than any machine can hold.
const STREAMS_MAX: u64 = 1_000_000_000;
/// Room for a few hundred streams, and for a send of the largest size beside them.
pub(super) const MEMORY_MIN: u64 = 16 << 20;
/// More than any machine has.
const MEMORY_MAX: u64 = 1 << 50;
/// More than the buffers of proxies, which are 4 to 16 KiB.
const PADDING_MAX: u64 = 64 * 1024;
/// A request line and a Host header fit.
const HEADER_BYTES_MIN: u64 = 256;

const CONNECT_FAILURES: [(&str, ConnectFailure); 2] =
    [("status", ConnectFailure::Status), ("retry", ConnectFailure::Retry)];
const REJECTION_BODIES: [(&str, bool); 2] = [("pass", true), ("replace", false)];
const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

/// One environment variable: docs/protocol.md, section 2.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// The value if it is not set.
    pub default: DefaultValue,
    /// Its line in `--help`.
    pub help: &'static str,
    read: Read,
    show: Show,
    bad_value: BadValue,
    /// Otherwise an empty value is read, and refused, like any other.
    pub(super) empty_is_unset: bool,
}

/// The value of a variable that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// The one in [`Config::default`].
    Literal,
    /// Absent, or derived from something else, as the phrase says.
    Derived(&'static str),
}

/// How to treat an invalid value.
#[derive(Clone, Copy, Debug)]
enum BadValue {
    /// The gateway does not start; an error line quotes the value.
    Refused,
    /// The same; the error line quotes the result of this function.
    RefusedMasked(fn(&str) -> String),
    /// The gateway starts with the default and logs an error.
    Replaced,
}

/// Reads text into a field. Errors: a phrase with the allowed values.
type Read = fn(&mut Config, &str) -> Result<(), String>;
/// The effective value as text, secrets masked; empty if there is none.
type Show = fn(&Config) -> String;

impl Variable {
    /// Reads a value from the environment into its field. Errors: one line with name, value (secrets masked) and
    /// allowed values.
    pub(super) fn read(&self, config: &mut Config, value: OsString) -> Result<(), String> {
        let (text, result) = match value.into_string() {
            Ok(text) => {
                let result = (self.read)(config, &text);
                (text, result)
            }
            Err(value) => (value.to_string_lossy().into_owned(), Err("must be UTF-8".to_owned())),
        };
        result.map_err(|allowed| match self.bad_value {
            BadValue::Refused | BadValue::Replaced => line(self.name, &text, &allowed),
            BadValue::RefusedMasked(mask) => line(self.name, &mask(&text), &allowed),
        })
    }

    /// The effective value as text, secrets masked; empty if there is none.
    pub fn show(&self, config: &Config) -> String {
        (self.show)(config)
    }

    /// Whether the default replaces a bad value.
    pub(super) fn is_replaceable(&self) -> bool {
        matches!(self.bad_value, BadValue::Replaced)
    }

    const fn on_bad_value(self, bad_value: BadValue) -> Self {
        Self { bad_value, ..self }
    }

    const fn refuse_empty(self) -> Self {
        Self { empty_is_unset: false, ..self }
    }
}

const fn row(name: &'static str, default: DefaultValue, help: &'static str, read: Read, show: Show) -> Variable {
    Variable { name, default, help, read, show, bad_value: BadValue::Refused, empty_is_unset: true }
}

/// Stores a value in its field, if it could be read.
fn set<T>(field: &mut T, value: Result<T, impl Into<String>>) -> Result<(), String> {
    *field = value.map_err(Into::into)?;
    Ok(())
}

#[inline(never)]
fn shown(value: &dyn Display) -> String {
    value.to_string()
}

/// Empty for an absent value.
fn optional<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(String::new, show)
}

/// Stores the token of a file in its field, and the file's name in the one that `check` shows.
fn set_from_file(token: &mut Option<Secret>, file: &mut Option<String>, name: &str, path: &str) -> Result<(), String> {
    if token.is_some() {
        return Err(format!("must not be set together with {name}"));
    }
    set(token, token_file(path).map(Some))?;
    *file = Some(path.to_owned());
    Ok(())
}

/// A secret as `check` shows it.
fn hide(secret: &str) -> String {
    if secret.is_empty() { String::new() } else { "***".to_owned() }
}

/// All variables, in the order of docs/protocol.md.
#[rustfmt::skip]
pub const VARIABLES: &[Variable] = {
    use BadValue::{RefusedMasked, Replaced};
    use DefaultValue::{Derived, Literal};
    &[
        row("CALLBACK_URL", Derived("none"), "backend endpoint: http, https or http+unix://%2Fpath%2Fof.sock/path; user:pass@ is sent as Basic auth",
            |config, text| set(&mut config.callback_url, CallbackUrl::parse(text).map(Some)),
            |config| optional(config.callback_url.as_ref(), CallbackUrl::masked))
            .on_bad_value(RefusedMasked(url::mask)),
        row("PORT", Literal, "port for clients, 1-65535",
            |config, text| set(&mut config.port, port(text)),
            |config| shown(&config.port)),
        row("HEARTBEAT_INTERVAL_SECONDS", Literal, "time between heartbeats of a stream",
            |config, text| set(&mut config.gateway.heartbeat_interval, seconds(text, 1)),
            |config| shown(&config.gateway.heartbeat_interval.as_secs()))
            .on_bad_value(Replaced),
        row("OPENING_COMMENT", Literal, "whether each stream begins with a comment, for proxies that hold back a head alone: on or off",
            |config, text| set(&mut config.gateway.opening_comment, choice(text, &SWITCH)),
            |config| name_of(config.gateway.opening_comment, &SWITCH)),
        row("PADDING_BYTES", Literal, "bytes added to that comment and to heartbeats, for proxies that hold back small writes",
            |config, text| set(&mut config.gateway.padding_bytes, integer(text, 0, PADDING_MAX)),
            |config| shown(&config.gateway.padding_bytes)),
        row("LISTEN_ADDRESS", Literal, "address of PORT; :: accepts IPv4 too and becomes 0.0.0.0 where there is no IPv6",
            |config, text| set(&mut config.listen_address, address(text)),
            |config| shown(&config.listen_address)),
        row("INTERNAL_PORT", Derived("none"), "a second port; if set, /internal/* is served there only",
            |config, text| set(&mut config.internal_port, port(text).map(Some)),
            |config| optional(config.internal_port, |port| shown(&port))),
        row("INTERNAL_ADDRESS", Derived("LISTEN_ADDRESS"), "address of INTERNAL_PORT",
            |config, text| set(&mut config.internal_address, address(text).map(Some)),
            |config| shown(&config.internal_address())),
        row("INTERNAL_SOCKET", Derived("none"), "path of a Unix socket; if set, /internal/* is served there (and on INTERNAL_PORT) only",
            |config, path| set(&mut config.internal_socket, socket_path(path.as_ref()).map(Some)),
            |config| optional(config.internal_socket.as_ref(), |path| path.display().to_string())),
        row("INTERNAL_SOCKET_MODE", Literal, "permissions of that socket, as octal digits",
            |config, text| set(&mut config.internal_socket_mode, mode(text)),
            |config| format!("{:o}", config.internal_socket_mode)),
        row("INTERNAL_TOKEN", Derived("none"), "bearer token that /internal/* requires",
            |config, text| set(&mut config.gateway.internal_token, token(text).map(Some)),
            |config| optional(config.gateway.internal_token.as_ref(), |token| hide(token.expose())))
            .on_bad_value(RefusedMasked(hide)).refuse_empty(),
        row("INTERNAL_TOKEN_FILE", Derived("none"), "file that holds INTERNAL_TOKEN; set one or the other",
            |config, path| set_from_file(
                &mut config.gateway.internal_token, &mut config.internal_token_file, "INTERNAL_TOKEN", path),
            |config| config.internal_token_file.clone().unwrap_or_default())
            .refuse_empty(),
        row("CALLBACK_TOKEN", Derived("none"), "bearer token that callbacks carry",
            |config, text| set(&mut config.callback_token, token(text).map(Some)),
            |config| optional(config.callback_token.as_ref(), |token| hide(token.expose())))
            .on_bad_value(RefusedMasked(hide)).refuse_empty(),
        row("CALLBACK_TOKEN_FILE", Derived("none"), "file that holds CALLBACK_TOKEN; set one or the other",
            |config, path| set_from_file(
                &mut config.callback_token, &mut config.callback_token_file, "CALLBACK_TOKEN", path),
            |config| config.callback_token_file.clone().unwrap_or_default())
            .refuse_empty(),
        row("CALLBACK_CA_FILE", Derived("SSL_CERT_FILE"),
            "certificates (PEM) that an https backend's may come from, or be, besides the built-in authorities",
            |config, path| {
                set(&mut config.callback_roots, certificates::all(path))?;
                set(&mut config.callback_ca_file, Ok::<_, String>(Some(path.to_owned())))
            },
            |config| config.callback_ca_file.clone().unwrap_or_default()),
        row("CALLBACK_TIMEOUT_SECONDS", Literal, "timeout of one callback, from name lookup to answer",
            |config, text| set(&mut config.gateway.callback_timeout, seconds(text, 1)),
            |config| shown(&config.gateway.callback_timeout.as_secs())),
        row("CONNECT_QUEUE_SECONDS", Literal, "longest wait of a connect for a free callback worker",
            |config, text| set(&mut config.gateway.connect_queue, seconds(text, 1)),
            |config| shown(&config.gateway.connect_queue.as_secs())),
        row("CALLBACK_CONCURRENCY", Literal, "maximum callbacks in flight",
            |config, text| set(&mut config.gateway.callback_concurrency, integer(text, 1, CONCURRENCY_MAX)),
            |config| shown(&config.gateway.callback_concurrency)),
        row("DISCONNECT_RETRY_SECONDS", Literal, "how long to retry a disconnect that the backend did not receive; 0: not at all",
            |config, text| set(&mut config.gateway.disconnect_retry, seconds(text, 0)),
            |config| shown(&config.gateway.disconnect_retry.as_secs())),
        row("START_CALLBACK", Literal, "whether the backend is told of each start of the gateway before the first connect: on or off",
            |config, text| set(&mut config.gateway.start_callback, choice(text, &SWITCH)),
            |config| name_of(config.gateway.start_callback, &SWITCH)),
        row("CONNECT_FAILURE", Literal,
            "what clients get while the backend is unreachable: an error (status), or a short stream after which they reconnect (retry)",
            |config, text| set(&mut config.gateway.connect_failure, choice(text, &CONNECT_FAILURES)),
            |config| name_of(config.gateway.connect_failure, &CONNECT_FAILURES)),
        row("REJECTION_BODY", Literal, "whether a rejected client gets the backend's body (pass) or a short JSON error (replace)",
            |config, text| set(&mut config.pass_rejections, choice(text, &REJECTION_BODIES)),
            |config| name_of(config.pass_rejections, &REJECTION_BODIES)),
        row("RECONNECT_DELAY_MILLISECONDS", Derived("none"), "retry field sent to clients, plus or minus 20 %",
            |config, text| set(&mut config.gateway.reconnect_delay_ms, integer(text, 0, RECONNECT_DELAY_MAX).map(Some)),
            |config| optional(config.gateway.reconnect_delay_ms, |delay| shown(&delay))),
        row("CORS_ORIGINS", Derived("none"), "origins whose pages may read streams, comma-separated, or *",
            |config, text| set(&mut config.gateway.cors, origins(text)),
            |config| match &config.gateway.cors {
                Cors::Off => String::new(),
                Cors::Any => "*".to_owned(),
                Cors::Origins(list) => list.join(","),
            }),
        row("MAX_STREAMS", Derived("from the descriptor limit"), "maximum streams",
            |config, text| set(&mut config.streams_wanted, integer(text, 1, STREAMS_MAX).map(Some)),
            |config| shown(&config.gateway.streams_max)),
        row("POST_STREAMS", Literal, "whether a POST asks for a stream as a GET does, with its body for the backend: on or off",
            |config, text| set(&mut config.gateway.post_streams, choice(text, &SWITCH)),
            |config| name_of(config.gateway.post_streams, &SWITCH)),
        row("MAX_STREAM_BODY_BYTES", Literal, "maximum size of the body of a POST that asks for a stream",
            |config, text| set(&mut config.gateway.stream_body_bytes_max, integer(text, 1, BYTES_MAX)),
            |config| shown(&config.gateway.stream_body_bytes_max)),
        row("MAX_STREAM_SECONDS", Literal, "a stream ends after so long, plus or minus 10 %, and its client reconnects; 0: never",
            |config, text| set(&mut config.gateway.stream_age_max, seconds(text, 0).map(|age| Some(age).filter(|age| !age.is_zero()))),
            |config| shown(&config.gateway.stream_age_max.map_or(0, |age| age.as_secs()))),
        row("MAX_HEADER_BYTES", Literal, "maximum size of request line and headers",
            |config, text| set(&mut config.gateway.head_bytes_max, integer(text, HEADER_BYTES_MIN, BYTES_MAX)),
            |config| shown(&config.gateway.head_bytes_max)),
        row("MAX_BODY_BYTES", Literal, "maximum size of a request body",
            |config, text| set(&mut config.gateway.body_bytes_max, integer(text, 1, BYTES_MAX)),
            |config| shown(&config.gateway.body_bytes_max)),
        row("MAX_PENDING_BYTES", Literal, "maximum unsent bytes of a stream",
            |config, text| set(&mut config.gateway.pending_bytes_max, integer(text, 1, BYTES_MAX)),
            |config| shown(&config.gateway.pending_bytes_max)),
        row("MEMORY_LIMIT_BYTES", Derived("three quarters of the cgroup's limit"),
            "memory that clients and senders may take up together",
            |config, text| set(&mut config.gateway.memory_bytes_max, integer(text, MEMORY_MIN, MEMORY_MAX).map(Some)),
            |config| optional(config.gateway.memory_bytes_max, |bytes| shown(&bytes))),
        row("REQUEST_TIMEOUT_SECONDS", Literal, "time limit for a whole request to arrive",
            |config, text| set(&mut config.gateway.request_timeout, seconds(text, 1)),
            |config| shown(&config.gateway.request_timeout.as_secs())),
        row("KEEPALIVE_TIMEOUT_SECONDS", Literal, "idle timeout of a connection between requests",
            |config, text| set(&mut config.gateway.keepalive_timeout, seconds(text, 1)),
            |config| shown(&config.gateway.keepalive_timeout.as_secs())),
        row("CLIENT_TIMEOUT_SECONDS", Literal, "longest time without progress for a client with unsent bytes",
            |config, text| set(&mut config.gateway.client_timeout, seconds(text, 1)),
            |config| shown(&config.gateway.client_timeout.as_secs())),
        row("SHUTDOWN_DELAY_SECONDS", Literal, "time to keep serving after SIGTERM, with /readyz at 503",
            |config, text| set(&mut config.gateway.shutdown_delay, seconds(text, 0)),
            |config| shown(&config.gateway.shutdown_delay.as_secs())),
        row("SHUTDOWN_TIMEOUT_SECONDS", Literal, "longest drain after that delay",
            |config, text| set(&mut config.gateway.shutdown_timeout, seconds(text, 1)),
            |config| shown(&config.gateway.shutdown_timeout.as_secs())),
        row("HISTORY_SECONDS", Literal, "how long a group's events are kept for replay after the last one; 0: no replay",
            |config, text| set(&mut config.gateway.history_age, seconds(text, 0)),
            |config| shown(&config.gateway.history_age.as_secs())),
        row("HISTORY_EVENTS", Literal, "maximum events kept of one group",
            |config, text| set(&mut config.gateway.history_events, integer(text, 1, BYTES_MAX)),
            |config| shown(&config.gateway.history_events)),
        row("HISTORY_BYTES", Literal, "maximum memory for the events of all groups",
            |config, text| set(&mut config.gateway.history_bytes, integer(text, 1, BYTES_MAX)),
            |config| shown(&config.gateway.history_bytes)),
        row("REDIS_URL", Derived("none"), "Redis that makes several gateways one: redis://user:password@host:port/db",
            |config, text| set(&mut config.gateway.redis, redis::parse(text).map(Some)),
            |config| optional(config.gateway.redis.as_ref(), redis::masked))
            .on_bad_value(RefusedMasked(redis::mask)),
        row("REDIS_PREFIX", Literal, "beginning of every key and channel in Redis, one for each cluster of gateways",
            |config, text| set(&mut config.redis_prefix, redis::prefix(text)),
            |config| config.redis_prefix.clone()),
        row("REDIS_TIMEOUT_SECONDS", Literal, "longest wait for an answer of Redis",
            |config, text| set(&mut config.redis_timeout, seconds(text, 1)),
            |config| shown(&config.redis_timeout.as_secs())),
        row("LOG_LEVEL", Literal, "error, warn, info, debug, trace or off",
            |config, text| set(&mut config.log_level, log_level(text)),
            |config| config.log_level.as_str().to_ascii_lowercase()),
        row("LOG_FORMAT", Literal, "text, or json: one object per line",
            |config, text| set(&mut config.log_format, choice(text, &LOG_FORMATS)),
            |config| name_of(config.log_format, &LOG_FORMATS)),
        row("LOG_QUERY", Literal, "off strips the query from logged URLs, in case it holds tokens",
            |config, text| set(&mut config.gateway.log_query, choice(text, &SWITCH)),
            |config| name_of(config.gateway.log_query, &SWITCH)),
    ]
};
