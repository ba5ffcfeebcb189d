//! Streams: asking the backend, opening, sending.

use super::answers::{Answer, ConnectResult, ResponseMode};
use super::connection::{Closing, Connecting, Connection, DiscardBudget, State, StreamMode, Streaming};
use super::reached::Reached;
use super::settings::ConnectFailure;
use super::shared::Shared;
use crate::callback::{self, CallId, Detail, Outcome, PassedHeader, Reason, Request, RequestParts};
use crate::clock::Millis;
use crate::http::request::{Framing, Head};
use crate::http::response;
use crate::hub::{EndReason, Ended, Joined, Lane, Pending, PendingConnect, PendingDisconnect};
use crate::planted;
use crate::sse;
use crate::table::Table;
use log::{debug, info, warn};
use std::borrow::Cow;
use std::time::Duration;

/// Bytes that a client may send after its GET and its body; enough for a stray CRLF or a pipelined request.
const INPUT_AFTER_GET_BYTES: u64 = 8 * 1024;

/// `retry` of a stream that failed to open, if `RECONNECT_DELAY_MILLISECONDS` is not set; the default of browsers.
const RETRY_DEFAULT_MS: u32 = 3000;

/// The longest `retry` of a stream that failed to open while the backend is down.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// This many disconnects may be queued even if very few streams are allowed.
const DISCONNECTS_WAITING_MIN: usize = 1024;

impl Shared {
    /// A GET for a stream: asks the backend.
    pub(super) fn connect(&mut self, now: Millis, connection: &mut Connection, head: &Head<'_, '_>, mode: StreamMode) {
        self.hints.cors(head, &mode.cors);
        if !self.settings.callback_configured {
            return self.answer_failed_connect(now, connection, &mode, ConnectResult::NotConfigured);
        }
        if self.shutdown.is_draining() {
            return self.fail_connect(now, connection, &mode, ConnectResult::ShuttingDown);
        }
        if self.is_full() {
            self.hints.streams_max(self.settings.streams_max);
            return self.fail_connect(now, connection, &mode, ConnectResult::TooManyStreams);
        }
        if self.budget.is_full(self.memory(), self.hub.calls.request_bytes(), head.bytes) {
            self.hints.memory();
            return self.fail_connect(now, connection, &mode, ConnectResult::Memory);
        }
        let parts = RequestParts { url: head.target, headers: head.headers };
        let request = Request::encode(&mut self.scratch, &parts);
        let token = connection.token;
        let pending = PendingConnect { token, request, owner: Ok(connection.id) };
        let declared = match head.framing {
            Framing::Empty => 0,
            Framing::Chunked => self.settings.body_bytes_max as u64,
            Framing::Length(length) => length,
        };
        connection.discard = DiscardBudget::new(declared.saturating_add(INPUT_AFTER_GET_BYTES));
        connection.state = State::Connecting(Box::new(Connecting {
            call: self.hub.calls.queue(Pending::Connect(pending)),
            mode,
            held: Vec::new(),
            held_events: 0,
            held_close: false,
            answer_by: now.after(self.settings.connect_queue),
            resume: self.read_resume(head),
            held_changes: Vec::new(),
        }));
        self.hub.tokens.insert(token, connection.id);
    }

    /// One more stream would be too many, or its disconnect could not be queued: losing that would be worse than
    /// refusing a client.
    fn is_full(&self) -> bool {
        let max = self.settings.streams_max;
        let disconnects = self.hub.calls.counts(Lane::Disconnects).waiting;
        self.hub.tokens.len() >= max || disconnects >= max.max(DISCONNECTS_WAITING_MIN)
    }

    /// The outcome of a callback.
    pub(super) fn called(&mut self, now: Millis, connections: &mut Table<Connection>, call: CallId, outcome: Outcome) {
        if outcome == Outcome::Overdue {
            return self.connect_overdue(now, connections, call);
        }
        let pending = match self.hub.calls.finish(now, call, &outcome) {
            None => return,
            Some(Ended::Again(took)) => {
                self.stats.call_ended(Lane::Disconnects, &outcome, took);
                self.stats.redeliveries += 1;
                return;
            }
            Some(Ended::Over(pending, Some(took))) => {
                self.stats.call_ended(pending.lane(), &outcome, took);
                pending
            }
            Some(Ended::Over(pending, None)) => {
                debug!(outcome:?; "late answer to a connect");
                pending
            }
        };
        match pending {
            Pending::Connect(connect) => self.connect_answered(now, connections, connect, outcome),
            Pending::Disconnect(disconnect) => disconnect_answered(&disconnect, &outcome),
        }
    }

