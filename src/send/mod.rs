//! The JSON of `POST /internal/send`: bytes to a [`SendCommand`] or the row of the contract they break.
//!
//! This runs once for every event the gateway carries, so it reads the body in place and copies only
//! strings that hold escapes. The usual body takes one pass (module `usual`); the careful reading behind it is
//! the one that decides what is right and what an error is called.

mod text;
mod usual;

pub use text::Text;

use crate::json::{self, Value};
use crate::sse::Frame;
use memchr::memchr3;
use std::borrow::Cow;

/// An event whose strings borrow from the body where no escape forced a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFields<'a> {
    pub name: Option<Cow<'a, str>>,
    pub id: Option<Cow<'a, str>>,
    pub retry: Option<u32>,
    pub data: Text<'a>,
}

impl EventFields<'_> {
    /// Appends the event's frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut frame = Frame::start(out, self.name.as_deref(), self.id.as_deref(), self.retry);
        self.data.write(&mut frame);
        frame.end();
    }

    /// The same event with strings of its own.
    pub(crate) fn into_owned(self) -> EventFields<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        EventFields {
            name: self.name.map(owned),
            id: self.id.map(owned),
            retry: self.retry,
            data: self.data.into_owned(),
        }
    }
}

/// What a backend asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendCommand<'a> {
    /// Not empty; otherwise as given (it may name no stream at all).
    pub token: Cow<'a, str>,
    pub event: Option<EventFields<'a>>,
    pub close: bool,
}

impl SendCommand<'_> {
    fn into_owned(self) -> SendCommand<'static> {
        SendCommand {
            token: Cow::Owned(self.token.into_owned()),
            event: self.event.map(EventFields::into_owned),
            close: self.close,
        }
    }
}

/// One variant per row of the contract (docs/protocol.md, section 4), in the order they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    InvalidJson,
    Token,
    Event,
    Data,
    Name,
    NameLineBreak,
    Id,
    IdLineBreak,
    Retry,
    Close,
}

impl SendError {
    /// The text of the `error` field in the 400 answer.
    pub fn message(self) -> &'static str {
        match self {
            SendError::InvalidJson => "Invalid JSON",
            SendError::Token => "Invalid request: token is required and must be a string",
            SendError::Event => "Invalid request: event must be an object",
            SendError::Data => "Invalid request: event.data is required and must be a string",
            SendError::Name => "Invalid request: event.name must be a string",
            SendError::NameLineBreak => "Invalid request: event.name must not contain line breaks",
            SendError::Id => "Invalid request: event.id must be a string",
            SendError::IdLineBreak => "Invalid request: event.id must not contain line breaks",
            SendError::Retry => "Invalid request: event.retry must be a non-negative integer",
            SendError::Close => "Invalid request: close must be a boolean",
        }
    }
}

/// Reads the body of a send. Of several errors the first in the order of [`SendError`] is told.
pub fn parse(body: &[u8]) -> Result<SendCommand<'_>, SendError> {
    match json::text(body) {
        Cow::Borrowed(text) => parse_text(text),
        Cow::Owned(text) => parse_text(&text).map(SendCommand::into_owned),
    }
}

fn parse_text(text: &str) -> Result<SendCommand<'_>, SendError> {
    match usual::parse(text) {
        Some(command) => Ok(command),
        None => parse_carefully(text),
    }
}

fn parse_carefully(text: &str) -> Result<SendCommand<'_>, SendError> {
    let [token, event, close] = json::object(text, &["token", "event", "close"]).ok_or(SendError::InvalidJson)?;
    let token = token.and_then(Value::as_string).filter(|token| !token.is_empty()).ok_or(SendError::Token)?;
    let event = event.map(parse_event).transpose()?;
    let close = close.map_or(Some(false), Value::as_bool).ok_or(SendError::Close)?;
    Ok(SendCommand { token, event, close })
}

/// The fields of an event, here and in the answer to a callback.
pub(crate) const EVENT_FIELDS: [&str; 4] = ["data", "name", "id", "retry"];

