//! Environment to [`Config`] (docs/protocol.md, section 2). Pure: the environment is passed in.
//!
//! Everything is checked here, once, and all problems are reported together; the rooms below take
//! plain values that need no second look.

mod url;
mod values;
pub mod variables;

pub use url::CallbackUrl;
pub use variables::Variable;

use crate::escape::Escaped;
use crate::gateway::{ConnectFailure, Cors};
use crate::limits::Limits;
use crate::logger::LogFormat;
use crate::secret::Secret;
use log::LevelFilter;
use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// A year. Longer is a typing error, and sums of such times cannot overflow.
const SECONDS_MAX: u64 = 31_536_000;
/// 1 GiB: more in one buffer is a typing error too, and fits every `usize`.
const BYTES_MAX: u64 = 1 << 30;
/// Some 11 days; leaves room for the jitter within the `retry` field's 31 bits.
const RECONNECT_DELAY_MAX: u64 = 1_000_000_000;
/// A thread each; far beyond what helps.
const CONCURRENCY_MAX: u64 = 10_000;
/// More than any machine holds.
const STREAMS_MAX: u64 = 1_000_000_000;
/// A request line and a Host header fit.
const HEADER_BYTES_MIN: u64 = 256;

/// The checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub callback_url: Option<CallbackUrl>,
    /// Port of the public listener, not 0.
    pub port: u16,
    pub heartbeat_interval: Duration,
    /// `::` means dual stack.
    pub listen_address: IpAddr,
    /// Port of the internal listener, not 0.
    pub internal_port: Option<u16>,
    pub internal_address: IpAddr,
    pub internal_token: Option<Secret>,
    pub callback_token: Option<Secret>,
    pub callback_timeout: Duration,
    pub connect_queue: Duration,
    pub callback_concurrency: usize,
    pub connect_failure: ConnectFailure,
    pub reconnect_delay: Option<Duration>,
    pub cors: Cors,
    /// As configured; what is possible is worked out by [`crate::limits::Limits`].
    pub max_streams: Option<usize>,
    pub header_bytes_max: usize,
    pub body_bytes_max: usize,
    pub pending_bytes_max: usize,
    pub request_timeout: Duration,
    pub keepalive_timeout: Duration,
    pub client_timeout: Duration,
    pub shutdown_delay: Duration,
    pub shutdown_timeout: Duration,
    pub log_level: LevelFilter,
    pub log_format: LogFormat,
    /// Whether URLs are logged with their query.
    pub log_query: bool,
}

/// A value that cannot be used; the gateway does not start. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

/// A value that was replaced; the gateway starts and logs this as an error. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(String);

impl Display for Problem {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Display for Warning {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Config {
    /// Reads all variables through `lookup` (`std::env::var_os`, or a test's own). An empty value
    /// counts as unset. Errors: every problem there is, one per bad variable.
    pub fn from_env(lookup: impl Fn(&str) -> Option<OsString>) -> Result<(Config, Vec<Warning>), Vec<Problem>> {
        let mut reader = Reader { lookup, problems: Vec::new(), warnings: Vec::new() };
        // A placeholder for a bad value: never seen, since a problem means there is no `Config`.
        const NONE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
        let callback_url = reader.value(Variable::CallbackUrl, |text| CallbackUrl::parse(text).map_err(str::to_owned));
        let port = reader.port(Variable::Port).unwrap_or(0);
        let listen_address = reader.value(Variable::ListenAddress, values::address).unwrap_or(NONE);
        let config = Config {
            callback_url,
            port,
            heartbeat_interval: reader.heartbeat_interval(),
            listen_address,
            internal_port: reader.port(Variable::InternalPort),
            internal_address: reader.value(Variable::InternalAddress, values::address).unwrap_or(listen_address),
            internal_token: reader.value(Variable::InternalToken, values::token).map(Secret::new),
            callback_token: reader.value(Variable::CallbackToken, values::token).map(Secret::new),
            callback_timeout: reader.seconds(Variable::CallbackTimeout, 1),
            connect_queue: reader.seconds(Variable::ConnectQueue, 1),
            callback_concurrency: reader.count(Variable::CallbackConcurrency, 1, CONCURRENCY_MAX).unwrap_or(1),
            connect_failure: reader
                .value(Variable::ConnectFailure, |text| match text {
                    "status" => Ok(ConnectFailure::Status),
                    "retry" => Ok(ConnectFailure::Retry),
                    _ => Err("must be status or retry".to_owned()),
                })
                .unwrap_or(ConnectFailure::Status),
            reconnect_delay: reader
                .integer(Variable::ReconnectDelay, 0, RECONNECT_DELAY_MAX)
                .map(Duration::from_millis),
            cors: reader.value(Variable::CorsOrigins, values::origins).unwrap_or(Cors::Off),
            max_streams: reader.count(Variable::MaxStreams, 1, STREAMS_MAX),
            header_bytes_max: reader.count(Variable::MaxHeaderBytes, HEADER_BYTES_MIN, BYTES_MAX).unwrap_or(0),
            body_bytes_max: reader.count(Variable::MaxBodyBytes, 1, BYTES_MAX).unwrap_or(0),
            pending_bytes_max: reader.count(Variable::MaxPendingBytes, 1, BYTES_MAX).unwrap_or(0),
            request_timeout: reader.seconds(Variable::RequestTimeout, 1),
            keepalive_timeout: reader.seconds(Variable::KeepaliveTimeout, 1),
            client_timeout: reader.seconds(Variable::ClientTimeout, 1),
            shutdown_delay: reader.seconds(Variable::ShutdownDelay, 0),
            shutdown_timeout: reader.seconds(Variable::ShutdownTimeout, 1),
            log_level: reader
                .value(Variable::LogLevel, |text| {
                    LevelFilter::from_str(text).map_err(|_| "must be error, warn, info, debug, trace or off".to_owned())
                })
                .unwrap_or(LevelFilter::Off),
            log_format: reader
                .value(Variable::LogFormat, |text| match text {
                    "text" => Ok(LogFormat::Text),
                    "json" => Ok(LogFormat::Json),
                    _ => Err("must be text or json".to_owned()),
                })
                .unwrap_or(LogFormat::Text),
            log_query: reader
                .value(Variable::LogQuery, |text| match text {
                    "on" => Ok(true),
                    "off" => Ok(false),
                    _ => Err("must be on or off".to_owned()),
                })
                .unwrap_or(true),
        };
        reader.check_together(&config);
        if reader.problems.is_empty() { Ok((config, reader.warnings)) } else { Err(reader.problems) }
    }

