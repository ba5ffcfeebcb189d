//! State shared by all connections, and the operations on one: answer, close, settle.

use super::actions::{Action, CloseMode, Ticket};
use super::answering::Answering;
use super::answers::{Answer, Refusal, ResponseMode};
use super::asking::Asking;
use super::backlog::Backlog;
use super::budget::Budget;
use super::connection::{Closing, Connection, State};
use super::deadlines::{self, Deadlines};
use super::following::Following;
use super::frames::Delivery;
use super::hints::Hints;
use super::jitter::Jitter;
use super::lingering::Lingering;
use super::listing::Listing;
use super::output::Outbox;
use super::pages::Pages;
use super::places::Places;
use super::results::SendResult;
use super::routes;
use super::settings::Settings;
use super::shutdown::Shutdown;
use super::stats::Stats;
use crate::clock::Millis;
use crate::engine::Engine;
use crate::http::response::{CorsHeaders, Date};
use crate::hub::{Calls, ConnId, Groups, HistoryLimits, Hub, Watched, parse_token};
use crate::job::Job;
use crate::planted;
use crate::redis::{Limits, Link, span_of};
use crate::send;
use crate::table::Table;
use std::collections::VecDeque;
use std::time::Duration;

/// How much longer than its timeout a callback may take before the gateway stops waiting for the worker's report, as
/// lookups and scheduling are not exact.
const CALLBACK_GRACE: Duration = Duration::from_secs(1);

/// Maximum lingering connections: enough for all senders of a large backend, ended by one idle timer. Each takes a slot
/// and a socket.
const LINGERING_MAX: usize = 1024;

/// Maximum cut streams whose sockets are still open. Each may keep a quarter of a MiB in the kernel, so 32 MiB in
/// total.
const CUT_MAX: usize = 128;

/// The gateway's state except the connections.
pub(super) struct Shared {
    pub settings: Settings,
    pub hub: Hub,
    pub engine: Engine,
    /// Events of groups on their way to streams.
    pub delivery: Delivery,
    /// Where an event is encoded.
    pub frame_scratch: Vec<u8>,
    pub outbox: Outbox,
    pub deadlines: Deadlines,
    pub budget: Budget,
    /// By listener.
    pub places: [Places; 2],
    pub shutdown: Shutdown,
    /// Connections whose input is discarded after their last response.
    lingering: Lingering,
    /// Cut streams, while the kernel sends its remaining bytes.
    pub(super) cut: Lingering,
    pub stats: Stats,
    pub hints: Hints,
    pub jitter: Jitter,
    /// What waits until groups are known.
    pub following: Following,
    /// What has come over Redis, and was not acted upon.
    pub backlog: Backlog,
    pub pages: Pages,
    /// What waits for answers over Redis.
    pub asking: Asking,
    /// Unfinished pages of the list of streams.
    pub listings: VecDeque<(Ticket, Listing)>,
    pub date: Date,
    /// The answer to a delivered send on a kept-alive connection: by far the most frequent one.
    delivered: Vec<u8>,
    /// Buffer for encoding requests.
    pub scratch: String,
    /// Buffer for parsing sends.
    pub send_scratch: send::Scratch,
}

impl Shared {
    pub(super) fn new(settings: Settings, now: Millis, seed: u64) -> Self {
        let history =
            HistoryLimits { age: settings.history_age, events: settings.history_events, bytes: settings.history_bytes };
        // Not the jitter's own numbers, of which everybody sees some.
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed >> 29;
        let budget = Budget::new(settings.memory_bytes_max);
        let limits = Limits { age: settings.history_age, events: settings.history_events };
        let link = settings.redis.clone();
        let link = link.and_then(|redis| Link::new(redis, limits, settings.memory_bytes_max, random)).map(Box::new);
        let mut shared = Self {
            hub: Hub::new(Calls::new(&settings.calls()), Groups::new(history, random.rotate_left(32))),
            engine: Engine::new(random, link),
            following: Following::default(),
            backlog: Backlog::default(),
            pages: Pages::default(),
            asking: Asking::default(),
            delivery: Delivery::default(),
            frame_scratch: Vec::new(),
            settings,
            outbox: Outbox::default(),
            deadlines: Deadlines::new(now),
            budget,
            places: Default::default(),
            shutdown: Shutdown::default(),
            lingering: Lingering::new(LINGERING_MAX),
            cut: Lingering::new(CUT_MAX),
            stats: Stats::default(),
            hints: Hints::default(),
            jitter: Jitter::new(seed),
            listings: VecDeque::new(),
            date: Date::new(0),
            delivered: Vec::new(),
            scratch: String::new(),
            send_scratch: send::Scratch::default(),
        };
        if shared.engine.link.is_some() {
            shared.hub.groups.expire_elsewhere_behind(span_of(shared.settings.history_age));
        }
        shared.set_date(Date::new(0));
        shared
    }

