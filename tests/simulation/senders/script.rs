//! What a sender writes, and what its lines mean.

use super::account::{Said, Target};
use crate::random::Random;
use std::collections::VecDeque;
use uuid::Uuid;

/// The limit of a line.
pub(super) const LINE_BYTES_MAX: usize = 400;

/// Lines that are refused, with their errors.
const BAD_LINES: [(&str, &str); 6] = [
    ("{", "Invalid JSON"),
    ("[]", "Invalid JSON"),
    (r#"{"event":{}}"#, "Invalid request: event.data is required and must be a string"),
    (r#"{"will":null}"#, "Invalid request: will must be an object"),
    (r#"{"will":{"data":"d"},"close":true}"#, "Invalid request: will excludes all other fields"),
    (r#"{"group":"x","groups":["y"]}"#, "Invalid request: token, group and groups exclude each other"),
];
const BLANK_LINES: [&str; 3] = ["", " \t", "\r"];

/// What a part of a script means once its last byte has been read.
pub(super) enum Mark {
    Head,
    Line(Said),
    /// The end of the body.
    Complete,
    /// It cannot be read on.
    Refused(u16, &'static str),
}

/// The bytes of a feed.
pub(super) struct Script {
    pub bytes: Vec<u8>,
    /// In order, each with the number of bytes up to its end.
    pub marks: VecDeque<(usize, Mark)>,
}

/// How a feed is written.
pub(super) struct Plan {
    pub target: Option<Target>,
    pub ends: bool,
    pub is_lines: bool,
    /// Other targets that lines may name.
    pub others: Vec<Target>,
}

/// The body, with the end of each line.
#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    ends: Vec<(usize, Mark)>,
}

pub(super) fn token_of(stream: usize) -> Uuid {
    Uuid::from_u128(0xABCD << 64 | stream as u128)
}

pub(super) fn name_of(group: usize) -> String {
    format!("g{group}")
}

impl Plan {
    /// `events`: the number so far, which makes each one unique.
    pub(super) fn write(&self, random: &mut Random, events: &mut u64) -> Script {
        let mut body = Body::default();
        for _ in 0..random.below(8) {
            match self.is_lines {
                true => self.write_line(&mut body, random, events),
                false => self.write_event(&mut body, random, events),
            }
        }
        let is_chunked = random.chance(700);
        let fault = random.below(6);
        if fault == 0 {
            body.write_long_line();
        } else if self.is_lines && fault < 4 && body.bytes.ends_with(b"\n") {
            // The end of the body completes it.
            body.bytes.pop();
            if let Some((end, _)) = body.ends.last_mut() {
                *end = usize::MAX;
            }
            // Where nothing is left of a line, there is none.
            if body.bytes.last().is_none_or(|byte| *byte == b'\n') {
                body.ends.pop();
            }
        }
        let query = match self.target {
            Some(Target::Stream(stream)) => format!("?token={}", token_of(stream)),
            Some(Target::Group(group)) => {
                format!("?group={}{}", name_of(group), if self.ends { "&end=true" } else { "" })
            }
            None => String::new(),
        };
        let content_type = if self.is_lines { "application/x-ndjson" } else { "text/event-stream" };
        let head = format!("POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\n");
        body.frame(&head, is_chunked, fault == 5, random)
    }

    fn write_line(&self, body: &mut Body, random: &mut Random, events: &mut u64) {
        let kind = random.below(20);
        let (text, said) = match kind {
            0 => (random.pick(&BLANK_LINES).to_owned(), Said::Nothing),
            1 => {
                let (text, error) = random.pick(&BAD_LINES);
                // The target comes first.
                let is_targeted = self.target.is_some() || text != r#"{"event":{}}"#;
                let error = if is_targeted { error } else { "Invalid request: token is required and must be a string" };
                (text.to_owned(), Said::Bad(error))
            }
            2 => {
                *events += 1;
                let text = format!(r#"{{"will":{{"name":"error","data":"{events}"}}}}"#);
                (text, Said::Will(format!("event: error\ndata: {events}\n\n")))
            }
            3 if !self.others.is_empty() => self.write_send(Some(random.pick(&self.others)), random, events),
            _ => self.write_send(None, random, events),
        };
        body.bytes.extend_from_slice(text.as_bytes());
        body.bytes.extend_from_slice(if random.chance(100) { b"\r\n" } else { b"\n" });
        body.ends.push((body.bytes.len(), Mark::Line(said)));
    }

    /// `named`: the target in the line.
    fn write_send(&self, named: Option<Target>, random: &mut Random, events: &mut u64) -> (String, Said) {
        let Some(target) = named.or(self.target) else {
            return ("{}".to_owned(), Said::Bad("Invalid request: token is required and must be a string"));
        };
        let mut fields = Vec::new();
        match named {
            Some(Target::Stream(stream)) => fields.push(format!(r#""token":"{}""#, token_of(stream))),
            Some(Target::Group(group)) => fields.push(format!(r#""group":"{}""#, name_of(group))),
            None => {}
        }
        let count = random.pick(&[1, 1, 1, 1, 0, 2]);
        let frames: Vec<String> = (0..count)
            .map(|_| {
                *events += 1;
                format!("data: {events}\ndata: {}\n\n", "x".repeat(random.pick(&[0, 1, 60])))
            })
            .collect();
        let json: Vec<String> = frames
            .iter()
            .map(|frame| {
                format!(r#"{{"data":"{}"}}"#, frame.trim_end_matches('\n').replace("data: ", "").replace('\n', "\\n"))
            })
            .collect();
        match &*json {
            [] => {}
            [event] => fields.push(format!(r#""event":{event}"#)),
            several => fields.push(format!(r#""events":[{}]"#, several.join(","))),
        }
        let (close, end) = (random.chance(30), matches!(target, Target::Group(_)) && random.chance(40));
        fields.extend(close.then(|| r#""close":true"#.to_owned()));
        fields.extend(end.then(|| r#""end":true"#.to_owned()));
        (format!("{{{}}}", fields.join(",")), Said::Send { target, events: frames, close, end })
    }

    fn write_event(&self, body: &mut Body, random: &mut Random, events: &mut u64) {
        let line_end: &str = random.pick(&["\n", "\n", "\r\n", "\r"]);
        *events += 1;
        let mut lines: Vec<String> = match random.below(6) {
            0 => vec![": a comment".to_owned()],
            1 => vec![format!("id: {events}"), "retry: 5".to_owned()],
            _ => Vec::new(),
        };
        let (name, is_sent) = match random.below(6) {
            0 => (Some("delta"), true),
            1 => (Some("a\0b"), false),
            _ => (None, true),
        };
        lines.extend(name.map(|name| format!("event: {name}")));
        lines.push(format!("data: {events}"));
        lines.push("data".to_owned());
        for line in lines {
            body.bytes.extend_from_slice(format!("{line}{line_end}").as_bytes());
        }
        // Complete with the first byte of the empty line's end.
        body.bytes.extend_from_slice(line_end.as_bytes());
        let name = name.map_or(String::new(), |name| format!("event: {name}\n"));
        let frame = format!("{name}data: {events}\ndata: \n\n");
        let target = self.target.expect("an event stream has a target");
        let said = match is_sent {
            true => Said::Send { target, events: vec![frame], close: false, end: false },
            false => Said::Nothing,
        };
        body.ends.push((body.bytes.len() + 1 - line_end.len(), Mark::Line(said)));
    }
}

impl Body {
    /// A line that exceeds the limit by a byte.
    fn write_long_line(&mut self) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[b'x'; LINE_BYTES_MAX + 1]);
        self.ends.push((start + LINE_BYTES_MAX + 1, Mark::Refused(413, "Request body too large")));
        self.bytes.extend_from_slice(b"\n");
    }

    /// The request: `is_malformed`, in chunks of which the last is none.
    fn frame(self, head: &str, is_chunked: bool, is_malformed: bool, random: &mut Random) -> Script {
        let Self { bytes: body, ends } = self;
        let field =
            if is_chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {}", body.len()) };
        let mut bytes = format!("{head}{field}\r\n\r\n").into_bytes();
        let mut marks = VecDeque::from([(bytes.len(), Mark::Head)]);
        // How much of the request is there after each byte of the body.
        let mut positions = Vec::with_capacity(body.len());
        let mut rest = &*body;
        while !rest.is_empty() {
            let length = if is_chunked { random.pick(&[1, 7, 100, 1000]).min(rest.len()) } else { rest.len() };
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            if is_chunked {
                bytes.extend_from_slice(format!("{length:x}\r\n").as_bytes());
            }
            for byte in piece {
                bytes.push(*byte);
                positions.push(bytes.len());
            }
            bytes.extend_from_slice(if is_chunked { b"\r\n" } else { b"" });
        }
        let is_malformed = is_malformed && is_chunked;
        if is_malformed {
            bytes.extend_from_slice(b"x");
        } else if is_chunked {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        for (end, mark) in ends {
            match positions.get(end.wrapping_sub(1)) {
                Some(position) => marks.push_back((*position, mark)),
                // What the end of the body was to complete.
                None if is_malformed => {}
                None => marks.push_back((bytes.len(), mark)),
            }
        }
        let last = if is_malformed { Mark::Refused(400, "Bad request: invalid chunk") } else { Mark::Complete };
        marks.push_back((bytes.len(), last));
        Script { bytes, marks }
    }
}