fn parse_event(event: Value<'_>) -> Result<EventFields<'_>, SendError> {
    let [data, name, id, retry] = event.as_object(&EVENT_FIELDS).ok_or(SendError::Event)?;
    let data = data.and_then(Value::inner).map(Text::from_json).ok_or(SendError::Data)?;
    let name = name.map(|name| parse_line(name, SendError::Name, SendError::NameLineBreak)).transpose()?;
    let id = id.map(|id| parse_line(id, SendError::Id, SendError::IdLineBreak)).transpose()?;
    let retry = retry.map(|retry| retry.as_u31().ok_or(SendError::Retry)).transpose()?;
    Ok(EventFields { name, id, retry, data })
}

fn parse_line(value: Value<'_>, no_string: SendError, line_break: SendError) -> Result<Cow<'_, str>, SendError> {
    let text = value.as_string().ok_or(no_string)?;
    if has_line_break(&text) { Err(line_break) } else { Ok(text) }
}

/// Whether `text` cannot stand in one line of a frame. NUL counts: browsers ignore an id that holds one.
pub(crate) fn has_line_break(text: &str) -> bool {
    memchr3(b'\r', b'\n', 0, text.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> SendError {
        match parse(body.as_bytes()) {
            Err(error) => error,
            Ok(command) => panic!("accepted {body}: {command:?}"),
        }
    }

    /// The error that `event` causes in an otherwise good body.
    fn event_error(event: &str) -> SendError {
        error(&format!("{{\"token\":\"t\",\"event\":{event}}}"))
    }

    fn event(body: &str) -> EventFields<'_> {
        parse(body.as_bytes()).unwrap().event.unwrap()
    }

    #[test]
    fn a_whole_command_is_read_without_a_copy() {
        let body =
            br#" {"token":"t-1","event":{"name":"chat","id":"7","retry":3000,"data":"hallo \u00fc"},"close":true} "#;
        let body = String::from_utf8_lossy(body).replace("\\u00fc", "\u{fc}");
        let command = parse(body.as_bytes()).unwrap();
        assert!(matches!(command.token, Cow::Borrowed("t-1")));
        assert!(command.close);
        let event = command.event.unwrap();
        assert!(matches!(event.name, Some(Cow::Borrowed("chat"))));
        assert!(matches!(event.id, Some(Cow::Borrowed("7"))));
        assert!(matches!(event.data.resolved(), Cow::Borrowed("hallo \u{fc}")));
        assert_eq!(event.retry, Some(3000));
        let mut frame = Vec::new();
        event.write(&mut frame);
        assert_eq!(frame, "event: chat\nid: 7\nretry: 3000\ndata: hallo \u{fc}\n\n".as_bytes());
    }

    #[test]
    fn the_token_alone_is_a_probe() {
        let command = parse(b"{\"token\":\"t\"}").unwrap();
        assert_eq!(command, SendCommand { token: "t".into(), event: None, close: false });
        assert!(!parse(b"{\"token\":\"t\",\"close\":false}").unwrap().close);
        assert!(parse(b"{\"close\":true,\"token\":\"t\"}").unwrap().close);
    }

    #[test]
    fn only_data_is_required_of_an_event() {
        let only_data = EventFields { name: None, id: None, retry: None, data: "".into() };
        assert_eq!(event(r#"{"token":"t","event":{"data":""}}"#), only_data);
        let full = event(r#"{"event":{"data":"d\n\u0000","id":"","name":""},"token":"t"}"#);
        assert_eq!(full, EventFields { name: Some("".into()), id: Some("".into()), retry: None, data: "d\n\0".into() });
    }

    #[test]
    fn what_is_no_json_object_is_invalid_json() {
        for body in [
            "",
            "  ",
            "x",
            "null",
            "true",
            "3",
            "\"t\"",
            "[]",
            "[{\"token\":\"t\"}]",
            "{\"token\":\"t\"",
            "{\"token\":\"t\"}}",
            "{\"token\":\"t\"} {}",
            "{\"token\":\"t\",}",
            "{\"token\":\"a\nb\"}",
            "{\"token\":\"t\",\"x\n\":1}",
            "{\"token\":\"t\",\"x\":\"\u{1}\"}",
            "{\"token\":\"t\",\"event\":{\"data\":\"a\tb\"}}",
            "{\"token\":\"t\",\"event\":{\"data\":\"\\q\"}}",
            "{\"token\":\"t\",\"event\":{\"data\":\"\\u00g0\"}}",
            "{\"token\":\"t\",\"x\":01}",
            "{\"token\":\"t\",\"x\":NaN}",
            "{'token':'t'}",
            "token=t",
            // The last counts, yet what it replaces must be JSON too.
            "{\"token\":x,\"token\":\"t\"}",
        ] {
            assert_eq!(error(body), SendError::InvalidJson, "{body:?}");
        }
        assert_eq!(parse(b"\xFF{\"token\":\"t\"}"), Err(SendError::InvalidJson));
        assert_eq!(parse(b"{\"token\":\"t\"\xA0}"), Err(SendError::InvalidJson));
    }

    #[test]
    fn token_must_be_a_string_that_is_not_empty() {
        for body in [
            "{}",
            "{\"Token\":\"t\"}",
            "{\"token\":null}",
            "{\"token\":\"\"}",
            "{\"token\":1}",
            "{\"token\":1e999}",
            "{\"token\":true}",
            "{\"token\":[\"t\"]}",
            "{\"token\":{\"token\":\"t\"}}",
            "{\"token\":\"t\",\"token\":null}",
        ] {
            assert_eq!(error(body), SendError::Token, "{body}");
        }
    }

    #[test]
    fn event_must_be_an_object() {
        for event in ["null", "1", "-1e999", "true", "\"data\"", "[]", "[{\"data\":\"\"}]"] {
            assert_eq!(event_error(event), SendError::Event, "{event}");
        }
    }

    #[test]
    fn data_must_be_a_string() {
        for event in ["{}", r#"{"name":"n"}"#, r#"{"Data":""}"#] {
            assert_eq!(event_error(event), SendError::Data, "{event}");
        }
        for value in ["null", "1", "false", "[]", "{}", "{\"data\":\"\"}"] {
            assert_eq!(event_error(&format!("{{\"data\":{value}}}")), SendError::Data, "{value}");
        }
    }

    #[test]
    fn name_and_id_must_be_strings_of_one_line() {
        for (field, no_string, line_break) in
            [("name", SendError::Name, SendError::NameLineBreak), ("id", SendError::Id, SendError::IdLineBreak)]
        {
            for value in ["null", "0", "true", "[]", "{}"] {
                assert_eq!(event_error(&format!(r#"{{"data":"","{field}":{value}}}"#)), no_string, "{field} {value}");
            }
            for value in ["\\n", "a\\rb", "\\u000a", "\\u000D", "x\\u0000", "a\\r\\nb"] {
                assert_eq!(
                    event_error(&format!(r#"{{"data":"","{field}":"{value}"}}"#)),
                    line_break,
                    "{field} {value}"
                );
            }
            let fine = format!(r#"{{"token":"t","event":{{"data":"","{field}":" \t\u2028\u0085: é"}}}}"#);
            assert!(parse(fine.as_bytes()).is_ok());
        }
    }

    #[test]
    fn retry_must_be_an_integer_in_range() {
        for value in ["null", "-1", "1.5", "2147483648", "1e999", "\"1\"", "true", "[1]", "{}"] {
            assert_eq!(event_error(&format!(r#"{{"data":"","retry":{value}}}"#)), SendError::Retry, "{value}");
        }
        for (value, expected) in [("0", 0), ("3000.0", 3000), ("3e3", 3000), ("2147483647", 2_147_483_647)] {
            let body = format!(r#"{{"token":"t","event":{{"data":"","retry":{value}}}}}"#);
            assert_eq!(event(&body).retry, Some(expected), "{value}");
        }
    }

    #[test]
    fn close_must_be_a_boolean() {
        for value in ["null", "0", "1", "\"true\"", "[]", "{}", "1e999"] {
            assert_eq!(error(&format!(r#"{{"token":"t","close":{value}}}"#)), SendError::Close, "{value}");
        }
    }

    #[test]
    fn of_several_errors_the_first_row_is_told() {
        // Each step mends the error just told; all later ones are present from the start.
        let steps = [
            ("", "null", SendError::InvalidJson),
            ("{", "null", SendError::Token),
            ("{\"token\":\"t\",", "null", SendError::Event),
            ("{\"token\":\"t\",", r#"{"retry":-1,"id":1,"name":1}"#, SendError::Data),
            ("{\"token\":\"t\",", r#"{"retry":-1,"id":1,"name":1,"data":""}"#, SendError::Name),
            ("{\"token\":\"t\",", r#"{"retry":-1,"id":1,"name":"\n","data":""}"#, SendError::NameLineBreak),
            ("{\"token\":\"t\",", r#"{"retry":-1,"id":1,"name":"n","data":""}"#, SendError::Id),
            ("{\"token\":\"t\",", r#"{"retry":-1,"id":"\r","name":"n","data":""}"#, SendError::IdLineBreak),
            ("{\"token\":\"t\",", r#"{"retry":-1,"id":"","name":"n","data":""}"#, SendError::Retry),
            ("{\"token\":\"t\",", r#"{"retry":1,"id":"","name":"n","data":""}"#, SendError::Close),
        ];
        for (head, event, expected) in steps {
            let body = format!("{head}\"close\":null,\"event\":{event}}}");
            assert_eq!(error(&body), expected, "{body}");
        }
    }

    #[test]
    fn later_duplicates_win_good_or_bad() {
        let good = r#"{"name":"n","data":"d"}"#;
        let replaced = format!(r#"{{"token":1,"token":"t","event":null,"event":{good},"close":0,"close":true}}"#);
        let command = parse(replaced.as_bytes()).unwrap();
        assert_eq!((&*command.token, command.close), ("t", true));
        assert_eq!(command.event.unwrap().name.as_deref(), Some("n"));
        assert_eq!(error(&format!(r#"{{"token":"t","event":{good},"event":null}}"#)), SendError::Event);
        assert_eq!(error(r#"{"token":"t","close":true,"close":null}"#), SendError::Close);
        // The later event replaces the earlier one whole; nothing is merged.
        let merged = r#"{"token":"t","event":{"name":"n","id":"1","data":"a"},"event":{"data":"b"}}"#;
        assert_eq!(event(merged), EventFields { name: None, id: None, retry: None, data: "b".into() });
        assert_eq!(event(r#"{"token":"t","event":{"data":1,"data":"b","name":"\n","name":"n"}}"#).data, "b".into());
    }

    #[test]
    fn unknown_fields_are_ignored_whatever_they_hold() {
        let body = r#"{"v":1e99999,"":null,"w":["\ud800",{"token":1}],"token":"t","events":1,"event":{"data":"d","x":-1e-999,"comment":[]}}"#;
        assert_eq!(event(body).data, "d".into());
    }

    #[test]
    fn keys_are_compared_without_their_escapes() {
        let body = r#"{"to\u006ben":"t","\u0065vent":{"d\u0061ta":"d","\u006eame":"n"},"clos\u0065":true}"#;
        let command = parse(body.as_bytes()).unwrap();
        assert!(command.close);
        assert_eq!(command.event.unwrap().name.as_deref(), Some("n"));
    }

    #[test]
    fn invalid_utf8_and_lone_surrogates_become_replacement_characters() {
        let command =
            parse(b"{\"token\":\"t\xFF\",\"event\":{\"name\":\"\xC3\",\"id\":\"\\ud800\",\"data\":\"a\xE2\x82b\"}}");
        let command = command.unwrap();
        assert_eq!(command.token, "t\u{fffd}");
        let event = command.event.unwrap();
        assert_eq!((event.name.as_deref(), event.id.as_deref()), (Some("\u{fffd}"), Some("\u{fffd}")));
        assert_eq!(event.data, "a\u{fffd}b".into());
        assert_eq!(parse(b"{\"token\":\"\\udc00\"}").unwrap().token, "\u{fffd}");
    }

    #[test]
    fn deep_nesting_is_answered_by_the_table() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(format!("{{\"token\":\"t\",\"x\":{deep}}}").as_bytes()).is_ok());
        assert_eq!(error(&format!("{{\"token\":{deep}}}")), SendError::Token);
        assert_eq!(event_error(&deep), SendError::Event);
        assert_eq!(event_error(&format!("{{\"data\":{deep}}}")), SendError::Data);
        assert_eq!(event_error(&format!("{{\"data\":\"\",\"name\":{deep}}}")), SendError::Name);
        assert_eq!(event_error(&format!("{{\"data\":\"\",\"retry\":{deep}}}")), SendError::Retry);
        assert_eq!(error(&format!("{{\"token\":\"t\",\"close\":{deep}}}")), SendError::Close);
        assert_eq!(error(&"[".repeat(100_000)), SendError::InvalidJson);
        assert_eq!(error(&"{\"token\":".repeat(100_000)), SendError::InvalidJson);
    }

    #[test]
    fn messages_are_those_of_the_contract() {
        for (error, message) in [
            (SendError::InvalidJson, "Invalid JSON"),
            (SendError::Token, "Invalid request: token is required and must be a string"),
            (SendError::Event, "Invalid request: event must be an object"),
            (SendError::Data, "Invalid request: event.data is required and must be a string"),
            (SendError::Name, "Invalid request: event.name must be a string"),
            (SendError::NameLineBreak, "Invalid request: event.name must not contain line breaks"),
            (SendError::Id, "Invalid request: event.id must be a string"),
            (SendError::IdLineBreak, "Invalid request: event.id must not contain line breaks"),
            (SendError::Retry, "Invalid request: event.retry must be a non-negative integer"),
            (SendError::Close, "Invalid request: close must be a boolean"),
        ] {
            assert_eq!(error.message(), message);
        }
    }
}
