//! The protocol: connections and HTTP on one side, streams and callbacks on the other.
//!
//! [`Gateway`] is pure. Events go in (bytes arrived, a callback was answered, time passed); bytes and [`Action`]s come
//! out. It has no socket, clock, thread or randomness, so a handler always runs to its end, a fuzzer can drive it by
//! function calls, and a simulation controls all its inputs.
//!
//! After each input the owner takes [`Gateway::next_dirty`] and [`Gateway::next_action`], in this order, until both
//! are empty or its budget is spent; what is left stays queued.
//!
//! | File | Holds |
//! |---|---|
//! | `settings`, `actions` | the core's configuration; its actions for the owner |
//! | `results`, `answers` | what becomes of sends; every refusal and result with status, text and metric label |
//! | `answering` | answers that come later than their requests |
//! | `routes` | the answer to each request: a pure function of its head |
//! | `output` | the unsent bytes of a connection, chunks, and the connections with unsent bytes |
//! | `connection` | one connection: state, request body, deadline |
//! | `sweep`, `shutdown`, `jitter` | a walk in slices; the stages of a shutdown; jitter of `retry` |
//! | `deadlines`, `places`, `budget` | the deadline of each connection; which connection is evicted for another; the memory they take |
//! | `lingering` | connections that linger after their last response |
//! | `reached`, `frames` | how far a stream has got with its groups; their events as bytes |
//! | `group_stats`, `stats`, `hints`, `listing` | counters and their text; one-time log hints; pages of the list of streams |
//! | `shared` | state shared by all connections; answering, closing and settling one |
//! | `ending` | the end of a stream, and its disconnect |
//! | `relief` | what is given up when memory is short |
//! | `following`, `asking` | what waits until Redis has said what it keeps; questions over Redis, and who has asked |
//! | `pages`, `paging` | what Redis has and this gateway has dropped, for streams that are owed it |
//! | `members` | bringing streams up to date with their groups |
//! | `publishing`, `replay` | sends to groups, joining and leaving; where a stream in groups begins |
//! | `entering` | following groups that Redis keeps; streams that enter them late, or anew |
//! | `backlog`, `epochs` | what concerns many streams at once, in slices |
//! | `rejections`, `streams` | what a client gets in place of a stream; asking the backend, opening |
//! | `sends` | sends to streams |
//! | `feed`, `feeds` | one feed, and its account of lines; reading feeds, applying their lines, ending them |
//! | `expiry`, `draining` | timeouts, heartbeats and the drain of a connection; the walk of the drain over all |
//! | `replies`, `requests` | answers that are written at once; bytes to requests to answers |
//! | `upstream` | what comes over Redis, and what it means |
//! | `mod`, `visits`, `writes`, `wire` | the inputs and outputs |

mod actions;
mod answering;
mod answers;
mod asking;
mod backlog;
mod budget;
mod connection;
mod deadlines;
mod draining;
mod ending;
mod entering;
mod epochs;
mod expiry;
mod feed;
mod feeds;
mod following;
mod frames;
mod group_stats;
mod hints;
mod invariants;
mod jitter;
mod lingering;
mod listing;
mod members;
mod output;
mod pages;
mod paging;
mod places;
mod publishing;
mod reached;
mod redis_stats;
mod rejections;
mod relief;
mod replay;
mod replies;
mod requests;
mod results;
mod room;
mod routes;
mod sends;
mod settings;
mod shared;
mod shutdown;
mod stats;
mod streams;
mod sweep;
mod upstream;
mod visits;
mod wire;
mod writes;

pub use crate::hub::ConnId;
pub use crate::redis::RedisSettings;
pub use actions::{Action, CloseMode, Ticket};
pub use places::Victim;
pub use routes::{Listener, Peer};
pub use settings::{ConnectFailure, Cors, Settings};
pub use shutdown::{Finished, Left};
pub use stats::ProcessFigures;

use crate::callback::{Called, Detail};
use crate::clock::Millis;
use crate::http::response::Date;
use crate::hub::{EndReason, Lane};
use crate::job::{Completion, Job};
use crate::planted;
use crate::table::Table;
use answers::Answer;
use connection::{Closing, Connection, Input, State};
use redis_stats::RedisFigures;

use shared::Shared;
use stats::Gauges;
use std::time::Duration;
use uuid::Uuid;

