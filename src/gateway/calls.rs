//! The callbacks that wait or are in flight, in two lanes: connects and disconnects.
//!
//! The lanes stand here and not in the worker pool so that who waits, for how long and behind whom
//! is part of the protocol, runs in the simulation, and needs no lock. The pool just runs what it
//! is handed.

use super::ConnId;
use crate::callback::{self, Call, CallId, CallKind, Detail, Reason};
use crate::table::Table;
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

/// Why a stream is over, as a disconnect callback says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub reason: Reason,
    pub detail: Option<Detail>,
}

/// A connect callback that has not been answered.
pub(super) struct PendingConnect {
    pub token: Uuid,
    pub request: Arc<str>,
    /// Who waits for the answer, or why nobody does any more.
    pub owner: Result<ConnId, Ending>,
}

/// A disconnect callback that has not been answered.
pub(super) struct PendingDisconnect {
    pub token: Uuid,
    pub request: Arc<str>,
    pub ending: Ending,
}

pub(super) enum Pending {
    Connect(PendingConnect),
    Disconnect(PendingDisconnect),
}

struct Entry {
    started: bool,
    pending: Pending,
}

#[derive(Default)]
struct Lane {
    /// May hold ids that were withdrawn; they are stale and passed over.
    waiting: VecDeque<CallId>,
    withdrawn: usize,
    in_flight: usize,
}

pub(super) struct Calls {
    table: Table<Entry>,
    connects: Lane,
    disconnects: Lane,
    /// In flight at once, both lanes together.
    limit: usize,
    started_last: CallKind,
}

/// Withdrawn ids that a lane may hold before they are swept out.
const WITHDRAWN_MAX: usize = 1024;

impl Calls {
    pub fn new(limit: usize) -> Calls {
        Calls {
            table: Table::default(),
            connects: Lane::default(),
            disconnects: Lane::default(),
            limit: limit.max(1),
            started_last: CallKind::Disconnect,
        }
    }

    /// Waiting and in flight, both lanes.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Gives up memory that is not in use.
    pub fn shrink(&mut self) {
        self.table.shrink();
        self.connects.waiting.shrink_to_fit();
        self.disconnects.waiting.shrink_to_fit();
    }

    /// Disconnects that wait for a free worker.
    pub fn disconnects_waiting(&self) -> usize {
        self.disconnects.waiting.len() - self.disconnects.withdrawn
    }

    pub fn in_flight(&self) -> usize {
        self.connects.in_flight + self.disconnects.in_flight
    }

    pub fn queue_connect(&mut self, pending: PendingConnect) -> CallId {
        let id = self.table.insert(Entry { started: false, pending: Pending::Connect(pending) });
        self.connects.waiting.push_back(id);
        id
    }

    pub fn queue_disconnect(&mut self, pending: PendingDisconnect) {
        let id = self.table.insert(Entry { started: false, pending: Pending::Disconnect(pending) });
        self.disconnects.waiting.push_back(id);
    }

    /// The client of a connect does not wait any more. A call that has not started is withdrawn;
    /// what comes of one that has is remembered.
    pub fn abandon(&mut self, id: CallId, ending: Ending) {
        let Some(entry) = self.table.get_mut(id) else { return };
        if entry.started {
            if let Pending::Connect(connect) = &mut entry.pending {
                connect.owner = Err(ending);
            }
            return;
        }
        self.table.remove(id);
        self.connects.withdrawn += 1;
        if self.connects.withdrawn > WITHDRAWN_MAX {
            self.connects.waiting.retain(|id| self.table.get(*id).is_some());
            self.connects.withdrawn = 0;
        }
    }

    /// Takes the next call that may start now, with the connection that waits for it.
    pub fn start_next(&mut self) -> Option<(Call, Option<ConnId>)> {
        self.connects.pass_withdrawn(&self.table);
        self.disconnects.pass_withdrawn(&self.table);
        let kind = self.next_lane()?;
        let lane = self.lane(kind);
        let id = lane.waiting.pop_front()?;
        lane.in_flight += 1;
        self.started_last = kind;
        let entry = self.table.get_mut(id)?;
        entry.started = true;
        Some(match &entry.pending {
            Pending::Connect(connect) => {
                let body = callback::connect_body(connect.token, &connect.request);
                (Call { id, kind, token: connect.token, body, detail: None }, connect.owner.ok())
            }
            Pending::Disconnect(disconnect) => {
                let Ending { reason, detail } = disconnect.ending;
                let body = callback::disconnect_body(reason, disconnect.token, &disconnect.request);
                (Call { id, kind, token: disconnect.token, body, detail }, None)
            }
        })
    }

