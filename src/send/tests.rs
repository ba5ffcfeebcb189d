//! The rows of the contract, and the fast path compared with the full parser.

use super::*;
use serde::de::IgnoredAny;

/// The one event of a send.
fn event_of(command: SendCommand<'_>) -> Event<'_> {
    let Events::One(event) = command.events else { panic!("not one event: {command:?}") };
    event
}

/// Leaks the scratch, so that the command outlives the call.
fn parse(body: &[u8]) -> Result<SendCommand<'_>, SendError> {
    super::parse(body, Box::leak(Box::default()), GroupIds::Gateway)
}

fn parse_in_full(body: &str) -> Result<SendCommand<'_>, SendError> {
    find(body).ok_or(SendError::InvalidJson)?.read(GroupIds::Gateway)
}

/// Compares both parsers; `true` if the fast path handled the body.
fn is_fast(body: &str) -> bool {
    let mut scratch = String::new();
    let mut values = SendValues::default();
    if scan(body, &mut scratch, &mut values).is_none() {
        return false;
    }
    assert_eq!(values.read(GroupIds::Gateway), parse_in_full(body), "{body}");
    true
}

fn error(body: &str) -> SendError {
    match parse(body.as_bytes()) {
        Err(error) => error,
        Ok(command) => panic!("accepted {body}: {command:?}"),
    }
}

/// The error that `event` causes in an otherwise valid body.
fn event_error(event: &str) -> SendError {
    error(&format!("{{\"token\":\"t\",\"event\":{event}}}"))
}

fn event(body: &str) -> Event<'_> {
    event_of(parse(body.as_bytes()).unwrap())
}

#[test]
fn a_whole_command_is_read_without_a_copy() {
    let body = br#" {"token":"t-1","event":{"name":"chat","id":"7","retry":3000,"data":"hallo \u00fc"},"close":true} "#;
    let body = String::from_utf8_lossy(body).replace("\\u00fc", "\u{fc}");
    let command = parse(body.as_bytes()).unwrap();
    assert!(matches!(command.target, Target::Token(Cow::Borrowed("t-1"))));
    assert!(command.close);
    let event = event_of(command);
    assert!(matches!(event.name, Some(Cow::Borrowed("chat"))));
    assert!(matches!(event.id, Some(Cow::Borrowed("7"))));
    assert!(matches!(event.data, Cow::Borrowed("hallo \u{fc}")));
    assert_eq!(event.retry, Some(3000));
    let mut frame = Vec::new();
    event.write(&mut frame);
    assert_eq!(frame, "event: chat\nid: 7\nretry: 3000\ndata: hallo \u{fc}\n\n".as_bytes());
}

#[test]
fn the_token_alone_is_a_probe() {
    let command = parse(b"{\"token\":\"t\"}").unwrap();
    let target = Target::Token("t".into());
    assert_eq!(command, SendCommand { target, events: Events::None, close: false, end: false, transient: false });
    assert!(!parse(b"{\"token\":\"t\",\"close\":false}").unwrap().close);
    assert!(parse(b"{\"close\":true,\"token\":\"t\"}").unwrap().close);
}

