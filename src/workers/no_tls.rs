//! Replaces `tls` in a build without it.

use super::socket::SocketTransport;
use std::io;
use ureq::Error;
use ureq::unversioned::transport::{ConnectionDetails, NextTimeout};

/// Cannot exist.
pub(super) enum Tls {}

/// No error is one of a certificate.
pub(super) fn refusal(_error: &io::Error) -> Option<(String, &'static str)> {
    None
}

impl Tls {
    /// Always fails.
    pub(super) fn new(_extra_roots: &[Vec<u8>]) -> io::Result<Self> {
        Err(io::Error::other("this build has no TLS"))
    }

    pub(super) fn connect(
        &self,
        _: SocketTransport,
        _: &ConnectionDetails<'_>,
        _: NextTimeout,
    ) -> Result<SocketTransport, Error> {
        match *self {}
    }
}

/// Cannot exist.
pub enum Sessions {}

/// Cannot exist.
pub enum Session {}

impl Sessions {
    /// Always fails.
    pub fn new(_extra_roots: &[Vec<u8>], _host: &str) -> io::Result<Self> {
        Err(io::Error::other("this build has no TLS"))
    }

    /// Cannot be called.
    pub fn open(&self) -> io::Result<Session> {
        match *self {}
    }
}

impl Session {
    /// Cannot be called.
    pub fn receive(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), String> {
        match *self {}
    }

    /// Cannot be called.
    pub fn send(&mut self, _: &[u8]) -> io::Result<()> {
        match *self {}
    }

    /// Cannot be called.
    pub fn unsent(&self) -> &[u8] {
        match *self {}
    }

    /// Cannot be called.
    pub fn wrote(&mut self, _: usize) {
        match *self {}
    }
}
