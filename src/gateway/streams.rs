//! Streams: asking the backend, opening, sending, ending.

use super::calls::{EndReason, LaneName, Pending, PendingConnect, PendingDisconnect};
use super::connection::{Closing, Connecting, DiscardBudget, State, Streaming};
use super::requests::ResponseMode;
use super::stats::ConnectResult;
use super::{Action, CloseMode, ConnId, ConnectFailure, Gateway, tokens};
use crate::callback::{self, CallId, Detail, Outcome, PassedHeader, Reason, Request, RequestParts};
use crate::clock::Millis;
use crate::http::request::{Framing, Head, Version};
use crate::http::response::{self, CorsHeaders};
use crate::send::{self, SendError};
use crate::sse;
use log::{debug, info, warn};
use std::borrow::Cow;
use std::time::Duration;
use uuid::Uuid;

/// What a client may send behind its GET; enough for a stray CRLF or a pipelined request.
const INPUT_AFTER_GET_BYTES: u64 = 8 * 1024;

/// How much longer than its timeout a callback may take before the gateway stops waiting for the
/// worker to say so: lookups and scheduling are not exact.
const CALLBACK_GRACE: Duration = Duration::from_secs(1);

/// `retry` of a stream that failed to open, if `RECONNECT_DELAY_MILLISECONDS` says nothing; what
/// browsers use by default.
const RETRY_DEFAULT_MS: u32 = 3000;

/// `Retry-After` of "Too many streams", in seconds.
const RETRY_AFTER_SECONDS: &[u8] = b"5";

/// Disconnects may wait in this number even where very few streams are allowed.
const DISCONNECTS_WAITING_MIN: usize = 1024;

/// What became of a send; one variant per kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendAnswer {
    Ok,
    Buffered,
    Invalid(SendError),
    NotFound,
    /// The stream has more unsent bytes than it may; it ends.
    Failed,
}

/// Why a connect came to nothing although nobody rejected it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    NotConfigured,
    Unavailable,
    TimedOut,
    /// No worker was free in time.
    QueueTimedOut,
    TooManyStreams,
    ShuttingDown,
    Overflow,
}

impl Failure {
    fn status_and_message(self) -> (u16, &'static str) {
        match self {
            Failure::NotConfigured => (503, "Service not configured"),
            Failure::Unavailable => (503, "Backend unavailable"),
            Failure::TimedOut | Failure::QueueTimedOut => (504, "Gateway timeout"),
            Failure::TooManyStreams => (503, "Too many streams"),
            Failure::ShuttingDown => (503, "Shutting down"),
            Failure::Overflow => (503, "Too much was sent before the stream opened"),
        }
    }

    fn result(self) -> ConnectResult {
        match self {
            Failure::NotConfigured => ConnectResult::NotConfigured,
            Failure::Unavailable => ConnectResult::Unavailable,
            Failure::TimedOut => ConnectResult::Timeout,
            Failure::QueueTimedOut => ConnectResult::QueueTimeout,
            Failure::TooManyStreams => ConnectResult::TooManyStreams,
            Failure::ShuttingDown => ConnectResult::ShuttingDown,
            Failure::Overflow => ConnectResult::Overflow,
        }
    }
}

