//! What time does to a connection: its deadline comes, or the drain reaches it.

use super::actions::CloseMode;
use super::answers::{ConnectResult, Refusal};
use super::connection::{Closing, Connection, State};
use super::deadlines;
use super::shared::Shared;
use crate::callback::Detail;
use crate::clock::Millis;
use crate::hub::EndReason;
use crate::planted;
use std::time::Duration;

impl Shared {
    /// The connection's deadline has come.
    pub(super) fn time_out(&mut self, now: Millis, connection: &mut Connection) {
        let is_stalled = deadlines::is_stalled(now, connection, &self.settings);
        match &mut connection.state {
            State::Connecting(_) | State::Streaming(_) if is_stalled => {
                self.cut_stream(now, connection, EndReason::error(Detail::ClientTimeout));
            }
            State::Reading(_) | State::Answering(_) if is_stalled => self.close(connection, CloseMode::Abort),
            State::Reading(reading) if reading.has_begun() => self.refuse(now, connection, Refusal::Timeout),
            State::Reading(_) => self.close(connection, CloseMode::Graceful),
            State::Connecting(connecting) => {
                let call = connecting.call;
                self.connect_timed_out(now, connection, call);
            }
            State::Streaming(streaming) => {
                // From the last one, not from now: heartbeats do not drift. What a jump of the clock
                // left out stays out.
                let interval = (self.settings.heartbeat_interval.as_millis() as u64).max(1);
                // What only a clock that jumps shows.
                let caught_up = planted::is("missed-heartbeats-are-caught-up");
                let missed = if caught_up { 0 } else { now.since(streaming.heartbeat_at) / interval };
                let ahead = Duration::from_millis(interval.saturating_mul(missed + 1));
                streaming.heartbeat_at = streaming.heartbeat_at.after(ahead);
                // A drift of a few milliseconds a beat.
                if planted::is("heartbeat-drifts") {
                    streaming.heartbeat_at = now.after(self.settings.heartbeat_interval);
                }
                self.beat(now, connection);
            }
            State::Closing(Closing::Lingering) => self.close(connection, CloseMode::Graceful),
            State::Closing(Closing::Flushing) => self.close(connection, CloseMode::Abort),
            State::Answering(_) | State::Closed(_) => {}
        }
    }

    /// The drain reaches a connection.
    pub(super) fn drain(&mut self, now: Millis, connection: &mut Connection) {
        match &connection.state {
            State::Reading(reading) if reading.has_begun() => self.refuse(now, connection, Refusal::ShuttingDown),
            State::Reading(_) if connection.out.is_empty() => self.close(connection, CloseMode::Graceful),
            State::Reading(_) => self.start_closing(connection),
            State::Connecting(_) => {
                self.stop_connecting(now, connection, EndReason::SHUTDOWN, ConnectResult::ShuttingDown);
            }
            State::Streaming(_) => self.drain_stream(now, connection),
            // What is owed is answered first.
            State::Answering(_) | State::Closing(_) | State::Closed(_) => {}
        }
    }
}
