//! Requests: bytes of a connection to heads, bodies and answers.

use super::connection::{Answering, Body, Closing, Purpose, Reading, Remaining, State};
use super::routes::{self, Reply, Route};
use super::stats::{Refusal, SendResult};
use super::streams::SendAnswer;
use super::{Action, ConnId, Gateway, Ticket};
use crate::clock::Millis;
use crate::http::body::Chunked;
use crate::http::request::{self, Expect, Framing, Head, HeadError};
use crate::http::response::{self, CorsHeaders, Date, Response};

/// A head that is this long is looked at again only when another line of it has come: a client that
/// drips bytes must not make each of them cost a parse of all.
const EAGER_HEAD_BYTES: usize = 1024;

/// What the answers to one request have in common.
#[derive(Clone, Copy)]
pub(super) struct ResponseMode {
    pub keep_alive: bool,
    pub head_only: bool,
}

impl ResponseMode {
    /// An answer with its body, after which the connection closes.
    pub const LAST: ResponseMode = ResponseMode { keep_alive: false, head_only: false };
}

/// The body of the answer to a send that was delivered.
const DELIVERED: &[u8] = br#"{"status":"ok"}"#;

/// The answer to a send that was delivered, on a connection that goes on.
pub(super) fn delivered(date: &Date) -> Vec<u8> {
    let mut out = Vec::new();
    let response = Response {
        status: 200,
        content_type: response::JSON,
        body: DELIVERED,
        fields: &[],
        cors: &CorsHeaders::Off,
        close: false,
        head_only: false,
    };
    response::write(&mut out, date, &response);
    out
}

impl Gateway {
    /// Input for a connection that is reading requests.
    pub(super) fn read_input(&mut self, now: Millis, id: ConnId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let State::Reading(reading) = &mut connection.state else { return };
        if reading.inbox.is_empty() {
            let used = self.read_requests(now, id, bytes);
            self.keep_rest(id, &bytes[used..]);
            return;
        }
        let mut inbox = std::mem::take(&mut reading.inbox);
        let full = inbox.len() + bytes.len() >= self.settings.head_bytes_max;
        let worth_a_look = full || inbox.len() < EAGER_HEAD_BYTES || memchr::memchr(b'\n', bytes).is_some();
        inbox.extend_from_slice(bytes);
        let used = if worth_a_look { self.read_requests(now, id, &inbox) } else { 0 };
        inbox.drain(..used);
        let rest = inbox.len();
        if let Some(State::Reading(reading)) = self.connections.get_mut(id).map(|connection| &mut connection.state) {
            reading.inbox = if rest == 0 { Vec::new() } else { inbox };
        } else {
            self.keep_rest(id, &inbox);
        }
    }

    /// Keeps the input that no request has been made of, or discards it where none will be.
    pub(super) fn keep_rest(&mut self, id: ConnId, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        match self.connections.get_mut(id).map(|connection| &mut connection.state) {
            Some(State::Reading(reading)) => reading.inbox = rest.to_vec(),
            Some(State::Answering(answering)) if answering.mode.keep_alive => answering.rest.extend_from_slice(rest),
            Some(State::Answering(_) | State::Connecting(_) | State::Streaming(_) | State::Closing(_)) => {
                self.discard(id, rest.len())
            }
            None => {}
        }
    }