impl Gateway {
    /// A GET for a stream: asks the backend.
    pub(super) fn connect(&mut self, now: Millis, id: ConnId, head: &Head<'_, '_>, cors: CorsHeaders) {
        let chunked = head.version == Version::Http11;
        self.hint_at_cors(head, &cors);
        if !self.settings.callback_configured {
            return self.fail_connect_by_status(now, id, &cors, Failure::NotConfigured);
        }
        if self.is_draining() {
            return self.fail_connect(now, id, chunked, &cors, Failure::ShuttingDown);
        }
        if self.is_full() {
            self.hint_at_streams_max();
            return self.fail_connect(now, id, chunked, &cors, Failure::TooManyStreams);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let request = Request::encode(&mut self.scratch, &RequestParts { url: head.target, headers: head.headers });
        let token = connection.token;
        let call = self.calls.queue_connect(PendingConnect { token, request, owner: Ok(id) });
        let declared = match head.framing {
            Framing::Empty | Framing::Chunked => 0,
            Framing::Length(length) => length,
        };
        connection.state = State::Connecting(Box::new(Connecting {
            call,
            chunked,
            cors,
            held: Vec::new(),
            held_events: 0,
            held_close: false,
            answer_by: now.after(self.settings.connect_queue),
        }));
        connection.discard = DiscardBudget::new(declared.saturating_add(INPUT_AFTER_GET_BYTES));
        debug_assert!(self.tokens.get(token, &self.connections).is_none(), "122 random bits do not collide");
        self.tokens.insert(token, id);
        self.start_calls(now);
    }

    /// One more stream would be too many, or its disconnect could not be queued: losing that would
    /// be worse than turning a client away.
    fn is_full(&self) -> bool {
        let max = self.settings.streams_max;
        self.tokens.len() >= max || self.calls.disconnects_waiting() >= max.max(DISCONNECTS_WAITING_MIN)
    }

    /// Hands over the callbacks that may start.
    pub(super) fn start_calls(&mut self, now: Millis) {
        while let Some((call, owner)) = self.calls.start_next(now) {
            if let Some(owner) = owner
                && let Some(connection) = self.connections.get_mut(owner)
                && let State::Connecting(connecting) = &mut connection.state
            {
                connecting.answer_by = now.after(self.settings.callback_timeout).after(CALLBACK_GRACE);
                self.reschedule(now, owner);
            }
            self.outbox.act(Action::Call(call));
        }
    }

    /// A callback ended.
    pub fn answer(&mut self, now: Millis, call: CallId, outcome: Outcome) {
        match self.calls.finish(now, call) {
            None => {}
            Some((Pending::Connect(connect), took)) => {
                self.stats.call_ended(LaneName::Connects, &outcome, took);
                self.connect_answered(now, connect, outcome);
            }
            Some((Pending::Disconnect(disconnect), took)) => {
                self.stats.call_ended(LaneName::Disconnects, &outcome, took);
                disconnect_answered(&disconnect, &outcome);
            }
        }
        self.start_calls(now);
    }

    fn connect_answered(&mut self, now: Millis, connect: PendingConnect, outcome: Outcome) {
        let PendingConnect { token, request, owner } = connect;
        let (failure, detail, written) = match outcome {
            Outcome::Answered { status: 200..=299, passed: _, body } => {
                match owner {
                    Ok(id) => self.open(now, id, request, body.as_deref()),
                    Err(ending) => self.queue_disconnect(token, request, ending),
                }
                return;
            }
            Outcome::Answered { status, passed, body: _ } => {
                match self.rejection_hint(status) {
                    Some(hint) => warn!(token = token.to_string(), status, hint; "connect rejected"),
                    None => debug!(token = token.to_string(), status; "connect rejected"),
                }
                if let Ok(id) = owner {
                    self.reject(now, id, status, &passed);
                }
                return;
            }
            Outcome::Unavailable { written } => (Failure::Unavailable, Detail::ConnectBroken, written),
            Outcome::TimedOut { written } => (Failure::TimedOut, Detail::ConnectTimeout, written),
        };
        if let Ok(id) = owner
            && let Some(connecting) = self.take_connecting(id)
        {
            self.fail_connect(now, id, connecting.chunked, &connecting.cors, failure);
        }
        if written {
            // The backend may have accepted what it could not tell us.
            self.queue_disconnect(token, request, EndReason { reason: Reason::Error, detail: Some(detail) });
        }
    }

    /// Takes a connection out of its wait, whatever comes next.
    fn take_connecting(&mut self, id: ConnId) -> Option<Box<Connecting>> {
        let connection = self.connections.get_mut(id)?;
        let closing = State::Closing(Closing { shut: false });
        match std::mem::replace(&mut connection.state, closing) {
            State::Connecting(connecting) => {
                self.tokens.remove(connection.token, id);
                Some(connecting)
            }
            other => {
                connection.state = other;
                None
            }
        }
    }

    fn reject(&mut self, now: Millis, id: ConnId, status: u16, passed: &[(PassedHeader, Vec<u8>)]) {
        let Some(connecting) = self.take_connecting(id) else { return };
        self.stats.connect(ConnectResult::Rejected);
        if self.settings.connect_failure == ConnectFailure::Retry && matches!(status, 500 | 502 | 503 | 504) {
            return self.write_retry_stream(now, id, connecting.chunked, &connecting.cors);
        }
        let fields: Vec<(&str, &[u8])> = passed
            .iter()
            .map(|(header, value)| match header {
                PassedHeader::RetryAfter => ("Retry-After", &value[..]),
                PassedHeader::WwwAuthenticate => ("WWW-Authenticate", &value[..]),
            })
            .collect();
        let error = format!("Backend returned {status}");
        self.respond_error(now, id, status, &error, &fields, &connecting.cors, ResponseMode::LAST);
        self.start_closing(id);
    }

    fn fail_connect(&mut self, now: Millis, id: ConnId, chunked: bool, cors: &CorsHeaders, failure: Failure) {
        match self.settings.connect_failure {
            ConnectFailure::Status => self.fail_connect_by_status(now, id, cors, failure),
            ConnectFailure::Retry => {
                self.stats.connect(failure.result());
                self.write_retry_stream(now, id, chunked, cors);
            }
        }
    }

    fn fail_connect_by_status(&mut self, now: Millis, id: ConnId, cors: &CorsHeaders, failure: Failure) {
        self.stats.connect(failure.result());
        let (status, message) = failure.status_and_message();
        let fields: &[(&str, &[u8])] = match failure {
            Failure::TooManyStreams => &[("Retry-After", RETRY_AFTER_SECONDS)],
            Failure::NotConfigured
            | Failure::Unavailable
            | Failure::TimedOut
            | Failure::QueueTimedOut
            | Failure::ShuttingDown
            | Failure::Overflow => &[],
        };
        self.respond_error(now, id, status, message, fields, cors, ResponseMode::LAST);
        self.start_closing(id);
    }

    /// A 200 event stream that carries only `retry:` and ends: `EventSource` gives up for good on any other status.
    fn write_retry_stream(&mut self, now: Millis, id: ConnId, chunked: bool, cors: &CorsHeaders) {
        let delay = self.jittered(self.settings.reconnect_delay_ms.unwrap_or(RETRY_DEFAULT_MS));
        self.write_stream_head(now, id, chunked, cors);
        self.write_frames(now, id, |out| sse::write_retry(out, delay));
        self.finish_body(now, id);
    }

    /// The backend accepted: opens the stream, with everything that is known already in one write.
    fn open(&mut self, now: Millis, id: ConnId, request: Request, body: Option<&[u8]>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let token = connection.token;
        let State::Connecting(connecting) = &mut connection.state else { return };
        let Connecting { chunked, cors, held, held_events, held_close, .. } = &mut **connecting;
        let (chunked, cors) = (*chunked, std::mem::take(cors));
        let (held, held_events, held_close) = (std::mem::take(held), *held_events, *held_close);
        self.stats.connect(ConnectResult::Accepted);
        self.stats.streams_open += 1;
        info!(token = token.to_string(), url = self.shown_url(&request).as_ref(); "stream opened");
        let heartbeat_at = now.after(self.settings.heartbeat_interval);
        let opened_at = self.date.unix_seconds();
        if let Some(connection) = self.connections.get_mut(id) {
            connection.state = State::Streaming(Streaming { request, heartbeat_at, opened_at });
        }
        self.write_stream_head(now, id, chunked, &cors);
        let delay = self.settings.reconnect_delay_ms.map(|delay| self.jittered(delay));
        let answer = callback::read_answer(body.unwrap_or_default());
        if body.is_none() {
            warn!(token = token.to_string(), why = "late, cut short or too long"; "connect answer's body ignored");
        }
        for ignored in &answer.ignored {
            warn!(token = token.to_string(), why = ignored.as_ref(); "connect answer partly ignored");
        }
        if let Some(delay) = delay {
            self.write_frames(now, id, |out| sse::write_retry(out, delay));
        }
        if let Some(event) = &answer.event {
            self.write_events(now, id, 1, |out| event.write(out));
        }
        if held_events > 0 {
            self.write_events(now, id, held_events, |out| out.extend_from_slice(&held));
        }
        if answer.close || held_close {
            self.end_stream(now, id, EndReason { reason: Reason::ServerClosed, detail: None });
        }
    }

    fn write_stream_head(&mut self, now: Millis, id: ConnId, chunked: bool, cors: &CorsHeaders) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        response::write_stream_head(self.outbox.bytes(now, &mut connection.out), &self.date, chunked, cors);
        connection.out.set_chunked(chunked);
        self.mark_dirty(id);
    }

