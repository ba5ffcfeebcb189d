//! The callbacks that wait or are in flight, in two lanes: connects and disconnects.
//!
//! The lanes stand here and not in the worker pool so that who waits, for how long and behind whom
//! is part of the protocol, runs in the simulation, and needs no lock. The pool just runs what it
//! is handed.

use super::ConnId;
use crate::callback::{Call, CallId, CallKind, Detail, Reason, Request};
use crate::clock::Millis;
use crate::table::Table;
use std::collections::VecDeque;
use std::time::Duration;
use uuid::Uuid;

/// Why a stream is over, as a disconnect callback says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndReason {
    pub reason: Reason,
    pub detail: Option<Detail>,
}

/// A connect callback that has not been answered.
pub(super) struct PendingConnect {
    pub token: Uuid,
    pub request: Request,
    /// Who waits for the answer, or why nobody does any more.
    pub owner: Result<ConnId, EndReason>,
}

/// A disconnect callback that has not been answered.
pub(super) struct PendingDisconnect {
    pub token: Uuid,
    pub request: Request,
    pub ending: EndReason,
}

pub(super) enum Pending {
    Connect(PendingConnect),
    Disconnect(PendingDisconnect),
}

struct Entry {
    /// When a worker was handed the call; `None` while it waits for one.
    started_at: Option<Millis>,
    pending: Pending,
}

