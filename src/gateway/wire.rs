//! The bytes of the connection to Redis, for the owner of its socket.

use super::Gateway;
use crate::clock::Millis;

impl Gateway {
    /// A turn begins, in which so much may be done of what has come over Redis; a unit is about a microsecond. The rest
    /// follows in later turns. Without this call there is no limit.
    pub fn continue_upstream(&mut self, now: Millis, effort: usize) {
        self.shared.continue_upstream(now, &mut self.connections, effort);
    }

    /// Whether something of that is left for the next turn.
    pub fn is_upstream_behind(&self) -> bool {
        self.shared.is_upstream_behind()
    }

    /// Redis is connected to, or will be as soon as the socket has room for output.
    pub fn upstream_connected(&mut self, now: Millis) {
        self.shared.with_link(now, &mut self.connections, |link| link.connected(now));
    }

    /// Bytes arrived from Redis.
    pub fn upstream_received(&mut self, now: Millis, bytes: &[u8]) {
        self.shared.with_link(now, &mut self.connections, |link| link.received(now, bytes));
    }

    /// The connection to Redis broke, or could not be made.
    pub fn upstream_failed(&mut self, now: Millis, why: &str) {
        self.shared.with_link(now, &mut self.connections, |link| link.broken(now, why));
    }

    /// The bytes to write to Redis next: all commands of a turn, so it is called at its end.
    pub fn upstream_unsent(&mut self, now: Millis) -> &[u8] {
        self.shared.finish_commands(now, &mut self.connections);
        self.shared.engine.link.as_ref().map_or(&[], |link| link.unsent())
    }

    /// Redis has accepted `count` bytes.
    pub fn upstream_wrote(&mut self, count: usize) {
        if let Some(link) = &mut self.shared.engine.link {
            link.wrote(count);
        }
    }
}