    /// Appends frames to an open stream.
    pub(super) fn write_frames(&mut self, now: Millis, id: ConnId, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        write(self.outbox.frames(now, &mut connection.out));
        self.mark_dirty(id);
    }

    /// Appends so many events to an open stream.
    fn write_events(&mut self, now: Millis, id: ConnId, count: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = 0;
        self.write_frames(now, id, |out| {
            let start = out.len();
            write(out);
            bytes = out.len() - start;
        });
        self.stats.events += count;
        self.stats.event_bytes += bytes as u64;
    }

    /// A send's body: does what it asks for.
    pub(super) fn send(&mut self, now: Millis, body: &[u8]) -> SendAnswer {
        let command = match send::parse(body) {
            Ok(command) => command,
            Err(error) => return SendAnswer::Invalid(error),
        };
        if command.event.is_none() && !command.close {
            self.hint_at_missing_event(body);
        }
        let Some(id) = tokens::parse(&command.token).and_then(|token| self.tokens.get(token, &self.connections)) else {
            return SendAnswer::NotFound;
        };
        let Some(connection) = self.connections.get_mut(id) else { return SendAnswer::NotFound };
        let pending_max = self.settings.pending_bytes_max;
        let event = &command.event;
        match &mut connection.state {
            State::Connecting(connecting) => {
                if connecting.held_close {
                    return SendAnswer::NotFound;
                }
                if let Some(event) = event {
                    if connecting.held.len() > pending_max {
                        self.overflow_connecting(now, id);
                        return SendAnswer::Failed;
                    }
                    event.write(&mut connecting.held);
                    connecting.held_events += 1;
                }
                connecting.held_close = command.close;
                self.count_unsent(id);
                SendAnswer::Buffered
            }
            State::Streaming(_) => {
                if event.is_some() && connection.out.refused() > pending_max {
                    let ending = EndReason { reason: Reason::Error, detail: Some(Detail::SlowConsumer) };
                    self.cut_stream(id, ending, CloseMode::Abort);
                    return SendAnswer::Failed;
                }
                if let Some(event) = event {
                    self.write_events(now, id, 1, |out| event.write(out));
                }
                if command.close {
                    self.end_stream(now, id, EndReason { reason: Reason::ServerClosed, detail: None });
                }
                SendAnswer::Ok
            }
            State::Reading(_) | State::Answering(_) | State::Closing(_) => SendAnswer::NotFound,
        }
    }