    /// The public listener's address.
    pub fn public_socket(&self) -> SocketAddr {
        SocketAddr::new(self.listen_address, self.port)
    }

    /// The internal listener's address, if there is one.
    pub fn internal_socket(&self) -> Option<SocketAddr> {
        self.internal_port.map(|port| SocketAddr::new(self.internal_address, port))
    }

    /// The value of the callbacks' `Authorization` header, if they carry one.
    pub fn callback_authorization(&self) -> Option<Secret> {
        let bearer = self.callback_token.as_ref().map(|token| Secret::new(format!("Bearer {}", token.expose())));
        bearer.or_else(|| self.callback_url.as_ref().and_then(|url| url.authorization.clone()))
    }

    /// What is possible with so many descriptors (the soft limit after it was raised).
    pub fn limits(&self, descriptors: u64) -> Limits {
        Limits::from_descriptors(descriptors, self.callback_concurrency, self.max_streams, self.internal_port.is_some())
    }

    /// The effective value of `variable` as text, secrets masked; empty if there is none.
    /// `limits` say what became of `MAX_STREAMS` and `CALLBACK_CONCURRENCY`.
    pub fn show(&self, variable: Variable, limits: &Limits) -> String {
        let text = |value: &dyn Display| value.to_string();
        let seconds = |duration: Duration| text(&duration.as_secs());
        let mask = |secret: &Option<Secret>| secret.as_ref().map_or("", |_| "***").to_owned();
        match variable {
            Variable::CallbackUrl => self.callback_url.as_ref().map_or(String::new(), CallbackUrl::masked),
            Variable::Port => text(&self.port),
            Variable::HeartbeatInterval => seconds(self.heartbeat_interval),
            Variable::ListenAddress => text(&self.listen_address),
            Variable::InternalPort => self.internal_port.map_or(String::new(), |port| text(&port)),
            Variable::InternalAddress => text(&self.internal_address),
            Variable::InternalToken => mask(&self.internal_token),
            Variable::CallbackToken => mask(&self.callback_token),
            Variable::CallbackTimeout => seconds(self.callback_timeout),
            Variable::ConnectQueue => seconds(self.connect_queue),
            Variable::CallbackConcurrency => text(&limits.threads_max),
            Variable::ConnectFailure => match self.connect_failure {
                ConnectFailure::Status => "status".to_owned(),
                ConnectFailure::Retry => "retry".to_owned(),
            },
            Variable::ReconnectDelay => self.reconnect_delay.map_or(String::new(), |delay| text(&delay.as_millis())),
            Variable::CorsOrigins => match &self.cors {
                Cors::Off => String::new(),
                Cors::Any => "*".to_owned(),
                Cors::Origins(list) => list.join(","),
            },
            Variable::MaxStreams => text(&limits.streams_max),
            Variable::MaxHeaderBytes => text(&self.header_bytes_max),
            Variable::MaxBodyBytes => text(&self.body_bytes_max),
            Variable::MaxPendingBytes => text(&self.pending_bytes_max),
            Variable::RequestTimeout => seconds(self.request_timeout),
            Variable::KeepaliveTimeout => seconds(self.keepalive_timeout),
            Variable::ClientTimeout => seconds(self.client_timeout),
            Variable::ShutdownDelay => seconds(self.shutdown_delay),
            Variable::ShutdownTimeout => seconds(self.shutdown_timeout),
            Variable::LogLevel => self.log_level.as_str().to_ascii_lowercase(),
            Variable::LogFormat => match self.log_format {
                LogFormat::Text => "text".to_owned(),
                LogFormat::Json => "json".to_owned(),
            },
            Variable::LogQuery => if self.log_query { "on" } else { "off" }.to_owned(),
        }
    }
}

/// Collects values and what is wrong with them.
struct Reader<L> {
    lookup: L,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl<L: Fn(&str) -> Option<OsString>> Reader<L> {
    /// The parsed value, or the parsed default. `None`: there is neither, or a problem was noted.
    fn value<T>(&mut self, variable: Variable, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match self.try_value(variable, parse) {
            Ok(value) => value,
            Err(line) => {
                self.problems.push(Problem(line));
                None
            }
        }
    }

    fn try_value<T>(&self, variable: Variable, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        let Some(text) = self.text(variable)? else { return Ok(None) };
        parse(&text).map(Some).map_err(|allowed| line(variable, &text, &allowed))
    }

    /// What is to be parsed: the value, or the default. `None`: there is neither.
    fn text(&self, variable: Variable) -> Result<Option<Cow<'static, str>>, String> {
        match (self.lookup)(variable.name()).filter(|value| !value.is_empty()).map(OsString::into_string) {
            Some(Ok(text)) => Ok(Some(Cow::Owned(text))),
            Some(Err(value)) => Err(line(variable, &value.to_string_lossy(), "must be UTF-8")),
            None => Ok(match variable.row().default {
                variables::Fallback::Text(text) => Some(Cow::Borrowed(text)),
                variables::Fallback::Computed(_) => None,
            }),
        }
    }

