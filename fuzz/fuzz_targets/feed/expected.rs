//! What a body says, read as a whole, and what follows from it.

use crate::commands::{self, lasting, read_event};
use crate::decode::Message;
use crate::json::{self, Body, Fields};
use ssegateway::send::{GroupIds, SendCommand, SendError, Target};
use ssegateway::sse::Event;
use std::collections::HashSet;

/// A stream in no group, and the group of another one.
pub const TOKEN: &str = "00000000-0000-4000-8000-000000000001";
pub const GROUP: &str = "g";

const ERRORS_MAX: usize = 100;
const TOKEN_NOT_FOUND: (u16, &str) = (404, "Token not found");
const GROUP_HAS_ENDED: (u16, &str) = (410, "Group has ended");

/// The target in the feed's query.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Query {
    None,
    Token,
    Group,
    GroupThatEnds,
}

impl Query {
    pub fn text(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Token => format!("?token={TOKEN}"),
            Self::Group => format!("?group={GROUP}"),
            Self::GroupThatEnds => format!("?group={GROUP}&end=true"),
        }
    }

    fn target(self) -> Option<Target<'static>> {
        match self {
            Self::None => None,
            Self::Token => Some(Target::Token(TOKEN.into())),
            Self::Group | Self::GroupThatEnds => Some(Target::Group(GROUP.into())),
        }
    }
}

/// What a stream gets.
#[derive(Default)]
struct Stream {
    due: Vec<Event<'static>>,
    is_over: bool,
}

/// What a stream's client has got.
pub struct Got {
    pub messages: Vec<Message>,
    pub is_over: bool,
}

pub struct Account {
    query: Query,
    bytes_max: usize,
    lines: u64,
    accepted: u64,
    errors: Vec<String>,
    will: Event<'static>,
    is_too_long: bool,
    /// The feed's own end has not come yet.
    owes_end: bool,
    ended: HashSet<String>,
    /// Of the token, and in the group.
    own: Stream,
    member: Stream,
    is_broken_off: bool,
}

impl Account {
    pub fn new(query: Query, bytes_max: usize) -> Self {
        Self {
            query,
            bytes_max,
            lines: 0,
            accepted: 0,
            errors: Vec::new(),
            will: Event { name: Some("interrupted".into()), ..Event::default() },
            is_too_long: false,
            owes_end: query == Query::GroupThatEnds,
            ended: HashSet::new(),
            own: Stream::default(),
            member: Stream::default(),
            is_broken_off: false,
        }
    }

