//! What an operator says about Redis.

use crate::secret::Secret;
use std::time::Duration;

/// Where Redis is, and what it is used for (docs/protocol.md, section 16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// A name, or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// The name to log in with, where there is one.
    pub user: Option<String>,
    /// The password to log in with.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u32,
    /// `REDIS_PREFIX`: of every key and channel.
    pub prefix: String,
    /// `REDIS_TIMEOUT_SECONDS`: for an answer.
    pub timeout: Duration,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 6379,
            is_tls: false,
            user: None,
            password: None,
            database: 0,
            prefix: "ssegateway".to_owned(),
            timeout: Duration::from_secs(5),
        }
    }
}

/// The limits of history; those of the first gateway hold for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long the events of a group are kept behind the last one; zero: not at all.
    pub(crate) age: Duration,
    /// Most events of one group.
    pub(crate) events: usize,
}