/// Why a socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketError {
    /// Reading failed: the peer reset the connection or has vanished.
    Reset,
    /// Writing failed.
    WriteFailed,
    /// The kernel gave up on the peer (`TCP_USER_TIMEOUT`).
    TimedOut,
}

/// Flush after this many timers, while their connections are still cached and a handful of buffers is enough.
const FIRED_AT_ONCE: usize = 16;

/// Unsent answers on one connection before its requests are left unread: a client that pipelines must also read.
const ANSWERS_UNSENT_MAX: usize = 64 * 1024;

/// The protocol's state. See the module documentation.
pub struct Gateway {
    connections: Table<Connection>,
    shared: Shared,
}

impl Gateway {
    /// A gateway at `now` without connections. `seed` feeds the jitter of `retry`.
    pub fn new(settings: Settings, now: Millis, seed: u64) -> Self {
        Self { connections: Table::default(), shared: Shared::new(settings, now, seed) }
    }

    /// The wall clock, for `Date` fields: seconds since the Unix epoch.
    pub fn set_date(&mut self, unix_seconds: u64) {
        if self.shared.date.unix_seconds() != unix_seconds {
            self.shared.set_date(Date::new(unix_seconds));
        }
    }

    /// A client connected. `token` is a fresh random one, used if the connection becomes a stream. Once the drain has
    /// begun, a client only gets answers to requests that it has already sent. `None`: the time for that is up.
    pub fn accept(&mut self, now: Millis, listener: Listener, peer: Peer, token: Uuid) -> Option<ConnId> {
        if self.shared.shutdown.has_given_up() {
            return None;
        }
        self.shared.stats.connections_accepted += 1;
        let token = match &self.shared.engine.link {
            Some(link) => link.own_token(token),
            None => token,
        };
        let id = self.connections.insert_with(|id| Connection::new(id, now, listener, peer, token));
        if let Some(connection) = self.connections.get_mut(id) {
            if self.shared.shutdown.is_draining() {
                self.shared.drain(now, connection);
            }
            self.shared.deadlines.schedule(now, connection, &self.shared.settings);
        }
        let others = self.connections.len() - self.shared.hub.tokens.len();
        self.shared.places[listener as usize].take(now, id, &self.connections, others);
        Some(id)
    }

    /// Bytes arrived.
    pub fn receive(&mut self, now: Millis, id: ConnId, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(id) {
            let unfinished = connection.unfinished_bytes();
            // A wrong order between two connections.
            if planted::is("answers-overtake-their-events") {
                self.shared.outbox.queue(id, &mut connection.out);
            }
            self.shared.read_input(now, &mut self.connections, id, bytes);
            // The answers go last, after their streams' events have been offered to the kernel.
            self.shared.settle(now, &mut self.connections, id);
            self.shared.recount(&self.connections, id, unfinished);
            if self.shared.is_short_of_memory() {
                self.shared.relieve(now, &mut self.connections, Some(id));
            }
        }
    }

