//! One account of the memory that peers can make the gateway use.
//!
//! Counted where it changes, in plain integers. What the kernel holds is estimated: it can be asked only socket by socket.

use super::connection::Connection;
use super::sweep::Sweep;
use crate::clock::Millis;
use crate::hub::ConnId;
use crate::planted;
use crate::table::Table;
use std::cmp::Reverse;

/// A connection that has nothing to send and sends nothing, nearly all of it in the kernel (docs/performance.md).
pub(super) const CONNECTION_BYTES: u64 = 3584;

/// What the kernel holds for a client that does not take its output, at least: what it takes unsent, and a segment more.
pub(super) const BLOCKED_BYTES: u64 = 96 * 1024;

/// Larger requests of streams may take up half of the memory: a stranger's header fields must not keep out everybody
/// else. A browser with a few cookies sends less.
const LARGE_REQUEST_BYTES: usize = 4 * 1024;

/// Slots looked at for victims at once: a fraction of a millisecond.
const LOOKS_MAX: usize = 32 * 1024;
/// Victims found at once.
const VICTIMS_MAX: usize = 256;
/// A walk that has found nobody is not repeated for so long, in milliseconds.
const FRUITLESS_MS: u64 = 100;

/// An unfinished request: its bytes, when it began, and its connection.
type Victim = (usize, Reverse<Millis>, ConnId);

pub(super) struct Budget {
    /// `MEMORY_LIMIT_BYTES`.
    max: Option<u64>,
    /// Bytes of requests that are not complete.
    unfinished: u64,
    /// Bytes of the requests that open streams keep, and of those the large ones.
    kept: u64,
    kept_large: u64,
    /// The largest and then oldest come last.
    victims: Vec<Victim>,
    sweep: Sweep,
    fruitless_at: Option<Millis>,
}

impl Budget {
    pub(super) fn new(max: Option<u64>) -> Self {
        Self {
            max,
            unfinished: 0,
            kept: 0,
            kept_large: 0,
            victims: Vec::new(),
            sweep: Sweep::default(),
            fruitless_at: None,
        }
    }

    /// What is counted here.
    pub(super) fn bytes(&self) -> u64 {
        self.unfinished + self.kept
    }

    /// A connection's unfinished request has changed.
    pub(super) fn recount(&mut self, before: usize, after: usize) {
        self.unfinished = self.unfinished - before as u64 + after as u64;
    }

    /// A stream keeps its request from now on.
    pub(super) fn keep(&mut self, bytes: usize) {
        self.kept += bytes as u64;
        self.kept_large += if bytes > LARGE_REQUEST_BYTES { bytes as u64 } else { 0 };
    }

    /// A stream no longer keeps it.
    pub(super) fn release(&mut self, bytes: usize) {
        self.kept -= bytes as u64;
        self.kept_large -= if bytes > LARGE_REQUEST_BYTES { bytes as u64 } else { 0 };
    }

    /// Whether so much is near the limit: seven eighths of it.
    pub(super) fn is_short(&self, bytes: u64) -> bool {
        self.max.is_some_and(|max| bytes > max - max / 8)
    }

    /// Whether so much is beyond what relief goes down to: three quarters of the limit.
    pub(super) fn is_strained(&self, bytes: u64) -> bool {
        self.strain(bytes) > 0
    }

    /// How much that is too much.
    pub(super) fn strain(&self, bytes: u64) -> u64 {
        self.max.map_or(0, |max| bytes.saturating_sub(max - max / 4))
    }

    /// Whether so much is the limit, or beyond.
    pub(super) fn is_exhausted(&self, bytes: u64) -> bool {
        self.max.is_some_and(|max| bytes >= max)
    }

    /// Whether another stream, with a request of `request` bytes, would be too much where there is so much already;
    /// `calls`: bytes of the requests of callbacks.
    pub(super) fn is_full(&self, bytes: u64, calls: usize, request: usize) -> bool {
        let is_half = self.max.is_some_and(|max| self.kept_large + calls as u64 > max / 2);
        self.is_short(bytes) || (is_half && request > LARGE_REQUEST_BYTES)
    }

    /// The connection whose unfinished request is to be refused next: the largest, and of several the oldest. `None`:
    /// there is none, or none was found a moment ago.
    pub(super) fn next_victim(&mut self, now: Millis, connections: &Table<Connection>) -> Option<ConnId> {
        while let Some((bytes, _, id)) = self.victims.pop() {
            if connections.get(id).is_some_and(|connection| connection.refusable_bytes() >= bytes) {
                return Some(id);
            }
        }
        if self.fruitless_at.is_some_and(|at| now.since(at) < FRUITLESS_MS) {
            return None;
        }
        if self.sweep.is_done() {
            self.sweep = Sweep::default();
        }
        for (id, connection) in connections.iter_slots(self.sweep.slice(LOOKS_MAX, connections.slots())) {
            let bytes = connection.refusable_bytes();
            if bytes > 0 {
                self.victims.push((bytes, Reverse(connection.out.progress_at()), id));
            }
        }
        self.victims.sort_unstable();
        // A stranger with many small requests keeps out everybody with a large one.
        if planted::is("smallest-unfinished-request-goes-first") {
            self.victims.reverse();
        }
        self.victims.drain(..self.victims.len().saturating_sub(VICTIMS_MAX));
        self.fruitless_at = (self.victims.is_empty() && self.sweep.is_done()).then_some(now);
        self.victims.pop().map(|(_, _, id)| id)
    }

    /// Enough was given up: the next search begins anew.
    pub(super) fn end_search(&mut self) {
        self.victims.clear();
    }

    /// Panics if the account differs from these sums.
    pub(super) fn assert_invariants(&self, unfinished: usize, kept: usize) {
        assert_eq!(self.unfinished, unfinished as u64, "bytes of unfinished requests are miscounted");
        assert_eq!(self.kept, kept as u64, "bytes of kept requests are miscounted");
    }
}
