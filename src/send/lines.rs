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
        // The carriage return of a line break is none of the line's bytes.
        let has_return = piece.last().or(self.partial.last()) == Some(&b'\r');
        if self.partial.len() + piece.len() - usize::from(has_return) > self.bytes_max {
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
        self.is_spent = !self.partial.is_empty();
        self.is_spent.then_some(&self.partial)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::new(100);
        let mut found = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(line) = lines.next_line(&mut input).expect("short lines") {
                found.push(String::from_utf8(line.to_vec()).expect("text"));
            }
            assert!(input.is_empty());
        }
        found.extend(lines.last_line().map(|line| String::from_utf8(line.to_vec()).expect("text")));
        found
    }

    #[test]
    fn lines_are_the_same_wherever_they_are_cut() {
        for text in ["", "a", "a\n", "\n", "a\nb", "\n\na\r\n\nbc\n\n", "a\n\nb\n"] {
            let expected: Vec<&str> = text.split_terminator('\n').collect();
            assert_eq!(lines_of(&[text.as_bytes()]), expected, "{text:?}");
            assert_eq!(lines_of(&text.as_bytes().chunks(1).collect::<Vec<_>>()), expected, "{text:?} byte by byte");
            for cut in 0..text.len() {
                let (before, behind) = text.as_bytes().split_at(cut);
                assert_eq!(lines_of(&[before, behind]), expected, "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_line_has_a_limit_and_their_number_has_none() {
        let mut lines = Lines::new(3);
        for _ in 0..100 {
            let mut input = &b"abc\nab"[..];
            assert_eq!(lines.next_line(&mut input), Ok(Some(&b"abc"[..])));
            assert_eq!(lines.next_line(&mut input), Ok(None));
            assert_eq!(lines.pending_bytes(), 2);
            let mut input = &b"c\n"[..];
            assert_eq!(lines.next_line(&mut input), Ok(Some(&b"abc"[..])));
            assert_eq!(lines.pending_bytes(), 0);
        }
        assert_eq!(Lines::new(3).next_line(&mut &b"abcd"[..]), Err(TooLong));
        assert_eq!(lines.next_line(&mut &b"ab"[..]), Ok(None));
        assert_eq!(lines.next_line(&mut &b"cd\n"[..]), Err(TooLong));
    }

    #[test]
    fn the_limit_of_a_line_leaves_out_its_break() {
        let mut lines = Lines::new(3);
        assert_eq!(lines.next_line(&mut &b"abc\r\n"[..]), Ok(Some(&b"abc\r"[..])));
        assert_eq!(lines.next_line(&mut &b"abc\r"[..]), Ok(None));
        assert_eq!(lines.next_line(&mut &b"\n"[..]), Ok(Some(&b"abc\r"[..])));
        assert_eq!(lines.next_line(&mut &b"abc\r"[..]), Ok(None));
        assert_eq!(lines.next_line(&mut &b"d\n"[..]), Err(TooLong));
        assert_eq!(Lines::new(3).next_line(&mut &b"abcd\r\n"[..]), Err(TooLong));
    }

    fn parse(line: &str, default: Option<&Target<'static>>) -> Result<String, SendError> {
        let mut scratch = Scratch::default();
        let command = parse_line(line.as_bytes(), &mut scratch, GroupIds::Gateway, default)?;
        Ok(match command {
            Command::Nothing => "nothing".to_owned(),
            Command::Send(send) => format!("{:?}, {} events, {}", send.target, send.events.as_slice().len(), send.end),
            Command::Will(will) => format!("{}: {}", will.name.unwrap_or_default(), will.data),
        })
    }

    #[test]
    fn a_line_without_a_target_has_that_of_its_request() {
        let (token, group) = (Target::Token("t".into()), Target::Group("g".into()));
        let event = r#"{"event":{"data":"d"}}"#;
        assert_eq!(parse(event, Some(&token)), Ok(r#"Token("t"), 1 events, false"#.into()));
        assert_eq!(parse(event, Some(&group)), Ok(r#"Group("g"), 1 events, false"#.into()));
        assert_eq!(parse(event, None), Err(SendError::Token));
        assert_eq!(
            parse(r#"{"events":[{"data":"d"},{"data":"e"}],"end":true}"#, Some(&group)),
            Ok(r#"Group("g"), 2 events, true"#.into())
        );
        assert_eq!(parse(r#"{"token":"u"}"#, Some(&group)), Ok(r#"Token("u"), 0 events, false"#.into()));
        assert_eq!(parse(r#"{"group":"h"}"#, Some(&token)), Ok(r#"Group("h"), 0 events, false"#.into()));
        assert_eq!(parse(r#"{"groups":["h"]}"#, Some(&token)), Ok(r#"Groups(["h"]), 0 events, false"#.into()));
        assert_eq!(parse(r#"{"token":null}"#, Some(&group)), Err(SendError::Token));
        assert_eq!(parse(r#"{"end":true}"#, Some(&token)), Err(SendError::EndTarget));
        assert_eq!(parse(r#"{"event":{"data":"d","id":"1"}}"#, Some(&group)), Err(SendError::GroupEventId));
    }

    #[test]
    fn blank_lines_are_nothing() {
        for blank in ["", " ", "\r", "\t \r", "\u{feff}", "\u{feff} \r"] {
            assert_eq!(parse(blank, None), Ok("nothing".into()), "{blank:?}");
        }
        assert_eq!(parse("\u{b}", None), Err(SendError::InvalidJson));
    }

    #[test]
    fn a_will_is_an_event_and_stands_alone() {
        let text = |line: &str| parse(line, None).map_err(|error| error.message().into_owned());
        assert_eq!(text(r#"{"will":{"name":"n","data":"d"}}"#), Ok("n: d".into()));
        assert_eq!(text(r#"{"will":{"data":"d"},"more":1}"#), Ok(": d".into()));
        for (line, error) in [
            (r#"{"will":null}"#, "will must be an object"),
            (r#"{"will":"x"}"#, "will must be an object"),
            (r#"{"will":{}}"#, "will.data is required and must be a string"),
            (r#"{"will":{"data":"d","name":7}}"#, "will.name must be a string"),
            (r#"{"will":{"data":"d","id":"7"}}"#, "will.id is the gateway's in a group"),
            (r#"{"will":{"data":"d"},"group":"g"}"#, "will excludes all other fields"),
            (r#"{"will":null,"event":{"data":"d"}}"#, "will excludes all other fields"),
        ] {
            assert_eq!(text(line), Err(format!("Invalid request: {error}")), "{line}");
        }
    }
}
