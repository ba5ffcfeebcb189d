//! TLS on a connection: rustls with the built-in authorities and those of the settings. ureq's own connector cannot
//! add to the built-in ones.

use super::socket::{HEAD_BYTES_MAX, SocketTransport};
use super::verifier::Verifier;
use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConnection, StreamOwned};
use std::fmt::{self, Debug, Formatter};
use std::io::{self, Read, Write};
use std::sync::Arc;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, LazyBuffers, NextTimeout, Transport, TransportAdapter};

/// Longer than the longest allowed head, so that ureq can detect one that is too long.
const INPUT_BYTES: usize = HEAD_BYTES_MAX + 1024;

/// Opens TLS connections.
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// `extra_roots` are certificates in DER. Errors: one that is not a certificate.
    pub(super) fn new(extra_roots: &[Vec<u8>]) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(extra_roots, Arc::clone(&provider))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Performs the handshake within `timeout`, and verifies the peer's certificate.
    pub(super) fn connect(
        &self,
        socket: SocketTransport,
        details: &ConnectionDetails<'_>,
        timeout: NextTimeout,
    ) -> Result<TlsTransport, Error> {
        let host = details.uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare).map_err(|_| Error::Tls("no certificate can name that host"))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name.to_owned()).map_err(io::Error::other)?;
        let mut socket = TransportAdapter::new(socket, Arc::clone(&details.current_time));
        socket.set_timeout(timeout);
        connection.complete_io(&mut socket)?;
        let buffers = LazyBuffers::new(INPUT_BYTES, details.config.output_buffer_size());
        Ok(TlsTransport { stream: StreamOwned::new(connection, socket), buffers })
    }
}

/// TLS to a server, for those who have its socket and never wait: bytes in, bytes out.
pub struct Sessions {
    tls: Tls,
    name: ServerName<'static>,
}

/// One such connection.
pub struct Session {
    connection: ClientConnection,
    /// What the socket is to be given.
    unsent: Vec<u8>,
}

impl Sessions {
    /// `host`: the name or the address that the server's certificate must have. `extra_roots` are certificates in DER.
    ///
    /// # Errors
    ///
    /// One that is not a certificate, or a host that none can name.
    pub fn new(extra_roots: &[Vec<u8>], host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        Ok(Self { tls: Tls::new(extra_roots)?, name: name.to_owned() })
    }

    /// Begins a connection, with the first bytes of its handshake.
    ///
    /// # Errors
    ///
    /// Out of random numbers.
    pub fn open(&self) -> io::Result<Session> {
        let mut connection =
            ClientConnection::new(Arc::clone(&self.tls.0), self.name.clone()).map_err(io::Error::other)?;
        // Who writes limits that himself.
        connection.set_buffer_limit(None);
        let mut session = Session { connection, unsent: Vec::new() };
        session.collect()?;
        Ok(session)
    }
}

impl Session {
    /// The socket has given `input`: appends what it says to `plain`.
    ///
    /// # Errors
    ///
    /// What is wrong with the server's certificate, or with the bytes.
    pub fn receive(&mut self, mut input: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
        while !input.is_empty() {
            self.connection.read_tls(&mut input).map_err(|error| error.to_string())?;
            let state = self.connection.process_new_packets().map_err(|error| {
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                refusal(&error).map_or_else(|| format!("TLS: {error}"), |(what, _)| what)
            })?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.connection.reader().read_exact(&mut plain[start..]).map_err(|error| error.to_string())?;
            if state.peer_has_closed() {
                break;
            }
        }
        self.collect().map_err(|error| error.to_string())
    }

    /// Encrypts `plain` for the socket, once the handshake is complete.
    ///
    /// # Errors
    ///
    /// Never, as there is no limit.
    pub fn send(&mut self, plain: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(plain)?;
        self.collect()
    }

    /// The bytes to write to the socket next.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// The socket has taken `count` of them.
    pub fn wrote(&mut self, count: usize) {
        self.unsent.drain(..count);
    }

    fn collect(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.unsent)?;
        }
        Ok(())
    }
}

/// What is wrong with a backend's certificate, and the most likely fix; `None` for any other error.
pub(super) fn refusal(error: &io::Error) -> Option<(String, &'static str)> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(reason) = inner else { return None };
    let (wrong, hint) = match reason {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            "wrong name",
            "CALLBACK_URL must have a name or address of the certificate's subjectAltName, or the certificate needs that of CALLBACK_URL there",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("wrong date", "renew the backend's certificate, or set this machine's clock right")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("wrong date", "the clock of this machine or of the one that made the certificate is wrong")
        }
        CertificateError::UnknownIssuer => (
            "unknown issuer",
            "set CALLBACK_CA_FILE to a file with its authority's certificate, or with its own if it is self-signed",
        ),
        _ => ("bad certificate", "the backend needs another certificate"),
    };
    Some((format!("{wrong}: {inner}"), hint))
}

/// A TLS connection.
pub(super) struct TlsTransport {
    stream: StreamOwned<ClientConnection, TransportAdapter<SocketTransport>>,
    buffers: LazyBuffers,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl Debug for TlsTransport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(Tls::new(&[]).is_ok());
        assert!(Tls::new(&[b"a certificate".to_vec()]).is_err());
    }

    #[test]
    fn errors_of_certificates_name_what_is_wrong() {
        for (reason, wrong, fix) in [
            (CertificateError::NotValidForName, "wrong name: ", "subjectAltName"),
            (CertificateError::Expired, "wrong date: ", "renew"),
            (CertificateError::NotValidYet, "wrong date: ", "clock"),
            (CertificateError::UnknownIssuer, "unknown issuer: ", "CALLBACK_CA_FILE"),
            (CertificateError::BadSignature, "bad certificate: ", "another certificate"),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(reason));
            let (text, hint) = refusal(&error).unwrap();
            assert!(text.starts_with(wrong) && hint.contains(fix), "{text}; {hint}");
        }
        assert_eq!(refusal(&io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError)), None);
        assert_eq!(refusal(&io::ErrorKind::InvalidData.into()), None);
    }
}
