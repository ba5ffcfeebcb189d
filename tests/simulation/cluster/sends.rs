//! Sends at any gateway, and their answers.

use super::truth::Truth;
use super::*;
use std::collections::{BTreeSet, VecDeque};
use uuid::Uuid;

/// A gateway that has not listened for so long counts as gone.
const ABSENT_MS: u64 = 1000;

/// A connection of the backend.
pub(super) struct Sender {
    pub(super) connection: ConnId,
    /// What has no answer.
    due: VecDeque<Asked>,
    answers: Vec<u8>,
}

impl Sender {
    pub(super) fn new(connection: ConnId) -> Self {
        Self { connection, due: VecDeque::new(), answers: Vec::new() }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// The number of the last of its events.
    Send {
        last: u64,
        is_transient: bool,
    },
    Token {
        number: u64,
    },
    /// Something else; the answer is kept.
    Other,
}

/// A send to a token.
struct ByToken {
    token: Uuid,
    /// Its status, once it is answered.
    status: Option<u16>,
}

/// All sends.
#[derive(Default)]
pub(super) struct Sends {
    events: u64,
    by_token: Vec<ByToken>,
    /// The last event of each send that was certainly not carried out.
    refused: BTreeSet<u64>,
    owed: usize,
    answer: String,
}

impl Sends {
    /// A client has got a send to its token.
    pub(super) fn check_by_token(&self, number: u64, token: Uuid) {
        let sent = &self.by_token[number as usize];
        assert_eq!(sent.token, token, "a send to another token");
        assert!(!matches!(sent.status, Some(404 | 500)), "{number} was answered with {:?}", sent.status);
    }

    /// All that has reached a stream, says the answer, has come out of it.
    pub(super) fn check_reached(&self, token: Uuid, got: &BTreeSet<u64>) {
        for (number, sent) in self.by_token.iter().enumerate() {
            let is_due = sent.token == token && sent.status == Some(200);
            assert!(!is_due || got.contains(&(number as u64)), "{number} has not come out of {token}");
        }
    }

    /// A gateway is gone, and so are its answers.
    pub(super) fn forget(&mut self, node: &Node) {
        self.owed -= node.senders.iter().map(|sender| sender.due.len()).sum::<usize>();
    }

    pub(super) fn check_answers(&self, truth: &Truth) {
        assert_eq!(self.owed, 0, "requests without answers");
        let carried_out = self.refused.iter().find(|event| truth.events.contains_key(event));
        assert_eq!(carried_out, None, "a send that was refused was carried out");
    }
}

impl World {
    /// A sender that may send now.
    fn draw_sender(&mut self) -> Option<(usize, usize)> {
        let at = self.random.index(self.nodes.len());
        let sender = self.random.index(self.nodes[at].senders.len());
        let is_free = self.nodes[at].gateway.wants_input(self.nodes[at].senders[sender].connection);
        (is_free && !self.nodes[at].drains).then_some((at, sender))
    }

    fn request(&mut self, (at, sender): (usize, usize), asked: Asked, request: &str) {
        let now = self.time();
        self.note(|| format!("gateway {at} is sent {:.100?}", request.rsplit('\n').next()));
        let Node { gateway, senders, .. } = &mut self.nodes[at];
        senders[sender].due.push_back(asked);
        self.sends.owed += 1;
        gateway.receive(now, senders[sender].connection, request.as_bytes());
        self.carry_out(at);
    }

    fn post(&mut self, sender: (usize, usize), asked: Asked, body: &str) {
        let length = body.len();
        let request = format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
        self.request(sender, asked, &request);
    }

