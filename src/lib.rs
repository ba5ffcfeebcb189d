//! SSEGateway holds Server-Sent Events streams for an HTTP backend.
//!
//! A client GETs any path; the gateway asks the backend by an HTTP callback whether to accept; it then
//! owns the stream, sends heartbeats, delivers what the backend POSTs to `/internal/send`, and tells
//! the backend when the client has gone. `docs/protocol.md` says what happens on the wire, exactly. This
//! page is the map of the code.
//!
//! # The layers
//!
//! One thread runs everything but what blocks. A module imports only from those above it in this table, and so do the
//! files within a module: `tests/rooms.rs` reads the sources and fails when one does not, or when a module that must be
//! pure names a socket, a thread or a clock.
//!
//! | Module | Holds | Knows nothing of |
//! |---|---|---|
//! | [`clock`], `planted`, [`table`], [`escape`], [`flood`], [`secret`], [`timer`], [`buffer`], [`metrics`] | milliseconds; bugs for the simulation to find; generational slab; text made fit for a log; log lines thinned out; text that is never shown; timer wheel; output buffers and their pool; histograms and the text format of Prometheus | everything else |
//! | [`http`] | request heads, request bodies, responses: borrowed bytes in, appended bytes out | sockets, streams |
//! | [`sse`] | event to frame, heartbeat, retry | HTTP, JSON |
//! | `json` | JSON of backends, read in place: a fast path by hand, the rest by serde_json | commands, callbacks |
//! | [`send`] | the JSON of `/internal/send`, one error per row of the contract | connections |
//! | [`callback`] | the client's request as callbacks carry it; callbacks and their outcomes | threads, ureq |
//! | [`job`] | what the core has done by others, and what came of it | who does it |
//! | `hub` | which connection a token names, which callbacks wait: connection ids in, connection ids out | HTTP, sockets |
//! | [`gateway`] | connections and the protocol: HTTP on one side, `hub` on the other. Inputs in, bytes and actions out | I/O, clocks, randomness |
//! | [`sys`] | system calls that std and mio do not offer; the only `unsafe` code | the gateway |
//! | [`limits`], [`logger`], [`config`], [`process`], [`notify`] | descriptors; the log; the environment; the process's own figures; the service manager | sockets of clients |
//! | [`workers`], [`reactor`] | the callback pool on ureq: elastic threads, a caching resolver; the event loop: readiness, fairness, accepting, flushing, over [`reactor::System`], one method per system call | the protocol's rules |
//! | [`healthcheck`], [`serve`], [`cli`] | the probe for containers; start and end; the command line | |
//!
//! # Where to change what
//!
//! | To change | Look in |
//! |---|---|
//! | status, text or metric label of an answer | `gateway/answers.rs`, one row each |
//! | who answers which request, and its checks | `gateway/routes.rs` |
//! | the head of a stream, `Date`, CORS fields | `http/response.rs` |
//! | opening and sending to streams; what a connect's answer may carry | `gateway/streams.rs` |
//! | how a stream ends | `gateway/ending.rs` |
//! | a timeout, the heartbeat, the drain | `gateway/deadlines.rs` (when), `gateway/expiry.rs` (what happens then) |
//! | unsent bytes, chunks, order of writes | `gateway/output.rs` |
//! | order and limits of callbacks | `hub/calls.rs` |
//! | a field of an event | `send/mod.rs`, `sse/mod.rs` |
//! | a counter or gauge | `gateway/stats.rs`, and where it is counted |
//! | a variable | its row in `config/variables.rs`, its field in `gateway/settings.rs`, and its use |
//! | budgets of a turn of the loop | `reactor/mod.rs` |
//! | a hint in the log | `gateway/hints.rs` |
//!
//! # One event, from socket to socket
//!
//! 1. The kernel reports the backend's connection readable; [`reactor::Reactor::turn`] puts it into the
//!    queue of ready connections and reads up to 64 KiB into the one scratch buffer.
//! 2. [`gateway::Gateway::receive`] parses the request in place ([`http::request`]), routes it, and hands
//!    the body to [`send::parse`], whose strings borrow from the scratch buffer.
//! 3. The token is looked up, the frame appended to the stream's output by [`sse::Event::write`] inside a
//!    chunk, and the stream queued for a write. The answer is appended to the backend's output, which is queued
//!    when its whole batch has been read.
//! 4. The reactor takes [`gateway::Gateway::next_dirty`] until it is empty or the turn's budget is spent: one write per
//!    stream, then one for the answers. What the kernel took is forgotten, and an empty buffer goes back to its pool.
//!
//! No allocation, one read and one write per connection and batch.
//!
//! # Where the time goes
//!
//! `docs/performance.md` has the figures and the commands that give them. In short: an event that is sent request by
//! request costs one read, two writes and an eighth of an epoll_wait, and nine tenths of its CPU are the kernel's;
//! of 16 pipelined ones each costs one write and a sixteenth of the rest. What is ours is mostly the head of the send
//! and then its JSON; finding the stream, framing and the answer are small beside them. Nothing per event
//! allocates, locks, reads a clock or formats a log line, and what is counted for the metrics is added to plain
//! integers. A connect costs ten times an event: its callback takes a thread's two wake-ups and an HTTP client.
//!
//! # Why the seams are where they are
//!
//! The core is pure so that every handler runs to its end and a fuzzer can call it. The loop stands on a
//! seam of its own because readiness has memory: edge-triggered servers break by losing a wake-up, which
//! happens in the loop and not in the protocol. So the simulation (`tests/simulation.rs`) replaces the
//! system calls, and both run inside it.
//!
//! The lanes of callbacks that wait stand in the core (`hub`) and not in the worker pool, so that
//! their order and their limits are simulated too; the pool runs what it is handed.
//!
//! What all connections share (`gateway/shared.rs`) stands apart from the table of connections, so that a handler is
//! handed one connection and cannot reach another; only sends and callbacks' outcomes look one up. A slot is freed by
//! one door, when the input in hand is settled: inside a handler no id goes stale.

#![deny(unsafe_code)]

pub mod buffer;
pub mod callback;
pub mod cli;
pub mod clock;
pub mod config;
pub mod escape;
pub mod flood;
pub mod gateway;
pub mod healthcheck;
pub mod http;
pub(crate) mod hub;
pub mod job;
pub(crate) mod json;
pub mod limits;
pub mod logger;
pub mod metrics;
pub mod notify;
mod planted;
pub mod process;
pub mod reactor;
pub mod secret;
pub mod send;
pub mod serve;
pub mod sse;
pub mod sys;
pub mod table;
pub mod timer;
pub mod workers;
