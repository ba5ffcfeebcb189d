//! Feeds: reading their bodies, applying their lines, and the ways in which they end (docs/protocol.md, section 14).

use super::actions::Action;
use super::answers::{Answer, Refusal, ResponseMode};
use super::asking::Line;
use super::connection::{Closing, Connection, Reading, State, current};
use super::feed::{Feed, FeedEnd, FeedRequest, Item, is_for};
use super::results::{Asked, SendResult};
use super::shared::Shared;
use crate::clock::Millis;
use crate::http::body::{BadChunk, Remaining};
use crate::http::request::{Expect, Framing, Head};
use crate::http::response;
use crate::hub::{ConnId, Watched, parse_token};
use crate::planted;
use crate::send::{self, Command, Events, SendCommand, Target};
use crate::sse::{Event, TooLong};
use crate::table::Table;
use log::{debug, info};
use std::borrow::Cow;

/// What a line has done.
enum Applied {
    Nothing,
    Sent {
        result: SendResult,
        /// It is for the feed's own target.
        is_own: bool,
        /// It ends that.
        ends_target: bool,
        /// What its owner is told, if the stream is another gateway's.
        body: Option<Vec<u8>>,
    },
    Will(Event<'static>),
}

impl Shared {
    /// The head of a feed has been read.
    pub(super) fn start_feed(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        head: &Head<'_, '_>,
        request: FeedRequest,
    ) {
        if self.is_crowded() {
            return self.refuse(now, current(connections, id), Refusal::Feeds);
        }
        let mode = ResponseMode { keep_alive: head.keep_alive, head_only: false };
        let watched = self.find_watched(connections, request.target.as_ref());
        let mut feed = Box::new(Feed::new(request, mode, Remaining::of(head.framing), self.settings.body_bytes_max));
        self.stats.feeds.open += 1;
        let connection = current(connections, id);
        // Streams that it is for may have been drained already.
        if self.shutdown.is_draining() {
            return self.end_feed(now, connection, feed, FeedEnd::Refused(Refusal::ShuttingDown));
        }
        let Ok(watched) = watched else { return self.end_feed(now, connection, feed, FeedEnd::Gone) };
        if let Some(watched) = &watched {
            self.hub.watches.add(watched, id);
        }
        feed.watched = watched;
        self.ask_about_target(now, id, &mut feed);
        let connection = current(connections, id);
        if feed.remaining.is_done() {
            return self.complete_feed(now, connections, id, feed, &[]);
        }
        if head.expect == Expect::Continue && head.framing != Framing::Empty {
            response::write_continue(self.outbox.bytes(now, &mut connection.out));
        }
        connection.state = State::Feeding(feed);
        self.outbox.act(Action::KeepAlive(id));
    }

    /// What is watched for a feed with that target. Errors: it has ended.
    fn find_watched(
        &self,
        connections: &mut Table<Connection>,
        target: Option<&Target<'static>>,
    ) -> Result<Option<Watched>, ()> {
        match target {
            Some(Target::Token(token)) => match self.stream_named(connections, token) {
                Some(connection) if !connection.is_closed_early() => Ok(Some(Watched::Token(connection.token))),
                None if self.owner_of(token).is_some() => Ok(parse_token(token).map(Watched::Token)),
                Some(_) | None => Err(()),
            },
            Some(Target::Group(name)) => {
                let is_ended = self.hub.groups.standing(name).is_some_and(|standing| standing.is_ended);
                if is_ended { Err(()) } else { Ok(Some(Watched::Group(Box::from(&**name)))) }
            }
            Some(Target::Groups(_)) | None => Ok(None),
        }
    }

