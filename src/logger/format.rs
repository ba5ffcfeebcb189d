//! What a log line looks like: a message and its fields, as text or as JSON.
//!
//! The text looks as simple_logger's does, with the fields behind the message as `key=value`. JSON is one object a
//! line: `ts`, `level`, `msg`, then the fields.
//!
//! A field is a string, an integer or a boolean. Whatever else can be displayed is made a string where it is logged:
//! to display any value there may be takes the code for floating-point numbers, 16 kB that nothing else here needs.

use super::relay::Lines;
use crate::clock::rfc3339;
use crate::escape::Escaped;
use crate::sys;
use log::kv::{Key, Value, VisitSource, VisitValue};
use log::{Level, Log, Metadata, Record};
use simple_logger::SimpleLogger;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;
use time::OffsetDateTime;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The longest text of one field, so that the relay need not cut the line, which would break the object.
const VALUE_BYTES_MAX: usize = 1024;
/// What a line may hold in all, its closing brace included.
const LINE_BYTES_MAX: usize = sys::PIPE_CHUNK - 8;

/// Text lines are seldom longer.
const LINE_BYTES_USUAL: usize = 256;

/// simple_logger, with fields, and with a shorter way than its own where there is a relay.
pub struct Formatter {
    format: LogFormat,
    /// Decides what is logged in both formats, and prints the text where there is no relay.
    inner: SimpleLogger,
    lines: Arc<Lines>,
}

impl Formatter {
    pub fn new(format: LogFormat, inner: SimpleLogger, lines: Arc<Lines>) -> Formatter {
        Formatter { format, inner, lines }
    }
}

impl Log for Formatter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = OffsetDateTime::now_utc();
        let mut line = match self.format {
            LogFormat::Text => text_line(record, now),
            LogFormat::Json => json(record, now),
        };
        if self.lines.push(&line) {
            return;
        }
        match self.format {
            LogFormat::Text => {
                let text = text(record);
                self.inner.log(&record.to_builder().args(format_args!("{text}")).build());
            }
            LogFormat::Json => {
                line.push('\n');
                // Nobody is left to be told if it fails.
                let _ = io::stderr().write_all(line.as_bytes());
            }
        }
    }

    fn flush(&self) {}
}

/// The value of a field.
enum Field<'a> {
    Text(&'a str),
    Unsigned(u64),
    Signed(i64),
    Truth(bool),
}

/// Calls `push` with each field of `record`.
fn visit_fields(record: &Record<'_>, push: impl FnMut(&str, Field<'_>)) {
    struct Fields<F>(F);

    impl<'kvs, F: FnMut(&str, Field<'_>)> VisitSource<'kvs> for Fields<F> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            value.visit(Pair { key: key.as_str(), push: &mut self.0 })
        }
    }

    struct Pair<'a, F> {
        key: &'a str,
        push: &'a mut F,
    }

    impl<'v, F: FnMut(&str, Field<'_>)> VisitValue<'v> for Pair<'_, F> {
        fn visit_any(&mut self, _value: Value<'_>) -> Result<(), log::kv::Error> {
            debug_assert!(false, "a field that is no string, integer or boolean");
            Ok(())
        }

        fn visit_str(&mut self, text: &str) -> Result<(), log::kv::Error> {
            (self.push)(self.key, Field::Text(text));
            Ok(())
        }

        fn visit_u64(&mut self, number: u64) -> Result<(), log::kv::Error> {
            (self.push)(self.key, Field::Unsigned(number));
            Ok(())
        }

        fn visit_i64(&mut self, number: i64) -> Result<(), log::kv::Error> {
            (self.push)(self.key, Field::Signed(number));
            Ok(())
        }

        fn visit_bool(&mut self, truth: bool) -> Result<(), log::kv::Error> {
            (self.push)(self.key, Field::Truth(truth));
            Ok(())
        }
    }

    // The visitors never fail.
    let _ = record.key_values().visit(&mut Fields(push));
}

/// The message and its fields, as simple_logger would print them.
fn text_line(record: &Record<'_>, now: OffsetDateTime) -> String {
    let mut line = String::with_capacity(LINE_BYTES_USUAL);
    // Writing to a String cannot fail.
    let _ = write!(line, "{} {:<5} [{}] ", timestamp(now), record.level().as_str(), record.target());
    push_text(&mut line, record);
    line
}

