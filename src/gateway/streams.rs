//! Streams: asking the backend, opening.

use super::answers::{ConnectResult, Refusal};
use super::connection::{
    Accepted, Connecting, Connection, DiscardBudget, Resume, State, StreamMode, StreamRequest, Streaming,
};
use super::entering::granted;
use super::following::{Purpose, Wait};
use super::frames::IdLine;
use super::reached::Reached;
use super::rejections::take_connecting;
use super::shared::Shared;
use crate::callback::{self, CallId, Detail, Outcome, Reason, Request, RequestBody, RequestParts};
use crate::clock::Millis;
use crate::http::request::{Framing, Head};
use crate::hub::{ConnId, EndReason, Ended, Joined, Lane, Pending, PendingConnect, PendingDisconnect};
use crate::planted;
use crate::sse;
use crate::table::Table;
use log::{debug, info, warn};
use std::borrow::Cow;
use std::time::Duration;

/// Bytes that a client may send after its GET and its body; enough for a stray CRLF or a pipelined request.
const INPUT_AFTER_GET_BYTES: u64 = 8 * 1024;

/// How long a stream waits for its groups before it opens without them: Redis usually answers within a millisecond.
const OPENS_WITHIN: Duration = Duration::from_millis(100);

/// `retry` of a stream that the drain ends, if `RECONNECT_DELAY_MILLISECONDS` is not set: a restart is over by then, and
/// Firefox gives a page up for good if its connection is refused.
const DRAIN_RETRY_MS: u32 = 6_000;

/// This many disconnects may be queued even if very few streams are allowed.
const DISCONNECTS_WAITING_MIN: usize = 1024;

impl Shared {
    /// A GET for a stream: asks the backend.
    pub(super) fn connect(&mut self, now: Millis, connection: &mut Connection, head: &Head<'_, '_>, mode: StreamMode) {
        self.hints.cors(head, &mode.cors);
        if let Some(failure) = self.connect_refusal(head.bytes) {
            return self.refuse_connect(now, connection, &mode, failure);
        }
        let stream = self.read_stream_request(head, mode, Request::encode);
        let declared = match head.framing {
            Framing::Length(length) => length,
            // A chunked one has been waited for.
            Framing::Empty | Framing::Chunked => 0,
        };
        self.ask_backend(now, connection, stream, None, declared);
    }

    /// A GET for a stream has come, but for its chunked body: only its end shows whether it is too long.
    pub(super) fn read_get(&mut self, head: &Head<'_, '_>, mode: StreamMode) -> StreamRequest {
        self.hints.cors(head, &mode.cors);
        self.read_stream_request(head, mode, Request::encode)
    }

    /// A POST for a stream has come, but for its body.
    pub(super) fn read_posted(&mut self, head: &Head<'_, '_>, mode: StreamMode) -> StreamRequest {
        self.hints.cors(head, &mode.cors);
        self.read_stream_request(head, mode, Request::encode_post)
    }

