//! The seam: [`System`] on the simulated world, with faults injected and the oracle checking every call.

use super::faults::Fault;
use super::kernel::{Edges, index};
use super::world::{Knock, World};
use crate::oracle::callbacks::token_of;
use crate::oracle::limits::READER_FACTOR;
use crate::oracle::unix_seconds;
use ssegateway::callback::CallKind;
use ssegateway::gateway::{CloseMode, ConnId, Listener, Peer, ProcessFigures};
use ssegateway::job::{Completion, Job};
use ssegateway::reactor::{Event, System};
use std::io::{self, ErrorKind};
use std::time::Duration;
use uuid::Uuid;

/// Allowed consecutive turns without waiting and without work.
const IDLE_TURNS_MAX: u32 = 50;

/// Connections that may be reserved for the other listener.
const RESERVE_MAX: usize = 16;

/// How long accepting pauses after accept(2) has failed for lack of descriptors.
const ACCEPT_PAUSE: u64 = 100;

/// How long accepting pauses while no connection can be evicted.
const CROWDED_PAUSE: u64 = 1;

/// The smallest room that a send buffer is left with.
const SEND_BUFFER_MIN: usize = 20;

/// A socket as the loop holds it: the number of its client.
pub(super) struct Handle(usize);

fn interrupted() -> io::Error {
    ErrorKind::Interrupted.into()
}

impl World {
    fn strikes(&mut self, fault: Fault) -> bool {
        self.faults.strikes(fault, &mut self.random)
    }

    /// The kernel takes so much of an offer that exactly as many bytes are left as may be unsent, and no more until its
    /// client reads. `false`: it cannot.
    fn fill_to_the_limit(&mut self, n: usize, offered: usize) -> bool {
        let limit = self.settings.pending_bytes_max * self.random.pick(&[1, READER_FACTOR]);
        let taken = offered.saturating_sub(limit);
        let can = limit > 0 && (SEND_BUFFER_MIN..=self.kernel.room(n)).contains(&taken);
        if can {
            self.kernel.shrink(n, taken);
        }
        can
    }

    /// The loop is about to sleep for `timeout`: all pending work must be sure to wake it.
    fn check_sleep(&mut self, timeout: Option<u64>) {
        self.oracle.falls_asleep();
        for n in &self.kernel.open {
            let socket = &self.kernel.sockets[*n];
            let exchange = &self.oracle.exchanges[*n];
            let unread = !socket.is_drained() || ((socket.fin || socket.error.is_some()) && !exchange.ended);
            assert!(
                !unread || socket.has_edge() || exchange.failed || exchange.refused,
                "client {n}: asleep with input unread and no edge to come"
            );
            assert!(
                !exchange.refused || socket.blocked || socket.has_edge() || exchange.failed,
                "client {n}: asleep for room that no edge will tell of"
            );
        }
        let edge = self.kernel.has_edges();
        assert!(edge || self.kernel.completions.is_empty(), "asleep with outcomes waiting");
        for listener in [Listener::Public, Listener::Internal] {
            let exhausted_at = self.knocks[index(listener)].exhausted_at;
            let pause = exhausted_at.is_some_and(|at| at + ACCEPT_PAUSE >= self.clock);
            let waits = self.kernel.backlog(listener) > 0 && !self.kernel.has_accept_edge(listener);
            if waits {
                let timeout = timeout.unwrap_or(u64::MAX);
                let crowded = self.full(listener).is_some() && timeout <= CROWDED_PAUSE;
                assert!(crowded || (pause && timeout <= ACCEPT_PAUSE), "asleep with clients in the backlog");
            }
        }
    }

    /// If there is no room for another client of `listener`: the listener whose connections are evicted.
    fn full(&self, listener: Listener) -> Option<Listener> {
        let reserved = if self.settings.internal_listener { 16.min(self.connections_max / 2) } else { 0 };
        let open = self.kernel.open.iter().filter(|n| Some(**n) != self.newcomer);
        let (internal, public): (Vec<usize>, Vec<usize>) =
            open.copied().partition(|n| self.kernel.sockets[*n].internal);
        match listener {
            Listener::Public if public.len() + reserved >= self.connections_max => Some(Listener::Public),
            Listener::Public | Listener::Internal => {
                (public.len() + internal.len() >= self.connections_max).then_some(Listener::Internal)
            }
        }
    }

    /// Whether a connection may have to be evicted for the client accepted last.
    fn gives_way(&self, n: usize) -> bool {
        let listener = |n: usize| match self.kernel.sockets[n].internal {
            true => Listener::Internal,
            false => Listener::Public,
        };
        self.newcomer.is_some_and(|newcomer| self.full(listener(newcomer)) == Some(listener(n)))
    }

