//! Eviction: which connection is closed when there is no room for another one. It is the one that has been silent
//! longest.
//!
//! Requests do not update any order. A heap has the start of each connection's silence at the last check. Since then it
//! may have sent something, but its silence cannot have begun earlier, so an entry that is popped unchanged has been
//! silent longest of all. Streams are removed from the heap when they are popped.

use super::connection::{Closing, Connection, State};
use crate::clock::Millis;
use crate::hub::ConnId;
use crate::planted;
use crate::table::Table;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A shorter silence is not significant: the request of a client that has just connected, or of a sender that has just
/// been answered, may be in flight. In milliseconds.
const SHORT_MS: u64 = 100;

/// No connection is evicted earlier, however many clients are waiting: time for the request after a handshake to
/// arrive.
const TENURE_MS: u64 = 1;

/// Entries checked per victim. Only requests that are being answered or incomplete can require so many.
const LOOKS_MAX: usize = 32;

/// Why a connection may be evicted, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// No byte of a request has arrived, or none since the last answer, or none after the final one.
    Silent,
    /// An incomplete head.
    Head,
    /// An incomplete body, unread answers, or a connection that is about to be closed.
    Slow,
    /// Any of these, but too recent.
    Recent,
}

/// An eviction candidate, with its reason and the start of its silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    pub(super) connection: ConnId,
    standing: (Claim, Millis),
}

impl Victim {
    /// Its connection.
    pub fn connection(self) -> ConnId {
        self.connection
    }

    /// The current candidate of a connection; `None` for streams, feeds and requests being answered.
    pub(super) fn of(now: Millis, connection: &Connection) -> Option<Self> {
        let moved_at = connection.out.progress_at();
        let (claim, since) = match &connection.state {
            State::Reading(reading) if reading.has_begun() => {
                let claim = if reading.body.is_some() { Claim::Slow } else { Claim::Head };
                (claim, reading.started.unwrap_or(moved_at))
            }
            State::Reading(_) if connection.out.is_empty() => (Claim::Silent, moved_at),
            State::Closing(Closing::Lingering { .. }) => (Claim::Silent, moved_at),
            State::Reading(_) | State::Closing(Closing::Flushing | Closing::Cut { .. }) => (Claim::Slow, moved_at),
            State::Answering(_) | State::Feeding(_) | State::Connecting(_) | State::Streaming(_) | State::Closed(_) => {
                return None;
            }
        };
        let claim = match now.since(since) {
            ..TENURE_MS => return None,
            TENURE_MS..SHORT_MS => Claim::Recent,
            SHORT_MS.. => claim,
        };
        Some(Self { connection: connection.id, standing: (claim, since) })
    }
}

/// The connections of one listener.
#[derive(Default)]
pub(super) struct Places {
    taken: usize,
    /// With the earliest possible start of each one's silence. Some may be gone, and some are in it twice.
    silent: BinaryHeap<Reverse<(Millis, ConnId)>>,
}

impl Places {
    /// The number of connections.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Another connection. `others`: how many of `connections` are not streams.
    pub(super) fn take(&mut self, now: Millis, id: ConnId, connections: &Table<Connection>, others: usize) {
        if self.silent.len() > 2 * others + 2 * LOOKS_MAX {
            let is_other = |id: ConnId| connections.get(id).is_some_and(|connection| !connection.is_stream());
            self.silent.retain(|Reverse((_, id))| is_other(*id));
        }
        self.taken += 1;
        self.silent.push(Reverse((now, id)));
    }

    /// A connection is about to be closed; it no longer counts as a stream.
    pub(super) fn start_closing(&mut self, connection: &Connection) {
        self.silent.push(Reverse((connection.out.progress_at(), connection.id)));
    }

    /// A connection is gone.
    pub(super) fn free(&mut self) {
        self.taken -= 1;
    }

    /// The connection to evict next.
    pub(super) fn longest_silent(&mut self, now: Millis, connections: &Table<Connection>) -> Option<Victim> {
        let mut looked_at = Vec::with_capacity(LOOKS_MAX);
        let mut best: Option<Victim> = None;
        while looked_at.len() < LOOKS_MAX {
            let Some(Reverse((known, id))) = self.silent.pop() else { break };
            let Some(connection) = connections.get(id).filter(|connection| !connection.is_stream()) else { continue };
            let Some(victim) = Victim::of(now, connection) else {
                looked_at.push(Reverse((known, id)));
                continue;
            };
            let (claim, since) = victim.standing;
            looked_at.push(Reverse((since, id)));
            // A wrong order that only a crowd shows.
            let newest = planted::is("newest-connection-gives-way");
            if best.is_none_or(|best| (victim.standing < best.standing) != newest) {
                best = Some(victim);
            }
            if claim == Claim::Silent && since == known && !newest {
                break;
            }
        }
        self.silent.extend(looked_at);
        best
    }

    /// Frees unused memory.
    pub(super) fn shrink(&mut self) {
        self.silent.shrink_to_fit();
    }
}
