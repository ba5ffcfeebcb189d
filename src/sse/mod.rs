//! Events to Server-Sent Events frames (WHATWG HTML, section 9.2). Knows nothing of HTTP or JSON.

use memchr::{memchr2, memchr3};
use std::io::Write;

/// One event, as a backend gave it. Whoever builds one has checked that `name` and `id` hold no
/// CR, LF or NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's type; `None` or empty: the client sees an unnamed `message`.
    pub name: Option<&'a str>,
    /// The new last event id; `Some("")` resets it.
    pub id: Option<&'a str>,
    /// Reconnection time in milliseconds.
    pub retry: Option<u32>,
    /// The payload; any text, split into lines at CRLF, CR and LF.
    pub data: &'a str,
}

/// The heartbeat: a comment, invisible to `EventSource`.
pub const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// The field that each line of data stands in.
const DATA: &[u8] = b"data: ";
/// Between two of them.
const LINE_BREAK: &[u8] = b"\ndata: ";

/// Appends one frame.
pub fn write_event(out: &mut Vec<u8>, event: &Event<'_>) {
    let mut frame = Frame::start(out, event.name, event.id, event.retry);
    frame.push(event.data);
    frame.end();
}

/// A frame whose data comes in pieces; how it is cut makes no difference.
pub struct Frame<'o> {
    out: &'o mut Vec<u8>,
    /// The last piece ended with a CR: an LF that follows belongs to the same line break.
    after_cr: bool,
}

impl<'o> Frame<'o> {
    /// Appends everything but the data, for which see [`Event`].
    pub fn start(out: &'o mut Vec<u8>, name: Option<&str>, id: Option<&str>, retry: Option<u32>) -> Frame<'o> {
        debug_assert!(
            [name, id].iter().flatten().all(|line| memchr3(b'\r', b'\n', 0, line.as_bytes()).is_none()),
            "a line break in {name:?} or {id:?} would forge fields"
        );
        match name {
            Some("") | None => {}
            Some(name) => write_field(out, b"event: ", name.as_bytes()),
        }
        match id {
            Some("") => out.extend_from_slice(b"id:\n"),
            Some(id) => write_field(out, b"id: ", id.as_bytes()),
            None => {}
        }
        if let Some(milliseconds) = retry {
            write_retry_field(out, milliseconds);
        }
        out.extend_from_slice(DATA);
        Frame { out, after_cr: false }
    }

    /// Appends text to the data. Each line break opens a field of its own, one at the end an empty one: the
    /// decoder joins lines with line feeds and drops only its own last one.
    pub fn push(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        if rest.is_empty() {
            return;
        }
        if std::mem::take(&mut self.after_cr)
            && let Some(behind) = rest.strip_prefix(b"\n")
        {
            rest = behind;
        }
        while let Some(at) = memchr2(b'\r', b'\n', rest) {
            self.out.extend_from_slice(&rest[..at]);
            self.out.extend_from_slice(LINE_BREAK);
            let behind = &rest[at + 1..];
            rest = match rest[at] {
                b'\r' if behind.is_empty() => {
                    self.after_cr = true;
                    behind
                }
                b'\r' => behind.strip_prefix(b"\n").unwrap_or(behind),
                _ => behind,
            };
        }
        self.out.extend_from_slice(rest);
    }

    /// Appends what `write` does, which has no line break.
    pub fn push_unbroken<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let start = self.out.len();
        let result = write(self.out);
        debug_assert!(memchr2(b'\r', b'\n', &self.out[start..]).is_none());
        self.after_cr &= self.out.len() == start;
        result
    }

