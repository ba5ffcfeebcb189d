//! Streams: asking the backend, opening, sending, ending.

use super::calls::{Ending, Pending, PendingConnect, PendingDisconnect};
use super::connection::{Closing, Connecting, Input, State, Streaming};
use super::requests::Manner;
use super::{Action, ConnId, ConnectFailure, Gateway, How};
use crate::callback::{self, CallId, Detail, Outcome, PassedHeader, Reason};
use crate::http::request::{Framing, Head, Version};
use crate::http::response::{self, Grant};
use crate::send::{self, EventFields, SendError};
use crate::sse;
use crate::time::Millis;
use log::{debug, info, warn};
use std::sync::Arc;
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
    Unavailable,
    TimedOut,
    TooManyStreams,
    ShuttingDown,
    Overflow,
}

impl Failure {
    fn status_and_message(self) -> (u16, &'static str) {
        match self {
            Failure::Unavailable => (503, "Backend unavailable"),
            Failure::TimedOut => (504, "Gateway timeout"),
            Failure::TooManyStreams => (503, "Too many streams"),
            Failure::ShuttingDown => (503, "Shutting down"),
            Failure::Overflow => (503, "Too much was sent before the stream opened"),
        }
    }
}

const LAST: Manner = Manner { keep_alive: false, head_only: false };

