//! A connected socket under ureq, also below TLS, with the fewest system calls for a blocking call: one to check that the connection
//! is still open, one to write, one to read.
//!
//! ureq's own transport makes seven: three for the check, and two to reset the socket's timeouts. On a kept-alive
//! connection a callback takes 73 µs of CPU instead of 82 µs with one in flight, 51 instead of 62 µs with 32 (medians
//! of five runs over loopback). Also, ureq's transport cannot be created from a connected socket.

use crate::sys;
use socket2::Socket;
use std::fmt::{self, Debug, Formatter};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

/// Enough for a usual answer.
const INPUT_BYTES: usize = 2 * 1024;
/// The longest head of an answer; a longer one counts as garbage.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longer than the longest allowed head, so that ureq can detect one that is too long.
const INPUT_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// How long after the deadline of a call available input is still read: a process that was paused past the deadline
/// finds the answer there. It also ends the reading from a peer that never stops sending.
const OVERDUE_MAX: Duration = Duration::from_secs(1);

/// A connection.
pub(super) struct SocketTransport {
    socket: Socket,
    buffers: SocketBuffers,
    /// The socket's current read timeout.
    armed: Option<Duration>,
    /// Since when reads have had no time left.
    overdue_since: Option<Instant>,
}

impl SocketTransport {
    /// On a connected, blocking socket. Requests are written through a buffer of `output_bytes`.
    pub(super) fn new(socket: Socket, output_bytes: usize) -> Self {
        let buffers = SocketBuffers { output_bytes, ..SocketBuffers::default() };
        Self { socket, buffers, armed: None, overdue_since: None }
    }

    fn arm(&mut self, timeout: Duration) -> io::Result<()> {
        // Zero means no timeout.
        let timeout = timeout.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(timeout))?;
        self.armed = Some(timeout);
        Ok(())
    }
}

impl Transport for SocketTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let deadline = Instant::now().checked_add(*timeout.after);
        let mut rest = &self.buffers.output[..amount];
        while !rest.is_empty() {
            match sys::send_now(self.socket.as_fd(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(Error::Timeout(timeout.reason));
                    }
                    sys::wait_writable(self.socket.as_fd(), left)?;
                }
                // What the peer had answered before it closed can still be read, and counts. Without an answer the read
                // reports the close.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
                Err(error) => return Err(Error::Io(error)),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let start = Instant::now();
        let time = *timeout.after;
        let mut left = time;
        self.overdue_since = time.is_zero().then(|| self.overdue_since.unwrap_or(start));
        if self.overdue_since.is_some_and(|since| start.duration_since(since) > OVERDUE_MAX) {
            return Err(Error::Timeout(timeout.reason));
        }
        // After a timeout shorter than requested, the read waits for the remaining time. So the timeout is set slightly
        // short, and can be kept for later calls, most of which have slightly less time left than this one.
        if self.armed.is_none_or(|armed| armed > left) {
            self.arm(left - left / 8)?;
        }
        loop {
            match self.socket.read(self.buffers.input_append_buf()) {
                Ok(count) => {
                    self.buffers.input_appended(count);
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && left.is_zero() => {
                    return Err(Error::Timeout(timeout.reason));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    left = time.saturating_sub(start.elapsed());
                    self.arm(left)?;
                }
                Err(error) => return Err(Error::Io(error)),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Unsolicited bytes would be read as the next answer.
        self.buffers.input().is_empty() && sys::is_quiet(self.socket.as_fd())
    }
}

impl Debug for SocketTransport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("SocketTransport").finish_non_exhaustive()
    }
}

/// Buffers that grow on demand.
#[derive(Default)]
struct SocketBuffers {
    output: Vec<u8>,
    /// The size of `output` from its first use.
    output_bytes: usize,
    input: Vec<u8>,
    /// The unconsumed part of `input`.
    start: usize,
    end: usize,
    /// Whether the last parse consumed some input; if not, more is needed.
    progress: bool,
}

impl SocketBuffers {
    fn allocate(&mut self) {
        if self.output.is_empty() {
            self.output.resize(self.output_bytes, 0);
        }
        self.input.copy_within(self.start..self.end, 0);
        self.end -= std::mem::take(&mut self.start);
        if self.end == self.input.len() && self.end < INPUT_BYTES_MAX {
            self.input.resize((2 * self.end).clamp(INPUT_BYTES, INPUT_BYTES_MAX), 0);
        }
    }
}

impl Buffers for SocketBuffers {
    fn output(&mut self) -> &mut [u8] {
        self.allocate();
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.allocate();
        &mut self.input[self.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.end += amount;
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.start += amount;
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.allocate();
        (&mut self.input[self.end..], &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.start < self.end && self.progress
    }
}
