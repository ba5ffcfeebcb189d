//! The loop itself: turn after turn, until the gateway has finished.

use super::{Reactor, System};
use crate::gateway::{Finished, Left};
use std::io;

impl<N: System> Reactor<N> {
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
