//! Connections to the backend under ureq, with a keep-alive pool of our own and a record of the bytes sent and
//! received.
//!
//! ureq's own pool closes idle connections only during the next call, which would leave a single-threaded backend waiting
//! on an unused connection; and its errors do not say whether any of the request was written. So ureq gets a pool of size
//! zero and this connector below it. ureq runs a call on the caller's thread, so a thread-local records the attempt.
//!
//! `ureq::unversioned` may change in any minor release, hence the exact version in `Cargo.toml`. Before a change to
//! another one, read its `run.rs` and `pool.rs` for what this module and `socket` rely on:
//!
//! - a call opens its connection, writes and reads on the caller's thread;
//! - `transmit_output` is called once or more for the head, then for the body, each time with only new bytes;
//! - input is consumed only once a head is complete;
//! - after the body `is_open` is called if and only if the connection may serve another call, and is the last call;
//! - every timeout is an argument of the call, and there is no automatic retry or redirect.
//!
//! Then run `cargo test workers` and `make faults`: a test fails for each of these that no longer holds.

use super::dial::Backend;
use super::idle::{Connection, Idle};
use super::socket::SocketTransport;
use super::tls::Tls;
use std::cell::Cell;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::time::Instant;
use ureq::Error;
use ureq::unversioned::transport::time::Duration as UreqDuration;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// The record of this thread's current attempt at a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempt {
    /// Whether its connection has served another call.
    pub reused: bool,
    /// Bytes of the request may have reached the backend.
    pub written: bool,
    /// Bytes of the answer that were buffered after the last read; none were ever received if 0.
    pub answer_bytes: usize,
    /// The status in the first head of the answer, interim ones included.
    pub first_status: Option<[u8; 3]>,
    /// Input: open a new connection.
    fresh_only: bool,
    /// Input: the end of reading.
    read_until: Option<Instant>,
    /// Input: keep the connection if the call fails.
    keep_failed: bool,
}

thread_local! {
    static ATTEMPT: Cell<Attempt> = const {
        Cell::new(Attempt {
            reused: false,
            written: false,
            answer_bytes: 0,
            first_status: None,
            fresh_only: false,
            read_until: None,
            keep_failed: false,
        })
    };
    static FAILED: Cell<Option<Connection>> = const { Cell::new(None) };
}

impl Attempt {
    /// Starts the record of a new attempt on this thread. `keep_failed`: for [`Attempt::end`].
    pub(super) fn begin(fresh_only: bool, keep_failed: bool) {
        ATTEMPT.set(Self { fresh_only, keep_failed, ..Self::default() });
    }

    /// The head of the answer is complete, or the attempt has failed. Returns the connection of a failed one, if any:
    /// an answer may still arrive on it, of which only interim ones have been consumed.
    pub(super) fn end() -> Option<Connection> {
        Self::record(|attempt| attempt.keep_failed = false);
        FAILED.take()
    }

    /// The record of this thread's attempt.
    pub(super) fn current() -> Self {
        ATTEMPT.get()
    }

    /// Limits the time for reading.
    pub(super) fn read_until(instant: Instant) {
        Self::record(|attempt| attempt.read_until = Some(instant));
    }

    /// Records the unconsumed input after a read.
    fn received(&mut self, input: &[u8]) {
        self.answer_bytes = input.len();
        // Nothing is consumed before the first head is complete, so until then the input begins with it.
        if let (None, Some(start)) = (self.first_status, input.first_chunk::<12>()) {
            self.first_status = Some([start[9], start[10], start[11]]);
        }
    }

    fn record(change: impl FnOnce(&mut Self)) {
        let mut attempt = ATTEMPT.get();
        change(&mut attempt);
        ATTEMPT.set(attempt);
    }
}

/// Takes an idle connection or opens a new one (DNS, TCP or a Unix socket, TLS).
pub(super) struct PooledConnector {
    idle: Arc<Idle>,
    backend: Arc<Backend>,
    /// For `https` URLs.
    tls: Option<Tls>,
}

impl PooledConnector {
    pub(super) fn new(idle: Arc<Idle>, backend: Arc<Backend>, tls: Option<Tls>) -> Self {
        Self { idle, backend, tls }
    }

    fn open(&self, details: &ConnectionDetails<'_>) -> Result<Connection, Error> {
        let start = Instant::now();
        let left = || details.timeout.after.saturating_sub(start.elapsed());
        let (socket, address) = self.backend.connect(left())?;
        let socket = SocketTransport::new(socket, details.config.output_buffer_size());
        let transport: Box<dyn Transport> = match &self.tls {
            Some(tls) => {
                let timeout = NextTimeout { after: UreqDuration::Exact(left()), ..details.timeout };
                Box::new(tls.connect(socket, details, timeout)?)
            }
            None => Box::new(socket),
        };
        Ok(Connection { transport, address, opened: Instant::now() })
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
        let is_current = |address| self.backend.is_current(address);
        let kept = if fresh_only { None } else { self.idle.take(Instant::now(), is_current) };
        Attempt::record(|attempt| attempt.reused = kept.is_some());
        let connection = match kept {
            Some(connection) => connection,
            None => self.open(details)?,
        };
        Ok(Some(Watched {
            connection: Some(connection),
            idle: Arc::clone(&self.idle),
            head: Vec::new(),
            reusable: false,
        }))
    }
}

/// A connection in use. Records its traffic, and returns to the idle ones if its call leaves it reusable.
pub(super) struct Watched {
    /// `None` only during drop.
    connection: Option<Connection>,
    idle: Arc<Idle>,
    /// The request's head, held back so that it leaves in one segment with the body.
    head: Vec<u8>,
    /// ureq's last request was `is_open`, which it makes only before pooling a connection.
    reusable: bool,
}

impl Watched {
    fn inner(&mut self) -> &mut Box<dyn Transport> {
        &mut self.connection.as_mut().expect("the connection is taken out by drop alone").transport
    }

    /// Sends the held head and the first `amount` bytes of the output buffer.
    fn send(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        Attempt::record(|attempt| attempt.written = true);
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
            let input = self.inner().buffers().input();
            Attempt::record(|attempt| attempt.received(input));
        }
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        // `Idle::take` probes the socket, right before its next use.
        self.reusable = self.head.is_empty();
        self.reusable
    }

    fn is_tls(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.transport.is_tls())
    }
}

impl Debug for Watched {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.reusable {
            self.idle.put(Instant::now(), connection);
        } else if Attempt::current().keep_failed {
            FAILED.set(Some(connection));
        }
    }
}
