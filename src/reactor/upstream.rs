//! The connection to Redis, the only one that the process itself opens. It has no slot among the clients' connections:
//! no limit, deadline or drain of theirs is meant for it.

use super::system::System;
use crate::clock::Millis;
use crate::gateway::Gateway;
use core::net::SocketAddr;
use std::io::ErrorKind;

/// Writes per turn: much of a burst of sends leaves at once.
const TURN_WRITES: usize = 16;

/// The socket, and what is known of it.
pub(super) struct Upstream<S> {
    socket: Option<S>,
    readable: bool,
    writable: bool,
    /// A write had to be left for the next turn.
    has_more: bool,
}

impl<S> Default for Upstream<S> {
    fn default() -> Self {
        Self { socket: None, readable: false, writable: false, has_more: false }
    }
}

impl<S> Upstream<S> {
    /// The kernel has reported something.
    pub(super) fn note(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Whether there is work without waiting.
    pub(super) fn is_behind(&self) -> bool {
        self.socket.is_some() && (self.readable || (self.has_more && self.writable))
    }

    pub(super) fn connect(
        &mut self,
        net: &mut impl System<Socket = S>,
        gateway: &mut Gateway,
        now: Millis,
        address: SocketAddr,
    ) {
        match net.connect(address) {
            Ok(socket) => {
                *self = Self { socket: Some(socket), ..Self::default() };
                gateway.upstream_connected(now);
            }
            Err(error) => gateway.upstream_failed(now, &error.to_string()),
        }
    }

    pub(super) fn disconnect(&mut self, net: &mut impl System<Socket = S>) {
        if let Some(socket) = std::mem::take(self).socket {
            net.close(socket);
        }
    }

    /// Reads once, if there may be input.
    pub(super) fn read(
        &mut self,
        net: &mut impl System<Socket = S>,
        gateway: &mut Gateway,
        now: Millis,
        buffer: &mut [u8],
    ) {
        let Some(socket) = self.socket.as_mut().filter(|_| self.readable) else { return };
        match net.read(socket, buffer) {
            Ok(0) => gateway.upstream_failed(now, "it has closed the connection"),
            Ok(count) => {
                // A short read may have been followed by the end of input, which has no edge of its own then.
                gateway.upstream_received(now, &buffer[..count]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => gateway.upstream_failed(now, &error.to_string()),
        }
    }

    /// Writes all commands of this turn.
    pub(super) fn flush(&mut self, net: &mut impl System<Socket = S>, gateway: &mut Gateway, now: Millis) {
        self.has_more = false;
        for _ in 0..TURN_WRITES {
            let unsent = gateway.upstream_unsent(now);
            let Some(socket) = self.socket.as_mut().filter(|_| self.writable && !unsent.is_empty()) else { return };
            match net.write(socket, unsent) {
                Ok(count) => gateway.upstream_wrote(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return gateway.upstream_failed(now, &error.to_string()),
            }
        }
        self.has_more = true;
    }
}
