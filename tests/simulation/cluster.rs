//! Several gateways over one Redis, in one world: bare gateways, a Redis in memory (`fake`), connections between them that
//! are cut at any byte, slow, half-open or left behind, and clients that move from gateway to gateway. An account beside it
//! has the order in which Redis has carried out what it was sent.
//!
//! What a client got over all its connections is a strictly increasing part of that order, by epochs; between two neighbours
//! nothing is missing that its groups were sent, unless a `gap` stands there; it gets nothing else; a `gap` stands there
//! only where something may be missing. Each send has one answer, in order, that says what has become of it.

pub(crate) mod alone;
mod clients;
pub(crate) mod fake;
mod faults;
mod judge;
mod nodes;
mod plan;
mod sends;
mod truth;
mod wires;

use crate::random::Random;
use alone::Record;
use clients::Client;
use fake::Server;
use faults::Trouble;
use nodes::{Connect, Node};
use plan::{Fault, Plan};
use sends::Sends;
use ssegateway::clock::Millis;
use ssegateway::gateway::ConnId;
use std::collections::{BTreeMap, HashMap};
use truth::Truth;
use wires::Wire;

const GROUPS: usize = 5;
const CLIENTS: usize = 6;
const STEPS: usize = 400;
/// The clock of Redis at the beginning, in milliseconds since 1970.
const FIRST_MS: u64 = 1_790_000_000_000;
/// Everything has come that long after the last fault.
const CONVERGES_WITHIN_MS: u64 = 30_000;

struct World {
    plan: Plan,
    random: Random,
    now: u64,
    server: Server,
    /// The data of the server, in the account.
    lineage: usize,
    trouble: Trouble,
    wires: BTreeMap<u64, Wire>,
    last_wire: u64,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    by_connection: HashMap<(usize, ConnId), usize>,
    /// Connect callbacks that have no answer.
    calls: Vec<Connect>,
    tokens: u128,
    sends: Sends,
    truth: Truth,
    /// What was got, instead of an account of it.
    record: Option<Record>,
    is_over: bool,
    /// What happens is printed: one seed is replayed.
    is_aloud: bool,
}

/// Runs the seed; panics where a gateway fails.
pub(crate) fn run(seed: u64) {
    let mut world = World::new(seed, Plan::draw(seed));
    world.note(|| format!("{:?}", world.plan));
    world.pass(0);
    for _ in 0..STEPS {
        world.step();
        world.nodes.iter().for_each(|node| node.gateway.assert_invariants());
    }
    world.finish();
}

impl World {
    fn new(seed: u64, plan: Plan) -> Self {
        let mut server = Server::new("one".to_owned());
        server.data.stream_entries_max = plan.log_entries;
        server.data.page_bytes_max = plan.page_bytes;
        let mut truth = Truth::default();
        let mut world = Self {
            random: Random::new(seed),
            now: 0,
            server,
            lineage: truth.begin(),
            trouble: Trouble::default(),
            wires: BTreeMap::new(),
            last_wire: 0,
            nodes: Vec::new(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            by_connection: HashMap::new(),
            calls: Vec::new(),
            tokens: 0,
            sends: Sends::default(),
            truth,
            record: None,
            plan,
            is_over: false,
            is_aloud: std::env::var_os("SIM_SEED").is_some(),
        };
        for at in 0..world.plan.gateways {
            let node = world.start(seed << 8 | at as u64);
            world.nodes.push(node);
        }
        world
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.is_aloud {
            println!("{:>7}.{:03} {}", self.now / 1000, self.now % 1000, what());
        }
    }

    fn time(&self) -> Millis {
        Millis::from_millis(self.now)
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0..=6 => self.publish(),
            7..=8 => self.send_to_token(),
            9..=12 => self.come_or_go(),
            13..=14 => self.answer_connect(),
            15 => self.change_room(),
            16..=17 => {
                let is_long = self.plan.faults.contains(&Fault::Partition);
                let time = self.random.pick(&[1, 1, 10, 60, 200, if is_long { 15_000 } else { 1100 }]);
                self.pass(time);
            }
            18 => self.break_something(),
            _ => self.move_some_bytes(),
        }
        if self.random.chance(self.plan.prompt) {
            self.pump();
        } else {
            let (at, members) = (self.random.index(self.nodes.len()), self.random.below(4));
            self.turn(at, members);
        }
    }

    /// Time passes; what can go on meanwhile does.
    fn pass(&mut self, time: u64) {
        let end = self.now + time;
        loop {
            self.set_clock();
            self.start_again();
            for at in 0..self.nodes.len() {
                while self.nodes[at].gateway.expire(Millis::from_millis(self.now)) {
                    self.carry_out(at);
                }
            }
            self.pump();
            self.close_what_lingers();
            if self.now >= end {
                return;
            }
            let due = self.nodes.iter().filter_map(|node| node.gateway.next_deadline()).min();
            self.now = due.map_or(end, Millis::as_millis).clamp(self.now + 1, end);
        }
    }

    /// All that is on its way arrives.
    fn pump(&mut self) {
        loop {
            (0..self.nodes.len()).for_each(|at| self.turn(at, u64::MAX));
            let mut has_moved = self.mix_commands();
            for id in self.wires.keys().copied().collect::<Vec<_>>() {
                has_moved |= self.move_up(id, usize::MAX);
                has_moved |= self.move_down(id, usize::MAX);
            }
            if !has_moved {
                return;
            }
        }
    }

    /// No more faults: everybody reads on, and has everything before long.
    fn finish(&mut self) {
        self.is_over = true;
        self.recover();
        while !self.calls.is_empty() {
            self.answer_connect();
        }
        for n in 0..CLIENTS {
            self.clients[n].room = 1 << 30;
            if let (at, Some(id)) = (self.clients[n].node, self.clients[n].connection) {
                self.nodes[at].ready.insert(id);
            }
        }
        self.pass(CONVERGES_WITHIN_MS);
        for at in 0..self.nodes.len() {
            self.check_converged(at);
        }
        for n in 0..CLIENTS {
            self.check_has_all(n);
        }
        self.sends.check_answers(&self.truth);
    }
}
