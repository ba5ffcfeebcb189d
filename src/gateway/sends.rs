//! Sends to streams: the body of `POST /internal/send`.

use super::answers::ConnectResult;
use super::connection::{Connection, State};
use super::results::{Asked, SendResult};
use super::shared::Shared;
use crate::callback::Detail;
use crate::clock::Millis;
use crate::hub::{EndReason, Watched};
use crate::planted;
use crate::send::{self, GroupIds, SendCommand, Target};
use crate::table::Table;

impl Shared {
    /// Executes the body of a send.
    pub(super) fn send(&mut self, now: Millis, connections: &mut Table<Connection>, body: &[u8]) -> SendResult {
        let mut scratch = std::mem::take(&mut self.send_scratch);
        let result = match send::parse(body, &mut scratch, self.group_ids()) {
            Ok(command) => {
                self.hints.fields(body);
                self.execute(now, connections, body, &command)
            }
            Err(error) => SendResult::Invalid(error),
        };
        self.send_scratch = scratch;
        result
    }

    /// Executes the body of a send that comes behind others whose results come over Redis, if its own does, too. `None`:
    /// nothing is done.
    pub(super) fn send_behind(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        body: &[u8],
    ) -> Option<Asked> {
        let mut scratch = std::mem::take(&mut self.send_scratch);
        let asked = match send::parse(body, &mut scratch, self.group_ids()) {
            Ok(command) if self.is_elsewhere(connections, &command.target) => {
                self.hints.fields(body);
                match self.execute(now, connections, body, &command) {
                    SendResult::Asked(asked) => Some(asked),
                    _ => None,
                }
            }
            Ok(_) | Err(_) => None,
        };
        self.send_scratch = scratch;
        asked
    }

    /// Whether a send to that target is executed by way of Redis.
    fn is_elsewhere(&self, connections: &mut Table<Connection>, target: &Target<'_>) -> bool {
        match target {
            Target::Token(token) => self.stream_named(connections, token).is_none() && self.owner_of(token).is_some(),
            Target::Group(_) | Target::Groups(_) => self.engine.link.is_some(),
        }
    }

    /// Who gives the events of groups their ids.
    pub(super) fn group_ids(&self) -> GroupIds {
        if self.hub.groups.has_history() { GroupIds::Gateway } else { GroupIds::Backend }
    }

    #[inline(always)]
    pub(super) fn execute(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        body: &[u8],
        command: &SendCommand<'_>,
    ) -> SendResult {
        if command.events.is_empty() && !command.close && !command.end {
            self.hints.missing_event(body);
        }
        let token = match &command.target {
            Target::Token(token) => token,
            Target::Group(name) => return self.publish(now, std::slice::from_ref(name), command),
            Target::Groups(names) => return self.publish(now, names, command),
        };
        let Some(connection) = self.stream_named(connections, token) else {
            return self.owner_of(token).map_or(SendResult::NotFound, |owner| SendResult::Asked(Asked::Gateway(owner)));
        };
        let pending_max = self.settings.pending_bytes_max;
        let events = command.events.as_slice();
        match &mut connection.state {
            State::Connecting(connecting) => {
                if connecting.held_close {
                    return SendResult::NotFound;
                }
                if !events.is_empty() {
                    if connecting.held.len() > pending_max {
                        self.stop_connecting(
                            now,
                            connection,
                            EndReason::error(Detail::SlowConsumer),
                            ConnectResult::Overflow,
                        );
                        return SendResult::Failed;
                    }
                    events.iter().for_each(|event| event.write(&mut connecting.held));
                    connecting.held_events += events.len() as u64;
                }
                connecting.held_close = command.close;
                self.count_unsent(connection);
                if command.close {
                    let token = connection.token;
                    self.tell_watchers(|| Watched::Token(token));
                }
                SendResult::Buffered
            }
            State::Streaming(streaming) => {
                let is_plain = streaming.reached.is_plain();
                // An off-by-one error at a limit.
                let pending_max =
                    pending_max - usize::from(pending_max > 0 && planted::is("backlog-may-not-reach-its-limit"));
                if !events.is_empty() && connection.out.is_overdue(now, pending_max) {
                    self.cut_stream(now, connection, EndReason::error(Detail::SlowConsumer));
                    let id = connection.id;
                    self.settle(now, connections, id);
                    return SendResult::Failed;
                }
                if !is_plain {
                    let id = connection.id;
                    let result = self.send_to_member(now, connection, events, command.close);
                    if result == SendResult::Failed {
                        self.settle(now, connections, id);
                    }
                    return result;
                }
                if !events.is_empty() {
                    let write = |out: &mut Vec<u8>| events.iter().for_each(|event| event.write(out));
                    self.write_events(now, connection, events.len() as u64, write);
                }
                if command.close {
                    self.end_stream(now, connection, EndReason::SERVER_CLOSED);
                }
                SendResult::Ok
            }
            State::Reading(_) | State::Answering(_) | State::Feeding(_) | State::Closing(_) | State::Closed(_) => {
                debug_assert!(false, "a token names what is no stream");
                SendResult::NotFound
            }
        }
    }
}
