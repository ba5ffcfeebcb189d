//! The loop itself: turn after turn, until the gateway has finished; and what others may see of it.

use super::upstream::Upstream;
use super::{Reactor, System};
use crate::gateway::{Finished, Gateway, Left};
use crate::workers::Sessions;
use std::io;

impl<N: System> Reactor<N> {
    /// From now on connections to Redis are encrypted.
    pub fn encrypt_upstream(&mut self, sessions: Sessions) {
        self.upstream = Upstream::new(Some(sessions));
    }

    /// The protocol's state, for checks.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The system under the loop, which a simulation changes between turns.
    pub fn net(&mut self) -> &mut N {
        &mut self.net
    }

    /// Whether deadlines are held until the events of a pause are processed, for checks.
    pub fn holds_deadlines(&self) -> bool {
        self.pause.wake_at(false).is_some()
    }

    /// Runs until the gateway has finished, and returns the work left undone. The first signal calls `stopping`, a
    /// second one ends the loop at once.
    ///
    /// # Errors
    ///
    /// Polling failed, which is fatal.
    pub fn run(mut self, stopping: impl FnOnce()) -> io::Result<(Finished, Left)> {
        let mut stopping = Some(stopping);
        loop {
            for _ in 0..self.turn()? {
                match stopping.take() {
                    Some(stopping) => stopping(),
                    None => return Ok((Finished::TimedOut, self.gateway.left())),
                }
            }
            if let Some(finished) = self.gateway.finished() {
                return Ok((finished, self.gateway.left()));
            }
        }
    }
}
