//! Bodies of 2xx answers, compared with a second parser written from docs/protocol.md, section 3, point 5.
#![no_main]

#[path = "shared/json.rs"]
mod json;

use json::{Body, Fields, is_line};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use ssegateway::callback::read_answer;
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
            let (event, close, flaws) = read(&fields);
            assert_eq!((&answer.event, answer.close), (&event, close));
            assert_eq!(answer.ignored.len(), flaws, "{:?}", answer.ignored);
        }
        Body::Refused => {
            assert_eq!((&answer.event, answer.close), (&None, false));
            let blank = text.strip_prefix('\u{feff}').unwrap_or(text).bytes().all(|byte| byte.is_ascii_whitespace());
            assert_eq!(answer.ignored.is_empty(), blank, "{:?}", answer.ignored);
        }
        Body::Beyond => {}
    }
});

/// Event and close, and the number of errors.
fn read(fields: &Fields) -> (Option<Event<'static>>, bool, usize) {
    let mut flaws = 0;
    let close = match fields.get("close") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(close)) => *close,
        Some(_) => {
            flaws += 1;
            false
        }
    };
    let event = match fields.get("event") {
        None | Some(Value::Null) => None,
        Some(Value::Object(_)) => fields.object("event").and_then(|event| read_event(&event, &mut flaws)),
        Some(_) => {
            flaws += 1;
            None
        }
    };
    flaws += group_flaws(fields.get("groups"));
    flaws += usize::from(!matches!(fields.get("since"), None | Some(Value::Null | Value::String(_))));
    flaws += usize::from(!matches!(fields.get("attach"), None | Some(Value::Null | Value::Bool(_))));
    (event, close, flaws)
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
