//! What the core has the owner of the sockets and of the worker pool do.

use crate::hub::ConnId;
use crate::job::Job;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have this done, and pass its outcome to [`complete`](super::Gateway::complete).
    Start(Job),
    /// The metrics are requested: pass the process's figures to [`report`](super::Gateway::report).
    Report(Ticket),
    /// A page of the list of streams is under construction: go on with it by [`list`](super::Gateway::list).
    List,
    /// Read the connection once more, whatever was told of it, and pass on what has come; then call
    /// [`end_reading`](super::Gateway::end_reading).
    ReadLast(ConnId),
    /// Everything is flushed: shut the sending side down, so that the peer sees the end.
    ShutdownWrite(ConnId),
    /// Close the socket; the id is stale already.
    Close(ConnId, CloseMode),
    /// Accept the clients that have connected already, then close the listeners.
    StopAccepting,
}

/// How to close a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Let the kernel deliver what it has.
    Graceful,
    /// Throw away what the peer has not read, and reset: it has had its time.
    Abort,
}

/// Names an answer that a connection owes, one at a time; stale once the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(ConnId);

impl Ticket {
    pub(super) fn new(connection: ConnId) -> Self {
        Self(connection)
    }

    pub(super) fn connection(self) -> ConnId {
        self.0
    }
}