    fn read_stream_request(
        &mut self,
        head: &Head<'_, '_>,
        mode: StreamMode,
        encode: impl FnOnce(&mut String, &RequestParts<'_>) -> Request,
    ) -> StreamRequest {
        let parts = RequestParts { url: head.target, headers: head.headers };
        let request = encode(&mut self.scratch, &parts);
        StreamRequest { request, mode, resume: self.read_resume(head) }
    }

    /// A POST for a stream, with all of its body: asks the backend.
    pub(super) fn connect_posted(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        stream: StreamRequest,
        body: &[u8],
    ) {
        let Ok(body) = RequestBody::new(body) else {
            return self.refuse_cors(now, connection, Refusal::MediaType, &stream.mode.cors);
        };
        self.connect_read(now, connection, stream, Some(body));
    }

    /// A request for a stream, and the end of its body: asks the backend.
    pub(super) fn connect_read(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        stream: StreamRequest,
        body: Option<RequestBody>,
    ) {
        let bytes = stream.request.json().len() + body.as_ref().map_or(0, RequestBody::bytes);
        match self.connect_refusal(bytes) {
            Some(failure) => self.refuse_connect(now, connection, &stream.mode, failure),
            None => self.ask_backend(now, connection, stream, body, 0),
        }
    }

    /// Why no stream can be opened now for a request of so many bytes, if none can.
    fn connect_refusal(&self, request_bytes: usize) -> Option<ConnectResult> {
        if !self.settings.callback_configured {
            Some(ConnectResult::NotConfigured)
        } else if self.shutdown.is_draining() {
            Some(ConnectResult::ShuttingDown)
        } else if self.is_full() {
            Some(ConnectResult::TooManyStreams)
        } else if self.budget.is_full(self.memory(), self.hub.calls.request_bytes(), request_bytes) {
            Some(ConnectResult::Memory)
        } else {
            None
        }
    }

    fn refuse_connect(&mut self, now: Millis, connection: &mut Connection, mode: &StreamMode, failure: ConnectResult) {
        if failure == ConnectResult::TooManyStreams {
            self.hints.streams_max(self.settings.streams_max);
        }
        if failure == ConnectResult::Memory {
            self.hints.memory();
        }
        if failure == ConnectResult::NotConfigured {
            return self.answer_failed_connect(now, connection, mode, failure);
        }
        self.fail_connect(now, connection, mode, failure);
    }

    /// `declared`: bytes of a body that are still to come, and mean nothing.
    fn ask_backend(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        stream: StreamRequest,
        body: Option<RequestBody>,
        declared: u64,
    ) {
        let StreamRequest { request, mode, resume } = stream;
        let token = connection.token;
        let pending = PendingConnect { token, request, body, owner: Ok(connection.id) };
        connection.discard = DiscardBudget::new(declared.saturating_add(INPUT_AFTER_GET_BYTES));
        connection.state = State::Connecting(Box::new(Connecting {
            call: self.hub.calls.queue(Pending::Connect(pending)),
            mode,
            held: Vec::new(),
            held_events: 0,
            held_close: false,
            answer_by: now.after(self.settings.connect_queue),
            resume,
            held_changes: Vec::new(),
            accepted: None,
        }));
        self.hub.tokens.insert(token, connection.id);
        if let Resume::Live(_) = resume {
            self.ask_for_head(now, connection.id);
        }
    }

    /// One more stream would be too many, or its disconnect could not be queued: losing that would be worse than
    /// refusing a client.
    fn is_full(&self) -> bool {
        let max = self.settings.streams_max;
        let disconnects = self.hub.calls.counts(Lane::Disconnects).waiting;
        self.hub.tokens.len() >= max || self.is_crowded() || disconnects >= max.max(DISCONNECTS_WAITING_MIN)
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
            Some(Ended::Told(is_accepted)) => return start_told(is_accepted, &outcome),
            Some(Ended::Over(pending, Some(took))) => {
                self.stats.call_ended(pending.lane(), &outcome, took);
                pending
            }
            Some(Ended::Over(pending, None)) => {
                debug!(token = pending.token().to_string(); "a connect that had timed out is over");
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
        while let Some(PendingConnect { token, request, body: _, owner }) = self.hub.calls.give_up_late(now) {
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
        let PendingConnect { token, request, body: _, owner } = connect;
        let waiting = owner.ok().and_then(|id| connections.get_mut(id));
        debug_assert_eq!(owner.is_ok(), waiting.is_some(), "a client that leaves gives up its call");
        let (failure, detail, written) = match outcome {
            Outcome::Answered { status: 200..=299, passed: _, body, in_doubt: _ } => {
                match (waiting, owner) {
                    (Some(connection), _) => {
                        self.open(now, connection, Accepted { request, body }, Opening::First);
                    }
                    // A missing callback: only a client that leaves during its connect shows it.
                    (None, Err(_)) if planted::is("early-leaver-is-never-reported") => {}
                    // There is no stream of whose end the backend could be told.
                    (None, Err(_)) if is_no_content(body.as_deref()) => {}
                    (None, Err(ending)) => self.queue_disconnect(token, request, ending),
                    (None, Ok(_)) => {}
                }
                return;
            }
            Outcome::Answered { status, passed, body, in_doubt } => {
                match self.hints.rejection(status, &self.stats) {
                    Some(hint) => warn!(token = token.to_string(), status, hint; "connect rejected"),
                    None => debug!(token = token.to_string(), status; "connect rejected"),
                }
                if let Some(connection) = waiting {
                    self.reject(now, connection, status, &passed, body.as_deref());
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

    /// The backend accepted: opens the stream, with all output so far in one write.
    pub(super) fn open(&mut self, now: Millis, connection: &mut Connection, accepted: Accepted, opening: Opening) {
        let Some(mut connecting) = take_connecting(connection) else { return };
        let token = connection.token;
        let mut lossy = String::new();
        let answer = callback::read_answer(accepted.body.as_deref().unwrap_or_default(), &mut lossy);
        let is_decided = answer.no_content || opening == Opening::InVain;
        let attaches = answer.attach && opening == Opening::First && !is_decided;
        let is_asked = attaches && self.asks_what_is_alive(now, connection.id, &answer.groups);
        let is_known = is_decided || (!is_asked && self.follow_all(now, &answer.groups));
        let waits_until = match opening {
            Opening::First => Some(now.after(OPENS_WITHIN)),
            Opening::Attached(until) => Some(until),
            Opening::InVain | Opening::Last => None,
        };
        if let Some(until) = waits_until.filter(|_| !is_known && self.is_linked()) {
            let (names, purpose) = match is_asked {
                true => (Vec::new(), Purpose::Attach(until)),
                false => (granted(&answer.groups), Purpose::Open(until)),
            };
            drop(answer);
            connecting.answer_by = Millis::NEVER;
            connecting.accepted = Some(accepted);
            connection.state = State::Connecting(connecting);
            self.deadlines.schedule(now, connection, &self.settings);
            self.following.add(connection.id, Wait { names, purpose });
            return;
        }
        let Accepted { request, ref body } = accepted;
        if body.is_none() {
            warn!(token = token.to_string(), why = "late, cut short or too long"; "connect answer's body ignored");
        }
        for ignored in &answer.ignored {
            warn!(token = token.to_string(), why = ignored.rule(); "connect answer partly ignored");
        }
        for field in &answer.left_out {
            warn!(token = token.to_string(), field = field.as_ref(); "connect answer's header field left out");
        }
        if answer.no_content {
            return self.answer_no_content(now, connection, &connecting.mode, &answer.headers);
        }
        let resume = Self::resume_of(&answer, connecting.resume);
        let names = if is_known { &answer.groups[..] } else { &[] };
        // Redis knows of groups that nobody here is in.
        let attach = answer.attach && (self.engine.link.is_none() || answer.groups.is_empty());
        let found = match opening {
            Opening::InVain => Err(Detail::NothingToAttach),
            Opening::First | Opening::Attached(_) | Opening::Last => self.find_entry(names, attach, resume),
        };
        let entry = match found {
            Ok(entry) => entry,
            Err(detail) => {
                self.answer_no_content(now, connection, &connecting.mode, &answer.headers);
                let ending = EndReason { reason: Reason::ServerClosed, detail: Some(detail) };
                return self.queue_disconnect(token, request, ending);
            }
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
        self.limit_age(now, connection.id, answer.expires_in);
        self.write_stream_head(now, connection, &connecting.mode, &answer.headers);
        if self.settings.opening_comment {
            let out = self.outbox.frames(now, &mut connection.out);
            sse::write_comment(out, sse::OPENING, self.settings.padding_bytes, b"");
        }
        if let Some(entry) = entry {
            self.enter(connection, answer.groups.iter().map(|name| (&**name, true)), entry);
        }
        match entry {
            Some(entry) if entry.is_resumable => {
                self.write_resumable_start(now, connection, (&answer, &connecting), entry);
            }
            None if !is_known => self.write_early_start(now, connection, (&answer, &connecting), resume),
            Some(_) | None => self.write_start(now, connection, &answer, &mut connecting),
        }
        if !connecting.held_changes.is_empty() {
            self.make_held_changes(now, connection, &connecting.held_changes);
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
        for event in &answer.events {
            self.write_events(now, connection, 1, |out| event.write(out));
        }
        if connecting.held_events > 0 {
            self.write_events(now, connection, connecting.held_events, |out| out.extend_from_slice(&connecting.held));
        }
    }

    /// Sets the end of a stream that opens now, if it has one.
    fn limit_age(&mut self, now: Millis, id: ConnId, expires_in: Option<u32>) {
        let asked = expires_in.map(|seconds| Duration::from_secs(seconds.into()));
        let usual = self.settings.stream_age_max.map(|age| self.jitter.spread_age(age));
        if let Some(age) = asked.into_iter().chain(usual).min() {
            self.deadlines.expire_at(now.after(age), id);
        }
    }

    /// The drain reaches an open stream.
    pub(super) fn drain_stream(&mut self, now: Millis, connection: &mut Connection) {
        self.catch_up(now, connection);
        if !connection.is_stream() {
            return;
        }
        let ending = self.write_held(now, connection).unwrap_or(EndReason::SHUTDOWN);
        // A missed state, which a test that ends with the drain does not notice.
        if !planted::is("drain-forgets-the-retry") {
            let delay = self.settings.reconnect_delay_ms.unwrap_or(DRAIN_RETRY_MS);
            // One that is replaying may have no position yet.
            let id = if connection.is_lagging() { self.position_line(connection) } else { None };
            let out = self.outbox.frames(now, &mut connection.out);
            out.extend_from_slice(id.as_ref().map_or(&[], IdLine::as_bytes));
            sse::write_retry(out, self.jitter.spread(delay));
        }
        self.end_stream(now, connection, ending);
    }

    /// A heartbeat is due: written unless bytes are unsent.
    pub(super) fn beat(&mut self, now: Millis, connection: &mut Connection) {
        if connection.out.is_empty() && !connection.is_lagging() {
            self.stats.heartbeats += 1;
            let id = if connection.is_resumable() { self.position_line(connection) } else { None };
            let id_line = id.as_ref().map_or(&[][..], IdLine::as_bytes);
            let out = self.outbox.frames(now, &mut connection.out);
            sse::write_comment(out, sse::HEARTBEAT, self.settings.padding_bytes, id_line);
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

/// Whether a stream may wait until its groups are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    First,
    /// Until then; there is something that it can attach to.
    Attached(Millis),
    /// There is nothing that it could attach to.
    InVain,
    /// It has waited already.
    Last,
}

/// Whether the body of a connect's answer wants no stream.
fn is_no_content(body: Option<&[u8]>) -> bool {
    callback::read_answer(body.unwrap_or_default(), &mut String::new()).no_content
}

/// The outcome of a callback about the start.
fn start_told(is_accepted: bool, outcome: &Outcome) {
    match outcome {
        Outcome::Answered { .. } if is_accepted => info!("start callback accepted"),
        Outcome::Answered { status, passed: _, body: _, in_doubt: _ } => {
            let hint =
                "clients wait until the callback route answers 2xx to {\"action\":\"start\"}, or START_CALLBACK is off";
            warn!(status, hint; "start callback rejected");
        }
        // The worker that made the call has logged why.
        Outcome::Unavailable { .. } | Outcome::Overdue | Outcome::TimedOut { .. } => {}
    }
}

fn disconnect_answered(disconnect: &PendingDisconnect, outcome: &Outcome) {
    let token = disconnect.token;
    match outcome {
        Outcome::Answered { status: 200..=299, passed: _, body, in_doubt: _ } => {
            let mut lossy = String::new();
            let answer = callback::read_answer(body.as_deref().unwrap_or_default(), &mut lossy);
            if !answer.events.is_empty() || answer.close {
                warn!(token = token.to_string(); "disconnect answer ignored: it has an event or a close, but the stream has ended");
            }
        }
        // The worker that made the call has logged why.
        Outcome::Answered { .. } | Outcome::Unavailable { .. } | Outcome::Overdue | Outcome::TimedOut { .. } => {}
    }
}