    /// More was sent to a stream than it may hold, before the backend had decided on it.
    fn overflow_connecting(&mut self, now: Millis, id: ConnId) {
        let ending = EndReason { reason: Reason::Error, detail: Some(Detail::SlowConsumer) };
        self.stop_connecting(now, id, ending, Failure::Overflow);
    }

    fn stop_connecting(&mut self, now: Millis, id: ConnId, ending: EndReason, failure: Failure) {
        let Some(connecting) = self.take_connecting(id) else { return };
        self.calls.abandon(connecting.call, ending);
        self.fail_connect(now, id, connecting.chunked, &connecting.cors, failure);
    }

    /// The backend did not answer in time, and the worker did not say so.
    pub(super) fn connect_timed_out(&mut self, now: Millis, id: ConnId) {
        let Some(State::Connecting(connecting)) = self.connections.get(id).map(|connection| &connection.state) else {
            return;
        };
        let failure = if self.calls.is_started(connecting.call) { Failure::TimedOut } else { Failure::QueueTimedOut };
        let ending = EndReason { reason: Reason::Error, detail: Some(Detail::ConnectTimeout) };
        self.stop_connecting(now, id, ending, failure);
    }

    /// The drain reaches a client that still waits for the backend.
    pub(super) fn drain_connecting(&mut self, now: Millis, id: ConnId) {
        let ending = EndReason { reason: Reason::ServerClosed, detail: Some(Detail::Shutdown) };
        self.stop_connecting(now, id, ending, Failure::ShuttingDown);
    }

