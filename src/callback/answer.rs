//! The body of a backend's 2xx answer, read field by field: a malformed field is ignored and reported, and does not
//! hide a valid one (docs/protocol.md, section 3).

use super::headers::ExtraHeaders;
use crate::json::{self, Value};
use crate::send::{self, EVENT_FIELDS, EVENTS_MAX, GROUPS_MAX, SendError, present};
use crate::sse::Event;
use std::borrow::Cow;

/// The commands in a 2xx answer's body. Read leniently: the connect is accepted whatever the body contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The stream's first events, in order; at most 1000.
    pub events: Vec<Event<'a>>,
    /// Whether the stream ends after them.
    pub close: bool,
    /// The groups that the stream is in: each once, at most 64.
    pub groups: Vec<Cow<'a, str>>,
    /// What the stream has got already, if its client does not say.
    pub since: Option<Cow<'a, str>>,
    /// Whether there is to be a stream only if one of the groups is alive.
    pub attach: bool,
    /// Fields for the head of the response.
    pub headers: ExtraHeaders<'a>,
    /// The names of fields that may not be written.
    pub left_out: Vec<Cow<'a, str>>,
    /// There is to be no stream: 204.
    pub no_content: bool,
    /// How long the stream may live, in seconds; at least 1.
    pub expires_in: Option<u32>,
    /// The rules broken by ignored fields; empty in the normal case.
    pub ignored: Vec<SendError>,
}

const FIELDS: [&str; 9] = ["event", "close", "groups", "since", "attach", "events", "headers", "status", "expires_in"];

/// Reads the body of a 2xx answer. Empty or blank means `{}`; `null` means that a field is absent, since many backends
/// serialize optional fields that way. `lossy` is a buffer for a body that is not UTF-8.
pub fn read_answer<'a>(body: &'a [u8], lossy: &'a mut String) -> Answer<'a> {
    let text = json::text(body, lossy);
    let mut answer = Answer::default();
    if text.trim_ascii().is_empty() {
        return answer;
    }
    let Some(fields) = json::object(text, &FIELDS) else {
        answer.ignored.push(SendError::InvalidJson);
        return answer;
    };
    let [event, close, groups, since, attach, events, headers, status, expires_in] = fields.map(present);
    match (event, events) {
        (Some(event), _) => match read_event(event, &mut answer.ignored) {
            Ok(event) => answer.events.push(event),
            Err(error) => answer.ignored.push(error),
        },
        (None, Some(events)) => read_events(events, &mut answer),
        (None, None) => {}
    }
    match close.map_or(Some(false), Value::as_bool) {
        Some(close) => answer.close = close,
        None => answer.ignored.push(SendError::Close),
    }
    if let Some(groups) = groups {
        read_groups(groups, &mut answer);
    }
    match since.map(Value::as_string) {
        Some(None) => answer.ignored.push(SendError::Since),
        Some(since) => answer.since = since.filter(|since| !since.is_empty()),
        None => {}
    }
    match attach.map_or(Some(false), Value::as_bool) {
        Some(attach) => answer.attach = attach,
        None => answer.ignored.push(SendError::Attach),
    }
    match headers.map(ExtraHeaders::read) {
        Some(Some((headers, left_out))) => (answer.headers, answer.left_out) = (headers, left_out),
        Some(None) => answer.ignored.push(SendError::Headers),
        None => {}
    }
    match status.map(Value::as_u31) {
        Some(Some(204)) => answer.no_content = true,
        Some(_) => answer.ignored.push(SendError::Status),
        None => {}
    }
    match expires_in.map(Value::as_u31) {
        Some(Some(seconds @ 1..)) => answer.expires_in = Some(seconds),
        Some(_) => answer.ignored.push(SendError::ExpiresIn),
        None => {}
    }
    answer
}

/// Bad events are left out.
fn read_events<'a>(events: Value<'a>, answer: &mut Answer<'a>) {
    let events = events.as_array(EVENTS_MAX).filter(|events| !events.is_empty());
    let Some(events) = events else { return answer.ignored.push(SendError::Events) };
    for (index, event) in events.into_iter().enumerate() {
        let ignored = answer.ignored.len();
        match read_event(event, &mut answer.ignored) {
            Ok(event) => answer.events.push(event),
            Err(error) => answer.ignored.push(error),
        }
        for error in &mut answer.ignored[ignored..] {
            *error = error.in_list(index);
        }
    }
}