    /// Reads on in the body of a feed; returns the number of bytes consumed.
    pub(super) fn read_feed(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        input: &[u8],
    ) -> usize {
        let Some(mut feed) = take_feed(current(connections, id)) else { return 0 };
        if let Some(rest) = &mut feed.rest {
            rest.extend_from_slice(input);
            current(connections, id).state = State::Feeding(feed);
            return input.len();
        }
        // In a drain it may not have been told yet.
        if self.shutdown.is_draining() && self.is_target_gone(id, &feed) {
            self.end_feed(now, current(connections, id), feed, FeedEnd::Gone);
            return input.len();
        }
        feed.advance(input.len());
        let mut rest = input;
        loop {
            let result = match feed.remaining.next_data(&mut rest) {
                Ok([]) => break,
                Ok(data) => self.apply_data(now, connections, id, &mut feed, data),
                Err(BadChunk) => Err(FeedEnd::Refused(Refusal::Malformed)),
            };
            if let Err(end) = result {
                self.end_feed(now, current(connections, id), feed, end);
                return input.len();
            }
        }
        if feed.remaining.is_done() {
            self.complete_feed(now, connections, id, feed, rest);
        } else {
            current(connections, id).state = State::Feeding(feed);
        }
        input.len() - rest.len()
    }

    /// The body of a feed is over; `rest` is the input after it.
    fn complete_feed(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        mut feed: Box<Feed>,
        rest: &[u8],
    ) {
        let mut end = FeedEnd::Complete;
        // A lost event: only senders that leave out the last line feed show it.
        if !planted::is("last-line-needs-its-line-feed")
            && let Some(item) = feed.input.last()
        {
            let applied = self.apply(now, connections, id, (&feed.request, feed.watched.as_ref()), &item);
            if let Err(early) = self.record(now, id, &mut feed, applied) {
                end = early;
            }
        }
        if end == FeedEnd::Complete && self.awaits_results(now, id, &mut feed) {
            feed.rest = Some(Vec::new());
            current(connections, id).state = State::Feeding(feed);
            return;
        }
        feed.mode = self.mode_before(feed.mode, rest);
        self.end_feed(now, current(connections, id), feed, end);
    }

    /// Applies what `data` completes.
    fn apply_data(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        feed: &mut Feed,
        mut data: &[u8],
    ) -> Result<(), FeedEnd> {
        loop {
            let applied = match feed.input.next(&mut data) {
                Ok(Some(item)) => self.apply(now, connections, id, (&feed.request, feed.watched.as_ref()), &item),
                Ok(None) => return Ok(()),
                Err(TooLong) => return Err(FeedEnd::Refused(Refusal::BodyTooLarge)),
            };
            self.record(now, id, feed, applied)?;
        }
    }

    /// Applies a line or an event.
    fn apply(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        (request, watched): (&FeedRequest, Option<&Watched>),
        item: &Item<'_>,
    ) -> Applied {
        match item {
            Item::Line(line) => {
                let mut scratch = std::mem::take(&mut self.send_scratch);
                let applied = match send::parse_line(line, &mut scratch, self.group_ids(), request.target.as_ref()) {
                    Ok(Command::Nothing) => Applied::Nothing,
                    Ok(Command::Send(command)) => {
                        self.apply_send(now, connections, id, (request, watched), line, &command)
                    }
                    Ok(Command::Will(will)) if request.ends => Applied::Will(will.into_owned()),
                    Ok(Command::Will(_)) => refused(send::SendError::WillWithoutEnd),
                    Err(error) => refused(error),
                };
                self.send_scratch = scratch;
                applied
            }
            // Browsers ignore it as well.
            Item::Event(event) if event.name.as_ref().is_some_and(|name| name.contains('\0')) => Applied::Nothing,
            Item::Event(event) => {
                let Some(target) = &request.target else { return Applied::Nothing };
                let events = Events::One(event.clone());
                let command =
                    SendCommand { target: target.borrowed(), events, close: false, end: false, transient: false };
                self.apply_send(now, connections, id, (request, watched), &[], &command)
            }
        }
    }

