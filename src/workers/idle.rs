//! Kept-alive connections between calls.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::unversioned::transport::Transport;

/// The longest idle time of a kept-alive connection. Servers close idle connections themselves, gunicorn after 2 s and
/// Node after 5 s; closing first avoids a race and a retry.
pub(super) const IDLE_TIME_MAX: Duration = Duration::from_millis(1500);

/// The longest life of a connection, so that a load balancer in front of the backend can distribute them again.
pub(super) const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

/// An open connection.
pub(super) struct Connection {
    pub transport: Box<dyn Transport>,
    /// Its peer's address, from the name lookup; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    pub opened: Instant,
}

/// Kept-alive connections between calls, the longest idle first. Never more than the worker threads, since one is
/// opened only while none is idle.
pub(super) struct Idle {
    age_max: Duration,
    connections: Mutex<VecDeque<(Instant, Connection)>>,
}

impl Idle {
    /// `age_max` is usually [`CONNECTION_AGE_MAX`].
    pub(super) fn new(age_max: Duration) -> Self {
        Self { age_max, connections: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Connection)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most recently used connection that may and can serve another call. `is_current` checks its address.
    pub(super) fn take(&self, now: Instant, is_current: impl Fn(Option<SocketAddr>) -> bool) -> Option<Connection> {
        loop {
            // Removed first, so that probing and closing happen outside the lock.
            let (since, mut connection) = self.lock().pop_back()?;
            if now.saturating_duration_since(since) < IDLE_TIME_MAX
                && now.saturating_duration_since(connection.opened) < self.age_max
                && is_current(connection.address)
                && connection.transport.is_open()
            {
                return Some(connection);
            }
        }
    }

    pub(super) fn put(&self, now: Instant, connection: Connection) {
        self.lock().push_back((now, connection));
        // Busy threads never wait, so old connections are closed here too.
        self.close_old(now);
    }

    /// Closes connections that have been idle for too long at `now`.
    pub(super) fn close_old(&self, now: Instant) {
        let mut connections = self.lock();
        let young = connections.partition_point(|(since, _)| now.saturating_duration_since(*since) >= IDLE_TIME_MAX);
        let old: Vec<_> = connections.drain(..young).collect();
        drop(connections);
        drop(old);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Closes all: if one is dead, the others probably are too.
    pub(super) fn close_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }
}

impl Debug for Idle {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Idle").finish_non_exhaustive()
    }
}
