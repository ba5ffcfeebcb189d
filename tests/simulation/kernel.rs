//! The simulated kernel: sockets with bounded buffers, backlogs, and edges reported once.
//!
//! It reports as little as edge-triggered epoll may. New input is an edge, and so is the peer's end; space in the send
//! buffer is one only if a write was refused for lack of it, and only once a third of the buffer is free. Only a new
//! client gives an edge on a listener.
//!
//! Bytes to the gateway are stored. Bytes to the client are only counted, since the oracle checks them when the kernel
//! accepts them: a simulated pipe neither loses nor reorders bytes.

use ssegateway::callback::Called;
use ssegateway::gateway::{CloseMode, ConnId, Listener};
use std::collections::VecDeque;
use std::io::ErrorKind;

/// Edges not yet reported to a socket's owner.
#[derive(Clone, Copy, Default)]
pub(super) struct Edges {
    pub readable: bool,
    pub writable: bool,
    pub read_closed: bool,
}

/// One connection, both ends of it.
#[derive(Default)]
pub(super) struct Socket {
    /// The id it was registered with.
    pub id: Option<ConnId>,
    /// Input, of which `read` bytes were read.
    input: Vec<u8>,
    read: usize,
    input_max: usize,
    /// The client ended its side.
    pub fin: bool,
    /// The error of the next call.
    pub error: Option<ErrorKind>,
    /// Bytes in flight to the client.
    pub output: usize,
    output_max: usize,
    /// A write found too little space: an edge must follow.
    pub blocked: bool,
    /// The client has closed: a write is answered with a reset.
    pub deaf: bool,
    pub accepted: bool,
    /// It was accepted by the internal listener.
    pub internal: bool,
    /// The gateway has shut its side down.
    pub shut: bool,
    /// The gateway has closed it.
    pub closed: Option<CloseMode>,
    edges: Edges,
    queued: bool,
    /// The loop was told that there is input, and no read has said otherwise; and that the input ends.
    pub told: bool,
    pub told_end: bool,
}

/// The result of a client's read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    Nothing,
    End,
}

#[derive(Default)]
pub(super) struct Kernel {
    pub sockets: Vec<Socket>,
    /// Accepted and not closed.
    pub open: Vec<usize>,
    backlogs: [VecDeque<usize>; 2],
    accept_edges: [bool; 2],
    ready: VecDeque<usize>,
    pub completions: VecDeque<Called>,
    completions_edge: bool,
    pub signals: u32,
    pub listening: bool,
    /// Most sockets at once; accept(2) fails with EMFILE at more.
    pub descriptors: usize,
    /// Report the complete state, not only changes, as Linux does.
    pub whole_state: bool,
}

/// The listener's index in pairs.
pub(super) fn index(listener: Listener) -> usize {
    match listener {
        Listener::Public => 0,
        Listener::Internal => 1,
    }
}

impl Kernel {
    pub(super) fn new(descriptors: usize, whole_state: bool) -> Self {
        Self { listening: true, descriptors, whole_state, ..Self::default() }
    }

    /// A client connects; its socket waits in the backlog.
    pub(super) fn connect(&mut self, listener: Listener, input_max: usize, output_max: usize) -> usize {
        let internal = listener == Listener::Internal;
        self.sockets.push(Socket { input_max, output_max, internal, ..Socket::default() });
        let socket = self.sockets.len() - 1;
        if self.listening {
            self.backlogs[index(listener)].push_back(socket);
            self.accept_edges[index(listener)] = true;
        } else {
            self.sockets[socket].error = Some(ErrorKind::ConnectionReset);
        }
        socket
    }

    /// Bytes arrive; returns how many fit.
    pub(super) fn arrive(&mut self, socket: usize, bytes: &[u8]) -> usize {
        let it = &mut self.sockets[socket];
        if it.closed.is_some() || it.error.is_some() || it.fin {
            return bytes.len();
        }
        let count = bytes.len().min(it.input_max.saturating_sub(it.input.len() - it.read));
        it.input.extend_from_slice(&bytes[..count]);
        if count > 0 {
            self.edge(socket, Edges { readable: true, ..Edges::default() });
        }
        count
    }

    /// The client ends its side.
    pub(super) fn end_input(&mut self, socket: usize) {
        if !self.sockets[socket].fin {
            self.sockets[socket].fin = true;
            self.edge(socket, Edges { readable: true, read_closed: true, ..Edges::default() });
        }
    }

    /// The connection breaks; input that was not read is lost if `purge`.
    pub(super) fn fail(&mut self, socket: usize, error: ErrorKind, purge: bool) {
        let it = &mut self.sockets[socket];
        if it.error.is_some() {
            return;
        }
        it.error = Some(error);
        it.blocked = false;
        if purge {
            it.read = it.input.len();
        }
        self.edge(socket, Edges { readable: true, writable: true, read_closed: true });
    }

    /// The client reads at most `count` bytes.
    pub(super) fn take(&mut self, socket: usize, count: usize) -> Read {
        let it = &mut self.sockets[socket];
        let taken = count.min(it.output);
        it.output -= taken;
        if it.blocked && it.output_max - it.output >= (it.output_max / 3).max(1) {
            it.blocked = false;
            self.edge(socket, Edges { writable: true, ..Edges::default() });
        }
        let it = &self.sockets[socket];
        match taken {
            0 if it.output == 0 && (it.shut || it.closed.is_some() || it.error.is_some()) => Read::End,
            0 => Read::Nothing,
            _ => Read::Bytes(taken),
        }
    }