    pub(super) fn set_date(&mut self, date: Date) {
        self.date = date;
        self.delivered.clear();
        let mode = ResponseMode { keep_alive: true, head_only: false };
        Answer::send(SendResult::Ok).write(&mut self.delivered, &date, mode, None);
    }

    /// Appends a response.
    pub(super) fn answer(&mut self, now: Millis, connection: &mut Connection, answer: &Answer<'_>, mode: ResponseMode) {
        let tells_keepalive = mode.keep_alive && !connection.keepalive_told;
        connection.keepalive_told |= tells_keepalive;
        let keepalive = tells_keepalive.then_some(self.settings.keepalive_timeout);
        answer.write(self.outbox.bytes(now, &mut connection.out), &self.date, mode, keepalive);
    }

    /// Appends the answer to a delivered send on a kept-alive connection.
    pub(super) fn answer_delivered(&mut self, now: Millis, connection: &mut Connection) {
        if connection.keepalive_told {
            self.outbox.bytes(now, &mut connection.out).extend_from_slice(&self.delivered);
        } else {
            let mode = ResponseMode { keep_alive: true, head_only: false };
            self.answer(now, connection, &Answer::send(SendResult::Ok), mode);
        }
    }

    /// Defers the answer to the current request. `is_send`: behind it, further sends may be read.
    pub(super) fn owe_answer(connection: &mut Connection, mode: ResponseMode, is_send: bool) -> Ticket {
        connection.state = State::Answering(Box::new(Answering::new(mode, is_send)));
        Ticket::new(connection.id)
    }

    /// An answer to the current request after which the connection's input cannot be trusted.
    pub(super) fn refuse(&mut self, now: Millis, connection: &mut Connection, refusal: Refusal) {
        let cors = match &connection.state {
            State::Reading(reading) => match &reading.body {
                Some(body) => Some(body.purpose.cors().clone()),
                None => Some(routes::cors_of_unread(&reading.inbox, connection.listener, &self.settings)),
            },
            State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Streaming(_)
            | State::Closing(_)
            | State::Closed(_) => None,
        };
        self.refuse_cors(now, connection, refusal, &cors.unwrap_or_default());
    }

    /// The same with CORS fields.
    pub(super) fn refuse_cors(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        refusal: Refusal,
        cors: &CorsHeaders,
    ) {
        self.hints.limit(refusal);
        self.stats.refuse(refusal);
        self.answer(now, connection, &Answer::refusal(refusal, cors), ResponseMode::LAST);
        self.start_closing(connection);
    }

    /// The last response is queued: no further request is read. Most clients write a whole request before they read, so
    /// further input is discarded whatever its size, limited by time.
    pub(super) fn start_closing(&mut self, connection: &mut Connection) {
        connection.state = State::Closing(Closing::Flushing);
        self.places[connection.listener as usize].start_closing(connection);
        self.outbox.queue(connection.id, &mut connection.out);
    }

    /// All output is written: the sending side is shut down, so that the peer sees the end.
    pub(super) fn linger(&mut self, now: Millis, connection: &mut Connection) {
        let until = deadlines::linger_until(now, self.shutdown.is_draining());
        connection.state = State::Closing(Closing::Lingering { until });
        connection.out.touch(now);
        self.lingering.push(connection.id);
        self.outbox.act(Action::ShutdownWrite(connection.id));
    }

