//! What the gateway writes, read back: HTTP/1.1 responses and the frames in a stream's body.
//!
//! Written from RFC 9112 and strict; shares nothing with the gateway's own code.

use std::time::UNIX_EPOCH;

/// One part of what a connection carries, complete.
pub enum Part {
    /// 100 Continue.
    Interim,
    /// A response with its body.
    Answer(Answer),
    /// The head of an event stream.
    StreamHead,
    /// A frame or a comment, its blank line included.
    Frame(Vec<u8>),
    /// The last chunk.
    StreamEnd,
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// `Connection: close`.
    pub close: bool,
}

#[derive(Debug)]
enum State {
    Head,
    Body {
        left: usize,
    },
    /// In the line with a chunk's size.
    Size,
    Chunk {
        left: usize,
    },
    /// The CRLF behind a chunk's data.
    ChunkEnd,
    /// The CRLF behind the last chunk.
    LastEnd,
    /// An HTTP/1.0 stream: everything until the end.
    Raw,
    Ended,
}

/// Reads the responses of one connection in pieces of any size.
pub struct Responses {
    state: State,
    line: Vec<u8>,
    status: u16,
    close: bool,
    /// `Date` of the last head, in seconds since the Unix epoch.
    date: u64,
    frame: Vec<u8>,
}

impl Default for Responses {
    fn default() -> Self {
        Responses { state: State::Head, line: Vec::new(), status: 0, close: false, date: 0, frame: Vec::new() }
    }
}

impl Responses {
    /// Whether nothing is half said.
    pub fn is_between(&self) -> bool {
        let between = matches!(self.state, State::Head | State::Size | State::Raw | State::Ended);
        between && self.line.is_empty() && self.frame.is_empty()
    }

    /// When the last head was written, in seconds since the Unix epoch.
    pub fn date(&self) -> u64 {
        self.date
    }

    /// Takes from the front of `bytes` what makes up the next part; `None` if all were taken before
    /// it was complete. `head_only`: the next answer is one to a HEAD request.
    pub fn next(&mut self, bytes: &mut &[u8], head_only: bool) -> Option<Part> {
        loop {
            match self.state {
                State::Head => {
                    self.line.extend_from_slice(take_through(bytes, b'\n')?);
                    if !self.line.ends_with(b"\n") {
                        return None;
                    }
                    if self.line.ends_with(b"\r\n\r\n") {
                        let head = std::mem::take(&mut self.line);
                        if let Some(part) = self.read_head(&head, head_only) {
                            return Some(part);
                        }
                    }
                }
                State::Body { left } => {
                    let count = left.min(bytes.len());
                    self.line.extend_from_slice(&bytes[..count]);
                    *bytes = &bytes[count..];
                    self.state = State::Body { left: left - count };
                    if count < left {
                        return None;
                    }
                    self.state = State::Head;
                    let body = std::mem::take(&mut self.line);
                    return Some(Part::Answer(Answer { status: self.status, body, close: self.close }));
                }
                State::Size => {
                    self.line.extend_from_slice(take_through(bytes, b'\n')?);
                    if !self.line.ends_with(b"\n") {
                        return None;
                    }
                    let line = std::mem::take(&mut self.line);
                    let digits = line.strip_suffix(b"\r\n").expect("a chunk's size ends in CRLF");
                    assert!(digits.iter().all(u8::is_ascii_hexdigit), "a chunk's size is {:?}", digits.escape_ascii());
                    let text = std::str::from_utf8(digits).expect("digits");
                    let size = usize::from_str_radix(text, 16).expect("a chunk's size");
                    self.state = if size == 0 { State::LastEnd } else { State::Chunk { left: size } };
                }
                State::Chunk { left: 0 } => self.state = State::ChunkEnd,
                State::Chunk { left } => {
                    if bytes.is_empty() {
                        return None;
                    }
                    let mut inside = &bytes[..left.min(bytes.len())];
                    let before = inside.len();
                    let frame = self.next_frame(&mut inside);
                    let used = before - inside.len();
                    *bytes = &bytes[used..];
                    self.state = State::Chunk { left: left - used };
                    if frame.is_some() {
                        return frame;
                    }
                }
                State::ChunkEnd => {
                    self.expect_crlf(bytes)?;
                    assert!(self.frame.is_empty(), "a chunk ends within a frame");
                    self.state = State::Size;
                }
                State::LastEnd => {
                    self.expect_crlf(bytes)?;
                    assert!(self.frame.is_empty(), "the stream ends within a frame");
                    self.state = State::Ended;
                    return Some(Part::StreamEnd);
                }
                State::Raw => {
                    if bytes.is_empty() {
                        return None;
                    }
                    if let Some(frame) = self.next_frame(bytes) {
                        return Some(frame);
                    }
                }
                State::Ended => {
                    assert!(bytes.is_empty(), "bytes behind the end: {}", bytes.escape_ascii());
                    return None;
                }
            }
        }
    }

