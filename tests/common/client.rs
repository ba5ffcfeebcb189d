//! A client that writes raw bytes and reads the responses.

use super::{PATIENCE, Response, find, sys};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A GET as a minimal client sends it.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: gateway\r\n\r\n")
}

/// A POST of JSON.
pub(crate) fn post(target: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A POST to the send endpoint.
pub(crate) fn send_request(body: &str) -> String {
    post("/internal/send", body)
}

/// One TCP connection to the gateway.
pub(crate) struct Client {
    socket: TcpStream,
    /// Received, not yet consumed.
    pub buffer: Vec<u8>,
    /// The peer sent a FIN or a reset.
    ended: bool,
    /// That was a reset.
    reset: bool,
}

impl Client {
    pub(crate) fn connect(port: u16) -> Self {
        Self::connect_to(([127, 0, 0, 1], port).into())
    }

    /// `None`: there is no listener.
    pub(crate) fn try_connect(port: u16) -> Option<Self> {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(socket) => Some(Self::over(socket)),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => None,
            Err(error) => panic!("no connection: {error}"),
        }
    }

    /// To an address other than the loopback's.
    pub(crate) fn connect_to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the gateway accepts"))
    }

    /// To a Unix socket.
    pub(crate) fn connect_unix(path: &Path) -> Self {
        // The type of the descriptor does not matter to the calls on it.
        Self::with_timeouts(OwnedFd::from(UnixStream::connect(path).expect("the gateway accepts")).into())
    }

    fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("TCP_NODELAY");
        Self::with_timeouts(socket)
    }

    fn with_timeouts(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Self { socket, buffer: Vec::new(), ended: false, reset: false }
    }

    /// Connects to an address other than the loopback's and sends.
    pub(crate) fn open_at(address: SocketAddr, request: impl AsRef<[u8]>) -> Self {
        let mut client = Self::connect_to(address);
        client.send(request);
        client
    }

    /// Connects and sends.
    pub(crate) fn open(port: u16, request: impl AsRef<[u8]>) -> Self {
        let mut client = Self::connect(port);
        client.send(request);
        client
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the gateway reads");
    }

    /// Sends to a peer that may have closed already.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// Shrinks the receive buffer, so that the kernel accepts little from the gateway while nobody reads.
    pub(crate) fn take_little(&self) {
        sys::receive_buffer(&self.socket, 16 * 1024);
    }

    /// The socket itself, for a test that polls several.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends FIN and keeps reading.
    pub(crate) fn half_close(&self) {
        self.socket.shutdown(Shutdown::Write).expect("shutdown");
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        sys::reset_on_close(&self.socket);
    }

    /// One read of up to 256 KiB into the buffer; 0 at the end.
    pub(crate) fn fill(&mut self) -> usize {
        if self.ended {
            return 0;
        }
        let mut scratch = vec![0; 256 * 1024];
        // A read with a timeout fails with EINTR when the tests are stopped and continued (signal(7)).
        let read = loop {
            match self.socket.read(&mut scratch) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.buffer.extend_from_slice(&scratch[..count]);
                return count;
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                self.ended = true;
                self.reset = true;
            }
            Err(error) => panic!("no more bytes: {error}; so far: {:?}", String::from_utf8_lossy(&self.buffer)),
        }
        0
    }

    /// Takes everything up to and including `delimiter`.
    pub(crate) fn read_until(&mut self, delimiter: &[u8]) -> Vec<u8> {
        self.try_read_until(delimiter).unwrap_or_else(|| {
            let got = String::from_utf8_lossy(&self.buffer);
            panic!("the connection ended (reset: {}) before {delimiter:?}; got {got:?}", self.reset)
        })
    }

    /// The same; `None` if the connection ends first.
    pub(crate) fn try_read_until(&mut self, delimiter: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(start) = find(&self.buffer, delimiter) {
                return Some(self.buffer.drain(..start + delimiter.len()).collect());
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// Takes exactly `count` bytes.
    pub(crate) fn read_exact(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill() > 0, "the connection ended after {} of {count} bytes", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads a head and not a byte more.
    pub(crate) fn head(&mut self) -> Response {
        Response::parse_head(&self.read_until(b"\r\n\r\n"))
    }

    /// Reads one response to a request other than HEAD. Every answer of the gateway except a stream has a length, so a
    /// missing one is a failure.
    pub(crate) fn response(&mut self) -> Response {
        let mut response = self.head();
        if response.status >= 200 && response.status != 204 && response.status != 304 {
            let length = response.header("content-length").unwrap_or_else(|| panic!("no length: {response:?}"));
            let length = length.parse().expect("a decimal length");
            response.body = self.read_exact(length);
        }
        response
    }

    /// Reads one response; `None` if the connection ends before its head is complete.
    pub(crate) fn try_response(&mut self) -> Option<Response> {
        while find(&self.buffer, b"\r\n\r\n").is_none() {
            if self.fill() == 0 {
                return None;
            }
        }
        Some(self.response())
    }

    /// Whether the connection has ended with a reset, as far as it was read.
    pub(crate) fn was_reset(&self) -> bool {
        self.reset
    }

    /// Sends a request and reads its response.
    pub(crate) fn exchange(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request);
        self.response()
    }

    /// Reads to a clean end of input.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() > 0 {}
        assert!(!self.reset, "reset after {:?}", String::from_utf8_lossy(&self.buffer));
        std::mem::take(&mut self.buffer)
    }

    /// Reads to the end, be it a FIN or a reset.
    pub(crate) fn rest_or_reset(&mut self) -> Vec<u8> {
        while self.fill() > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// Expects no more bytes and a clean close.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "unexpected bytes: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Expects that a probe on this connection is still answered.
    #[track_caller]
    pub(crate) fn assert_open(&mut self) {
        assert_eq!(self.exchange(get("/healthz")).status, 200);
    }
}
