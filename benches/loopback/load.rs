//! The load: clients that hold streams and backends that send, on one thread and one epoll.

use super::clients::Clients;
use super::histogram::Histogram;
use super::senders::{Recipients, Senders, TOKENS};
use super::stamp::{Tally, now};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use ssegateway::sys::Signals;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

const SIGNALS: Token = Token(usize::MAX);
/// Senders' tokens start here.
const SENDERS: usize = 1 << 32;
/// Longest sleep, so that the time is checked this often.
const LOOK_AROUND: Duration = Duration::from_millis(20);
/// After this long without progress, missing events count as lost.
const PATIENCE: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Load {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    /// Whether to busy-wait, so that no event is read late.
    pub may_spin: bool,
    pub clients: Clients,
    pub senders: Senders,
}

impl Load {
    /// # Errors
    ///
    /// Out of descriptors.
    pub(crate) fn new(server: SocketAddr, signals: &Signals, may_spin: bool) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; 256 * 1024],
            may_spin,
            clients: Clients::new(server),
            senders: Senders::new(server),
        })
    }

    /// Handles events for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Ctrl-C, or polling failed.
    pub(crate) fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        // It must not wait behind the sockets of others.
        if let Some(timed) = self.clients.timed {
            self.clients.handle(timed, &mut self.buffer);
        }
        for event in &self.events {
            match event.token() {
                SIGNALS => return Err(io::Error::new(ErrorKind::Interrupted, "interrupted")),
                Token(index @ SENDERS..) => self.senders.handle(index - SENDERS, &mut self.buffer)?,
                Token(index) => self.clients.handle(index, &mut self.buffer),
            }
        }
        Ok(())
    }

    /// Opens streams until there are `count`, with at most `at_once` connecting at a time; returns how long that took.
    ///
    /// # Errors
    ///
    /// Ctrl-C, or the streams do not open in time.
    pub(crate) fn connect(&mut self, count: usize, at_once: usize) -> io::Result<Duration> {
        let start = now();
        let mut next = self.clients.len();
        while next < count || self.clients.opening > 0 {
            while next < count && self.clients.opening < at_once {
                self.clients.open(self.poll.registry(), Token(next))?;
                next += 1;
            }
            self.turn(LOOK_AROUND)?;
            if now() - start > CONNECT_TIMEOUT.as_nanos() as u64 {
                return Err(io::Error::other("the streams do not open"));
            }
        }
        Ok(Duration::from_nanos(now() - start))
    }

    /// Opens the backends' connections. `tokens` are those of the streams, in order.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub(crate) fn start_senders(&mut self, tokens: Vec<String>) -> io::Result<()> {
        self.start_senders_to(TOKENS, tokens)
    }

    /// The same to targets of that kind.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub(crate) fn start_senders_to(&mut self, kind: &'static str, targets: Vec<String>) -> io::Result<()> {
        self.senders.start(self.poll.registry(), SENDERS, kind, targets)
    }

    /// Handles at most so many sockets at a time, so that none waits for many others.
    pub(crate) fn set_batch(&mut self, sockets: usize) {
        self.events = Events::with_capacity(sockets);
    }

    /// Waits without sending.
    ///
    /// # Errors
    ///
    /// Ctrl-C, or polling failed.
    pub(crate) fn rest(&mut self, time: Duration) -> io::Result<()> {
        let until = now() + time.as_nanos() as u64;
        while let Some(left) = until.checked_sub(now()).filter(|left| *left > 0) {
            self.turn(Duration::from_nanos(left).min(LOOK_AROUND))?;
        }
        Ok(())
    }

    /// Sends for `time`.
    ///
    /// # Errors
    ///
    /// Ctrl-C, or a connection broke.
    pub(crate) fn send_for(&mut self, time: Duration, recipients: &mut Recipients) -> io::Result<()> {
        let until = now() + time.as_nanos() as u64;
        while now() < until {
            let wait = recipients.pause(self.may_spin).unwrap_or(LOOK_AROUND);
            self.turn(wait)?;
            self.senders.fill(recipients, &mut self.clients)?;
        }
        Ok(())
    }

    /// Waits until every send is answered and every event has arrived, or progress stops.
    ///
    /// # Errors
    ///
    /// Ctrl-C, or a connection broke.
    pub(crate) fn drain(&mut self, recipients: &mut Recipients) -> io::Result<()> {
        let mut moved = now();
        let mut seen = 0;
        loop {
            self.senders.fill(recipients, &mut self.clients)?;
            if self.senders.in_flight() == 0 && self.clients.outstanding() == 0 {
                return Ok(());
            }
            self.turn(Duration::from_millis(1))?;
            let progress = self.senders.answered + self.clients.tally.received;
            if progress != seen {
                (seen, moved) = (progress, now());
            } else if now() - moved > PATIENCE.as_nanos() as u64 {
                return Ok(());
            }
        }
    }

    /// The tally since the last call, lost events included, and the latencies.
    pub(crate) fn take_tally(&mut self) -> (Tally, Histogram) {
        self.clients.take_tally()
    }
}
