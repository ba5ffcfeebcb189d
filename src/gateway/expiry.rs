//! Deadlines of connections, and the drain.

use super::actions::{Action, CloseMode};
use super::answers::{ConnectResult, Refusal};
use super::connection::{Closing, Connection, Input, State};
use super::deadlines;
use super::shared::Shared;
use crate::callback::{Detail, Reason};
use crate::clock::Millis;
use crate::hub::EndReason;
use crate::planted;
use crate::table::Table;
use std::time::Duration;

/// The end of a stream that has lived as long as it may.
const EXPIRED: EndReason = EndReason { reason: Reason::ServerClosed, detail: Some(Detail::Expired) };

impl Shared {
    /// The connection's deadline has passed.
    pub(super) fn time_out(&mut self, now: Millis, connection: &mut Connection) {
        let is_stalled = deadlines::is_stalled(now, connection, &self.settings);
        let waits = self.waits_for_page(connection);
        match &mut connection.state {
            // Redis is slow, or away, and not its client.
            State::Streaming(_) if is_stalled && waits => connection.out.touch(now),
            State::Connecting(_) | State::Streaming(_) if is_stalled => {
                self.cut_stream(now, connection, EndReason::error(Detail::ClientTimeout));
            }
            State::Reading(_) | State::Answering(_) | State::Feeding(_) if is_stalled => {
                self.break_off_feed(now, connection);
                self.close(connection, CloseMode::Abort);
            }
            State::Reading(reading) if reading.has_begun() => self.refuse(now, connection, Refusal::Timeout),
            State::Reading(_) => self.read_last(connection),
            State::Connecting(connecting) => {
                let call = connecting.call;
                self.connect_timed_out(now, connection, call);
            }
            State::Streaming(streaming) => {
                // From the last one, not from now, so that heartbeats do not drift. Those missed in a jump of the clock
                // are not repeated.
                let interval = (self.settings.heartbeat_interval.as_millis() as u64).max(1);
                // Only a jump of the clock shows it.
                let caught_up = planted::is("missed-heartbeats-are-caught-up");
                let missed = if caught_up { 0 } else { now.since(streaming.heartbeat_at) / interval };
                let ahead = Duration::from_millis(interval.saturating_mul(missed + 1));
                streaming.heartbeat_at = streaming.heartbeat_at.after(ahead);
                // A drift of a few milliseconds per heartbeat.
                if planted::is("heartbeat-drifts") {
                    streaming.heartbeat_at = now.after(self.settings.heartbeat_interval);
                }
                self.beat(now, connection);
            }
            State::Closing(Closing::Lingering { .. }) => self.close(connection, CloseMode::Graceful),
            State::Closing(Closing::Flushing | Closing::Cut { .. }) => self.close(connection, CloseMode::Abort),
            State::Answering(_) | State::Feeding(_) | State::Closed(_) => {}
        }
    }

    /// Ends streams that have lived as long as they may: at most so many. `true` if there may be more.
    pub(super) fn expire_streams(&mut self, now: Millis, connections: &mut Table<Connection>, at_most: usize) -> bool {
        self.deadlines.bound_expiries(self.stats.streams_open, connections);
        for _ in 0..at_most {
            let Some(id) = self.deadlines.pop_expiry(now) else { return false };
            let Some(connection) = connections.get_mut(id) else { continue };
            self.catch_up(now, connection);
            self.end_in_order(now, connection, EXPIRED);
            self.settle(now, connections, id);
        }
        true
    }

    /// The drain reaches a connection.
    pub(super) fn drain(&mut self, now: Millis, connection: &mut Connection) {
        match &mut connection.state {
            State::Reading(_) | State::Feeding(_) => self.read_last(connection),
            State::Connecting(_) => {
                self.stop_connecting(now, connection, EndReason::SHUTDOWN, ConnectResult::ShuttingDown);
            }
            State::Streaming(_) => self.drain_stream(now, connection),
            State::Closing(Closing::Lingering { until } | Closing::Cut { until }) => {
                *until = deadlines::linger_until(now, true).min(*until);
            }
            // A deferred answer goes first.
            State::Answering(_) | State::Closing(Closing::Flushing) | State::Closed(_) => {}
        }
    }

    /// Has the connection read once more before it ends, so that a request that has just arrived is still answered.
    fn read_last(&mut self, connection: &mut Connection) {
        if connection.input == Input::Open {
            connection.input = Input::Ending;
            self.outbox.act(Action::ReadLast(connection.id));
        }
    }

    /// The connection has been read once more.
    pub(super) fn end_reading(&mut self, now: Millis, connection: &mut Connection) {
        if connection.input != Input::Ending {
            return;
        }
        connection.input = Input::Open;
        let is_draining = self.shutdown.is_draining();
        let has_begun = match &connection.state {
            State::Reading(reading) => reading.has_begun(),
            State::Feeding(_) if is_draining => return self.refuse_feed(now, connection, Refusal::ShuttingDown),
            State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Streaming(_)
            | State::Closing(_)
            | State::Closed(_) => return,
        };
        if !is_draining && !deadlines::is_due(now, connection, &self.settings) {
            return;
        }
        if has_begun {
            self.refuse(now, connection, if is_draining { Refusal::ShuttingDown } else { Refusal::Timeout });
        } else {
            self.start_closing(connection);
        }
    }
}
