//! The harness of the integration tests: the real binary on its own port, a client of raw bytes, a reader that shows a
//! stream's chunks, and a scripted backend. Tests always wait for a condition, never for a time, and at most
//! [`PATIENCE`].

// Every test file is a crate of its own and uses only part of this module.
#![allow(dead_code, unused_imports)]

mod authority;
mod backend;
mod cage;
mod client;
mod directory;
pub(crate) mod feed;
mod gateway;
mod ledger;
mod port;
pub(crate) mod process;
mod random;
mod redis;
mod relay;
mod response;
mod stream;
pub(crate) mod sys;

pub(crate) use authority::{Authority, IdentityFiles};
pub(crate) use backend::{Answer, Backend, Call, Gate, Step};
pub(crate) use cage::{Cage, Peak};
pub(crate) use client::{Client, get, post, send_request};
pub(crate) use directory::Directory;
pub(crate) use gateway::{Builder, Gateway, Output, program, run};
pub(crate) use ledger::{Ledger, Sums, Verdict};
pub(crate) use port::Port;
pub(crate) use random::Random;
pub(crate) use redis::Redis;
pub(crate) use relay::Relay;
pub(crate) use response::{Response, assert_error, assert_json, is_http_date};
pub(crate) use stream::{Finish, Stream};
pub(crate) use sys::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ,
};

use std::time::{Duration, Instant};

/// How long a test waits for a condition. Only a broken gateway or an overloaded machine takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The answer to a send that was delivered or queued.
pub(crate) const OK: &str = r#"{"status":"ok"}"#;

/// The answer to a send to a stream whose connect callback is still in flight.
pub(crate) const BUFFERED: &str = r#"{"status":"buffered"}"#;

/// The heartbeat on the wire (contract, section 3).
pub(crate) const HEARTBEAT: &str = ": heartbeat\n\n";

/// Polls for a condition that has no notification (the state of another process).
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where `needle` starts in `haystack`.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