    /// The drain reaches an open stream.
    pub(super) fn drain_stream(&mut self, now: Millis, id: ConnId) {
        if let Some(delay) = self.settings.reconnect_delay_ms {
            let delay = self.jittered(delay);
            self.write_frames(now, id, |out| sse::write_retry(out, delay));
        }
        self.end_stream(now, id, EndReason { reason: Reason::ServerClosed, detail: Some(Detail::Shutdown) });
    }

    /// A clean end: what is queued, the end of the body, then the close.
    pub(super) fn end_stream(&mut self, now: Millis, id: ConnId, ending: EndReason) {
        self.leave(id, ending);
        self.finish_body(now, id);
    }

    fn finish_body(&mut self, now: Millis, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            self.outbox.end_body(now, &mut connection.out);
        }
        self.start_closing(id);
    }

    /// An end that the client must be able to tell from a clean one.
    pub(super) fn cut_stream(&mut self, id: ConnId, ending: EndReason, how: CloseMode) {
        self.leave(id, ending);
        self.release(id, how);
    }

    /// The stream, open or not, is over: forgets its token and sees to it that the backend hears of it.
    pub(super) fn leave(&mut self, id: ConnId, ending: EndReason) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let token = connection.token;
        match &mut connection.state {
            State::Connecting(connecting) => {
                let call = connecting.call;
                self.stats.connect(ConnectResult::ClientLeft);
                self.tokens.remove(token, id);
                self.calls.abandon(call, ending);
            }
            State::Streaming(streaming) => {
                let request = std::mem::take(&mut streaming.request);
                self.tokens.remove(token, id);
                self.stats.streams_open -= 1;
                self.queue_disconnect(token, request, ending);
            }
            State::Reading(_) | State::Answering(_) | State::Closing(_) => {}
        }
    }

    /// The URL of a request as the log may show it.
    fn shown_url<'a>(&self, request: &'a Request) -> Cow<'a, str> {
        let url = request.url();
        match url.find('?') {
            Some(query) if !self.settings.log_query => url[..query].to_owned().into(),
            Some(_) | None => url,
        }
    }

    /// The caller starts the calls.
    fn queue_disconnect(&mut self, token: Uuid, request: Request, ending: EndReason) {
        let detail = ending.detail.map_or("none", Detail::as_str);
        info!(token = token.to_string(), reason = ending.reason.as_str(), detail; "stream closed");
        self.stats.disconnect(ending);
        self.calls.queue_disconnect(PendingDisconnect { token, request, ending });
    }
}

fn disconnect_answered(disconnect: &PendingDisconnect, outcome: &Outcome) {
    let token = disconnect.token;
    match outcome {
        Outcome::Answered { status: 200..=299, passed: _, body } => {
            let answer = callback::read_answer(body.as_deref().unwrap_or_default());
            if answer.event.is_some() || answer.close {
                warn!(token = token.to_string(); "disconnect answer asks for an event or a close: the stream is gone");
            }
        }
        Outcome::Answered { status, passed: _, body: _ } => {
            warn!(token = token.to_string(), status; "disconnect callback failed");
        }
        // Who made the call has said why.
        Outcome::Unavailable { .. } | Outcome::TimedOut { .. } => {}
    }
}