    fn apply_send(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        id: ConnId,
        (request, watched): (&FeedRequest, Option<&Watched>),
        line: &[u8],
        command: &SendCommand<'_>,
    ) -> Applied {
        let own = watched.filter(|_| command.close || command.end);
        let own = own.filter(|watched| self.ends(connections, command, request, watched));
        // Nobody has to be told what he does himself.
        if let Some(watched) = own {
            self.hub.watches.remove(watched, id);
        }
        let result = self.execute(now, connections, line, command);
        let body = matches!(result, SendResult::Asked(Asked::Gateway(_))).then(|| command.to_json());
        Applied::Sent { result, is_own: is_for(&command.target, watched), ends_target: own.is_some(), body }
    }

    /// Whether a command with `close` or `end` ends what is watched.
    fn ends(
        &self,
        connections: &mut Table<Connection>,
        command: &SendCommand<'_>,
        request: &FeedRequest,
        watched: &Watched,
    ) -> bool {
        let names = match (&command.target, watched) {
            (Target::Token(token), Watched::Token(watched)) => return parse_token(token) == Some(*watched),
            (Target::Group(name), Watched::Group(watched)) => return command.end && **name == **watched,
            (Target::Token(_) | Target::Groups(_), Watched::Group(_)) => return false,
            (Target::Group(name), Watched::Token(_)) => std::slice::from_ref(name),
            (Target::Groups(names), Watched::Token(_)) => names,
        };
        let Some(Target::Token(token)) = &request.target else { return false };
        match self.stream_named(connections, token).map(|connection| &connection.state) {
            Some(State::Streaming(streaming)) if command.close => {
                names.iter().any(|name| self.hub.groups.is_member(streaming.joined, name))
            }
            Some(State::Streaming(streaming)) => self.hub.groups.is_over_without(streaming.joined, names),
            Some(_) | None => false,
        }
    }

    /// Records what a line has done. Errors: the feed ends with it.
    fn record(&mut self, now: Millis, id: ConnId, feed: &mut Feed, applied: Applied) -> Result<(), FeedEnd> {
        feed.lines += 1;
        let (result, is_own, ends_target, body) = match applied {
            Applied::Nothing => return Ok(()),
            Applied::Will(will) if feed.owes_end => {
                feed.set_will(will);
                return Ok(());
            }
            // The feed has ended its group itself.
            Applied::Will(_) => (SendResult::Ended, false, false, None),
            Applied::Sent { result, is_own, ends_target, body } => (result, is_own, ends_target, body),
        };
        if let SendResult::Asked(asked) = result {
            let line = Line { number: feed.lines, is_own: is_own && !ends_target, is_end: false };
            if ends_target {
                feed.watched = None;
                feed.owes_end = false;
            }
            feed.pending += 1;
            self.owe_line(now, id, line, asked, &body.unwrap_or_default());
            return Ok(());
        }
        self.stats.feed_line(result);
        if let SendResult::Invalid(error) = result {
            self.hints.invalid_send(error);
        }
        if ends_target {
            feed.watched = None;
            feed.owes_end &= result.error().is_some();
        }
        let is_gone = matches!(result, SendResult::NotFound | SendResult::Ended) && self.is_target_gone(id, feed);
        if is_gone {
            return Err(FeedEnd::Gone);
        }
        feed.count(feed.lines, result);
        Ok(())
    }

    /// Asks whether the target of a feed has ended already, where others know.
    fn ask_about_target(&mut self, now: Millis, id: ConnId, feed: &mut Feed) {
        match &feed.request.target {
            Some(Target::Group(name)) => self.ask_about_group(now, id, name),
            Some(Target::Token(token)) => {
                let Some(owner) = self.owner_of(token) else { return };
                let line = Line { number: 0, is_own: true, is_end: true };
                let probe = serde_json::json!({ "token": token }).to_string();
                feed.pending += 1;
                self.owe_line(now, id, line, Asked::Gateway(owner), probe.as_bytes());
            }
            Some(Target::Groups(_)) | None => {}
        }
    }

