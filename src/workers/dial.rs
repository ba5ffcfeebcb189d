//! Connections to the backend: over TCP, to whichever of several addresses answers first (RFC 8305, "Happy Eyeballs"),
//! or to a Unix socket.

use super::resolver::{ResolveError, Resolver};
use crate::sys;
use mio::net::TcpStream as Attempt;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ureq::{Error, Timeout};

/// Head start of an address over the next one ("Connection Attempt Delay", RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Where the backend listens.
pub(super) enum Backend {
    Host(Resolver),
    Socket(PathBuf),
}

impl Backend {
    /// A connected, blocking socket, and the address if it was one of several.
    pub(super) fn connect(&self, timeout: Duration) -> Result<(Socket, Option<SocketAddr>), Error> {
        let resolver = match self {
            Self::Host(resolver) => resolver,
            Self::Socket(path) => return Ok((connect_unix(path, timeout)?, None)),
        };
        let start = Instant::now();
        let addresses = resolve(resolver, timeout)?;
        let (socket, address) = connect_tcp(&addresses, timeout.saturating_sub(start.elapsed()))?;
        resolver.prefer(address);
        Ok((socket, Some(address)))
    }

    /// The addresses of its name; `None` for a Unix socket.
    pub(super) fn addresses(&self, timeout: Duration) -> Option<Result<Vec<SocketAddr>, Error>> {
        match self {
            Self::Host(resolver) => Some(resolve(resolver, timeout)),
            Self::Socket(_) => None,
        }
    }

    /// Whether a kept connection to `address` still leads to the backend.
    pub(super) fn is_current(&self, address: Option<SocketAddr>) -> bool {
        match (self, address) {
            (Self::Host(resolver), Some(address)) => resolver.is_current(address),
            (Self::Host(_) | Self::Socket(_), _) => true,
        }
    }
}

fn resolve(resolver: &Resolver, timeout: Duration) -> Result<Vec<SocketAddr>, Error> {
    resolver.resolve(timeout).map_err(|error| match error {
        ResolveError::TimedOut => Error::Timeout(Timeout::Resolve),
        ResolveError::Failed(text) => Error::Io(io::Error::new(ErrorKind::NotFound, text)),
    })
}

fn connect_unix(path: &Path, timeout: Duration) -> Result<Socket, Error> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // On Linux this limits the wait for a place in the listener's queue (unix(7) does not say so, the kernel's
    // unix_stream_connect does); zero would mean no limit.
    socket.set_write_timeout(Some(timeout.max(Duration::from_millis(1))))?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(socket),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Error::Timeout(Timeout::Connect)),
        Err(error) => Err(Error::Io(error)),
    }
}

/// Connects to one of `addresses`, in order of preference. If an address has not answered within [`HEAD_START`], its
/// attempt continues in parallel with the next one; if it fails, the next follows at once. The first connection wins.
fn connect_tcp(addresses: &[SocketAddr], timeout: Duration) -> Result<(Socket, SocketAddr), Error> {
    let start = Instant::now();
    let (deadline, mut next_start) = (start + timeout, start);
    let mut untried = addresses.iter();
    let mut attempts: Vec<(Attempt, SocketAddr)> = Vec::with_capacity(1);
    let mut failure = Error::HostNotFound;
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Err(Error::Timeout(Timeout::Connect));
        }
        if now >= next_start
            && let Some(address) = untried.next()
        {
            match Attempt::connect(*address) {
                Ok(attempt) => attempts.push((attempt, *address)),
                Err(error) => {
                    failure = Error::Io(error);
                    continue;
                }
            }
            next_start = now + HEAD_START;
        }
        if attempts.is_empty() {
            return Err(failure);
        }
        let until = if untried.len() == 0 { deadline } else { deadline.min(next_start) };
        let sockets: Vec<_> = attempts.iter().map(|(attempt, _)| attempt.as_fd()).collect();
        sys::wait_any_writable(&sockets, Some(until.saturating_duration_since(now)))?;
        let mut index = 0;
        while let Some((attempt, address)) = attempts.get(index) {
            match is_connected(attempt) {
                Ok(true) => {
                    let address = *address;
                    let socket = Socket::from(TcpStream::from(attempts.swap_remove(index).0));
                    socket.set_nonblocking(false)?;
                    // The last part of a large request must not wait for an acknowledgement.
                    socket.set_tcp_nodelay(true)?;
                    return Ok((socket, address));
                }
                Ok(false) => index += 1,
                Err(error) => {
                    failure = Error::Io(error);
                    attempts.remove(index);
                    next_start = now;
                }
            }
        }
    }
}

fn is_connected(attempt: &Attempt) -> io::Result<bool> {
    if let Some(error) = attempt.take_error()? {
        return Err(error);
    }
    match attempt.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}
