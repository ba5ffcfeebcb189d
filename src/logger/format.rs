//! The format of a log line: a message and its fields, as text or as JSON.
//!
//! Text looks like simple_logger's, with the fields after the message as `key=value`. JSON is one object per line: `ts`,
//! `level`, `msg`, then the fields.
//!
//! A field is a string, an integer or a boolean. The caller makes a string of anything else: formatting arbitrary values
//! would link the code for floating-point numbers, 16 kB that nothing else here needs.

use super::queue::CHUNK_BYTES;
use crate::clock::rfc3339;
use crate::escape::Escaped;
use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use std::fmt::{Arguments, Write};
use time::OffsetDateTime;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text.
    Text,
    /// A JSON object per line.
    Json,
}

/// Bytes of one string in JSON, without its quotes. An object is never cut, and has room for three of these.
const STRING_BYTES_MAX: usize = 1024;
/// Bytes of an object without its closing brace and line end.
const OBJECT_BYTES_MAX: usize = CHUNK_BYTES - 8;

/// Capacity of a text line, in bytes; few are longer.
const LINE_BYTES_USUAL: usize = 256;
/// Replaces the end of a text line that is too long.
const CUT: &str = "...\n";

/// One line with its end, at most [`CHUNK_BYTES`] long.
pub(super) fn line(format: LogFormat, record: &Record<'_>, now: OffsetDateTime) -> String {
    match format {
        LogFormat::Text => text(record, now),
        LogFormat::Json => json(record, now),
    }
}

/// The value of a field.
enum Field<'a> {
    Text(&'a str),
    /// A number or a boolean, formatted the same in both.
    Plain(Arguments<'a>),
}

/// Calls `push` with each field of `record`.
fn visit_fields(record: &Record<'_>, push: impl FnMut(&str, Field<'_>)) {
    struct Visitor<F>(F);

    impl<'kvs, F: FnMut(&str, Field<'_>)> VisitSource<'kvs> for Visitor<F> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
            let (push, key) = (&mut self.0, key.as_str());
            if let Some(text) = value.to_borrowed_str() {
                push(key, Field::Text(text));
            } else if let Some(truth) = value.to_bool() {
                push(key, Field::Plain(format_args!("{truth}")));
            } else if let Some(number) = value.to_u64() {
                push(key, Field::Plain(format_args!("{number}")));
            } else if let Some(number) = value.to_i64() {
                push(key, Field::Plain(format_args!("{number}")));
            } else {
                debug_assert!(false, "a field that is no string, integer or boolean");
            }
            Ok(())
        }
    }

    // The visitor never fails.
    let _ = record.key_values().visit(&mut Visitor(push));
}

/// One line as simple_logger would print it, with the fields.
fn text(record: &Record<'_>, now: OffsetDateTime) -> String {
    let mut line = String::with_capacity(LINE_BYTES_USUAL);
    // Writing to a String cannot fail.
    let _ = write!(line, "{} {:<5} [{}] {}", timestamp(now), record.level().as_str(), record.target(), record.args());
    visit_fields(record, |key, value| {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        match value {
            Field::Text(text) => push_value(&mut line, text),
            Field::Plain(value) => {
                let _ = line.write_fmt(value);
            }
        }
    });
    let room = CHUNK_BYTES - CUT.len();
    if line.len() > room {
        line.truncate((0..=room).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0));
        line.push_str(CUT);
    } else {
        line.push('\n');
    }
    line
}

/// Appends the text of a field, in quotes if it is empty or contains a space or a quote.
fn push_value(line: &mut String, text: &str) {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
        return line.push_str(text);
    }
    let value = Escaped(text).to_string();
    if value.is_empty() || value.contains([' ', '"']) {
        line.push('"');
        line.push_str(&value.replace('"', "\\\""));
        line.push('"');
    } else {
        line.push_str(&value);
    }
}

/// One object. A field that does not fit is left out.
fn json(record: &Record<'_>, now: OffsetDateTime) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    let mut object = format!(r#"{{"ts":"{}","level":"{level}""#, timestamp(now));
    let mut push = |key: &str, json: Arguments<'_>| {
        let start = object.len();
        // Writing to a String cannot fail.
        let _ = write!(object, ",{}:{json}", quoted(key));
        if object.len() >= OBJECT_BYTES_MAX {
            object.truncate(start);
        }
    };
    push("msg", format_args!("{}", quoted(&record.args().to_string())));
    visit_fields(record, |key, value| match value {
        Field::Text(text) => push(key, format_args!("{}", quoted(text))),
        Field::Plain(value) => push(key, value),
    });
    object.push_str("}\n");
    object
}

