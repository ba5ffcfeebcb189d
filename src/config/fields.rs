//! The checked configuration, and the format of an error.

use super::url::CallbackUrl;
use crate::escape::Escaped;
use crate::gateway::{RedisSettings, Settings};
use crate::logger::LogFormat;
use crate::secret::Secret;
use log::LevelFilter;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `CALLBACK_URL`.
    pub callback_url: Option<CallbackUrl>,
    /// `CALLBACK_TOKEN`, or the content of `CALLBACK_TOKEN_FILE`.
    pub callback_token: Option<Secret>,
    /// The file that `callback_token` was read from, if any.
    pub callback_token_file: Option<String>,
    /// `CALLBACK_CA_FILE`.
    pub callback_ca_file: Option<String>,
    /// The certificates (DER) in it, else those in `SSL_CERT_FILE`, trusted in addition to the built-in authorities.
    pub callback_roots: Vec<Vec<u8>>,
    /// The file that [`Settings::internal_token`] was read from, if any.
    pub internal_token_file: Option<String>,
    /// Port of the public listener, not 0.
    pub port: u16,
    /// `::` means dual stack.
    pub listen_address: IpAddr,
    /// Port of the internal listener, not 0.
    pub internal_port: Option<u16>,
    /// Of the internal listener, if it is not `listen_address`.
    pub internal_address: Option<IpAddr>,
    /// `INTERNAL_SOCKET`: the path of a Unix socket.
    pub internal_socket: Option<PathBuf>,
    /// `INTERNAL_SOCKET_MODE`: its permissions.
    pub internal_socket_mode: u32,
    /// `MAX_STREAMS`; the possible number is in [`Settings::streams_max`] after [`Config::fit`].
    pub streams_wanted: Option<usize>,
    /// `REJECTION_BODY`: whether bodies of rejections are passed on.
    pub pass_rejections: bool,
    /// `REDIS_PREFIX`.
    pub redis_prefix: String,
    /// `REDIS_TIMEOUT_SECONDS`.
    pub redis_timeout: Duration,
    /// `LOG_LEVEL`.
    pub log_level: LevelFilter,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// The core's settings.
    pub gateway: Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            callback_url: None,
            callback_token: None,
            callback_token_file: None,
            callback_ca_file: None,
            callback_roots: Vec::new(),
            internal_token_file: None,
            port: 3000,
            listen_address: Ipv6Addr::UNSPECIFIED.into(),
            internal_port: None,
            internal_address: None,
            internal_socket: None,
            internal_socket_mode: 0o660,
            streams_wanted: None,
            pass_rejections: false,
            redis_prefix: RedisSettings::default().prefix,
            redis_timeout: RedisSettings::default().timeout,
            log_level: LevelFilter::Info,
            log_format: LogFormat::Text,
            gateway: Settings::default(),
        }
    }
}

impl Config {
    /// The address of the internal listener, if there is one.
    pub(super) fn internal_address(&self) -> IpAddr {
        self.internal_address.unwrap_or(self.listen_address)
    }
}

/// `NAME="value": allowed values`.
pub(super) fn line(name: &str, value: &str, allowed: &str) -> String {
    format!("{name}=\"{}\": {allowed}", Escaped(value))
}
