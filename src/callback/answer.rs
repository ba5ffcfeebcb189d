//! The body of a backend's 2xx answer, read field by field: what is malformed is ignored and named, and
//! hides nothing that is good (docs/protocol.md, section 3).

use crate::json::{self, Value};
use crate::send::{EVENT_FIELDS, EventFields, Text, has_line_break};
use std::borrow::Cow;

/// What a 2xx answer's body asks for. Read leniently: the connect stands whatever the body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer<'a> {
    pub event: Option<EventFields<'a>>,
    pub close: bool,
    /// What was malformed and ignored, each a phrase for the log; empty in the normal case.
    pub ignored: Vec<Cow<'static, str>>,
}

/// Reads the body of a 2xx answer. Empty or blank means `{}`; `null` in a field means that it is absent,
/// because many a backend serializes its optional fields so.
pub fn read_answer(body: &[u8]) -> Answer<'_> {
    match json::text(body) {
        Cow::Borrowed(text) => read_text(text),
        Cow::Owned(text) => {
            let Answer { event, close, ignored } = read_text(&text);
            Answer { event: event.map(EventFields::into_owned), close, ignored }
        }
    }
}

fn read_text(text: &str) -> Answer<'_> {
    let mut ignored = Vec::new();
    if text.trim_ascii().is_empty() {
        return Answer::default();
    }
    let Some(fields) = json::object(text, &["event", "close"]) else {
        ignored.push(Cow::Borrowed("the body is not a JSON object"));
        return Answer { event: None, close: false, ignored };
    };
    let [event, close] = fields.map(present);
    let event = event.and_then(|event| read_event(event, &mut ignored));
    let close = close.and_then(|close| or_ignore(close.as_bool(), "close is not a boolean", &mut ignored));
    Answer { event, close: close.unwrap_or(false), ignored }
}

fn read_event<'a>(event: Value<'a>, ignored: &mut Vec<Cow<'static, str>>) -> Option<EventFields<'a>> {
    let fields = or_ignore(event.as_object(&EVENT_FIELDS), "event is not an object", ignored)?;
    let [data, name, id, retry] = fields.map(present);
    let data = data.and_then(Value::inner).map(Text::from_json);
    let data = or_ignore(data, "event: data is missing or not a string", ignored)?;
    let name = name.and_then(|name| or_ignore(name.as_string(), "event.name is not a string", ignored));
    let id = id.and_then(|id| or_ignore(id.as_string(), "event.id is not a string", ignored));
    let retry =
        retry.and_then(|retry| or_ignore(retry.as_u31(), "event.retry is not an integer in 0..=2147483647", ignored));
    if name.as_deref().is_some_and(has_line_break) {
        ignored.push(Cow::Borrowed("event: name contains a line break"));
        return None;
    }
    if id.as_deref().is_some_and(has_line_break) {
        ignored.push(Cow::Borrowed("event: id contains a line break"));
        return None;
    }
    Some(EventFields { name, id, retry, data })
}

