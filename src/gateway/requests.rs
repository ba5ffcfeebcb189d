//! Requests: from bytes of a connection to heads, bodies and answers.

use super::actions::{Action, Ticket};
use super::answers::{Answer, Refusal, ResponseMode};
use super::asking::Asker;
use super::connection::{Body, Closing, Connection, Input, Progress, Purpose, Reading, State, StreamMode, current};
use super::listing::{Heading, Listing};
use super::results::{MembershipResult, SendResult};
use super::routes::{self, Reply, Route};
use super::settings::Settings;
use super::shared::Shared;
use crate::callback::Detail;
use crate::clock::Millis;
use crate::http::body::Remaining;
use crate::http::request::{self, Expect, Framing, Head, HeadError, Version};
use crate::http::response::{self, CorsHeaders};
use crate::hub::{ConnId, EndReason};
use crate::planted;
use crate::table::Table;

/// A head of this length is parsed again only after another complete line, so that a client that sends byte by byte
/// does not cause a parse per byte.
const EAGER_HEAD_BYTES: usize = 1024;

impl Shared {
    /// Input for a connection that is reading requests.
    pub(super) fn read_input(&mut self, now: Millis, connections: &mut Table<Connection>, id: ConnId, bytes: &[u8]) {
        let connection = current(connections, id);
        if let State::Closing(Closing::Lingering { .. }) = connection.state {
            return connection.out.touch(now);
        }
        let mut inbox = match &mut connection.state {
            State::Reading(reading) if !reading.inbox.is_empty() => std::mem::take(&mut reading.inbox),
            // Behind input that waits, all waits.
            State::Answering(answering) if !answering.rest.is_empty() => {
                return self.keep_rest(now, connection, bytes);
            }
            State::Reading(_) | State::Answering(_) | State::Feeding(_) => {
                let used = self.read_requests(now, connections, id, bytes);
                return self.keep_rest(now, current(connections, id), &bytes[used..]);
            }
            State::Connecting(_) | State::Streaming(_) | State::Closing(_) | State::Closed(_) => {
                return self.keep_rest(now, connection, bytes);
            }
        };
        let full = inbox.len() + bytes.len() >= self.settings.head_bytes_max;
        let worth_a_look = full || inbox.len() < EAGER_HEAD_BYTES || memchr::memchr(b'\n', bytes).is_some();
        inbox.extend_from_slice(bytes);
        let used = if worth_a_look { self.read_requests(now, connections, id, &inbox) } else { 0 };
        inbox.drain(..used);
        let connection = current(connections, id);
        match &mut connection.state {
            State::Reading(reading) if !inbox.is_empty() => reading.inbox = inbox,
            State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Streaming(_)
            | State::Closing(_)
            | State::Closed(_) => self.keep_rest(now, connection, &inbox),
        }
    }

    /// Keeps input that is not yet a complete request, or discards it if no more requests are read.
    fn keep_rest(&mut self, now: Millis, connection: &mut Connection, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        match &mut connection.state {
            State::Reading(reading) => reading.inbox = rest.to_vec(),
            State::Answering(answering) if answering.keeps_alive() => answering.rest.extend_from_slice(rest),
            State::Connecting(_) | State::Streaming(_) => {
                if !connection.discard.take(rest.len()) {
                    self.cut_stream(now, connection, EndReason::error(Detail::ExcessInput));
                }
            }
            // Of any size: it is limited by time. Feeds leave no rest.
            State::Answering(_) | State::Feeding(_) | State::Closing(_) | State::Closed(_) => {}
        }
    }

    /// Reads all complete requests; returns the number of bytes consumed.
    fn read_requests(&mut self, now: Millis, connections: &mut Table<Connection>, id: ConnId, input: &[u8]) -> usize {
        let mut at = 0;
        while at < input.len() {
            let connection = current(connections, id);
            let rest = &input[at..];
            let used = match &mut connection.state {
                State::Reading(Reading { body: None, .. }) => self.read_head(now, connections, id, rest),
                State::Reading(Reading { body: Some(body), .. }) => {
                    match body.read(rest, body_bytes_max(&body.purpose, &self.settings)) {
                        Progress::More(used) => Some(used),
                        Progress::Done(used) => {
                            self.finish_body_of_request(now, connections, id, &rest[used..]);
                            Some(used)
                        }
                        Progress::TooLong(used) => {
                            self.refuse_body(now, connections, id);
                            Some(used)
                        }
                        Progress::Malformed => {
                            let cors = body.purpose.cors().clone();
                            self.refuse_malformed(now, connection, "invalid chunk", &cors);
                            None
                        }
                    }
                }
                State::Feeding(_) => Some(self.read_feed(now, connections, id, rest)),
                State::Answering(answering) if answering.reads_ahead() => self.read_ahead(now, connections, id, rest),
                State::Answering(_)
                | State::Connecting(_)
                | State::Streaming(_)
                | State::Closing(_)
                | State::Closed(_) => break,
            };
            match used {
                Some(used) => at += used,
                None => break,
            }
        }
        at
    }

