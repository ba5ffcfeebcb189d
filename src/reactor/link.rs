//! Sockets as the loop knows them, and what their errors mean.

use crate::gateway::{ConnId, SocketError};
use crate::planted;
use std::collections::VecDeque;
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

/// The links of all connections, by slot of their ids, and which of them are ready to be served.
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
    /// A fresh socket has room. Whether it has input, the first event tells.
    pub(super) fn insert(&mut self, id: ConnId, socket: S) {
        let slot = id.slot() as usize;
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] =
            Some(Link { id, socket, readable: false, writable: true, read_closed: false, queued: false });
    }

    /// The link of that connection, unless it is gone.
    pub(super) fn get(&self, id: ConnId) -> Option<&Link<S>> {
        self.slots.get(id.slot() as usize)?.as_ref().filter(|link| link.id == id)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Link<S>> {
        // A state shared by mistake: slots are reused at once, and events come late.
        let any = planted::is("event-reaches-the-next-owner-of-a-slot");
        self.slots.get_mut(id.slot() as usize)?.as_mut().filter(|link| link.id == id || any)
    }

    /// Takes the link of that connection out.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Link<S>> {
        self.slots.get_mut(id.slot() as usize)?.take_if(|link| link.id == id)
    }

    /// Has the connection served, in this turn or in the next one.
    pub(super) fn enqueue(&mut self, id: ConnId) {
        if let Some(link) = self.get_mut(id)
            && !link.queued
        {
            link.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Takes the next connection out of the queue of those that are ready; it may be gone.
    pub(super) fn next_ready(&mut self) -> Option<ConnId> {
        self.ready.pop_front()
    }

    /// How many connections are ready.
    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Gives up memory that is not in use.
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

/// The kernel gave up on a peer that acknowledges nothing. If routers or neighbours called it
/// unreachable meanwhile, the kernel says that instead of the timeout (tcp(7)).
fn is_vanished(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
}
