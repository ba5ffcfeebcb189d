//! The world around the loop: its clock, its agenda, and the phases of a run.

use super::backend::{Backend, Workers};
use super::client::Client;
use super::faults::{Fault, Faults};
use super::kernel::Kernel;
use super::trace::Trace;
use crate::oracle::{Oracle, millis};
use crate::random::Random;
use ssegateway::callback::LATE_TIME_MAX;
use ssegateway::gateway::{ConnId, Settings};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::io::ErrorKind;

/// A scheduled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// Another client connects.
    Spawn,
    /// The backend sends something to a random client.
    Chat,
    /// A client sends its next piece.
    Speak(usize),
    /// A client reads.
    Listen(usize),
    /// A client leaves, in its own way.
    Depart(usize),
    /// Bytes written to a closed client are answered with a reset.
    Reset(usize),
    /// The kernel gives up on a vanished host.
    GiveUp(usize),
    /// A worker is done with a call.
    Outcome(usize),
    /// Descriptors run out, and become available again.
    Descriptors(bool),
    ClockJump,
    Signal,
    /// Faults are over.
    Calm,
    /// All clients leave, or the gateway is told to stop.
    Leave,
    /// All work must be finished.
    Finish,
}

/// What the loop knows of one listener.
#[derive(Clone, Copy, Default)]
pub(super) struct Knock {
    /// An edge was reported, and accept(2) has not returned EAGAIN since.
    pub heard: bool,
    /// When accept(2) failed for lack of descriptors, unless one has become free since.
    pub exhausted_at: Option<u64>,
}

pub(super) struct World {
    pub random: Random,
    pub faults: Faults,
    pub trace: Trace,
    /// Simulated milliseconds.
    pub clock: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, Item)>>,
    planned: u64,
    pub kernel: Kernel,
    pub clients: Vec<Client>,
    pub backend: Backend,
    pub oracle: Oracle,
    pub settings: Settings,
    pub connections_max: usize,
    /// Clients that connect at once and leave soon: enough streams for their memory to be released.
    pub crowd_left: u64,
    /// Clients that may still connect.
    spawns_left: u64,
    spawn_pause: u64,
    /// Ids of all connections so far.
    pub ids: HashSet<ConnId>,
    /// Ids of closed connections, for stale events.
    pub stale: Vec<ConnId>,
    /// No descriptors, regardless of the count.
    pub exhausted: bool,
    /// The accepted client for which a connection may have to be evicted.
    pub newcomer: Option<usize>,
    /// The connection that was read last, if that was interrupted.
    pub interrupted: Option<usize>,
    /// The loop's knowledge of the two backlogs.
    pub knocks: [Knock; 2],
    pub drains: bool,
    /// Streams are in groups.
    pub has_groups: bool,
    pub signalled: bool,
    pub finished: bool,
    /// The loop has just been woken.
    pub woken: bool,
    pub woken_by_signal: bool,
    /// Consecutive turns without waiting and without work.
    pub idle_turns: u32,
    pub worked: bool,
}

