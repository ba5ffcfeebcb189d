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