    /// The stream is cut: its client gets the kernel's remaining bytes and then the end of input without a last chunk.
    pub(super) fn cut(&mut self, now: Millis, connection: &mut Connection) {
        self.outbox.discard(&mut connection.out);
        self.count_unsent(connection);
        let until = deadlines::cut_until(now, self.shutdown.is_draining(), &self.settings);
        connection.state = State::Closing(Closing::Cut { until });
        self.cut.push(connection.id);
        self.places[connection.listener as usize].start_closing(connection);
        self.outbox.act(Action::ShutdownWrite(connection.id));
    }

    /// The connection is over; its slot is freed once the current input is settled. A stream must have been retired
    /// before.
    pub(super) fn close(&mut self, connection: &mut Connection, mode: CloseMode) {
        debug_assert!(!connection.is_stream(), "a stream is closed without being retired");
        debug_assert!(!matches!(connection.state, State::Feeding(_)), "a feed is closed without an end");
        match connection.state {
            State::Closing(Closing::Lingering { .. }) => self.lingering.left(),
            State::Closing(Closing::Cut { .. }) => self.cut.left(),
            State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Streaming(_)
            | State::Closing(Closing::Flushing)
            | State::Closed(_) => {}
        }
        connection.state = State::Closed(mode);
    }

    /// Appends that many events to an open stream.
    pub(super) fn write_events(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        count: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let out = self.outbox.frames(now, &mut connection.out);
        let start = out.len();
        write(out);
        self.stats.sent(count, out.len() - start);
        self.outbox.queue(connection.id, &mut connection.out);
    }