/// The message and its fields.
fn text(record: &Record<'_>) -> String {
    let mut text = String::new();
    push_text(&mut text, record);
    text
}

fn push_text(line: &mut String, record: &Record<'_>) {
    // Writing to a String cannot fail.
    let _ = line.write_fmt(*record.args());
    visit_fields(record, |key, value| {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        let _ = match value {
            Field::Text(text) => return push_value(line, text),
            Field::Unsigned(number) => write!(line, "{number}"),
            Field::Signed(number) => write!(line, "{number}"),
            Field::Truth(truth) => write!(line, "{truth}"),
        };
    });
}

/// Appends the text of a field, in quotes where it would not end with the next blank.
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

/// One object without a line end.
fn json(record: &Record<'_>, now: OffsetDateTime) -> String {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut object = format!(r#"{{"ts":"{}","level":"{level}""#, timestamp(now));
    // `value` is JSON.
    let mut push = |key: &str, value: &str| {
        let field = format!(",{}:{value}", quoted(key));
        if object.len() + field.len() < LINE_BYTES_MAX {
            object.push_str(&field);
        }
    };
    push("msg", &quoted(&record.args().to_string()));
    visit_fields(record, |key, value| match value {
        Field::Text(text) => push(key, &quoted(text)),
        Field::Unsigned(number) => push(key, &number.to_string()),
        Field::Signed(number) => push(key, &number.to_string()),
        Field::Truth(truth) => push(key, &truth.to_string()),
    });
    object.push('}');
    object
}

/// RFC 3339 in UTC, to the millisecond.
fn timestamp(now: OffsetDateTime) -> String {
    let seconds = rfc3339(u64::try_from(now.unix_timestamp()).unwrap_or(0));
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), now.millisecond())
}

/// `text` as a JSON string, or as much of its beginning as takes no more than [`VALUE_BYTES_MAX`] bytes.
fn quoted(text: &str) -> String {
    let mut bytes = 0;
    let mut too_long = text.char_indices().skip_while(|(_, character)| {
        bytes += match character {
            '"' | '\\' => 2,
            '\0'..='\u{1f}' => 6,
            other => other.len_utf8(),
        };
        bytes <= VALUE_BYTES_MAX
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
    use log::kv::Source;
    use serde_json::Map;
    use serde_json::Value as Json;

    fn record<'a>(args: std::fmt::Arguments<'a>, fields: &'a dyn Source) -> Record<'a> {
        Record::builder().level(Level::Warn).target("t").args(args).key_values(fields).build()
    }

    #[test]
    fn text_looks_as_simple_logger_prints_it() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_688_528).unwrap();
        let line = text_line(&record(format_args!("stream {}", "closed"), &[("reason", "error")]), now);
        assert_eq!(line, "2026-11-26T10:22:08.000Z WARN  [t] stream closed reason=error");
    }

    #[test]
    fn text_has_its_fields_behind_the_message() {
        let fields = [("token", Value::from("t-1")), ("status", 503.into()), ("error", "a \"b\"\n".into())];
        let line = text(&record(format_args!("connect failed"), &fields));
        assert_eq!(line, r#"connect failed token=t-1 status=503 error="a \"b\"\n""#);
        assert_eq!(text(&record(format_args!("m"), &[("url", "")])), r#"m url="""#);
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
             \"status\":503,\"clean\":true,\"url\":\"/\\\"\\\\\u{2028}\\r\\n\"}"
        );
    }

    #[test]
    fn json_stays_an_object_however_long_its_parts_are() {
        for letter in ["x", "\"", "\0", "\u{1f600}"] {
            let long = letter.repeat(5_000);
            let fields = [("a", &long), ("b", &long), ("c", &long), ("d", &long), ("e", &long)];
            let line = json(&record(format_args!("{long}"), &fields), OffsetDateTime::UNIX_EPOCH);
            assert!(line.len() < sys::PIPE_CHUNK, "{}", line.len());
            let object: Map<String, Json> = serde_json::from_str(&line).unwrap();
            assert!(object["a"].as_str().unwrap().ends_with("..."));
        }
    }
}
