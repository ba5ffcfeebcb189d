//! Kept connections between calls.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::unversioned::transport::Transport;

/// Longest idle time of a kept connection. Servers close idle connections themselves, gunicorn after 2 s and Node after
/// 5 s; closing first avoids a race and a retry.
pub const IDLE_TIME_MAX: Duration = Duration::from_millis(1500);

/// Kept connections between calls, the longest idle first. Never more than there are worker threads, since one is opened
/// only while none is idle.
#[derive(Debug, Default)]
pub struct Idle(Mutex<VecDeque<(Instant, Box<dyn Transport>)>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Box<dyn Transport>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most recently used connection that is still open.
    pub fn take(&self, now: Instant) -> Option<Box<dyn Transport>> {
        loop {
            // Removed first, so that probing and closing happen outside the lock.
            let (since, mut connection) = self.lock().pop_back()?;
            if now.saturating_duration_since(since) < IDLE_TIME_MAX && connection.is_open() {
                return Some(connection);
            }
        }
    }

    pub fn put(&self, now: Instant, connection: Box<dyn Transport>) {
        self.lock().push_back((now, connection));
        // Busy threads never wait, so old connections are closed here as well.
        self.close_old(now);
    }

    /// Closes connections that have been idle for too long at `now`.
    pub fn close_old(&self, now: Instant) {
        let mut connections = self.lock();
        let young = connections.partition_point(|(since, _)| now.saturating_duration_since(*since) >= IDLE_TIME_MAX);
        let old: Vec<_> = connections.drain(..young).collect();
        drop(connections);
        drop(old);
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Closes all: once one was found dead, the others are likely dead too.
    pub fn close_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }
}