    /// A turn may pass without waiting and without work; many in a row are a spinning loop.
    fn check_spin(&mut self, timeout: Option<u64>) {
        if timeout == Some(0) && !self.worked && !self.kernel.has_edges() {
            self.idle_turns += 1;
            assert!(self.idle_turns <= IDLE_TURNS_MAX, "the loop spins");
        } else {
            self.idle_turns = 0;
        }
        self.worked = false;
    }

    fn gather(&mut self, events: &mut Vec<Event>) {
        for _ in 0..std::mem::take(&mut self.kernel.signals) {
            self.woken_by_signal = true;
            events.push(Event::Signal);
        }
        let few = self.strikes(Fault::SmallBatches);
        let waiting = self.kernel.edges_waiting();
        let count = if few { self.random.below(waiting as u64 + 1) as usize } else { waiting };
        for taken in 0..count {
            let place = if few { self.random.below((waiting - taken) as u64) as usize } else { 0 };
            if let Some((n, id, edges)) = self.kernel.next_edge(place) {
                self.tell(n, id, edges, events);
            }
        }
        for listener in [Listener::Public, Listener::Internal] {
            // A closed listener is no longer in the kernel's list.
            let spurious = self.strikes(Fault::SpuriousEdge) && self.kernel.listening;
            if self.kernel.take_accept_edge(listener) || spurious {
                self.knocks[index(listener)].heard = true;
                events.push(Event::Accept(listener));
            }
        }
        if self.kernel.take_completions_edge() || self.strikes(Fault::SpuriousEdge) {
            events.push(Event::Completions);
        }
        self.gather_lies(events);
    }

    fn tell(&mut self, n: usize, id: ConnId, edges: Edges, events: &mut Vec<Event>) {
        let Edges { readable, writable, read_closed } = edges;
        if writable {
            self.oracle.exchanges[n].refused = false;
            self.oracle.note_member_room(n);
        }
        let socket = &mut self.kernel.sockets[n];
        socket.told |= readable || read_closed;
        socket.told_end |= read_closed;
        let bits = u64::from(readable) | u64::from(writable) << 1 | u64::from(read_closed) << 2;
        self.trace.note(self.clock, "edge", &[("client", n as u64), ("bits", bits)]);
        events.push(Event::Socket { id, readable, writable, read_closed });
    }

    /// Spurious events, for live connections and for closed ones.
    fn gather_lies(&mut self, events: &mut Vec<Event>) {
        if self.strikes(Fault::SpuriousEdge) && !self.kernel.open.is_empty() {
            let n = self.random.pick(&self.kernel.open);
            let edges =
                Edges { readable: self.random.chance(500), writable: self.random.chance(500), read_closed: false };
            if let Some(id) = self.kernel.sockets[n].id {
                self.tell(n, id, edges, events);
            }
        }
        if self.strikes(Fault::StaleEvent) && !self.stale.is_empty() {
            let id = self.random.pick(&self.stale);
            let place = self.random.below(events.len() as u64 + 1) as usize;
            let event = Event::Socket { id, readable: true, writable: true, read_closed: true };
            events.insert(place, event);
        }
    }
}