/// RFC 3339 in UTC, to the millisecond.
fn timestamp(now: OffsetDateTime) -> String {
    let seconds = rfc3339(u64::try_from(now.unix_timestamp()).unwrap_or(0));
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), now.millisecond())
}

/// `text` as a JSON string, cut to [`STRING_BYTES_MAX`].
fn quoted(text: &str) -> String {
    let mut bytes = 0;
    let mut too_long = text.char_indices().skip_while(|(_, character)| {
        bytes += match character {
            '"' | '\\' => 2,
            '\0'..='\u{1f}' => 6,
            other => other.len_utf8(),
        };
        bytes <= STRING_BYTES_MAX
    });
    let json = match too_long.next() {
        Some((at, _)) => serde_json::to_string(&format!("{}...", &text[..at])),
        None => serde_json::to_string(text),
    };
    // Text always has a JSON form.
    json.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use log::kv::Source;
    use serde_json::Map;
    use serde_json::Value as Json;

    fn record<'a>(args: std::fmt::Arguments<'a>, fields: &'a dyn Source) -> Record<'a> {
        Record::builder().level(Level::Warn).target("t").args(args).key_values(fields).build()
    }

    #[test]
    fn text_looks_as_simple_logger_prints_it() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_688_528).unwrap();
        let line = text(&record(format_args!("stream {}", "closed"), &[("reason", "error")]), now);
        assert_eq!(line, "2026-11-26T10:22:08.000Z WARN  [t] stream closed reason=error\n");
    }

    #[test]
    fn text_has_its_fields_behind_the_message() {
        let fields = [("token", Value::from("t-1")), ("status", 503.into()), ("error", "a \"b\"\n".into())];
        let line = text(&record(format_args!("connect failed"), &fields), OffsetDateTime::UNIX_EPOCH);
        assert!(line.ends_with("] connect failed token=t-1 status=503 error=\"a \\\"b\\\"\\n\"\n"), "{line}");
        let line = text(&record(format_args!("m"), &[("url", "")]), OffsetDateTime::UNIX_EPOCH);
        assert!(line.ends_with("] m url=\"\"\n"), "{line}");
    }

    #[test]
    fn a_long_text_line_is_cut_between_characters() {
        let line = |url: String| text(&record(format_args!("m"), &[("url", url)]), OffsetDateTime::UNIX_EPOCH);
        let rest = line("x".to_owned()).len() - 1;
        let fits = line("x".repeat(CHUNK_BYTES - CUT.len() + 1 - rest));
        assert!(fits.len() == CHUNK_BYTES - CUT.len() + 1 && fits.ends_with("x\n"));
        let cut = line("x".repeat(CHUNK_BYTES));
        assert!(cut.len() == CHUNK_BYTES && cut.ends_with("x...\n"));
        let lengths =
            ["", "x", "xx", "xxx"].map(|before| line(format!("{before}{}", "\u{1f600}".repeat(CHUNK_BYTES))).len());
        assert!(lengths.iter().all(|length| *length > CHUNK_BYTES - 4) && lengths.contains(&CHUNK_BYTES));
    }

    #[test]
    fn json_is_one_object_with_typed_fields() {
        let fields: [(&str, Value<'_>); 4] = [
            ("token", "t-1".into()),
            ("status", 503.into()),
            ("clean", true.into()),
            ("url", "/\"\\\u{2028}\r\n".into()),
        ];
        let now = OffsetDateTime::from_unix_timestamp(1_795_688_528).unwrap();
        let line = json(&record(format_args!("stream {}", "closed"), &fields), now);
        assert_eq!(
            line,
            "{\"ts\":\"2026-11-26T10:22:08.000Z\",\"level\":\"warn\",\"msg\":\"stream closed\",\"token\":\"t-1\",\
             \"status\":503,\"clean\":true,\"url\":\"/\\\"\\\\\u{2028}\\r\\n\"}\n"
        );
    }

    #[test]
    fn json_stays_an_object_however_long_its_parts_are() {
        for letter in ["x", "\"", "\0", "\u{1f600}"] {
            let long = letter.repeat(5_000);
            let fields = [("a", &long), ("b", &long), ("c", &long), ("d", &long), ("e", &long)];
            let line = json(&record(format_args!("{long}"), &fields), OffsetDateTime::UNIX_EPOCH);
            assert!(line.len() <= CHUNK_BYTES, "{}", line.len());
            let object: Map<String, Json> = serde_json::from_str(&line).unwrap();
            assert!(object["a"].as_str().unwrap().ends_with("..."));
        }
    }
}
