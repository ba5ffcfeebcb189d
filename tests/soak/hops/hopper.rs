//! One client: a page that hops from gateway to gateway.

use super::account::Account;
use crate::reader::Reader;
use mio::net::TcpStream;
use std::collections::HashMap;
use std::time::Instant;

/// What became of a send to the token of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It may come.
    Open,
    /// It must come.
    Accepted(Instant),
    /// It must not come.
    Refused,
    Received,
}

/// Its connection to a gateway.
pub(crate) struct Visit {
    pub number: u64,
    pub socket: TcpStream,
    pub out: Vec<u8>,
    pub reader: Reader,
    /// Of the gateway: the number of its process.
    pub run: usize,
    pub since: Instant,
    pub leaves_at: Instant,
    pub is_open: bool,
    /// When the backend was asked, and the token.
    pub asked: Option<(Instant, String)>,
    /// Sends to its token, by number.
    pub told: HashMap<usize, Told>,
}

pub(crate) struct Hopper {
    pub account: Account,
    /// The last `id`.
    pub cursor: Option<String>,
    pub visit: Option<Visit>,
    /// While it is away.
    pub returns_at: Instant,
    /// What its backend says or its URL has of where to begin.
    pub target: String,
}
