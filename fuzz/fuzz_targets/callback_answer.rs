//! Bodies of 2xx answers, compared with a second parser written from docs/protocol.md, section 3, point 5.
#![no_main]

#[path = "shared/json.rs"]
mod json;

use json::{Body, Fields, is_line};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use ssegateway::callback::{Answer, read_answer};
use ssegateway::send::is_group_name;
use ssegateway::sse::Event;
use std::collections::BTreeSet;

fuzz_target!(|input: &[u8]| {
    let mut lossy = String::new();
    let answer = read_answer(input, &mut lossy);
    for event in &answer.events {
        assert!([&event.name, &event.id].into_iter().flatten().all(|line| is_line(line)));
        assert!(event.retry.is_none_or(|retry| retry <= 2_147_483_647));
    }
    let Ok(text) = std::str::from_utf8(input) else {
        let text = String::from_utf8_lossy(input);
        assert_eq!(answer, read_answer(text.as_bytes(), &mut String::new()), "bytes that are not UTF-8 are U+FFFD");
        return;
    };
    match json::read(text) {
        Body::Object(fields) => {
            let (events, close, flaws) = read(&fields);
            assert_eq!((&answer.events, answer.close), (&events, close));
            let is = |name, number| fields.integer(name) == Some(Ok(number));
            assert_eq!(answer.no_content, is("status", 204));
            assert!(answer.expires_in.is_none_or(|seconds| seconds > 0 && is("expires_in", seconds)));
            check_headers(&answer, fields.get("headers"));
            assert_eq!(answer.ignored.len(), flaws, "{:?}", answer.ignored);
        }
        Body::Refused => {
            assert_eq!((answer.events.len(), answer.close), (0, false));
            let blank = text.strip_prefix('\u{feff}').unwrap_or(text).bytes().all(|byte| byte.is_ascii_whitespace());
            assert_eq!(answer.ignored.is_empty(), blank, "{:?}", answer.ignored);
        }
        Body::Beyond => {}
    }
});

/// What is written is what the backend gave, can stand in a head, and is bounded.
fn check_headers(answer: &Answer<'_>, headers: Option<&Value>) {
    let bytes: usize = answer.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    assert!(answer.headers.iter().count() <= 64 && bytes <= 8 * 1024);
    for (name, value) in answer.headers.iter() {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'));
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        let given = headers.and_then(|headers| headers.get(name)).expect("a field of the answer");
        let is_it = |given: &Value| given.as_str().is_some_and(|given| given.as_bytes() == value);
        assert!(is_it(given) || given.as_array().is_some_and(|values| values.iter().any(is_it)));
    }
}

/// Events and close, and the number of errors.
fn read(fields: &Fields) -> (Vec<Event<'static>>, bool, usize) {
    let mut flaws = 0;
    let close = match fields.get("close") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(close)) => *close,
        Some(_) => {
            flaws += 1;
            false
        }
    };
    let mut events = Vec::new();
    match fields.get("event") {
        None | Some(Value::Null) if fields.is_absent("events") => {}
        None | Some(Value::Null) => match fields.array("events").filter(|events| (1..=1000).contains(&events.len())) {
            Some(listed) => {
                for event in listed {
                    match event {
                        Some(event) => events.extend(read_event(&event, &mut flaws)),
                        None => flaws += 1,
                    }
                }
            }
            None => flaws += 1,
        },
        Some(Value::Object(_)) => {
            events.extend(fields.object("event").and_then(|event| read_event(&event, &mut flaws)));
        }
        Some(_) => flaws += 1,
    }
    flaws += usize::from(!matches!(fields.get("headers"), None | Some(Value::Null | Value::Object(_))));
    flaws += usize::from(!fields.is_absent("status") && fields.integer("status") != Some(Ok(204)));
    flaws += usize::from(!fields.is_absent("expires_in") && !matches!(fields.integer("expires_in"), Some(Ok(1..))));
    flaws += group_flaws(fields.get("groups"));
    flaws += usize::from(!matches!(fields.get("since"), None | Some(Value::Null | Value::String(_))));
    flaws += usize::from(!matches!(fields.get("attach"), None | Some(Value::Null | Value::Bool(_))));
    (events, close, flaws)
}

/// Bad names count once, and so does what is too many, where the reading ends.
fn group_flaws(groups: Option<&Value>) -> usize {
    let names = match groups {
        None | Some(Value::Null) => return 0,
        Some(Value::Array(names)) => names,
        Some(_) => return 1,
    };
    let (mut known, mut flaws) = (BTreeSet::new(), 0);
    for name in names {
        match name.as_str().filter(|name| is_group_name(name)) {
            Some(name) if known.contains(name) => {}
            Some(_) if known.len() == 64 => return flaws + 1,
            Some(name) => drop(known.insert(name)),
            None => flaws = 1,
        }
    }
    flaws
}

fn read_event(event: &Fields, flaws: &mut usize) -> Option<Event<'static>> {
    let Some(Value::String(data)) = event.get("data") else {
        *flaws += 1;
        return None;
    };
    let mut line = |field| match event.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            *flaws += 1;
            None
        }
    };
    let name = line("name");
    let id = event.digits("id").map(str::to_owned).or_else(|| line("id"));
    let retry = match (event.get("retry"), event.integer("retry")) {
        (None | Some(Value::Null), _) | (_, None) => None,
        (Some(_), Some(Ok(retry))) => Some(retry),
        (Some(_), Some(Err(()))) => {
            *flaws += 1;
            None
        }
    };
    // A line break in either would inject fields: the whole event is dropped.
    if [&name, &id].into_iter().flatten().any(|line| !is_line(line)) {
        *flaws += 1;
        return None;
    }
    let is_control = |id: &String| id.contains(|c: char| c.is_ascii_control());
    *flaws += usize::from(id.as_ref().is_some_and(is_control));
    let id = id.filter(|id| !is_control(id));
    Some(Event { name: name.map(Into::into), id: id.map(Into::into), retry, data: data.clone().into() })
}
