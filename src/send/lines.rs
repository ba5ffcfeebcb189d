//! A request with a command per line (docs/protocol.md, section 14): bytes to lines, and a line to a command.

use super::{EVENT_FIELDS, GroupIds, Scratch, SendCommand, SendError, SendValues, Target, read_event, read_values};
use crate::json::Value;
use crate::sse::{Event, TooLong};
use memchr::memchr;

/// A buffer with more room than this is freed after use.
const SPARE_BYTES_MAX: usize = 16 * 1024;

/// The lines of a body that may be cut anywhere.
#[derive(Debug)]
pub struct Lines {
    bytes_max: usize,
    /// The beginning of an incomplete line, or a line that was handed over.
    partial: Vec<u8>,
    is_spent: bool,
}

impl Lines {
    /// Lines of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, partial: Vec::new(), is_spent: false }
    }

    /// Bytes of an incomplete line.
    pub fn pending_bytes(&self) -> usize {
        if self.is_spent { 0 } else { self.partial.len() }
    }

    /// Takes the next line from the front of `input`, without its line feed; `None`: all input is consumed.
    pub fn next_line<'l, 'i: 'l>(&'l mut self, input: &mut &'i [u8]) -> Result<Option<&'l [u8]>, TooLong> {
        self.forget_spent();
        let end = memchr(b'\n', input);
        let (piece, behind) = input.split_at(end.unwrap_or(input.len()));
        if self.partial.len() + piece.len() > self.bytes_max {
            return Err(TooLong);
        }
        *input = behind.get(1..).unwrap_or_default();
        match end {
            Some(_) if self.partial.is_empty() => return Ok(Some(piece)),
            Some(_) | None => self.partial.extend_from_slice(piece),
        }
        self.is_spent = end.is_some();
        Ok(self.is_spent.then_some(&self.partial))
    }

    /// The last line, if the body ends without a line feed behind it.
    pub fn last_line(&mut self) -> Option<&[u8]> {
        self.forget_spent();
        (!self.partial.is_empty()).then_some(&self.partial)
    }

    fn forget_spent(&mut self) {
        if std::mem::take(&mut self.is_spent) {
            self.partial.clear();
            self.partial.shrink_to(SPARE_BYTES_MAX);
        }
    }
}

/// The command in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The line is blank.
    Nothing,
    /// A send.
    Send(SendCommand<'a>),
    /// The event that the group gets before its end if the request breaks off.
    Will(Event<'a>),
}

/// Parses a line. `default` is the target of a send that names none.
pub fn parse_line<'a>(
    line: &'a [u8],
    scratch: &'a mut Scratch,
    ids: GroupIds,
    default: Option<&'a Target<'static>>,
) -> Result<Command<'a>, SendError> {
    if is_blank(line) {
        return Ok(Command::Nothing);
    }
    let mut values = SendValues::default();
    read_values(line, scratch, &mut values)?;
    let rare = &mut values.rare;
    if let Some(will) = rare.will {
        let others = [values.token, values.close, rare.group, rare.groups, rare.events, rare.end, rare.transient];
        if values.event.is_some() || others.iter().any(Option::is_some) {
            return Err(SendError::WillAlone);
        }
        return read_will(will, ids).map(Command::Will);
    }
    if values.token.is_none() && rare.group.is_none() && rare.groups.is_none() {
        let value = |name: &'a str| Some(Value::String { raw: name, escaped: false });
        match default {
            Some(Target::Token(token)) => values.token = value(token),
            Some(Target::Group(name)) => {
                values.is_rare = true;
                rare.group = value(name);
            }
            Some(Target::Groups(_)) | None => {}
        }
    }
    values.read(ids).map(Command::Send)
}

fn read_will(will: Value<'_>, ids: GroupIds) -> Result<Event<'_>, SendError> {
    let event = read_event(will.as_object(&EVENT_FIELDS), Err).map_err(SendError::in_will)?;
    if event.id.is_some() && ids == GroupIds::Gateway {
        return Err(SendError::GroupEventId.in_will());
    }
    Ok(event)
}

/// Whether there is nothing in a line but white space of JSON, behind a byte order mark or not.
fn is_blank(line: &[u8]) -> bool {
    let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}