    /// Lets the connection owe the answer to the request in hand.
    fn owe_answer(&mut self, id: ConnId, mode: ResponseMode) -> Ticket {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.state = State::Answering(Box::new(Answering { mode, rest: Vec::new() }));
        }
        Ticket(id)
    }

    /// Writes an answer that was owed, and reads on behind its request.
    pub(super) fn answer_ticket(
        &mut self,
        now: Millis,
        Ticket(id): Ticket,
        write: impl FnOnce(&Date, ResponseMode, &mut Vec<u8>),
    ) {
        let is_draining = self.is_draining();
        let Some(connection) = self.connections.get_mut(id) else { return };
        let State::Answering(answering) = &mut connection.state else { return };
        let Answering { mode, rest } =
            std::mem::replace(&mut **answering, Answering { mode: ResponseMode::LAST, rest: Vec::new() });
        let keep_alive = mode.keep_alive && !connection.read_closed && !is_draining;
        write(&self.date, ResponseMode { keep_alive, ..mode }, self.outbox.bytes(now, &mut connection.out));
        if keep_alive {
            connection.state = State::Reading(Reading::default());
            self.read_input(now, id, &rest);
        } else {
            self.start_closing(id);
        }
        self.settle(now, id);
    }

    /// Reads as many requests as there are; returns how many bytes they took.
    fn read_requests(&mut self, now: Millis, id: ConnId, input: &[u8]) -> usize {
        let mut at = 0;
        while at < input.len() {
            let Some(connection) = self.connections.get_mut(id) else { break };
            let State::Reading(reading) = &mut connection.state else { break };
            let rest = &input[at..];
            let used = match reading.body {
                Some(_) => self.read_body(now, id, rest),
                None => self.read_head(now, id, rest),
            };
            match used {
                Some(used) => at += used,
                None => break,
            }
        }
        at
    }

    /// Reads a head, and the body with it if all of it is there. `None`: there is no complete head.
    fn read_head(&mut self, now: Millis, id: ConnId, input: &[u8]) -> Option<usize> {
        let connection = self.connections.get_mut(id)?;
        let State::Reading(reading) = &mut connection.state else { return None };
        reading.started.get_or_insert(now);
        let mut storage = request::storage();
        let head = match request::parse(&mut storage, input, self.settings.head_bytes_max) {
            Ok(head) => head?,
            Err(error) => {
                self.hint_at_tls(input);
                self.refuse_head(now, id, error);
                return None;
            }
        };
        let (listener, peer) = (connection.listener, connection.peer);
        match routes::route(&head, listener, peer, &self.settings) {
            Route::Stream(cors) => {
                self.connect(now, id, &head, cors);
                Some(head.bytes)
            }
            Route::Send => self.start_body(now, id, &head, Purpose::Send, &input[head.bytes..]),
            Route::Answer(reply) => {
                self.hint_at_refusal(&head, listener, &reply);
                self.start_body(now, id, &head, Purpose::Answer(reply), &input[head.bytes..])
            }
        }
    }

    /// Returns how many bytes head and body took together.
    fn start_body(
        &mut self,
        now: Millis,
        id: ConnId,
        head: &Head<'_, '_>,
        purpose: Purpose,
        rest: &[u8],
    ) -> Option<usize> {
        let mode = ResponseMode { keep_alive: head.keep_alive, head_only: head.method == "HEAD" };
        let too_long = matches!(head.framing, Framing::Length(length) if length > self.settings.body_bytes_max as u64);
        let remaining = match head.framing {
            Framing::Empty => {
                self.finish_request(now, id, purpose, &[], mode);
                return Some(head.bytes);
            }
            Framing::Length(length) => Remaining::Length(length),
            Framing::Chunked => Remaining::Chunked(Chunked::default()),
        };
        match &purpose {
            Purpose::Send if too_long => {
                self.refuse(now, id, Refusal::BodyTooLarge);
                return Some(head.bytes);
            }
            // The body is not worth waiting for, or the client waits to be told whether to send it.
            Purpose::Answer(_) if too_long || head.expect == Expect::Continue || unexpected(&purpose) => {
                self.finish_request(now, id, purpose, &[], ResponseMode { keep_alive: false, ..mode });
                return Some(head.bytes);
            }
            Purpose::Send | Purpose::Answer(_) => {}
        }
        if head.expect == Expect::Continue {
            response::write_continue(self.output(now, id)?);
        }
        if let Framing::Length(length) = head.framing
            && let Ok(length) = usize::try_from(length)
            && let Some(body) = rest.get(..length)
        {
            self.finish_request(now, id, purpose, body, mode);
            return Some(head.bytes + length);
        }
        if let Some(connection) = self.connections.get_mut(id)
            && let State::Reading(reading) = &mut connection.state
        {
            let body = Body { purpose, mode, remaining, taken: 0, bytes: Vec::new() };
            reading.body = Some(Box::new(body));
        }
        Some(head.bytes)
    }

    /// Reads on in a body; returns how many bytes it took.
    fn read_body(&mut self, now: Millis, id: ConnId, input: &[u8]) -> Option<usize> {
        let connection = self.connections.get_mut(id)?;
        let State::Reading(reading) = &mut connection.state else { return None };
        let body = reading.body.as_deref_mut()?;
        let keep = matches!(body.purpose, Purpose::Send);
        let (bytes, taken) = (&mut body.bytes, &mut body.taken);
        let (used, done) = match &mut body.remaining {
            Remaining::Length(left) => {
                let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                if keep {
                    bytes.extend_from_slice(&input[..count]);
                }
                *left -= count as u64;
                (count, *left == 0)
            }
            Remaining::Chunked(decoder) => {
                let append = |data: &[u8]| {
                    *taken += data.len() as u64;
                    if keep {
                        bytes.extend_from_slice(data);
                    }
                };
                let Ok(used) = decoder.decode(input, append) else {
                    self.refuse_malformed(now, id, "invalid chunk");
                    return None;
                };
                if decoder.announced().saturating_add(*taken) > self.settings.body_bytes_max as u64 {
                    self.refuse_body(now, id);
                    return Some(used);
                }
                (used, decoder.is_done())
            }
        };
        if done && let Some(body) = reading.body.take() {
            let Body { purpose, mode, remaining: _, taken: _, bytes } = *body;
            self.finish_request(now, id, purpose, &bytes, mode);
        }
        Some(used)
    }

    /// The body in hand is longer than bodies may be.
    fn refuse_body(&mut self, now: Millis, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let State::Reading(reading) = &mut connection.state else { return };
        match reading.body.take().map(|body| *body) {
            Some(Body { purpose: purpose @ Purpose::Answer(_), mode, .. }) => {
                self.finish_request(now, id, purpose, &[], ResponseMode { keep_alive: false, ..mode });
            }
            Some(Body { purpose: Purpose::Send, .. }) | None => self.refuse(now, id, Refusal::BodyTooLarge),
        }
    }

    /// A request is there, with all of its body: answers it.
    fn finish_request(&mut self, now: Millis, id: ConnId, purpose: Purpose, body: &[u8], mode: ResponseMode) {
        if let Some(connection) = self.connections.get_mut(id)
            && let State::Reading(reading) = &mut connection.state
        {
            reading.started = None;
        }
        // A list is long, and takes a while to write: one for each connection.
        let is_list = matches!(purpose, Purpose::Answer(Reply::Connections(_) | Reply::Metrics));
        let mode = ResponseMode { keep_alive: mode.keep_alive && !is_list, ..mode };
        match purpose {
            Purpose::Send => {
                let answer = self.send(now, body);
                self.write_send_answer(now, id, answer, mode);
            }
            Purpose::Answer(reply) => self.write_reply(now, id, &reply, mode),
        }
        if !mode.keep_alive && !self.owes_answer(id) {
            self.start_closing(id);
        }
    }

    fn owes_answer(&self, id: ConnId) -> bool {
        self.connections.get(id).is_some_and(|connection| matches!(connection.state, State::Answering(_)))
    }

    fn write_send_answer(&mut self, now: Millis, id: ConnId, answer: SendAnswer, mode: ResponseMode) {
        self.stats.send(match answer {
            SendAnswer::Ok => SendResult::Ok,
            SendAnswer::Buffered => SendResult::Buffered,
            SendAnswer::Invalid(_) => SendResult::Invalid,
            SendAnswer::NotFound => SendResult::NotFound,
            SendAnswer::Failed => SendResult::Failed,
        });
        match answer {
            SendAnswer::Ok if mode.keep_alive => {
                if let Some(connection) = self.connections.get_mut(id) {
                    self.outbox.bytes(now, &mut connection.out).extend_from_slice(&self.ok);
                }
            }
            SendAnswer::Ok => self.respond(now, id, 200, DELIVERED, &[], &CorsHeaders::Off, mode),
            SendAnswer::Buffered => {
                self.respond(now, id, 200, br#"{"status":"buffered"}"#, &[], &CorsHeaders::Off, mode)
            }
            SendAnswer::Invalid(error) => {
                self.hint_at_invalid_send(error);
                self.respond_error(now, id, 400, error.message(), &[], &CorsHeaders::Off, mode);
            }
            SendAnswer::NotFound => self.respond_error(now, id, 404, "Token not found", &[], &CorsHeaders::Off, mode),
            SendAnswer::Failed => {
                self.respond_error(now, id, 500, "Write failed: connection closed", &[], &CorsHeaders::Off, mode);
            }
        }
    }

    fn write_reply(&mut self, now: Millis, id: ConnId, reply: &Reply, mode: ResponseMode) {
        match reply {
            Reply::Healthz => self.respond(now, id, 200, br#"{"status":"ok"}"#, &[], &CorsHeaders::Off, mode),
            Reply::Readyz => {
                let (status, body): (u16, &[u8]) = match (self.settings.callback_configured, self.is_leaving()) {
                    (false, _) => (503, br#"{"status":"not_ready","configured":false}"#),
                    (true, true) => (503, br#"{"status":"not_ready","configured":true}"#),
                    (true, false) => (200, br#"{"status":"ready","configured":true}"#),
                };
                self.respond(now, id, status, body, &[], &CorsHeaders::Off, mode);
            }
            Reply::Options(allow, cors) => {
                self.respond(now, id, 204, b"", &[("Allow", allow.as_bytes())], cors, mode);
            }
            Reply::Preflight(cors) => {
                let fields: &[(&str, &[u8])] = match cors {
                    CorsHeaders::Off | CorsHeaders::Denied => &[],
                    CorsHeaders::Any | CorsHeaders::Origin(_) => &[
                        ("Access-Control-Allow-Methods", b"GET"),
                        ("Access-Control-Allow-Headers", b"Authorization, Cache-Control, Content-Type, Last-Event-ID"),
                        ("Access-Control-Max-Age", b"86400"),
                    ],
                };
                self.respond(now, id, 204, b"", fields, cors, mode);
            }
            Reply::Metrics => {
                let ticket = self.owe_answer(id, mode);
                self.outbox.act(Action::Report(ticket));
            }
            Reply::Connections(page) => self.write_connections(now, id, *page, mode),
            Reply::Refused(refusal, cors) => {
                let fields: &[(&str, &[u8])] = match refusal {
                    Refusal::Unauthorized => &[("WWW-Authenticate", b"Bearer")],
                    _ => &[],
                };
                self.respond_refusal(now, id, *refusal, refusal.message(), fields, cors, mode);
            }
            Reply::MethodNotAllowed(allow, cors) => {
                let fields = [("Allow", allow.as_bytes())];
                self.respond_refusal(now, id, Refusal::Method, Refusal::Method.message(), &fields, cors, mode);
            }
            Reply::BadParameter(what) => {
                let error = format!("Invalid request: {what}");
                self.respond_refusal(now, id, Refusal::Parameter, &error, &[], &CorsHeaders::Off, mode);
            }
        }
    }

    fn refuse_head(&mut self, now: Millis, id: ConnId, error: HeadError) {
        match error {
            HeadError::Malformed(what) => self.refuse_malformed(now, id, what),
            HeadError::TooLarge => self.refuse(now, id, Refusal::HeadTooLarge),
            HeadError::Version => self.refuse(now, id, Refusal::Version),
            HeadError::TransferCoding => self.refuse(now, id, Refusal::TransferCoding),
        }
    }

    fn refuse_malformed(&mut self, now: Millis, id: ConnId, what: &str) {
        let error = format!("{}: {what}", Refusal::Malformed.message());
        self.respond_refusal(now, id, Refusal::Malformed, &error, &[], &CorsHeaders::Off, ResponseMode::LAST);
        self.start_closing(id);
    }

    /// An answer after which nothing of the connection's input can be trusted.
    pub(super) fn refuse(&mut self, now: Millis, id: ConnId, refusal: Refusal) {
        self.hint_at_limit(refusal);
        self.respond_refusal(now, id, refusal, refusal.message(), &[], &CorsHeaders::Off, ResponseMode::LAST);
        self.start_closing(id);
    }

    #[allow(clippy::too_many_arguments, reason = "each is one part of the response")]
    fn respond_refusal(
        &mut self,
        now: Millis,
        id: ConnId,
        refusal: Refusal,
        error: &str,
        fields: &[(&str, &[u8])],
        cors: &CorsHeaders,
        mode: ResponseMode,
    ) {
        self.stats.refuse(refusal);
        self.respond_error(now, id, refusal.status(), error, fields, cors, mode);
    }

    #[allow(clippy::too_many_arguments, reason = "each is one part of the response")]
    pub(super) fn respond_error(
        &mut self,
        now: Millis,
        id: ConnId,
        status: u16,
        error: &str,
        fields: &[(&str, &[u8])],
        cors: &CorsHeaders,
        mode: ResponseMode,
    ) {
        // All of our messages are plain text without quotes.
        let body = format!(r#"{{"error":"{error}"}}"#);
        self.respond(now, id, status, body.as_bytes(), fields, cors, mode);
    }

    #[allow(clippy::too_many_arguments, reason = "each is one part of the response")]
    pub(super) fn respond(
        &mut self,
        now: Millis,
        id: ConnId,
        status: u16,
        body: &[u8],
        fields: &[(&str, &[u8])],
        cors: &CorsHeaders,
        mode: ResponseMode,
    ) {
        let date = self.date;
        let Some(out) = self.output(now, id) else { return };
        let ResponseMode { keep_alive, head_only } = mode;
        let response =
            Response { status, content_type: response::JSON, body, fields, cors, close: !keep_alive, head_only };
        response::write(out, &date, &response);
    }

    /// The last answer is written: no more requests are read. Most clients write a request to its end before they read,
    /// so what still comes is discarded however much it is; time is what bounds it.
    pub(super) fn start_closing(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.state = State::Closing(Closing { shut: false });
        self.mark_dirty(id);
    }
}

/// A request whose expectation is refused may never send its body.
fn unexpected(purpose: &Purpose) -> bool {
    matches!(purpose, Purpose::Answer(Reply::Refused(Refusal::Expectation, _)))
}
