//! Event streams to events, as a browser reads them (WHATWG HTML, section 9.2.6). Backends pass on those of others.

use crate::planted;
use memchr::{memchr, memchr2};

/// A buffer with more room than this is freed after use.
const SPARE_BYTES_MAX: usize = 16 * 1024;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A line or an event with more bytes than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// One event of a stream. UTF-8 unless the stream is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Empty: an unnamed one. May contain a NUL.
    pub name: &'a [u8],
    /// Its lines, separated by line feeds.
    pub data: &'a [u8],
}

/// A reader of one stream, which may be cut anywhere. Comments, ids and reconnection times are skipped, and so is an event
/// that is incomplete at the end of the stream.
#[derive(Debug)]
pub struct Reader {
    bytes_max: usize,
    /// The beginning of an incomplete line.
    line: Vec<u8>,
    name: Vec<u8>,
    /// Each line with a line feed.
    data: Vec<u8>,
    /// The event in the buffers has been handed over.
    is_spent: bool,
    /// The last line ended in a CR, to which a line feed that comes next belongs.
    is_after_cr: bool,
    /// The next line is the first one, which may begin with a byte order mark.
    is_at_start: bool,
}

impl Reader {
    /// A reader of events of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            is_spent: false,
            is_after_cr: false,
            is_at_start: true,
        }
    }

    /// Bytes of an incomplete event.
    pub fn pending_bytes(&self) -> usize {
        self.line.len() + if self.is_spent { 0 } else { self.name.len() + self.data.len() }
    }

    /// Takes the next event from the front of `input`; `None`: all input is consumed.
    pub fn next_event<'r>(&'r mut self, input: &mut &[u8]) -> Result<Option<Received<'r>>, TooLong> {
        if std::mem::take(&mut self.is_spent) {
            [&mut self.name, &mut self.data].into_iter().for_each(clear);
        }
        // Two line ends out of one, where it is cut.
        if planted::is("line-end-that-is-cut-counts-twice") {
            self.is_after_cr = false;
        }
        loop {
            if self.is_after_cr && !input.is_empty() {
                self.is_after_cr = false;
                *input = input.strip_prefix(b"\n").unwrap_or(input);
            }
            let end = memchr2(b'\r', b'\n', input);
            let (piece, behind) = input.split_at(end.unwrap_or(input.len()));
            if self.pending_bytes() + piece.len() > self.bytes_max {
                return Err(TooLong);
            }
            let Some((line_end, behind)) = behind.split_first() else {
                self.line.extend_from_slice(piece);
                *input = behind;
                return Ok(None);
            };
            self.is_after_cr = *line_end == b'\r';
            *input = behind;
            if self.take_line(piece) {
                self.is_spent = true;
                let data = self.data.strip_suffix(b"\n").unwrap_or(&self.data);
                return Ok(Some(Received { name: &self.name, data }));
            }
        }
    }

    /// Interprets a line of which `piece` is the end; `true`: it completes an event.
    fn take_line(&mut self, piece: &[u8]) -> bool {
        if self.line.is_empty() {
            return self.interpret(piece);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(piece);
        let is_event = self.interpret(&line);
        clear(&mut line);
        self.line = line;
        is_event
    }

    fn interpret(&mut self, line: &[u8]) -> bool {
        let is_first = std::mem::take(&mut self.is_at_start);
        let line = line.strip_prefix(BOM).filter(|_| is_first).unwrap_or(line);
        if line.is_empty() {
            // Without data it is no event, and its name is forgotten.
            if self.data.is_empty() {
                self.name.clear();
            }
            return !self.data.is_empty();
        }
        let (field, value) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            _ => {}
        }
        false
    }
}

/// Empties a buffer, and keeps only a usual amount of memory for the next event.
fn clear(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(SPARE_BYTES_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name and data of each event of a stream that comes in `pieces`.
    fn read(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut reader = Reader::new(1000);
        let mut events = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(Received { name, data }) = reader.next_event(&mut input).expect("short events") {
                events.push([name, data].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).into());
            }
            assert!(input.is_empty());
        }
        events
    }

    fn assert_reads(stream: &str, expected: &[(&str, &str)]) {
        let expected: Vec<(String, String)> =
            expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
        let stream = stream.as_bytes();
        assert_eq!(read(&[stream]), expected, "{}", stream.escape_ascii());
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&bytes), expected, "byte by byte: {}", stream.escape_ascii());
        for cut in 0..stream.len() {
            let (before, behind) = stream.split_at(cut);
            assert_eq!(read(&[before, behind]), expected, "cut at {cut}: {}", stream.escape_ascii());
        }
    }

    #[test]
    fn reads_a_stream_as_browsers_do() {
        assert_reads("data: a\n\n", &[("", "a")]);
        assert_reads("event: n\ndata: a\ndata: b\n\n", &[("n", "a\nb")]);
        assert_reads("data:a\r\n\r\ndata:  b\r\rdata\n\n", &[("", "a"), ("", " b"), ("", "")]);
        assert_reads("\u{feff}data: a\n\n\u{feff}data: b\n\n", &[("", "a")]);
        assert_reads("\u{feff}\ndata: a\n\n", &[("", "a")]);
        assert_reads(": ping\n\nid: 7\nretry: 9\ndata: a\nfoo: b\n: c\n\n", &[("", "a")]);
        assert_reads("event: n\n\ndata: a\n\n", &[("", "a")]);
        assert_reads("event: n\nevent: m\nevent\ndata: a\n\n", &[("", "a")]);
        assert_reads("event: n\ndata: a\n\ndata: b\n\n", &[("n", "a"), ("", "b")]);
        assert_reads("data: a\ndata:\ndata:\n\n", &[("", "a\n\n")]);
        assert_reads(" data: a\nData: b\ndata : c\n\n", &[]);
        assert_reads("data: a: b\n\n\n\n\r\r\r\n", &[("", "a: b")]);
        assert_reads("event: a\0b\ndata: \0\n\n", &[("a\0b", "\0")]);
        assert_reads("data: \u{1f600}\n\n", &[("", "\u{1f600}")]);
    }

    #[test]
    fn the_end_of_the_stream_completes_nothing() {
        assert_reads("", &[]);
        assert_reads("data: a", &[]);
        assert_reads("data: a\n", &[]);
        assert_reads("data: a\n\ndata: b\n", &[("", "a")]);
    }

    #[test]
    fn an_event_has_a_limit_and_a_stream_has_none() {
        let mut reader = Reader::new(10);
        for _ in 0..100 {
            let mut input = &b"data: 1234\n\n: 12345678\n"[..];
            assert!(matches!(reader.next_event(&mut input), Ok(Some(Received { name: b"", data: b"1234" }))));
            assert_eq!(reader.next_event(&mut input), Ok(None));
            assert_eq!(reader.pending_bytes(), 0);
        }
        assert_eq!(Reader::new(10).next_event(&mut &b"data: 12345"[..]), Err(TooLong));
        assert_eq!(Reader::new(10).next_event(&mut &b"data:1\ndata:1234\n"[..]), Err(TooLong));
        assert_eq!(Reader::new(10).next_event(&mut &b": 123456789\n"[..]), Err(TooLong));
        let mut reader = Reader::new(10);
        assert_eq!(reader.next_event(&mut &b"data: 123"[..]), Ok(None));
        assert_eq!(reader.pending_bytes(), 9);
        assert_eq!(reader.next_event(&mut &b"45"[..]), Err(TooLong));
    }
}
