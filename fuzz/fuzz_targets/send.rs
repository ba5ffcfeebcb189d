//! Bodies of `POST /internal/send`, compared with a second parser written from the table in docs/protocol.md, section
//! 4.
#![no_main]

#[path = "shared/json.rs"]
mod json;

use json::{Body, Fields, is_line};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use ssegateway::send::{Scratch, SendCommand, SendError, parse};
use ssegateway::sse::Event;

fuzz_target!(|input: &[u8]| {
    let mut scratch = Scratch::default();
    let command = parse(input, &mut scratch);
    if let Ok(command) = &command {
        assert!(!command.token.is_empty());
        if let Some(event) = &command.event {
            assert!([&event.name, &event.id].into_iter().flatten().all(|line| is_line(line)));
            assert!(event.retry.is_none_or(|retry| retry <= 2_147_483_647));
        }
    }
    let Ok(text) = std::str::from_utf8(input) else {
        let text = String::from_utf8_lossy(input);
        assert_eq!(command, parse(text.as_bytes(), &mut Scratch::default()), "bytes that are not UTF-8 are U+FFFD");
        return;
    };
    match json::read(text) {
        Body::Object(fields) => assert_eq!(command, read(&fields)),
        Body::Refused => assert_eq!(command, Err(SendError::InvalidJson)),
        Body::Beyond => assert_ne!(command, Err(SendError::InvalidJson)),
    }
});

/// The rows of the table, in their order.
fn read(fields: &Fields) -> Result<SendCommand<'static>, SendError> {
    let token = fields.get("token").and_then(Value::as_str).unwrap_or_default().to_owned();
    if token.is_empty() {
        return Err(SendError::Token);
    }
    let event = match fields.get("event") {
        None => None,
        Some(_) => Some(read_event(&fields.object("event").ok_or(SendError::Event)?)?),
    };
    let close = match fields.get("close") {
        None => false,
        Some(Value::Bool(close)) => *close,
        Some(_) => return Err(SendError::Close),
    };
    Ok(SendCommand { token: token.into(), event, close })
}

fn read_event(event: &Fields) -> Result<Event<'static>, SendError> {
    let Some(Value::String(data)) = event.get("data") else { return Err(SendError::Data) };
    let line = |field, no_string, line_break| match event.get(field) {
        None => Ok(None),
        Some(Value::String(text)) if is_line(text) => Ok(Some(text.clone().into())),
        Some(Value::String(_)) => Err(line_break),
        Some(_) => Err(no_string),
    };
    let name = line("name", SendError::Name, SendError::NameLineBreak)?;
    let id = match event.digits("id") {
        Some(digits) => Some(digits.to_owned().into()),
        None if event.is_absent("id") => None,
        None => line("id", SendError::Id, SendError::IdLineBreak)?,
    };
    if id.as_deref().is_some_and(|id: &str| id.contains(|c: char| c.is_ascii_control())) {
        return Err(SendError::IdControl);
    }
    let retry = match event.is_absent("retry") {
        true => None,
        false => event.integer("retry").transpose().map_err(|()| SendError::Retry)?,
    };
    Ok(Event { name, id, retry, data: data.clone().into() })
}
