//! Callbacks: one connect for each stream, one disconnect for each accepted one, after its answer, with the right
//! reason, and never more in flight than allowed.

use super::entries::Grant;
use super::sends::Event;
use super::streams::{Expected, Phase, Stream, Verdict};
use super::{Oracle, millis};
use ssegateway::callback::{Call, CallKind, Detail, Outcome, PassedHeader, Reason};
use ssegateway::gateway::{ConnectFailure, Cors};
use std::rc::Rc;
use uuid::Uuid;

/// A callback may take this much longer than its timeout.
const GRACE: u64 = 1000;
/// In an outage longer than this, connects are tried at this interval, if their clients are told to retry.
const OUTAGE_SHORT: u64 = 5000;
const TRY_INTERVAL: u64 = 500;
/// While calls wait, one more is tried at least that many times in the timeout of a call, even if none ends.
const STILL_PART: u64 = 4;
/// The longest `retry` of a failed connect.
const RETRY_MAX: u32 = 60_000;
/// The head of a stream; all have the same length.
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
    Content-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const ANY_ORIGIN: &str = "Access-Control-Allow-Origin: *\r\n";

/// A token encodes the number of its client; the key makes it differ from the plain number.
const TOKEN_KEY: u128 = 0x5bd1_e995_9ddf_4ea0_8eb3_8664_9e37_79b9;

pub(crate) fn token_of(n: usize) -> Uuid {
    Uuid::from_u128(TOKEN_KEY ^ (n as u128) << 64 ^ (n as u128))
}

fn client_of(token: &str) -> usize {
    let token = Uuid::parse_str(token).expect("a token").as_u128() ^ TOKEN_KEY;
    let n = token as u64;
    assert_eq!(token, u128::from(n) << 64 | u128::from(n), "a token that was never issued");
    n as usize
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Connects,
    Disconnects,
}

/// The outcome of a callback, as far as it matters to the stream.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub outcome: Outcome,
    event: Option<Rc<[u8]>>,
    close: bool,
    grant: Grant,
}

