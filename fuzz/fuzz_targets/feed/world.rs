//! A gateway with two streams and one feed, driven as by the event loop.

use crate::decode::Decoder;
use crate::expected::{GROUP, Got, Query, TOKEN};
use ssegateway::callback::{Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, ConnId, Gateway, Listener, Peer, Settings};
use ssegateway::job::{Completion, Job};
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

const NOW: Millis = Millis::ZERO;

pub struct World {
    gateway: Gateway,
    /// The stream of the token, the one in the group, and the sender.
    own: ConnId,
    member: ConnId,
    sender: ConnId,
    /// What was written to each.
    written: HashMap<ConnId, Vec<u8>>,
    /// What the sender writes.
    request: Vec<u8>,
    breaks_off: bool,
}

impl World {
    /// The streams are open.
    pub fn new(bytes_max: usize) -> Self {
        let settings = Settings {
            history_age: Duration::ZERO,
            body_bytes_max: bytes_max,
            pending_bytes_max: usize::MAX / 8,
            ..Settings::default()
        };
        let mut gateway = Gateway::new(settings, NOW, 0);
        let token = Uuid::parse_str(TOKEN).expect("a token");
        let mut accept = |token| gateway.accept(NOW, Listener::Public, Peer::Loopback, token).expect("room");
        let (own, member, sender) = (accept(token), accept(Uuid::max()), accept(Uuid::nil()));
        let written = HashMap::new();
        let mut world = Self { gateway, own, member, sender, written, request: Vec::new(), breaks_off: false };
        world.open(own, "");
        world.open(member, &format!(r#""{GROUP}""#));
        world
    }

    fn open(&mut self, id: ConnId, groups: &str) {
        self.gateway.receive(NOW, id, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let Some(Action::Start(Job::Call(call))) = self.gateway.next_action() else { panic!("no connect callback") };
        let body = Some(format!(r#"{{"groups":[{groups}]}}"#).into_bytes());
        let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body, in_doubt: false };
        self.gateway.complete(NOW, Completion::Called(Called { id: call.id, outcome }));
        self.carry_out();
    }

    /// What the sender will write; `chunks`: its body is in chunks of these sizes.
    pub fn feed(&mut self, is_lines: bool, query: Query, body: &[u8], chunks: Option<u8>, breaks_off: bool) {
        let content_type = if is_lines { "application/x-ndjson" } else { "text/event-stream" };
        let query = query.text();
        let head = format!("POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\n");
        self.request.extend_from_slice(head.as_bytes());
        self.breaks_off = breaks_off;
        match chunks {
            None => {
                let length = body.len() + usize::from(breaks_off);
                self.request.extend_from_slice(format!("Content-Length: {length}\r\n\r\n").as_bytes());
                self.request.extend_from_slice(body);
            }
            Some(seed) => {
                self.request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in pieces(body, seed.wrapping_add(1)) {
                    self.request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    self.request.extend_from_slice(chunk);
                    self.request.extend_from_slice(b"\r\n");
                }
                self.request.extend_from_slice(if breaks_off { b"" } else { b"0\r\n\r\n" });
            }
        }
    }

    /// All of it arrives, in pieces.
    pub fn deliver(&mut self, cuts: u8) {
        let request = std::mem::take(&mut self.request);
        for piece in pieces(&request, cuts) {
            self.gateway.receive(NOW, self.sender, piece);
            self.carry_out();
            self.gateway.assert_invariants();
        }
        if self.breaks_off {
            self.gateway.receive_eof(NOW, self.sender);
            self.carry_out();
            self.gateway.assert_invariants();
        }
    }

    fn carry_out(&mut self) {
        loop {
            if let Some(id) = self.gateway.next_dirty().or_else(|| self.gateway.next_member(NOW)) {
                let unsent = self.gateway.unsent(id).to_vec();
                self.written.entry(id).or_default().extend_from_slice(&unsent);
                self.gateway.wrote(NOW, id, unsent.len());
                continue;
            }
            match self.gateway.next_action() {
                Some(Action::TellFeed(id)) => self.gateway.tell_feed(NOW, id),
                Some(Action::Start(_) | Action::KeepAlive(_) | Action::ShutdownWrite(_) | Action::Close(..)) => {}
                Some(other) => panic!("not to be expected: {other:?}"),
                None => return,
            }
        }
    }

    /// What the client of the token's stream has got, and the one in the group.
    pub fn got(&self) -> [Got; 2] {
        [self.own, self.member].map(|id| {
            let (stream, is_over) = unchunk(&self.written[&id]);
            Got { messages: Decoder::decode_all(&stream), is_over }
        })
    }

    /// Status and body of the sender's answer; empty: there was none.
    pub fn answer(&self) -> String {
        let text = String::from_utf8_lossy(self.written.get(&self.sender).map_or(&[], |written| written));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return String::new() };
        format!("{} {body}", head.split(' ').nth(1).unwrap_or_default())
    }
}

/// The body of a chunked response, and whether the last chunk has come.
fn unchunk(response: &[u8]) -> (Vec<u8>, bool) {
    let head = response.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    let mut rest = &response[head + 4..];
    let mut content = Vec::new();
    while let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
        let digits = std::str::from_utf8(&rest[..end]).expect("a size");
        let size = usize::from_str_radix(digits, 16).expect("a size");
        content.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
        if size == 0 {
            assert!(rest.is_empty());
            return (content, true);
        }
    }
    assert!(rest.is_empty());
    (content, false)
}

/// Cuts that depend on the seed: all at once, byte by byte, or in pieces of changing lengths.
fn pieces(mut bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed);
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = match seed % 4 {
            0 => bytes.len(),
            1 => 1,
            _ => (state >> 24) as usize % 37 + 1,
        };
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