    /// A connect has timed out; its late answer decides whether it needs a disconnect.
    fn connect_overdue(&mut self, now: Millis, connections: &mut Table<Connection>, call: CallId) {
        let ending = EndReason::error(Detail::ConnectTimeout);
        let Some((owner, took)) = self.hub.calls.overdue(now, call, ending) else { return };
        self.stats.call_ended(Lane::Connects, &Outcome::Overdue, took);
        if let Some(connection) = owner.and_then(|id| connections.get_mut(id))
            && let Some(connecting) = self.give_up_connecting(connection)
        {
            self.fail_connect(now, connection, &connecting.mode, ConnectResult::Timeout);
        }
    }

    /// Queues the disconnects of late connects that are no longer awaited.
    pub(super) fn give_up_late_connects(&mut self, now: Millis) {
        while let Some(PendingConnect { token, request, owner }) = self.hub.calls.give_up_late(now) {
            if let Err(ending) = owner {
                self.queue_disconnect(token, request, ending);
            }
        }
    }

    fn connect_answered(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        connect: PendingConnect,
        outcome: Outcome,
    ) {
        let PendingConnect { token, request, owner } = connect;
        let waiting = owner.ok().and_then(|id| connections.get_mut(id));
        debug_assert_eq!(owner.is_ok(), waiting.is_some(), "a client that leaves gives up its call");
        let (failure, detail, written) = match outcome {
            Outcome::Answered { status: 200..=299, passed: _, body, in_doubt: _ } => {
                match (waiting, owner) {
                    (Some(connection), _) => self.open(now, connection, request, body.as_deref()),
                    // A missing callback: only a client that leaves during its connect shows it.
                    (None, Err(_)) if planted::is("early-leaver-is-never-reported") => {}
                    (None, Err(ending)) => self.queue_disconnect(token, request, ending),
                    (None, Ok(_)) => {}
                }
                return;
            }
            Outcome::Answered { status, passed, body: _, in_doubt } => {
                match self.hints.rejection(status, &self.stats) {
                    Some(hint) => warn!(token = token.to_string(), status, hint; "connect rejected"),
                    None => debug!(token = token.to_string(), status; "connect rejected"),
                }
                if let Some(connection) = waiting {
                    self.reject(now, connection, status, &passed);
                }
                // A ghost stream: the second attempt fails because the first one was stored.
                if in_doubt && !planted::is("rejected-retry-leaves-a-ghost") {
                    self.queue_disconnect(token, request, EndReason::error(Detail::ConnectBroken));
                }
                return;
            }
            Outcome::Unavailable { written } => (ConnectResult::Unavailable, Detail::ConnectBroken, written),
            Outcome::Overdue | Outcome::TimedOut { written: true } => {
                (ConnectResult::Timeout, Detail::ConnectTimeout, true)
            }
            Outcome::TimedOut { written: false } => (ConnectResult::Timeout, Detail::ConnectTimeout, false),
        };
        // The first reason counts.
        let detail = match owner {
            Err(EndReason { detail: Some(Detail::ConnectTimeout), .. }) => Detail::ConnectTimeout,
            Ok(_) | Err(_) => detail,
        };
        if let Some(connection) = waiting
            && let Some(connecting) = self.give_up_connecting(connection)
        {
            self.fail_connect(now, connection, &connecting.mode, failure);
        }
        // A duplicate callback, if its connect breaks after the last byte.
        if written && planted::is("lost-connect-is-reported-twice") {
            self.queue_disconnect(token, request.clone(), EndReason::error(detail));
        }
        if written {
            // The backend may have accepted without being able to report it.
            self.queue_disconnect(token, request, EndReason::error(detail));
        }
    }

    /// Ends a client's wait for the backend without a stream: its token is removed.
    fn give_up_connecting(&mut self, connection: &mut Connection) -> Option<Box<Connecting>> {
        let connecting = take_connecting(connection)?;
        self.hub.tokens.remove(connection.token, connection.id);
        Some(connecting)
    }

    fn reject(&mut self, now: Millis, connection: &mut Connection, status: u16, passed: &[(PassedHeader, Vec<u8>)]) {
        let Some(connecting) = self.give_up_connecting(connection) else { return };
        let mode = &connecting.mode;
        self.stats.connect(ConnectResult::Rejected);
        if self.settings.connect_failure == ConnectFailure::Retry && Outcome::is_temporary_status(status) {
            return self.write_retry_stream(now, connection, mode);
        }
        self.answer(now, connection, &Answer::rejection(status, passed, &mode.cors), ResponseMode::LAST);
        self.start_closing(connection);
    }

