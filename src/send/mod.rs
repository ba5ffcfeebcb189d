//! The JSON of `POST /internal/send`: bytes to a [`SendCommand`], or to the row of the contract that they violate.
//! Events in answers to callbacks are read here too.
//!
//! A send is parsed for every event the gateway carries, so the body is read in place, in one pass for a usual one
//! (`json::Scanner`). Anything else is parsed in full by serde_json. Both only find the values; validation and errors
//! are shared.

#[cfg(test)]
mod tests;

use crate::json::{self, Fields, Scanner, Value};
use crate::sse::Event;
use std::borrow::Cow;

/// A backend's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendCommand<'a> {
    /// Not empty; otherwise as given (it may be unknown).
    pub token: Cow<'a, str>,
    /// To be delivered; `None`: a probe, or just a close.
    pub event: Option<Event<'a>>,
    /// Whether the stream ends after the event.
    pub close: bool,
}

/// One variant per row of the contract (docs/protocol.md, section 4), in the order they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The body is not a JSON object.
    InvalidJson,
    /// No token, or not a string of at least one byte.
    Token,
    /// `event` is not an object.
    Event,
    /// `event.data` is missing or not a string.
    Data,
    /// `event.name` is not a string.
    Name,
    /// `event.name` has a line break.
    NameLineBreak,
    /// `event.id` is neither a string nor an integer.
    Id,
    /// `event.id` has a line break or a NUL.
    IdLineBreak,
    /// `event.id` has another control character.
    IdControl,
    /// `event.retry` is not a whole number of milliseconds.
    Retry,
    /// `close` is not a boolean.
    Close,
}

impl SendError {
    /// The text of the `error` field in the 400 answer.
    pub fn message(self) -> &'static str {
        match self {
            Self::InvalidJson => "Invalid JSON",
            Self::Token => "Invalid request: token is required and must be a string",
            Self::Event => "Invalid request: event must be an object",
            Self::Data => "Invalid request: event.data is required and must be a string",
            Self::Name => "Invalid request: event.name must be a string",
            Self::NameLineBreak => "Invalid request: event.name must not contain line breaks",
            Self::Id => "Invalid request: event.id must be a string",
            Self::IdLineBreak => "Invalid request: event.id must not contain line breaks",
            Self::IdControl => "Invalid request: event.id must not contain control characters",
            Self::Retry => "Invalid request: event.retry must be a non-negative integer",
            Self::Close => "Invalid request: close must be a boolean",
        }
    }

    /// Whether the value would inject lines into a frame.
    pub(crate) fn is_line_break(self) -> bool {
        matches!(self, Self::NameLineBreak | Self::IdLineBreak)
    }

    /// The broken rule, for the log.
    pub fn rule(self) -> &'static str {
        self.message().trim_start_matches("Invalid request: ")
    }
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
pub fn parse<'a>(body: &'a [u8], scratch: &'a mut Scratch) -> Result<SendCommand<'a>, SendError> {
    if scratch.lossy.capacity().max(scratch.unescaped.capacity()) > SCRATCH_BYTES_MAX {
        *scratch = Scratch::default();
    }
    let text = json::text(body, &mut scratch.lossy);
    scan(text, &mut scratch.unescaped).or_else(|| find(text)).ok_or(SendError::InvalidJson)?.read()
}

/// The values of a send, before validation.
#[derive(Default)]
struct SendValues<'a> {
    token: Option<Value<'a>>,
    /// `Some(None)`: present, but not an object.
    event: Option<Option<EventValues<'a>>>,
    close: Option<Value<'a>>,
}

/// The fast path: finds the values of a usual send.
fn scan<'a>(text: &'a str, scratch: &'a mut String) -> Option<SendValues<'a>> {
    let mut scanner = Scanner::new(text, scratch);
    let mut values = SendValues::default();
    scanner.object(|scanner, key| {
        match key {
            "token" => values.token = Some(scanner.value()?),
            "event" => values.event = Some(Some(scanner.fields(&EVENT_FIELDS)?)),
            "close" => values.close = Some(scanner.value()?),
            _ => drop(scanner.value()?),
        }
        Some(())
    })?;
    scanner.is_at_end().then_some(values)
}

/// The full parser: finds the values of any JSON object.
fn find(text: &str) -> Option<SendValues<'_>> {
    let [token, event, close] = json::object(text, &["token", "event", "close"])?;
    Some(SendValues { token, event: event.map(|event| event.as_object(&EVENT_FIELDS)), close })
}

impl<'a> SendValues<'a> {
    fn read(self) -> Result<SendCommand<'a>, SendError> {
        let token = self.token.and_then(Value::as_string).filter(|token| !token.is_empty()).ok_or(SendError::Token)?;
        let event = self.event.map(|event| read_event(event, Err)).transpose()?;
        let close = self.close.map_or(Some(false), Value::as_bool).ok_or(SendError::Close)?;
        Ok(SendCommand { token, event, close })
    }
}

pub(crate) const EVENT_FIELDS: [&str; 4] = ["data", "name", "id", "retry"];

/// The values of [`EVENT_FIELDS`].
pub(crate) type EventValues<'a> = Fields<'a, { EVENT_FIELDS.len() }>;

/// Reads an event; `None` instead of its values: it is not an object. `judge` is called with each rule that an optional
/// field breaks: an error refuses the event, otherwise the field is dropped.
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