    /// Reads a head, and the body with it if it is complete. `None`: there is no complete head.
    #[inline(always)]
    fn read_head(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        input: &[u8],
    ) -> Option<usize> {
        let connection = current(connections, id);
        let State::Reading(reading) = &mut connection.state else { return None };
        reading.started.get_or_insert(now);
        // A limit that a client can extend byte by byte.
        if planted::is("time-for-a-request-starts-anew") {
            reading.started = Some(now);
        }
        let mut storage = request::storage();
        let head = match request::parse(&mut storage, input, self.settings.head_bytes_max) {
            Ok(head) => head?,
            Err(error) => {
                self.hints.tls(input);
                let cors = routes::cors_of_unread(input, connection.listener, &self.settings);
                self.refuse_head(now, connection, error, &cors);
                return None;
            }
        };
        match routes::route(&head, connection.listener, connection.peer, &self.settings) {
            Route::Stream(cors) if is_longer(head.framing, self.settings.body_bytes_max) => {
                self.refuse_cors(now, connection, Refusal::BodyTooLarge, &cors);
                Some(head.bytes)
            }
            Route::Stream(cors) if head.framing == Framing::Chunked => {
                let mode = StreamMode { chunked: head.version == Version::Http11, cors };
                let purpose = Purpose::Get(Box::new(self.read_get(&head, mode)));
                self.start_body(now, connections, id, &head, purpose, &input[head.bytes..])
            }
            Route::Stream(cors) => {
                let mode = StreamMode { chunked: head.version == Version::Http11, cors };
                self.connect(now, connection, &head, mode);
                Some(head.bytes)
            }
            Route::PostedStream(cors) => {
                let mode = StreamMode { chunked: head.version == Version::Http11, cors };
                let purpose = Purpose::Stream(Box::new(self.read_posted(&head, mode)));
                self.start_body(now, connections, id, &head, purpose, &input[head.bytes..])
            }
            Route::Send => self.start_body(now, connections, id, &head, Purpose::Send, &input[head.bytes..]),
            Route::Feed(request) => {
                self.start_feed(now, connections, id, &head, request);
                Some(head.bytes)
            }
            Route::Groups => self.start_body(now, connections, id, &head, Purpose::Groups, &input[head.bytes..]),
            Route::Answer(reply) => {
                self.hints.refusal(&head, connection.listener, &reply, &self.settings);
                self.start_body(now, connections, id, &head, Purpose::Answer(reply), &input[head.bytes..])
            }
        }
    }

    /// Returns the number of bytes of head and body together.
    fn start_body(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        head: &Head<'_, '_>,
        purpose: Purpose,
        rest: &[u8],
    ) -> Option<usize> {
        let mode = ResponseMode { keep_alive: head.keep_alive, head_only: head.method == "HEAD" };
        let too_long = is_longer(head.framing, body_bytes_max(&purpose, &self.settings));
        if head.framing == Framing::Empty {
            let mode = self.mode_before(mode, rest);
            self.finish_request(now, connections, id, purpose, &[], mode);
            return Some(head.bytes);
        }
        match &purpose {
            purpose if too_long && !purpose.is_refused() => {
                self.refuse_cors(now, current(connections, id), Refusal::BodyTooLarge, purpose.cors());
                return Some(head.bytes);
            }
            // The body is not worth waiting for, or the client waits for permission to send it.
            Purpose::Answer(_)
                if too_long
                    || head.expect == Expect::Continue
                    || unexpected(&purpose)
                    || (purpose.is_refused() && routes::is_feed(head)) =>
            {
                self.finish_request(now, connections, id, purpose, &[], ResponseMode { keep_alive: false, ..mode });
                return Some(head.bytes);
            }
            Purpose::Send | Purpose::Groups | Purpose::Stream(_) | Purpose::Get(_) | Purpose::Answer(_) => {}
        }
        if head.expect == Expect::Continue {
            response::write_continue(self.outbox.bytes(now, &mut current(connections, id).out));
        }
        if let Framing::Length(length) = head.framing
            && let Ok(length) = usize::try_from(length)
            && let Some((body, rest)) = rest.split_at_checked(length)
        {
            let mode = self.mode_before(mode, rest);
            self.finish_request(now, connections, id, purpose, body, mode);
            return Some(head.bytes + length);
        }
        if let State::Reading(reading) = &mut current(connections, id).state {
            reading.body = Some(Box::new(Body::new(purpose, mode, Remaining::of(head.framing))));
        }
        Some(head.bytes)
    }

