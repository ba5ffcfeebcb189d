//! RESP3, the protocol of Redis: commands out, replies and pushes in. Replies are borrowed from the bytes received.

/// The longest reply: all that is kept of one group, and room to spare. More is a server gone mad.
const FRAME_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The deepest reply in use has four levels; each costs a stack frame.
const DEPTH_MAX: usize = 16;

/// Room for a command that stays allocated.
const COMMAND_BYTES: usize = 16 * 1024;

/// Appends a command.
pub(super) fn write_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    write_count(out, b'*', arguments.len());
    for argument in arguments {
        write_argument(out, argument);
    }
}

/// Appends the head of a command; that many arguments follow.
pub(super) fn write_head(out: &mut Vec<u8>, arguments: usize) {
    write_count(out, b'*', arguments);
}

/// Appends an argument.
pub(super) fn write_argument(out: &mut Vec<u8>, argument: &[u8]) {
    write_joined(out, [argument]);
}

/// Appends an argument that has these parts.
pub(super) fn write_joined<const PARTS: usize>(out: &mut Vec<u8>, parts: [&[u8]; PARTS]) {
    write_count(out, b'$', parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

fn write_count(out: &mut Vec<u8>, kind: u8, count: usize) {
    // Nearly all arguments are short.
    if count < 100 {
        let (tens, ones) = (b'0' + (count / 10) as u8, b'0' + (count % 10) as u8);
        return match tens {
            b'0' => out.extend_from_slice(&[kind, ones, b'\r', b'\n']),
            _ => out.extend_from_slice(&[kind, tens, ones, b'\r', b'\n']),
        };
    }
    out.push(kind);
    out.extend_from_slice(Decimal::of(count as u64).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The digits of a number, on the stack: a command has several.
pub(super) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(super) fn of(mut number: u64) -> Self {
        let mut decimal = Self { digits: [0; 20], start: 20 };
        loop {
            decimal.start -= 1;
            decimal.digits[decimal.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return decimal;
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// The number with these digits.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, digit: &u8| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// A command under construction: its arguments, and their number. The memory is that of the last one.
#[derive(Default)]
pub(super) struct Command {
    pub(super) bytes: Vec<u8>,
    pub(super) arguments: usize,
}

impl Command {
    pub(super) fn push(&mut self, argument: impl AsRef<[u8]>) {
        self.join([argument.as_ref()]);
    }

    pub(super) fn push_name(&mut self, parts: [&str; 3]) {
        self.join(parts.map(str::as_bytes));
    }

    pub(super) fn push_number(&mut self, number: u64) {
        self.join([Decimal::of(number).as_bytes()]);
    }

    pub(super) fn join<const PARTS: usize>(&mut self, parts: [&[u8]; PARTS]) {
        write_joined(&mut self.bytes, parts);
        self.arguments += 1;
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        // A large one was an exception.
        self.bytes.shrink_to(COMMAND_BYTES);
        self.arguments = 0;
    }
}

/// A reply, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A line without CR and LF; booleans, doubles and big numbers as well, by their text.
    Simple(&'a [u8]),
    /// An error: a code in capitals, and a text.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// Any bytes.
    Blob(&'a [u8]),
    /// Nothing.
    Null,
    /// An array or a set; a map as its keys and values by turns.
    Array(Vec<Self>),
    /// Not a reply, but a message of a channel, or about a subscription.
    Push(Vec<Self>),
}

impl<'a> Value<'a> {
    /// The bytes of a line or blob.
    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Simple(bytes) | Self::Blob(bytes) => Some(bytes),
            Self::Error(_) | Self::Integer(_) | Self::Null | Self::Array(_) | Self::Push(_) => None,
        }
    }

    /// The same as text.
    pub(super) fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// An integer.
    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Simple(_) | Self::Error(_) | Self::Blob(_) | Self::Null | Self::Array(_) | Self::Push(_) => None,
        }
    }

    /// The elements of an array.
    pub(super) fn elements(&self) -> Option<&[Self]> {
        match self {
            Self::Array(elements) => Some(elements),
            Self::Simple(_) | Self::Error(_) | Self::Integer(_) | Self::Blob(_) | Self::Null | Self::Push(_) => None,
        }
    }
}

/// Bytes that are not RESP3, or are beyond its limits here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Finds the end of a reply in bytes that come piece by piece; looks at none twice.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// Up to here, all is scanned.
    at: usize,
    /// Values still to come.
    left: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { at: 0, left: 1 }
    }
}

impl Scanner {
    /// The length of the reply that `input` begins with, once it is there; then the scanner begins anew. `input` must
    /// begin with what it began with the last time.
    ///
    /// # Errors
    ///
    /// No reply begins like that.
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<usize>, Malformed> {
        while self.left > 0 {
            let Some(line) = line(input, self.at)? else { return Ok(None) };
            let (kind, text) = line.split_first().ok_or(Malformed)?;
            let mut end = self.at + line.len() + 2;
            let mut more = 0;
            match kind {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
                b'$' | b'=' | b'!' => {
                    if let Some(length) = count(text)? {
                        end += length + 2;
                        if input.len() < end {
                            return if end > FRAME_BYTES_MAX { Err(Malformed) } else { Ok(None) };
                        }
                    }
                }
                b'*' | b'~' | b'>' => more = count(text)?.unwrap_or(0),
                b'%' => more = 2 * count(text)?.unwrap_or(0),
                // Attributes come in addition to the value that they are about.
                b'|' => more = 2 * count(text)?.unwrap_or(0) + 1,
                _ => return Err(Malformed),
            }
            self.at = end;
            self.left = self.left - 1 + more;
            // A value takes three bytes at least.
            if self.left > FRAME_BYTES_MAX / 3 || end > FRAME_BYTES_MAX {
                return Err(Malformed);
            }
        }
        Ok(Some(std::mem::take(self).at))
    }
}

/// The line at `at` without its end, once it is there.
fn line(input: &[u8], at: usize) -> Result<Option<&[u8]>, Malformed> {
    /// Errors with a text are the longest lines.
    const LINE_BYTES_MAX: usize = 64 * 1024;
    let rest = input.get(at..).unwrap_or_default();
    match memchr::memchr(b'\n', rest) {
        Some(end) if end > LINE_BYTES_MAX => Err(Malformed),
        Some(end) => rest[..end].strip_suffix(b"\r").map(Some).ok_or(Malformed),
        None if rest.len() > LINE_BYTES_MAX => Err(Malformed),
        None => Ok(None),
    }
}

/// A length; `None` is that of nothing (-1).
fn count(text: &[u8]) -> Result<Option<usize>, Malformed> {
    match integer(text)? {
        -1 => Ok(None),
        number => usize::try_from(number).ok().filter(|number| *number <= FRAME_BYTES_MAX).map(Some).ok_or(Malformed),
    }
}

fn integer(text: &[u8]) -> Result<i64, Malformed> {
    let value = match text {
        [b'-', digits @ ..] => number(digits).and_then(|number| 0_i64.checked_sub_unsigned(number)),
        [b'+', digits @ ..] | digits => number(digits).and_then(|number| i64::try_from(number).ok()),
    };
    value.ok_or(Malformed)
}

/// A message of a channel at the beginning of `input`, if there is a whole one: its channel, its text, and its length.
/// They are most of what Redis sends, and are read without a list of their parts.
pub(super) fn message(input: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    const HEAD: &[u8] = b">3\r\n$7\r\nmessage\r\n";
    input.strip_prefix(HEAD)?;
    let (channel, at) = blob(input, HEAD.len())?;
    let (text, end) = blob(input, at)?;
    Some((channel, text, end))
}

/// The blob at that place, if it is there, and where it ends.
fn blob(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let line = line(input, at).ok()??;
    let start = at + line.len() + 2;
    let end = start.checked_add(usize::try_from(number(line.strip_prefix(b"$")?)?).ok()?)?;
    let bytes = input.get(start..end)?;
    (input.get(end..end + 2)? == b"\r\n").then_some((bytes, end + 2))
}

/// Reads a reply of the length that [`Scanner::scan`] has found.
///
/// # Errors
///
/// It is nested too deeply, or is no reply.
pub fn parse(frame: &[u8]) -> Result<Value<'_>, Malformed> {
    let mut at = 0;
    let value = parse_at(frame, &mut at, DEPTH_MAX)?;
    if at == frame.len() { Ok(value) } else { Err(Malformed) }
}

fn parse_at<'a>(frame: &'a [u8], at: &mut usize, depth: usize) -> Result<Value<'a>, Malformed> {
    let line = line(frame, *at)?.ok_or(Malformed)?;
    let (kind, text) = line.split_first().ok_or(Malformed)?;
    *at += line.len() + 2;
    Ok(match kind {
        b'+' | b'#' | b',' | b'(' => Value::Simple(text),
        b'-' => Value::Error(text),
        b':' => Value::Integer(integer(text)?),
        b'_' => Value::Null,
        b'$' | b'=' | b'!' => match count(text)? {
            None => Value::Null,
            Some(length) => {
                let blob = frame.get(*at..*at + length).ok_or(Malformed)?;
                *at += length + 2;
                if *kind == b'!' { Value::Error(blob) } else { Value::Blob(blob) }
            }
        },
        b'*' | b'~' => match count(text)? {
            None => Value::Null,
            Some(count) => Value::Array(parse_many(frame, at, count, depth)?),
        },
        b'%' => Value::Array(parse_many(frame, at, 2 * count(text)?.unwrap_or(0), depth)?),
        b'>' => Value::Push(parse_many(frame, at, count(text)?.unwrap_or(0), depth)?),
        b'|' => {
            parse_many(frame, at, 2 * count(text)?.unwrap_or(0), depth)?;
            parse_at(frame, at, depth.checked_sub(1).ok_or(Malformed)?)?
        }
        _ => return Err(Malformed),
    })
}

