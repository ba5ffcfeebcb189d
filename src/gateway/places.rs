//! Which connection gives way when there is no room for another one: the one that has been silent longest.
//!
//! Nothing is kept in order while requests come and go. A heap knows since when each connection had been silent when it
//! was last looked at. It may have spoken since then but cannot have fallen silent earlier, so one that comes out
//! unchanged is the longest silent of all. Streams fall out of the heap where they are met.

use super::connection::{Closing, Connection, State};
use crate::clock::Millis;
use crate::hub::ConnId;
use crate::planted;
use crate::table::Table;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A silence shorter than this says nothing: the request of a client that has just connected, or of a sender that has
/// just been answered, is on its way. In milliseconds.
const SHORT_MS: u64 = 100;

/// Before that nobody gives way, however many knock: time for a request that follows its handshake to arrive.
const TENURE_MS: u64 = 1;

/// Entries looked at for one victim. Only requests that are being answered, or not complete, can make it so many.
const LOOKS_MAX: usize = 32;

/// Why a connection may give way; those named first do so first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// No byte of a request has come, or none since the last answer, or behind the last one of all.
    Silent,
    /// A head that is not complete.
    Head,
    /// A body that is not complete, answers that are not taken, or a connection that is about to be closed.
    Slow,
    /// Any of these, for a moment only.
    Recent,
}

/// A connection that may be made to give way, and why and since when.
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

    /// The same of a connection now; `None` for streams and requests that are being answered.
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
            State::Answering(_) | State::Connecting(_) | State::Streaming(_) | State::Closed(_) => return None,
        };
        let claim = match now.since(since) {
            ..TENURE_MS => return None,
            TENURE_MS..SHORT_MS => Claim::Recent,
            SHORT_MS.. => claim,
        };
        Some(Self { connection: connection.id, standing: (claim, since) })
    }
}

/// The connections that came in by one listener.
#[derive(Default)]
pub(super) struct Places {
    taken: usize,
    /// With the time since which each is silent, at the earliest. Some are gone, and some are there twice.
    silent: BinaryHeap<Reverse<(Millis, ConnId)>>,
}

impl Places {
    /// How many connections there are.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Another connection. `others`: how many of `connections` are no streams.
    pub(super) fn take(&mut self, now: Millis, id: ConnId, connections: &Table<Connection>, others: usize) {
        if self.silent.len() > 2 * others + 2 * LOOKS_MAX {
            let is_other = |id: ConnId| connections.get(id).is_some_and(|connection| !connection.is_stream());
            self.silent.retain(|Reverse((_, id))| is_other(*id));
        }
        self.taken += 1;
        self.silent.push(Reverse((now, id)));
    }

    /// A connection is about to be closed; if it was a stream, it is one no more.
    pub(super) fn start_closing(&mut self, connection: &Connection) {
        self.silent.push(Reverse((connection.out.progress_at(), connection.id)));
    }

    /// A connection is gone.
    pub(super) fn free(&mut self) {
        self.taken -= 1;
    }

    /// The connection that gives way next.
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
            // An order that only a crowd shows.
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

    /// Gives up memory that is not in use.
    pub(super) fn shrink(&mut self) {
        self.silent.shrink_to_fit();
    }
}
