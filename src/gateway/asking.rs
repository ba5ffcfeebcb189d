//! Questions whose answer comes over Redis, and who waits for it: a client of ours, or another gateway.

use super::actions::Ticket;
use super::results::{MembershipResult, SendResult};
use crate::clock::Millis;
use crate::cursor::Position;
use crate::hub::ConnId;
use crate::redis::Serial;
use crate::send::MembershipError;
use std::collections::{BTreeMap, BTreeSet};

/// Who has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A connection of ours.
    Client(Ticket),
    /// A gateway, and the number of its question.
    Gateway(u32, u64),
    /// It was asked before the stream was open.
    Nobody,
}

/// What waits for the result of a request to Redis.
pub(super) enum Owed {
    /// The answer to a send to groups.
    Send {
        ticket: Ticket,
        has_id: bool,
    },
    /// A line of a feed.
    Line(ConnId, Line),
    /// Whether the group of a feed has ended.
    Target(ConnId, Box<str>),
    /// A question to another gateway is on its way.
    Told(u64),
    /// The head at the time of these clients' requests.
    Resumes(Vec<ConnId>),
    Cursor(Ticket),
    /// Whether there is something that a stream can attach to.
    Attach(ConnId),
    /// A page for a stream, with what it is owed of each of its groups.
    Page(ConnId, Vec<(Box<str>, Position)>),
    /// How a group stands, and who was asked for its members.
    Standing(u64),
    Followers(u64),
}

/// A line of a feed whose result comes from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub number: u64,
    /// It is for the feed's own target.
    pub is_own: bool,
    /// It is not really a line, but the feed's own question or end.
    pub is_end: bool,
}

/// A question to other gateways.
pub(super) enum Question {
    Send(Ticket),
    /// A line of a feed.
    Line(ConnId, Line),
    Change(Ticket),
    Group(Look),
}

/// A look at a group.
pub(super) struct Look {
    pub ticket: Ticket,
    pub name: Box<str>,
    /// Its newest event kept, and whether it has ended.
    pub standing: Option<(Option<Position>, bool)>,
    /// How many gateways answer, once it is known.
    pub followers: Option<usize>,
    pub answers: usize,
    pub streams: usize,
}

impl Look {
    /// Whether all is known.
    pub(super) fn is_complete(&self) -> bool {
        self.standing.is_some() && self.followers.is_some_and(|followers| self.answers >= followers)
    }
}

/// All that waits for answers.
#[derive(Default)]
pub(super) struct Asking {
    pub owed: BTreeMap<Serial, Owed>,
    questions: BTreeMap<u64, (Millis, Question)>,
    due: BTreeSet<(Millis, u64)>,
    last: u64,
    /// The request for the head that is not written yet, so that others can share it.
    pub head: Option<Serial>,
}

impl Asking {
    /// Adds a question that is answered until `until`, or not at all; returns its number.
    pub(super) fn add(&mut self, until: Millis, question: Question) -> u64 {
        self.last += 1;
        self.due.insert((until, self.last));
        self.questions.insert(self.last, (until, question));
        self.last
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Question> {
        self.questions.get_mut(&number).map(|(_, question)| question)
    }

    pub(super) fn take(&mut self, number: u64) -> Option<Question> {
        let (until, question) = self.questions.remove(&number)?;
        self.due.remove(&(until, number));
        Some(question)
    }

    pub(super) fn next_at(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the next question whose time is up.
    pub(super) fn next_due(&mut self, now: Millis) -> Option<Question> {
        let (at, number) = *self.due.first()?;
        if at > now { None } else { self.take(number) }
    }
}

/// A message from one gateway to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A send to a token, as its sender wrote it.
    Send { from: u32, number: u64, body: &'a [u8] },
    /// A change of the groups of a token.
    Change { from: u32, number: u64, body: &'a [u8] },
    /// How many members has that group?
    Count { from: u32, number: u64, group: &'a str },
    /// What became of a send or a change, or how many members there are.
    Result { number: u64, value: u64 },
}

impl<'a> Message<'a> {
    pub(super) fn write(&self) -> Vec<u8> {
        let (kind, from, number, rest) = match *self {
            Self::Send { from, number, body } => ('S', from, number, body),
            Self::Change { from, number, body } => ('C', from, number, body),
            Self::Count { from, number, group } => ('Q', from, number, group.as_bytes()),
            Self::Result { number, value } => return format!("R 0 {number} {value}").into_bytes(),
        };
        let mut message = format!("{kind} {from:x} {number} ").into_bytes();
        message.extend_from_slice(rest);
        message
    }

    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = bytes.splitn(4, |byte| *byte == b' ');
        let kind = parts.next()?;
        let mut text = || std::str::from_utf8(parts.next()?).ok();
        let from = u32::from_str_radix(text()?, 16).ok()?;
        let number = text()?.parse().ok()?;
        let body = parts.next()?;
        match kind {
            b"S" => Some(Self::Send { from, number, body }),
            b"C" => Some(Self::Change { from, number, body }),
            b"Q" => Some(Self::Count { from, number, group: std::str::from_utf8(body).ok()? }),
            b"R" => Some(Self::Result { number, value: std::str::from_utf8(body).ok()?.parse().ok()? }),
            _ => None,
        }
    }
}

/// The results that one gateway tells another by their index.
const SEND_RESULTS: [SendResult; 4] = [SendResult::Ok, SendResult::Buffered, SendResult::NotFound, SendResult::Failed];
const MEMBERSHIP_RESULTS: [MembershipResult; 6] = [
    MembershipResult::Ok,
    MembershipResult::Buffered,
    MembershipResult::NotFound,
    MembershipResult::Failed,
    MembershipResult::Invalid(MembershipError::TooMany),
    MembershipResult::Unavailable,
];

/// The result of a send to a token as another gateway reads it.
pub(super) fn send_code(result: SendResult) -> u64 {
    code(&SEND_RESULTS, &result, 3)
}

/// The result of a send that another gateway has made.
pub(super) fn send_result(code: u64) -> SendResult {
    result(&SEND_RESULTS, code, SendResult::Failed)
}

/// The result of a change of groups as another gateway reads it.
pub(super) fn membership_code(result: MembershipResult) -> u64 {
    code(&MEMBERSHIP_RESULTS, &result, 3)
}

/// The result of a change of groups that another gateway has made.
pub(super) fn membership_result(code: u64) -> MembershipResult {
    result(&MEMBERSHIP_RESULTS, code, MembershipResult::Failed)
}

fn code<T: PartialEq>(results: &[T], result: &T, otherwise: u64) -> u64 {
    results.iter().position(|known| known == result).map_or(otherwise, |at| at as u64)
}

fn result<T: Copy>(results: &[T], code: u64, otherwise: T) -> T {
    usize::try_from(code).ok().and_then(|at| results.get(at)).copied().unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back() {
        for message in [
            Message::Send { from: 0xab, number: 7, body: b"{\"token\": \"x y\"}" },
            Message::Change { from: 1, number: u64::MAX, body: b"" },
            Message::Count { from: u32::MAX, number: 1, group: "room of b" },
            Message::Result { number: 9, value: 3 },
        ] {
            assert_eq!(Message::parse(&message.write()), Some(message));
        }
        for bad in ["", "S", "S x 1 ", "S 1 1", "X 1 1 ", "R 0 1 x"] {
            assert_eq!(Message::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn results_are_read_back() {
        for result in SEND_RESULTS {
            assert_eq!(send_result(send_code(result)), result);
        }
        for result in MEMBERSHIP_RESULTS {
            assert_eq!(membership_result(membership_code(result)), result);
        }
    }
}