/// Flawed bodies of a 2xx, and what is still valid in them: an event with this data, a close.
const FLAWED: [(Option<&str>, Option<&str>, bool); 9] = [
    (None, None, false),
    (Some("OK"), None, false),
    (Some(" \r\n"), None, false),
    (Some(r#"{"close":true"#), None, false),
    (Some(r#"{"close":1,"more":null}"#), None, false),
    (Some(r#"{"event":1,"close":true}"#), None, true),
    (Some(r#"{"event":{"name":"n"},"close":true}"#), None, true),
    (Some(r#"{"event":{"data":"d","name":"a\nb"},"close":true}"#), None, true),
    (Some(r#"{"event":{"data":"d","name":7},"close":1}"#), Some("d"), false),
];

pub(crate) const FLAWED_KINDS: usize = FLAWED.len();

impl Reply {
    pub(crate) fn accept(status: u16, event: Option<&Event>, close: bool) -> Self {
        let fields = event.map(Event::json).into_iter().chain(close.then(|| r#""close":true"#.to_owned()));
        let body = format!("{{{}}}", Vec::from_iter(fields).join(","));
        let outcome = Outcome::Answered { status, passed: Vec::new(), body: Some(body.into_bytes()), in_doubt: false };
        Self { outcome, event: event.map(Event::frame), close, grant: Grant::default() }
    }

    /// Whether it is a 2xx with a body as it should be.
    pub(crate) fn is_plain(&self) -> bool {
        let is_json =
            |body: &Vec<u8>| body.starts_with(b"{") && serde_json::from_slice::<serde_json::Value>(body).is_ok();
        matches!(&self.outcome, Outcome::Answered { status: 200..=299, body: Some(body), .. } if is_json(body))
    }

    /// The same with groups.
    pub(crate) fn into_groups(mut self, grant: Grant) -> Self {
        if let Outcome::Answered { body: Some(body), .. } = &mut self.outcome {
            let rest = if body.len() > 2 { "," } else { "" };
            body.splice(..1, format!("{{{}{rest}", grant.fields().join(",")).into_bytes());
        }
        self.grant = grant;
        self
    }

    /// The same without groups.
    pub(crate) fn out_of_groups(mut self) -> Self {
        if let Outcome::Answered { body: Some(body), .. } = &mut self.outcome
            && (!self.grant.groups.is_empty() || self.grant.attach)
        {
            let fields = self.grant.fields().join(",");
            *body = String::from_utf8_lossy(body).replacen(&fields, r#""x":0"#, 1).into_bytes();
        }
        self.grant = Grant::default();
        self
    }

    /// The groups to one of which it must be possible to attach, if it says so.
    pub(crate) fn attaches_to(&self) -> Option<&[usize]> {
        self.grant.attach.then_some(&self.grant.groups)
    }

    /// The same whatever there is.
    pub(crate) fn attach_anyway(&mut self) {
        self.grant.attach = false;
        if let Outcome::Answered { body: Some(body), .. } = &mut self.outcome {
            *body = String::from_utf8_lossy(body).replacen(r#""attach":true"#, r#""attach":false"#, 1).into_bytes();
        }
    }

    /// A 2xx whose body is missing or flawed.
    pub(crate) fn flawed(status: u16, kind: usize) -> Self {
        let (body, data, close) = FLAWED[kind];
        let body = body.map(|body| body.as_bytes().to_vec());
        let event = data.map(|data| Event { data: data.to_owned(), ..Event::default() }.frame());
        let outcome = Outcome::Answered { status, passed: Vec::new(), body, in_doubt: false };
        Self { outcome, event, close, grant: Grant::default() }
    }

    pub(crate) fn reject(status: u16) -> Self {
        let passed = vec![(PassedHeader::RetryAfter, b"7".to_vec())];
        Self::without_event(Outcome::Answered { status, passed, body: None, in_doubt: false })
    }

    /// The answer to a second attempt, after a first one was written to a connection that closed.
    pub(crate) fn retried(mut self) -> Self {
        if let Outcome::Answered { in_doubt, .. } = &mut self.outcome {
            *in_doubt = true;
        }
        self
    }

    /// No answer within the timeout, and perhaps one later.
    pub(crate) fn overdue() -> Self {
        Self::without_event(Outcome::Overdue)
    }

    /// No answer, or none in time. `written`: the backend may have accepted all the same.
    pub(crate) fn broken(timed_out: bool, written: bool) -> Self {
        let outcome = if timed_out { Outcome::TimedOut { written } } else { Outcome::Unavailable { written } };
        Self::without_event(outcome)
    }

    fn without_event(outcome: Outcome) -> Self {
        Self { outcome, event: None, close: false, grant: Grant::default() }
    }
}

/// Splits a callback's body (docs/protocol.md, sections 3 and 6) into action, reason, token and request.
fn parse(body: &str) -> Option<(&str, &str, &str, &str)> {
    let rest = body.strip_prefix(r#"{"action":""#)?;
    let (action, rest) = rest.split_once(r#"","#)?;
    let (reason, rest) = match rest.strip_prefix(r#""reason":""#) {
        Some(rest) => rest.split_once(r#"","#)?,
        None => ("", rest),
    };
    let (token, rest) = rest.strip_prefix(r#""token":""#)?.split_once(r#"","request":"#)?;
    Some((action, reason, token, rest.strip_suffix('}')?))
}

impl Oracle {
    /// How many of `limit` callbacks in flight may be of one kind.
    fn lane_limit(&self, limit: usize) -> usize {
        if limit <= 1 || self.is_draining() { limit } else { limit - (limit / 64).max(1) }
    }

    /// Whether a callback of that kind could be made at once.
    pub(super) fn may_call(&self, lane: Lane) -> bool {
        let is_timed = self.failing_since.is_some() || self.disconnect_at > 0;
        let waits = self.waits_for_time(lane) || (is_timed && self.holds_deadlines());
        !waits && self.has_place(lane, self.call_limit)
    }

    /// Whether callbacks of that kind wait for something else than a place.
    fn waits_for_time(&self, lane: Lane) -> bool {
        match lane {
            Lane::Connects => self.awaits_start() || self.spares_backend() || self.is_draining(),
            Lane::Disconnects => {
                let in_flight = self.flying[Lane::Disconnects as usize];
                self.disconnect_at > 0 && (self.now < self.disconnect_at || in_flight > 0)
            }
        }
    }

    /// Whether another callback of that kind may be in flight, if `limit` may be. The last places may be kept for certain
    /// connects.
    fn has_place(&self, lane: Lane, limit: usize) -> bool {
        let flying = self.flying.iter().sum::<usize>();
        let is_kept = lane == Lane::Connects && 8 * flying >= 7 * self.settings.callback_concurrency;
        flying < limit && self.flying[lane as usize] < self.lane_limit(limit) && !is_kept
    }

    /// A turn ends: no callback waits for others that hang, unless as many are in flight as there may be.
    pub(super) fn check_tried(&self) {
        let is_still = self.now > self.call_moved_at + millis(self.settings.callback_timeout) / STILL_PART + 1;
        for lane in [Lane::Connects, Lane::Disconnects] {
            let stuck =
                is_still && !self.waits_for_time(lane) && self.has_place(lane, self.settings.callback_concurrency);
            let streams = self.exchanges[self.settled..].iter().filter_map(|exchange| exchange.stream.as_ref());
            let mut waiting = streams.filter(|stream| match lane {
                Lane::Connects => stream.phase == Phase::Connecting && !stream.called,
                Lane::Disconnects => stream.phase == Phase::Over && stream.owes_disconnect() && stream.disconnects == 0,
            });
            assert!(!stuck || waiting.next().is_none(), "calls that hang keep others from being tried");
        }
    }

    /// Whether a connect would come too soon after the last one to a backend that has been down for long.
    fn spares_backend(&self) -> bool {
        let is_long = self.failing_since.is_some_and(|since| self.connect_called_at >= since + OUTAGE_SHORT);
        let retries = self.settings.connect_failure == ConnectFailure::Retry;
        retries && is_long && self.now < self.connect_called_at + TRY_INTERVAL
    }

    /// The outage as the gateway may see it in this turn: its start and its last moment.
    pub(super) fn note_outage(&mut self, is_failure: bool) {
        let (now, is_on) = (self.now, self.failing_since.is_some());
        if is_failure {
            let since = *self.failing_since.get_or_insert(now);
            // One that has ended in this turn still explains what is written in it.
            self.outage = (if !is_on && self.outage.1 == now { self.outage.0 } else { since }, now);
        } else if is_on {
            self.failing_since = None;
            self.outage.1 = now;
        }
    }

    /// The most that a failed connect may be told to wait, in milliseconds.
    pub(super) fn retry_max(&self, usual: u32) -> u32 {
        let (since, last) = self.outage;
        let until = if self.failing_since.is_some() { self.now } else { last };
        (usual + usual / 5).max(((until - since) as u32).min(RETRY_MAX))
    }

    /// The gateway makes a callback; returns its client and its kind.
    pub(crate) fn called(&mut self, call: &Call) -> (usize, Lane) {
        let mut body = Vec::new();
        call.write_body(&mut body);
        assert_eq!(body.len(), call.body_bytes());
        let text = std::str::from_utf8(&body).expect("a callback is text");
        let (action, reason, token, request) = parse(text).unwrap_or_else(|| panic!("a bad callback: {text}"));
        let n = client_of(token);
        assert_eq!(call.token, token_of(n));
        assert!(self.call_ids.insert(call.id), "the id of a callback is reused");
        let lane = match call.kind {
            CallKind::Start => panic!("a callback about no stream"),
            CallKind::Connect => Lane::Connects,
            CallKind::Disconnect { .. } => Lane::Disconnects,
        };
        self.flying[lane as usize] += 1;
        self.call_moved_at = self.now;
        if self.flying[lane as usize] > self.lane_limit(self.settings.callback_concurrency) {
            // A drain may have begun.
            self.timers_run();
        }
        let limit = self.settings.callback_concurrency;
        assert!(self.flying.iter().sum::<usize>() <= limit, "too many callbacks at once");
        assert!(self.flying[lane as usize] <= self.lane_limit(limit), "one kind of callback takes all workers");
        let it = &mut self.exchanges[n];
        if it.wild && it.stream.is_none() {
            // Only now is it known that its client requested a stream.
            let value: serde_json::Value = serde_json::from_str(request).expect("a request is quoted as JSON");
            assert!(value["url"].is_string() && value["headers"].is_object(), "{request}");
            it.stream = Some(Stream { quoted: request.into(), ..Stream::default() });
        }
        let quoted = it.stream.as_ref().map(|stream| &*stream.quoted);
        assert_eq!(quoted, Some(request), "a wrong request is quoted");
        match call.kind {
            CallKind::Start => {}
            CallKind::Connect => {
                assert_eq!((action, reason), ("connect", ""));
                self.connect_called(n);
            }
            CallKind::Disconnect { reason: told, detail } => {
                assert_eq!((action, reason), ("disconnect", told.as_str()));
                self.disconnect_called(n, told, detail);
            }
        }
        (n, lane)
    }

    fn connect_called(&mut self, n: usize) {
        assert!(!self.awaits_start(), "a connect before the backend has accepted the start");
        assert!(!self.spares_backend(), "a dead backend is tried too often");
        assert!(self.drain_at.is_none_or(|at| self.now < at), "a connect once the drain is due");
        self.connect_called_at = self.now;
        let it = &mut self.exchanges[n];
        let stream = it.stream.as_mut().expect("a connect without a stream");
        assert!(!stream.called, "a second connect");
        // Bytes after the GET, in the same input, may have ended the stream at once.
        let waits = stream.phase == Phase::Connecting || stream.asked_input == self.input;
        assert!(waits || it.wild, "a connect that no client waits for");
        stream.called = true;
        stream.answer_by = self.now + millis(self.settings.callback_timeout) + GRACE;
    }

    fn disconnect_called(&mut self, n: usize, reason: Reason, detail: Option<Detail>) {
        let explained = self.exchanges[n].stream.as_ref().is_some_and(|stream| {
            let is_cause = [stream.cause, stream.or_else].contains(&Some((reason, detail)));
            stream.owes_disconnect() && stream.phase == Phase::Over && is_cause
        });
        if !explained && !self.may_have_ended(n, Some((reason, detail))) {
            self.timers_run();
        }
        let it = &mut self.exchanges[n];
        let stream = it.stream.as_mut().expect("a disconnect without a stream");
        assert!(stream.owes_disconnect(), "a disconnect for a stream that was not accepted, or not yet");
        let number = *stream.disconnect_number.get_or_insert(self.disconnected.len());
        stream.owed_at.get_or_insert(self.now);
        assert!(self.undelivered.range(..number).next().is_none(), "a disconnect before one that is made again");
        let alone = self.disconnect_at == 0 || self.flying[Lane::Disconnects as usize] == 1;
        assert!(self.now >= self.disconnect_at && alone, "a disconnect made again too soon");
        if self.undelivered.remove(&number) {
            return;
        }
        self.disconnected.push(n);
        stream.disconnects += 1;
        assert_eq!(stream.disconnects, 1, "a second disconnect");
        let accepted = matches!(stream.outcome, Some(Outcome::Answered { .. }));
        if it.wild && accepted {
            return;
        }
        assert!(stream.phase == Phase::Over || it.wild, "a disconnect of a live stream");
        let (cause, or_else) = (stream.cause, stream.or_else);
        // Whether the client of a stream that is not followed had been told of a timeout before is not known.
        let may_be_late = it.wild && detail == Some(Detail::ConnectTimeout);
        let explained = may_be_late || [cause, or_else].contains(&Some((reason, detail)));
        assert!(explained, "a disconnect with a wrong reason: {reason:?} {detail:?}, not {cause:?}");
    }

    /// The gateway receives the outcome of a callback.
    pub(crate) fn call_ended(&mut self, n: usize, lane: Lane, reply: &Reply) {
        self.flying[lane as usize] -= 1;
        self.call_moved_at = self.now;
        self.input += 1;
        if lane == Lane::Connects {
            self.note_outage(match &reply.outcome {
                Outcome::Answered { status, .. } => matches!(status, 500 | 502 | 503 | 504),
                Outcome::Unavailable { .. } | Outcome::Overdue | Outcome::TimedOut { .. } => true,
            });
            self.connect_answered(n, reply);
        } else {
            self.disconnect_ended(n, &reply.outcome);
        }
    }

    /// Notes when disconnects came to be owed.
    pub(super) fn note_owed(&mut self) {
        let now = self.now;
        for stream in self.exchanges[self.settled..].iter_mut().filter_map(|exchange| exchange.stream.as_mut()) {
            if stream.phase == Phase::Over && stream.owes_disconnect() {
                stream.owed_at.get_or_insert(now);
            }
        }
    }

    fn disconnect_ended(&mut self, n: usize, outcome: &Outcome) {
        let stream = self.exchanges[n].stream.as_ref().expect("a disconnect without a stream");
        let (Some(number), Some(owed_at)) = (stream.disconnect_number, stream.owed_at) else { return };
        let undelivered =
            matches!(outcome, Outcome::Unavailable { written: false } | Outcome::TimedOut { written: false });
        if !undelivered {
            self.disconnect_at = 0;
        } else if self.now < owed_at + millis(self.settings.disconnect_retry) {
            self.disconnect_at = self.now + TRY_INTERVAL;
            self.undelivered.insert(number);
        }
    }

    /// The gateway receives the outcome of a connect that was overdue.
    pub(crate) fn late_call_ended(&mut self, n: usize, reply: &Reply) {
        self.input += 1;
        let stream = self.exchanges[n].stream.as_mut().expect("a late answer without a stream");
        // It has no effect once the drain no longer awaits it.
        if stream.outcome != Some(Outcome::Overdue) {
            return;
        }
        if matches!(reply.outcome, Outcome::Answered { status: 300.., .. }) {
            stream.cause = Some((Reason::Error, Some(Detail::ConnectBroken)));
        }
        stream.outcome = Some(reply.outcome.clone());
    }

    /// In a drain late answers are awaited only until the disconnects need the rest of its time; after that their
    /// connects count as possibly accepted.
    pub(super) fn give_up_late(&mut self) {
        let (whole, call) = (millis(self.settings.shutdown_timeout), millis(self.settings.callback_timeout));
        let wait = (whole * 9 / 10).saturating_sub(call).max(whole / 4).min(whole / 2);
        let until = self.drained_at.map(|at| at + wait);
        if until.is_none_or(|until| self.now < until) {
            return;
        }
        let streams = self.exchanges.iter_mut().filter_map(|exchange| exchange.stream.as_mut());
        for stream in streams.filter(|stream| stream.outcome == Some(Outcome::Overdue)) {
            stream.outcome = Some(Outcome::TimedOut { written: true });
        }
    }

    fn connect_answered(&mut self, n: usize, reply: &Reply) {
        let (now, input) = (self.now, self.input);
        let it = &mut self.exchanges[n];
        let Some(stream) = &mut it.stream else { panic!("an answer without a stream") };
        assert!(stream.called && stream.outcome.is_none(), "an unexpected outcome");
        let waited = stream.phase == Phase::Connecting && !it.wild;
        let (status, error, retries, doubt) = match &reply.outcome {
            Outcome::Answered { status, in_doubt, .. } => {
                let temporary = matches!(status, 500 | 502 | 503 | 504);
                let doubt = (*in_doubt && !(200..300).contains(status)).then_some(Detail::ConnectBroken);
                (*status, format!("Backend returned {status}"), temporary, doubt)
            }
            Outcome::Unavailable { .. } => (503, "Backend unavailable".to_owned(), true, Some(Detail::ConnectBroken)),
            Outcome::Overdue | Outcome::TimedOut { .. } => {
                (504, "Gateway timeout".to_owned(), true, Some(Detail::ConnectTimeout))
            }
        };
        stream.outcome = Some(reply.outcome.clone());
        let accepted = (200..300).contains(&status);
        stream.opened_at = now;
        if waited && accepted && (!reply.grant.groups.is_empty() || reply.grant.attach) {
            return self.open_member(n, &reply.grant, reply.event.as_ref(), reply.close);
        }
        if waited && accepted {
            let heartbeat = millis(self.settings.heartbeat_interval);
            stream.open(now, heartbeat, self.settings.reconnect_delay_ms, reply.event.clone(), reply.close);
        } else if waited {
            stream.verdict = Some(Verdict::Failed { status, error, retries });
            stream.phase = Phase::Over;
        }
        let had_timed_out = stream.cause == Some((Reason::Error, Some(Detail::ConnectTimeout)));
        let was_answered = matches!(reply.outcome, Outcome::Answered { .. });
        if let Some(detail) = doubt.filter(|_| was_answered || !had_timed_out) {
            stream.cause = Some((Reason::Error, Some(detail)));
        }
        if waited && accepted {
            let fields = [(stream.chunked, CHUNKED), (self.settings.cors == Cors::Any, ANY_ORIGIN)];
            let fields = fields.iter().filter(|(there, _)| *there).map(|(_, field)| field.len()).sum::<usize>();
            let frames = stream.expected.iter().map(|expected| match expected {
                Expected::Frame(frame) => frame.len(),
                Expected::Retry(_) | Expected::RetryUpTo(..) => "retry: \n\n".len(),
            });
            let frames: usize = frames.sum();
            if it.backlog == 0 {
                it.progress_at = now;
            }
            it.backlog += STREAM_HEAD.len() + fields;
            if frames > 0 {
                it.pile(frames, input);
            }
            if it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Open) {
                self.make_held_changes(n);
            }
        }
    }

    /// At the end every accepted stream has had exactly one disconnect.
    pub(crate) fn check_disconnects(&self) {
        assert!(self.undelivered.is_empty(), "disconnects that are not made again");
        for (n, exchange) in self.exchanges.iter().enumerate() {
            if let Some(stream) = &exchange.stream {
                let owed = u32::from(stream.owes_disconnect());
                assert_eq!(stream.disconnects, owed, "client {n}: wrong number of disconnects");
            }
        }
    }
}
