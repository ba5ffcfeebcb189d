//! What a client gets in place of a stream: the answer to a connect that failed or was rejected, a `retry`, a 204.

use super::answers::{Answer, ConnectResult, ResponseMode};
use super::connection::{Closing, Connecting, Connection, State, StreamMode};
use super::settings::ConnectFailure;
use super::shared::Shared;
use crate::callback::{CallId, Detail, ExtraHeaders, Outcome, PassedHeader};
use crate::clock::Millis;
use crate::http::response;
use crate::hub::EndReason;
use crate::sse;
use std::time::Duration;

/// `retry` of a stream that failed to open, if `RECONNECT_DELAY_MILLISECONDS` is not set; the default of browsers.
const RETRY_DEFAULT_MS: u32 = 3000;

/// The longest `retry` of a stream that failed to open while the backend is down.
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Shared {
    /// Ends a client's wait for the backend without a stream: its token is removed.
    pub(super) fn give_up_connecting(&mut self, connection: &mut Connection) -> Option<Box<Connecting>> {
        let connecting = take_connecting(connection)?;
        self.withdraw_token(connection);
        Some(connecting)
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
        let Connecting { call, mode, accepted, .. } = *connecting;
        self.abandon(connection, call, accepted, ending);
        self.fail_connect(now, connection, &mode, failure);
    }

    /// The backend did not answer in time, and the worker did not report it.
    pub(super) fn connect_timed_out(&mut self, now: Millis, connection: &mut Connection, call: CallId) {
        let is_started = self.hub.calls.is_started(call);
        let failure = if is_started { ConnectResult::Timeout } else { ConnectResult::QueueTimeout };
        self.stop_connecting(now, connection, EndReason::error(Detail::ConnectTimeout), failure);
    }

    /// `passed` and `body` are what the client gets of the backend's answer.
    pub(super) fn reject(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        status: u16,
        passed: &[(PassedHeader, Vec<u8>)],
        body: Option<&[u8]>,
    ) {
        let Some(connecting) = self.give_up_connecting(connection) else { return };
        let mode = &connecting.mode;
        self.stats.connect(ConnectResult::Rejected);
        if self.settings.connect_failure == ConnectFailure::Retry && Outcome::is_temporary_status(status) {
            return self.write_retry_stream(now, connection, mode);
        }
        self.answer(now, connection, &Answer::rejection(status, passed, body, &mode.cors), ResponseMode::LAST);
        self.start_closing(connection);
    }

    pub(super) fn fail_connect(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        mode: &StreamMode,
        failure: ConnectResult,
    ) {
        match self.settings.connect_failure {
            ConnectFailure::Status => self.answer_failed_connect(now, connection, mode, failure),
            ConnectFailure::Retry => {
                self.stats.connect(failure);
                self.write_retry_stream(now, connection, mode);
            }
        }
    }

    pub(super) fn answer_failed_connect(
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
        self.write_stream_head(now, connection, mode, &ExtraHeaders::default());
        sse::write_retry(self.outbox.frames(now, &mut connection.out), delay);
        self.finish_body(now, connection);
    }

    /// The backend accepted, but nothing will come any more: 204, after which `EventSource` stays away.
    pub(super) fn answer_no_content(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        mode: &StreamMode,
        headers: &ExtraHeaders<'_>,
    ) {
        self.stats.connect(ConnectResult::NoContent);
        self.withdraw_token(connection);
        self.answer(now, connection, &Answer::no_content(&mode.cors, headers), ResponseMode::LAST);
        self.start_closing(connection);
    }

    pub(super) fn write_stream_head(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        mode: &StreamMode,
        headers: &ExtraHeaders<'_>,
    ) {
        let out = self.outbox.bytes(now, &mut connection.out);
        response::write_stream_head(out, &self.date, mode.chunked, &mode.cors, headers.iter());
        connection.out.set_chunked(mode.chunked);
        self.outbox.queue(connection.id, &mut connection.out);
    }
}

/// Ends a connection's wait for the backend, whatever its next state.
pub(super) fn take_connecting(connection: &mut Connection) -> Option<Box<Connecting>> {
    match std::mem::replace(&mut connection.state, State::Closing(Closing::Flushing)) {
        State::Connecting(connecting) => Some(connecting),
        other @ (State::Reading(_)
        | State::Answering(_)
        | State::Feeding(_)
        | State::Streaming(_)
        | State::Closing(_)
        | State::Closed(_)) => {
            debug_assert!(false, "no client waits here for the backend");
            connection.state = other;
            None
        }
    }
}
