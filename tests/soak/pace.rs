//! The turns of a crowd.

use mio::{Events, Poll};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Longer pauses between two turns have external causes.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Waits for events, for a tick at most. How long the crowd has stood still before, if that is too long.
pub(crate) fn next_turn(poll: &mut Poll, events: &mut Events, turned_at: &mut Instant) -> Option<Duration> {
    match poll.poll(events, Some(TICK)) {
        Err(error) if error.kind() != ErrorKind::Interrupted => panic!("epoll: {error}"),
        Ok(()) | Err(_) => {}
    }
    let passed = std::mem::replace(turned_at, Instant::now()).elapsed();
    (passed > STANDSTILL).then_some(passed)
}