    /// Records an edge, except for a socket that is closed or not registered.
    fn edge(&mut self, socket: usize, edges: Edges) {
        let it = &mut self.sockets[socket];
        if it.id.is_none() || it.closed.is_some() {
            return;
        }
        it.edges.readable |= edges.readable;
        it.edges.writable |= edges.writable;
        it.edges.read_closed |= edges.read_closed;
        if !it.queued {
            it.queued = true;
            self.ready.push_back(socket);
        }
    }

    /// An outcome is ready for the loop.
    pub(super) fn complete(&mut self, completion: Called) {
        self.completions.push_back(completion);
        self.completions_edge = true;
    }

    pub(super) fn has_edges(&self) -> bool {
        !self.ready.is_empty() || self.accept_edges != [false; 2] || self.completions_edge || self.signals > 0
    }

    /// Takes the edge of the socket at `place` in the queue, if it is still open.
    pub(super) fn next_edge(&mut self, place: usize) -> Option<(usize, ConnId, Edges)> {
        let socket = self.ready.remove(place)?;
        let it = &mut self.sockets[socket];
        it.queued = false;
        let mut edges = std::mem::take(&mut it.edges);
        if self.whole_state {
            edges.readable |= it.is_readable();
            edges.writable |= it.output < it.output_max || it.error.is_some();
            edges.read_closed |= it.fin || it.error.is_some();
        }
        match (it.id, it.closed) {
            (Some(id), None) => Some((socket, id, edges)),
            (_, _) => None,
        }
    }

    pub(super) fn edges_waiting(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn take_accept_edge(&mut self, listener: Listener) -> bool {
        std::mem::take(&mut self.accept_edges[index(listener)])
    }

    pub(super) fn take_completions_edge(&mut self) -> bool {
        std::mem::take(&mut self.completions_edge)
    }

    pub(super) fn backlog(&self, listener: Listener) -> usize {
        self.backlogs[index(listener)].len()
    }

    pub(super) fn has_accept_edge(&self, listener: Listener) -> bool {
        self.accept_edges[index(listener)]
    }

    pub(super) fn accept(&mut self, listener: Listener) -> Option<usize> {
        let socket = self.backlogs[index(listener)].pop_front()?;
        self.sockets[socket].accepted = true;
        self.open.push(socket);
        Some(socket)
    }

    pub(super) fn register(&mut self, socket: usize, id: ConnId) {
        let it = &mut self.sockets[socket];
        it.id = Some(id);
        let edges = Edges { readable: it.is_readable(), writable: true, read_closed: it.fin || it.error.is_some() };
        self.edge(socket, edges);
    }

    /// The gateway reads.
    pub(super) fn read(&mut self, socket: usize, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        let it = &mut self.sockets[socket];
        let unread = &it.input[it.read..];
        if unread.is_empty() {
            return match it.error {
                Some(error) => Err(error),
                None if it.fin => Ok(0),
                None => Err(ErrorKind::WouldBlock),
            };
        }
        let count = unread.len().min(buffer.len());
        buffer[..count].copy_from_slice(&unread[..count]);
        it.read += count;
        if it.read == it.input.len() {
            it.input.clear();
            it.read = 0;
        }
        Ok(count)
    }

    /// How many bytes to the client fit.
    pub(super) fn room(&self, socket: usize) -> usize {
        self.sockets[socket].output_max - self.sockets[socket].output
    }

    /// The send buffer becomes smaller, as the kernel's does with memory and path: no more than `room` bytes fit.
    pub(super) fn shrink(&mut self, socket: usize, room: usize) {
        self.sockets[socket].output_max = self.sockets[socket].output + room;
    }

    /// The gateway writes `count` bytes; returns how many were taken.
    pub(super) fn write(&mut self, socket: usize, count: usize) -> Result<usize, ErrorKind> {
        let it = &mut self.sockets[socket];
        if let Some(error) = it.error {
            return Err(if error == ErrorKind::TimedOut { error } else { ErrorKind::BrokenPipe });
        }
        if it.deaf {
            return Ok(count);
        }
        let taken = count.min(it.output_max - it.output);
        it.output += taken;
        it.blocked |= taken < count;
        if taken == 0 { Err(ErrorKind::WouldBlock) } else { Ok(taken) }
    }

    /// The gateway closes; bytes that the client has not read are lost if it aborts, or if it leaves input unread (RFC
    /// 1122 section 4.2.2.13).
    pub(super) fn close(&mut self, socket: usize, how: CloseMode) {
        self.open.retain(|open| *open != socket);
        let it = &mut self.sockets[socket];
        assert!(it.closed.is_none(), "closed twice");
        it.closed = Some(how);
        it.blocked = false;
        if how == CloseMode::Abort || it.read < it.input.len() {
            it.output = 0;
        }
        it.input = Vec::new();
        it.read = 0;
    }

    pub(super) fn stop_listening(&mut self) {
        self.listening = false;
        self.accept_edges = [false; 2];
        for backlog in &mut self.backlogs {
            for socket in backlog.drain(..) {
                self.sockets[socket].error = Some(ErrorKind::ConnectionReset);
            }
        }
    }
}

impl Socket {
    /// Whether a read would find something.
    pub(super) fn is_readable(&self) -> bool {
        self.read < self.input.len() || self.fin || self.error.is_some()
    }

    /// Whether an edge is pending for its owner.
    pub(super) fn has_edge(&self) -> bool {
        self.queued
    }

    /// Whether all input from the client has been read.
    pub(super) fn is_drained(&self) -> bool {
        self.read == self.input.len()
    }
}