    fn fail_connect(&mut self, now: Millis, connection: &mut Connection, mode: &StreamMode, failure: ConnectResult) {
        match self.settings.connect_failure {
            ConnectFailure::Status => self.answer_failed_connect(now, connection, mode, failure),
            ConnectFailure::Retry => {
                self.stats.connect(failure);
                self.write_retry_stream(now, connection, mode);
            }
        }
    }

    fn answer_failed_connect(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        mode: &StreamMode,
        failure: ConnectResult,
    ) {
        self.stats.connect(failure);
        self.answer(now, connection, &Answer::connect_failure(failure, &mode.cors), ResponseMode::LAST);
        self.start_closing(connection);
    }

    /// A 200 event stream that carries only `retry:` and ends: `EventSource` never reconnects after any other status.
    fn write_retry_stream(&mut self, now: Millis, connection: &mut Connection, mode: &StreamMode) {
        let usual = self.settings.reconnect_delay_ms.unwrap_or(RETRY_DEFAULT_MS);
        // Pages come back after about as long as the backend has been away already.
        let outage = self.hub.calls.outage(now).min(RETRY_MAX);
        let delay = self.jitter.spread_up_to(usual, outage.as_millis() as u32);
        self.write_stream_head(now, connection, mode);
        sse::write_retry(self.outbox.frames(now, &mut connection.out), delay);
        self.finish_body(now, connection);
    }

    /// The backend accepted: opens the stream, with all output so far in one write.
    fn open(&mut self, now: Millis, connection: &mut Connection, request: Request, body: Option<&[u8]>) {
        let Some(mut connecting) = take_connecting(connection) else { return };
        let token = connection.token;
        let mut lossy = String::new();
        let answer = callback::read_answer(body.unwrap_or_default(), &mut lossy);
        if body.is_none() {
            warn!(token = token.to_string(), why = "late, cut short or too long"; "connect answer's body ignored");
        }
        for ignored in &answer.ignored {
            warn!(token = token.to_string(), why = ignored.rule(); "connect answer partly ignored");
        }
        let entry = match self.find_entry(&answer, connecting.resume) {
            Ok(entry) => entry,
            Err(detail) => return self.answer_no_content(now, connection, request, &connecting.mode, detail),
        };
        self.stats.connect(ConnectResult::Accepted);
        self.stats.streams_open += 1;
        self.budget.keep(request.json().len());
        info!(token = token.to_string(), url = self.shown_url(&request).as_ref(); "stream opened");
        connection.state = State::Streaming(Streaming {
            request,
            heartbeat_at: now.after(self.settings.heartbeat_interval),
            opened_at: u32::try_from(self.date.unix_seconds()).unwrap_or(u32::MAX),
            joined: Joined::NONE,
            reached: Reached::default(),
        });
        self.write_stream_head(now, connection, &connecting.mode);
        if let Some(entry) = entry {
            self.enter(connection, &answer.groups, entry);
        }
        match entry {
            Some(entry) if entry.is_resumable => {
                self.write_resumable_start(now, connection, (&answer, &connecting), entry);
            }
            Some(_) | None => self.write_start(now, connection, &answer, &mut connecting),
        }
        if !connecting.held_changes.is_empty() {
            self.make_held_changes(connection, &connecting.held_changes);
        }
        if answer.close || connecting.held_close {
            self.end_in_order(now, connection, EndReason::SERVER_CLOSED);
        }
    }

    /// What a stream begins with, behind its head.
    fn write_start(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        answer: &callback::Answer<'_>,
        connecting: &mut Connecting,
    ) {
        if let Some(delay) = self.settings.reconnect_delay_ms {
            sse::write_retry(self.outbox.frames(now, &mut connection.out), self.jitter.spread(delay));
        }
        // A wrong order that shows only if an event is sent before the backend has answered.
        if planted::is("events-sent-meanwhile-go-first") {
            let held = std::mem::take(&mut connecting.held);
            self.write_events(now, connection, connecting.held_events, |out| out.extend_from_slice(&held));
        }
        if let Some(event) = &answer.event {
            self.write_events(now, connection, 1, |out| event.write(out));
        }
        if connecting.held_events > 0 {
            self.write_events(now, connection, connecting.held_events, |out| out.extend_from_slice(&connecting.held));
        }
    }

    /// The backend accepted, but nothing will come any more: 204, after which `EventSource` stays away.
    fn answer_no_content(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        request: Request,
        mode: &StreamMode,
        detail: Detail,
    ) {
        self.stats.connect(ConnectResult::NoContent);
        self.hub.tokens.remove(connection.token, connection.id);
        self.answer(now, connection, &Answer::no_content(&mode.cors), ResponseMode::LAST);
        self.start_closing(connection);
        let ending = EndReason { reason: Reason::ServerClosed, detail: Some(detail) };
        self.queue_disconnect(connection.token, request, ending);
    }

