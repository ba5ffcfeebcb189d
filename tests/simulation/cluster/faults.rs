//! What goes wrong.

use super::*;

/// What is wrong with Redis at the moment, and until when.
#[derive(Default)]
pub(super) struct Trouble {
    /// It answers nothing.
    pub(super) stalled_until: u64,
    /// There is none.
    pub(super) away_until: u64,
    pub(super) no_memory_until: u64,
    pub(super) clock_until: u64,
    /// By so much its clock is wrong, in milliseconds.
    pub(super) clock_offset: i64,
    /// What a replica has, whose data these are, and how many events had been carried out.
    replica: Option<(fake::Data, usize, u64)>,
    restarts: u64,
}

impl World {
    /// The clock of Redis, and what is over.
    pub(super) fn set_clock(&mut self) {
        if self.trouble.clock_until <= self.now {
            self.trouble.clock_offset = 0;
        }
        self.server.data.now_ms = (FIRST_MS + self.now).saturating_add_signed(self.trouble.clock_offset);
        self.server.is_out_of_memory = self.now < self.trouble.no_memory_until;
    }

    pub(super) fn break_something(&mut self) {
        if self.plan.faults.is_empty() {
            return;
        }
        let at = self.random.index(self.nodes.len());
        let now = self.now;
        let fault = self.random.pick(&self.plan.faults);
        self.note(|| format!("{fault:?}, gateway {at}"));
        match fault {
            Fault::Cut => self.cut(at),
            Fault::HalfOpen => self.half_open(at),
            Fault::Partition => {
                self.cut(at);
                self.nodes[at].away_until = now + self.random.pick(&[1000, 80_000]);
            }
            Fault::Stall => self.trouble.stalled_until = now + self.random.pick(&[100, 900, 3000, 7000]),
            Fault::Restart => self.restart(),
            Fault::RestartEmpty => {
                self.restart();
                self.server.data.clear();
                self.lineage = self.truth.begin();
            }
            Fault::Failover => self.fail_over(),
            Fault::Eviction => self.evict(),
            Fault::Flush => {
                self.server.data.clear();
                (0..GROUPS).for_each(|group| self.truth.lose(self.lineage, group));
                // Ids begin anew, too, and must not be those of the same millisecond.
                self.now += 1;
            }
            Fault::OutOfMemory => self.trouble.no_memory_until = now + self.random.pick(&[100, 2000, 12_000]),
            Fault::OutputLimit => self.server.output_bytes_max = self.random.pick(&[500, 2000, usize::MAX]),
            Fault::Clock => {
                self.trouble.clock_offset = self.random.within(0, 50_000) as i64 - 25_000;
                self.trouble.clock_until = now + self.random.pick(&[100, 3000, 20_000]);
            }
            Fault::Crash => self.crash(at),
            Fault::Drain => self.drain(at),
        }
        self.set_clock();
    }

    /// Redis is gone, and with it all connections.
    fn restart(&mut self) {
        self.cut_all();
        self.trouble.restarts += 1;
        self.server.replication = format!("another {}", self.trouble.restarts);
        self.server.evicted = 0;
        self.trouble.away_until = self.now + self.random.pick(&[0, 0, 300, 3000]);
        self.trouble.replica = None;
    }

    fn cut_all(&mut self) {
        for id in self.wires.keys().copied().collect::<Vec<_>>() {
            self.cut_wire(id);
        }
        self.server.forget_sessions();
    }

    /// A replica is brought up to date, or takes over.
    fn fail_over(&mut self) {
        let Some((data, lineage, count)) = self.trouble.replica.take().filter(|_| self.random.chance(300)) else {
            self.trouble.replica = Some((self.server.data.clone(), self.lineage, self.truth.count));
            return;
        };
        self.restart();
        self.lineage = self.truth.fork(lineage, count);
        self.server.data = data;
    }

    fn evict(&mut self) {
        let mut names = self.server.data.names("ssegateway:h:");
        names.extend(self.server.data.names("ssegateway:gw:"));
        if names.is_empty() {
            return;
        }
        let name = names.swap_remove(self.random.index(names.len()));
        self.server.data.remove(&name);
        self.server.evicted += 1;
        // Until the gateways notice, they may take what they have read for complete.
        if let Some(group) = name.strip_prefix("ssegateway:h:g") {
            self.truth.lose(self.lineage, group.parse().expect("a group"));
        }
    }

    /// A gateway is killed, and another one takes its place.
    pub(super) fn crash(&mut self, at: usize) {
        self.abandon(at);
        let clients = self.clients.iter_mut().filter(|client| client.node == at);
        clients.for_each(|client| client.connection = None);
        self.by_connection.retain(|(node, _), _| *node != at);
        self.calls.retain(|call| call.node != at);
        self.sends.forget(&self.nodes[at]);
        let seed = self.random.next();
        self.nodes[at] = self.start(seed);
    }

    /// A gateway is told to stop.
    fn drain(&mut self, at: usize) {
        let now = self.time();
        self.nodes[at].drains = true;
        self.nodes[at].gateway.shut_down(now);
        self.carry_out(at);
    }

    /// Gateways that have stopped are started again.
    pub(super) fn start_again(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].gateway.finished().is_some() {
                self.crash(at);
            }
        }
    }

    /// No more faults.
    pub(super) fn recover(&mut self) {
        let Trouble { replica, restarts, .. } = std::mem::take(&mut self.trouble);
        self.trouble = Trouble { replica, restarts, ..Trouble::default() };
        self.server.output_bytes_max = usize::MAX;
        self.nodes.iter_mut().for_each(|node| node.away_until = 0);
        self.set_clock();
    }
}
