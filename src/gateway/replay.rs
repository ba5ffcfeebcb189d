//! The start of a stream in groups: the client's position, a possible gap, and the first output (docs/protocol.md,
//! sections 12 and 13).

use super::connection::{Connecting, Connection, Resume, State};
use super::frames::{IdLine, Tail, first_frame_end, without_ids, write_frame};
use super::reached::Reached;
use super::results::SendResult;
use super::routes::query_value;
use super::shared::Shared;
use crate::callback::{self, Detail};
use crate::clock::Millis;
use crate::cursor::{Cursor, Position};
use crate::http::request::Head;
use crate::hub::{Completeness, EndReason, Standing};
use crate::planted;
use crate::sse::{self, Event};

/// The value of `since` for all kept events.
const SINCE_START: &str = "start";

/// The event in place of what may be missing.
const GAP: &[u8] = b"event: gap\ndata: \n\n";

/// How far the positions of other gateways may be ahead of those known here: a minute.
const AHEAD_MAX: Position = 60_000 << 18;

/// How a stream in groups starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The client's position.
    pub from: Position,
    pub is_resumable: bool,
    /// There are kept events after that.
    pub is_due: bool,
    /// Events may be missing.
    pub has_gap: bool,
    /// All of its groups have ended.
    pub is_over: bool,
}

impl Shared {
    /// The client's position, from the request for its stream.
    pub(super) fn read_resume(&self, head: &Head<'_, '_>) -> Resume {
        if !self.hub.groups.has_history() {
            return Resume::Live(0);
        }
        if let Some(id) = head.header("last-event-id").filter(|id| !id.is_empty()) {
            return Resume::Cursor(Cursor::parse(id));
        }
        match query_value(head, "last_event_id").filter(|id| !id.is_empty()) {
            Some(id) => Resume::Cursor(Cursor::parse(&id)),
            None => Resume::Live(self.hub.groups.head()),
        }
    }

    /// Where the client goes on, by its own cursor or else by the answer's; `None`: at the beginning.
    pub(super) fn resume_of(answer: &callback::Answer<'_>, resume: Resume) -> Option<Resume> {
        match (resume, answer.since.as_deref()) {
            (Resume::Live(_), Some(SINCE_START)) => None,
            (Resume::Live(_), Some(since)) => Some(Resume::Cursor(Cursor::parse(since.as_bytes()))),
            (resume @ (Resume::Live(_) | Resume::Cursor(_)), _) => Some(resume),
        }
    }

    /// Whether a cursor is one of ours. Other gateways may be ahead.
    fn is_ours(&self, cursor: Cursor) -> bool {
        let ahead = if self.engine.link.is_some() { AHEAD_MAX } else { 0 };
        // A missing gap after a restart.
        let is_of_epoch = cursor.epoch == self.engine.epoch() || planted::is("epochs-of-cursors-are-not-compared");
        is_of_epoch && cursor.position <= self.hub.groups.head() + ahead
    }

