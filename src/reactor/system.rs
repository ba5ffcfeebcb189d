//! The seam between the event loop and the kernel: one method per system call, and nothing that decides.
//!
//! A seam above it, at "bytes arrived", would leave out what edge-triggered servers break by: a
//! wake-up that was the only one and got lost. Here the loop itself runs in the simulation.

use crate::gateway::{ConnId, Listener, Peer, ProcessFigures};
use crate::job::{Completion, Job};
use std::io;
use std::time::Duration;
use uuid::Uuid;

/// What the kernel told of. Edge-triggered: it is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The state of that connection's socket changed. `id` may be stale.
    Socket {
        /// The connection, as named to [`System::register`].
        id: ConnId,
        /// There may be bytes to read.
        readable: bool,
        /// There may be room to write.
        writable: bool,
        /// The peer ended its side, or the connection is dead: a read will say which.
        read_closed: bool,
    },
    /// Clients wait to be accepted.
    Accept(Listener),
    /// Callbacks ended.
    Completions,
    /// SIGTERM, SIGINT, SIGHUP or SIGQUIT.
    Signal,
}

/// The operating system and the worker pool, as the loop sees them.
pub trait System {
    /// A connected, non-blocking socket. Dropping it closes it.
    type Socket;

    /// Waits until something happens, at most for `timeout` (`None`: for ever), and appends what did. `true`: it may not be
    /// all that has happened so far.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool>;
    /// accept(2); the new socket has the options that a stream needs.
    fn accept(&mut self, listener: Listener) -> io::Result<(Self::Socket, Peer)>;
    /// Asks for events of `socket` under the name `id`.
    fn register(&mut self, socket: &mut Self::Socket, id: ConnId) -> io::Result<()>;
    /// read(2): `WouldBlock` when there is nothing yet, 0 at the end.
    fn read(&mut self, socket: &mut Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;
    /// write(2): `WouldBlock` when there is no room.
    fn write(&mut self, socket: &mut Self::Socket, bytes: &[u8]) -> io::Result<usize>;
    /// Bytes that were written to a socket and that its peer has not acknowledged.
    fn unacknowledged(&self, socket: &Self::Socket) -> usize;
    /// Whether the peer's receive window has no room.
    fn is_window_closed(&mut self, socket: &Self::Socket) -> bool;
    /// shutdown(2) of the sending side.
    fn shutdown_write(&mut self, socket: &mut Self::Socket) -> io::Result<()>;
    /// close(2).
    fn close(&mut self, socket: Self::Socket);
    /// close(2) that resets the connection and drops what the peer has not read.
    fn abort(&mut self, socket: Self::Socket);
    /// Closes all listeners.
    fn stop_accepting(&mut self);
    /// The monotonic clock: the time since some fixed start.
    fn now(&mut self) -> Duration;
    /// The wall clock: seconds since the Unix epoch.
    fn unix_seconds(&mut self) -> u64;
    /// A random (version 4) UUID that nobody can guess.
    fn draw_token(&mut self) -> Uuid;
    /// Hands a job to the pool; never blocks.
    fn submit(&mut self, job: Job);
    /// The next job that is finished.
    fn next_completion(&mut self) -> Option<Completion>;
    /// What the system knows of this process.
    fn process_figures(&mut self) -> ProcessFigures;
    /// Many streams have gone: memory may be given back to the operating system.
    fn release_memory(&mut self);
}
