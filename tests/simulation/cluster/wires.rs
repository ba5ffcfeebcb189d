//! The connections between gateways and Redis, byte by byte.

use super::fake::Note;
use super::truth::event_of;
use super::*;
use std::collections::VecDeque;

pub(super) struct Wire {
    /// Of the server.
    pub(super) session: u64,
    /// `None`: the gateway has given it up, and at that time the server notices.
    node: Result<usize, u64>,
    up: VecDeque<u8>,
    down: VecDeque<u8>,
    is_closed: bool,
    loses_up: bool,
    loses_down: bool,
}

/// What the kernel holds of the output of Redis.
const WINDOW_BYTES: usize = 1000;

impl World {
    pub(super) fn connect(&mut self, at: usize) {
        let now = self.time();
        if self.now < self.trouble.away_until.max(self.nodes[at].away_until) {
            return self.nodes[at].gateway.upstream_failed(now, "connection refused");
        }
        let session = self.server.accept();
        self.last_wire += 1;
        let wire = Wire {
            session,
            node: Ok(at),
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_closed: false,
            loses_up: false,
            loses_down: false,
        };
        self.wires.insert(self.last_wire, wire);
        assert_eq!(self.nodes[at].wire.replace(self.last_wire), None, "a second connection");
        self.nodes[at].gateway.upstream_connected(now);
    }

    /// The gateway has closed its connection. What is on its way may arrive later.
    pub(super) fn abandon(&mut self, at: usize) {
        let Some(id) = self.nodes[at].wire.take() else { return };
        self.note(|| format!("gateway {at} gives its connection up"));
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let later = if self.is_over { 0 } else { self.random.pick(&[0, 0, 20, 300, 3000]) };
        wire.node = Err(self.now + later);
    }

    /// The server notices that connections were given up.
    pub(super) fn close_what_lingers(&mut self) {
        let now = self.now;
        let is_over = |wire: &Wire| wire.node.is_err_and(|until| until <= now);
        let over: Vec<u64> = self.wires.iter().filter(|(_, wire)| is_over(wire)).map(|(id, _)| *id).collect();
        for id in over {
            self.move_up(id, usize::MAX);
            if let Some(wire) = self.wires.remove(&id) {
                self.server.close(wire.session);
            }
        }
    }

