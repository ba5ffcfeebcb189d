//! A socket of the loop: what is known of its readiness, and what its errors mean.

use crate::gateway::{ConnId, SocketError};
use crate::planted;
use std::io::{self, ErrorKind};

pub(super) struct Link<S> {
    pub id: ConnId,
    pub socket: S,
    /// A read may find something.
    pub readable: bool,
    /// A write may find room.
    pub writable: bool,
    /// The end of input was announced: a short read does not mean that there is nothing more.
    pub read_closed: bool,
    /// In the queue of ready connections.
    pub queued: bool,
}

impl<S> Link<S> {
    /// A fresh socket has room. Whether it has input, the first event tells.
    pub(super) fn new(id: ConnId, socket: S) -> Self {
        Self { id, socket, readable: false, writable: true, read_closed: false, queued: false }
    }
}

/// The link of a connection, among all by slot.
pub(super) fn link<S>(links: &[Option<Link<S>>], id: ConnId) -> Option<&Link<S>> {
    links.get(id.slot() as usize)?.as_ref().filter(|link| link.id == id)
}

/// The same, to be changed.
pub(super) fn link_mut<S>(links: &mut [Option<Link<S>>], id: ConnId) -> Option<&mut Link<S>> {
    // A state shared by mistake: slots are reused at once, and events come late.
    let any = planted::is("event-reaches-the-next-owner-of-a-slot");
    links.get_mut(id.slot() as usize)?.as_mut().filter(|link| link.id == id || any)
}

pub(super) fn read_fault(error: &io::Error) -> SocketError {
    if is_vanished(error) { SocketError::TimedOut } else { SocketError::Reset }
}

pub(super) fn write_fault(error: &io::Error) -> SocketError {
    if is_vanished(error) { SocketError::TimedOut } else { SocketError::WriteFailed }
}

/// The kernel gave up on a peer that acknowledges nothing. If routers or neighbours called it
/// unreachable meanwhile, the kernel says that instead of the timeout (tcp(7)).
fn is_vanished(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
}
