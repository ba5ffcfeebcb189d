//! Clients that come and go, with their cursors, at any gateway.

use super::nodes::Connect;
use super::*;
use crate::simulation::frames::Frames;
use ssegateway::callback::{Called, Outcome};
use ssegateway::gateway::{Listener, Peer};
use ssegateway::job::Completion;
use std::collections::BTreeSet;
use uuid::Uuid;

/// One client, over all its connections.
#[derive(Default)]
pub(super) struct Client {
    pub(super) node: usize,
    pub(super) connection: Option<ConnId>,
    pub(super) token: Uuid,
    /// The groups it is in.
    pub(super) granted: BTreeSet<usize>,
    pub(super) cursor: Option<String>,
    /// What it has everything up to, or was told of the gap.
    pub(super) epoch: Option<String>,
    pub(super) has: u64,
    /// Of what was carried out up to here, what comes before the first event of a group is not due to it.
    pub(super) excuse: u64,
    /// Groups of which it has got an event since.
    pub(super) seen: BTreeSet<usize>,
    /// On this connection.
    pub(super) frames: Frames,
    pub(super) is_headed: bool,
    /// On this connection: the answer to its connect said `attach`, and whether there was something, if that is known.
    pub(super) attaches: Option<Option<bool>>,
    /// On this connection: the position of the last event, transient or not, and what came by its token.
    pub(super) last: u64,
    pub(super) by_token: BTreeSet<u64>,
    /// Room in its socket.
    pub(super) room: usize,
}

impl World {
    pub(super) fn come_or_go(&mut self) {
        let n = self.random.index(CLIENTS);
        match self.clients[n].connection {
            Some(id) if self.random.chance(500) => self.leave(n, id),
            Some(_) => {}
            None => self.come(n),
        }
    }

    fn leave(&mut self, n: usize, id: ConnId) {
        let (at, now) = (self.clients[n].node, self.time());
        self.note(|| format!("client {n} leaves {at}"));
        self.closed(at, id);
        self.nodes[at].gateway.receive_eof(now, id);
        self.carry_out(at);
    }

    /// A connection of a client is over.
    pub(super) fn closed(&mut self, at: usize, id: ConnId) {
        if let Some(n) = self.by_connection.remove(&(at, id))
            && self.clients[n].connection == Some(id)
        {
            self.clients[n].connection = None;
        }
    }

    fn come(&mut self, n: usize) {
        let at = self.random.index(self.nodes.len());
        if self.nodes[at].drains {
            return;
        }
        let now = self.time();
        self.tokens += 1;
        let token = (n as u128) << 64 | self.tokens;
        let gateway = &mut self.nodes[at].gateway;
        let id = gateway.accept(now, Listener::Public, Peer::Remote, Uuid::from_u128(token)).expect("room");
        let old = std::mem::take(&mut self.clients[n]);
        let (epoch, has) = old.cursor.as_deref().map_or((None, 0), |cursor| {
            let (epoch, position) = cursor.split_once('.').expect("a cursor");
            (Some(epoch.to_owned()), u64::from_str_radix(position, 36).expect("a position"))
        });
        let field = old.cursor.as_ref().map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        self.clients[n] = Client {
            node: at,
            connection: Some(id),
            token: Uuid::from_u128(token),
            room: if self.plan.slow_readers { self.random.pick(&[1 << 30, 1 << 30, 500]) } else { 1 << 30 },
            excuse: if epoch.is_none() { self.truth.count } else { 0 },
            cursor: old.cursor,
            epoch,
            has,
            ..Client::default()
        };
        self.by_connection.insert((at, id), n);
        self.note(|| format!("client {n} comes to {at} {field:?}"));
        let request = format!("GET /{n} HTTP/1.1\r\nHost: h\r\n{field}\r\n");
        self.nodes[at].gateway.receive(now, id, request.as_bytes());
        self.carry_out(at);
        if self.record.is_some() {
            // A backend is slower than Redis, which says where the client begins.
            self.pump();
        }
        if self.random.chance(700) {
            self.answer_connect();
        }
    }

    pub(super) fn answer_connect(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let Connect { node, call, client: n, token } = self.calls.swap_remove(self.random.index(self.calls.len()));
        let mut groups: BTreeSet<usize> = (0..self.random.within(1, 3)).map(|_| self.random.index(GROUPS)).collect();
        if self.record.is_some() {
            // Without Redis, positions are newer than with groups that nobody follows, which shows in new groups only.
            groups = BTreeSet::from([n % GROUPS, n / 2]);
        }
        let names: Vec<String> = groups.iter().map(|group| format!(r#""g{group}""#)).collect();
        self.note(|| format!("client {n} is granted {groups:?}"));
        let client = &mut self.clients[n];
        if client.token.as_u128() as u64 == token && client.connection.is_some() {
            client.granted = groups;
        }
        let attach = self.random.chance(150);
        if attach {
            self.expect_to_attach(n, token);
        }
        let body = Some(format!(r#"{{"groups":[{}],"attach":{attach}}}"#, names.join(",")).into_bytes());
        let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body, in_doubt: false };
        let now = self.time();
        self.nodes[node].gateway.complete(now, Completion::Called(Called { id: call, outcome }));
        self.carry_out(node);
    }

    /// The answer to its connect lets a client attach, if there is something that it can attach to.
    fn expect_to_attach(&mut self, n: usize, token: u64) {
        let granted = self.clients[n].granted.clone();
        let is_kept = granted.iter().any(|group| self.server.data.exists(&format!("ssegateway:h:g{group}")));
        let is_other = |(other, client): &(usize, &Client)| {
            *other != n && client.connection.is_some() && !client.granted.is_disjoint(&granted)
        };
        let others: Vec<&Client> = self.clients.iter().enumerate().filter(is_other).map(|(_, client)| client).collect();
        // One that has not got its head may still be asking, and one that was too slow has been cut.
        let is_in = !others.is_empty();
        let is_certain = is_kept || !is_in || (others.iter().any(|other| other.is_headed) && !self.plan.may_lose());
        let is_known = is_certain && self.plan.is_orderly() && self.record.is_none();
        let client = &mut self.clients[n];
        if client.token.as_u128() as u64 == token && client.connection.is_some() {
            client.attaches = Some(is_known.then_some(is_in || is_kept));
        }
    }

    /// A client reads on, or stops reading.
    pub(super) fn change_room(&mut self) {
        let n = self.random.index(CLIENTS);
        self.clients[n].room = self.random.pick(&[0, 0, 30, 200, 1000, 1 << 30, 1 << 30]);
        let at = self.clients[n].node;
        self.nodes[at].ready.extend(self.clients[n].connection);
    }
}
