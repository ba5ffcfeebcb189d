//! An attacker: many connections that do all the same, driven by one thread of low priority, as it stands for other
//! machines.

use crate::common::{get, sys};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections opened between two looks at the others.
const OPENS_PER_TURN: usize = 100;
const WRITES_PER_TURN: usize = 32;
/// After so long a connection that reads nothing is replaced: it cannot see its end.
const DEAF: Duration = Duration::from_secs(5);
const DRIP: Duration = Duration::from_secs(1);
/// Of its own, so that its ports are not those of the honest.
const ADDRESS: [u8; 4] = [127, 0, 0, 2];

/// What each connection does once its first bytes are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Nothing.
    Hold,
    /// Sends another byte every second.
    Drip,
    /// Leaves with a reset when it is answered.
    Leave,
    /// Keeps its stream. All connect at once, and when all are answered as many more do.
    Wave,
    /// Writes the same again for as long as the gateway reads.
    Repeat,
    /// The same, and reads no answer.
    RepeatDeaf,
}

#[derive(Clone)]
pub(crate) struct Plan {
    pub conduct: Conduct,
    /// Connections at a time; one that ends is replaced.
    pub crowd: usize,
    /// Of a connection, by its number.
    pub bytes: Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>,
    /// Whether it reads nothing at all, through a small window.
    pub deaf: bool,
}

impl Plan {
    pub(crate) fn new(conduct: Conduct, crowd: usize, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let deaf = conduct == Conduct::RepeatDeaf;
        Self { conduct, crowd, bytes: Arc::new(move |_| bytes.clone()), deaf }
    }

    /// GETs of `/NAME/0` and so on.
    pub(crate) fn gets(conduct: Conduct, crowd: usize, name: &'static str) -> Self {
        Self { conduct, crowd, bytes: Arc::new(move |n| get(&format!("/{name}/{n}")).into_bytes()), deaf: false }
    }
}

/// What it did.
#[derive(Default)]
pub(crate) struct Deeds {
    pub connections: u64,
    pub written: u64,
    /// First answers by status; 0 for connections that ended without one.
    pub answers: BTreeMap<u16, u64>,
    /// The longest time until all of a wave were answered.
    pub wave: Duration,
}

struct Member {
    socket: TcpStream,
    bytes: Arc<Vec<u8>>,
    written: usize,
    answered: bool,
    /// Its begin, or its last byte.
    since: Instant,
}

struct Swarm {
    port: u16,
    plan: Plan,
    poll: Poll,
    members: Vec<Option<Member>>,
    free: Vec<usize>,
    deeds: Deeds,
    unanswered: usize,
    wave_began: Instant,
}

/// Attacks until told to stop; a wave that has begun is waited for.
pub(crate) fn attack(port: u16, plan: Plan, stop: &AtomicBool) -> Deeds {
    sys::lower_priority();
    let free = (0..plan.crowd).rev().collect();
    let members = (0..plan.crowd).map(|_| None).collect();
    let poll = Poll::new().expect("epoll");
    let deeds = Deeds::default();
    let mut swarm = Swarm { port, plan, poll, members, free, deeds, unanswered: 0, wave_began: Instant::now() };
    let mut events = Events::with_capacity(4096);
    while !stop.load(Ordering::SeqCst) || (swarm.plan.conduct == Conduct::Wave && swarm.unanswered > 0) {
        swarm.turn(&mut events, stop.load(Ordering::SeqCst));
    }
    for member in swarm.members.iter().flatten() {
        sys::reset_on_close(&member.socket);
    }
    swarm.deeds
}