    /// Takes the call out that has been answered; `None` if the id is stale.
    pub fn finish(&mut self, id: CallId) -> Option<Pending> {
        if !self.table.get(id)?.started {
            return None;
        }
        let pending = self.table.remove(id)?.pending;
        let kind = match pending {
            Pending::Connect(_) => CallKind::Connect,
            Pending::Disconnect(_) => CallKind::Disconnect,
        };
        self.lane(kind).in_flight -= 1;
        Some(pending)
    }

    /// A few workers are kept from each lane, so that a flood in one leaves the other moving.
    fn lane_limit(&self) -> usize {
        if self.limit == 1 { 1 } else { self.limit - (self.limit / 16).max(1) }
    }

    fn next_lane(&self) -> Option<CallKind> {
        if self.in_flight() >= self.limit {
            return None;
        }
        let may_start = |lane: &Lane| !lane.waiting.is_empty() && lane.in_flight < self.lane_limit();
        match (may_start(&self.connects), may_start(&self.disconnects)) {
            (false, false) => None,
            (true, false) => Some(CallKind::Connect),
            (false, true) => Some(CallKind::Disconnect),
            (true, true) => Some(match self.started_last {
                CallKind::Connect => CallKind::Disconnect,
                CallKind::Disconnect => CallKind::Connect,
            }),
        }
    }

    fn lane(&mut self, kind: CallKind) -> &mut Lane {
        match kind {
            CallKind::Connect => &mut self.connects,
            CallKind::Disconnect => &mut self.disconnects,
        }
    }
}

impl Lane {
    fn pass_withdrawn(&mut self, table: &Table<Entry>) {
        while self.withdrawn > 0 && self.waiting.front().is_some_and(|id| table.get(*id).is_none()) {
            self.waiting.pop_front();
            self.withdrawn -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Ending = Ending { reason: Reason::ClientClosed, detail: None };

    fn connect(calls: &mut Calls, slot: u32) -> CallId {
        let owner = Ok(ConnId::from_parts(slot, 0));
        calls.queue_connect(PendingConnect { token: Uuid::nil(), request: "".into(), owner })
    }

    #[test]
    fn withdrawn_connects_are_passed_over_and_do_not_pile_up() {
        let mut calls = Calls::new(2);
        let first = connect(&mut calls, 0);
        assert_eq!(calls.start_next().and_then(|(_, owner)| owner), Some(ConnId::from_parts(0, 0)));
        for slot in 1..10_000 {
            let id = connect(&mut calls, slot);
            calls.abandon(id, LEFT);
            assert!(calls.connects.waiting.len() <= WITHDRAWN_MAX + 1);
            assert_eq!(calls.len(), 1, "the one in flight");
        }
        connect(&mut calls, 10_000);
        assert!(calls.start_next().is_none(), "one worker is kept for disconnects");
        assert!(calls.finish(first).is_some());
        assert_eq!(calls.start_next().and_then(|(_, owner)| owner), Some(ConnId::from_parts(10_000, 0)));
        assert_eq!((calls.connects.waiting.len(), calls.connects.withdrawn), (0, 0));
    }

    #[test]
    fn the_lanes_take_turns() {
        let mut calls = Calls::new(3);
        for slot in 0..3 {
            connect(&mut calls, slot);
            calls.queue_disconnect(PendingDisconnect { token: Uuid::nil(), request: "".into(), ending: LEFT });
        }
        let mut kinds = Vec::new();
        while let Some((call, _)) = calls.start_next() {
            kinds.push(call.kind);
            if kinds.len() >= 3 {
                assert!(calls.finish(call.id).is_some());
            }
        }
        let turns = [CallKind::Connect, CallKind::Disconnect, CallKind::Connect];
        assert_eq!(kinds[..3], turns);
        assert_eq!(calls.disconnects_waiting(), 0);
        assert_eq!(calls.in_flight(), 2);
    }
}
