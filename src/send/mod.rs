//! The JSON of `POST /internal/send`: bytes to a [`SendCommand`], or to the row of the contract that they violate.
//! Events in answers to callbacks are read here too.
//!
//! A send is parsed for every event the gateway carries, so the body is read in place, in one pass for a usual one
//! (`json::Scanner`). Anything else is parsed in full by serde_json. Both only find the values; validation and errors
//! are shared.

mod errors;
mod lines;
mod membership;
#[cfg(test)]
mod tests;

pub use errors::SendError;
pub use lines::{Command, Lines, parse_line};
pub use membership::{MembershipChange, MembershipError, parse_membership};

use crate::json::{self, Fields, Scanner, Value};
use crate::sse::Event;
use std::borrow::Cow;

/// A backend's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendCommand<'a> {
    /// Whom it is for.
    pub target: Target<'a>,
    /// To be delivered; none: a probe, or a bare close or end.
    pub events: Events<'a>,
    /// Whether the streams end after the events.
    pub close: bool,
    /// Whether the group ends behind the events.
    pub end: bool,
    /// Whether the events are not kept for replay.
    pub transient: bool,
}

/// Whom a send is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// One stream. Not empty; otherwise as given (it may name no stream at all).
    Token(Cow<'a, str>),
    /// The streams in a group.
    Group(Cow<'a, str>),
    /// The streams in any of these groups: 1 to 64.
    Groups(Vec<Cow<'a, str>>),
}

impl Target<'_> {
    /// The same, borrowed.
    pub fn borrowed(&self) -> Target<'_> {
        match self {
            Self::Token(token) => Target::Token(Cow::Borrowed(token)),
            Self::Group(name) => Target::Group(Cow::Borrowed(name)),
            Self::Groups(names) => Target::Groups(names.iter().map(|name| Cow::Borrowed(&**name)).collect()),
        }
    }
}

/// The events of a send, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Events<'a> {
    /// There is none.
    None,
    /// `event`.
    One(Event<'a>),
    /// `events`: 1 to 1000.
    Many(Vec<Event<'a>>),
}

impl SendCommand<'_> {
    /// The JSON of a command to a token, for another reader.
    pub fn to_json(&self) -> Vec<u8> {
        let Target::Token(token) = &self.target else { return Vec::new() };
        let event = |event: &Event<'_>| {
            let mut json = serde_json::json!({ "data": event.data });
            let fields = [("name", event.name.as_deref().map(Into::into)), ("id", event.id.as_deref().map(Into::into))];
            for (name, value) in fields.into_iter().chain([("retry", event.retry.map(serde_json::Value::from))]) {
                if let Some(value) = value {
                    json[name] = value;
                }
            }
            json
        };
        let mut json = serde_json::json!({ "token": token, "close": self.close });
        match self.events.as_slice() {
            [] => {}
            events => json["events"] = events.iter().map(event).collect(),
        }
        json.to_string().into_bytes()
    }
}