    /// Takes bytes until a blank line.
    fn next_frame(&mut self, bytes: &mut &[u8]) -> Option<Part> {
        while let Some(line) = take_through(bytes, b'\n') {
            self.frame.extend_from_slice(line);
            if self.frame.ends_with(b"\n\n") {
                return Some(Part::Frame(std::mem::take(&mut self.frame)));
            }
        }
        None
    }

    fn expect_crlf(&mut self, bytes: &mut &[u8]) -> Option<()> {
        while self.line.len() < 2 {
            let (first, rest) = bytes.split_first()?;
            self.line.push(*first);
            *bytes = rest;
        }
        assert_eq!(std::mem::take(&mut self.line), b"\r\n", "a chunk's data ends in CRLF");
        Some(())
    }

    /// Judges a head; returns the response if it has no body.
    fn read_head(&mut self, head: &[u8], head_only: bool) -> Option<Part> {
        let text = std::str::from_utf8(head).expect("a head is text");
        let text = text.strip_suffix("\r\n").unwrap_or(text);
        let mut lines = text.split_terminator('\n').map(|line| line.strip_suffix('\r').expect("lines end in CRLF"));
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|s| s.parse().ok());
        self.status = status.unwrap_or_else(|| panic!("a bad status line: {status_line:?}"));
        self.close = false;
        let (mut length, mut chunked, mut stream, mut date) = (None, false, false, None);
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("a bad field: {line:?}"));
            match name {
                "Content-Length" => length = Some(value.parse::<usize>().expect("a length")),
                "Transfer-Encoding" => chunked = value == "chunked",
                "Content-Type" => stream = value == "text/event-stream",
                "Connection" => self.close = value == "close",
                "Date" => date = httpdate::parse_http_date(value).ok(),
                _ => {}
            }
        }
        if self.status == 100 {
            return Some(Part::Interim);
        }
        let date = date.expect("a response without Date").duration_since(UNIX_EPOCH);
        self.date = date.expect("a date of our time").as_secs();
        if stream {
            assert!(self.status == 200 && length.is_none() && self.close, "a bad head of a stream: {text}");
            self.state = if chunked { State::Size } else { State::Raw };
            return Some(Part::StreamHead);
        }
        assert!(!chunked, "only streams are chunked");
        let no_body = head_only || matches!(self.status, 204 | 304);
        match length {
            Some(left) if left > 0 && !no_body => {
                self.state = State::Body { left };
                None
            }
            Some(_) | None => {
                assert!(no_body || length.is_some(), "a response without a length: {text}");
                Some(Part::Answer(Answer { status: self.status, body: Vec::new(), close: self.close }))
            }
        }
    }
}

/// Takes bytes up to the first `end`, or all; `None` if there are none.
fn take_through<'a>(bytes: &mut &'a [u8], end: u8) -> Option<&'a [u8]> {
    if bytes.is_empty() {
        return None;
    }
    let count = bytes.iter().position(|byte| *byte == end).map_or(bytes.len(), |at| at + 1);
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    Some(taken)
}
