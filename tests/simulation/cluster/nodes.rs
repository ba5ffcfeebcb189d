//! Gateways, and what the owner of their sockets does for them.

use super::sends::Sender;
use super::*;
use ssegateway::callback::{CallId, CallKind, Called, Outcome};
use ssegateway::gateway::{Action, Gateway, Listener, Peer, RedisSettings, Settings};
use ssegateway::job::{Completion, Job};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use uuid::Uuid;

/// Senders of each gateway.
const SENDERS: usize = 2;

pub(super) struct Node {
    pub(super) gateway: Gateway,
    pub(super) senders: Vec<Sender>,
    /// Clients whose sockets have room again.
    pub(super) ready: BTreeSet<ConnId>,
    /// The connection to Redis.
    pub(super) wire: Option<u64>,
    /// When it could be told something for the last time.
    pub(super) listened_at: u64,
    /// Until then it cannot connect.
    pub(super) away_until: u64,
    /// It is about to stop.
    pub(super) drains: bool,
}

/// Of the addresses of Redis, the one where it is not, as `::1` is for `localhost` if it listens to IPv4 only.
const DESERTED: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A connect callback: of which client it is, and which of its connections.
pub(super) struct Connect {
    pub(super) node: usize,
    pub(super) call: CallId,
    pub(super) client: usize,
    pub(super) token: u64,
}

impl World {
    pub(super) fn start(&self, seed: u64) -> Node {
        let long = Duration::from_secs(100_000);
        let redis = RedisSettings {
            host: if self.plan.is_named { "redis".to_owned() } else { LOOPBACK.to_string() },
            ..RedisSettings::default()
        };
        let settings = Settings {
            history_age: self.plan.history_age,
            history_events: self.plan.history_events,
            history_bytes: self.plan.history_bytes,
            client_timeout: long,
            keepalive_timeout: long,
            request_timeout: long,
            connect_queue: long,
            callback_timeout: long,
            redis: self.plan.has_redis.then_some(redis),
            ..Settings::default()
        };
        let mut gateway = Gateway::new(settings, self.time(), seed);
        let senders = (0..SENDERS).map(|_| {
            let id = gateway.accept(self.time(), Listener::Public, Peer::Loopback, Uuid::nil());
            Sender::new(id.expect("room"))
        });
        let senders = senders.collect();
        Node {
            gateway,
            senders,
            ready: BTreeSet::new(),
            wire: None,
            listened_at: self.now,
            away_until: 0,
            drains: false,
        }
    }

    /// What the event loop does in a turn; `members`: so many members of groups are written to.
    pub(super) fn turn(&mut self, at: usize, members: u64) {
        let now = self.time();
        self.nodes[at].gateway.continue_upstream(now, usize::try_from(members).expect("so much"));
        self.carry_out(at);
        for _ in 0..members {
            let Some(id) = self.nodes[at].gateway.next_member(now) else { break };
            self.flush(at, id);
        }
        for id in std::mem::take(&mut self.nodes[at].ready) {
            if self.nodes[at].gateway.has_unsent(id) {
                self.flush(at, id);
            }
        }
        self.carry_out(at);
        self.take_commands(at);
        if self.channels_of(at).is_some_and(|channels| channels.iter().any(|name| name.starts_with("ssegateway:to:"))) {
            self.nodes[at].listened_at = self.now;
        }
    }

    /// What a gateway follows.
    fn channels_of(&self, at: usize) -> Option<&BTreeSet<String>> {
        let wire = self.wires.get(&self.nodes[at].wire?)?;
        self.server.channels(wire.session)
    }

    pub(super) fn carry_out(&mut self, at: usize) {
        loop {
            if let Some(id) = self.nodes[at].gateway.next_dirty() {
                self.flush(at, id);
            } else if let Some(action) = self.nodes[at].gateway.next_action() {
                self.act(at, action);
            } else {
                return;
            }
        }
    }

    fn flush(&mut self, at: usize, id: ConnId) {
        let now = self.time();
        let gateway = &mut self.nodes[at].gateway;
        let unsent = gateway.unsent(id).to_vec();
        let Some(n) = self.by_connection.get(&(at, id)).copied() else {
            gateway.wrote(now, id, unsent.len());
            return self.take_answers(at, id, &unsent);
        };
        let room = self.clients[n].room;
        let mut count = unsent.len().min(room).min(64 * 1024);
        if count > 1 && self.plan.slow_readers && self.random.chance(50) {
            count = self.random.within(1, count as u64) as usize;
        }
        self.clients[n].room -= count;
        self.nodes[at].gateway.wrote(now, id, count);
        self.take(n, &unsent[..count]);
        if self.clients[n].room > 0 {
            self.nodes[at].ready.insert(id);
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        let now = self.time();
        let gateway = &mut self.nodes[at].gateway;
        match action {
            Action::Start(Job::Call(call)) => match call.kind {
                CallKind::Start => panic!("a start that was not asked for"),
                CallKind::Connect => {
                    let token = call.token.as_u128();
                    let client = (token >> 64) as u32 as usize;
                    // The gateway has put its own id into it.
                    self.clients[client].token = call.token;
                    self.calls.push(Connect { node: at, call: call.id, client, token: token as u64 });
                }
                CallKind::Disconnect { .. } => {
                    let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false };
                    gateway.complete(now, Completion::Called(Called { id: call.id, outcome }));
                }
            },
            Action::Start(Job::Resolve(host, port)) => {
                assert_eq!((&*host, port), ("redis", 6379));
                // The second attempt comes later.
                let addresses: &[IpAddr] = if self.plan.is_orderly() { &[LOOPBACK] } else { &[DESERTED, LOOPBACK] };
                let addresses = addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
                gateway.complete(now, Completion::Resolved(Ok(addresses)));
            }
            Action::Connect(to) if to.ip() == DESERTED => gateway.upstream_failed(now, "connection refused"),
            Action::Connect(_) => self.connect(at),
            Action::Disconnect => self.abandon(at),
            Action::Close(id, _) => self.closed(at, id),
            // Its peer leaves when it sees the end.
            Action::ShutdownWrite(id) => {
                gateway.receive_eof(now, id);
                self.closed(at, id);
            }
            Action::TellFeed(id) => gateway.tell_feed(now, id),
            Action::Report(_) | Action::List | Action::StopAccepting | Action::ReadLast(_) | Action::KeepAlive(_) => {}
        }
    }

    /// Faults are over: its connection is up, it follows what its clients are in, and owes nothing.
    pub(super) fn check_converged(&mut self, at: usize) {
        let ready = self.ask(at, "GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(ready.contains(r#""redis":true"#), "gateway {at}: {ready}");
        let channels = self.channels_of(at).expect("a connection to Redis");
        let followed: BTreeSet<&str> =
            channels.iter().filter_map(|channel| channel.strip_prefix("ssegateway:c:")).collect();
        let clients = self.clients.iter().filter(|client| client.node == at && client.connection.is_some());
        let names: BTreeSet<String> =
            clients.flat_map(|client| &client.granted).map(|group| format!("g{group}")).collect();
        assert_eq!(followed, names.iter().map(|name| &**name).collect(), "gateway {at} follows other groups");
        assert_eq!(channels.len(), followed.len() + 2, "gateway {at}: {channels:?}");
        assert!(!self.nodes[at].gateway.has_visits(), "gateway {at}: no rest");
    }
}
