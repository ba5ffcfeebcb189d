//! Sends to groups and tokens at all gateways, and whether their answers are right.

use super::crowd::Crowd;
use super::hopper::Told;
use super::truth::{Fate, cursor};
use crate::senders::{Answered, Sender};
use mio::Token;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

pub(super) const SENDERS_PER_GATEWAY: usize = 4;

/// What a send was.
pub(crate) enum Sent {
    ToGroups { first: usize, count: usize },
    ToToken { client: usize, visit: u64, number: usize },
}

/// Connections for sends to one process of a gateway.
pub(super) struct Line {
    pub run: usize,
    pub sender: Sender<(Instant, Sent)>,
    /// Of the last answer.
    position: u64,
}

impl Crowd<'_> {
    pub(super) fn send(&mut self) {
        self.figures.sends += 1;
        let padding = "x".repeat(self.random.index(100));
        if self.random.chance(100) {
            return self.send_to_token(&padding);
        }
        let kind = self.random.below(100);
        let groups: BTreeSet<usize> = match kind {
            0..20 => (0..2 + self.random.index(3)).map(|_| self.random.index(self.groups)).collect(),
            _ => BTreeSet::from([self.random.index(self.groups)]),
        };
        let count = if (10..35).contains(&kind) { 2 + self.random.index(3) } else { 1 };
        let groups: Vec<usize> = groups.into_iter().collect();
        let Some(slot) = self.line() else { return };
        let first = self.truth.send(&groups, count);
        let events: Vec<Value> =
            (first..first + count).map(|number| json!({ "data": format!("{number} {padding}") })).collect();
        let names: Vec<String> = groups.iter().map(|group| format!("g{group}")).collect();
        let mut body = json!({ "events": events });
        match &names[..] {
            [name] => body["group"] = json!(name),
            names => body["groups"] = json!(names),
        }
        let line = self.lines.get_mut(&slot).expect("a connection");
        line.sender.push((Instant::now(), Sent::ToGroups { first, count }), &body.to_string());
    }

    fn send_to_token(&mut self, padding: &str) {
        let client = self.random.index(self.hoppers.len());
        let Some(slot) = self.line() else { return };
        let Some(visit) = &mut self.hoppers[client].visit else { return };
        let Some((_, token)) = &visit.asked else { return };
        let number = self.next_token_send;
        self.next_token_send += 1;
        let data = format!("token {} {number}", visit.number);
        let body = json!({"token": token, "event": {"name": padding, "data": data}}).to_string();
        visit.told.insert(number, Told::Open);
        let sent = Sent::ToToken { client, visit: visit.number, number };
        self.lines.get_mut(&slot).expect("a connection").sender.push((Instant::now(), sent), &body);
    }

    /// A connection for a send to any gateway that serves.
    fn line(&mut self) -> Option<usize> {
        let slot = self.random.index(self.lines_max);
        let (run, port) = {
            let status = self.board.read();
            let run = status.serving[slot / SENDERS_PER_GATEWAY]?;
            (run, status.runs[run].port)
        };
        if self.lines.get(&slot).is_some_and(|line| line.run != run) {
            self.drop_line(slot);
        }
        let (registry, token) = (self.poll.registry(), Token(self.hoppers.len() + slot));
        let connect = || Line { run, sender: Sender::connect(port, registry, token), position: 0 };
        self.lines.entry(slot).or_insert_with(connect);
        Some(slot)
    }

    /// A connection for sends is over: nobody knows what became of those without an answer.
    fn drop_line(&mut self, slot: usize) {
        let Some(line) = self.lines.remove(&slot) else { return };
        assert!(!self.board.read().is_serving(line.run), "a sender's connection is over: {:?}", line.sender.failure());
        for (_, sent) in line.sender.into_unanswered() {
            self.figures.unanswered += 1;
            if let Sent::ToGroups { first, count } = sent {
                self.truth.close(first, count, Fate::Open);
            }
        }
    }

    pub(super) fn serve_line(&mut self, slot: usize) {
        let Some(line) = self.lines.get_mut(&slot) else { return };
        line.sender.flush();
        let answers = line.sender.read();
        let is_over = line.sender.failure().is_some();
        for answer in answers {
            let Answered { send: (sent_at, sent), status, body } = answer;
            let body: Value = serde_json::from_str(&body).expect("JSON");
            match sent {
                Sent::ToGroups { first, count } => self.ordered(slot, sent_at, (first, count), (status, &body)),
                Sent::ToToken { client, visit, number } => {
                    self.told(slot, sent_at, (client, visit, number), (status, &body));
                }
            }
        }
        if is_over {
            self.drop_line(slot);
        }
    }

    /// A send to groups is answered.
    fn ordered(
        &mut self,
        slot: usize,
        sent_at: Instant,
        (first, count): (usize, usize),
        (status, body): (u16, &Value),
    ) {
        let line = self.lines.get_mut(&slot).expect("a connection");
        if status == 200 {
            let id = body["id"].as_str().expect("an id");
            let (epoch, position) = cursor(id);
            assert!(position > line.position, "two sends on one connection are out of order: {body}");
            line.position = position;
            self.epochs.insert(epoch);
            self.newest = Some(id.to_owned());
            return self.truth.accept(first, count, position);
        }
        let fate = match self.refusal(slot, (sent_at, None), (status, body)) {
            true => Fate::Refused,
            false => Fate::Open,
        };
        self.truth.close(first, count, fate);
    }

    /// A send to a token is answered.
    fn told(
        &mut self,
        slot: usize,
        sent_at: Instant,
        (client, number, send): (usize, u64, usize),
        answer: (u16, &Value),
    ) {
        let visit = self.hoppers[client].visit.as_ref().filter(|visit| visit.number == number);
        let is_there = visit.is_some_and(|visit| self.board.read().is_serving(visit.run));
        let told = match answer.0 {
            200 => Told::Accepted(Instant::now()),
            404 => {
                let is_excused = !is_there || self.board.read().is_excused(sent_at);
                assert!(is_excused, "an open stream's token is unknown: {sent_at:?}");
                self.figures.strangers += usize::from(is_there);
                Told::Refused
            }
            _ if self.refusal(slot, (sent_at, Some(is_there)), answer) => Told::Refused,
            _ => Told::Open,
        };
        let visit = self.hoppers[client].visit.as_mut().filter(|visit| visit.number == number);
        let Some(known) = visit.and_then(|visit| visit.told.get_mut(&send)) else { return };
        let was_received = *known == Told::Received;
        assert!(!was_received || told != Told::Refused, "it was refused, and delivered before: {answer:?}");
        if !was_received {
            *known = told;
        }
    }

    /// Whether a send was certainly not carried out. Panics if it ought to have been. `is_there`: whether the stream that it is
    /// for is open.
    fn refusal(
        &mut self,
        slot: usize,
        (sent_at, is_there): (Instant, Option<bool>),
        (status, body): (u16, &Value),
    ) -> bool {
        let (is_ending, is_excused) = {
            let status = self.board.read();
            let is_ending = !status.is_serving(self.lines[&slot].run);
            (is_ending, is_ending || is_there.is_some_and(|is_there| !is_there) || status.is_excused(sent_at))
        };
        let error = body["error"].as_str().unwrap_or_default();
        assert!(is_excused, "{status} without an outage: {error}, {:?} after it was sent", sent_at.elapsed());
        let (count, is_certain) = match (status, error) {
            (503, "Redis unavailable") => (&mut self.figures.unavailable, true),
            (503, "Redis connection lost") => (&mut self.figures.lost, false),
            (504, "Gateway timeout") => (&mut self.figures.timeouts, false),
            (503, "Shutting down") if is_ending => (&mut self.figures.unanswered, true),
            answer => panic!("an impossible answer to a send: {answer:?}"),
        };
        *count += 1;
        is_certain
    }
}