    fn write_stream_head(&mut self, now: Millis, connection: &mut Connection, mode: &StreamMode) {
        let out = self.outbox.bytes(now, &mut connection.out);
        response::write_stream_head(out, &self.date, mode.chunked, &mode.cors);
        connection.out.set_chunked(mode.chunked);
        self.outbox.queue(connection.id, &mut connection.out);
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
        self.stats.events += count;
        self.stats.event_bytes += (out.len() - start) as u64;
        self.outbox.queue(connection.id, &mut connection.out);
    }

    /// Refuses a client that waits for the backend; `ending` handles a later answer of the backend.
    pub(super) fn stop_connecting(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        ending: EndReason,
        failure: ConnectResult,
    ) {
        let Some(connecting) = self.give_up_connecting(connection) else { return };
        self.hub.calls.abandon(connecting.call, ending);
        self.fail_connect(now, connection, &connecting.mode, failure);
    }

    /// The backend did not answer in time, and the worker did not report it.
    pub(super) fn connect_timed_out(&mut self, now: Millis, connection: &mut Connection, call: CallId) {
        let is_started = self.hub.calls.is_started(call);
        let failure = if is_started { ConnectResult::Timeout } else { ConnectResult::QueueTimeout };
        self.stop_connecting(now, connection, EndReason::error(Detail::ConnectTimeout), failure);
    }

    /// The drain reaches an open stream.
    pub(super) fn drain_stream(&mut self, now: Millis, connection: &mut Connection) {
        self.catch_up(now, connection);
        // A missed state, which a test that ends with the drain does not notice.
        if let Some(delay) = self.settings.reconnect_delay_ms.filter(|_| !planted::is("drain-forgets-the-retry")) {
            sse::write_retry(self.outbox.frames(now, &mut connection.out), self.jitter.spread(delay));
        }
        self.end_stream(now, connection, EndReason::SHUTDOWN);
    }

    /// A heartbeat is due: written unless bytes are unsent.
    pub(super) fn beat(&mut self, now: Millis, connection: &mut Connection) {
        let State::Streaming(Streaming { reached, .. }) = &connection.state else { return };
        let reached = *reached;
        if connection.out.is_empty() && !reached.is_lagging() {
            self.stats.heartbeats += 1;
            let id = if reached.is_plain() { None } else { self.heartbeat_id(reached) };
            let out = self.outbox.frames(now, &mut connection.out);
            match id {
                None => out.extend_from_slice(sse::HEARTBEAT),
                Some(id) => sse::write_heartbeat_with_id(out, id.as_bytes()),
            }
            self.outbox.queue(connection.id, &mut connection.out);
        }
    }

    /// The URL of a request for the log.
    fn shown_url<'a>(&self, request: &'a Request) -> Cow<'a, str> {
        let url = request.url();
        match url.find('?') {
            Some(query) if !self.settings.log_query => url[..query].to_owned().into(),
            Some(_) | None => url,
        }
    }
}

/// Ends a connection's wait for the backend, whatever its next state.
fn take_connecting(connection: &mut Connection) -> Option<Box<Connecting>> {
    match std::mem::replace(&mut connection.state, State::Closing(Closing::Flushing)) {
        State::Connecting(connecting) => Some(connecting),
        other @ (State::Reading(_)
        | State::Answering(_)
        | State::Streaming(_)
        | State::Closing(_)
        | State::Closed(_)) => {
            debug_assert!(false, "no client waits here for the backend");
            connection.state = other;
            None
        }
    }
}

fn disconnect_answered(disconnect: &PendingDisconnect, outcome: &Outcome) {
    let token = disconnect.token;
    match outcome {
        Outcome::Answered { status: 200..=299, passed: _, body, in_doubt: _ } => {
            let mut lossy = String::new();
            let answer = callback::read_answer(body.as_deref().unwrap_or_default(), &mut lossy);
            if answer.event.is_some() || answer.close {
                warn!(token = token.to_string(); "disconnect answer ignored: it has an event or a close, but the stream has ended");
            }
        }
        Outcome::Answered { status, passed: _, body: _, in_doubt: _ } => {
            warn!(token = token.to_string(), status; "disconnect callback failed");
        }
        // The worker that made the call has logged why.
        Outcome::Unavailable { .. } | Outcome::Overdue | Outcome::TimedOut { .. } => {}
    }
}