    /// Appends one character.
    pub fn push_character(&mut self, character: char) {
        let after_cr = std::mem::take(&mut self.after_cr);
        match character {
            '\n' if after_cr => {}
            '\n' => self.out.extend_from_slice(LINE_BREAK),
            '\r' => {
                self.out.extend_from_slice(LINE_BREAK);
                self.after_cr = true;
            }
            other if other.is_ascii() => self.out.push(other as u8),
            other => self.out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }

    /// Ends the last line, and the frame.
    pub fn end(self) {
        self.out.extend_from_slice(b"\n\n");
    }
}

/// Appends `retry: MILLISECONDS` as a frame of its own.
pub fn write_retry(out: &mut Vec<u8>, milliseconds: u32) {
    write_retry_field(out, milliseconds);
    out.push(b'\n');
}

fn write_retry_field(out: &mut Vec<u8>, milliseconds: u32) {
    // Writing to a Vec cannot fail.
    let _ = writeln!(out, "retry: {milliseconds}");
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Event<'static> = Event { name: None, id: None, retry: None, data: "" };

    fn frame(event: Event<'_>) -> String {
        let mut out = Vec::new();
        write_event(&mut out, &event);
        String::from_utf8(out).unwrap()
    }

    fn data_frame(data: &str) -> String {
        frame(Event { data, ..PLAIN })
    }

    #[test]
    fn fields_come_in_the_order_of_the_contract() {
        let event = Event { name: Some("chat"), id: Some("42"), retry: Some(3000), data: "hello" };
        assert_eq!(frame(event), "event: chat\nid: 42\nretry: 3000\ndata: hello\n\n");
    }

    #[test]
    fn absent_fields_leave_no_trace() {
        assert_eq!(data_frame("x"), "data: x\n\n");
        assert_eq!(frame(Event { name: Some(""), data: "x", ..PLAIN }), "data: x\n\n");
        assert_eq!(frame(Event { name: Some("n"), ..PLAIN }), "event: n\ndata: \n\n");
    }

    #[test]
    fn the_empty_id_is_written_without_a_blank() {
        assert_eq!(frame(Event { id: Some(""), ..PLAIN }), "id:\ndata: \n\n");
        assert_eq!(frame(Event { id: Some(" "), ..PLAIN }), "id:  \ndata: \n\n");
    }

    #[test]
    fn retry_is_written_in_digits() {
        assert_eq!(frame(Event { retry: Some(0), ..PLAIN }), "retry: 0\ndata: \n\n");
        let mut out = b"before".to_vec();
        write_retry(&mut out, 2_147_483_647);
        assert_eq!(out, b"beforeretry: 2147483647\n\n");
    }

    #[test]
    fn data_is_split_at_each_kind_of_line_break() {
        for (data, frame) in [
            ("", "data: \n\n"),
            ("\n", "data: \ndata: \n\n"),
            ("\r", "data: \ndata: \n\n"),
            ("\r\n", "data: \ndata: \n\n"),
            ("\n\r", "data: \ndata: \ndata: \n\n"),
            ("\r\r\n\n", "data: \ndata: \ndata: \ndata: \n\n"),
            ("a\nb\rc\r\nd", "data: a\ndata: b\ndata: c\ndata: d\n\n"),
            ("a\n", "data: a\ndata: \n\n"),
            ("a\r\n", "data: a\ndata: \n\n"),
            ("\na", "data: \ndata: a\n\n"),
            ("a\n\nb", "data: a\ndata: \ndata: b\n\n"),
        ] {
            assert_eq!(data_frame(data), frame, "{data:?}");
        }
    }

    #[test]
    fn everything_else_passes_unchanged() {
        let data = " a: \0\t\u{b}\u{c}\u{85}\u{2028}\u{2029}\u{feff}\u{1f600}";
        assert_eq!(data_frame(data), format!("data: {data}\n\n"));
    }

    #[test]
    fn frames_are_appended() {
        let mut out = b": heartbeat\n\n".to_vec();
        write_event(&mut out, &Event { data: "a", ..PLAIN });
        write_event(&mut out, &Event { data: "b", ..PLAIN });
        assert_eq!(out, b": heartbeat\n\ndata: a\n\ndata: b\n\n");
    }

    #[test]
    fn how_the_data_is_cut_makes_no_difference() {
        for text in awkward_texts(3) {
            let whole = data_frame(&text);
            for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                let mut out = Vec::new();
                let mut frame = Frame::start(&mut out, None, None, None);
                frame.push(&text[..at]);
                frame.push(&text[at..]);
                frame.end();
                assert_eq!(String::from_utf8(out).unwrap(), whole, "{text:?} cut at {at}");
            }
            let mut out = Vec::new();
            let mut frame = Frame::start(&mut out, None, None, None);
            text.chars().for_each(|character| frame.push_character(character));
            frame.end();
            assert_eq!(String::from_utf8(out).unwrap(), whole, "{text:?}");
        }
    }

    /// Every text of up to `length` letters from an alphabet of troublemakers.
    fn awkward_texts(length: usize) -> Vec<String> {
        let alphabet = ["", "a", " ", ":", "\r", "\n", "\0", "\u{feff}", "id: 9"];
        let mut texts = vec![String::new()];
        for _ in 0..length {
            texts = texts.iter().flat_map(|text| alphabet.map(|letter| format!("{text}{letter}"))).collect();
        }
        texts
    }
}