#[test]
fn only_data_is_required_of_an_event() {
    assert_eq!(event(r#"{"token":"t","event":{"data":""}}"#), Event::default());
    let full = event(r#"{"event":{"data":"d\n\u0000","id":"","name":""},"token":"t"}"#);
    assert_eq!(full, Event { name: Some("".into()), id: Some("".into()), retry: None, data: "d\n\0".into() });
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
        // The last one counts, but those before it must be valid JSON too.
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
        for value in ["0.5", "-1e3", "true", "[]", "{}"] {
            assert_eq!(event_error(&format!(r#"{{"data":"","{field}":{value}}}"#)), no_string, "{field} {value}");
        }
        for value in ["\\n", "a\\rb", "\\u000a", "\\u000D", "x\\u0000", "a\\r\\nb"] {
            assert_eq!(event_error(&format!(r#"{{"data":"","{field}":"{value}"}}"#)), line_break, "{field} {value}");
        }
        let fine = format!(r#"{{"token":"t","event":{{"data":"","{field}":" \u2028\u0085: é"}}}}"#);
        assert!(parse(fine.as_bytes()).is_ok());
    }
    for value in ["null", "0"] {
        assert_eq!(event_error(&format!(r#"{{"data":"","name":{value}}}"#)), SendError::Name, "{value}");
    }
    assert!(parse(br#"{"token":"t","event":{"data":"","name":"\t\u0001\u007f"}}"#).is_ok());
}

#[test]
fn an_id_has_no_control_character() {
    for value in ["\\t", "\\u0001", "a\\u001f", "\u{7f}"] {
        assert_eq!(event_error(&format!(r#"{{"data":"","id":"{value}"}}"#)), SendError::IdControl, "{value}");
    }
    assert_eq!(event_error(r#"{"data":"","id":"\t\n"}"#), SendError::IdLineBreak);
}

#[test]
fn an_id_may_be_an_integer_of_any_size_or_null() {
    for id in ["7", "-7", "0", "123456789012345678901234567890"] {
        let body = format!(r#"{{"token":"t","event":{{"data":"","id":{id}}}}}"#);
        assert_eq!(event(&body).id.as_deref(), Some(id));
    }
    let event = event(r#"{"token":"t","event":{"data":"","id":null,"retry":null}}"#);
    assert_eq!((event.id, event.retry), (None, None));
}

#[test]
fn a_byte_order_mark_is_skipped() {
    assert_eq!(parse("\u{feff}{\"token\":\"t\"}".as_bytes()).unwrap().target, Target::Token("t".into()));
    assert_eq!(error("\u{feff}\u{feff}{\"token\":\"t\"}"), SendError::InvalidJson);
}

#[test]
fn retry_must_be_an_integer_in_range() {
    for value in ["-1", "1.5", "2147483648", "1e999", "\"1\"", "true", "[1]", "{}"] {
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
fn of_several_errors_the_first_row_is_reported() {
    // Each step corrects the error just reported; all later errors are present from the start.
    let steps = [
        ("", "null", SendError::InvalidJson),
        ("{", "null", SendError::Token),
        ("{\"token\":\"t\",", "null", SendError::Event),
        ("{\"token\":\"t\",", r#"{"retry":-1,"id":0.5,"name":1}"#, SendError::Data),
        ("{\"token\":\"t\",", r#"{"retry":-1,"id":0.5,"name":1,"data":""}"#, SendError::Name),
        ("{\"token\":\"t\",", r#"{"retry":-1,"id":0.5,"name":"\n","data":""}"#, SendError::NameLineBreak),
        ("{\"token\":\"t\",", r#"{"retry":-1,"id":0.5,"name":"n","data":""}"#, SendError::Id),
        ("{\"token\":\"t\",", r#"{"retry":-1,"id":"\r","name":"n","data":""}"#, SendError::IdLineBreak),
        ("{\"token\":\"t\",", r#"{"retry":-1,"id":"\t","name":"n","data":""}"#, SendError::IdControl),
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
    assert_eq!((&command.target, command.close), (&Target::Token("t".into()), true));
    assert_eq!(event_of(command).name.as_deref(), Some("n"));
    assert_eq!(error(&format!(r#"{{"token":"t","event":{good},"event":null}}"#)), SendError::Event);
    assert_eq!(error(r#"{"token":"t","close":true,"close":null}"#), SendError::Close);
    // The later event replaces the earlier one completely, without merging.
    let merged = r#"{"token":"t","event":{"name":"n","id":"1","data":"a"},"event":{"data":"b"}}"#;
    assert_eq!(event(merged), Event { data: "b".into(), ..Event::default() });
    assert_eq!(event(r#"{"token":"t","event":{"data":1,"data":"b","name":"\n","name":"n"}}"#).data, "b");
}

#[test]
fn unknown_fields_are_ignored_whatever_they_hold() {
    let body = r#"{"v":1e99999,"":null,"w":["\ud800",{"token":1}],"token":"t","evens":1,"event":{"data":"d","x":-1e-999,"comment":[]}}"#;
    assert_eq!(event(body).data, "d");
}

#[test]
fn keys_are_compared_without_their_escapes() {
    let body = r#"{"to\u006ben":"t","\u0065vent":{"d\u0061ta":"d","\u006eame":"n"},"clos\u0065":true}"#;
    let command = parse(body.as_bytes()).unwrap();
    assert!(command.close);
    assert_eq!(event_of(command).name.as_deref(), Some("n"));
}

#[test]
fn invalid_utf8_and_lone_surrogates_become_replacement_characters() {
    let command =
        parse(b"{\"token\":\"t\xFF\",\"event\":{\"name\":\"\xC3\",\"id\":\"\\ud800\",\"data\":\"a\xE2\x82b\"}}");
    let command = command.unwrap();
    assert_eq!(command.target, Target::Token("t\u{fffd}".into()));
    let event = event_of(command);
    assert_eq!((event.name.as_deref(), event.id.as_deref()), (Some("\u{fffd}"), Some("\u{fffd}")));
    assert_eq!(event.data, "a\u{fffd}b");
    assert_eq!(parse(b"{\"token\":\"\\udc00\"}").unwrap().target, Target::Token("\u{fffd}".into()));
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
        (SendError::IdControl, "Invalid request: event.id must not contain control characters"),
        (SendError::Retry, "Invalid request: event.retry must be a non-negative integer"),
        (SendError::Close, "Invalid request: close must be a boolean"),
    ] {
        assert_eq!(error.message(), message);
    }
}

#[test]
fn usual_bodies_take_the_fast_path() {
    for body in [
        r#"{"token":"t"}"#,
        r#"{"token":"t","event":{"name":"n","data":"{\"a\":1}\n\u00e9\ud83d\ude00"}}"#,
        r#" { "close" : true, "event" : {"data":"","id":"","retry":2147483647}, "token" : "t" } "#,
        r#"{"token":"t","event":{"retry":0,"data":"a b"}}"#,
        r#"{"token":"t","event":{"data":"a","new":[1]}}"#,
        r#"{"token":"t","event":{"data":"a","new":1},"new":null}"#,
    ] {
        assert_eq!(is_fast(body), !body.contains('['), "{body}");
    }
}

#[test]
fn the_rules_hold_on_the_fast_path() {
    for (body, error) in [
        (r#"{"event":{"data":"d"}}"#, SendError::Token),
        (r#"{"token":null}"#, SendError::Token),
        (r#"{"token":"t","event":{"data":null}}"#, SendError::Data),
        (r#"{"token":"t","event":{"data":"d","name":1}}"#, SendError::Name),
        (r#"{"token":"t","event":{"data":"d","name":"a\nb"}}"#, SendError::NameLineBreak),
        (r#"{"token":"t","event":{"data":"d","id":true}}"#, SendError::Id),
        (r#"{"token":"t","event":{"data":"d","retry":2147483648}}"#, SendError::Retry),
        (r#"{"token":"t","close":"true"}"#, SendError::Close),
    ] {
        assert!(is_fast(body), "{body}");
        assert_eq!(parse(body.as_bytes()), Err(error), "{body}");
    }
}

#[test]
fn the_fast_path_agrees_with_the_full_parser_or_declines() {
    let values = [
        "null",
        "true",
        "0",
        "7",
        "-0",
        "-1",
        "3.0",
        "3e3",
        "2147483648",
        "4294967296",
        "1e999",
        "01",
        "\"\"",
        "\"a\"",
        "\"\\n\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\ud83d\\ude00\"",
        "\"\n\"",
        "\"\\q\"",
        "\"a",
        "[]",
        "{}",
        "[\"a\"]",
        "{\"data\":\"d\"}",
        "",
    ];
    let keys =
        ["token", "event", "close", "data", "name", "id", "retry", "to\\u006ben", "d\\u0061ta", "x", "\\ud800", "x\n"];
    for key in keys {
        for value in values {
            let field = format!("\"{key}\":{value}");
            for body in [
                format!("{{{field}}}"),
                format!("{{\"token\":\"t\",{field}}}"),
                format!("{{{field},\"token\":\"t\",\"event\":{{\"data\":\"d\"}},\"close\":false}}"),
                format!("{{\"token\":\"t\",\"event\":{{\"data\":\"d\",{field}}}}}"),
                format!(
                    "{{\"token\":\"t\",\"event\":{{{field},\"data\":\"d\",\"name\":\"n\",\"id\":\"1\",\"retry\":9}}}}"
                ),
                format!("{{\"token\":\"t\",{field}}} x"),
            ] {
                is_fast(&body);
            }
        }
    }
}

/// Of every length, so that escapes, some of them invalid, occur at every position in a word.
#[test]
fn both_readers_agree_on_data_of_any_length() {
    let good = ["a", "\\\"", "\\\\", "\\/", "\\n", "\\u00e9", "\\ud83d\\ude00", "\u{20ac}", "        "];
    let bad = ["\\x", "\\u12g4", "\\u\u{e9}12", "\n", "\0", "\"", "\\"];
    let mut state = 1_u32;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % below
    };
    for length in 0..300 {
        let mut letters: Vec<&str> = (0..length).map(|_| good[random(good.len())]).collect();
        let body = |letters: &[&str]| format!("{{\"event\":{{\"data\":\"{}\"}},\n\"token\":\"t\"}}", letters.concat());
        let well = body(&letters);
        assert!(is_fast(&well) && parse_in_full(&well).is_ok(), "{well}");
        letters.insert(random(length + 1), bad[random(bad.len())]);
        is_fast(&body(&letters));
    }
}

#[test]
fn a_bad_escape_is_found_wherever_in_a_word_it_stands() {
    for gap in 0..20 {
        let run = "x".repeat(gap);
        for (escape, is_good) in [("\\n", true), ("\\u00e9", true), ("\\x", false), ("\\u12g4", false), ("\\u1", false)]
        {
            let body = format!("{{\"token\":\"t\",\"event\":{{\"data\":\"\\n{run}{escape}\"}}}}");
            assert_eq!(is_fast(&body), is_good, "{body}");
        }
    }
}

/// Bodies with bytes replaced, removed, repeated and spliced at random, the same ones in every run.
#[test]
fn both_readers_agree_on_mutilated_bodies() {
    let fulls = [
        r#"{"token":"t","event":{"name":"name of it","id":"7","retry":3000,"data":"a\n\"b\ud83d\ude00"},"close":true}"#,
        r#"{"token":"t\u0041","event":{"name":"n","id":"\ud83d\ude00","retry":3000,"data":"a\n\"b"},"close":true,"x":[{},1.5e3]}"#,
    ];
    let letters = b"{}[]\",:\\u09deE+-. \n\0ntf";
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let (mut fast, mut valid) = (0, 0);
    for _ in 0..30_000 {
        let mut body = fulls[random(2)].as_bytes().to_vec();
        for _ in 0..=random(2) {
            let at = random(body.len());
            match random(4) {
                0 => body[at] = letters[random(letters.len())],
                1 => drop(body.remove(at)),
                2 => body.insert(at, letters[random(letters.len())]),
                _ => {
                    let piece = body[at..(at + random(40)).min(body.len())].to_vec();
                    let to = random(body.len());
                    body.splice(to..to, piece);
                }
            }
        }
        let body = String::from_utf8(body).unwrap();
        let is_object = serde_json::from_str::<IgnoredAny>(&body).is_ok() && body.trim_ascii().starts_with('{');
        assert_eq!(parse_in_full(&body) != Err(SendError::InvalidJson), is_object, "{body}");
        valid += u32::from(is_object);
        fast += u32::from(is_fast(&body));
    }
    assert!(fast > 1000 && valid > fast, "{fast} took the fast path, {valid} were valid");
}