    /// The connection has been read once more, as [`Action::ReadLast`] says: it ends, unless new input keeps it.
    pub fn end_reading(&mut self, now: Millis, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            let unfinished = connection.unfinished_bytes();
            self.shared.end_reading(now, connection);
            self.shared.settle(now, &mut self.connections, id);
            self.shared.recount(&self.connections, id, unfinished);
        }
    }

    /// The peer will send nothing more.
    pub fn receive_eof(&mut self, now: Millis, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let unfinished = connection.unfinished_bytes();
        connection.input = Input::Ended;
        match &connection.state {
            // Bytes lost with a half-closed connection, of a client that sends, ends its side and reads.
            State::Reading(_) if planted::is("end-of-input-drops-answers") => {
                self.shared.close(connection, CloseMode::Graceful);
            }
            State::Reading(_) if !connection.out.is_empty() => self.shared.start_closing(connection),
            State::Closing(Closing::Flushing) => {}
            State::Reading(_) | State::Closing(Closing::Lingering { .. } | Closing::Cut { .. }) => {
                self.shared.close(connection, CloseMode::Graceful);
            }
            State::Feeding(_) => {
                let has_answers = !connection.out.is_empty();
                self.shared.break_off_feed(now, connection);
                if has_answers {
                    self.shared.start_closing(connection);
                } else {
                    self.shared.close(connection, CloseMode::Graceful);
                }
            }
            // The client still waits for the answer.
            State::Answering(_) | State::Closed(_) => {}
            // A missed state.
            State::Connecting(_) if planted::is("client-that-leaves-meanwhile-is-missed") => {}
            State::Connecting(_) | State::Streaming(_) => {
                self.shared.lose_client(connection, EndReason::CLIENT_CLOSED);
            }
        }
        self.shared.settle(now, &mut self.connections, id);
        self.shared.recount(&self.connections, id, unfinished);
    }

    /// The socket failed.
    pub fn fail(&mut self, now: Millis, id: ConnId, error: SocketError) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let ending = match error {
            SocketError::Reset => EndReason::CLIENT_CLOSED,
            SocketError::WriteFailed => EndReason::error(Detail::WriteFailed),
            SocketError::TimedOut => EndReason::error(Detail::ClientTimeout),
        };
        let unfinished = connection.unfinished_bytes();
        self.shared.break_off_feed(now, connection);
        self.shared.lose_client(connection, ending);
        self.shared.settle(now, &mut self.connections, id);
        self.shared.recount(&self.connections, id, unfinished);
    }

    /// What a feed is for may have ended: its sender is told.
    pub fn tell_feed(&mut self, now: Millis, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let unfinished = connection.unfinished_bytes();
        self.shared.tell_feed(now, connection);
        self.shared.settle(now, &mut self.connections, id);
        self.shared.recount(&self.connections, id, unfinished);
    }

    /// Whether input of that connection should be read now.
    pub fn wants_input(&self, id: ConnId) -> bool {
        // Unbounded memory: a client that sends requests and never reads.
        let unbounded = planted::is("requests-are-read-whatever-is-unsent");
        let answers_max = if unbounded { usize::MAX } else { ANSWERS_UNSENT_MAX };
        self.connections.get(id).is_some_and(|connection| connection.wants_input(answers_max))
    }

    /// Time has passed: does the work that is due, or as much as fits into a turn. Only the first few timers fire:
    /// `true` if there may be more, for [`Gateway::expire_more`].
    pub fn expire(&mut self, now: Millis) -> bool {
        self.shared.advance_shutdown(now, &mut self.connections);
        self.shared.give_up_late_connects(now);
        if let Some(call) = self.shared.hub.calls.tell_start(now) {
            self.shared.outbox.act(Action::Start(Job::Call(call)));
        }
        self.shared.hub.groups.expire(now);
        self.shared.expire_link(now, &mut self.connections);
        if !self.shared.listings.is_empty() {
            self.shared.outbox.act(Action::List);
        }
        self.expire_more(now)
    }

    /// The same for a few more timers, once all output is flushed.
    pub fn expire_more(&mut self, now: Millis) -> bool {
        let mut more = self.shared.expire_streams(now, &mut self.connections, FIRED_AT_ONCE);
        for fired in 1..=FIRED_AT_ONCE {
            let Some((id, due)) = self.shared.deadlines.pop(now) else { break };
            more |= fired == FIRED_AT_ONCE;
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.scheduled != due {
                continue;
            }
            connection.scheduled = Millis::NEVER;
            // A lost wake-up: the entry was for a deadline that has moved.
            if connection.deadline > now && planted::is("moved-deadline-is-lost") {
                continue;
            }
            let unfinished = connection.unfinished_bytes();
            if connection.deadline <= now {
                self.shared.time_out(now, connection);
            }
            if let State::Closed(_) = connection.state {
                self.shared.remove_closed(&mut self.connections, id);
            } else {
                self.shared.deadlines.schedule(now, connection, &self.shared.settings);
            }
            // Time ends requests and begins none.
            if unfinished > 0 {
                self.shared.recount(&self.connections, id, unfinished);
            }
        }
        self.shared.bound_lingering(&mut self.connections);
        // Not for a client whose wait is about to end.
        if !more {
            self.shared.start_calls(now, &mut self.connections);
        }
        more
    }

    /// The latest time to call [`Gateway::expire`]; `None`: not before another input.
    pub fn next_deadline(&self) -> Option<Millis> {
        let listing = (!self.shared.listings.is_empty()).then_some(Millis::ZERO);
        let shared = &self.shared;
        let visits = (self.has_visits() || self.is_upstream_behind()).then_some(Millis::ZERO);
        let groups = shared.hub.groups.next_expiry();
        let deadlines =
            [listing, shared.shutdown.next_deadline(), shared.hub.calls.next_deadline(), shared.deadlines.next_due()];
        deadlines.into_iter().chain([visits, groups, self.shared.link_deadline()]).flatten().min()
    }

    /// The next action.
    pub fn next_action(&mut self) -> Option<Action> {
        self.shared.outbox.next_action()
    }

    /// Whether [`Gateway::next_member`] has something to do.
    pub fn has_visits(&self) -> bool {
        self.shared.hub.groups.has_walks()
    }

    /// How many groups have members left to visit.
    pub fn walk_count(&self) -> usize {
        self.shared.hub.groups.walk_count()
    }

    /// A job has finished.
    pub fn complete(&mut self, now: Millis, completion: Completion) {
        match completion {
            Completion::Called(Called { id, outcome }) => self.shared.called(now, &mut self.connections, id, outcome),
            Completion::Resolved(addresses) => self.shared.resolved(now, &mut self.connections, addresses),
        }
        self.shared.start_calls(now, &mut self.connections);
    }

    /// Answers a request for the metrics, with the figures that the gateway cannot know by itself.
    #[cold]
    pub fn report(&mut self, now: Millis, ticket: Ticket, process: &ProcessFigures) {
        let shared = &mut self.shared;
        let gauges = Gauges {
            ready: shared.settings.callback_configured && !shared.shutdown.has_begun(),
            streams_connecting: shared.hub.tokens.len() as u64 - shared.stats.streams_open,
            streams_max: shared.settings.streams_max as u64,
            connections_open: self.connections.len() as u64,
            calls: Lane::ALL.map(|lane| shared.hub.calls.counts(lane)),
            calls_limit: shared.hub.calls.limit() as u64,
            pending_bytes: shared.outbox.unsent_bytes(),
            pending_bytes_largest: shared.sweep_unsent(&mut self.connections).into(),
            groups: shared.hub.groups.counts(),
            lag: shared.lag(&self.connections),
            memory_bytes: shared.memory(),
            memory_bytes_max: shared.settings.memory_bytes_max,
            redis: shared.engine.link.as_ref().map(|link| RedisFigures::of(link)),
        };
        let answer = Answer::metrics(shared.stats.render(&gauges, process));
        shared.answer_owed(now, &mut self.connections, ticket, &answer);
    }

    /// Continues a page of the list of streams; `in_kernel`: bytes in the kernel for the client of a connection.
    #[cold]
    pub fn list(&mut self, now: Millis, in_kernel: impl Fn(ConnId) -> usize) {
        self.shared.advance_listings(now, &mut self.connections, in_kernel);
    }

    /// The first signal to stop (docs/protocol.md, section 9); further ones have no effect.
    pub fn shut_down(&mut self, now: Millis) {
        let delay = self.shared.settings.shutdown_delay;
        self.shared.shutdown.begin(now, delay);
        self.shared.hub.calls.drain_at(now.after(delay));
        self.shared.advance_shutdown(now, &mut self.connections);
    }

    /// Whether and how it has finished; only after [`Gateway::shut_down`].
    pub fn finished(&self) -> Option<Finished> {
        self.shared.shutdown.finished(self.connections.is_empty() && self.shared.hub.calls.is_empty())
    }

    /// The work that a shutdown ending now leaves undone. Walks every connection.
    pub fn left(&self) -> Left {
        let calls = |lane| self.shared.hub.calls.counts(lane);
        let disconnects = calls(Lane::Disconnects);
        Left {
            streams: self.connections.iter().filter(|(_, connection)| connection.is_unfinished()).count(),
            connects: calls(Lane::Connects).in_flight,
            disconnects: disconnects.waiting + disconnects.in_flight,
        }
    }

    /// Records the duration of a turn of the loop, without waiting.
    pub fn turn_took(&mut self, time: Duration) {
        self.shared.stats.turn(time);
    }

    /// Many streams have ended: frees unused memory.
    pub fn shrink(&mut self) {
        self.connections.shrink();
        self.shared.deadlines.shrink(&self.connections);
        self.shared.sweep_unsent(&mut self.connections);
        self.shared.shrink();
    }
}