    /// What a gateway has for Redis leaves it.
    pub(super) fn take_commands(&mut self, at: usize) {
        let now = self.time();
        let Some(id) = self.nodes[at].wire else { return };
        let gateway = &mut self.nodes[at].gateway;
        let unsent = gateway.upstream_unsent(now).to_vec();
        gateway.upstream_wrote(unsent.len());
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.up.extend(unsent);
        }
        self.carry_out(at);
    }

    /// Bytes arrive at Redis. Whether there were any.
    pub(super) fn move_up(&mut self, id: u64, count: usize) -> bool {
        let Some(wire) = self.wires.get_mut(&id) else { return false };
        if self.now < self.trouble.stalled_until {
            return false;
        }
        let bytes: Vec<u8> = wire.up.drain(..count.min(wire.up.len())).collect();
        if wire.loses_up {
            return false;
        }
        self.server.receive(wire.session, &bytes);
        for note in std::mem::take(&mut self.server.notes) {
            self.note(|| match &note {
                Note::Opened { epoch } => format!("redis: epoch {epoch}"),
                Note::Sent { names, frames, .. } => {
                    let events: Vec<_> = frames.iter().map(|(id, frame)| (id.to_string(), event_of(frame))).collect();
                    format!("redis: {events:?} to {names:?}")
                }
            });
            self.truth.note(self.lineage, note, |name| name[1..].parse().expect("a group"));
        }
        !bytes.is_empty()
    }

    /// What several gateways have written arrives at Redis in turns: between two commands of one it carries out some of
    /// another. Whether there was anything.
    pub(super) fn mix_commands(&mut self) -> bool {
        let mut has_moved = false;
        while self.plan.prompt < 1000 {
            let is_full = |(id, wire): (&u64, &Wire)| (!wire.up.is_empty() && !wire.loses_up).then_some(*id);
            let full: Vec<u64> = self.wires.iter().filter_map(is_full).collect();
            // The rest of one alone meets nobody.
            if full.len() < 2 || self.now < self.trouble.stalled_until {
                break;
            }
            let id = self.random.pick(&full);
            let wire = self.wires.get_mut(&id).expect("one of them");
            let command = self.server.until_command(wire.session, wire.up.make_contiguous());
            let count = self.random.pick(&[command, command, command / 2 + 1, usize::MAX]);
            has_moved |= self.move_up(id, count);
        }
        has_moved
    }

    /// Bytes arrive at the gateway. Whether there were any.
    pub(super) fn move_down(&mut self, id: u64, count: usize) -> bool {
        let now = self.time();
        let Some(wire) = self.wires.get_mut(&id) else { return false };
        let window = WINDOW_BYTES.saturating_sub(wire.down.len());
        match self.server.take_output(wire.session, window) {
            Some(output) if wire.loses_down => drop(output),
            Some(output) => wire.down.extend(output),
            // That is lost as well.
            None if wire.loses_down => {}
            None => wire.is_closed = true,
        }
        let bytes: Vec<u8> = wire.down.drain(..count.min(wire.down.len())).collect();
        let is_end = wire.is_closed && wire.down.is_empty();
        let Ok(at) = wire.node else { return false };
        if !bytes.is_empty() {
            self.nodes[at].gateway.upstream_received(now, &bytes);
            self.carry_out(at);
        }
        if is_end && self.nodes[at].wire == Some(id) {
            self.nodes[at].gateway.upstream_failed(now, "it has closed the connection");
            self.carry_out(at);
        }
        !bytes.is_empty()
    }

    /// Some bytes of some connection arrive, on one of both ways.
    pub(super) fn move_some_bytes(&mut self) {
        let ids: Vec<u64> = self.wires.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let (id, count) = (self.random.pick(&ids), self.random.pick(&[1, 10, 100, 1000, usize::MAX]));
        if let Some(Ok(at)) = self.wires.get(&id).map(|wire| wire.node) {
            self.take_commands(at);
        }
        if self.random.chance(500) {
            self.move_up(id, count);
        } else {
            self.move_down(id, count);
        }
    }

    /// A connection of a gateway breaks.
    pub(super) fn cut(&mut self, at: usize) {
        let Some(id) = self.nodes[at].wire else { return };
        self.take_commands(at);
        if self.random.chance(300) {
            // Only the gateway knows.
            let now = self.time();
            self.nodes[at].gateway.upstream_failed(now, "connection reset by peer");
            return self.carry_out(at);
        }
        self.cut_wire(id);
    }

    /// A connection breaks: of what is on its way some arrives.
    pub(super) fn cut_wire(&mut self, id: u64) {
        let up = self.wires.get(&id).map_or(0, |wire| wire.up.len());
        let count = self.random.index(up + 1);
        self.move_up(id, count);
        let Some(wire) = self.wires.get_mut(&id) else { return };
        wire.up.clear();
        wire.down.extend(self.server.take_output(wire.session, usize::MAX).unwrap_or_default());
        self.server.close(wire.session);
        let left = self.random.index(wire.down.len() + 1);
        wire.down.truncate(left);
        wire.is_closed = true;
        if self.random.chance(500) {
            self.move_down(id, usize::MAX);
        }
    }

    /// Nothing arrives any more on one way of a connection.
    pub(super) fn half_open(&mut self, at: usize) {
        let Some(wire) = self.nodes[at].wire.and_then(|id| self.wires.get_mut(&id)) else { return };
        if self.random.chance(500) {
            wire.loses_up = true;
        } else {
            wire.loses_down = true;
        }
    }
}
