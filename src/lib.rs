//! SSEGateway holds Server-Sent Events streams for an HTTP backend.
//!
//! A client GETs any path; the gateway asks the backend by an HTTP callback whether to accept; it then owns the stream,
//! sends heartbeats, delivers the events that the backend POSTs to `/internal/send`, and notifies the backend when the
//! stream has ended. `docs/protocol.md` specifies the wire protocol exactly. This page is the map of the code.
//!
//! # The layers
//!
//! Everything that does not block runs on one thread. A module imports only from rows above its own, or from modules to
//! its left; files within a module are ordered, too. `tests/rooms.rs` reads the sources and enforces both, for calls
//! through `self` as well, and keeps sockets, threads and clocks out of the pure modules.
//!
//! | Module | Holds | Knows nothing of |
//! |---|---|---|
//! | [`clock`], `planted`, [`cursor`], [`table`], [`escape`], [`flood`], [`secret`], [`timer`], [`buffer`], [`metrics`] | milliseconds; bugs for the simulation to find; positions in the order of group events; generational slab; escaped text for the log; rate-limited log lines; secrets; timer wheel; output buffers and their pool; histograms and the text format of Prometheus | everything else |
//! | [`http`] | request heads, request bodies, responses: borrowed bytes in, appended bytes out | sockets, streams |
//! | [`sse`] | the bytes of an event, a heartbeat, a `retry:`; event streams back to events | HTTP, JSON |
//! | `json` | JSON from backends, read in place: a hand-written fast path, the rest by serde_json | commands, callbacks |
//! | [`send`] | the JSON of `/internal/send`, alone or in lines, one error per row of the contract | connections |
//! | [`callback`] | the client's request in callbacks; callbacks and their outcomes | threads, ureq |
//! | [`job`] | work that the core hands to other threads, and its results | which threads |
//! | `redis` | the connection to Redis and what it means: bytes and time in, bytes and events out | sockets, connections |
//! | `hub` | which connection a token names, the members and kept events of each group, who is told of their ends, which callbacks are queued, how many are in flight: connection ids and frames in, connection ids and frames out | HTTP, sockets |
//! | `engine` | the order of sends to groups | connections, members |
//! | [`gateway`] | connections and the protocol: HTTP on one side, `hub` on the other. Inputs in, bytes and actions out | I/O, clocks, randomness |
//! | [`sys`] | system calls that std and mio do not offer; the only `unsafe` code | the gateway |
//! | [`limits`], [`cgroup`], [`logger`], [`config`], [`process`], [`notify`] | descriptors; the container's limit of memory; the log; the environment; the process's own figures; the service manager | sockets of clients |
//! | [`workers`], [`reactor`] | the callback pool on ureq: elastic threads, a caching resolver; the event loop: readiness, fairness, accepting, flushing, over [`reactor::System`], one method per system call | the protocol's rules |
//! | [`healthcheck`], [`serve`], [`cli`] | the probe for containers; start and end; the command line | |
//!
//! # Where to change what
//!
//! | To change | Look in |
//! |---|---|
//! | status, text or metric label of an answer | `gateway/answers.rs`: a row per refusal and per result of a connect, a match arm per result of a send; a refusal's advice in the log: `gateway/hints.rs` |
//! | who answers which request, and its checks | `gateway/routes.rs` |
//! | the head of a stream, `Date`, CORS fields | `http/response.rs`; what it depends on: `StreamMode` in `gateway/connection.rs` |
//! | opening streams, when a stream is refused | `gateway/streams.rs` |
//! | what a client gets in place of a stream, when it is told a `retry:` | `gateway/rejections.rs`; its jitter: `gateway/jitter.rs` |
//! | sends to streams | `gateway/sends.rs` |
//! | streaming sends | `send/lines.rs`, `sse/reader.rs` (reading them), `gateway/feeds.rs` (applying, ending them) |
//! | what a connect's answer may carry | `callback/answer.rs`, `callback/headers.rs` (reading it), `gateway/streams.rs` (acting on it) |
//! | how a stream ends; a reason or detail of a disconnect | `gateway/ending.rs`; `callback/mod.rs`, `gateway/stats.rs` |
//! | a timeout, the heartbeat | its due time in `gateway/connection.rs`, when it is next in `gateway/deadlines.rs`, what happens then in `gateway/expiry.rs` |
//! | the stages of a shutdown | `gateway/shutdown.rs` |
//! | unsent bytes, chunks, order of writes | `gateway/output.rs` |
//! | what a member of a group gets, and when | `hub/walks.rs` (what is due), `gateway/members.rs` (how it is written) |
//! | kept events for replay, and their limits | `hub/history.rs`, `hub/keeping.rs` |
//! | cursors, gaps, 204 | `gateway/replay.rs` |
//! | joining, leaving, sends to groups | `gateway/publishing.rs` |
//! | what Redis does, its keys and channels | `redis/scripts.rs` |
//! | what several gateways say to each other | `gateway/asking.rs` (the messages), `gateway/upstream.rs` (what follows) |
//! | streams that wait for Redis, gaps on open streams | `gateway/following.rs`, `gateway/entering.rs` |
//! | what Redis says of many streams at once, in slices | `gateway/epochs.rs` |
//! | connecting to Redis, catching up | `redis/link.rs`, `redis/sync.rs`; a build without Redis: `redis/absent.rs` |
//! | what is known of one connection: listener, peer, state | `gateway/connection.rs` |
//! | what the loop reports to the core: accepted, received, written | `gateway/mod.rs` |
//! | order and lanes of callbacks | `hub/calls.rs` |
//! | how many callbacks are in flight | `hub/pace.rs` |
//! | which ones hang, and what is tried beside them | `hub/flights.rs`, `hub/capacity.rs` |
//! | which disconnects are made again | `hub/redelivery.rs` |
//! | what the backend is told at the start | `hub/start.rs` |
//! | how often a dead backend is tried | `hub/outage.rs` |
//! | a field of an event | `send/mod.rs`, `sse/mod.rs` |
//! | a counter or gauge | `gateway/stats.rs`, and where it is counted |
//! | a variable | its row in `config/variables.rs`, its field in `gateway/settings.rs` (or `config/fields.rs`, if the core does not use it), and its use |
//! | budgets of a turn of the loop | `reactor/budgets.rs` (connections, bytes), `gateway/mod.rs` (timers, slices) |
//! | one-time advice in the log | `gateway/hints.rs` |
//! | the page of live figures | `gateway/dashboard.html` |
//! | which names in the environment are taken for misspelt | `config/strangers.rs` |
//! | what `check --connect` tries | `workers/probe.rs` |
//!
//! The table in `gateway/mod.rs` says what each of its files holds. What a client or a backend notices is also in
//! `tests/oracle`, the model that the simulation and the fuzzer compare with, and in `docs/protocol.md`.
//!
//! # One event, from socket to socket
//!
//! 1. The kernel reports the backend's connection readable; [`reactor::Reactor::turn`] puts it into the
//!    queue of ready connections and reads up to 64 KiB into the one scratch buffer.
//! 2. [`gateway::Gateway::receive`] parses the request in place ([`http::request`]), routes it, and hands
//!    the body to [`send::parse`], whose strings borrow from the scratch buffer.
//! 3. The token is looked up, the frame appended to the stream's output by [`sse::Event::write`] inside a
//!    chunk, and the stream queued for a write. The answer is appended to the backend's output, which is queued
//!    for a write once all requests of this read are handled.
//! 4. The reactor takes [`gateway::Gateway::next_dirty`] until it is empty or the turn's budget is spent: one write per
//!    stream, then one for the answers. Bytes that the kernel accepts leave the buffer, and an empty buffer goes back to its pool.
//!
//! No allocation, one read and one write per connection and batch.
//!
//! # One event, to a group
//!
//! 1. The send is ordered (`engine`), encoded once, and kept in the rings of its groups (`hub`); a walk over the members
//!    begins, and the answer is written.
//! 2. The reactor takes [`gateway::Gateway::next_member`], some members a turn. One that is up to date is offered the
//!    shared bytes as they are; one that a walk has not reached yet gets everything that its groups have for it, in order.
//! 3. Its position moves when the kernel has taken an event. If the socket is full, nothing is queued: the member lags, and
//!    [`gateway::Gateway::unsent`] collects the next events from the rings when there is room.
//!
//! What lags is a number, so it cannot overflow. A ring that has dropped what a member still needs cuts it.
//!
//! # Where the time goes
//!
//! `docs/performance.md` has the figures and the commands behind them. In short: an event sent request by request costs
//! one read, two writes and an eighth of an epoll_wait, and nine tenths of its CPU time is the kernel's; with 16
//! pipelined, each costs one write and a sixteenth of the read, the answers' write and the epoll_wait. The gateway's
//! own share is mostly parsing the head of the send, then its JSON; finding the stream, framing and the answer cost
//! little in comparison. No event allocates, locks, reads a clock or formats a log line, and metrics are counted in
//! plain integers. A connect costs ten times an event: its callback wakes two threads and goes through an HTTP client.
//!
//! # Why the seams are where they are
//!
//! The core is pure so that every handler runs to its end and a fuzzer can call it. The loop has a seam of its own
//! because readiness is stateful: edge-triggered servers fail by losing a wake-up, which happens in the loop and not in
//! the protocol. So the simulation (`tests/simulation.rs`) replaces the system calls, and both run inside it.
//!
//! The queues of waiting callbacks live in the core (`hub`) and not in the worker pool, so that
//! their order and their limits are simulated too; the pool only runs the calls it is given.
//!
//! What all connections share (`gateway/shared.rs`) is separate from the table of connections: a handler gets one
//! connection and reaches no other; only requests, which may name another stream, get the table. A connection keeps its
//! slot until the handler of its input returns (`Shared::settle`), so inside a handler no id goes stale.

#![deny(unsafe_code)]

pub mod buffer;
pub mod callback;
pub mod cgroup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cursor;
pub(crate) mod engine;
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
pub mod redis;
pub mod secret;
pub mod send;
pub mod serve;
pub mod sse;
pub mod sys;
pub mod table;
pub mod timer;
pub mod workers;
