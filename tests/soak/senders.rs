//! The sending side: keep-alive connections with pipelined sends, and a record of what each of them is.

use crate::common::{find, send_request};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};

/// One connection to `/internal/send`; each send on it is known as a `T`.
pub(crate) struct Sender<T> {
    socket: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// In order.
    unanswered: VecDeque<T>,
    /// Sends on this connection so far.
    count: usize,
    /// Why it is over.
    failure: Option<String>,
}

/// The answer to a send.
pub(crate) struct Answered<T> {
    pub send: T,
    pub status: u16,
    pub body: String,
}

impl<T> Sender<T> {
    pub(crate) fn connect(port: u16, registry: &Registry, token: Token) -> Self {
        let mut socket = TcpStream::connect(([127, 0, 0, 1], port).into()).expect("a connection to send on");
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE).expect("epoll takes it");
        Self { socket, out: Vec::new(), input: Vec::new(), unanswered: VecDeque::new(), count: 0, failure: None }
    }

    /// Queues a send; [`Sender::flush`] writes it.
    pub(crate) fn push(&mut self, send: T, body: &str) {
        self.out.extend_from_slice(send_request(body).as_bytes());
        self.unanswered.push_back(send);
        self.count += 1;
    }

    /// Whether nothing is in flight and it has made enough sends, so that it may be replaced.
    pub(crate) fn is_worn(&self, sends: usize) -> bool {
        self.unanswered.is_empty() && self.count >= sends
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Why the connection is over, if it is.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// What is unanswered on a connection that is over.
    #[cfg(feature = "redis")]
    pub(crate) fn into_unanswered(self) -> impl Iterator<Item = T> {
        self.unanswered.into_iter()
    }

    /// Writes as much as the kernel accepts.
    pub(crate) fn flush(&mut self) {
        while !self.out.is_empty() && self.failure.is_none() {
            match self.socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                // Not connected yet, or full: an event will follow.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return,
                Err(error) => self.failure = Some(error.to_string()),
            }
        }
    }

    /// Reads the available answers.
    pub(crate) fn read(&mut self) -> Vec<Answered<T>> {
        let mut answers = Vec::new();
        let mut scratch = [0; 16 * 1024];
        while self.failure.is_none() {
            match self.socket.read(&mut scratch) {
                Ok(0) => self.failure = Some("the gateway closed it".to_owned()),
                Ok(count) => self.input.extend_from_slice(&scratch[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => self.failure = Some(error.to_string()),
            }
        }
        let mut start = 0;
        while let Some((status, body, length)) = parse(&self.input[start..]) {
            start += length;
            let send = self.unanswered.pop_front().expect("an answer to a send");
            answers.push(Answered { send, status, body });
        }
        self.input.drain(..start);
        answers
    }
}

/// Status, body and length of the first answer, if it is complete.
fn parse(input: &[u8]) -> Option<(u16, String, usize)> {
    let head = find(input, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&input[..head]).expect("response heads are ASCII");
    let status = text["HTTP/1.1 ".len()..][..3].parse().expect("three digits");
    let length = text.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
    let length: usize = length.parse().expect("a decimal length");
    let body = input.get(head..head + length)?;
    Some((status, String::from_utf8_lossy(body).into_owned(), head + length))
}
