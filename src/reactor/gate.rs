//! Whether a listener's clients may be accepted, and whether there is room for them.

use crate::clock::Millis;
use crate::gateway::{Gateway, Listener};
use crate::limits::internal_reserve;
use crate::planted;
use log::warn;
use std::io;
use std::time::Duration;

/// How long to pause when no descriptor is left, unless one is closed earlier.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The known state of a listener's backlog, and whether the process can accept.
#[derive(Default)]
pub(super) struct Gate {
    /// The kernel has reported waiting clients, and no accept has found the backlog empty since.
    waiting: bool,
    /// Descriptors or memory ran out: no accept before this time, unless a connection closes.
    paused_until: Option<Millis>,
    /// That has been logged.
    exhausted: bool,
    /// There is no room, and no connection can be evicted yet.
    crowded: bool,
}

/// How long to wait for a connection that can be evicted.
const CROWDED_PAUSE: Duration = Duration::from_millis(1);

impl Gate {
    pub(super) fn clients_wait(&mut self) {
        self.waiting = true;
    }

    /// The last one has been accepted.
    pub(super) fn nobody_waits(&mut self) {
        self.waiting = false;
        // Not earlier, since slots become free one at a time and are taken again.
        self.exhausted = false;
    }

    /// When the next client may be accepted; `None` if none is waiting.
    fn opens_at(&self, now: Millis) -> Option<Millis> {
        let crowded = if self.crowded { now.after(CROWDED_PAUSE) } else { now };
        self.waiting.then(|| self.paused_until.unwrap_or(now).max(crowded))
    }

    /// There is no room, and no connection can be evicted yet.
    pub(super) fn crowded(&mut self) {
        self.crowded = true;
    }

    /// Whether clients may be accepted now; ends an expired pause.
    pub(super) fn enter(&mut self, now: Millis) -> bool {
        self.crowded = false;
        let is_open = self.opens_at(now).is_some_and(|at| at <= now);
        if is_open {
            self.paused_until = None;
        }
        is_open
    }

    /// Descriptors or memory ran out.
    pub(super) fn pause(&mut self, now: Millis, error: &io::Error) {
        self.paused_until = Some(now.after(ACCEPT_PAUSE));
        // A lost wake-up: there is no edge when descriptors become available again.
        if planted::is("exhaustion-forgets-who-waits") {
            self.waiting = false;
        }
        if !self.exhausted {
            self.exhausted = true;
            warn!(error = error.to_string(); "accepting paused");
        }
    }
}

/// The gates of all listeners.
#[derive(Default)]
pub(super) struct Gates {
    public: Gate,
    internal: Gate,
}

impl Gates {
    pub(super) fn of(&mut self, listener: Listener) -> &mut Gate {
        match listener {
            Listener::Public => &mut self.public,
            Listener::Internal => &mut self.internal,
        }
    }

    /// When the next client of any of them may be accepted; `None` if none is waiting.
    pub(super) fn open_at(&self, now: Millis) -> Option<Millis> {
        [&self.public, &self.internal].into_iter().filter_map(|gate| gate.opens_at(now)).min()
    }

    /// A descriptor is available again.
    pub(super) fn resume(&mut self) {
        self.public.paused_until = None;
        self.internal.paused_until = None;
    }
}

/// The maximum number of connections.
pub(super) struct Room {
    public_max: usize,
    connections_max: usize,
}

impl Room {
    /// `has_internal`: some of `connections_max` are reserved for the internal listener.
    pub(super) fn new(connections_max: usize, has_internal: bool) -> Self {
        let reserved = if has_internal { internal_reserve(connections_max) } else { 0 };
        Self { public_max: connections_max - reserved, connections_max }
    }

    /// If there is no room for another client of `listener`: the listener whose connections are evicted.
    pub(super) fn full(&self, listener: Listener, gateway: &Gateway) -> Option<Listener> {
        let is_full = gateway.connection_count() >= self.connections_max;
        match listener {
            Listener::Public if gateway.connections_on(listener) >= self.public_max => Some(Listener::Public),
            Listener::Public | Listener::Internal => is_full.then_some(Listener::Internal),
        }
    }
}

/// Out of descriptors or memory: an immediate retry would only spin.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
