//! A parser of the gateway's output: HTTP/1.1 responses and the frames in a stream's body.
//!
//! Written from RFC 9112, strict, and without any code of the gateway's.

use std::time::UNIX_EPOCH;

/// One complete part of a connection's output.
pub(crate) enum Part {
    /// 100 Continue.
    Interim,
    /// A response with its body.
    Answer(Answer),
    StreamHead,
    /// A frame or a comment, including its blank line.
    Frame(Vec<u8>),
    /// The last chunk.
    StreamEnd,
}

pub(crate) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// `Connection: close`.
    pub close: bool,
}

/// Whether the next answer has a body if its head announces one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Follows,
    /// The request was a HEAD.
    Missing,
    /// The request is unknown. All JSON bodies are objects, so the first byte decides.
    Unknown,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Body {
        left: usize,
    },
    /// After a head that announces that many bytes of JSON, which need not follow.
    Guess {
        left: usize,
    },
    /// In the line of a chunk's size.
    Size,
    Chunk {
        left: usize,
    },
    /// The CRLF after a chunk's data, or after the last chunk.
    ChunkEnd {
        last: bool,
    },
    /// An HTTP/1.0 stream: everything until the connection closes.
    Raw,
    Ended,
}

/// Reads the responses of one connection in pieces of any size.
#[derive(Default)]
pub(crate) struct Responses {
    state: State,
    /// The part being read: a head, a body, a line.
    held: Vec<u8>,
    frame: Vec<u8>,
    status: u16,
    close: bool,
    /// `Date` of the last head, in seconds since the Unix epoch.
    pub date: u64,
}

impl Responses {
    /// Whether no response is incomplete.
    pub(crate) fn is_between(&self) -> bool {
        let between = matches!(self.state, State::Head | State::Guess { .. } | State::Size | State::Raw | State::Ended);
        between && self.held.is_empty() && self.frame.is_empty()
    }

    /// Takes the next part from the front of `bytes`; `None` if they end before it is complete.
    pub(crate) fn next(&mut self, bytes: &mut &[u8], body: Body) -> Option<Part> {
        loop {
            match self.state {
                State::Head => {
                    self.take_line(bytes)?;
                    if self.held.ends_with(b"\r\n\r\n") {
                        let head = std::mem::take(&mut self.held);
                        if let Some(part) = self.read_head(&head, body) {
                            return Some(part);
                        }
                    }
                }
                State::Guess { left } => {
                    self.state = State::Body { left: if bytes.first()? == &b'{' { left } else { 0 } };
                }
                State::Body { left } => {
                    let count = left.min(bytes.len());
                    self.held.extend_from_slice(take(bytes, count));
                    self.state = State::Body { left: left - count };
                    if count < left {
                        return None;
                    }
                    return Some(self.answer());
                }
                State::Size => {
                    self.take_line(bytes)?;
                    let line = std::mem::take(&mut self.held);
                    let digits = line.strip_suffix(b"\r\n").expect("a chunk's size ends in CRLF");
                    assert!(digits.iter().all(u8::is_ascii_hexdigit), "a chunk's size is {:?}", digits.escape_ascii());
                    let text = std::str::from_utf8(digits).expect("digits");
                    let size = usize::from_str_radix(text, 16).expect("a chunk's size");
                    self.state = if size == 0 { State::ChunkEnd { last: true } } else { State::Chunk { left: size } };
                }
                State::Chunk { left: 0 } => self.state = State::ChunkEnd { last: false },
                State::Chunk { left } => {
                    let mut inside = &bytes[..left.min(bytes.len())];
                    let before = inside.len();
                    let frame = self.next_frame(&mut inside);
                    let used = before - inside.len();
                    take(bytes, used);
                    self.state = State::Chunk { left: left - used };
                    if frame.is_some() || used == 0 {
                        return frame;
                    }
                }
                State::ChunkEnd { last } => {
                    self.take_line(bytes)?;
                    assert_eq!(std::mem::take(&mut self.held), b"\r\n", "a chunk's data ends in CRLF");
                    assert!(self.frame.is_empty(), "a chunk ends within a frame");
                    if last {
                        self.state = State::Ended;
                        return Some(Part::StreamEnd);
                    }
                    self.state = State::Size;
                }
                State::Raw => return self.next_frame(bytes),
                State::Ended => {
                    assert!(bytes.is_empty(), "bytes after the end: {}", bytes.escape_ascii());
                    return None;
                }
            }
        }
    }

