//! The seam between the event loop and the kernel: one method per system call, without decisions.
//!
//! A higher seam, at "bytes arrived", would exclude the typical failure of edge-triggered servers: losing the only
//! wake-up. With this one the loop itself runs in the simulation.

use crate::gateway::{ConnId, Listener, Peer, ProcessFigures};
use crate::job::{Completion, Job};
use core::net::SocketAddr;
use std::io;
use std::time::Duration;
use uuid::Uuid;

/// An event from the kernel. Edge-triggered: it is reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The state of that connection's socket changed. `id` may be stale.
    Socket {
        /// The connection, with its id from [`System::register`].
        id: ConnId,
        /// There may be input.
        readable: bool,
        /// There may be space for output.
        writable: bool,
        /// The peer ended its side, or the connection is dead: a read shows which.
        read_closed: bool,
    },
    /// The same of the connection to Redis.
    Upstream {
        /// There may be input, or the connection is dead.
        readable: bool,
        /// There may be space for output.
        writable: bool,
    },
    /// Clients are waiting to be accepted.
    Accept(Listener),
    /// Callbacks ended.
    Completions,
    /// SIGTERM, SIGINT, SIGHUP or SIGQUIT.
    Signal,
}

/// The loop's interface to the operating system and the worker pool.
pub trait System {
    /// A connected, non-blocking socket. Dropping it closes it.
    type Socket;

    /// Waits for events, at most for `timeout` (`None`: no limit), and appends them. `true`: there may be more events
    /// already.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool>;
    /// accept(2); the new socket has the options required for a stream.
    fn accept(&mut self, listener: Listener) -> io::Result<(Self::Socket, Peer)>;
    /// connect(2), without waiting; events of the socket are [`Event::Upstream`]. Until it has space it is not connected.
    fn connect(&mut self, address: SocketAddr) -> io::Result<Self::Socket>;
    /// Registers `socket` for events under `id`.
    fn register(&mut self, socket: &mut Self::Socket, id: ConnId) -> io::Result<()>;
    /// read(2): `WouldBlock` without input, 0 at the end.
    fn read(&mut self, socket: &mut Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;
    /// write(2): `WouldBlock` without space.
    fn write(&mut self, socket: &mut Self::Socket, bytes: &[u8]) -> io::Result<usize>;
    /// Bytes written to a socket that its peer has not acknowledged.
    fn unacknowledged(&self, socket: &Self::Socket) -> usize;
    /// Has the kernel probe a peer that is silent (TCP keepalive).
    fn keep_alive(&mut self, socket: &mut Self::Socket);
    /// shutdown(2) of the sending side.
    fn shutdown_write(&mut self, socket: &mut Self::Socket) -> io::Result<()>;
    /// close(2).
    fn close(&mut self, socket: Self::Socket);
    /// close(2) that resets the connection and drops unread output.
    fn abort(&mut self, socket: Self::Socket);
    /// Closes all listeners.
    fn stop_accepting(&mut self);
    /// The monotonic clock: the time since some fixed start.
    fn now(&mut self) -> Duration;
    /// The wall clock: seconds since the Unix epoch.
    fn unix_seconds(&mut self) -> u64;
    /// A random (version 4) UUID, unguessable.
    fn draw_token(&mut self) -> Uuid;
    /// Passes a job to the pool; never blocks.
    fn submit(&mut self, job: Job);
    /// The next finished job.
    fn next_completion(&mut self) -> Option<Completion>;
    /// The system's figures of this process.
    fn process_figures(&mut self) -> ProcessFigures;
    /// Many streams have ended: memory may be returned to the operating system.
    fn release_memory(&mut self);
}