    fn integer(&mut self, variable: Variable, min: u64, max: u64) -> Option<u64> {
        self.value(variable, |text| values::integer(text, min, max))
    }

    fn port(&mut self, variable: Variable) -> Option<u16> {
        self.integer(variable, 1, 65_535).and_then(|port| u16::try_from(port).ok())
    }

    fn seconds(&mut self, variable: Variable, min: u64) -> Duration {
        Duration::from_secs(self.integer(variable, min, SECONDS_MAX).unwrap_or(0))
    }

    fn count(&mut self, variable: Variable, min: u64, max: u64) -> Option<usize> {
        self.integer(variable, min, max).and_then(|value| usize::try_from(value).ok())
    }

    /// The one variable whose bad value does not keep the gateway from starting.
    fn heartbeat_interval(&mut self) -> Duration {
        const DEFAULT: Duration = Duration::from_secs(15);
        let parse = |text: &str| values::integer(text, 1, SECONDS_MAX);
        match self.try_value(Variable::HeartbeatInterval, parse) {
            Ok(seconds) => seconds.map_or(DEFAULT, Duration::from_secs),
            Err(line) => {
                self.warnings.push(Warning(format!("{line}; using {}", DEFAULT.as_secs())));
                DEFAULT
            }
        }
    }

    /// What no variable can be blamed for alone.
    fn check_together(&mut self, config: &Config) {
        let has_user = config.callback_url.as_ref().is_some_and(|url| url.authorization.is_some());
        if has_user && config.callback_token.is_some() {
            let allowed = "must not be set together with user:pass@ in CALLBACK_URL";
            self.problems.push(Problem(line(Variable::CallbackToken, "", allowed)));
        }
        // Only real addresses are compared, not the placeholders of bad ones.
        if let Some(internal_port) = config.internal_port
            && self.problems.is_empty()
            && internal_port == config.port
            && values::overlap(config.internal_address, config.listen_address)
        {
            let allowed = "must differ from PORT when both are on the same address";
            self.problems.push(Problem(line(Variable::InternalPort, &internal_port.to_string(), allowed)));
        }
    }
}

/// `NAME="value": what is allowed`, secrets masked.
fn line(variable: Variable, value: &str, allowed: &str) -> String {
    let shown = match variable {
        Variable::CallbackUrl => url::mask(value),
        _ if variable.is_secret() => "***".to_owned(),
        _ => value.to_owned(),
    };
    format!("{}=\"{}\": {allowed}", variable.name(), Escaped(&shown))
}

#[cfg(test)]
mod tests;