fn parse_many<'a>(frame: &'a [u8], at: &mut usize, count: usize, depth: usize) -> Result<Vec<Value<'a>>, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    // What is declared need not be there.
    let mut values = Vec::with_capacity(count.min((frame.len() - *at) / 3));
    for _ in 0..count {
        values.push(parse_at(frame, at, depth)?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value<'_>, Malformed> {
        match Scanner::default().scan(text.as_bytes())? {
            Some(length) => parse(&text.as_bytes()[..length]),
            None => Err(Malformed),
        }
    }

    #[test]
    fn commands_are_arrays_of_blobs() {
        let mut out = Vec::new();
        write_command(&mut out, &[b"SET", b"a\r\nb", b""]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$0\r\n\r\n");
    }

    #[test]
    fn reads_every_kind_of_reply() {
        for (text, value) in [
            ("+OK\r\n", Value::Simple(b"OK")),
            ("-ERR no\r\n", Value::Error(b"ERR no")),
            ("!6\r\nERR\r\nx\r\n", Value::Error(b"ERR\r\nx")),
            (":-7\r\n", Value::Integer(-7)),
            ("_\r\n", Value::Null),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("#t\r\n", Value::Simple(b"t")),
            (",1.5\r\n", Value::Simple(b"1.5")),
            ("(123\r\n", Value::Simple(b"123")),
            ("$0\r\n\r\n", Value::Blob(b"")),
            ("=5\r\ntxt:a\r\n", Value::Blob(b"txt:a")),
            ("*2\r\n:1\r\n$2\r\n\r\n\r\n", Value::Array(vec![Value::Integer(1), Value::Blob(b"\r\n")])),
            ("~1\r\n*0\r\n", Value::Array(vec![Value::Array(vec![])])),
            ("%1\r\n+a\r\n:1\r\n", Value::Array(vec![Value::Simple(b"a"), Value::Integer(1)])),
            (">1\r\n+a\r\n", Value::Push(vec![Value::Simple(b"a")])),
            ("|1\r\n+a\r\n:1\r\n:2\r\n", Value::Integer(2)),
        ] {
            assert_eq!(read(text), Ok(value), "{text:?}");
        }
    }

    #[test]
    fn a_reply_is_found_wherever_it_is_cut() {
        let text = b"*3\r\n$4\r\na\r\nb\r\n%1\r\n+k\r\n|1\r\n+x\r\n:1\r\n:2\r\n>0\r\n+next\r\n";
        let length = text.len() - "+next\r\n".len();
        let mut scanner = Scanner::default();
        for end in 0..length {
            assert_eq!(scanner.scan(&text[..end]), Ok(None), "{end}");
        }
        assert_eq!(scanner.scan(text), Ok(Some(length)));
        assert_eq!(scanner.scan(&text[length..]), Ok(Some("+next\r\n".len())));
    }

    #[test]
    fn messages_are_read_without_a_list_of_their_parts() {
        let text = b">3\r\n$7\r\nmessage\r\n$3\r\nc\r\n\r\n$4\r\n1\r\n2\r\n+next\r\n";
        let length = text.len() - "+next\r\n".len();
        for end in 0..length {
            assert_eq!(message(&text[..end]), None, "{end}");
        }
        assert_eq!(message(text), Some((b"c\r\n".as_slice(), b"1\r\n2".as_slice(), length)));
        for other in [
            ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nxyz",
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n:1\r\n",
            ">3\r\n$7\r\nmessage\r\n$-1\r\n$1\r\nx\r\n",
            ">3\r\n$7\r\nmessage\r\n$18446744073709551615\r\n$1\r\nx\r\n",
        ] {
            assert_eq!(message(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_reply() {
        for text in ["HTTP/1.1 400\r\n", "\r\n", "+a\n", ":x\r\n", "$x\r\n", "$-2\r\n", "*99999999999\r\n", "+\n"] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert!(read(&format!("{}:1\r\n", "*1\r\n".repeat(DEPTH_MAX + 1))).is_err());
        assert!(read(&"|0\r\n".repeat(100)).is_err());
        assert_eq!(Scanner::default().scan(&b"+".repeat(70_000)), Err(Malformed));
        assert_eq!(Scanner::default().scan(b"$600000000\r\n"), Err(Malformed));
    }
}