impl System for World {
    type Socket = Handle;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
        self.trace.count_step();
        let timeout = timeout.map(|timeout| timeout.as_millis() as u64);
        self.check_spin(timeout);
        if timeout != Some(0) {
            self.check_sleep(timeout);
        }
        let wakes_at = timeout.map(|timeout| self.clock + timeout);
        self.catch_up();
        let until = timeout.map(|timeout| self.clock + timeout);
        while !self.kernel.has_edges() && !self.finished {
            let next = self.next_time();
            let Some(time) = [until, next].into_iter().flatten().min() else {
                panic!("asleep forever");
            };
            self.clock = self.clock.max(time);
            if until.is_some_and(|until| until <= self.clock) && next.is_none_or(|next| next > self.clock) {
                break;
            }
            self.catch_up();
            if until.is_some_and(|until| until <= self.clock) {
                break;
            }
        }
        if self.strikes(Fault::LateLoop) {
            self.clock += self.random.within(1, 400);
        }
        self.clock = self.oracle.certain_time(self.clock);
        if let Some(wakes_at) = wakes_at {
            self.oracle.woke(self.clock, self.clock.saturating_sub(wakes_at));
        }
        if self.strikes(Fault::Interrupted) {
            return Err(interrupted());
        }
        self.woken = true;
        self.woken_by_signal = false;
        self.gather(events);
        // Signals, clients and outcomes are reported at once.
        Ok(self.kernel.edges_waiting() > 0)
    }

    fn accept(&mut self, listener: Listener) -> io::Result<(Handle, Peer)> {
        // The end of a turn. Without an edge only a drain that has begun explains it.
        let heard = self.knocks[index(listener)].heard;
        if !self.oracle.is_draining() && (!heard || !self.oracle.holds_deadlines()) {
            self.oracle.timers_run();
        }
        let draining = self.oracle.is_draining();
        if self.strikes(Fault::Interrupted) {
            self.worked = true;
            return Err(interrupted());
        }
        let Knock { heard, exhausted_at } = &mut self.knocks[index(listener)];
        assert!(*heard || draining, "an accept without an edge");
        assert!(exhausted_at.is_none_or(|at| at + ACCEPT_PAUSE <= self.clock), "an accept during the pause");
        if self.kernel.backlog(listener) == 0 {
            *heard = false;
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.exhausted || self.kernel.open.len() >= self.kernel.descriptors {
            *exhausted_at = Some(self.clock);
            let error = self.random.pick(&[libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM]);
            return Err(io::Error::from_raw_os_error(error));
        }
        self.worked = true;
        let Some(n) = self.kernel.accept(listener) else { return Err(ErrorKind::WouldBlock.into()) };
        if self.strikes(Fault::AcceptAborted) {
            self.trace.note(self.clock, "accept aborted", &[("client", n as u64)]);
            self.kernel.close(n, CloseMode::Abort);
            return Err(ErrorKind::ConnectionAborted.into());
        }
        self.trace.note(self.clock, "accept", &[("client", n as u64)]);
        self.backend.token_for = n;
        self.newcomer = Some(n);
        Ok((Handle(n), Peer::Loopback))
    }

    fn connect(&mut self, _: std::net::SocketAddr) -> io::Result<Handle> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn register(&mut self, socket: &mut Handle, id: ConnId) -> io::Result<()> {
        assert!(!self.gives_way(socket.0), "more clients than the listener may accept");
        self.newcomer = None;
        assert!(self.ids.insert(id), "a connection with the id of another one before it");
        self.oracle.accepted(socket.0);
        if self.strikes(Fault::RegisterFails) {
            self.oracle.exchanges[socket.0].failed = true;
            return Err(ErrorKind::OutOfMemory.into());
        }
        self.kernel.register(socket.0, id);
        Ok(())
    }

    fn read(&mut self, socket: &mut Handle, buffer: &mut [u8]) -> io::Result<usize> {
        let n = socket.0;
        let result = match self.strikes(Fault::Interrupted) {
            true => Err(ErrorKind::Interrupted),
            false => self.kernel.read(n, buffer),
        };
        self.interrupted = (result == Err(ErrorKind::Interrupted)).then_some(n);
        let count = result.map_or(u64::MAX, |count| count as u64);
        self.trace.note(self.clock, "read", &[("client", n as u64), ("bytes", count)]);
        if let Ok(count) = result {
            self.trace.bytes(&buffer[..count]);
        }
        self.worked |= result != Err(ErrorKind::WouldBlock);
        let socket = &mut self.kernel.sockets[n];
        if !socket.told {
            self.oracle.looks_unasked();
        }
        socket.told = match result {
            Ok(count) => count == buffer.len() || socket.told_end,
            Err(error) => error == ErrorKind::Interrupted && socket.told,
        };
        self.oracle.read(n, result);
        result.map_err(io::Error::from)
    }

    fn write(&mut self, socket: &mut Handle, bytes: &[u8]) -> io::Result<usize> {
        let n = socket.0;
        self.tell_news();
        let mut whole = true;
        let result = if self.strikes(Fault::Interrupted) {
            whole = false;
            Err(ErrorKind::Interrupted)
        } else if self.strikes(Fault::WriteZero) {
            Ok(0)
        } else {
            let mut count = bytes.len();
            if self.strikes(Fault::ShortWrite) && !self.fill_to_the_limit(n, count) {
                count = self.random.within(1, bytes.len() as u64) as usize;
                whole = count == bytes.len();
            }
            self.kernel.write(n, count)
        };
        let taken = result.map_or(u64::MAX, |taken| taken as u64);
        self.trace.note(
            self.clock,
            "write",
            &[("client", n as u64), ("offered", bytes.len() as u64), ("taken", taken)],
        );
        if let Ok(taken) = result {
            self.trace.bytes(&bytes[..taken]);
        }
        self.worked |= result != Err(ErrorKind::WouldBlock);
        self.oracle.wrote(n, bytes, result, whole);
        self.after_write(n);
        result.map_err(io::Error::from)
    }

    fn unacknowledged(&self, socket: &Handle) -> usize {
        self.kernel.sockets[socket.0].output
    }

    fn keep_alive(&mut self, _socket: &mut Handle) {}

    fn shutdown_write(&mut self, socket: &mut Handle) -> io::Result<()> {
        let n = socket.0;
        self.worked = true;
        self.tell_news();
        self.trace.note(self.clock, "shutdown", &[("client", n as u64)]);
        self.oracle.shut(n);
        if self.kernel.sockets[n].error.is_some() {
            self.oracle.exchanges[n].failed = true;
            return Err(ErrorKind::NotConnected.into());
        }
        self.kernel.sockets[n].shut = true;
        self.after_write(n);
        Ok(())
    }

    fn close(&mut self, socket: Handle) {
        self.end(socket.0, CloseMode::Graceful);
    }

    fn abort(&mut self, socket: Handle) {
        self.end(socket.0, CloseMode::Abort);
    }

    fn stop_accepting(&mut self) {
        self.trace.note(self.clock, "stop accepting", &[]);
        if !self.oracle.is_draining() {
            self.oracle.timers_run();
        }
        assert!(self.oracle.is_draining(), "listeners closed before the drain");
        for listener in [Listener::Public, Listener::Internal] {
            let exhausted_at = self.knocks[index(listener)].exhausted_at;
            let pause = exhausted_at.is_some_and(|at| at + ACCEPT_PAUSE >= self.clock);
            let left = self.kernel.backlog(listener) > 0
                && self.kernel.open.len() + RESERVE_MAX < self.connections_max
                && !pause;
            assert!(!left, "listeners closed on clients that could be accepted");
        }
        self.kernel.stop_listening();
    }

    fn now(&mut self) -> Duration {
        if std::mem::take(&mut self.woken) {
            self.oracle.turn_begins(self.clock, self.woken_by_signal);
        }
        Duration::from_millis(self.clock)
    }

    fn unix_seconds(&mut self) -> u64 {
        unix_seconds(self.clock)
    }

    fn draw_token(&mut self) -> Uuid {
        token_of(self.backend.token_for)
    }

    fn submit(&mut self, job: Job) {
        let Job::Call(call) = job else { panic!("nothing here has a name") };
        self.worked = true;
        self.tell_news();
        match call.kind {
            CallKind::Start => self.take_start(&call),
            CallKind::Connect | CallKind::Disconnect { .. } => self.take_call(&call),
        }
    }

    fn next_completion(&mut self) -> Option<Completion> {
        let mut completion = self.kernel.completions.pop_front()?;
        self.worked = true;
        self.completion_taken(&mut completion);
        Some(Completion::Called(completion))
    }

    fn release_memory(&mut self) {
        self.trace.note(self.clock, "memory released", &[]);
        self.oracle.memory_released();
    }

    fn process_figures(&mut self) -> ProcessFigures {
        self.oracle.figures_told();
        ProcessFigures::default()
    }
}