    /// The current body is complete; `rest` is the input after it.
    fn finish_body_of_request(&mut self, now: Millis, connections: &mut Table<Connection>, id: ConnId, rest: &[u8]) {
        if let State::Reading(reading) = &mut current(connections, id).state
            && let Some(body) = reading.body.take()
        {
            let Body { purpose, mode, bytes, .. } = *body;
            let mode = self.mode_before(mode, rest);
            self.finish_request(now, connections, id, purpose, &bytes, mode);
        }
    }

    /// The current body is too long.
    fn refuse_body(&mut self, now: Millis, connections: &mut Table<Connection>, id: ConnId) {
        let connection = current(connections, id);
        let State::Reading(reading) = &mut connection.state else { return };
        match &mut reading.body {
            Some(body) if body.purpose.is_refused() => {
                body.mode.keep_alive = false;
                self.finish_body_of_request(now, connections, id, &[]);
            }
            Some(body) => {
                let cors = body.purpose.cors().clone();
                self.refuse_cors(now, connection, Refusal::BodyTooLarge, &cors);
            }
            None => {}
        }
    }

    /// Answers a complete request.
    fn finish_request(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        purpose: Purpose,
        body: &[u8],
        mode: ResponseMode,
    ) {
        let keep_alive = match purpose {
            Purpose::Send => {
                let result = self.send(now, connections, body);
                if let SendResult::Asked(asked) = result {
                    let ticket = Self::owe_answer(current(connections, id), mode, true);
                    return self.owe_send(now, ticket, asked, body);
                }
                self.answer_send(now, current(connections, id), result, mode);
                mode.keep_alive
            }
            Purpose::Groups => {
                let asker = Asker::Client(Ticket::new(id));
                let result = self.change_groups(now, connections, body, asker);
                if result == MembershipResult::Asked {
                    Self::owe_answer(current(connections, id), mode, false);
                    return;
                }
                self.answer(now, current(connections, id), &Answer::membership(result), mode);
                mode.keep_alive
            }
            Purpose::Stream(stream) => return self.connect_posted(now, current(connections, id), *stream, body),
            Purpose::Get(stream) => return self.connect_read(now, current(connections, id), *stream, None),
            // Reports can be a megabyte, so each is the last answer on its connection.
            Purpose::Answer(Reply::Metrics) => {
                let mode = ResponseMode { keep_alive: false, ..mode };
                let ticket = Self::owe_answer(current(connections, id), mode, false);
                return self.outbox.act(Action::Report(ticket));
            }
            Purpose::Answer(Reply::Connections(page)) => {
                let mode = ResponseMode { keep_alive: false, ..mode };
                let ticket = Self::owe_answer(current(connections, id), mode, false);
                self.listings.push_back((ticket, Listing::new(page)));
                return self.outbox.act(Action::List);
            }
            Purpose::Answer(Reply::Cursor) if self.is_linked() && self.hub.groups.has_history() => {
                let ticket = Self::owe_answer(current(connections, id), mode, false);
                return self.ask_for_cursor(now, ticket);
            }
            Purpose::Answer(Reply::Group(name)) if self.engine.link.is_some() => {
                let ticket = Self::owe_answer(current(connections, id), mode, false);
                return self.ask_for_group(now, ticket, name);
            }
            Purpose::Answer(reply) => {
                self.reply(now, current(connections, id), &reply, mode);
                mode.keep_alive
            }
        };
        let connection = current(connections, id);
        match &mut connection.state {
            State::Reading(reading) if keep_alive => reading.started = None,
            State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Streaming(_)
            | State::Closing(_)
            | State::Closed(_) => self.start_closing(connection),
        }
    }

    /// Reads a further send although the answers to earlier ones are due, if Redis puts it behind them. `None`: it waits
    /// until these are written.
    fn read_ahead(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        input: &[u8],
    ) -> Option<usize> {
        let connection = current(connections, id);
        let mut storage = request::storage();
        let head = request::parse(&mut storage, input, self.settings.head_bytes_max).ok()??;
        let route = routes::route(&head, connection.listener, connection.peer, &self.settings);
        let Framing::Length(length) = head.framing else { return None };
        if route != Route::Send || head.expect != Expect::Nothing || length > self.settings.body_bytes_max as u64 {
            return None;
        }
        let (body, rest) = input.get(head.bytes..)?.split_at_checked(usize::try_from(length).ok()?)?;
        let asked = self.send_behind(now, connections, body)?;
        let mode = self.mode_before(ResponseMode { keep_alive: head.keep_alive, head_only: false }, rest);
        let State::Answering(answering) = &mut current(connections, id).state else { return None };
        let number = answering.add_send(mode);
        self.owe_send(now, Ticket::further(id, number), asked, body);
        Some(head.bytes + body.len())
    }

