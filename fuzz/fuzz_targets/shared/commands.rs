//! A second reader of sends, written from the tables in docs/protocol.md, sections 4 and 11.

use crate::json::{Fields, is_line};
use serde_json::Value;
use ssegateway::send::{Events, GroupIds, SendCommand, SendError, Target, is_group_name};
use ssegateway::sse::Event;

/// The rows of the table, in their order. `default`: the target if none is named.
pub fn read(
    fields: &Fields,
    ids: GroupIds,
    default: Option<Target<'static>>,
) -> Result<SendCommand<'static>, SendError> {
    let is_absent = ["token", "group", "groups"].iter().all(|name| fields.get(name).is_none());
    let target = match default.filter(|_| is_absent) {
        Some(default) => default,
        None => read_target(fields)?,
    };
    let is_token = matches!(target, Target::Token(_));
    let events = match (fields.get("event"), fields.get("events")) {
        (None, None) => Events::None,
        (Some(_), None) => Events::One(read_event(&fields.object("event").ok_or(SendError::Event)?)?),
        (None, Some(_)) => Events::Many(read_events(fields)?),
        (Some(_), Some(_)) => return Err(SendError::EventAndEvents),
    };
    let may_have_id = is_token || ids == GroupIds::Backend;
    if let Some(at) = events.as_slice().iter().position(|event| event.id.is_some() && !may_have_id) {
        return Err(match events {
            Events::Many(_) => SendError::Listed(at as u16, &SendError::GroupEventId),
            Events::None | Events::One(_) => SendError::GroupEventId,
        });
    }
    let close = read_switch(fields, "close", SendError::Close)?;
    let transient = read_switch(fields, "transient", SendError::Transient)?;
    if transient && is_token {
        return Err(SendError::TransientToken);
    }
    let end = read_switch(fields, "end", SendError::End)?;
    if end && !matches!(target, Target::Group(_)) {
        return Err(SendError::EndTarget);
    }
    Ok(SendCommand { target, events, close, end, transient })
}

fn read_target(fields: &Fields) -> Result<Target<'static>, SendError> {
    let name = |value: &Value| value.as_str().filter(|name| is_group_name(name)).map(|name| name.to_owned().into());
    match (fields.get("token"), fields.get("group"), fields.get("groups")) {
        (token, None, None) => match token.and_then(Value::as_str) {
            None | Some("") => Err(SendError::Token),
            Some(token) => Ok(Target::Token(token.to_owned().into())),
        },
        (None, Some(group), None) => name(group).map(Target::Group).ok_or(SendError::Group),
        (None, None, Some(groups)) => {
            let names = groups.as_array().filter(|names| (1..=64).contains(&names.len()));
            let names = names.and_then(|names| names.iter().map(name).collect::<Option<Vec<_>>>());
            names.map(Target::Groups).ok_or(SendError::Groups)
        }
        _ => Err(SendError::Targets),
    }
}

fn read_switch(fields: &Fields, name: &str, error: SendError) -> Result<bool, SendError> {
    match fields.get(name) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(error),
    }
}

/// A rule for events, as errors refer to it.
pub fn lasting(rule: SendError) -> &'static SendError {
    rule.of_event().expect("only rules for events")
}

fn read_events(fields: &Fields) -> Result<Vec<Event<'static>>, SendError> {
    let events = fields.array("events").filter(|events| (1..=1000).contains(&events.len()));
    let read = |(at, event): (usize, Option<Fields>)| {
        let rule = event.ok_or(SendError::Event).and_then(|event| read_event(&event));
        rule.map_err(|rule| SendError::Listed(at as u16, lasting(rule)))
    };
    events.ok_or(SendError::Events)?.into_iter().enumerate().map(read).collect()
}

pub fn read_event(event: &Fields) -> Result<Event<'static>, SendError> {
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