impl World {
    /// After a pause the oracle must know whether all events of the pause have been processed.
    pub(super) fn tell_news(&mut self) {
        if !self.oracle.holds_deadlines() {
            return;
        }
        let now = self.oracle.now;
        let has_news = |n: &usize| {
            let (socket, it) = (&self.kernel.sockets[*n], &self.oracle.exchanges[*n]);
            let reads = it.is_reading() && it.left_over == 0 && !it.failed && !it.ended;
            // Clients are accepted after the deadlines are checked.
            socket.id.is_some() && it.accepted_at < now && (socket.has_edge() || (reads && !socket.is_drained()))
        };
        self.oracle.news = self.kernel.open.iter().any(has_news) || !self.kernel.completions.is_empty();
    }

    fn end(&mut self, n: usize, how: CloseMode) {
        self.worked = true;
        self.tell_news();
        self.trace.note(self.clock, "close", &[("client", n as u64), ("abort", u64::from(how == CloseMode::Abort))]);
        if self.oracle.exchanges[n].accepted {
            let peers: Vec<usize> = self.oracle.open.clone();
            let internal = self.kernel.sockets[n].internal;
            let peers = peers.into_iter().filter(|n| self.kernel.sockets[*n].internal == internal);
            match self.gives_way(n) {
                true => {
                    let unread = !self.kernel.sockets[n].is_drained() && self.interrupted != Some(n);
                    self.oracle.gave_way(n, &peers.collect::<Vec<_>>(), unread);
                }
                false => self.oracle.closed(n, how),
            }
        } else {
            let listener = if self.kernel.sockets[n].internal { Listener::Internal } else { Listener::Public };
            let crowded = self.newcomer == Some(n) && self.full(listener).is_some();
            assert!(self.oracle.is_draining() || crowded, "client {n}: accepted and refused");
            self.newcomer = None;
        }
        self.kernel.close(n, how);
        if let Some(id) = self.kernel.sockets[n].id {
            self.stale.push(id);
            self.knocks.iter_mut().for_each(|knock| knock.exhausted_at = None);
        }
        self.after_write(n);
    }
}