    /// How the stream begins in groups of these names; `None`: there are none. Errors: there is nothing to stream.
    pub(super) fn find_entry<S: AsRef<str>>(
        &mut self,
        names: &[S],
        attach: bool,
        resume: Option<Resume>,
    ) -> Result<Option<Entry>, Detail> {
        let groups = &self.hub.groups;
        let standings = || names.iter().map(|name| groups.standing(name.as_ref()));
        if attach && !standings().any(|standing| standing.is_some_and(|standing| standing.is_alive)) {
            return Err(Detail::NothingToAttach);
        }
        if names.is_empty() {
            return Ok(None);
        }
        let is_over = standings().all(|standing| standing.is_some_and(|standing| standing.is_ended));
        let head = groups.head();
        if !groups.has_history() {
            let entry = Entry { from: head, is_resumable: false, is_due: false, has_gap: false, is_over };
            return if is_over { Err(Detail::GroupEnded) } else { Ok(Some(entry)) };
        }
        let missing = |from| names.iter().map(|name| groups.completeness(name.as_ref(), from)).max();
        let ours = match resume {
            Some(Resume::Cursor(cursor)) => cursor.filter(|cursor| self.is_ours(*cursor)),
            Some(Resume::Live(_)) | None => None,
        };
        let counts = &mut self.stats.groups.replays;
        let (from, has_gap) = match resume {
            // All kept events: those of an unknown group cannot be missing.
            None => {
                let has_gap = missing(0) == Some(Completeness::Dropped);
                *(if has_gap { &mut counts.dropped } else { &mut counts.complete }) += 1;
                // What Redis has proves nothing of long ago: a client that leaves before its first event returns with a
                // position right before that.
                let is_near = self.engine.link.is_some() && !has_gap;
                let behind = || names.iter().filter_map(|name| groups.kept_behind(name.as_ref())).min();
                (if is_near { behind().unwrap_or(head) } else { 0 }, has_gap)
            }
            Some(Resume::Live(_)) if is_over => return Err(Detail::GroupEnded),
            // Events lost that are sent while the backend decides.
            Some(Resume::Live(_)) if planted::is("streams-begin-where-they-are-accepted") => (head, false),
            Some(Resume::Live(from)) => (from, missing(from) > Some(Completeness::Complete)),
            Some(Resume::Cursor(_)) => match ours {
                Some(Cursor { position, .. }) => {
                    let completeness = missing(position).unwrap_or(Completeness::Complete);
                    let count = match completeness {
                        Completeness::Complete => &mut counts.complete,
                        Completeness::Forgotten => &mut counts.forgotten,
                        Completeness::Dropped => &mut counts.dropped,
                    };
                    *count += 1;
                    let proved = planted::is("gaps-are-passed-over-in-silence");
                    (position, completeness > Completeness::Complete && !proved)
                }
                None => {
                    counts.unknown += 1;
                    (0, true)
                }
            },
        };
        // What was dropped here and is not missing, Redis has.
        let is_due_to = |standing: Standing| standing.newest_kept > Some(from) || (!has_gap && standing.newest > from);
        let is_due = standings().flatten().any(is_due_to);
        if is_over && !is_due && !has_gap {
            return Err(Detail::GroupEnded);
        }
        // A client may be ahead of this gateway.
        let from = if is_due { from } else { head.max(from) };
        Ok(Some(Entry { from, is_resumable: true, is_due, has_gap, is_over }))
    }

    /// Adds a newly opened stream to its groups.
    pub(super) fn enter<'n>(
        &mut self,
        connection: &mut Connection,
        names: impl Iterator<Item = (&'n str, bool)>,
        entry: Entry,
    ) {
        let slot = connection.id.slot();
        let State::Streaming(streaming) = &mut connection.state else { return };
        for (name, is_granted) in names {
            // Whoever is told of a gap goes on with what is here.
            let from = if entry.has_gap { self.hub.groups.kept_from(name, entry.from) } else { entry.from };
            self.hub.groups.join(slot, &mut streaming.joined, name, from, is_granted);
        }
        streaming.reached = Reached::new(entry.from, entry.is_resumable);
        self.set_lagging(connection, entry.is_due);
    }

