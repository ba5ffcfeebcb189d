//! The core's actions, for the owner of the sockets and of the worker pool.

use crate::hub::ConnId;
use crate::job::Job;
use core::net::SocketAddr;

/// One action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run this job, and pass its outcome to [`complete`](super::Gateway::complete).
    Start(Job),
    /// The metrics are requested: pass the process's figures to [`report`](super::Gateway::report).
    Report(Ticket),
    /// A page of the list of streams is incomplete: continue with [`list`](super::Gateway::list).
    List,
    /// Read the connection once more, whatever its readiness, and pass on any input; then call
    /// [`end_reading`](super::Gateway::end_reading).
    ReadLast(ConnId),
    /// What a feed is for may have ended: call [`tell_feed`](super::Gateway::tell_feed).
    TellFeed(ConnId),
    /// From now on the peer may be silent for any time: have the kernel find out whether it is still there (TCP
    /// keepalive).
    KeepAlive(ConnId),
    /// All output is flushed: shut down the sending side, so that the peer sees the end.
    ShutdownWrite(ConnId),
    /// Close the socket; its id is already stale.
    Close(ConnId, CloseMode),
    /// Accept the clients in the backlog, then close the listeners.
    StopAccepting,
    /// Connect to Redis; input, errors and room for output are reported as its own.
    Connect(SocketAddr),
    /// Close the connection to Redis, if there is one.
    Disconnect,
}

/// How to close a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// The kernel delivers the output that it has accepted.
    Graceful,
    /// Unread output is dropped and the connection reset, since the peer's time is up.
    Abort,
}

/// Identifies a deferred answer of a connection; stale once the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(ConnId, u32);

impl Ticket {
    /// The first one since the connection was read.
    pub(super) fn new(connection: ConnId) -> Self {
        Self(connection, 0)
    }

    /// A further one.
    pub(super) fn further(connection: ConnId, number: u32) -> Self {
        Self(connection, number)
    }

    pub(super) fn connection(self) -> ConnId {
        self.0
    }

    pub(super) fn number(self) -> u32 {
        self.1
    }
}
