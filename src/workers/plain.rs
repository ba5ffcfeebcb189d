//! Plain TCP under ureq, with as few system calls as a blocking call can have: one to ask whether the
//! connection is still open, one to send, and one to read.
//!
//! ureq's own transport takes three for the first and sets the socket's timeouts for each call anew.

use crate::sys;
use std::fmt::{self, Debug, Formatter};
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};
use ureq::{Error, Timeout};

/// A usual answer fits.
const INPUT_BYTES: usize = 2 * 1024;
/// A longer head counts as garbage.
const INPUT_BYTES_MAX: usize = 16 * 1024;

/// A connection.
pub struct Plain {
    stream: TcpStream,
    buffers: PlainBuffers,
    /// The timeout that reads from the socket have now.
    armed: Option<Duration>,
}

impl Plain {
    /// Connects to the first of `addresses` that answers. Each gets half of the time that is left, the last
    /// one all of it. A request is written through a buffer of `output_bytes`.
    pub fn connect(addresses: &[SocketAddr], timeout: Duration, output_bytes: usize) -> Result<Plain, Error> {
        let deadline = Instant::now() + timeout;
        let mut result = Err(Error::HostNotFound);
        for (index, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = if index + 1 == addresses.len() { left } else { left / 2 };
            // Zero would not be taken.
            result = match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
                Ok(stream) => return Plain::on(stream, output_bytes),
                Err(error) if error.kind() == ErrorKind::TimedOut => Err(Error::Timeout(Timeout::Connect)),
                Err(error) => Err(Error::Io(error)),
            };
        }
        result
    }

    fn on(stream: TcpStream, output_bytes: usize) -> Result<Plain, Error> {
        // What does not leave at once must not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        Ok(Plain { stream, buffers: PlainBuffers { output_bytes, ..PlainBuffers::default() }, armed: None })
    }

    fn arm(&mut self, timeout: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let timeout = timeout.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(timeout))?;
        self.armed = Some(timeout);
        Ok(())
    }
}

impl Transport for Plain {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let deadline = Instant::now().checked_add(*timeout.after);
        let mut rest = &self.buffers.output[..amount];
        while !rest.is_empty() {
            match sys::send_now(self.stream.as_fd(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(Error::Timeout(timeout.reason));
                    }
                    sys::wait_writable(self.stream.as_fd(), left)?;
                }
                Err(error) => return Err(Error::Io(error)),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let start = Instant::now();
        let time = *timeout.after;
        let mut left = time;
        // A timeout that is too short is waited out and then followed by the rest. Armed with a little less
        // than there is, it serves the calls that follow, most of which have a little less time than this one.
        if self.armed.is_none_or(|armed| armed > left) {
            self.arm(left - left / 8)?;
        }
        loop {
            if left.is_zero() {
                return Err(Error::Timeout(timeout.reason));
            }
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(count) => {
                    self.buffers.input_appended(count);
                    return Ok(count > 0);
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
        // What nobody asked for cannot be told from the next answer.
        self.buffers.input().is_empty() && sys::is_quiet(self.stream.as_fd())
    }
}

impl Debug for Plain {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Plain").finish_non_exhaustive()
    }
}

/// Buffers as large as they are needed.
#[derive(Default)]
struct PlainBuffers {
    output: Vec<u8>,
    /// How long that is to be.
    output_bytes: usize,
    input: Vec<u8>,
    /// What of `input` has been read and not been used.
    start: usize,
    end: usize,
    /// Some of the input was used when it was last looked at; otherwise more of it is needed.
    progress: bool,
}

impl PlainBuffers {
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

impl Buffers for PlainBuffers {
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