/// One of the two lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneName {
    Connects,
    Disconnects,
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
    /// No connects start any more.
    draining: bool,
    started_last: LaneName,
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
            draining: false,
            started_last: LaneName::Disconnects,
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

    /// Whether a worker has been handed that call.
    pub fn is_started(&self, id: CallId) -> bool {
        self.table.get(id).is_some_and(|entry| entry.started_at.is_some())
    }

    /// In flight and waiting: connects, then disconnects.
    pub fn counts(&self) -> [(u64, u64); 2] {
        [&self.connects, &self.disconnects]
            .map(|lane| (lane.in_flight as u64, (lane.waiting.len() - lane.withdrawn) as u64))
    }

    /// From now on no connect starts, as all clients are about to be turned away, and disconnects may have all workers.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    pub fn queue_connect(&mut self, pending: PendingConnect) -> CallId {
        let id = self.table.insert(Entry { started_at: None, pending: Pending::Connect(pending) });
        self.connects.waiting.push_back(id);
        id
    }

    pub fn queue_disconnect(&mut self, pending: PendingDisconnect) {
        let id = self.table.insert(Entry { started_at: None, pending: Pending::Disconnect(pending) });
        self.disconnects.waiting.push_back(id);
    }

    /// The client of a connect does not wait any more. A call that has not started is withdrawn;
    /// what comes of one that has is remembered.
    pub fn abandon(&mut self, id: CallId, ending: EndReason) {
        let Some(entry) = self.table.get_mut(id) else { return };
        if entry.started_at.is_some() {
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
    pub fn start_next(&mut self, now: Millis) -> Option<(Call, Option<ConnId>)> {
        self.connects.pass_withdrawn(&self.table);
        self.disconnects.pass_withdrawn(&self.table);
        let name = self.next_lane()?;
        let lane = self.lane(name);
        let id = lane.waiting.pop_front()?;
        lane.in_flight += 1;
        self.started_last = name;
        let entry = self.table.get_mut(id)?;
        entry.started_at = Some(now);
        Some(match &entry.pending {
            Pending::Connect(PendingConnect { token, request, owner }) => {
                let call = Call { id, kind: CallKind::Connect, token: *token, request: request.clone() };
                (call, owner.ok())
            }
            Pending::Disconnect(PendingDisconnect { token, request, ending: EndReason { reason, detail } }) => {
                let kind = CallKind::Disconnect { reason: *reason, detail: *detail };
                (Call { id, kind, token: *token, request: request.clone() }, None)
            }
        })
    }

    /// Takes the call out that has been answered, with the time that took; `None` if the id is stale.
    pub fn finish(&mut self, now: Millis, id: CallId) -> Option<(Pending, Duration)> {
        let took = Duration::from_millis(now.since(self.table.get(id)?.started_at?));
        let pending = self.table.remove(id)?.pending;
        let name = match pending {
            Pending::Connect(_) => LaneName::Connects,
            Pending::Disconnect(_) => LaneName::Disconnects,
        };
        self.lane(name).in_flight -= 1;
        Some((pending, took))
    }

    /// A few workers (of 128, two) are kept from each lane, so that a flood in one leaves the other moving at once.
    /// That it gets its half as workers become free is the turns' doing.
    fn lane_limit(&self) -> usize {
        if self.limit == 1 || self.draining { self.limit } else { self.limit - (self.limit / 64).max(1) }
    }

    fn next_lane(&self) -> Option<LaneName> {
        if self.in_flight() >= self.limit {
            return None;
        }
        let may_start = |lane: &Lane| !lane.waiting.is_empty() && lane.in_flight < self.lane_limit();
        match (may_start(&self.connects) && !self.draining, may_start(&self.disconnects)) {
            (false, false) => None,
            (true, false) => Some(LaneName::Connects),
            (false, true) => Some(LaneName::Disconnects),
            (true, true) => Some(match self.started_last {
                LaneName::Connects => LaneName::Disconnects,
                LaneName::Disconnects => LaneName::Connects,
            }),
        }
    }

    fn lane(&mut self, name: LaneName) -> &mut Lane {
        match name {
            LaneName::Connects => &mut self.connects,
            LaneName::Disconnects => &mut self.disconnects,
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
    use crate::table::Key;

    fn queue_both(calls: &mut Calls, count: usize) {
        let ending = EndReason { reason: Reason::ClientClosed, detail: None };
        for _ in 0..count {
            let (token, request) = (Uuid::nil(), Request::default());
            calls.queue_connect(PendingConnect { token, request, owner: Ok(Key::from_parts(0, 0)) });
            calls.queue_disconnect(PendingDisconnect { token, request: Request::default(), ending });
        }
    }

    fn start(calls: &mut Calls) -> Option<(CallId, bool)> {
        calls.start_next(Millis::ZERO).map(|(call, _)| (call.id, call.kind == CallKind::Connect))
    }

    #[test]
    fn a_flood_in_one_lane_leaves_the_other_moving() {
        for limit in [1, 2, 16, 128, 1000] {
            let mut calls = Calls::new(limit);
            let owner = Ok(Key::from_parts(0, 0));
            for _ in 0..2 * limit {
                calls.queue_connect(PendingConnect { token: Uuid::nil(), request: Request::default(), owner });
            }
            let mut flying = VecDeque::new();
            while let Some((id, connect)) = start(&mut calls) {
                assert!(connect);
                flying.push_back(id);
            }
            // All but what is kept for the others.
            assert_eq!(limit - flying.len(), if limit == 1 { 0 } else { (limit / 64).max(1) });
            queue_both(&mut calls, 2 * limit);
            let mut disconnects = 0;
            for _ in 0..2 * limit {
                while let Some((id, connect)) = start(&mut calls) {
                    flying.push_back(id);
                    disconnects += usize::from(!connect);
                }
                assert_eq!(flying.len(), limit);
                assert!(disconnects > 0 || limit == 1);
                calls.finish(Millis::ZERO, flying.pop_front().unwrap());
            }
            assert!(
                disconnects >= limit && disconnects <= limit + limit.div_ceil(64),
                "{disconnects} of {}",
                2 * limit
            );
        }
    }

    #[test]
    fn withdrawn_connects_are_passed_over_and_do_not_pile_up() {
        let mut calls = Calls::new(2);
        let left = EndReason { reason: Reason::ClientClosed, detail: None };
        let connect = |calls: &mut Calls, slot| {
            let owner = Ok(Key::from_parts(slot, 0));
            calls.queue_connect(PendingConnect { token: Uuid::nil(), request: Request::default(), owner })
        };
        let start = |calls: &mut Calls| calls.start_next(Millis::ZERO).and_then(|(_, owner)| owner);
        let first = connect(&mut calls, 0);
        assert_eq!(start(&mut calls), Some(Key::from_parts(0, 0)));
        for slot in 1..10_000 {
            let id = connect(&mut calls, slot);
            calls.abandon(id, left);
            assert!(calls.connects.waiting.len() <= WITHDRAWN_MAX + 1);
            assert_eq!(calls.len(), 1, "the one in flight");
        }
        connect(&mut calls, 10_000);
        assert!(start(&mut calls).is_none(), "one worker is kept for disconnects");
        assert!(calls.finish(Millis::ZERO, first).is_some());
        assert_eq!(start(&mut calls), Some(Key::from_parts(10_000, 0)));
        assert_eq!((calls.connects.waiting.len(), calls.connects.withdrawn), (0, 0));
    }
}