    /// The body of a feed is over. Whether results of its lines, or of the end of its group, have yet to come.
    fn awaits_results(&mut self, now: Millis, id: ConnId, feed: &mut Feed) -> bool {
        if self.engine.link.is_some()
            && let Some(Target::Group(name)) = feed.request.target.as_ref().filter(|_| feed.owes_end)
        {
            if let Some(watched) = feed.watched.take() {
                self.hub.watches.remove(&watched, id);
            }
            let target = Target::Group(Cow::Borrowed(&**name));
            let command = SendCommand { target, events: Events::None, close: false, end: true, transient: false };
            if let SendResult::Asked(asked) = self.publish(now, std::slice::from_ref(name), &command) {
                feed.pending += 1;
                let line = Line { number: feed.lines, is_own: false, is_end: true };
                self.owe_line(now, id, line, asked, &[]);
            }
            feed.owes_end = false;
        }
        feed.pending > 0
    }

    /// A line of a feed has its result. Whether that was the last one that its answer waits for.
    pub(super) fn take_line(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        line: Line,
        result: SendResult,
    ) -> bool {
        if !line.is_end {
            self.stats.feed_line(result);
        }
        let State::Feeding(feed) = &mut connection.state else { return false };
        let was_full = !feed.wants_input();
        feed.pending = feed.pending.saturating_sub(1);
        // No edge will tell of input that is waiting already.
        if was_full && feed.wants_input() {
            self.outbox.queue(connection.id, &mut connection.out);
        }
        let is_over = matches!(result, SendResult::NotFound | SendResult::Ended);
        if is_over && line.is_own && feed.watched.is_some() {
            self.end_open_feed(now, connection, FeedEnd::Gone);
            return false;
        }
        // The end of a group that has ended is none, and one that succeeds is no line.
        if !line.is_end || !(is_over || result.error().is_none()) {
            feed.count(line.number, result);
        }
        feed.rest.is_some() && feed.pending == 0
    }

    /// All results of a feed are there: answers it. Returns the input after it.
    pub(super) fn finish_feed(&mut self, now: Millis, connection: &mut Connection) -> Vec<u8> {
        let Some(mut feed) = take_feed(connection) else { return Vec::new() };
        if let Some(refusal) = feed.refused {
            self.end_feed(now, connection, feed, FeedEnd::Refused(refusal));
            return Vec::new();
        }
        let rest = feed.rest.take().unwrap_or_default();
        feed.mode = self.mode_before(feed.mode, &rest);
        self.end_feed(now, connection, feed, FeedEnd::Complete);
        rest
    }

    /// Whether a feed's target has ended, by somebody else.
    fn is_target_gone(&self, id: ConnId, feed: &Feed) -> bool {
        feed.watched.as_ref().is_some_and(|watched| !self.hub.watches.has(watched, id))
    }

    /// The target of a feed may have ended: tells its sender, who may be silent.
    pub(super) fn tell_feed(&mut self, now: Millis, connection: &mut Connection) {
        let State::Feeding(feed) = &connection.state else { return };
        // A missed wake-up: a sender that is silent is told with its next line.
        if !self.is_target_gone(connection.id, feed) || planted::is("silent-feeds-are-not-told") {
            return;
        }
        // The drain may have ended it, and all that is left is to tell the results.
        if feed.rest.is_some() && self.shutdown.is_draining() {
            return;
        }
        self.end_open_feed(now, connection, FeedEnd::Gone);
    }

    /// The connection of a feed, if it is one, has ended. The caller closes it.
    pub(super) fn break_off_feed(&mut self, now: Millis, connection: &mut Connection) {
        self.end_open_feed(now, connection, FeedEnd::BrokenOff);
    }

