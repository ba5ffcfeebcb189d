//! Events to Server-Sent Events frames (WHATWG HTML, section 9.2), and back. Independent of HTTP and JSON.

mod reader;

pub use reader::{Reader, Received, TooLong};

use memchr::{memchr2, memchr3};
use std::borrow::Cow;
use std::io::Write;

/// One event from a backend. The caller has checked that `name` and `id` contain no CR, LF or NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's type; `None` or empty: the client sees an unnamed `message`.
    pub name: Option<Cow<'a, str>>,
    /// The new last event id; empty resets it.
    pub id: Option<Cow<'a, str>>,
    /// Reconnection time in milliseconds.
    pub retry: Option<u32>,
    /// The payload; any text, split into lines at CRLF, CR and LF.
    pub data: Cow<'a, str>,
}

/// The heartbeat: a comment, invisible to `EventSource`.
pub const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// The comment that a stream begins with under `OPENING_COMMENT`.
pub const OPENING: &[u8] = b": open\n\n";

/// Appends `comment`, a whole frame, with a line of `padding` bytes for proxies that hold back small writes, and with
/// `id_line`, a whole field or nothing, which moves the client's last event id.
#[inline]
pub fn write_comment(out: &mut Vec<u8>, comment: &[u8], padding: usize, id_line: &[u8]) {
    // The usual heartbeat.
    if padding == 0 && id_line.is_empty() {
        return out.extend_from_slice(comment);
    }
    write_longer_comment(out, comment, padding, id_line);
}

fn write_longer_comment(out: &mut Vec<u8>, comment: &[u8], padding: usize, id_line: &[u8]) {
    out.extend_from_slice(&comment[..comment.len() - 1]);
    if padding > 0 {
        let end = out.len() + padding.max(2) - 1;
        out.push(b':');
        out.resize(end, b' ');
        out.push(b'\n');
    }
    out.extend_from_slice(id_line);
    out.push(b'\n');
}

impl Event<'_> {
    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Event<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Event { name: self.name.map(owned), id: self.id.map(owned), retry: self.retry, data: owned(self.data) }
    }

    /// Appends the event's frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        debug_assert!(
            [&self.name, &self.id]
                .into_iter()
                .flatten()
                .all(|line| memchr3(b'\r', b'\n', 0, line.as_bytes()).is_none()),
            "a line break in {self:?} would forge fields"
        );
        match self.name.as_deref() {
            Some("") | None => {}
            Some(name) => write_field(out, b"event: ", name.as_bytes()),
        }
        match self.id.as_deref() {
            Some("") => out.extend_from_slice(b"id:\n"),
            Some(id) => write_field(out, b"id: ", id.as_bytes()),
            None => {}
        }
        if let Some(milliseconds) = self.retry {
            write_retry_field(out, milliseconds);
        }
        write_data(out, self.data.as_bytes());
        out.extend_from_slice(b"\n\n");
    }
}

/// Appends the fields of data without the end of the last one. Each line break starts another field, and one at the end
/// an empty field: the decoder joins lines with line feeds and drops only the last line feed.
fn write_data(out: &mut Vec<u8>, mut rest: &[u8]) {
    out.extend_from_slice(b"data: ");
    while let Some(at) = memchr2(b'\r', b'\n', rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"\ndata: ");
        let length = if rest[at..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[at + length..];
    }
    out.extend_from_slice(rest);
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

    fn frame(event: Event<'_>) -> String {
        let mut out = Vec::new();
        event.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn data_frame(data: &str) -> String {
        frame(Event { data: data.into(), ..Event::default() })
    }

    #[test]
    fn fields_come_in_the_order_of_the_contract() {
        let event = Event { name: Some("chat".into()), id: Some("42".into()), retry: Some(3000), data: "hello".into() };
        assert_eq!(frame(event), "event: chat\nid: 42\nretry: 3000\ndata: hello\n\n");
    }

    #[test]
    fn absent_fields_leave_no_trace() {
        assert_eq!(data_frame("x"), "data: x\n\n");
        assert_eq!(frame(Event { name: Some("".into()), data: "x".into(), ..Event::default() }), "data: x\n\n");
        assert_eq!(frame(Event { name: Some("n".into()), ..Event::default() }), "event: n\ndata: \n\n");
    }

    #[test]
    fn the_empty_id_is_written_without_a_blank() {
        assert_eq!(frame(Event { id: Some("".into()), ..Event::default() }), "id:\ndata: \n\n");
        assert_eq!(frame(Event { id: Some(" ".into()), ..Event::default() }), "id:  \ndata: \n\n");
    }

    #[test]
    fn retry_is_written_in_digits() {
        assert_eq!(frame(Event { retry: Some(0), ..Event::default() }), "retry: 0\ndata: \n\n");
        let mut out = b"before".to_vec();
        write_retry(&mut out, 2_147_483_647);
        assert_eq!(out, b"beforeretry: 2147483647\n\n");
    }

    #[test]
    fn comments_are_padded_by_a_comment() {
        let comment = |padding, id: &[u8]| {
            let mut out = Vec::new();
            write_comment(&mut out, HEARTBEAT, padding, id);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(comment(0, b"").as_bytes(), HEARTBEAT);
        assert_eq!(comment(5, b""), ": heartbeat\n:   \n\n");
        assert_eq!(comment(1, b"id: x\n"), ": heartbeat\n:\nid: x\n\n");
        assert_eq!(comment(2048, b"").len(), HEARTBEAT.len() + 2048);
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
        Event { data: "a".into(), ..Event::default() }.write(&mut out);
        Event { data: "b".into(), ..Event::default() }.write(&mut out);
        assert_eq!(out, b": heartbeat\n\ndata: a\n\ndata: b\n\n");
    }
}
