//! Sends: their written forms, the answer to each, and its effect on the stream.

use super::Oracle;
use super::callbacks::token_of;
use super::entries::{Change, Changed};
use super::exchange::What;
use super::groups::{CLOSED, Publication, Published, name_of};
use super::limits::READER_FACTOR;
use super::requests::{Asked, NOT_FOUND as NO_SUCH_PATH, Serves, fixed, last};
use super::streams::{Expected, Phase, STREAM_OVERFLOWS};
use ssegateway::callback::{Detail, Reason};
use std::fmt::Write;
use std::rc::Rc;

/// An event in a send.
#[derive(Clone, Debug, Default)]
pub(crate) struct Event {
    pub name: Option<String>,
    pub id: Option<String>,
    pub retry: Option<u32>,
    pub data: String,
}

/// The form of a send's request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Form {
    /// In chunks of that many bytes.
    pub chunked: Option<usize>,
    /// With `Expect: 100-continue`.
    pub expects: bool,
}

/// A send, from the backend's view.
#[derive(Default)]
pub(crate) struct Send {
    /// The stream's connection; `None`: an unknown token.
    stream: Option<usize>,
    /// The error for its form, if there is one.
    invalid: Option<&'static str>,
    frame: Option<Rc<[u8]>>,
    close: bool,
    /// 100 (Continue) may come before its answer.
    pub expects: bool,
    /// The expected answer; known once it has arrived, unless its stream is wild.
    answer: Option<(u16, &'static str)>,
    /// The number of the input that it arrived with, if its event was accepted by an open stream.
    delivered: Option<u64>,
    /// What it sends to groups, and what it is answered.
    publication: Option<Publication>,
    published: Option<Published>,
    /// It changes the groups of its stream instead.
    change: Option<Change>,
}

const OK: (u16, &str) = (200, r#"{"status":"ok"}"#);
const BUFFERED: (u16, &str) = (200, r#"{"status":"buffered"}"#);
const NOT_FOUND: (u16, &str) = (404, r#"{"error":"Token not found"}"#);
const FAILED: (u16, &str) = (500, r#"{"error":"Write failed: connection closed"}"#);
const ENDED: &str = r#"{"error":"Group has ended"}"#;
const TOO_LARGE: &str = r#"{"error":"Request body too large"}"#;

/// Bodies that are refused whatever their token; `%` is its place.
const INVALID: [(&str, &str); 12] = [
    ("{", r#"{"error":"Invalid JSON"}"#),
    ("[]", r#"{"error":"Invalid JSON"}"#),
    (r#"{"close":true}"#, r#"{"error":"Invalid request: token is required and must be a string"}"#),
    (r#"{"token":"%","event":null}"#, r#"{"error":"Invalid request: event must be an object"}"#),
    (
        r#"{"token":"%","event":{"name":"n"}}"#,
        r#"{"error":"Invalid request: event.data is required and must be a string"}"#,
    ),
    (
        r#"{"token":"%","event":{"data":"d","name":null}}"#,
        r#"{"error":"Invalid request: event.name must be a string"}"#,
    ),
    (
        r#"{"token":"%","event":{"data":"d","name":"a\nb"}}"#,
        r#"{"error":"Invalid request: event.name must not contain line breaks"}"#,
    ),
    (r#"{"token":"%","event":{"data":"d","id":0.5}}"#, r#"{"error":"Invalid request: event.id must be a string"}"#),
    (
        r#"{"token":"%","event":{"data":"d","id":"a\rb"}}"#,
        r#"{"error":"Invalid request: event.id must not contain line breaks"}"#,
    ),
    (
        r#"{"token":"%","event":{"data":"d","id":"\u0001"}}"#,
        r#"{"error":"Invalid request: event.id must not contain control characters"}"#,
    ),
    (
        r#"{"token":"%","event":{"data":"d","retry":-1}}"#,
        r#"{"error":"Invalid request: event.retry must be a non-negative integer"}"#,
    ),
    (r#"{"token":"%","close":null}"#, r#"{"error":"Invalid request: close must be a boolean"}"#),
];

pub(crate) const INVALID_KINDS: usize = INVALID.len();

impl Event {
    /// Its frame (docs/protocol.md, section 5).
    pub(crate) fn frame(&self) -> Rc<[u8]> {
        let mut frame = String::new();
        if let Some(name) = self.name.as_ref().filter(|name| !name.is_empty()) {
            let _ = writeln!(frame, "event: {name}");
        }
        if let Some(id) = &self.id {
            let _ = writeln!(frame, "id:{}{id}", if id.is_empty() { "" } else { " " });
        }
        if let Some(retry) = self.retry {
            let _ = writeln!(frame, "retry: {retry}");
        }
        for line in self.data.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
            let _ = writeln!(frame, "data: {line}");
        }
        frame.push('\n');
        frame.into_bytes().into()
    }

    /// `"event":{...}` as written by a backend.
    pub(crate) fn json(&self) -> String {
        let quote = |text: &String| serde_json::to_string(text).expect("text");
        let mut fields = Vec::new();
        fields.extend(self.name.as_ref().map(|name| format!(r#""name":{}"#, quote(name))));
        fields.extend(self.id.as_ref().map(|id| format!(r#""id":{}"#, quote(id))));
        fields.extend(self.retry.map(|retry| format!(r#""retry":{retry}"#)));
        fields.push(format!(r#""data":{}"#, quote(&self.data)));
        format!(r#""event":{{{}}}"#, fields.join(","))
    }
}

impl Oracle {
    /// A send to the stream on connection `to`, or to an unknown token.
    pub(crate) fn send(
        &mut self,
        to: Option<usize>,
        event: Option<&Event>,
        close: bool,
        form: Form,
        serves: Serves,
    ) -> Asked {
        let mut body = format!(r#"{{"token":"{}""#, token_of(to.unwrap_or(usize::MAX >> 1)));
        if let Some(event) = event {
            body.push(',');
            body.push_str(&event.json());
        }
        body.push_str(if close { r#","close":true}"# } else { "}" });
        let frame = event.map(Event::frame);
        let send = Send { stream: to, frame, close, expects: form.expects, ..Send::default() };
        self.post(send, &body, form, serves)
    }

    /// A send to groups.
    pub(crate) fn group_send(
        &mut self,
        groups: &[usize],
        events: &[Event],
        publication: Publication,
        form: Form,
        serves: Serves,
    ) -> Asked {
        let names: Vec<String> = groups.iter().map(|group| format!(r#""{}""#, name_of(*group))).collect();
        let mut fields = vec![match &names[..] {
            [name] => format!(r#""group":{name}"#),
            names => format!(r#""groups":[{}]"#, names.join(",")),
        }];
        match events {
            [] => {}
            [event] => fields.push(event.json()),
            events => {
                let events = events.iter().map(|event| event.json().trim_start_matches(r#""event":"#).to_owned());
                fields.push(format!(r#""events":[{}]"#, Vec::from_iter(events).join(",")));
            }
        }
        let flags = [("close", publication.close), ("end", publication.end), ("transient", publication.is_transient)];
        fields.extend(flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| format!(r#""{name}":true"#)));
        let send = Send { expects: form.expects, publication: Some(publication), ..Send::default() };
        self.post(send, &format!("{{{}}}", fields.join(",")), form, serves)
    }

    /// A change of the groups of the stream on connection `to`.
    pub(crate) fn group_change(&mut self, to: usize, change: Change, form: Form, serves: Serves) -> Asked {
        let list = |groups: &[usize]| {
            groups.iter().map(|group| format!(r#""{}""#, name_of(*group))).collect::<Vec<_>>().join(",")
        };
        let (join, leave) = (list(&change.join), list(&change.leave));
        let body = format!(r#"{{"token":"{}","join":[{join}],"leave":[{leave}]}}"#, token_of(to));
        let send = Send { stream: Some(to), expects: form.expects, change: Some(change), ..Send::default() };
        self.post(send, &body, form, serves)
    }

    /// A send that is refused whatever its token.
    pub(crate) fn invalid_send(&mut self, kind: usize, to: Option<usize>, form: Form, serves: Serves) -> Asked {
        let (body, error) = INVALID[kind];
        let body = body.replace('%', &token_of(to.unwrap_or(usize::MAX >> 1)).to_string());
        let send = Send { stream: to, invalid: Some(error), expects: form.expects, ..Send::default() };
        self.post(send, &body, form, serves)
    }

    fn post(&mut self, send: Send, body: &str, form: Form, serves: Serves) -> Asked {
        let path = if send.change.is_some() { "groups" } else { "send" };
        let mut head = format!("POST /internal/{path} HTTP/1.1\r\nHost: a\r\n");
        if let Some(token) = &self.settings.internal_token {
            let _ = write!(head, "Authorization: Bearer {}\r\n", token.expose());
        }
        head.push_str(if form.expects { "Expect: 100-continue\r\n" } else { "" });
        self.sends.push(send);
        let mut rest = Vec::new();
        match form.chunked {
            Some(size) => {
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
                for chunk in body.as_bytes().chunks(size) {
                    rest.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    rest.extend_from_slice(chunk);
                    rest.extend_from_slice(b"\r\n");
                }
                rest.extend_from_slice(b"0\r\n\r\n");
            }
            None => {
                let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
                rest.extend_from_slice(body.as_bytes());
            }
        }
        let fits = body.len() <= self.settings.body_bytes_max;
        let what = match (serves.internal, fits, form.chunked) {
            (true, true, _) => What::Send(self.sends.len() - 1),
            (false, _, _) if form.expects => last(404, NO_SUCH_PATH),
            (false, true, _) => fixed(404, NO_SUCH_PATH),
            (true, false, None) => last(413, TOO_LARGE),
            (false, false, None) => last(404, NO_SUCH_PATH),
            (true, false, Some(_)) => What::Broken { status: 413 },
            (false, false, Some(_)) => What::Broken { status: 404 },
        };
        // The last answer does not wait for the body.
        let end = head.len() + if matches!(what, What::Fixed { close: true, .. }) { 0 } else { rest.len() };
        Asked { end, ..Asked::new(head, what).with_rest(&rest) }
    }

    /// A send has been read in full.
    pub(super) fn arrive_send(&mut self, number: usize) {
        if let Some(publication) = self.sends[number].publication.take() {
            self.sends[number].published = Some(self.publish(&publication));
            return;
        }
        let send = &mut self.sends[number];
        if send.invalid.is_some() {
            return;
        }
        let Some(n) = send.stream.filter(|n| self.exchanges[*n].wild || self.exchanges[*n].stream.is_some()) else {
            send.answer = Some(NOT_FOUND);
            return;
        };
        let it = &mut self.exchanges[n];
        if it.wild {
            self.unsure_input = self.input;
            return;
        }
        if let Some(change) = send.change.take() {
            let changed = self.change(n, change);
            self.sends[number].answer = Some(match changed {
                Changed::Ok => OK,
                Changed::Buffered => BUFFERED,
                Changed::NotFound => NOT_FOUND,
            });
            return;
        }
        let Some(stream) = &mut it.stream else { return };
        let pending_max = self.settings.pending_bytes_max;
        let backlog_max = pending_max * if self.now < it.reads_until || !it.was_refused { READER_FACTOR } else { 1 };
        send.answer = Some(match stream.phase {
            Phase::Over => NOT_FOUND,
            Phase::Connecting if stream.held_close => NOT_FOUND,
            Phase::Connecting if send.frame.is_some() && stream.held_bytes > pending_max => {
                stream.fail(503, STREAM_OVERFLOWS, true, Reason::Error, Detail::SlowConsumer);
                FAILED
            }
            Phase::Connecting => {
                if let Some(frame) = &send.frame {
                    stream.held_bytes += frame.len();
                    stream.held.push(Rc::clone(frame));
                }
                stream.held_close = send.close;
                BUFFERED
            }
            Phase::Open if stream.member.is_some() => return self.arrive_member_send(number, n),
            // Events of the same input have not been offered yet and do not count as backlog.
            Phase::Open if send.frame.is_some() && it.backlog > backlog_max && it.chunk_input != self.input => {
                stream.end(Reason::Error, Some(Detail::SlowConsumer));
                FAILED
            }
            Phase::Open => {
                if let Some(frame) = &send.frame {
                    stream.expected.push_back(Expected::Frame(Rc::clone(frame)));
                    send.delivered = (!it.refused).then_some(self.input);
                    if it.backlog == 0 {
                        it.progress_at = self.now;
                    }
                    it.pile(frame.len(), self.input);
                    it.chunk_input = self.input;
                }
                if send.close
                    && let Some(stream) = &mut it.stream
                {
                    stream.end(Reason::ServerClosed, None);
                }
                OK
            }
        });
    }

    /// A send to the token of a stream in groups.
    fn arrive_member_send(&mut self, number: usize, n: usize) {
        let (input, now) = (self.input, self.now);
        let (send, it) = (&mut self.sends[number], &mut self.exchanges[n]);
        let Some(stream) = &mut it.stream else { return };
        let Some(member) = &mut stream.member else { return };
        if member.ending.is_some() {
            send.answer = Some(NOT_FOUND);
            return;
        }
        if let Some(frame) = &send.frame {
            member.push_block(frame);
            send.delivered = member.is_prompt.then_some(input);
            if it.backlog == 0 {
                it.progress_at = now;
            }
        }
        send.answer = Some(OK);
        if send.close && member.is_prompt {
            stream.end(Reason::ServerClosed, None);
        } else if send.close {
            self.end_member(n, CLOSED);
        }
    }

    /// The answer to a send to groups.
    fn check_published(&mut self, published: Published, status: u16, body: &str) {
        let Published::Ok { position, reached } = published else {
            return assert_eq!((status, body), (410, ENDED), "wrong answer to a send to groups that have ended");
        };
        let answer: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((status, answer["status"].as_str()), (200, Some("ok")), "wrong answer to a send to groups: {body}");
        let id = answer["id"].as_str().map(|id| self.groups.position_of(id));
        assert_eq!(id, position, "a wrong id: {body}");
        let is_right = reached.is_none_or(|reached| answer["reached"].as_bool() == Some(reached));
        assert!(is_right, "reached is not {reached:?}: {body}");
    }

    /// A send is answered.
    pub(super) fn sent(&mut self, number: usize, status: u16, body: &str) {
        if let Some(published) = self.sends[number].published {
            return self.check_published(published, status, body);
        }
        let send = &self.sends[number];
        if let Some(error) = send.invalid {
            assert_eq!((status, body), (400, error), "wrong answer to a bad send");
            return;
        }
        match send.answer {
            Some(answer) => {
                assert_eq!((status, body), answer, "wrong answer to a send: for client {:?}", send.stream)
            }
            None => {
                assert!([OK, BUFFERED, NOT_FOUND, FAILED].contains(&(status, body)), "not the answer to a send: {body}")
            }
        }
        if let (Some(input), Some(stream)) = (send.delivered, send.stream.map(|n| &self.exchanges[n])) {
            let offered = stream.written_input >= input || stream.closed || stream.wild;
            assert!(offered, "answered before the event was offered to the kernel");
        }
    }
}
