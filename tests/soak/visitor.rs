//! Visitors, their roles, and the crowd's counters.

use crate::reader::Reader;
use mio::net::TcpStream;
use std::time::{Duration, Instant};

/// A visitor's behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads everything, and leaves once it has received all its events.
    Healthy,
    /// Reads everything, and leaves at any time.
    Hasty,
    /// Leaves while the backend decides.
    Early,
    /// Does not read.
    Lazy,
    Garbage,
    SlowHead,
}

/// A visitor's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No answer yet.
    Waiting,
    Open,
    /// No more sends; it leaves once it has received everything.
    Quiet,
    /// It must end now.
    Ending,
}

/// One connection of the crowd.
pub(crate) struct Visitor {
    pub visit: u64,
    pub socket: TcpStream,
    pub out: Vec<u8>,
    pub role: Role,
    pub stage: Stage,
    pub since: Instant,
    /// When it leaves.
    pub leaves_at: Instant,
    pub token: Option<String>,
    pub reader: Reader,
    pub sent: u64,
    pub received: u64,
}

/// The crowd's counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub visits: usize,
    pub opened: usize,
    pub refused: usize,
    pub sends: usize,
    pub events: usize,
    pub heartbeats: usize,
    /// Streams dropped because they were not read.
    pub dropped: usize,
    /// The highest latency since the last reset.
    pub slowest: Duration,
}