fn present(value: Option<Value<'_>>) -> Option<Value<'_>> {
    value.filter(|value| !value.is_null())
}

/// Passes a well-formed value on; notes the absence of one.
fn or_ignore<T>(value: Option<T>, phrase: &'static str, ignored: &mut Vec<Cow<'static, str>>) -> Option<T> {
    if value.is_none() {
        ignored.push(Cow::Borrowed(phrase));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_AN_OBJECT: &str = "the body is not a JSON object";
    const EVENT: &str = "event is not an object";
    const DATA: &str = "event: data is missing or not a string";
    const NAME: &str = "event.name is not a string";
    const NAME_BREAK: &str = "event: name contains a line break";
    const ID: &str = "event.id is not a string";
    const ID_BREAK: &str = "event: id contains a line break";
    const RETRY: &str = "event.retry is not an integer in 0..=2147483647";
    const CLOSE: &str = "close is not a boolean";

    fn unnamed(data: &str) -> EventFields<'_> {
        EventFields { name: None, id: None, retry: None, data: data.into() }
    }

    /// Reads `body`, checks what was ignored, and returns the rest.
    fn read<'a>(body: &'a str, ignored: &[&str]) -> (Option<EventFields<'a>>, bool) {
        let answer = read_answer(body.as_bytes());
        assert_eq!(answer.ignored, ignored, "{body}");
        (answer.event, answer.close)
    }

    #[test]
    fn a_whole_answer_is_read_without_a_copy() {
        let (event, close) =
            read(r#"{"event":{"name":"n","id":"7","retry":3e3,"data":"d"},"close":true,"extra":[1]}"#, &[]);
        let event = event.unwrap();
        assert!(close);
        assert!(matches!(event.name, Some(Cow::Borrowed("n"))));
        assert!(matches!(event.id, Some(Cow::Borrowed("7"))));
        assert!(matches!(event.data.resolved(), Cow::Borrowed("d")));
        assert_eq!(event.retry, Some(3000));
    }

    #[test]
    fn nothing_asks_for_nothing() {
        for body in
            ["", " \r\n\t", "{}", " {} ", r#"{"ok":true}"#, r#"{"event":null,"close":null}"#, r#"{"close":false}"#]
        {
            assert_eq!(read_answer(body.as_bytes()), Answer::default(), "{body:?}");
        }
    }

    #[test]
    fn null_means_absent() {
        let (event, close) = read(r#"{"event":{"name":null,"id":null,"retry":null,"data":"d"},"close":null}"#, &[]);
        assert_eq!((event, close), (Some(unnamed("d")), false));
    }

    #[test]
    fn a_body_that_is_no_object_is_ignored_whole() {
        for body in
            ["OK", "null", "true", "[]", "\"\"", "{", "{\"close\":true", "{\"close\":true}}", "<html>", "\u{feff}{}"]
        {
            assert_eq!(read(body, &[NOT_AN_OBJECT]), (None, false), "{body}");
        }
        assert_eq!(read_answer(b"\xFF\xFE").ignored, [NOT_AN_OBJECT]);
        assert_eq!(read_answer(b"{\"close\":true,\"x\":\"\n\"}").ignored, [NOT_AN_OBJECT]);
    }

    #[test]
    fn a_bad_event_does_not_hide_a_good_close() {
        for (event, phrase) in [
            ("1", EVENT),
            ("true", EVENT),
            ("\"x\"", EVENT),
            ("[]", EVENT),
            ("{}", DATA),
            (r#"{"name":"n"}"#, DATA),
            (r#"{"data":null}"#, DATA),
            (r#"{"data":1}"#, DATA),
            (r#"{"data":{}}"#, DATA),
            (r#"{"data":"","name":"a\nb"}"#, NAME_BREAK),
            (r#"{"data":"","name":"\r"}"#, NAME_BREAK),
            (r#"{"data":"","name":"\u0000"}"#, NAME_BREAK),
            (r#"{"data":"","id":"a\nb"}"#, ID_BREAK),
            (r#"{"data":"","id":"\u0000"}"#, ID_BREAK),
        ] {
            let body = format!("{{\"event\":{event},\"close\":true}}");
            assert_eq!(read(&body, &[phrase]), (None, true), "{event}");
        }
    }

    #[test]
    fn a_bad_close_does_not_hide_a_good_event() {
        for close in ["0", "1", "\"true\"", "[]", "{}", "1e999"] {
            let body = format!(r#"{{"close":{close},"event":{{"data":"d"}}}}"#);
            assert_eq!(read(&body, &[CLOSE]), (Some(unnamed("d")), false), "{close}");
        }
    }

    #[test]
    fn bad_fields_of_an_event_are_dropped_alone() {
        for value in ["1", "true", "[]", "{}"] {
            let body = format!(r#"{{"event":{{"data":"d","name":{value},"id":"7"}}}}"#);
            assert_eq!(read(&body, &[NAME]).0.unwrap(), EventFields { id: Some("7".into()), ..unnamed("d") });
            let body = format!(r#"{{"event":{{"data":"d","name":"n","id":{value}}}}}"#);
            assert_eq!(read(&body, &[ID]).0.unwrap(), EventFields { name: Some("n".into()), ..unnamed("d") });
        }
        for value in ["-1", "1.5", "2147483648", "\"1\"", "1e999", "[]"] {
            let body = format!(r#"{{"event":{{"data":"d","retry":{value}}}}}"#);
            assert_eq!(read(&body, &[RETRY]).0.unwrap(), unnamed("d"), "{value}");
        }
    }

    #[test]
    fn each_thing_ignored_is_named() {
        let body = r#"{"event":{"data":"d","name":1,"id":2,"retry":-3},"close":4}"#;
        assert_eq!(read(body, &[NAME, ID, RETRY, CLOSE]), (Some(unnamed("d")), false));
    }

    #[test]
    fn later_duplicates_win() {
        let body = r#"{"event":{"data":"a","name":"n"},"event":{"data":1,"data":"b"},"close":true,"close":false}"#;
        assert_eq!(read(body, &[]), (Some(unnamed("b")), false));
        assert_eq!(read(r#"{"event":{"data":"a"},"event":null}"#, &[]), (None, false));
    }

    #[test]
    fn broken_text_becomes_replacement_characters() {
        let answer = read_answer(b"{\"event\":{\"name\":\"\xFF\",\"data\":\"\\ud800\xC3\"},\"close\":true}");
        let event = EventFields { name: Some("\u{fffd}".into()), ..unnamed("\u{fffd}\u{fffd}") };
        assert_eq!(answer, Answer { event: Some(event), close: true, ignored: Vec::new() });
    }

    #[test]
    fn deep_nesting_is_ignored_like_anything_else() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(&format!("{{\"event\":{deep},\"close\":true}}"), &[EVENT]), (None, true));
        assert_eq!(read(&deep, &[NOT_AN_OBJECT]), (None, false));
    }
}
