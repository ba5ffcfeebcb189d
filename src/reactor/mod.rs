//! The event loop's decisions: readiness, fairness, the accept gate, flushing.
//!
//! Generic over [`System`], so the same loop runs on the kernel and in the simulation. It is independent of the
//! protocol: it moves bytes between sockets and the [`Gateway`], performs its actions, and maps I/O errors to causes.
//!
//! Readiness is stateful. An edge is reported once, so it is stored per socket until a call proves otherwise; when a
//! budget runs out, the connection goes back to the queue of ready ones.

mod budgets;
mod gate;
mod link;
mod memory;
pub mod mio;
mod pause;
mod run;
mod system;
mod upstream;

pub use system::{Event, System};

use crate::clock::Millis;
use crate::gateway::{Action, CloseMode, ConnId, Gateway, Listener, Peer, SocketError};
use crate::planted;
use budgets::{
    BACKLOG_ACCEPTS, SCRATCH_BYTES, TURN_ACCEPTS, TURN_BYTES, TURN_COMPLETIONS, TURN_EXPIRIES, TURN_FLUSHES,
    TURN_MEMBERS_MAX, TURN_MEMBERS_MIN, VICTIMS_TRIED,
};
use gate::{Gates, Room};
use link::Links;
use log::{debug, warn};
use memory::Release;
use pause::Pause;
use std::io::{self, ErrorKind};
use std::time::Duration;
use upstream::Upstream;

/// The event loop.
pub struct Reactor<N: System> {
    net: N,
    gateway: Gateway,
    links: Links<N::Socket>,
    upstream: Upstream<N::Socket>,
    gates: Gates,
    room: Room,
    completions_waiting: bool,
    /// The last poll may not have returned all events.
    events_waiting: bool,
    pause: Pause,
    /// The listeners must be closed.
    is_last_call: bool,
    /// The rest of [`TURN_FLUSHES`]; 0: some output and actions may be left for the next turn.
    flushes_left: usize,
    events: Vec<Event>,
    scratch: Box<[u8]>,
    memory: Release,
    now: Millis,
    /// The clock when the last turn ended.
    clock: Duration,
}

impl<N: System> Reactor<N> {
    /// A loop with at most `connections_max` sockets.
    pub fn new(mut net: N, gateway: Gateway, connections_max: usize, has_internal: bool) -> Self {
        let clock = net.now();
        Self {
            net,
            gateway,
            links: Links::default(),
            upstream: Upstream::new(None),
            gates: Gates::default(),
            room: Room::new(connections_max, has_internal),
            completions_waiting: false,
            events_waiting: false,
            pause: Pause::default(),
            is_last_call: false,
            flushes_left: TURN_FLUSHES,
            events: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            memory: Release::default(),
            now: Millis::ZERO.after(clock),
            clock,
        }
    }