impl World {
    pub(super) fn new(seed: u64, aloud: bool) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults::draw(seed, &mut random);
        let mut settings = super::faults::draw_settings(&mut random);
        let has_groups = seed / 2 % 3 == 1;
        if has_groups {
            super::faults::draw_history(&mut settings, &mut random);
        }
        let mut connections_max = random.pick(&[4, 12, 40, 40, 400, 400]);
        let crowd = if random.chance(20) { 100 } else { 0 };
        if crowd > 0 {
            (connections_max, settings.streams_max, settings.callback_concurrency) = (400, 1_000, 128);
        }
        let descriptors = if random.chance(200) { connections_max / 2 + 1 } else { usize::MAX };
        let whole_state = random.chance(500);
        let mut world = Self {
            trace: Trace::new(aloud),
            clock: random.below(100_000),
            agenda: BinaryHeap::new(),
            planned: 0,
            kernel: Kernel::new(descriptors, whole_state),
            clients: Vec::new(),
            backend: Backend::default(),
            oracle: Oracle::new(settings.clone()),
            settings,
            connections_max,
            crowd_left: crowd,
            spawns_left: 0,
            spawn_pause: 0,
            ids: HashSet::new(),
            stale: Vec::new(),
            exhausted: false,
            newcomer: None,
            interrupted: None,
            knocks: [Knock::default(); 2],
            drains: random.chance(400),
            has_groups,
            signalled: false,
            finished: false,
            woken: false,
            woken_by_signal: false,
            idle_turns: 0,
            worked: false,
            random,
            faults,
        };
        world.plan_run();
        world
    }

    fn plan_run(&mut self) {
        let active = self.random.within(3_000, 20_000);
        let flood = self.faults.strikes(Fault::Flood, &mut self.random);
        if self.faults.strikes(Fault::FewWorkers, &mut self.random) {
            let only = self.faults.has_only(Fault::FewWorkers);
            let timeout = millis(self.settings.callback_timeout);
            self.backend.workers = Some(Workers::draw(&mut self.random, timeout, only));
        }
        let flood = flood || self.backend.workers.is_some();
        if self.faults.strikes(Fault::BackendDown, &mut self.random) {
            let start = self.clock + self.random.below(active);
            self.backend.down = start..start + self.random.within(1_000, 20_000);
        }
        self.spawns_left = self.random.within(3, if flood { 200 } else { 40 });
        self.spawn_pause = if flood { 40 } else { active / self.spawns_left };
        self.plan(0, Item::Spawn);
        self.plan(self.random.clone().below(500), Item::Chat);
        for (fault, item) in [
            (Fault::Signal, Item::Signal),
            (Fault::ClockJump, Item::ClockJump),
            (Fault::NoDescriptors, Item::Descriptors(false)),
        ] {
            let times = if fault == Fault::NoDescriptors { 5 } else { 1 };
            for _ in 0..times {
                if self.faults.strikes(fault, &mut self.random) {
                    let after = self.random.below(active);
                    self.plan(after, item);
                }
            }
        }
        self.plan(active, Item::Calm);
    }

    /// Schedules `item` in `delay` milliseconds.
    pub(super) fn plan(&mut self, delay: u64, item: Item) {
        self.planned += 1;
        self.agenda.push(Reverse((self.clock + delay, self.planned, item)));
    }

    pub(super) fn next_time(&self) -> Option<u64> {
        self.agenda.peek().map(|Reverse((time, _, _))| *time)
    }

    /// Runs every event that is due.
    pub(super) fn catch_up(&mut self) {
        while self.next_time().is_some_and(|time| time <= self.clock) {
            if let Some(Reverse((_, _, item))) = self.agenda.pop() {
                self.trace.count_step();
                self.happen(item);
            }
        }
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Spawn => {
                if self.crowd_left + self.spawns_left > 0 && !self.faults.ended() {
                    self.spawn();
                    let pause = match self.crowd_left.checked_sub(1) {
                        Some(left) => {
                            self.crowd_left = left;
                            5
                        }
                        None => {
                            self.spawns_left -= 1;
                            self.random.below(self.spawn_pause * 2 + 1)
                        }
                    };
                    self.plan(pause, Item::Spawn);
                }
            }
            Item::Chat => {
                if !self.faults.ended() {
                    self.chat();
                    let pause = self.random.within(1, 300);
                    self.plan(pause, Item::Chat);
                }
            }
            Item::Speak(n) => self.speak(n),
            Item::Listen(n) => self.listen(n),
            Item::Depart(n) => self.depart(n),
            Item::Reset(n) => self.break_off(n, ErrorKind::ConnectionReset),
            Item::GiveUp(n) => self.break_off(n, ErrorKind::TimedOut),
            Item::Outcome(call) => self.complete(call),
            Item::Descriptors(there) => {
                self.exhausted = !there && !self.faults.ended();
                self.trace.note(self.clock, "descriptors", &[("there", u64::from(!self.exhausted))]);
                if self.exhausted {
                    let pause = self.random.within(50, 3_000);
                    self.plan(pause, Item::Descriptors(true));
                }
            }
            Item::ClockJump => {
                if !self.faults.ended() {
                    let jump = self.random.pick(&[500, 2_000, 7_000, 60_000]);
                    self.trace.note(self.clock, "clock jumps", &[("by", jump)]);
                    // Scheduled events then happen all at once, as after a suspended machine wakes up.
                    self.clock += jump;
                }
            }
            Item::Signal => self.signal(),
            Item::Calm => self.calm_down(),
            Item::Leave => self.leave(),
            Item::Finish => self.finished = true,
        }
    }

    pub(super) fn break_off(&mut self, n: usize, error: ErrorKind) {
        let purge = self.random.chance(500);
        self.trace.note(self.clock, "connection breaks", &[("client", n as u64), ("purge", u64::from(purge))]);
        self.kernel.fail(n, error, purge);
    }

    fn signal(&mut self) {
        if !self.signalled {
            self.signalled = true;
            self.trace.note(self.clock, "signal", &[]);
            self.kernel.signals += 1;
            let delay = millis(self.settings.shutdown_delay);
            self.plan(delay + 200, Item::Calm);
        }
    }

    /// No more faults or new clients. Stalled clients resume reading.
    fn calm_down(&mut self) {
        if self.faults.ended() {
            return;
        }
        self.trace.note(self.clock, "calm", &[]);
        self.faults.end();
        self.exhausted = false;
        self.kernel.descriptors = usize::MAX;
        for n in 0..self.clients.len() {
            self.resume(n);
        }
        let settings = &self.settings;
        let waits = [settings.callback_timeout, settings.connect_queue, settings.request_timeout];
        let rest: u64 = waits.iter().map(|wait| millis(*wait)).sum();
        self.plan(rest + millis(settings.client_timeout) + 6_000, Item::Leave);
    }

    fn leave(&mut self) {
        if self.drains && !self.signalled {
            self.signal();
        } else {
            self.trace.note(self.clock, "all leave", &[]);
            for n in 0..self.clients.len() {
                self.leave_politely(n);
            }
        }
        let settings = &self.settings;
        let waits = [
            settings.client_timeout,
            settings.heartbeat_interval,
            settings.keepalive_timeout,
            settings.shutdown_delay,
            settings.shutdown_timeout,
        ];
        let rest: u64 = waits.iter().map(|wait| millis(*wait)).sum();
        self.plan(rest + millis(LATE_TIME_MAX) + 5_000, Item::Finish);
    }
}
