//! The backend behind the gateway, and the pool of workers in between.
//!
//! It decides on connects, takes note of disconnects, and sends: from inside the connect callback,
//! after it, and to streams that have gone; on a few kept-alive connections, often many in one batch.

use super::client::{Client, Script};
use super::exchange::{Request, What};
use super::faults::Fault;
use super::oracle::{CONNECT, DISCONNECT, Send, millis};
use super::stream::{Event, Said};
use super::world::{Item, World};
use ssegateway::callback::{Call, CallId, CallKind, Called, Outcome, PassedHeader};
use ssegateway::gateway::Listener;
use std::collections::HashSet;
use std::rc::Rc;
use uuid::Uuid;

/// Tokens carry the number of their client in disguise, so that both ends can be told apart.
const TOKEN_KEY: u128 = 0x5bd1_e995_9ddf_4ea0_8eb3_8664_9e37_79b9;

pub fn token_of(n: usize) -> Uuid {
    Uuid::from_u128(TOKEN_KEY ^ (n as u128) << 64 ^ (n as u128))
}

fn client_of(token: &str) -> usize {
    let token = Uuid::parse_str(token).expect("a token").as_u128() ^ TOKEN_KEY;
    let n = token as u64;
    assert_eq!(token, u128::from(n) << 64 | u128::from(n), "a token that was never given out");
    n as usize
}

struct Record {
    id: CallId,
    client: usize,
    connect: bool,
    outcome: Outcome,
    said: Said,
    taken: bool,
}

#[derive(Default)]
pub struct Backend {
    calls: Vec<Record>,
    /// Their ids.
    ids: HashSet<CallId>,
    /// Clients that it was asked about.
    streams: Vec<usize>,
    /// Connections that it sends on.
    senders: Vec<usize>,
    /// Whom the next token is for.
    pub token_for: usize,
    events: u64,
}