    /// The stream, open or not, that a token names.
    // Every send passes here: as a call it costs 100 instructions more.
    #[inline(always)]
    pub(super) fn stream_named<'c>(
        &self,
        connections: &'c mut Table<Connection>,
        token: &str,
    ) -> Option<&'c mut Connection> {
        let token_in = |slot| connections.in_slot(slot).map(|connection| connection.token);
        let slot = self.hub.tokens.get(parse_token(token)?, token_in)?;
        connections.in_slot_mut(slot)
    }

    /// From now on the token of a stream names nothing.
    pub(super) fn withdraw_token(&mut self, connection: &Connection) {
        self.hub.tokens.remove(connection.token, connection.id);
        self.tell_watchers(|| Watched::Token(connection.token));
    }

    /// Streams and feeds, which are not evicted, have all the places that they may have together.
    pub(super) fn is_crowded(&self) -> bool {
        let max = self.settings.streams_max.saturating_add(self.settings.feeds_room);
        self.hub.tokens.len() + self.stats.feeds.open as usize >= max
    }

    /// Something has ended: tells the feeds that watch it.
    pub(super) fn tell_watchers(&mut self, ended: impl FnOnce() -> Watched) {
        if !self.hub.watches.is_empty() {
            for id in self.hub.watches.end(&ended()) {
                self.outbox.act(Action::TellFeed(id));
            }
        }
    }

    /// How to answer a request, given the length of the input after it: from the first signal on, the last request that
    /// has arrived is the last of its connection (RFC 9112 section 9.6).
    pub(super) fn mode_before(&self, mode: ResponseMode, rest: &[u8]) -> ResponseMode {
        // An answer with a false promise.
        let leaving = self.shutdown.has_begun() && !planted::is("answers-keep-a-promise-to-the-last");
        ResponseMode { keep_alive: mode.keep_alive && !(leaving && rest.is_empty()), ..mode }
    }

    /// The last step of every input to a connection. The only place that removes connections from the table.
    pub(super) fn settle(&mut self, now: Millis, connections: &mut Table<Connection>, id: ConnId) {
        let Some(connection) = connections.get_mut(id) else { return };
        if let State::Closed(_) = connection.state {
            self.remove_closed(connections, id);
        } else {
            if !connection.out.is_empty() {
                self.outbox.queue(id, &mut connection.out);
            }
            self.deadlines.schedule(now, connection, &self.settings);
        }
        self.bound_lingering(connections);
        self.start_calls(now, connections);
    }

    /// The unfinished request of a connection may have changed; it had so many bytes before.
    pub(super) fn recount(&mut self, connections: &Table<Connection>, id: ConnId, before: usize) {
        let after = connections.get(id).map_or(0, Connection::unfinished_bytes);
        // An account that grows for ever: only requests that are cut short show it.
        if after > before || !planted::is("refused-requests-stay-in-the-account") {
            self.budget.recount(before, after);
        }
    }

    /// Closes the connections that have lingered longest, if there are too many. Not while draining, when their slots
    /// are not needed.
    pub(super) fn bound_lingering(&mut self, connections: &mut Table<Connection>) {
        // Every input asks, and hardly one finds anything.
        if self.lingering.is_crowded() || self.cut.is_crowded() {
            self.close_oldest_lingering(connections);
        }
    }

    #[cold]
    fn close_oldest_lingering(&mut self, connections: &mut Table<Connection>) {
        while !self.shutdown.is_draining() {
            let lingering = self.lingering.excess(connections).map(|id| (id, CloseMode::Graceful));
            let excess = lingering.or_else(|| self.cut.excess(connections).map(|id| (id, CloseMode::Abort)));
            let Some((id, mode)) = excess else { return };
            if let Some(connection) = connections.get_mut(id) {
                self.close(connection, mode);
            }
            self.remove_closed(connections, id);
        }
    }

    /// Frees the slot of a connection that is over.
    pub(super) fn remove_closed(&mut self, connections: &mut Table<Connection>, id: ConnId) -> bool {
        let mode = match connections.get(id).map(|connection| &connection.state) {
            Some(State::Closed(mode)) => *mode,
            Some(
                State::Reading(_)
                | State::Answering(_)
                | State::Feeding(_)
                | State::Connecting(_)
                | State::Streaming(_)
                | State::Closing(_),
            )
            | None => return false,
        };
        if let Some(connection) = connections.remove(id) {
            self.places[connection.listener as usize].free();
            self.outbox.close(id, connection.out, mode);
        }
        true
    }

    /// Starts the callbacks that may start.
    pub(super) fn start_calls(&mut self, now: Millis, connections: &mut Table<Connection>) {
        while let Some((call, owner)) = self.hub.calls.start_next(now) {
            if let Some(connection) = owner.and_then(|owner| connections.get_mut(owner))
                && let State::Connecting(connecting) = &mut connection.state
            {
                connecting.answer_by = now.after(self.settings.callback_timeout).after(CALLBACK_GRACE);
                self.deadlines.schedule(now, connection, &self.settings);
            }
            self.outbox.act(Action::Start(Job::Call(call)));
        }
    }

    /// Unsent bytes of a connection, with what is held back for it until it is open or has caught up.
    #[inline(always)]
    pub(super) fn unsent_of(&self, connection: &Connection) -> usize {
        let held = match &connection.state {
            State::Connecting(connecting) => connecting.held.len(),
            State::Streaming(streaming) if streaming.reached.has_tail() => self.delivery.held_for(connection.id),
            State::Streaming(_)
            | State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Closing(_)
            | State::Closed(_) => 0,
        };
        held + connection.out.len()
    }

    /// Updates the count of a connection's unsent bytes; whether it has changed.
    #[inline(always)]
    pub(super) fn count_unsent(&mut self, connection: &mut Connection) -> bool {
        let bytes = self.unsent_of(connection);
        self.outbox.count_unsent(connection.id, &mut connection.out, bytes)
    }

    /// Removes stale entries from the list of connections with unsent output; returns the maximum of the others.
    pub(super) fn sweep_unsent(&mut self, connections: &mut Table<Connection>) -> u32 {
        self.outbox.sweep_unsent(|id| connections.get_mut(id).map(|connection| connection.out.relist()))
    }

    /// Frees unused memory.
    pub(super) fn shrink(&mut self) {
        self.hub.shrink();
        self.delivery.shrink();
        self.frame_scratch = Vec::new();
        self.outbox.shrink();
        self.places.iter_mut().for_each(Places::shrink);
        self.lingering.shrink();
        self.cut.shrink();
        self.scratch = String::new();
        self.send_scratch = send::Scratch::default();
    }
}
