//! The end of a stream: clean or cut, and the disconnect that follows it.

use super::actions::CloseMode;
use super::answers::ConnectResult;
use super::connection::{Accepted, Closing, Connecting, Connection, State};
use super::shared::Shared;
use crate::callback::{CallId, Detail, Request};
use crate::clock::Millis;
use crate::hub::{EndReason, Pending, PendingDisconnect};
use crate::planted;
use log::info;
use uuid::Uuid;

impl Shared {
    /// A clean end: queued output, the end of the body, then the close.
    pub(super) fn end_stream(&mut self, now: Millis, connection: &mut Connection, ending: EndReason) {
        self.retire_stream(connection, ending);
        self.finish_body(now, connection);
    }

    pub(super) fn finish_body(&mut self, now: Millis, connection: &mut Connection) {
        self.outbox.end_body(now, &mut connection.out);
        self.start_closing(connection);
    }

    /// The client has left, so there is no output.
    pub(super) fn lose_client(&mut self, connection: &mut Connection, ending: EndReason) {
        self.retire_stream(connection, ending);
        self.close(connection, CloseMode::Graceful);
    }

    /// An end that the client must be able to distinguish from a clean one.
    pub(super) fn cut_stream(&mut self, now: Millis, connection: &mut Connection, ending: EndReason) {
        // A false clean end: the client cannot know that events are missing.
        if planted::is("cut-stream-ends-as-if-complete") {
            return self.end_stream(now, connection, ending);
        }
        self.retire_stream(connection, ending);
        // Without chunks an end of input would look complete, hence a reset, although it destroys unread bytes.
        if !connection.out.is_chunked() || planted::is("cut-stream-is-reset") {
            return self.close(connection, CloseMode::Abort);
        }
        self.cut(now, connection);
    }

    /// The stream, open or not, is over: its token is removed, and its disconnect queued.
    pub(super) fn retire_stream(&mut self, connection: &mut Connection, ending: EndReason) {
        if !connection.is_stream() {
            return;
        }
        let closing = State::Closing(Closing::Flushing);
        match std::mem::replace(&mut connection.state, closing) {
            State::Connecting(connecting) => {
                self.stats.connect(ConnectResult::ClientLeft);
                self.withdraw_token(connection);
                let Connecting { call, accepted, .. } = *connecting;
                self.abandon(connection, call, accepted, ending);
            }
            State::Streaming(mut streaming) => {
                if !self.following.is_empty() {
                    self.following.forget(connection.id);
                }
                if !streaming.reached.is_plain() {
                    self.hub.groups.leave_all(&mut streaming.joined);
                    if streaming.reached.is_lagging() {
                        self.delivery.lagging.remove(&connection.id.slot());
                        self.pages.forget(connection.id);
                    }
                    if streaming.reached.has_tail() {
                        self.delivery.tails.remove(&connection.id.slot());
                    }
                }
                self.withdraw_token(connection);
                self.stats.streams_open -= 1;
                self.budget.release(streaming.request.json().len());
                self.queue_disconnect(connection.token, streaming.request, ending);
            }
            State::Reading(_) | State::Answering(_) | State::Feeding(_) | State::Closing(_) | State::Closed(_) => {}
        }
    }

    /// Nobody waits for the backend's answer any more, which may be here already.
    pub(super) fn abandon(
        &mut self,
        connection: &Connection,
        call: CallId,
        accepted: Option<Accepted>,
        ending: EndReason,
    ) {
        match accepted {
            Some(Accepted { request, .. }) => {
                self.following.forget(connection.id);
                self.queue_disconnect(connection.token, request, ending);
            }
            None => self.hub.calls.abandon(call, ending),
        }
    }

    /// The caller starts the calls.
    pub(super) fn queue_disconnect(&mut self, token: Uuid, request: Request, ending: EndReason) {
        let detail = ending.detail.map_or("none", Detail::as_str);
        info!(token = token.to_string(), reason = ending.reason.as_str(), detail; "stream closed");
        self.stats.disconnect(ending);
        self.hub.calls.queue(Pending::Disconnect(PendingDisconnect { token, request, ending }));
    }
}