impl<'a> Events<'a> {
    /// All of them.
    pub fn as_slice(&self) -> &[Event<'a>] {
        match self {
            Self::None => &[],
            Self::One(event) => std::slice::from_ref(event),
            Self::Many(events) => events,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// None may have an id.
    fn check_ids(&self) -> Result<(), SendError> {
        let Some(index) = self.as_slice().iter().position(|event| event.id.is_some()) else { return Ok(()) };
        Err(match self {
            Self::Many(_) => SendError::GroupEventId.in_list(index),
            Self::None | Self::One(_) => SendError::GroupEventId,
        })
    }
}

/// Who gives the events of groups their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupIds {
    /// The gateway: they are cursors, and events may not bring their own.
    Gateway,
    /// The backend, if anybody.
    Backend,
}

/// Most names in `groups`.
pub const GROUPS_MAX: usize = 64;

/// Most elements of `events`.
pub const EVENTS_MAX: usize = 1000;

/// The longest name of a group, in bytes of UTF-8.
pub const GROUP_NAME_BYTES_MAX: usize = 128;

/// Whether a group may have that name.
pub fn is_group_name(name: &str) -> bool {
    (1..=GROUP_NAME_BYTES_MAX).contains(&name.len()) && !name.bytes().any(|byte| byte.is_ascii_control())
}

/// Buffers for strings that cannot be borrowed from the body. Reused between sends, it saves allocations.
#[derive(Debug, Default)]
pub struct Scratch {
    lossy: String,
    unescaped: String,
}

/// Scratch memory that is kept: enough for a usual event, and small enough to keep permanently.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

/// Parses the body of a send. If several rules are broken, reports the first in the order of [`SendError`].
pub fn parse<'a>(body: &'a [u8], scratch: &'a mut Scratch, ids: GroupIds) -> Result<SendCommand<'a>, SendError> {
    let mut values = SendValues::default();
    read_values(body, scratch, &mut values)?;
    values.read(ids)
}

/// Reads the body of a send, or a line with one.
fn read_values<'a>(body: &'a [u8], scratch: &'a mut Scratch, values: &mut SendValues<'a>) -> Result<(), SendError> {
    if scratch.lossy.capacity().max(scratch.unescaped.capacity()) > SCRATCH_BYTES_MAX {
        *scratch = Scratch::default();
    }
    let text = json::text(body, &mut scratch.lossy);
    if scan(text, &mut scratch.unescaped, values).is_none() {
        *values = find(text).ok_or(SendError::InvalidJson)?;
    }
    Ok(())
}

/// The values of a send, before validation. Large, so they are filled in where they are.
#[derive(Default)]
struct SendValues<'a> {
    token: Option<Value<'a>>,
    /// `Some(None)`: present, but not an object.
    event: Option<Option<EventValues<'a>>>,
    close: Option<Value<'a>>,
    /// Whether there are any of `rare`.
    is_rare: bool,
    rare: RareValues<'a>,
}

/// Those that a send to one stream seldom has.
#[derive(Clone, Copy, Default)]
struct RareValues<'a> {
    group: Option<Value<'a>>,
    groups: Option<Value<'a>>,
    events: Option<Value<'a>>,
    end: Option<Value<'a>>,
    transient: Option<Value<'a>>,
    will: Option<Value<'a>>,
}

/// The fast path: finds the values of a usual send.
fn scan<'a>(text: &'a str, scratch: &'a mut String, values: &mut SendValues<'a>) -> Option<()> {
    let mut scanner = Scanner::new(text, scratch);
    scanner.object(|scanner, key| {
        let value = match key {
            "event" => {
                values.event = Some(Some(scanner.fields(&EVENT_FIELDS)?));
                return Some(());
            }
            "token" => &mut values.token,
            "close" => &mut values.close,
            "group" => &mut values.rare.group,
            "end" => &mut values.rare.end,
            "transient" => &mut values.rare.transient,
            // Lists are for the full parser, and what comes once a request.
            "groups" | "events" | "will" => return None,
            _ => return scanner.value().map(drop),
        };
        values.is_rare |= matches!(key, "group" | "end" | "transient");
        *value = Some(scanner.value()?);
        Some(())
    })?;
    scanner.is_at_end().then_some(())
}

/// The fields of a send, and of a line.
const SEND_FIELDS: [&str; 9] = ["token", "event", "close", "group", "groups", "events", "end", "transient", "will"];

/// Reads a usual send all of whose fields mean something.
fn scan_fields(text: &str, scratch: &mut String) -> Option<()> {
    Scanner::new(text, scratch).object(|scanner, key| match key {
        "event" => scanner.object(|scanner, key| {
            let is_known = EVENT_FIELDS.contains(&key);
            scanner.value().filter(|_| is_known).map(drop)
        }),
        _ => scanner.value().filter(|_| SEND_FIELDS.contains(&key)).map(drop),
    })
}