    /// The start of a resumable stream after its head: the first block has the stream's position. Before a gap there is
    /// none: a client that leaves there returns with the cursor that it had, and gets the gap.
    pub(super) fn write_resumable_start(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        (answer, connecting): (&callback::Answer<'_>, &Connecting),
        entry: Entry,
    ) {
        let id = self.id_line(entry.from);
        let mut first = (!entry.has_gap).then_some(&id);
        if let Some(delay) = self.settings.reconnect_delay_ms {
            let retry = self.jitter.spread(delay);
            let out = self.outbox.frames(now, &mut connection.out);
            out.extend_from_slice(first.take().map_or(&[], IdLine::as_bytes));
            sse::write_retry(out, retry);
        }
        for event in &answer.events {
            self.hints.foreign_id(event);
            let mut frame = Vec::new();
            Event { id: None, ..event.clone() }.write(&mut frame);
            self.write_block(now, connection, &frame, first.take());
        }
        if entry.has_gap {
            self.write_block(now, connection, GAP, Some(&id));
        }
        let held = without_ids(&connecting.held);
        if entry.is_due {
            self.hold_back(now, connection, held, connecting.held_events);
            self.count_unsent(connection);
        } else if held.is_empty() {
            if let Some(id) = first {
                let out = self.outbox.frames(now, &mut connection.out);
                out.extend_from_slice(id.as_bytes());
                out.push(b'\n');
            }
        } else {
            let (head, rest) = held.split_at(first_frame_end(&held));
            self.write_block(now, connection, head, first);
            self.outbox.frames(now, &mut connection.out).extend_from_slice(rest);
            self.stats.sent(connecting.held_events.saturating_sub(1), rest.len());
        }
        self.outbox.queue(connection.id, &mut connection.out);
        if entry.is_over {
            self.end_if_over(now, connection);
        }
    }

    /// An open stream enters its groups: the first block of them has its position.
    pub(super) fn write_late_start(&mut self, now: Millis, connection: &mut Connection, entry: Entry) {
        let id = self.id_line(entry.from);
        if entry.has_gap {
            self.stats.remote.gaps += 1;
            self.write_block(now, connection, GAP, Some(&id));
        } else if entry.is_resumable && !entry.is_due {
            let out = self.outbox.frames(now, &mut connection.out);
            out.extend_from_slice(id.as_bytes());
            out.push(b'\n');
        }
        if entry.is_due {
            self.hold_back(now, connection, Vec::new(), 0);
        }
        self.outbox.queue(connection.id, &mut connection.out);
        if entry.is_over {
            self.end_if_over(now, connection);
        }
    }

    /// What is sent to the token of a stream comes behind the events that are replayed to it now.
    fn hold_back(&mut self, now: Millis, connection: &mut Connection, held: Vec<u8>, held_events: u64) {
        // Its client could not read anything of it before.
        if connection.out.is_empty() {
            connection.out.touch(now);
        }
        if let State::Streaming(streaming) = &mut connection.state {
            streaming.reached.set_tail(true);
            let tail = Tail { until: self.hub.groups.head(), held, held_events, end: None };
            self.delivery.tails.insert(connection.id.slot(), tail);
        }
    }

    /// Writes what is held back of a stream that does not get there any more. Returns why it was to end behind that.
    pub(super) fn write_held(&mut self, now: Millis, connection: &mut Connection) -> Option<EndReason> {
        let State::Streaming(streaming) = &mut connection.state else { return None };
        if !streaming.reached.has_tail() {
            return None;
        }
        streaming.reached.set_tail(false);
        let tail = self.delivery.tails.remove(&connection.id.slot())?;
        // Lost events, although their sends were answered.
        if !tail.held.is_empty() && !planted::is("drain-drops-what-is-held-back") {
            self.write_events(now, connection, tail.held_events, |out| out.extend_from_slice(&tail.held));
        }
        tail.end.map(|(_, reason)| reason)
    }

    /// Writes an event with or without an id.
    fn write_block(&mut self, now: Millis, connection: &mut Connection, frame: &[u8], id: Option<&IdLine>) {
        let out = self.outbox.frames(now, &mut connection.out);
        let start = out.len();
        write_frame(out, frame, id);
        self.stats.sent(1, out.len() - start);
    }

    /// A send to the token of a stream that is or was in groups.
    pub(super) fn send_to_member(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        events: &[Event<'_>],
        close: bool,
    ) -> SendResult {
        self.catch_up(now, connection);
        let State::Streaming(streaming) = &connection.state else { return SendResult::NotFound };
        let reached = streaming.reached;
        let is_foreign = |event: &&Event<'_>| reached.is_resumable() && event.id.is_some();
        if let Some(event) = events.iter().find(is_foreign) {
            self.hints.foreign_id(event);
        }
        let write = |out: &mut Vec<u8>| {
            for event in events {
                if is_foreign(&event) {
                    Event { id: None, ..event.clone() }.write(out);
                } else {
                    event.write(out);
                }
            }
        };
        let count = events.len() as u64;
        let (pending_max, waits) = (self.settings.pending_bytes_max, self.waits_for_page(connection));
        let has_tail = reached.has_tail() && !planted::is("token-sends-overtake-a-replay");
        match self.delivery.tails.get_mut(&connection.id.slot()).filter(|_| has_tail) {
            Some(Tail { end: Some(_), .. }) => return SendResult::NotFound,
            Some(tail) if count > 0 && connection.out.is_overdue_behind(now, tail.held.len(), waits, pending_max) => {
                self.cut_stream(now, connection, EndReason::error(Detail::SlowConsumer));
                return SendResult::Failed;
            }
            // After earlier sends, which come after the replayed events.
            Some(tail) => {
                write(&mut tail.held);
                tail.held_events += count;
                self.count_unsent(connection);
            }
            None if count > 0 => {
                self.write_events(now, connection, count, write);
            }
            None => {}
        }
        if close {
            self.end_in_order(now, connection, EndReason::SERVER_CLOSED);
        }
        SendResult::Ok
    }

    /// Ends a stream after all events in flight to it.
    pub(super) fn end_in_order(&mut self, now: Millis, connection: &mut Connection, reason: EndReason) {
        match &connection.state {
            State::Streaming(streaming) if streaming.reached.is_lagging() => {
                let head = self.hub.groups.head();
                self.end_behind(connection, head, reason);
            }
            State::Streaming(_) => self.end_stream(now, connection, reason),
            State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Closing(_)
            | State::Closed(_) => {}
        }
    }
}