    pub(super) fn publish(&mut self) {
        let Some(sender) = self.draw_sender() else { return };
        let groups: BTreeSet<usize> = (0..self.random.within(1, 2)).map(|_| self.random.index(GROUPS)).collect();
        let is_transient = self.random.chance(150);
        let pad = "x".repeat(self.random.pick(&[0, 0, 20, 300]));
        let mut list = Vec::new();
        for _ in 0..self.random.within(1, 3) {
            let event = self.next_event();
            list.push(format!(r#"{{"data":"{event} {pad}"}}"#));
        }
        let names: Vec<String> = groups.iter().map(|group| format!(r#""g{group}""#)).collect();
        let events = list.join(",");
        let body = format!(r#"{{"groups":[{}],"events":[{events}],"transient":{is_transient}}}"#, names.join(","));
        self.post(sender, Asked::Send { last: self.sends.events, is_transient }, &body);
    }

    pub(super) fn send_to_token(&mut self) {
        let Some(sender) = self.draw_sender() else { return };
        let client = &self.clients[self.random.index(CLIENTS)];
        if client.connection.is_none() {
            return;
        }
        let token = client.token;
        let number = self.sends.by_token.len() as u64;
        self.sends.by_token.push(ByToken { token, status: None });
        let body = format!(r#"{{"token":"{token}","event":{{"data":"t{number}"}}}}"#);
        self.post(sender, Asked::Token { number }, &body);
    }

    /// The number of another event.
    pub(super) fn next_event(&mut self) -> u64 {
        self.sends.events += 1;
        self.sends.events
    }

    /// Sends something of which no account is kept.
    pub(super) fn tell(&mut self, body: &str) {
        if let Some(sender) = self.draw_sender() {
            self.post(sender, Asked::Other, body);
        }
    }

    /// Changes the groups of a stream.
    pub(super) fn change_groups(&mut self) {
        let Some(sender) = self.draw_sender() else { return };
        let client = &self.clients[self.random.index(CLIENTS)];
        // With Redis, what was asked for before the stream was open may wait until the groups are known.
        if !client.is_headed {
            return;
        }
        let token = client.token;
        let (join, leave) = (self.random.index(GROUPS), self.random.index(GROUPS));
        let body = format!(r#"{{"token":"{token}","join":["g{join}"],"leave":["g{leave}"]}}"#);
        let length = body.len();
        let request = format!("POST /internal/groups HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
        self.request(sender, Asked::Other, &request);
    }

    /// Asks for something that is answered at once.
    pub(super) fn ask(&mut self, at: usize, request: &str) -> String {
        self.request((at, 0), Asked::Other, request);
        std::mem::take(&mut self.sends.answer)
    }

    /// Bytes for a sender.
    pub(super) fn take_answers(&mut self, at: usize, id: ConnId, bytes: &[u8]) {
        let Some(n) = self.nodes[at].senders.iter().position(|sender| sender.connection == id) else { return };
        self.nodes[at].senders[n].answers.extend_from_slice(bytes);
        while let Some((status, body)) = take_answer(&mut self.nodes[at].senders[n].answers) {
            let asked = self.nodes[at].senders[n].due.pop_front().expect("an answer to nothing");
            self.sends.owed -= 1;
            self.note(|| format!("gateway {at} answers {asked:?}: {status} {body}"));
            if let (Asked::Token { number }, 404, true) = (asked, status, self.plan.keeps_registrations()) {
                let token = self.sends.by_token[number as usize].token;
                let now = self.now;
                let is_there = |client: &Client| {
                    let node = &self.nodes[client.node];
                    // Else it may have got 204.
                    let is_open = client.is_headed || client.attaches.is_none();
                    is_open && client.connection.is_some() && node.listened_at + ABSENT_MS > now && !node.drains
                };
                let mut open = self.clients.iter().filter(|client| is_there(client));
                assert!(!open.any(|client| client.token == token), "{number} was not found, but {token} is open");
            }
            if let Some(record) = &mut self.record {
                record.answer(status, &body);
                continue;
            }
            self.sends.judge(&self.truth, asked, status, body);
        }
    }
}

impl Sends {
    fn judge(&mut self, truth: &Truth, asked: Asked, status: u16, body: String) {
        match asked {
            Asked::Send { last, is_transient } => {
                let executed = truth.events.get(&last);
                match (status, &*body) {
                    (200, _) => {
                        let executed = executed.unwrap_or_else(|| panic!("{last} was not carried out: {body}"));
                        let id = body.split_once(r#""id":""#).and_then(|(_, rest)| rest.split_once('"'));
                        assert_eq!(id.is_none(), is_transient, "{body}");
                        if let Some((epoch, position)) = id.and_then(|(id, _)| id.split_once('.')) {
                            let position = u64::from_str_radix(position, 36).expect("a position");
                            assert_eq!(position, executed.position, "event {last} is elsewhere");
                            assert!(truth.is_at(epoch, position, last), "event {last} is of another epoch: {body}");
                        }
                    }
                    (503, r#"{"error":"Redis unavailable"}"# | r#"{"error":"Redis is out of memory"}"#) => {
                        assert!(executed.is_none(), "{last} was carried out: {body}");
                        self.refused.insert(last);
                    }
                    (503, r#"{"error":"Redis connection lost"}"#) => {}
                    _ => panic!("{last}: {status} {body}"),
                }
            }
            Asked::Token { number } => {
                self.by_token[number as usize].status = Some(status);
                assert!(matches!(status, 200 | 404 | 500 | 503 | 504), "{status} {body}");
            }
            Asked::Other => self.answer = body,
        }
    }
}

/// Takes a whole response from the front of `bytes`.
fn take_answer(bytes: &mut Vec<u8>) -> Option<(u16, String)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("text");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
    let length: usize = length.parse().expect("a length");
    let status = head[9..12].parse().expect("a status");
    let body = bytes.get(end + 4..end + 4 + length)?;
    let body = String::from_utf8(body.to_vec()).expect("text");
    bytes.drain(..end + 4 + length);
    Some((status, body))
}
