//! The backend of the gateway under test: accepts every connect after a set delay, with the groups of the stream, and
//! records the callbacks. It has a thread of its own, on the load's core.

use super::stamp::now;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const LISTENER: Token = Token(usize::MAX);
/// A connect storm's callbacks arrive at once; the kernel limits this to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// How often the thread checks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// The answer to the connect of a stream, by its number.
pub(crate) type Answers = fn(usize) -> String;

/// A stream without groups.
pub(crate) fn accept_plainly(_: usize) -> String {
    "{}".to_owned()
}

/// The callbacks so far.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Tokens by the stream's number, which is the end of its path.
    pub tokens: Vec<Option<String>>,
    pub connects: u64,
    pub disconnects: u64,
    /// Callbacks of either kind for an unknown stream, or repeated for a known one.
    pub duplicated: u64,
    gone: Vec<bool>,
    pub last_disconnect: u64,
}

impl Ledger {
    /// Records a callback; returns the stream's number.
    fn note(&mut self, callback: &serde_json::Value) -> Option<usize> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let url = text(&callback["request"]["url"]);
        let stream = url.rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
        let Some(stream) = stream else {
            self.duplicated += 1;
            return None;
        };
        if self.tokens.len() <= stream {
            self.tokens.resize(stream + 1, None);
            self.gone.resize(stream + 1, false);
        }
        if callback["action"] == "connect" {
            self.connects += 1;
            self.duplicated += u64::from(self.tokens[stream].replace(text(&callback["token"])).is_some());
        } else {
            self.disconnects += 1;
            self.last_disconnect = now();
            let good = self.tokens[stream].as_deref() == callback["token"].as_str();
            self.duplicated += u64::from(std::mem::replace(&mut self.gone[stream], true) || !good);
        }
        Some(stream)
    }
}

#[derive(Default)]
struct Shared {
    ledger: Mutex<Ledger>,
    delay_ms: AtomicU64,
    stop: AtomicBool,
}

pub(crate) struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// `answers` gives the JSON with which a stream is accepted, by its number.
    pub(crate) fn start(answers: Answers) -> io::Result<Self> {
        let listener = ssegateway::sys::listen((Ipv4Addr::LOCALHOST, 0).into(), BACKLOG)?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let mut serving = Serving {
            poll: Poll::new()?,
            listener: TcpListener::from_std(listener),
            connections: Vec::new(),
            later: VecDeque::new(),
            answers,
            shared: Arc::clone(&shared),
        };
        serving.poll.registry().register(&mut serving.listener, LISTENER, Interest::READABLE)?;
        let thread = std::thread::Builder::new().name("backend".to_owned()).spawn(move || serving.run())?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Delay of every answer from now on.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.shared.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Connection {
    socket: TcpStream,
    input: Vec<u8>,
}

struct Serving {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    /// Due time, connection and stream of each answer, in order, since the delay is the same for all.
    later: VecDeque<(u64, usize, Option<usize>)>,
    answers: Answers,
    shared: Arc<Shared>,
}

impl Serving {
    fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        while !self.shared.stop.load(Ordering::Relaxed) {
            let next = self.later.front().map(|(due, ..)| Duration::from_nanos(due.saturating_sub(now())));
            let timeout = next.map_or(STOP_CHECK, |next| next.min(STOP_CHECK));
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return,
                Ok(()) | Err(_) => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    Token(index) => self.read(index),
                }
            }
            while self.later.front().is_some_and(|(due, ..)| *due <= now()) {
                if let Some((_, index, stream)) = self.later.pop_front() {
                    self.answer(index, stream);
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((mut socket, _)) = self.listener.accept() {
            // An index is never reused: a delayed answer could reach the wrong peer.
            let token = Token(self.connections.len());
            let _ = socket.set_nodelay(true);
            let registered = self.poll.registry().register(&mut socket, token, Interest::READABLE);
            self.connections.push(registered.ok().map(|()| Connection { socket, input: Vec::new() }));
        }
    }

    fn read(&mut self, index: usize) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let Some(connection) = &mut self.connections[index] else { return };
            match connection.socket.read(&mut buffer) {
                Ok(0) => self.connections[index] = None,
                Ok(count) => connection.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.connections[index] = None,
            }
            self.take_requests(index);
        }
    }

    fn take_requests(&mut self, index: usize) {
        let delay = Duration::from_millis(self.shared.delay_ms.load(Ordering::Relaxed)).as_nanos() as u64;
        while let Some(connection) = &mut self.connections[index]
            && let Some((head, length)) = whole_request(&connection.input)
        {
            let callback = serde_json::from_slice(&connection.input[head..length]).unwrap_or_default();
            connection.input.drain(..length);
            let stream = self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).note(&callback);
            if delay == 0 {
                self.answer(index, stream);
            } else {
                self.later.push_back((now() + delay, index, stream));
            }
        }
    }

    fn answer(&mut self, index: usize, stream: Option<usize>) {
        let body = stream.map_or_else(|| accept_plainly(0), self.answers);
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = head + &body;
        // The peer is waiting for this answer, so its socket has room for it.
        if let Some(connection) = &mut self.connections[index]
            && connection.socket.write(answer.as_bytes()).ok() != Some(answer.len())
        {
            self.connections[index] = None;
        }
    }
}

/// The length of the first request's head and its total length, if it is complete.
fn whole_request(input: &[u8]) -> Option<(usize, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head) = request.parse(input).ok()? else { return None };
    let field = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"))?;
    let body: usize = std::str::from_utf8(field.value).ok()?.parse().ok()?;
    (input.len() >= head + body).then_some((head, head + body))
}