    /// Takes bytes until a blank line.
    fn next_frame(&mut self, bytes: &mut &[u8]) -> Option<Part> {
        while !bytes.is_empty() {
            self.frame.extend_from_slice(take_through_newline(bytes));
            if self.frame.ends_with(b"\n\n") {
                return Some(Part::Frame(std::mem::take(&mut self.frame)));
            }
        }
        None
    }

    /// Takes the rest of a line; `None` if it is incomplete.
    fn take_line(&mut self, bytes: &mut &[u8]) -> Option<()> {
        let taken = take_through_newline(bytes);
        self.held.extend_from_slice(taken);
        taken.ends_with(b"\n").then_some(())
    }

    /// The response, once head and body are complete.
    fn answer(&mut self) -> Part {
        self.state = if self.close { State::Ended } else { State::Head };
        Part::Answer(Answer { status: self.status, body: std::mem::take(&mut self.held), close: self.close })
    }

    /// Checks a head; returns the response if it has no body.
    fn read_head(&mut self, head: &[u8], body: Body) -> Option<Part> {
        let text = std::str::from_utf8(head).expect("a head is text");
        let text = text.strip_suffix("\r\n").unwrap_or(text);
        let mut lines = text.split_terminator('\n').map(|line| line.strip_suffix('\r').expect("lines end in CRLF"));
        let status_line = lines.next().unwrap_or_default();
        let digits =
            status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split_once(' ')).map(|(digits, _)| digits);
        let status = digits.filter(|digits| digits.len() == 3).and_then(|digits| digits.parse().ok());
        self.status = status.unwrap_or_else(|| panic!("a bad status line: {status_line:?}"));
        let fields: Vec<(&str, &str)> =
            lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("a bad field: {line:?}"))).collect();
        for (at, (name, _)) in fields.iter().enumerate() {
            assert!(fields[..at].iter().all(|(other, _)| !other.eq_ignore_ascii_case(name)), "{name} twice: {text}");
        }
        let field = |name| fields.iter().find(|field| field.0 == name).map(|field| field.1);
        if self.status == 100 {
            assert!(fields.is_empty(), "an interim response with fields: {text}");
            return Some(Part::Interim);
        }
        let date = field("Date").and_then(|date| httpdate::parse_http_date(date).ok()).expect("a response has a Date");
        self.date = date.duration_since(UNIX_EPOCH).expect("a date of our time").as_secs();
        self.close = field("Connection") == Some("close");
        let chunked = field("Transfer-Encoding") == Some("chunked");
        let length: Option<usize> = field("Content-Length").map(|length| length.parse().expect("a length"));
        if field("Content-Type") == Some("text/event-stream") {
            assert!(self.status == 200 && length.is_none() && self.close, "a bad head of a stream: {text}");
            self.state = if chunked { State::Size } else { State::Raw };
            return Some(Part::StreamHead);
        }
        assert!(!chunked, "only streams are chunked");
        if matches!(self.status, 204 | 304) {
            assert!(length.is_none(), "a length without a body: {text}");
            return Some(self.answer());
        }
        let left = length.unwrap_or_else(|| panic!("a response without a length: {text}"));
        self.state = match body {
            Body::Missing => return Some(self.answer()),
            Body::Unknown if left > 0 && field("Content-Type") == Some("application/json") => State::Guess { left },
            Body::Unknown | Body::Follows => State::Body { left },
        };
        None
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

/// Takes bytes up to the first line feed, or all.
fn take_through_newline<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let count = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    take(bytes, count)
}
