//! [`System`] on mio and the worker pool. It only translates.

use super::system::{Event, System};
use crate::gateway::{ConnId, Listener, Peer, ProcessFigures};
use crate::job::{Completion, Job};
use crate::process;
use crate::sys::{self, Signals, SocketFile};
use crate::table::Key;
use crate::workers::{Lookups, Workers};
use mio::net::{TcpListener, TcpStream, UnixListener};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};
use uuid::Uuid;

const PUBLIC: Token = Token(usize::MAX);
const INTERNAL: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);
const WAKER: Token = Token(usize::MAX - 3);
const INTERNAL_UNIX: Token = Token(usize::MAX - 4);
const UPSTREAM: Token = Token(usize::MAX - 5);

/// Tokens read from the kernel's generator at once.
const TOKENS_DRAWN: usize = 16;
/// Random bytes per token.
const TOKEN_BYTES: usize = 16;

/// Events taken from the kernel per turn.
const EVENTS_MAX: usize = 1024;

/// Wakes the loop from other threads; many wake-ups before it wakes cost one system call.
#[derive(Clone)]
pub struct Wakeup {
    waker: Arc<Waker>,
    woken: Arc<AtomicBool>,
}

impl Wakeup {
    /// Makes the loop check for completions.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // It fails only if the loop's descriptor is gone, with no loop left to wake.
            let _ = self.waker.wake();
        }
    }
}

/// The open ports and sockets: bound, listening and non-blocking.
#[derive(Debug)]
pub struct Listeners {
    /// `PORT`.
    pub public: std::net::TcpListener,
    /// `INTERNAL_PORT`, where set.
    pub internal: Option<std::net::TcpListener>,
    /// `INTERNAL_SOCKET`, where set, and its file.
    pub internal_unix: Option<(SocketFile, std::os::unix::net::UnixListener)>,
}

/// The kernel's side of the loop.
pub struct MioSystem {
    poll: Poll,
    events: Events,
    public: Option<TcpListener>,
    internal: Option<TcpListener>,
    internal_unix: Option<(SocketFile, UnixListener)>,
    signals: Signals,
    wakeup: Wakeup,
    workers: Option<Workers>,
    lookups: Option<Lookups>,
    completions: Option<Receiver<Completion>>,
    codec: TokenCodec,
    /// Random bytes for tokens, and the number of unused ones.
    random: [u8; TOKENS_DRAWN * TOKEN_BYTES],
    random_left: usize,
    client_timeout: Duration,
    start: Instant,
    started_at: SystemTime,
}

impl MioSystem {
    /// Takes over the listeners.
    ///
    /// # Errors
    ///
    /// Out of descriptors or memory, or no source of random bytes.
    pub fn new(listeners: Listeners, signals: Signals, client_timeout: Duration) -> io::Result<Self> {
        let Listeners { public, internal, internal_unix } = listeners;
        let random = sys::random_bytes()?;
        let poll = Poll::new()?;
        let registry = poll.registry();
        for listener in [Some(&public), internal.as_ref()].into_iter().flatten() {
            sys::set_stream_options(listener.as_fd(), client_timeout)?;
        }
        let mut public = TcpListener::from_std(public);
        registry.register(&mut public, PUBLIC, Interest::READABLE)?;
        let mut internal = internal.map(TcpListener::from_std);
        if let Some(internal) = &mut internal {
            registry.register(internal, INTERNAL, Interest::READABLE)?;
        }
        let mut internal_unix = internal_unix.map(|(file, listener)| (file, UnixListener::from_std(listener)));
        if let Some((_, listener)) = &mut internal_unix {
            registry.register(listener, INTERNAL_UNIX, Interest::READABLE)?;
        }
        registry.register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(registry, WAKER)?);
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            public: Some(public),
            internal,
            internal_unix,
            signals,
            wakeup: Wakeup { waker, woken: Arc::default() },
            workers: None,
            lookups: None,
            completions: None,
            codec: TokenCodec::new(),
            random,
            random_left: random.len(),
            client_timeout,
            start: Instant::now(),
            started_at: SystemTime::now(),
        })
    }

    /// The worker pool's handle for waking the loop.
    pub fn wakeup(&self) -> Wakeup {
        self.wakeup.clone()
    }

    /// Sets the pool that makes the callbacks. Without it, no call may be submitted.
    pub fn set_workers(&mut self, workers: Workers) {
        self.workers = Some(workers);
    }

    /// Sets what looks up names, and the channel of all completions.
    pub fn set_lookups(&mut self, lookups: Lookups, completions: Receiver<Completion>) {
        (self.lookups, self.completions) = (Some(lookups), Some(completions));
    }

    /// The calls on a connected socket are the same in all families.
    fn accept_unix(&self) -> io::Result<(TcpStream, Peer)> {
        let (_, listener) = self.internal_unix.as_ref().ok_or(io::ErrorKind::WouldBlock)?;
        let (socket, _) = listener.accept()?;
        Ok((OwnedFd::from(socket).into(), Peer::Loopback))
    }

    fn translate(&mut self, events: &mut Vec<Event>) {
        for event in &self.events {
            match event.token() {
                PUBLIC => events.push(Event::Accept(Listener::Public)),
                INTERNAL | INTERNAL_UNIX => events.push(Event::Accept(Listener::Internal)),
                SIGNALS => {
                    while self.signals.take() {
                        events.push(Event::Signal);
                    }
                }
                UPSTREAM => events.push(Event::Upstream {
                    readable: event.is_readable() || event.is_error() || event.is_read_closed(),
                    writable: event.is_writable(),
                }),
                WAKER => {
                    // Before the queue is emptied, so that later completions wake again. Not a plain store: that could
                    // take effect after the queue was found empty.
                    self.wakeup.woken.swap(false, Ordering::AcqRel);
                    events.push(Event::Completions);
                }
                token => {
                    if let Some(id) = self.codec.id(token) {
                        // An error is reported as both; reading or writing returns it.
                        events.push(Event::Socket {
                            id,
                            readable: event.is_readable() || event.is_error(),
                            writable: event.is_writable(),
                            read_closed: event.is_read_closed(),
                        });
                    }
                }
            }
        }
    }
}

fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<(TcpStream, Peer)> {
    let (socket, address) = listener.ok_or(io::ErrorKind::WouldBlock)?.accept()?;
    let peer = if address.ip().to_canonical().is_loopback() { Peer::Loopback } else { Peer::Remote };
    Ok((socket, peer))
}

impl System for MioSystem {
    type Socket = TcpStream;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
        self.poll.poll(&mut self.events, timeout)?;
        self.translate(events);
        // Several signals may arrive as one event, which costs at most one extra poll.
        Ok(events.len() >= EVENTS_MAX)
    }

    fn accept(&mut self, listener: Listener) -> io::Result<(TcpStream, Peer)> {
        match listener {
            Listener::Public => accept_tcp(self.public.as_ref()),
            // Both may have clients waiting: there are none once neither has any.
            Listener::Internal => match accept_tcp(self.internal.as_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.accept_unix(),
                result => result,
            },
        }
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<TcpStream> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        self.poll.registry().register(&mut socket, UPSTREAM, Interest::READABLE | Interest::WRITABLE)?;
        Ok(socket)
    }

    fn register(&mut self, socket: &mut TcpStream, id: ConnId) -> io::Result<()> {
        let token = self.codec.token(id);
        // Both, once: cheap with edges, and every change of interests would cost a system call.
        self.poll.registry().register(socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    fn read(&mut self, socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        socket.read(buffer)
    }

    fn write(&mut self, socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        socket.write(bytes)
    }

    fn unacknowledged(&self, socket: &TcpStream) -> usize {
        sys::unacknowledged(socket.as_fd())
    }

    fn keep_alive(&mut self, socket: &mut TcpStream) {
        // If it fails a vanished peer is found when something is written to it.
        let _ = sys::probe_silent_peer(socket.as_fd(), self.client_timeout);
    }

    fn shutdown_write(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        socket.shutdown(Shutdown::Write)
    }

    fn close(&mut self, socket: TcpStream) {
        drop(socket);
    }

    fn abort(&mut self, socket: TcpStream) {
        // If it fails the close is an ordinary one, limited by TCP_USER_TIMEOUT.
        let _ = sys::abort_on_close(socket.as_fd());
        drop(socket);
    }

    fn stop_accepting(&mut self) {
        self.public = None;
        self.internal = None;
        self.internal_unix = None;
    }

    fn now(&mut self) -> Duration {
        self.start.elapsed()
    }

    fn unix_seconds(&mut self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }

    fn draw_token(&mut self) -> Uuid {
        if self.random_left < TOKEN_BYTES {
            // Once it has worked it cannot fail, and `new` has checked that it works.
            self.random = sys::random_bytes().expect("the system's generator of random bytes");
            self.random_left = self.random.len();
        }
        self.random_left -= TOKEN_BYTES;
        let mut bytes = [0; TOKEN_BYTES];
        bytes.copy_from_slice(&self.random[self.random_left..][..TOKEN_BYTES]);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    fn submit(&mut self, job: Job) {
        match job {
            Job::Call(call) => {
                if let Some(workers) = &self.workers {
                    workers.submit(call);
                }
            }
            Job::Resolve(host, port) => {
                if let Some(lookups) = &self.lookups {
                    lookups.submit(host, port);
                }
            }
        }
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completions.as_ref()?.try_recv().ok()
    }

    fn process_figures(&mut self) -> ProcessFigures {
        process::figures(self.started_at)
    }

    fn release_memory(&mut self) {
        sys::release_heap();
    }
}

/// Connection ids as the kernel's event data: slot and generation in one word.
#[cfg(target_pointer_width = "64")]
struct TokenCodec;

#[cfg(target_pointer_width = "64")]
impl TokenCodec {
    fn new() -> Self {
        Self
    }

    fn token(&mut self, id: ConnId) -> Token {
        Token((id.generation() as usize) << 32 | id.slot() as usize)
    }

    #[allow(clippy::unused_self, reason = "narrower machines look it up")]
    fn id(&self, token: Token) -> Option<ConnId> {
        Some(Key::from_parts(token.0 as u32, (token.0 >> 32) as u32))
    }
}

/// Connection ids as the kernel's event data, on machines where both do not fit: 20 bits of slot and the low 12 of the
/// generation, the rest of which is stored here.
#[cfg(not(target_pointer_width = "64"))]
struct TokenCodec {
    /// By slot.
    generations: Vec<u32>,
}

#[cfg(not(target_pointer_width = "64"))]
impl TokenCodec {
    fn new() -> TokenCodec {
        TokenCodec { generations: Vec::new() }
    }

    fn token(&mut self, id: ConnId) -> Token {
        let slot = id.slot() as usize;
        if slot >= self.generations.len() {
            self.generations.resize(slot + 1, 0);
        }
        self.generations[slot] = id.generation();
        Token((id.generation() as usize & 0xFFF) << 20 | slot)
    }

    fn id(&self, token: Token) -> Option<ConnId> {
        let slot = token.0 & 0xF_FFFF;
        let generation = *self.generations.get(slot)?;
        (generation as usize & 0xFFF == token.0 >> 20).then(|| Key::from_parts(slot as u32, generation))
    }
}
