//! Room for further connections: how many there are of everything, and which connection is evicted for another.

use super::Gateway;
use super::actions::CloseMode;
use super::places::Victim;
use super::routes::Listener;
use crate::clock::Millis;

impl Gateway {
    /// The connection to evict next if there is no room for another one on a listener: the one that has been silent
    /// longest, and if none is silent, the one with the oldest incomplete request. Streams and requests being answered
    /// are never evicted. `None`: there is no other, or none at the moment.
    pub fn longest_silent(&mut self, now: Millis, listener: Listener) -> Option<Victim> {
        self.shared.places[listener as usize].longest_silent(now, &self.connections)
    }

    /// Closes that connection to make room, unless it has sent something since it was chosen.
    pub fn give_way(&mut self, now: Millis, victim: Victim) {
        let id = victim.connection();
        let Some(connection) = self.connections.get_mut(id) else { return };
        if Victim::of(now, connection) != Some(victim) {
            return;
        }
        let unfinished = connection.unfinished_bytes();
        self.shared.stats.connections_evicted += 1;
        self.shared.close(connection, CloseMode::Graceful);
        self.shared.remove_closed(&mut self.connections, id);
        self.shared.recount(&self.connections, id, unfinished);
    }

    /// All bytes that peers make the gateway and the kernel hold, as far as they are known.
    pub fn memory(&self) -> u64 {
        self.shared.memory()
    }

    /// Gives up memory if that is near its limit; `true` if it still is, so that a connection should give way to another
    /// one.
    pub fn is_short_of_memory(&mut self, now: Millis) -> bool {
        if self.shared.is_short_of_memory() {
            self.shared.relieve(now, &mut self.connections, None);
        }
        self.shared.is_short_of_memory()
    }

    /// The number of connections on one listener.
    pub fn connections_on(&self, listener: Listener) -> usize {
        self.shared.places[listener as usize].taken()
    }

    /// Connections of every kind.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Streams, including connecting ones.
    pub fn stream_count(&self) -> usize {
        self.shared.hub.tokens.len()
    }

    /// Callbacks queued or in flight.
    pub fn call_count(&self) -> usize {
        self.shared.hub.calls.len()
    }

    /// The current maximum of callbacks in flight, by the measured capacity of the backend.
    pub fn call_limit(&self) -> usize {
        self.shared.hub.calls.limit()
    }
}