/// Bad names are left out, and what is too many.
fn read_groups<'a>(groups: Value<'a>, answer: &mut Answer<'a>) {
    let Some(elements) = groups.as_array(usize::MAX) else { return answer.ignored.push(SendError::AnswerGroups) };
    let mut bad = false;
    for element in elements {
        match send::read_group_name(element) {
            Some(name) if answer.groups.contains(&name) => {}
            Some(name) if answer.groups.len() < GROUPS_MAX => answer.groups.push(name),
            Some(_) => return answer.ignored.push(SendError::TooManyGroups),
            None if bad => {}
            None => {
                bad = true;
                answer.ignored.push(SendError::Group);
            }
        }
    }
}

fn read_event<'a>(event: Value<'a>, ignored: &mut Vec<SendError>) -> Result<Event<'a>, SendError> {
    let values = event.as_object(&EVENT_FIELDS).map(|values| values.map(present));
    let mut line_break = None;
    let event = send::read_event(values, |error| {
        if error.is_line_break() {
            line_break.get_or_insert(error);
        } else {
            ignored.push(error);
        }
        Ok(())
    })?;
    line_break.map_or(Ok(event), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unnamed(data: &str) -> Event<'_> {
        Event { data: data.into(), ..Event::default() }
    }

    /// Reads `body`, checks the ignored fields, and returns the rest.
    fn read<'a>(body: &'a str, ignored: &[SendError]) -> (Option<Event<'a>>, bool) {
        let mut answer = read_bytes(body.as_bytes());
        assert_eq!(answer.ignored, ignored, "{body}");
        assert!(answer.events.len() <= 1, "{body}");
        (answer.events.pop(), answer.close)
    }

    fn read_bytes(body: &[u8]) -> Answer<'_> {
        read_answer(body, Box::leak(Box::default()))
    }

    #[test]
    fn a_whole_answer_is_read_without_a_copy() {
        let (event, close) =
            read(r#"{"event":{"name":"n","id":"7","retry":3e3,"data":"d"},"close":true,"extra":[1]}"#, &[]);
        let event = event.unwrap();
        assert!(close);
        assert!(matches!(event.name, Some(Cow::Borrowed("n"))));
        assert!(matches!(event.id, Some(Cow::Borrowed("7"))));
        assert!(matches!(event.data, Cow::Borrowed("d")));
        assert_eq!(event.retry, Some(3000));
    }

    #[test]
    fn nothing_asks_for_nothing() {
        for body in [
            "",
            " \r\n\t",
            "\u{feff}{}",
            "\u{feff}",
            "{}",
            " {} ",
            r#"{"ok":true}"#,
            r#"{"event":null,"close":null}"#,
            r#"{"close":false}"#,
        ] {
            assert_eq!(read_bytes(body.as_bytes()), Answer::default(), "{body:?}");
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
            ["OK", "null", "true", "[]", "\"\"", "{", "{\"close\":true", "{\"close\":true}}", "<html>", "\u{feff}{"]
        {
            assert_eq!(read(body, &[SendError::InvalidJson]), (None, false), "{body}");
        }
        assert_eq!(read_bytes(b"\xFF\xFE").ignored, [SendError::InvalidJson]);
        assert_eq!(read_bytes(b"{\"close\":true,\"x\":\"\n\"}").ignored, [SendError::InvalidJson]);
    }

    #[test]
    fn a_bad_event_does_not_hide_a_good_close() {
        for (event, phrase) in [
            ("1", SendError::Event),
            ("true", SendError::Event),
            ("\"x\"", SendError::Event),
            ("[]", SendError::Event),
            ("{}", SendError::Data),
            (r#"{"name":"n"}"#, SendError::Data),
            (r#"{"data":null}"#, SendError::Data),
            (r#"{"data":1}"#, SendError::Data),
            (r#"{"data":{}}"#, SendError::Data),
            (r#"{"data":"","name":"a\nb"}"#, SendError::NameLineBreak),
            (r#"{"data":"","name":"\r"}"#, SendError::NameLineBreak),
            (r#"{"data":"","name":"\u0000"}"#, SendError::NameLineBreak),
            (r#"{"data":"","id":"a\nb"}"#, SendError::IdLineBreak),
            (r#"{"data":"","id":"\u0000"}"#, SendError::IdLineBreak),
        ] {
            let body = format!("{{\"event\":{event},\"close\":true}}");
            assert_eq!(read(&body, &[phrase]), (None, true), "{event}");
        }
    }

    #[test]
    fn a_bad_close_does_not_hide_a_good_event() {
        for close in ["0", "1", "\"true\"", "[]", "{}", "1e999"] {
            let body = format!(r#"{{"close":{close},"event":{{"data":"d"}}}}"#);
            assert_eq!(read(&body, &[SendError::Close]), (Some(unnamed("d")), false), "{close}");
        }
    }

    #[test]
    fn bad_fields_of_an_event_are_dropped_alone() {
        for value in ["0.5", "true", "[]", "{}"] {
            let body = format!(r#"{{"event":{{"data":"d","name":{value},"id":"7"}}}}"#);
            assert_eq!(read(&body, &[SendError::Name]).0.unwrap(), Event { id: Some("7".into()), ..unnamed("d") });
            let body = format!(r#"{{"event":{{"data":"d","name":"n","id":{value}}}}}"#);
            assert_eq!(read(&body, &[SendError::Id]).0.unwrap(), Event { name: Some("n".into()), ..unnamed("d") });
        }
        let body = r#"{"event":{"data":"d","id":"\u0001"}}"#;
        assert_eq!(read(body, &[SendError::IdControl]).0.unwrap(), unnamed("d"));
        assert_eq!(read(r#"{"event":{"data":"d","id":7}}"#, &[]).0.unwrap().id.as_deref(), Some("7"));
        for value in ["-1", "1.5", "2147483648", "\"1\"", "1e999", "[]"] {
            let body = format!(r#"{{"event":{{"data":"d","retry":{value}}}}}"#);
            assert_eq!(read(&body, &[SendError::Retry]).0.unwrap(), unnamed("d"), "{value}");
        }
    }

    #[test]
    fn each_thing_ignored_is_named() {
        let body = r#"{"event":{"data":"d","name":1,"id":0.5,"retry":-3},"close":4}"#;
        assert_eq!(
            read(body, &[SendError::Name, SendError::Id, SendError::Retry, SendError::Close]),
            (Some(unnamed("d")), false)
        );
    }

    #[test]
    fn later_duplicates_win() {
        let body = r#"{"event":{"data":"a","name":"n"},"event":{"data":1,"data":"b"},"close":true,"close":false}"#;
        assert_eq!(read(body, &[]), (Some(unnamed("b")), false));
        assert_eq!(read(r#"{"event":{"data":"a"},"event":null}"#, &[]), (None, false));
    }

    #[test]
    fn broken_text_becomes_replacement_characters() {
        let answer = read_bytes(b"{\"event\":{\"name\":\"\xFF\",\"data\":\"\\ud800\xC3\"},\"close\":true}");
        let event = Event { name: Some("\u{fffd}".into()), ..unnamed("\u{fffd}\u{fffd}") };
        assert_eq!(answer, Answer { events: vec![event], close: true, ..Answer::default() });
    }

    #[test]
    fn deep_nesting_is_ignored_like_anything_else() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(&format!("{{\"event\":{deep},\"close\":true}}"), &[SendError::Event]), (None, true));
        assert_eq!(read(&deep, &[SendError::InvalidJson]), (None, false));
    }

    #[test]
    fn groups_are_read_one_by_one() {
        let read = |body: &str| {
            let answer = read_bytes(body.as_bytes());
            (answer.groups.iter().map(|name| name.to_string()).collect::<Vec<_>>(), answer.ignored)
        };
        assert_eq!(read(r#"{"groups":["a","b","a"]}"#), (vec!["a".to_owned(), "b".to_owned()], vec![]));
        assert_eq!(read(r#"{"groups":null}"#), (vec![], vec![]));
        assert_eq!(read(r#"{"groups":"a"}"#), (vec![], vec![SendError::AnswerGroups]));
        let flawed = r#"{"groups":["",1,"a\n","ok",null,{}]}"#;
        assert_eq!(read(flawed), (vec!["ok".to_owned()], vec![SendError::Group]));
        let many: Vec<String> = (0..70).map(|n| format!("\"g{n}\"")).collect();
        let (groups, ignored) = read(&format!(r#"{{"groups":["",{}]}}"#, many.join(",")));
        assert_eq!((groups.len(), &*groups[63]), (64, "g63"));
        assert_eq!(ignored, [SendError::Group, SendError::TooManyGroups]);
        let long = format!(r#"{{"groups":["{}","{}"]}}"#, "x".repeat(128), "y".repeat(129));
        assert_eq!(read(&long), (vec!["x".repeat(128)], vec![SendError::Group]));
    }

    #[test]
    fn where_to_begin_is_read() {
        for (body, since, ignored) in [
            (r#"{"since":"start"}"#, Some("start"), &[][..]),
            (r#"{"since":""}"#, None, &[]),
            (r#"{"since":null,"attach":null}"#, None, &[]),
            (r#"{"since":7,"attach":1}"#, None, &[SendError::Since, SendError::Attach]),
        ] {
            let answer = read_bytes(body.as_bytes());
            assert_eq!((answer.since.as_deref(), answer.attach), (since, false), "{body}");
            assert_eq!(answer.ignored, ignored, "{body}");
        }
        assert!(read_bytes(br#"{"attach":true}"#).attach);
    }

    #[test]
    fn several_events_are_read_in_order_and_bad_ones_left_out() {
        let answer =
            read_bytes(br#"{"events":[{"data":"a"},{"name":"n"},{"data":"c","id":0.5},{"data":"d","name":"\n"}]}"#);
        let data: Vec<&str> = answer.events.iter().map(|event| &*event.data).collect();
        assert_eq!(data, ["a", "c"]);
        let rules = [SendError::Data.in_list(1), SendError::Id.in_list(2), SendError::NameLineBreak.in_list(3)];
        assert_eq!(answer.ignored, rules);
        let both = read_bytes(br#"{"event":{"data":"a"},"events":[{"data":"b"}]}"#);
        assert_eq!((both.events, both.ignored), (vec![unnamed("a")], Vec::new()));
        let too_many = format!("{{\"events\":[{}]}}", vec!["{\"data\":\"\"}"; 1001].join(","));
        for events in ["1", "{}", "[]", "\"x\"", &too_many[10..too_many.len() - 1]] {
            let body = format!("{{\"events\":{events}}}");
            let answer = read_bytes(body.leak().as_bytes());
            assert_eq!((answer.events.len(), answer.ignored), (0, vec![SendError::Events]));
        }
    }

    #[test]
    fn status_and_expiry_are_read_or_named() {
        let answer = read_bytes(br#"{"status":204,"expires_in":60,"headers":{"X-A":"b","Date":"c"}}"#);
        assert_eq!((answer.no_content, answer.expires_in, answer.ignored.len()), (true, Some(60), 0));
        assert_eq!(answer.headers.iter().collect::<Vec<_>>(), [("X-A", &b"b"[..])]);
        assert_eq!(answer.left_out, ["Date"]);
        for status in ["200", "404", "\"204\"", "true", "204.5"] {
            let body = format!("{{\"status\":{status}}}");
            let answer = read_bytes(body.leak().as_bytes());
            assert_eq!((answer.no_content, answer.ignored), (false, vec![SendError::Status]), "{status}");
        }
        for seconds in ["0", "-1", "1.5", "\"60\"", "true", "2147483648"] {
            let body = format!("{{\"expires_in\":{seconds}}}");
            let answer = read_bytes(body.leak().as_bytes());
            assert_eq!((answer.expires_in, answer.ignored), (None, vec![SendError::ExpiresIn]), "{seconds}");
        }
        assert_eq!(read_bytes(br#"{"headers":[]}"#).ignored, [SendError::Headers]);
    }
}