/// The first field of a send, or of its event, that means nothing: `event.type`. For hints, since such fields are ignored.
pub fn unknown_field(body: &[u8], scratch: &mut String) -> Option<String> {
    // A usual send does not allocate.
    if std::str::from_utf8(body).is_ok_and(|text| scan_fields(text, scratch).is_some()) {
        return None;
    }
    let mut lossy = String::new();
    let entries = Value::object(json::text(body, &mut lossy)).as_entries()?;
    let unknown = |(name, _): &&(Cow<'_, str>, Value<'_>)| !SEND_FIELDS.contains(&&**name);
    if let Some((name, _)) = entries.iter().find(unknown) {
        return Some(name.to_string());
    }
    let (_, event) = entries.iter().find(|(name, _)| name == "event")?;
    let (name, _) = event.as_entries()?.into_iter().find(|(name, _)| !EVENT_FIELDS.contains(&&**name))?;
    Some(format!("event.{name}"))
}

/// The full parser: finds the values of any JSON object.
fn find(text: &str) -> Option<SendValues<'_>> {
    let names = SEND_FIELDS;
    let [token, event, close, group, groups, events, end, transient, will] = json::object(text, &names)?;
    let is_rare = [&group, &groups, &events, &end, &transient, &will].into_iter().any(Option::is_some);
    let rare = RareValues { group, groups, events, end, transient, will };
    Some(SendValues { token, event: event.map(|event| event.as_object(&EVENT_FIELDS)), close, is_rare, rare })
}

impl<'a> SendValues<'a> {
    fn read(&self, ids: GroupIds) -> Result<SendCommand<'a>, SendError> {
        // Most sends: to one stream, and nothing else.
        if !self.is_rare {
            let token = self.token.and_then(Value::as_string).filter(|token| !token.is_empty());
            let target = Target::Token(token.ok_or(SendError::Token)?);
            let events = match self.event {
                None => Events::None,
                Some(event) => Events::One(read_event(event, Err)?),
            };
            let close = read_switch(self.close, SendError::Close)?;
            return Ok(SendCommand { target, events, close, end: false, transient: false });
        }
        let RareValues { group, groups, events, end, transient, will: _ } = self.rare;
        let target = match (self.token, group, groups) {
            (token, None, None) => {
                let token = token.and_then(Value::as_string).filter(|token| !token.is_empty());
                Target::Token(token.ok_or(SendError::Token)?)
            }
            (None, Some(group), None) => Target::Group(read_group_name(group).ok_or(SendError::Group)?),
            (None, None, Some(groups)) => Target::Groups(read_group_names(groups).ok_or(SendError::Groups)?),
            (Some(_), _, _) | (None, Some(_), Some(_)) => return Err(SendError::Targets),
        };
        let events = match (self.event, events) {
            (None, None) => Events::None,
            (Some(event), None) => Events::One(read_event(event, Err)?),
            (None, Some(events)) => Events::Many(read_events(events)?),
            (Some(_), Some(_)) => return Err(SendError::EventAndEvents),
        };
        let is_token = matches!(target, Target::Token(_));
        if !is_token && ids == GroupIds::Gateway {
            events.check_ids()?;
        }
        let close = read_switch(self.close, SendError::Close)?;
        let transient = read_switch(transient, SendError::Transient)?;
        if transient && is_token {
            return Err(SendError::TransientToken);
        }
        let end = read_switch(end, SendError::End)?;
        if end && !matches!(target, Target::Group(_)) {
            return Err(SendError::EndTarget);
        }
        Ok(SendCommand { target, events, close, end, transient })
    }
}

fn read_switch(value: Option<Value<'_>>, error: SendError) -> Result<bool, SendError> {
    value.map_or(Some(false), Value::as_bool).ok_or(error)
}