    /// Writes a deferred answer, the only one that is due, and continues reading after its request.
    pub(super) fn answer_owed(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        ticket: Ticket,
        answer: &Answer<'_>,
    ) {
        let id = ticket.connection();
        let Some(connection) = connections.get_mut(id) else { return };
        let unfinished = connection.unfinished_bytes();
        self.answer_last(now, connections, id, answer);
        self.settle(now, connections, id);
        self.recount(connections, id, unfinished);
    }

    /// A send has its result: writes its answer once all before it are written.
    pub(super) fn answer_owed_send(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        ticket: Ticket,
        result: SendResult,
    ) {
        self.stats.send(result);
        let id = ticket.connection();
        let Some(connection) = connections.get_mut(id) else { return };
        let unfinished = connection.unfinished_bytes();
        let State::Answering(answering) = &mut connection.state else { return };
        answering.set_result(ticket.number(), result);
        while let State::Answering(answering) = &mut connection.state
            && let Some((mode, result)) = answering.next_but_last()
        {
            self.answer(now, connection, &Answer::send(result), mode);
        }
        if let State::Answering(answering) = &connection.state
            && let Some((_, Some(result))) = answering.last()
        {
            self.answer_last(now, connections, id, &Answer::send(result));
        }
        self.settle(now, connections, id);
        self.recount(connections, id, unfinished);
    }

    /// Writes the last answer that is due, and continues reading after its request.
    fn answer_last(&mut self, now: Millis, connections: &mut Table<Connection>, id: ConnId, answer: &Answer<'_>) {
        let connection = current(connections, id);
        let State::Answering(answering) = &mut connection.state else { return };
        let Some((mode, _)) = answering.last() else { return };
        let rest = std::mem::take(&mut answering.rest);
        let is_over = connection.input == Input::Ended || self.shutdown.is_draining();
        let keep_alive = mode.keep_alive && !(is_over && rest.is_empty());
        self.answer(now, connection, answer, ResponseMode { keep_alive, ..mode });
        if !keep_alive {
            return self.start_closing(connection);
        }
        connection.state = State::Reading(Reading::default());
        self.read_input(now, connections, id, &rest);
        let connection = current(connections, id);
        match &connection.state {
            State::Reading(reading) if is_over && reading.has_begun() && connection.input != Input::Ended => {
                self.refuse(now, connection, Refusal::ShuttingDown);
            }
            State::Reading(_) if is_over => self.start_closing(connection),
            State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Streaming(_)
            | State::Closing(_)
            | State::Closed(_) => {}
        }
    }

    /// Continues the pages of the list of streams that take more than a turn.
    pub(super) fn advance_listings(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        in_kernel: impl Fn(ConnId) -> usize,
    ) {
        let Some((ticket, mut listing)) = self.listings.pop_front() else { return };
        let (instance, groups) = (&self.settings.instance, &self.hub.groups);
        let heading = Heading { instance, streams: self.stats.streams_open, groups };
        match listing.advance(connections, &heading, in_kernel) {
            Some(answer) => self.answer_owed(now, connections, ticket, &answer),
            None => self.listings.push_back((ticket, listing)),
        }
    }

    fn refuse_head(&mut self, now: Millis, connection: &mut Connection, error: HeadError, cors: &CorsHeaders) {
        match error {
            HeadError::Malformed(what) => self.refuse_malformed(now, connection, what, cors),
            HeadError::TooLarge => self.refuse_cors(now, connection, Refusal::HeadTooLarge, cors),
            HeadError::Version => self.refuse_cors(now, connection, Refusal::Version, cors),
            HeadError::TransferCoding => self.refuse_cors(now, connection, Refusal::TransferCoding, cors),
        }
    }

    fn refuse_malformed(&mut self, now: Millis, connection: &mut Connection, what: &str, cors: &CorsHeaders) {
        self.stats.refuse(Refusal::Malformed);
        let answer = Answer::detailed_refusal(Refusal::Malformed, what).with_cors(cors);
        self.answer(now, connection, &answer, ResponseMode::LAST);
        self.start_closing(connection);
    }
}

/// The longest body of a request for that purpose.
fn body_bytes_max(purpose: &Purpose, settings: &Settings) -> usize {
    match purpose {
        Purpose::Stream(_) => settings.stream_body_bytes_max,
        Purpose::Send | Purpose::Groups | Purpose::Get(_) | Purpose::Answer(_) => settings.body_bytes_max,
    }
}

/// Whether a body is declared to be longer than that.
fn is_longer(framing: Framing, bytes_max: usize) -> bool {
    matches!(framing, Framing::Length(length) if length > bytes_max as u64)
}

/// The client of a refused expectation may never send its body.
fn unexpected(purpose: &Purpose) -> bool {
    matches!(purpose, Purpose::Answer(Reply::Refused(Refusal::Expectation, _)))
}