    /// `None`: the second reader does not know what a line means.
    pub fn read_lines(&mut self, body: &[u8], is_complete: bool) -> Option<()> {
        let mut lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
        let last = lines.pop().unwrap_or_default();
        let length = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).len();
        for line in lines {
            if length(line) > self.bytes_max {
                self.is_too_long = true;
                return Some(());
            }
            self.read_line(line)?;
        }
        self.is_too_long = length(last) > self.bytes_max;
        if is_complete && !self.is_too_long && !last.is_empty() {
            self.read_line(last)?;
        }
        Some(())
    }

    fn read_line(&mut self, line: &[u8]) -> Option<()> {
        self.lines += 1;
        let text = String::from_utf8_lossy(line);
        if text.strip_prefix('\u{feff}').unwrap_or(&text).chars().all(|c| [' ', '\t', '\r'].contains(&c)) {
            return Some(());
        }
        let fields = match json::read(&text) {
            Body::Object(fields) => fields,
            Body::Refused => {
                self.refuse(SendError::InvalidJson);
                return Some(());
            }
            Body::Beyond => return None,
        };
        if fields.get("will").is_some() {
            self.read_will(&fields);
            return Some(());
        }
        match commands::read(&fields, GroupIds::Backend, self.query.target()) {
            Ok(command) => self.execute(&command),
            Err(error) => self.refuse(error),
        }
        Some(())
    }

    fn read_will(&mut self, fields: &Fields) {
        let others = ["token", "group", "groups", "event", "events", "close", "end", "transient"];
        if others.iter().any(|name| fields.get(name).is_some()) {
            return self.refuse(SendError::WillAlone);
        }
        match fields.object("will").ok_or(SendError::Event).and_then(|event| read_event(&event)) {
            Err(error) => self.refuse(SendError::Will(lasting(error))),
            Ok(_) if self.query != Query::GroupThatEnds => self.refuse(SendError::WillWithoutEnd),
            Ok(_) if !self.owes_end => self.fail(GROUP_HAS_ENDED),
            Ok(will) => self.will = will,
        }
    }

    /// WHATWG HTML, section 9.2.6, on all of the body.
    pub fn read_events(&mut self, body: &[u8]) -> Option<()> {
        let mut lines = lines_of(body);
        let last = lines.pop().unwrap_or_default();
        let (mut name, mut data) = (Vec::new(), Vec::new());
        for (number, line) in lines.into_iter().enumerate() {
            if name.len() + data.len() + line.len() > self.bytes_max {
                self.is_too_long = true;
                return Some(());
            }
            let line = line.strip_prefix(b"\xEF\xBB\xBF").filter(|_| number == 0).unwrap_or(line);
            if line.is_empty() {
                if data.pop().is_some() {
                    self.pass_on(&name, &data);
                }
                (name, data) = (Vec::new(), Vec::new());
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (field, value) = colon.map_or((line, &b""[..]), |at| (&line[..at], &line[at + 1..]));
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match field {
                b"event" => name = value.to_vec(),
                b"data" => data.extend([value, b"\n"].concat()),
                _ => {}
            }
        }
        self.is_too_long = name.len() + data.len() + last.len() > self.bytes_max;
        Some(())
    }

    fn pass_on(&mut self, name: &[u8], data: &[u8]) {
        self.lines += 1;
        if name.contains(&0) {
            return;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let event = Event { name: Some(text(name).into()), data: text(data).into(), ..Event::default() };
        let target = self.query.target().expect("it is needed");
        let events = ssegateway::send::Events::One(event);
        self.execute(&SendCommand { target, events, close: false, end: false, transient: false });
    }

    fn execute(&mut self, command: &SendCommand<'_>) {
        let names: Vec<&str> = match &command.target {
            Target::Token(token) => {
                if **token != *TOKEN || self.own.is_over {
                    return self.fail(TOKEN_NOT_FOUND);
                }
                self.accepted += 1;
                return self.own.take(command);
            }
            Target::Group(name) => vec![name],
            Target::Groups(names) => names.iter().map(|name| &**name).collect(),
        };
        if names.iter().all(|name| self.ended.contains(*name)) {
            return self.fail(GROUP_HAS_ENDED);
        }
        self.accepted += 1;
        if names.contains(&GROUP) && !self.ended.contains(GROUP) && !self.member.is_over {
            self.member.take(command);
        }
        if command.end {
            self.ended.extend(names.iter().map(|name| (*name).to_owned()));
            self.owes_end &= !self.ended.contains(GROUP);
        }
    }

    fn refuse(&mut self, error: SendError) {
        self.fail((400, &error.message()));
    }

    fn fail(&mut self, (status, error): (u16, &str)) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(format!(r#"{{"line":{},"status":{status},"error":"{error}"}}"#, self.lines));
        }
    }

    /// The body is over, or broke off.
    pub fn end(&mut self, breaks_off: bool) {
        self.is_broken_off = breaks_off;
        if !std::mem::take(&mut self.owes_end) {
            return;
        }
        if (self.is_too_long || breaks_off) && !self.member.is_over {
            self.member.due.push(self.will.clone());
        }
        self.member.is_over = true;
    }

    /// `answer`: status and body of the sender's, if there was one.
    pub fn check(&self, own: &Got, member: &Got, answer: &str) {
        let expected = if self.is_too_long {
            format!(r#"413 {{"error":"Request body too large","line":{}}}"#, self.lines)
        } else if self.is_broken_off {
            String::new()
        } else if self.errors.is_empty() {
            format!(r#"200 {{"status":"ok","accepted":{}}}"#, self.accepted)
        } else {
            format!(r#"200 {{"status":"ok","accepted":{},"errors":[{}]}}"#, self.accepted, self.errors.join(","))
        };
        assert_eq!(answer, expected);
        self.own.check(own);
        self.member.check(member);
    }
}

impl Stream {
    fn take(&mut self, command: &SendCommand<'_>) {
        self.due.extend(command.events.as_slice().iter().map(|event| event.clone().into_owned()));
        self.is_over = command.close || command.end;
    }

    fn check(&self, got: &Got) {
        assert_eq!(got.is_over, self.is_over, "the end of a stream");
        assert_eq!(got.messages.len(), self.due.len(), "{:?}, not {:?}", got.messages, self.due);
        for (message, event) in got.messages.iter().zip(&self.due) {
            assert!(is_shown(event, message), "{message:?}, not {event:?}");
        }
    }
}

/// Whether a browser shows that event so. Its id may be that of an earlier one.
fn is_shown(event: &Event<'_>, message: &Message) -> bool {
    let name = event.name.as_deref().filter(|name| !name.is_empty()).unwrap_or("message");
    let data = event.data.replace("\r\n", "\n").replace('\r', "\n");
    name == message.name && data == message.data && event.id.as_ref().is_none_or(|id| **id == message.id)
}

/// All lines, and the incomplete one at the end.
fn lines_of(body: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = body;
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        let is_pair = rest[end..].starts_with(b"\r\n");
        lines.push(&rest[..end]);
        rest = &rest[end + 1 + usize::from(is_pair)..];
    }
    lines.push(rest);
    lines
}
