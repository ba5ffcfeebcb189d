//! The loop's state per socket, and the meaning of socket errors.

use crate::gateway::{ConnId, SocketError};
use crate::planted;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};

pub(super) struct Link<S> {
    pub id: ConnId,
    pub socket: S,
    /// A read may find input.
    pub readable: bool,
    /// A write may find space.
    pub writable: bool,
    /// The end of input was reported: a short read does not mean that the socket is empty.
    pub read_closed: bool,
    /// In the queue of ready connections.
    pub queued: bool,
}

/// The links of all connections, by slot of their ids, and the queue of ready ones.
pub(super) struct Links<S> {
    slots: Vec<Option<Link<S>>>,
    ready: VecDeque<ConnId>,
}

impl<S> Default for Links<S> {
    fn default() -> Self {
        Self { slots: Vec::new(), ready: VecDeque::new() }
    }
}

impl<S> Links<S> {
    /// A fresh socket has space. The first event reports whether it has input.
    pub(super) fn insert(&mut self, id: ConnId, socket: S) {
        let slot = id.slot() as usize;
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] =
            Some(Link { id, socket, readable: false, writable: true, read_closed: false, queued: false });
    }

    /// The link of that connection; `None` if it is gone.
    pub(super) fn get(&self, id: ConnId) -> Option<&Link<S>> {
        self.slots.get(id.slot() as usize)?.as_ref().filter(|link| link.id == id)
    }

    /// The same, mutable.
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Link<S>> {
        // State shared by mistake: slots are reused at once, and events may be late.
        let any = planted::is("event-reaches-the-next-owner-of-a-slot");
        self.slots.get_mut(id.slot() as usize)?.as_mut().filter(|link| link.id == id || any)
    }

    /// Removes the link of that connection.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Link<S>> {
        self.slots.get_mut(id.slot() as usize)?.take_if(|link| link.id == id)
    }

    /// Queues the connection for this turn or the next one.
    pub(super) fn enqueue(&mut self, id: ConnId) {
        if let Some(link) = self.get_mut(id)
            && !link.queued
        {
            link.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Takes the next ready connection; it may be gone.
    pub(super) fn next_ready(&mut self) -> Option<ConnId> {
        self.ready.pop_front()
    }

    /// The number of ready connections.
    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Frees unused memory.
    pub(super) fn shrink(&mut self) {
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
        self.ready.shrink_to_fit();
    }
}

pub(super) fn read_fault(error: &io::Error) -> SocketError {
    if is_vanished(error) { SocketError::TimedOut } else { SocketError::Reset }
}

pub(super) fn write_fault(error: &io::Error) -> SocketError {
    if is_vanished(error) { SocketError::TimedOut } else { SocketError::WriteFailed }
}

/// Whether the kernel gave up on a peer that acknowledges nothing. If routers or neighbours reported it unreachable in
/// the meantime, the kernel returns that error instead of the timeout (tcp(7)).
fn is_vanished(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
}
