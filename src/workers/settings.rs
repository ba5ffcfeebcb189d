//! The settings of a pool, and the constants that tests replace.

use super::idle::CONNECTION_AGE_MAX;
use super::resolver::{Lookup, LookupIntervals, system_lookup};
use crate::callback::LATE_TIME_MAX;
use crate::config::CallbackUrl;
use std::time::Duration;

/// Settings of all callbacks. No `Debug`, since it holds a secret.
pub struct WorkerSettings {
    /// The backend.
    pub url: CallbackUrl,
    /// The value of the `Authorization` header: that of the URL, or another.
    pub authorization: Option<String>,
    /// Identifies this run of the gateway: the value of the `SSEGateway-Instance` header.
    pub instance: String,
    /// Timeout of one callback, from name lookup to the end of the answer.
    pub timeout: Duration,
    /// Certificates (DER) of authorities trusted in addition to the built-in ones.
    pub extra_roots: Vec<Vec<u8>>,
    /// Whether bodies of rejections are passed on: `REJECTION_BODY`.
    pub pass_rejections: bool,
    /// Maximum callbacks in flight, at least 1.
    pub threads_max: usize,
    /// Maximum timed-out connects that may still be answered, in addition to those in flight.
    pub late_max: usize,
}

/// How long an idle thread lives.
#[derive(Clone, Copy)]
pub(super) struct IdleTimeouts {
    /// For one of several: the threads of a callback storm end soon after it.
    pub usual: Duration,
    /// For the last one, which also closes idle connections in time. Longer than their idle timeout.
    pub last: Duration,
}

const IDLE_TIMEOUTS: IdleTimeouts = IdleTimeouts { usual: Duration::from_millis(500), last: Duration::from_secs(30) };

/// A TLS handshake needs the most: 50 KiB in a release build, 150 KiB unoptimised. This is nevertheless the system's
/// default: glibc caches the stacks of ended threads, each with some touched pages, up to 40 MiB of address space,
/// which is 5 stacks of this size but 160 of 256 KiB.
const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;

/// Constants that tests replace.
pub(super) struct Tuning {
    pub lookup: Lookup,
    pub lookup_intervals: LookupIntervals,
    pub connection_age_max: Duration,
    /// Usually [`LATE_TIME_MAX`].
    pub late_time_max: Duration,
    pub stack_bytes: usize,
    pub idle_timeouts: IdleTimeouts,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            lookup: system_lookup(),
            lookup_intervals: LookupIntervals::default(),
            connection_age_max: CONNECTION_AGE_MAX,
            late_time_max: LATE_TIME_MAX,
            stack_bytes: THREAD_STACK_BYTES,
            idle_timeouts: IDLE_TIMEOUTS,
        }
    }
}