    /// The rest of a feed, if the connection is one, is not read.
    pub(super) fn refuse_feed(&mut self, now: Millis, connection: &mut Connection, refusal: Refusal) {
        // It has been read in full, and is about to be answered.
        if matches!(&connection.state, State::Feeding(feed) if feed.rest.is_some()) {
            return;
        }
        let mut end = FeedEnd::Refused(refusal);
        if refusal == Refusal::ShuttingDown
            && let State::Feeding(feed) = &mut connection.state
        {
            if self.is_target_gone(connection.id, feed) {
                end = FeedEnd::Gone;
            } else if feed.pending > 0 {
                // What was read has yet to reach Redis, and the sender goes on behind it.
                feed.rest = Some(Vec::new());
                feed.refused = Some(refusal);
                return;
            }
        }
        self.end_open_feed(now, connection, end);
    }

    fn end_open_feed(&mut self, now: Millis, connection: &mut Connection, end: FeedEnd) {
        if let Some(feed) = take_feed(connection) {
            self.end_feed(now, connection, feed, end);
        }
    }

    /// The only end of a feed; the connection is not in its state any more.
    fn end_feed(&mut self, now: Millis, connection: &mut Connection, mut feed: Box<Feed>, end: FeedEnd) {
        if let Some(watched) = &feed.watched {
            self.hub.watches.remove(watched, connection.id);
        }
        self.stats.feeds.end(end);
        self.end_group_of(now, &mut feed, end);
        debug!(lines = feed.lines, accepted = feed.accepted, end = FeedEnd::LABELS[end.index()]; "feed ended");
        let answer = match end {
            FeedEnd::Complete => Answer::feed(feed.accepted, &feed.errors),
            FeedEnd::Gone => match &feed.request.target {
                Some(Target::Group(_) | Target::Groups(_)) => Answer::send(SendResult::Ended).with_line(feed.lines),
                Some(Target::Token(_)) | None => Answer::send(SendResult::NotFound).with_line(feed.lines),
            },
            FeedEnd::Refused(refusal) => {
                self.hints.limit(refusal);
                self.stats.refuse(refusal);
                Answer::refused_feed(refusal).with_line(feed.lines)
            }
            FeedEnd::BrokenOff => return connection.state = State::Closing(Closing::Flushing),
        };
        let keep_alive = feed.mode.keep_alive && end == FeedEnd::Complete;
        self.answer(now, connection, &answer, ResponseMode { keep_alive, ..feed.mode });
        if keep_alive {
            connection.state = State::Reading(Reading::default());
        } else {
            self.start_closing(connection);
        }
    }

    /// Ends the group of a feed that was to end it, with its last will if it has not come to its own end.
    fn end_group_of(&mut self, now: Millis, feed: &mut Feed, end: FeedEnd) {
        let events = match end {
            FeedEnd::Complete => Events::None,
            FeedEnd::BrokenOff if planted::is("no-last-will-of-a-dead-sender") => Events::None,
            // Its sender can go on elsewhere.
            FeedEnd::Gone | FeedEnd::Refused(Refusal::ShuttingDown) => return,
            FeedEnd::Refused(_) | FeedEnd::BrokenOff => Events::One(feed.take_will()),
        };
        let Some(Target::Group(name)) = feed.request.target.as_ref().filter(|_| feed.owes_end) else { return };
        if end != FeedEnd::Complete {
            info!(group = &**name, lines = feed.lines; "a feed broke off: its group ends with the last will");
        }
        let target = Target::Group(Cow::Borrowed(&**name));
        let command = SendCommand { target, events, close: false, end: true, transient: false };
        self.publish_last(now, name, &command);
    }
}

fn refused(error: send::SendError) -> Applied {
    Applied::Sent { result: SendResult::Invalid(error), is_own: false, ends_target: false, body: None }
}

/// Takes the feed out of a connection; `None`: it is none.
fn take_feed(connection: &mut Connection) -> Option<Box<Feed>> {
    match std::mem::replace(&mut connection.state, State::Reading(Reading::default())) {
        State::Feeding(feed) => Some(feed),
        other @ (State::Reading(_)
        | State::Answering(_)
        | State::Connecting(_)
        | State::Streaming(_)
        | State::Closing(_)
        | State::Closed(_)) => {
            connection.state = other;
            None
        }
    }
}