impl Gateway {
    /// A GET for a stream: asks the backend.
    pub(super) fn connect(&mut self, now: Millis, id: ConnId, head: &Head<'_, '_>, grant: Grant) {
        let chunked = head.version == Version::Http11;
        if !self.settings.callback_configured {
            self.respond_error(now, id, 503, "Service not configured", &[], &grant, LAST);
            self.start_closing(id);
            return;
        }
        if self.is_draining() {
            return self.fail_connect(now, id, chunked, &grant, Failure::ShuttingDown);
        }
        if self.is_full() {
            return self.fail_connect(now, id, chunked, &grant, Failure::TooManyStreams);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let fields = head.headers.iter().map(|header| (header.name, header.value));
        let request = callback::encode_request(&mut self.scratch, head.target, fields);
        let token = connection.token;
        let call = self.calls.queue_connect(PendingConnect { token, request, owner: Ok(id) });
        let declared = match head.framing {
            Framing::Empty | Framing::Chunked => 0,
            Framing::Length(length) => length,
        };
        connection.state = State::Connecting(Box::new(Connecting {
            call,
            chunked,
            grant,
            held: Vec::new(),
            held_close: false,
            answer_by: now.after(self.settings.connect_queue),
            input: Input { left: declared.saturating_add(INPUT_AFTER_GET_BYTES) },
        }));
        let previous = self.tokens.insert(token, id);
        debug_assert!(previous.is_none(), "122 random bits do not collide");
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
        while let Some((call, owner)) = self.calls.start_next() {
            if let Some(owner) = owner
                && let Some(connection) = self.connections.get_mut(owner)
                && let State::Connecting(connecting) = &mut connection.state
            {
                connecting.answer_by = now.after(self.settings.callback_timeout).after(CALLBACK_GRACE);
                self.reschedule(now, owner);
            }
            self.actions.push_back(Action::Call(call));
        }
    }

    /// A callback ended.
    pub fn answer(&mut self, now: Millis, call: CallId, outcome: Outcome) {
        match self.calls.finish(call) {
            None => {}
            Some(Pending::Connect(connect)) => self.connect_answered(now, connect, outcome),
            Some(Pending::Disconnect(disconnect)) => disconnect_answered(&disconnect, &outcome),
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
                debug!("connect rejected token={token} status={status}");
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
            self.fail_connect(now, id, connecting.chunked, &connecting.grant, failure);
        }
        if written {
            // The backend may have accepted what it could not tell us.
            self.queue_disconnect(token, request, Ending { reason: Reason::Error, detail: Some(detail) });
        }
    }

    /// Takes a connection out of its wait, whatever comes next.
    fn take_connecting(&mut self, id: ConnId) -> Option<Box<Connecting>> {
        let connection = self.connections.get_mut(id)?;
        let closing = State::Closing(Closing { shut: false, input: Input { left: INPUT_AFTER_GET_BYTES } });
        match std::mem::replace(&mut connection.state, closing) {
            State::Connecting(connecting) => {
                self.tokens.remove(&connection.token);
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
        if self.settings.connect_failure == ConnectFailure::Retry && matches!(status, 500 | 502 | 503 | 504) {
            return self.write_retry_stream(now, id, connecting.chunked, &connecting.grant);
        }
        let fields: Vec<(&str, &[u8])> = passed
            .iter()
            .map(|(header, value)| match header {
                PassedHeader::RetryAfter => ("Retry-After", &value[..]),
                PassedHeader::WwwAuthenticate => ("WWW-Authenticate", &value[..]),
            })
            .collect();
        let error = format!("Backend returned {status}");
        self.respond_error(now, id, status, &error, &fields, &connecting.grant, LAST);
        self.start_closing(id);
    }

    fn fail_connect(&mut self, now: Millis, id: ConnId, chunked: bool, grant: &Grant, failure: Failure) {
        match self.settings.connect_failure {
            ConnectFailure::Status => {
                let (status, message) = failure.status_and_message();
                let fields: &[(&str, &[u8])] = match failure {
                    Failure::TooManyStreams => &[("Retry-After", RETRY_AFTER_SECONDS)],
                    Failure::Unavailable | Failure::TimedOut | Failure::ShuttingDown | Failure::Overflow => &[],
                };
                self.respond_error(now, id, status, message, fields, grant, LAST);
                self.start_closing(id);
            }
            ConnectFailure::Retry => self.write_retry_stream(now, id, chunked, grant),
        }
    }

    /// A stream that says just when to come back: `EventSource` gives up for good on any other status.
    fn write_retry_stream(&mut self, now: Millis, id: ConnId, chunked: bool, grant: &Grant) {
        let delay = self.jittered(self.settings.reconnect_delay_ms.unwrap_or(RETRY_DEFAULT_MS));
        self.write_stream_head(now, id, chunked, grant, "".into(), Input { left: INPUT_AFTER_GET_BYTES });
        self.write_frames(now, id, |out| sse::write_retry(out, delay));
        self.finish_body(now, id);
    }

    /// The backend accepted: opens the stream, with everything that is known already in one write.
    fn open(&mut self, now: Millis, id: ConnId, request: Arc<str>, body: Option<&[u8]>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let token = connection.token;
        let State::Connecting(connecting) = &mut connection.state else { return };
        let Connecting { chunked, grant, held, held_close, input, .. } = &mut **connecting;
        let (chunked, grant, input) = (*chunked, std::mem::take(grant), *input);
        let (held, held_close) = (std::mem::take(held), *held_close);
        info!("stream opened token={token} url={}", url_of(&request));
        self.write_stream_head(now, id, chunked, &grant, request, input);
        let delay = self.settings.reconnect_delay_ms.map(|delay| self.jittered(delay));
        let answer = callback::read_answer(body.unwrap_or_default());
        if body.is_none() {
            warn!("connect answer's body ignored token={token}: late, cut short or too long");
        }
        for ignored in &answer.ignored {
            warn!("connect answer partly ignored token={token}: {ignored}");
        }
        let event = answer.event.as_ref().map(EventFields::as_event);
        if delay.is_some() || event.is_some() || !held.is_empty() {
            self.write_frames(now, id, |out| {
                if let Some(delay) = delay {
                    sse::write_retry(out, delay);
                }
                if let Some(event) = &event {
                    sse::write_event(out, event);
                }
                out.extend_from_slice(&held);
            });
        }
        if answer.close || held_close {
            self.end_stream(now, id, Ending { reason: Reason::ServerClosed, detail: None });
        }
    }

    fn write_stream_head(
        &mut self,
        now: Millis,
        id: ConnId,
        chunked: bool,
        grant: &Grant,
        request: Arc<str>,
        input: Input,
    ) {
        let heartbeat_at = now.after(self.settings.heartbeat_interval);
        let date = self.date;
        let Some(out) = self.output(now, id) else { return };
        response::write_stream_head(out, &date, chunked, grant);
        if let Some(connection) = self.connections.get_mut(id) {
            connection.state = State::Streaming(Streaming { request, heartbeat_at, chunked, chunk: None, input });
        }
        self.mark_dirty(id);
    }

    /// Appends frames to an open stream.
    pub(super) fn write_frames(&mut self, now: Millis, id: ConnId, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        write(connection.frames(now, &mut self.pool));
        self.mark_dirty(id);
    }

    /// A send's body: does what it asks for.
    pub(super) fn send(&mut self, now: Millis, body: &[u8]) -> SendAnswer {
        let command = match send::parse(body) {
            Ok(command) => command,
            Err(error) => return SendAnswer::Invalid(error),
        };
        let Some(id) = parse_token(&command.token).and_then(|token| self.tokens.get(&token).copied()) else {
            return SendAnswer::NotFound;
        };
        let Some(connection) = self.connections.get_mut(id) else { return SendAnswer::NotFound };
        let pending_max = self.settings.pending_bytes_max;
        let event = command.event.as_ref().map(EventFields::as_event);
        match &mut connection.state {
            State::Connecting(connecting) => {
                if connecting.held_close {
                    return SendAnswer::NotFound;
                }
                if let Some(event) = &event {
                    if connecting.held.len() > pending_max {
                        self.overflow_connecting(now, id);
                        return SendAnswer::Failed;
                    }
                    sse::write_event(&mut connecting.held, event);
                }
                connecting.held_close = command.close;
                SendAnswer::Buffered
            }
            State::Streaming(_) => {
                // Bytes that no write has been tried for yet are not a backlog: a batch of sends
                // must not end a stream whose client reads.
                let backlog = if connection.dirty { 0 } else { connection.out.len() };
                if event.is_some() && backlog > pending_max {
                    let ending = Ending { reason: Reason::Error, detail: Some(Detail::SlowConsumer) };
                    self.cut_stream(id, ending, How::Abort);
                    return SendAnswer::Failed;
                }
                if let Some(event) = &event {
                    self.write_frames(now, id, |out| sse::write_event(out, event));
                }
                if command.close {
                    self.end_stream(now, id, Ending { reason: Reason::ServerClosed, detail: None });
                }
                SendAnswer::Ok
            }
            State::Reading(_) | State::Closing(_) => SendAnswer::NotFound,
        }
    }

    /// More was sent to a stream than it may hold, before the backend had decided on it.
    fn overflow_connecting(&mut self, now: Millis, id: ConnId) {
        let ending = Ending { reason: Reason::Error, detail: Some(Detail::SlowConsumer) };
        self.stop_connecting(now, id, ending, Failure::Overflow);
    }

    fn stop_connecting(&mut self, now: Millis, id: ConnId, ending: Ending, failure: Failure) {
        let Some(connecting) = self.take_connecting(id) else { return };
        self.calls.abandon(connecting.call, ending);
        self.fail_connect(now, id, connecting.chunked, &connecting.grant, failure);
    }

    /// The backend did not answer in time, and the worker did not say so.
    pub(super) fn connect_timed_out(&mut self, now: Millis, id: ConnId) {
        let ending = Ending { reason: Reason::Error, detail: Some(Detail::ConnectTimeout) };
        self.stop_connecting(now, id, ending, Failure::TimedOut);
    }

    /// The drain reaches a client that still waits for the backend.
    pub(super) fn drain_connecting(&mut self, now: Millis, id: ConnId) {
        let ending = Ending { reason: Reason::ServerClosed, detail: Some(Detail::Shutdown) };
        self.stop_connecting(now, id, ending, Failure::ShuttingDown);
    }

    /// The drain reaches an open stream.
    pub(super) fn drain_stream(&mut self, now: Millis, id: ConnId) {
        if let Some(delay) = self.settings.reconnect_delay_ms {
            let delay = self.jittered(delay);
            self.write_frames(now, id, |out| sse::write_retry(out, delay));
        }
        self.end_stream(now, id, Ending { reason: Reason::ServerClosed, detail: Some(Detail::Shutdown) });
    }

    /// A clean end: what is queued, the end of the body, then the close.
    pub(super) fn end_stream(&mut self, now: Millis, id: ConnId, ending: Ending) {
        self.leave(id, ending);
        self.finish_body(now, id);
    }

    fn finish_body(&mut self, now: Millis, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.end_body(now, &mut self.pool);
        }
        self.start_closing(id);
    }

    /// An end that the client must be able to tell from a clean one.
    pub(super) fn cut_stream(&mut self, id: ConnId, ending: Ending, how: How) {
        self.leave(id, ending);
        self.release(id, how);
    }

    /// The stream, open or not, is over: forgets its token and sees to it that the backend hears of it.
    pub(super) fn leave(&mut self, id: ConnId, ending: Ending) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let token = connection.token;
        match &mut connection.state {
            State::Connecting(connecting) => {
                let call = connecting.call;
                self.tokens.remove(&token);
                self.calls.abandon(call, ending);
            }
            State::Streaming(streaming) => {
                let request = std::mem::replace(&mut streaming.request, "".into());
                self.tokens.remove(&token);
                self.queue_disconnect(token, request, ending);
            }
            State::Reading(_) | State::Closing(_) => {}
        }
    }

    /// The caller starts the calls.
    fn queue_disconnect(&mut self, token: Uuid, request: Arc<str>, ending: Ending) {
        let detail = ending.detail.map_or("none", Detail::as_str);
        info!("stream closed token={token} reason={} detail={detail}", ending.reason.as_str());
        self.calls.queue_disconnect(PendingDisconnect { token, request, ending });
    }
}

fn disconnect_answered(disconnect: &PendingDisconnect, outcome: &Outcome) {
    let token = disconnect.token;
    match outcome {
        Outcome::Answered { status: 200..=299, passed: _, body } => {
            let answer = callback::read_answer(body.as_deref().unwrap_or_default());
            if answer.event.is_some() || answer.close {
                warn!("disconnect answer asks for an event or a close: the stream is gone token={token}");
            }
        }
        Outcome::Answered { status, passed: _, body: _ } => {
            warn!("disconnect callback failed token={token} status={status}");
        }
        // Who made the call has said why.
        Outcome::Unavailable { .. } | Outcome::TimedOut { .. } => {}
    }
}

/// A token in the one form that the gateway gives out.
fn parse_token(text: &str) -> Option<Uuid> {
    let token = Uuid::try_parse_ascii(text.as_bytes()).ok()?;
    let mut canonical = Uuid::encode_buffer();
    (token.hyphenated().encode_lower(&mut canonical) == text).then_some(token)
}

/// The URL within an encoded request, still escaped as JSON: fit for a log.
fn url_of(request: &str) -> &str {
    let url = request.strip_prefix(r#"{"url":""#).unwrap_or(request);
    // A quote inside the URL is escaped, so this cannot be found before its end.
    url.find(r#"","headers":"#).map_or(url, |end| &url[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_tokens_in_their_own_form_only() {
        let token = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
        assert_eq!(parse_token(&token.to_string()), Some(token));
        assert_eq!(parse_token(&token.to_string().to_uppercase()), None);
        assert_eq!(parse_token(&token.simple().to_string()), None);
        assert_eq!(parse_token(&format!("{{{token}}}")), None);
        assert_eq!(parse_token(""), None);
    }

    #[test]
    fn finds_the_url_in_a_request() {
        assert_eq!(url_of(r#"{"url":"/a?b=\"c\"","headers":{"x":"y"}}"#), r#"/a?b=\"c\""#);
        assert_eq!(url_of(r#"{"url":"\\","headers":{}}"#), r"\\");
    }
}