/// Splits a callback's body (docs/protocol.md, sections 3 and 6) to action, reason, token and request.
fn parse(body: &str) -> Option<(&str, &str, &str, &str)> {
    let rest = body.strip_prefix(r#"{"action":""#)?;
    let (action, rest) = rest.split_once(r#"","#)?;
    let (reason, rest) = match rest.strip_prefix(r#""reason":""#) {
        Some(rest) => rest.split_once(r#"","#)?,
        None => ("", rest),
    };
    let (token, rest) = rest.strip_prefix(r#""token":""#)?.split_once(r#"","request":"#)?;
    Some((action, reason, token, rest.strip_suffix('}')?))
}

impl World {
    fn hits(&mut self, fault: Fault) -> bool {
        self.faults.strikes(fault, &mut self.random)
    }

    /// The gateway makes a callback.
    pub fn take_call(&mut self, call: &Call) {
        let mut body = Vec::new();
        call.write_body(&mut body);
        assert_eq!(body.len(), call.body_bytes());
        let text = std::str::from_utf8(&body).expect("a callback is text");
        let (action, reason, token, request) = parse(text).unwrap_or_else(|| panic!("a bad callback: {text}"));
        let client = client_of(token);
        let connect = action == "connect";
        self.trace.note(self.clock, "callback", &[("client", client as u64), ("connect", u64::from(connect))]);
        self.trace.bytes(&body);
        match call.kind {
            CallKind::Connect => {
                assert_eq!((action, reason), ("connect", ""));
                self.oracle.connect_called(client, request);
            }
            CallKind::Disconnect { reason: told, detail } => {
                assert_eq!((action, reason), ("disconnect", told.as_str()));
                self.oracle.disconnect_called(client, request, reason, detail);
            }
        }
        assert!(self.backend.ids.insert(call.id), "a callback with the id of another one before it");
        let (outcome, said, delay) = self.decide(connect);
        self.backend.calls.push(Record { id: call.id, client, connect, outcome, said, taken: false });
        let number = self.backend.calls.len() - 1;
        self.plan(delay, Item::Outcome(number));
        if connect {
            self.backend.streams.push(client);
            if self.random.chance(300) && !self.faults.ended() {
                let count = self.random.within(1, 3);
                self.send_batch(count, Some(client));
            }
        }
    }

    /// What comes of a callback, and when.
    fn decide(&mut self, connect: bool) -> (Outcome, Said, u64) {
        let timeout = millis(self.settings.callback_timeout);
        let mut delay = self.random.within(0, 20);
        if self.hits(Fault::SlowAnswer) {
            delay = self.random.below(timeout);
        }
        let written = self.random.chance(700);
        let mut said = Said::default();
        let outcome = if self.hits(Fault::LostAnswer) {
            delay = timeout;
            Outcome::TimedOut { written }
        } else if self.hits(Fault::BrokenAnswer) {
            Outcome::Unavailable { written }
        } else if self.hits(Fault::Rejection) {
            let status = self.random.pick(&[302, 401, 403, 404, 500, 502, 503, 504]);
            let passed = vec![(PassedHeader::RetryAfter, b"7".to_vec())];
            Outcome::Answered { status, passed, body: None }
        } else {
            let body = self.speak_up(connect, &mut said);
            Outcome::Answered { status: self.random.pick(&[200, 200, 201, 204]), passed: Vec::new(), body }
        };
        if self.hits(Fault::LateOutcome) {
            delay += self.random.within(0, timeout + 3_000);
        }
        (outcome, said, delay)
    }

    /// The body of a 2xx, and what it asks for.
    fn speak_up(&mut self, connect: bool, said: &mut Said) -> Option<Vec<u8>> {
        if self.hits(Fault::MalformedAnswer) {
            let (body, data, close) = self.random.pick(&[
                (Some("OK"), None, false),
                (None, None, false),
                (Some(r#"{"close":true"#), None, false),
                (Some(r#"{"event":1,"close":true}"#), None, true),
                (Some(r#"{"event":{"data":"d","name":"a\nb"},"close":true}"#), None, true),
                (Some(r#"{"event":{"data":"d","name":7},"close":1}"#), Some("d"), false),
            ]);
            said.event = data.map(|data: &str| Rc::new(Event { data: data.to_owned(), ..Event::default() }));
            said.close = close;
            return body.map(|body| body.as_bytes().to_vec());
        }
        said.close = connect && self.random.chance(50);
        let mut body = String::from("{");
        if self.random.chance(300) {
            let event = self.draw_event();
            body.push_str(&event_json(&event));
            said.event = Some(Rc::new(event));
        }
        if said.close {
            body.push_str(if body.len() > 1 { r#","close":true"# } else { r#""close":true"# });
        }
        body.push('}');
        Some(body.into_bytes())
    }

    /// A worker is done; some repeat an old outcome, which must reach nobody.
    pub fn complete(&mut self, number: usize) {
        let record = &self.backend.calls[number];
        let completion = Called { id: record.id, outcome: record.outcome.clone() };
        self.trace.note(self.clock, "outcome", &[("client", record.client as u64)]);
        self.kernel.complete(completion);
        if self.hits(Fault::StaleOutcome) {
            let old = self.random.below(self.backend.calls.len() as u64) as usize;
            let record = &self.backend.calls[old];
            if record.taken {
                let body = Some(br#"{"event":{"data":"stale"},"close":true}"#.to_vec());
                let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body };
                self.kernel.complete(Called { id: record.id, outcome });
            }
        }
    }

    /// The gateway takes note of an outcome.
    pub fn completion_taken(&mut self, completion: &Called) {
        let calls = &mut self.backend.calls;
        let Some(record) = calls.iter_mut().rev().find(|record| record.id == completion.id && !record.taken) else {
            return;
        };
        record.taken = true;
        self.oracle.flying[if record.connect { CONNECT } else { DISCONNECT }] -= 1;
        if record.connect {
            self.oracle.connect_answered(record.client, record.outcome.clone(), record.said.clone());
        } else {
            self.oracle.input += 1;
        }
    }

    /// Sends something to somebody.
    pub fn chat(&mut self) {
        let count = if self.hits(Fault::Flood) { self.random.within(5, 40) } else { self.random.within(1, 4) };
        let same = self.random.chance(500);
        let target = if same && !self.backend.streams.is_empty() { Some(self.pick_stream()) } else { None };
        self.send_batch(count, target);
    }

    fn pick_stream(&mut self) -> usize {
        let recent = self.backend.streams.len().saturating_sub(25);
        self.random.pick(&self.backend.streams[recent..])
    }

    /// Sends `count` events in one batch, all to `target` or each to somebody.
    fn send_batch(&mut self, count: u64, target: Option<usize>) {
        let sender = self.pick_sender();
        let mut bytes = Vec::new();
        let mut end = self.script_bytes(sender);
        for _ in 0..count {
            let to = match target {
                Some(target) => Some(target),
                None if self.backend.streams.is_empty() || self.random.chance(30) => None,
                None => Some(self.pick_stream()),
            };
            let before = bytes.len();
            let number = self.write_send(to, &mut bytes);
            end += (bytes.len() - before) as u64;
            self.oracle.exchanges[sender].requests.push(Request { end, what: What::Send(number) });
        }
        self.prompt(sender, &bytes);
    }

    fn pick_sender(&mut self) -> usize {
        let mut senders = std::mem::take(&mut self.backend.senders);
        senders.retain(|n| self.is_usable(*n));
        if senders.is_empty() || (senders.len() < 3 && self.random.chance(100)) {
            let internal = self.settings.internal_listener;
            let listener = if internal { Listener::Internal } else { Listener::Public };
            let script = Script { bytes: Vec::new(), requests: Vec::new(), quoted: String::new() };
            let client = match self.hits(Fault::Pieces) {
                true => Client::in_pieces(200, 3),
                false => Client::calm(),
            };
            senders.push(self.join(listener, script, client));
        }
        let sender = self.random.pick(&senders);
        self.backend.senders = senders;
        sender
    }

    /// Writes one send; returns its number.
    fn write_send(&mut self, to: Option<usize>, out: &mut Vec<u8>) -> usize {
        let token = token_of(to.unwrap_or(usize::MAX >> 1));
        let mut send = Send { stream: to, invalid: None, event: None, close: false, answer: None, delivered: None };
        let mut body = format!(r#"{{"token":"{token}""#);
        match self.random.below(40) {
            0 => {
                body = "{".to_owned();
                send.invalid = Some(r#"{"error":"Invalid JSON"}"#);
            }
            1 => {
                body.push_str(r#","event":{"name":"n"}}"#);
                send.invalid = Some(r#"{"error":"Invalid request: event.data is required and must be a string"}"#);
            }
            2 => body.push('}'),
            kind => {
                if kind > 3 {
                    let event = self.draw_event();
                    body.push(',');
                    body.push_str(&event_json(&event));
                    send.event = Some(Rc::new(event));
                }
                send.close = kind == 3 || self.random.chance(20);
                body.push_str(if send.close { r#","close":true}"# } else { "}" });
            }
        }
        let auth =
            self.settings.internal_token.as_ref().map(|token| format!("Authorization: Bearer {}\r\n", token.expose()));
        let auth = auth.unwrap_or_default();
        let head = format!("POST /internal/send HTTP/1.1\r\nHost: sim\r\n{auth}");
        if self.random.chance(100) {
            let (first, second) = body.split_at(body.len() / 2 + usize::from(!body.is_char_boundary(body.len() / 2)));
            let chunks = [first, second].map(|part| match part.len() {
                0 => String::new(),
                length => format!("{length:x}\r\n{part}\r\n"),
            });
            let text = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n", chunks[0], chunks[1]);
            out.extend_from_slice(text.as_bytes());
        } else {
            out.extend_from_slice(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        }
        self.oracle.sends.push(send);
        self.oracle.sends.len() - 1
    }

    fn draw_event(&mut self) -> Event {
        self.backend.events += 1;
        let number = self.backend.events;
        let mut data = format!("{number}");
        for _ in 0..self.random.below(4) {
            data.push_str(self.random.pick(&[
                "\n",
                "\r\n",
                "\r",
                ": heartbeat",
                " ",
                "data: x",
                "\"\\",
                "\u{e9}",
                "\0",
            ]));
        }
        if self.random.chance(100) {
            // The largest does not fit into one read.
            let room = self.settings.body_bytes_max.min(100_000) - 300;
            let more = self.random.pick(&[170, 170, 300, 300, 5_000, 5_000, 20_000, 100_000]).min(room);
            data.push_str(&"x".repeat(more));
        }
        Event {
            name: self.random.pick(&[None, None, Some(""), Some("tick"), Some(" a:b")]).map(str::to_owned),
            id: self
                .random
                .chance(300)
                .then(|| if number.is_multiple_of(5) { String::new() } else { number.to_string() }),
            retry: self.random.pick(&[None, None, None, Some(0), Some(2_147_483_647)]),
            data,
        }
    }
}

/// `"event":{...}` as a backend writes it.
fn event_json(event: &Event) -> String {
    let quote = |text: &String| serde_json::to_string(text).expect("text");
    let mut fields = Vec::new();
    fields.extend(event.name.as_ref().map(|name| format!(r#""name":{}"#, quote(name))));
    fields.extend(event.id.as_ref().map(|id| format!(r#""id":{}"#, quote(id))));
    fields.extend(event.retry.map(|retry| format!(r#""retry":{retry}"#)));
    fields.push(format!(r#""data":{}"#, quote(&event.data)));
    format!(r#""event":{{{}}}"#, fields.join(","))
}