/// The name of a group; `None` for anything else.
pub(crate) fn read_group_name(value: Value<'_>) -> Option<Cow<'_, str>> {
    value.as_string().filter(|name| is_group_name(name))
}

fn read_group_names(value: Value<'_>) -> Option<Vec<Cow<'_, str>>> {
    let names = value.as_array(GROUPS_MAX)?;
    if names.is_empty() { None } else { names.into_iter().map(read_group_name).collect() }
}

fn read_events<'a>(value: Value<'a>) -> Result<Vec<Event<'a>>, SendError> {
    let events = value.as_array(EVENTS_MAX).filter(|events| !events.is_empty()).ok_or(SendError::Events)?;
    let events = events.into_iter().enumerate();
    let read = |(index, event): (usize, Value<'a>)| {
        read_event(event.as_object(&EVENT_FIELDS), Err).map_err(|error| error.in_list(index))
    };
    events.map(read).collect()
}

pub(crate) const EVENT_FIELDS: [&str; 4] = ["data", "name", "id", "retry"];

/// The values of [`EVENT_FIELDS`].
pub(crate) type EventValues<'a> = Fields<'a, { EVENT_FIELDS.len() }>;

/// Reads an event; `None` instead of its values: it is not an object. `judge` is called with each rule that an optional
/// field breaks: an error refuses the event, otherwise the field is dropped.
#[inline(always)]
pub(crate) fn read_event<'a>(
    values: Option<EventValues<'a>>,
    mut judge: impl FnMut(SendError) -> Result<(), SendError>,
) -> Result<Event<'a>, SendError> {
    let [data, name, id, retry] = values.ok_or(SendError::Event)?;
    let data = data.and_then(Value::as_string).ok_or(SendError::Data)?;
    let name = read_field(name, Value::as_string, SendError::Name, &mut judge)?;
    let name = read_line(name, is_line_break, SendError::NameLineBreak, &mut judge)?;
    let id = read_field(present(id), as_id, SendError::Id, &mut judge)?;
    let id = read_line(id, is_line_break, SendError::IdLineBreak, &mut judge)?;
    let id = read_line(id, |byte| byte.is_ascii_control(), SendError::IdControl, &mut judge)?;
    let retry = read_field(present(retry), Value::as_u31, SendError::Retry, &mut judge)?;
    Ok(Event { name, id, retry, data })
}

/// `null` means that a field is absent, since many backends serialize optional fields that way.
pub(crate) fn present(value: Option<Value<'_>>) -> Option<Value<'_>> {
    value.filter(|value| !value.is_null())
}

/// An id: a string, or an integer such as a database key.
fn as_id(value: Value<'_>) -> Option<Cow<'_, str>> {
    value.as_string().or_else(|| value.as_digits().map(Cow::Borrowed))
}

#[inline(always)]
fn read_field<'a, T>(
    value: Option<Value<'a>>,
    read: impl Fn(Value<'a>) -> Option<T>,
    error: SendError,
    judge: &mut impl FnMut(SendError) -> Result<(), SendError>,
) -> Result<Option<T>, SendError> {
    let Some(value) = value else { return Ok(None) };
    let field = read(value);
    if field.is_none() {
        judge(error)?;
    }
    Ok(field)
}

/// NUL counts as a line break: browsers ignore an id that contains one.
fn is_line_break(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0)
}

/// A string without bytes that are `bad`; in a frame it must be one line.
#[inline(always)]
fn read_line<'a>(
    line: Option<Cow<'a, str>>,
    is_bad: impl Fn(u8) -> bool,
    error: SendError,
    judge: &mut impl FnMut(SendError) -> Result<(), SendError>,
) -> Result<Option<Cow<'a, str>>, SendError> {
    let Some(line) = line else { return Ok(None) };
    if line.bytes().any(is_bad) {
        judge(error)?;
        return Ok(None);
    }
    Ok(Some(line))
}
