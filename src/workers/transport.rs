//! Connections to the backend under ureq: kept alive by us, and watched.
//!
//! ureq's own pool closes idle connections only when the next call comes along, which would leave a
//! single-threaded backend waiting on a connection that nobody uses; and its errors do not tell
//! whether a request left the house. So ureq gets a pool of size zero and this connector below it.
//! ureq runs a call on the caller's thread: what happened to it is noted in a thread-local.

use super::plain::Plain;
use super::resolver::{ResolveError, Resolver};
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::Timeout;
use ureq::unversioned::transport::time::Duration as UreqDuration;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};

/// How long a connection may wait for its next call. Servers close idle connections themselves,
/// gunicorn after 2 s and Node after 5 s; to be first avoids a race and a retry.
pub const IDLE_TIME_MAX: Duration = Duration::from_millis(1500);

/// What happened to this thread's current attempt at a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempt {
    /// It went out on a connection that had served another call.
    pub reused: bool,
    /// Bytes of the request may have reached the backend.
    pub written: bool,
    /// At least one byte of an answer arrived.
    pub answered: bool,
    /// Input: take no kept-alive connection.
    fresh_only: bool,
    /// Input: reading ends then at the latest.
    read_until: Option<Instant>,
}

thread_local! {
    static ATTEMPT: Cell<Attempt> = const {
        Cell::new(Attempt { reused: false, written: false, answered: false, fresh_only: false, read_until: None })
    };
}

impl Attempt {
    /// Forgets the previous attempt of this thread.
    pub fn begin(fresh_only: bool) {
        ATTEMPT.set(Attempt { fresh_only, ..Attempt::default() });
    }

    /// The state of this thread's attempt.
    pub fn current() -> Attempt {
        ATTEMPT.get()
    }

    /// Shortens this attempt's time for reading.
    pub fn read_until(instant: Instant) {
        Attempt::note(|attempt| attempt.read_until = Some(instant));
    }

    fn note(change: impl FnOnce(&mut Attempt)) {
        let mut attempt = ATTEMPT.get();
        change(&mut attempt);
        ATTEMPT.set(attempt);
    }
}

/// Connections that wait for their next call, the longest idle first. Never more than there are
/// worker threads, since one is opened only while none waits.
#[derive(Debug, Default)]
pub struct Idle(Mutex<VecDeque<(Instant, Box<dyn Transport>)>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Box<dyn Transport>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most recently used connection that is still open.
    fn take(&self, now: Instant) -> Option<Box<dyn Transport>> {
        loop {
            // Taken out first, so that probing and closing happen outside the lock.
            let (since, mut connection) = self.lock().pop_back()?;
            if now.saturating_duration_since(since) < IDLE_TIME_MAX && connection.is_open() {
                return Some(connection);
            }
        }
    }

    fn put(&self, now: Instant, connection: Box<dyn Transport>) {
        self.lock().push_back((now, connection));
        // The busy never get around to waiting, so here is another occasion.
        self.close_old(now);
    }

    /// Closes what has been idle for too long at `now`.
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

    /// Closes all: where one was found dead, the others are likely to be.
    pub fn close_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }
}

/// Takes an idle connection or opens a new one (DNS, TCP, TLS).
pub struct PooledConnector {
    idle: Arc<Idle>,
    resolver: Resolver,
    fresh: DefaultConnector,
}

impl PooledConnector {
    pub fn new(idle: Arc<Idle>, resolver: Resolver) -> PooledConnector {
        PooledConnector { idle, resolver, fresh: DefaultConnector::default() }
    }

