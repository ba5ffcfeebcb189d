//! Who comes to visit, what for, and what the crowd has counted of it.

use crate::reader::Reader;
use mio::net::TcpStream;
use std::time::{Duration, Instant};

/// What a visitor is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads everything, and leaves when it has got all that was sent.
    Healthy,
    /// Reads everything, and leaves whenever it likes.
    Hasty,
    /// Leaves while the backend decides.
    Early,
    /// Does not read.
    Lazy,
    Garbage,
    SlowHead,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No answer yet.
    Waiting,
    Open,
    /// Nothing more is sent; it leaves when it has got everything.
    Quiet,
    /// It is to end now.
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
    /// When it is time to go.
    pub leaves_at: Instant,
    pub token: Option<String>,
    pub reader: Reader,
    pub sent: u64,
    pub received: u64,
}

/// What the crowd has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub visits: usize,
    pub opened: usize,
    pub refused: usize,
    pub sends: usize,
    pub events: usize,
    pub heartbeats: usize,
    /// Streams dropped because nobody read them.
    pub dropped: usize,
    /// The slowest event since this was last reset.
    pub slowest: Duration,
}
