//! Reserved ports, for tests that run concurrently.

use super::sys;
use std::fmt;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A port reserved for as long as this is alive: a socket is bound to it. That socket does not listen, so connections
/// are refused until a program listens there, which SO_REUSEADDR allows.
#[derive(Clone)]
pub(crate) struct Port {
    pub number: u16,
    _socket: Arc<OwnedFd>,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = sys::bound_socket();
        // The descriptor's type does not matter to getsockname(2).
        let probe = TcpListener::from(socket.try_clone().expect("a second descriptor"));
        let number = probe.local_addr().expect("its address").port();
        Self { number, _socket: Arc::new(socket) }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(formatter)
    }
}