    fn open(&self, details: &ConnectionDetails<'_>) -> Result<Box<dyn Transport>, Error> {
        let start = Instant::now();
        let addresses = self.resolver.resolve(*details.timeout.after).map_err(|error| match error {
            ResolveError::TimedOut => Error::Timeout(Timeout::Resolve),
            ResolveError::Failed(text) => Error::Io(io::Error::new(io::ErrorKind::NotFound, text)),
        })?;
        let left = details.timeout.after.saturating_sub(start.elapsed());
        if !details.needs_tls() {
            return Ok(Box::new(Plain::connect(&addresses, left, details.config.output_buffer_size())?));
        }
        let mut addrs = details.resolver.empty();
        for address in addresses {
            addrs.push(address);
        }
        let details = ConnectionDetails {
            uri: details.uri,
            addrs,
            resolver: details.resolver,
            config: details.config,
            request_level: details.request_level,
            now: (details.current_time)(),
            timeout: NextTimeout { after: UreqDuration::Exact(left), ..details.timeout },
            current_time: Arc::clone(&details.current_time),
            run_connector: Arc::clone(&details.run_connector),
            register_shutdown: Arc::clone(&details.register_shutdown),
        };
        self.fresh.connect(&details, None)?.ok_or(Error::ConnectionFailed)
    }
}

impl Debug for PooledConnector {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("PooledConnector").finish_non_exhaustive()
    }
}

impl Connector<()> for PooledConnector {
    type Out = Watched;

    fn connect(&self, details: &ConnectionDetails<'_>, _chained: Option<()>) -> Result<Option<Watched>, Error> {
        let fresh_only = Attempt::current().fresh_only;
        let idle = if fresh_only { None } else { self.idle.take(Instant::now()) };
        Attempt::note(|attempt| attempt.reused = idle.is_some());
        let inner = match idle {
            Some(inner) => inner,
            None => self.open(details)?,
        };
        Ok(Some(Watched { inner: Some(inner), idle: Arc::clone(&self.idle), head: Vec::new(), reusable: false }))
    }
}

/// A connection in use. Notes what passes, and goes back among the idle ones when ureq is done with
/// it in good order.
pub struct Watched {
    /// `None` only while dropping.
    inner: Option<Box<dyn Transport>>,
    idle: Arc<Idle>,
    /// The request's head, held back so that it leaves in one segment with the body.
    head: Vec<u8>,
    /// ureq's last act was to ask whether the connection is open, which it does only before pooling it.
    reusable: bool,
}

impl Watched {
    fn inner(&mut self) -> &mut Box<dyn Transport> {
        self.inner.as_mut().expect("the connection is taken out by drop alone")
    }

    /// Sends the held head and the first `amount` bytes of the output buffer.
    fn send(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        Attempt::note(|attempt| attempt.written = true);
        let head = std::mem::take(&mut self.head);
        let inner = self.inner();
        let output = inner.buffers().output();
        if head.len() + amount <= output.len() {
            output.copy_within(..amount, head.len());
            output[..head.len()].copy_from_slice(&head);
            return inner.transmit_output(head.len() + amount, timeout);
        }
        let body = output[..amount].to_vec();
        for piece in [head, body] {
            inner.buffers().output()[..piece.len()].copy_from_slice(&piece);
            inner.transmit_output(piece.len(), timeout)?;
        }
        Ok(())
    }
}

impl Transport for Watched {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner().buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.reusable = false;
        if !Attempt::current().written && self.head.is_empty() {
            self.head = self.inner().buffers().output()[..amount].to_vec();
            return Ok(());
        }
        self.send(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, Error> {
        self.reusable = false;
        if !self.head.is_empty() {
            self.send(0, timeout)?;
        }
        if let Some(instant) = Attempt::current().read_until {
            let left = instant.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout(timeout.reason));
            }
            timeout.after = UreqDuration::Exact(left.min(*timeout.after));
        }
        let progress = self.inner().await_input(timeout)?;
        if progress {
            Attempt::note(|attempt| attempt.answered = true);
        }
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        // Not probed now: `Idle::take` does it when it matters.
        self.reusable = self.head.is_empty();
        self.reusable
    }

    fn is_tls(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_tls())
    }
}

impl Debug for Watched {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.reusable
            && let Some(inner) = self.inner.take()
        {
            self.idle.put(Instant::now(), inner);
        }
    }
}