    /// One turn: waits for events and handles them. Returns the number of signals; the gateway has been notified.
    ///
    /// # Errors
    ///
    /// Polling failed.
    pub fn turn(&mut self) -> io::Result<usize> {
        let timeout = self.poll_timeout();
        let asleep_until = timeout.map(|timeout| self.clock.saturating_add(timeout));
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match self.net.poll(&mut events, timeout) {
            Ok(more) => self.events_waiting = more,
            // A process that was stopped sees this too. The events of that time are not yet known.
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.events = events;
                self.clock = self.net.now();
                self.pause.watch(asleep_until.unwrap_or(self.clock), self.clock);
                return Ok(0);
            }
            Err(error) => return Err(error),
        }
        let woken_at = self.net.now();
        self.now = Millis::ZERO.after(woken_at);
        // Without a timeout there was no deadline to miss.
        self.pause.watch(asleep_until.unwrap_or(woken_at), woken_at);
        self.gateway.set_date(self.net.unix_seconds());
        let mut signals = 0;
        for event in &events {
            signals += usize::from(self.note(*event));
        }
        self.events = events;
        if std::mem::replace(&mut self.flushes_left, TURN_FLUSHES) == 0 {
            self.carry_out();
            self.flushes_left = TURN_FLUSHES;
        }
        self.take_completions();
        self.upstream.read(&mut self.net, &mut self.gateway, self.now, &mut self.scratch[..TURN_BYTES]);
        self.carry_out();
        for _ in 0..self.links.ready_count() {
            if self.flushes_left == 0 {
                break;
            }
            let Some(id) = self.links.next_ready() else { break };
            self.serve(id);
        }
        for _ in 0..self.gateway.walk_count().clamp(TURN_MEMBERS_MIN, TURN_MEMBERS_MAX) {
            let Some(id) = self.gateway.next_member(self.now) else { break };
            self.flush(id);
        }
        // After all earlier input.
        if self.pause.may_judge(self.now, self.is_quiet()) {
            self.expire();
        } else {
            self.carry_out();
        }
        self.accept_all();
        self.upstream.flush(&mut self.net, &mut self.gateway, self.now);
        self.carry_out();
        self.release_memory();
        self.clock = self.net.now();
        self.pause.watch(woken_at, self.clock);
        self.gateway.turn_took(self.clock.saturating_sub(woken_at));
        Ok(signals)
    }

    /// Whether all events of the kernel and the workers have been processed. A call in flight may have been answered
    /// while its worker was paused.
    fn is_quiet(&self) -> bool {
        !self.events_waiting && !self.is_behind() && self.gateway.call_count() == 0
    }

    /// Whether there is work without waiting.
    fn is_behind(&self) -> bool {
        self.completions_waiting
            || self.links.ready_count() > 0
            || self.flushes_left == 0
            || self.gateway.has_visits()
            || self.upstream.is_behind()
            || self.gateway.is_upstream_behind()
    }

    fn expire(&mut self) {
        let mut more = self.gateway.expire(self.now);
        self.carry_out();
        for _ in 1..TURN_EXPIRIES {
            if !more || self.flushes_left == 0 {
                break;
            }
            more = self.gateway.expire_more(self.now);
            self.carry_out();
        }
    }

    fn poll_timeout(&mut self) -> Option<Duration> {
        if self.is_behind() {
            return Some(Duration::ZERO);
        }
        self.now = Millis::ZERO.after(self.clock);
        let deadline = self.pause.wake_at(self.events_waiting).or_else(|| self.gateway.next_deadline());
        let until = [deadline, self.memory.release_at(), self.gates.open_at(self.now)].into_iter().flatten().min();
        until.map(|until| Duration::from_millis(until.since(self.now)))
    }

    /// Records an event; `true` for a signal.
    fn note(&mut self, event: Event) -> bool {
        match event {
            Event::Socket { id, readable, writable, read_closed } => {
                let Some(link) = self.links.get_mut(id) else { return false };
                link.readable |= readable | read_closed;
                link.writable |= writable;
                link.read_closed |= read_closed;
                self.links.enqueue(id);
            }
            Event::Upstream { readable, writable } => self.upstream.note(readable, writable),
            Event::Accept(listener) => self.gates.of(listener).clients_wait(),
            Event::Completions => self.completions_waiting = true,
            Event::Signal => self.gateway.shut_down(self.now),
        }
        event == Event::Signal
    }

    fn take_completions(&mut self) {
        if !self.completions_waiting {
            return;
        }
        for _ in 0..TURN_COMPLETIONS {
            if self.flushes_left == 0 {
                return;
            }
            let Some(completion) = self.net.next_completion() else {
                self.completions_waiting = false;
                return;
            };
            self.gateway.complete(self.now, completion);
            self.carry_out();
            // A lost wake-up: one edge may mean any number of outcomes.
            if planted::is("outcomes-behind-the-first-are-forgotten") {
                self.completions_waiting = false;
                return;
            }
        }
    }

    /// A connection's turn: writes, then reads.
    fn serve(&mut self, id: ConnId) {
        let Some(link) = self.links.get_mut(id) else { return };
        link.queued = false;
        if link.writable && self.gateway.has_unsent(id) {
            self.flush(id);
            self.carry_out();
        }
        if self.read(id) {
            self.links.enqueue(id);
        }
        self.carry_out();
    }

    /// Reads available input. `true`: the call was interrupted and may be repeated.
    fn read(&mut self, id: ConnId) -> bool {
        let Some(link) = self.links.get_mut(id) else { return false };
        if !link.readable || !self.gateway.wants_input(id) {
            return false;
        }
        match self.net.read(&mut link.socket, &mut self.scratch[..TURN_BYTES]) {
            Ok(0) => {
                link.readable = false;
                self.gateway.receive_eof(self.now, id);
            }
            Ok(count) => {
                // A short read empties the socket: the next byte is a new edge. But the end of input is not, once it
                // has been reported.
                link.readable = count == TURN_BYTES || link.read_closed;
                // Lost wake-ups: the edge for the remaining input has already been reported.
                if planted::is("full-read-is-taken-for-the-last") {
                    link.readable = link.read_closed;
                } else if planted::is("end-behind-a-short-read-is-forgotten") {
                    link.readable = count == TURN_BYTES;
                }
                if link.readable {
                    self.links.enqueue(id);
                }
                self.gateway.receive(self.now, id, &self.scratch[..count]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => link.readable = false,
            // A lost wake-up: no other edge will report this input.
            Err(error) if error.kind() == ErrorKind::Interrupted && planted::is("interrupted-read-is-forgotten") => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) => {
                debug!(error = error.to_string(); "read failed");
                self.gateway.fail(self.now, id, link::read_fault(&error));
            }
        }
        false
    }

    /// Reads a connection that is about to end, whatever was reported.
    fn read_last(&mut self, id: ConnId) {
        if let Some(link) = self.links.get_mut(id) {
            // Input lost to a close: its event has not been reported yet.
            link.readable |= !planted::is("last-look-trusts-the-events");
        }
        while self.read(id) {}
        self.gateway.end_reading(self.now, id);
    }

    /// Executes the gateway's decisions within the turn's budget: writes fresh output, then performs its actions.
    fn carry_out(&mut self) {
        while self.flushes_left > 0 {
            if let Some(id) = self.gateway.next_dirty() {
                self.flushes_left -= 1;
                self.flush(id);
            } else if let Some(action) = self.gateway.next_action() {
                self.act(action);
            } else {
                return;
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(job) => self.net.submit(job),
            Action::Report(ticket) => {
                let figures = self.net.process_figures();
                self.gateway.report(self.now, ticket, &figures);
            }
            Action::List => {
                let (links, net) = (&self.links, &self.net);
                let in_kernel = |id| links.get(id).map_or(0, |link| net.unacknowledged(&link.socket));
                self.gateway.list(self.now, in_kernel);
            }
            Action::TellFeed(id) => self.gateway.tell_feed(self.now, id),
            Action::KeepAlive(id) => {
                if let Some(link) = self.links.get_mut(id) {
                    self.net.keep_alive(&mut link.socket);
                }
            }
            Action::ShutdownWrite(id) => {
                if let Some(link) = self.links.get_mut(id)
                    && let Err(error) = self.net.shutdown_write(&mut link.socket)
                {
                    debug!(error = error.to_string(); "shutdown failed");
                    self.gateway.fail(self.now, id, SocketError::WriteFailed);
                }
            }
            Action::Close(id, how) => {
                let Some(link) = self.links.remove(id) else { return };
                match how {
                    CloseMode::Graceful => self.net.close(link.socket),
                    CloseMode::Abort => self.net.abort(link.socket),
                }
                // A descriptor is available again.
                self.gates.resume();
            }
            Action::ReadLast(id) => self.read_last(id),
            Action::StopAccepting => self.is_last_call = true,
            Action::Connect(to) => self.upstream.connect(&mut self.net, &mut self.gateway, self.now, to),
            Action::Disconnect => self.upstream.disconnect(&mut self.net),
        }
    }

    /// Writes a connection's output, as far as its socket accepts it.
    fn flush(&mut self, id: ConnId) {
        let Some(link) = self.links.get_mut(id) else { return };
        let unsent = if link.writable { self.gateway.unsent(id) } else { &[] };
        if unsent.is_empty() {
            self.gateway.wrote(self.now, id, 0);
            return self.after_output(id, false);
        }
        let offered = &unsent[..unsent.len().min(TURN_BYTES)];
        match self.net.write(&mut link.socket, offered) {
            Ok(0) => self.gateway.fail(self.now, id, SocketError::WriteFailed),
            Ok(count) => {
                self.gateway.wrote(self.now, id, count);
                self.after_output(id, self.gateway.has_unsent(id));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                link.writable = false;
                self.gateway.refused(self.now, id);
                // A spinning loop: everything is delivered, but a core is busy.
                if planted::is("refused-write-is-repeated") {
                    link.writable = true;
                    self.links.enqueue(id);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.gateway.wrote(self.now, id, 0);
                self.links.enqueue(id);
            }
            Err(error) => {
                debug!(error = error.to_string(); "write failed");
                self.gateway.fail(self.now, id, link::write_fault(&error));
            }
        }
    }

    /// More to write, or input left unread until there is room for answers.
    fn after_output(&mut self, id: ConnId, more: bool) {
        let Some(link) = self.links.get_mut(id) else { return };
        // The kernel sends an edge only for refused bytes, and none for input that was not read.
        let more = more && !planted::is("rest-of-a-write-is-forgotten");
        if more || (link.readable && self.gateway.wants_input(id)) {
            self.links.enqueue(id);
        }
    }

    /// Accepts clients. When a listener closes, the kernel resets the clients in its backlog and drops their input; so
    /// all of them are accepted before.
    fn accept_all(&mut self) {
        // The next client may get the slot of a connection that is not yet closed.
        let is_last_call = self.is_last_call && self.flushes_left > 0;
        for listener in [Listener::Internal, Listener::Public] {
            if !is_last_call {
                self.accept(listener, TURN_ACCEPTS);
            } else if !planted::is("drain-leaves-the-backlog") {
                self.gates.of(listener).clients_wait();
                self.accept(listener, BACKLOG_ACCEPTS);
            }
        }
        if is_last_call {
            (self.is_last_call, self.gates) = (false, Gates::default());
            self.net.stop_accepting();
            self.carry_out();
        }
    }

    fn accept(&mut self, listener: Listener, clients_max: usize) {
        let now = self.now;
        if !self.gates.of(listener).enter(now) {
            return;
        }
        for _ in 0..clients_max {
            // The rest of the turn goes first: slots must not be reused before their sockets are closed.
            if self.flushes_left == 0 {
                return;
            }
            if self
                .room
                .full(listener, &self.gateway)
                .is_some_and(|owner| self.gateway.longest_silent(now, owner).is_none())
            {
                return self.gates.of(listener).crowded();
            }
            match self.net.accept(listener) {
                Ok((socket, _)) if !self.make_room(listener) => self.net.close(socket),
                // A lost wake-up: one edge may mean any number of clients.
                Ok((socket, peer)) if planted::is("clients-behind-the-first-are-forgotten") => {
                    self.admit(listener, peer, socket);
                    return self.gates.of(listener).nobody_waits();
                }
                Ok((socket, peer)) => self.admit(listener, peer, socket),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.gates.of(listener).nobody_waits(),
                Err(error) if gate::is_exhausted(&error) => return self.gates.of(listener).pause(now, &error),
                // The client has left again, or the call was interrupted.
                Err(error) => debug!(error = error.to_string(); "accept failed"),
            }
        }
    }

    fn admit(&mut self, listener: Listener, peer: Peer, mut socket: N::Socket) {
        let token = self.net.draw_token();
        let Some(id) = self.gateway.accept(self.now, listener, peer, token) else {
            self.net.close(socket);
            return;
        };
        if let Err(error) = self.net.register(&mut socket, id) {
            warn!(error = error.to_string(); "registering a connection failed");
            self.net.close(socket);
            self.gateway.fail(self.now, id, SocketError::Reset);
            self.carry_out();
            return;
        }
        self.links.insert(id, socket);
    }

    /// Makes room for a client of `listener`. A connection to be evicted is read once more first: a complete request is
    /// answered. `false`: all candidates had such requests.
    fn make_room(&mut self, listener: Listener) -> bool {
        if self.gateway.is_short_of_memory(self.now) {
            self.give_way(listener);
        }
        for _ in 0..VICTIMS_TRIED {
            let Some(owner) = self.room.full(listener, &self.gateway) else { return true };
            if !self.give_way(owner) {
                return false;
            }
        }
        self.room.full(listener, &self.gateway).is_none()
    }

    /// Closes the connection that gives way next, unless it has spoken. `false`: there is none.
    fn give_way(&mut self, owner: Listener) -> bool {
        let Some(victim) = self.gateway.longest_silent(self.now, owner) else { return false };
        if let Some(link) = self.links.get_mut(victim.connection())
            && !planted::is("victim-is-not-read-once-more")
        {
            link.readable = true;
            while self.read(victim.connection()) {}
            self.carry_out();
        }
        if self.flushes_left == 0 {
            return false;
        }
        self.gateway.give_way(self.now, victim);
        self.carry_out();
        true
    }

    fn release_memory(&mut self) {
        if self.memory.is_due(self.now, self.gateway.stream_count(), self.gateway.call_count()) {
            self.gateway.shrink();
            self.links.shrink();
            self.net.release_memory();
        }
    }
}
