//! The connection to Redis, the only one that the process itself opens. It has no slot among the clients' connections:
//! no limit, deadline or drain of theirs is meant for it.

use super::budgets::TURN_UPSTREAM;
use super::system::System;
use crate::clock::Millis;
use crate::gateway::Gateway;
use crate::workers::{Session, Sessions};
use core::net::SocketAddr;
use std::io::ErrorKind;

/// Writes per turn: much of a burst of sends leaves at once.
const TURN_WRITES: usize = 16;

/// Bytes that are encrypted at once: they wait a second time then, for the socket.
const SEALED_AT_ONCE: usize = 64 * 1024;

/// The connection, and how each one is made.
pub(super) struct Upstream<S> {
    /// Where connections are encrypted.
    sessions: Option<Sessions>,
    /// What was received, without TLS.
    plain: Vec<u8>,
    connected: Option<Connected<S>>,
}

/// The socket, and what is known of it.
struct Connected<S> {
    socket: S,
    session: Option<Box<Session>>,
    readable: bool,
    writable: bool,
    /// A write had to be left for the next turn.
    has_more: bool,
}

impl<S> Upstream<S> {
    /// `sessions`: for an encrypted connection.
    pub(super) fn new(sessions: Option<Sessions>) -> Self {
        Self { sessions, plain: Vec::new(), connected: None }
    }

    /// The kernel has reported something.
    pub(super) fn note(&mut self, readable: bool, writable: bool) {
        if let Some(connected) = &mut self.connected {
            connected.readable |= readable;
            connected.writable |= writable;
        }
    }

    /// Whether there is work without waiting.
    pub(super) fn is_behind(&self) -> bool {
        self.connected
            .as_ref()
            .is_some_and(|connected| connected.readable || (connected.has_more && connected.writable))
    }

    pub(super) fn connect(
        &mut self,
        net: &mut impl System<Socket = S>,
        gateway: &mut Gateway,
        now: Millis,
        address: SocketAddr,
    ) {
        let session = self.sessions.as_ref().map(|sessions| sessions.open().map(Box::new)).transpose();
        match session.and_then(|session| Ok((session, net.connect(address)?))) {
            Ok((session, socket)) => {
                self.connected = Some(Connected { socket, session, readable: false, writable: false, has_more: false });
                gateway.upstream_connected(now);
            }
            Err(error) => gateway.upstream_failed(now, &error.to_string()),
        }
    }

    pub(super) fn disconnect(&mut self, net: &mut impl System<Socket = S>) {
        if let Some(connected) = self.connected.take() {
            net.close(connected.socket);
        }
    }

    /// Acts upon what has come, and reads once, if there may be input.
    pub(super) fn read(
        &mut self,
        net: &mut impl System<Socket = S>,
        gateway: &mut Gateway,
        now: Millis,
        buffer: &mut [u8],
    ) {
        gateway.continue_upstream(now, TURN_UPSTREAM);
        // There is to be no more of it before.
        if gateway.is_upstream_behind() {
            return;
        }
        let Some(connected) = self.connected.as_mut().filter(|connected| connected.readable) else { return };
        match net.read(&mut connected.socket, buffer) {
            Ok(0) => gateway.upstream_failed(now, "it has closed the connection"),
            // A short read may have been followed by the end of input, which has no edge of its own then.
            Ok(count) => match &mut connected.session {
                None => gateway.upstream_received(now, &buffer[..count]),
                Some(session) => {
                    self.plain.clear();
                    match session.receive(&buffer[..count], &mut self.plain) {
                        Ok(()) => gateway.upstream_received(now, &self.plain),
                        Err(why) => gateway.upstream_failed(now, &why),
                    }
                }
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => connected.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => gateway.upstream_failed(now, &error.to_string()),
        }
    }

    /// Writes all commands of this turn.
    pub(super) fn flush(&mut self, net: &mut impl System<Socket = S>, gateway: &mut Gateway, now: Millis) {
        let Some(Connected { socket, session, writable, has_more, .. }) = &mut self.connected else { return };
        *has_more = false;
        for _ in 0..TURN_WRITES {
            if let Some(session) = session.as_mut().filter(|session| session.unsent().is_empty()) {
                let plain = gateway.upstream_unsent(now);
                let count = plain.len().min(SEALED_AT_ONCE);
                if let Err(error) = session.send(&plain[..count]) {
                    return gateway.upstream_failed(now, &error.to_string());
                }
                gateway.upstream_wrote(count);
            }
            let unsent = match session {
                Some(session) => session.unsent(),
                None => gateway.upstream_unsent(now),
            };
            if unsent.is_empty() || !*writable {
                return;
            }
            match (net.write(socket, unsent), session.as_mut()) {
                (Ok(count), Some(session)) => session.wrote(count),
                (Ok(count), None) => gateway.upstream_wrote(count),
                (Err(error), _) if error.kind() == ErrorKind::WouldBlock => *writable = false,
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (Err(error), _) => return gateway.upstream_failed(now, &error.to_string()),
            }
        }
        *has_more = true;
    }
}