impl Swarm {
    fn turn(&mut self, events: &mut Events, stops: bool) {
        let repeats = matches!(self.plan.conduct, Conduct::Repeat | Conduct::RepeatDeaf);
        let wait = match self.free.is_empty() {
            true if repeats => Duration::from_millis(1),
            true => Duration::from_millis(10),
            false => Duration::ZERO,
        };
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => panic!("epoll: {error}"),
            Ok(()) | Err(_) => {}
        }
        for event in &*events {
            let slot = event.token().0;
            self.write(slot);
            match self.plan.deaf {
                true if event.is_read_closed() || event.is_error() => self.end(slot),
                true => {}
                false => self.read(slot),
            }
        }
        match self.plan.conduct {
            Conduct::Wave => self.roll(stops),
            Conduct::Hold | Conduct::Drip | Conduct::Leave | Conduct::Repeat | Conduct::RepeatDeaf => {
                for _ in 0..OPENS_PER_TURN {
                    let Some(slot) = self.free.pop() else { break };
                    self.open(slot);
                }
            }
        }
        if self.plan.conduct == Conduct::Drip {
            self.drip();
        }
        if self.plan.deaf {
            self.replace_deaf();
        }
        if repeats {
            (0..self.members.len()).for_each(|slot| self.write(slot));
        }
    }

    /// The next wave once the last is answered.
    fn roll(&mut self, stops: bool) {
        if self.unanswered > 0 {
            return;
        }
        if self.deeds.connections > 0 {
            self.deeds.wave = self.deeds.wave.max(self.wave_began.elapsed());
        }
        if stops {
            return;
        }
        self.wave_began = Instant::now();
        for _ in 0..self.plan.crowd {
            self.members.push(None);
            self.unanswered += 1;
            self.open(self.members.len() - 1);
        }
    }

    fn open(&mut self, slot: usize) {
        let number = self.deeds.connections;
        self.deeds.connections += 1;
        let socket = connect(self.port, self.plan.deaf).expect("an attacker's connection");
        let mut socket = TcpStream::from_std(socket);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(slot), interest).expect("epoll takes it");
        let bytes = Arc::new((self.plan.bytes)(number));
        self.members[slot] = Some(Member { socket, bytes, written: 0, answered: false, since: Instant::now() });
        self.write(slot);
    }

    fn write(&mut self, slot: usize) {
        let Some(member) = &mut self.members[slot] else { return };
        for _ in 0..WRITES_PER_TURN {
            if member.written == member.bytes.len() {
                match self.plan.conduct {
                    Conduct::Repeat | Conduct::RepeatDeaf if !member.bytes.is_empty() => member.written = 0,
                    _ => return,
                }
            }
            match member.socket.write(&member.bytes[member.written..]) {
                Ok(count) => {
                    member.written += count;
                    self.deeds.written += count as u64;
                }
                // An error will show on the next read.
                Err(_) => return,
            }
        }
    }

    fn read(&mut self, slot: usize) {
        let mut scratch = [0; 64 * 1024];
        loop {
            let Some(member) = &mut self.members[slot] else { return };
            match member.socket.read(&mut scratch) {
                Ok(0) => return self.end(slot),
                Ok(count) => {
                    if !std::mem::replace(&mut member.answered, true) {
                        let status = String::from_utf8_lossy(&scratch[..count.min(12)]).into_owned();
                        let status = status.strip_prefix("HTTP/1.1 ").and_then(|digits| digits.parse().ok());
                        *self.deeds.answers.entry(status.unwrap_or_default()).or_default() += 1;
                        self.unanswered = self.unanswered.saturating_sub(1);
                        if self.plan.conduct == Conduct::Leave {
                            return self.end(slot);
                        }
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return,
                Err(_) => return self.end(slot),
            }
        }
    }

    fn drip(&mut self) {
        for slot in 0..self.members.len() {
            let Some(member) = &mut self.members[slot] else { continue };
            if member.written == member.bytes.len() && member.since.elapsed() >= DRIP {
                member.since = Instant::now();
                let _ = member.socket.write(b"x");
                self.deeds.written += 1;
            }
        }
    }

    fn replace_deaf(&mut self) {
        for slot in 0..self.members.len() {
            if self.members[slot].as_ref().is_some_and(|member| member.since.elapsed() >= DEAF) {
                self.end(slot);
            }
        }
    }

    fn end(&mut self, slot: usize) {
        let Some(member) = self.members[slot].take() else { return };
        if !member.answered {
            *self.deeds.answers.entry(0).or_default() += 1;
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        sys::reset_on_close(&member.socket);
        if self.plan.conduct != Conduct::Wave {
            self.free.push(slot);
        }
    }
}

fn connect(port: u16, deaf: bool) -> std::io::Result<std::net::TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((ADDRESS, 0)).into())?;
    if deaf {
        socket.set_recv_buffer_size(16 * 1024)?;
    }
    match socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}
