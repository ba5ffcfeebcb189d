//! Cursors: positions in the order of all group events, and their text form (docs/protocol.md, section 12).

use std::fmt::{self, Display, Formatter};

/// A position in the order of all group events: that of one event, or just after it. 0 is before the first one.
pub type Position = u64;

/// One run of positions. A new one begins when the kept events of the last one may be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch with the id `random`.
    pub const fn new(random: u64) -> Self {
        Self(random)
    }
}

/// A position and the epoch that it belongs to. As text: both in base 36 with a dot between them, 27 characters at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch of `position`.
    pub epoch: Epoch,
    /// The position of a stream.
    pub position: Position,
}

/// The longest text of a cursor.
pub const TEXT_BYTES_MAX: usize = 2 * DIGITS_MAX + 1;

/// Digits of `u64::MAX` in base 36.
const DIGITS_MAX: usize = 13;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

impl Cursor {
    /// Reads the text of a cursor, in its only form; `None` for any other text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let dot = text.iter().position(|byte| *byte == b'.')?;
        Some(Self { epoch: Epoch(read_number(&text[..dot])?), position: read_number(&text[dot + 1..])? })
    }

    /// The text.
    pub fn text(&self) -> Text {
        let mut text = Text { bytes: [0; TEXT_BYTES_MAX], start: TEXT_BYTES_MAX as u8 };
        text.prepend_number(self.position);
        text.prepend(b'.');
        text.prepend_number(self.epoch.0);
        text
    }
}

impl Display for Cursor {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(self.text().as_str())
    }
}

/// The text of a cursor, on the stack: every event of a group has one.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    bytes: [u8; TEXT_BYTES_MAX],
    start: u8,
}

impl Text {
    /// As bytes of ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // Digits and a dot.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn prepend(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[usize::from(self.start)] = byte;
    }

    fn prepend_number(&mut self, mut number: u64) {
        loop {
            self.prepend(DIGITS[(number % 36) as usize]);
            number /= 36;
            if number == 0 {
                return;
            }
        }
    }
}

fn read_number(digits: &[u8]) -> Option<u64> {
    let is_canonical = digits == b"0" || digits.first().is_some_and(|first| *first != b'0');
    if !is_canonical || digits.len() > DIGITS_MAX {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'z' => digit - b'a' + 10,
            _ => return None,
        };
        number.checked_mul(36)?.checked_add(value.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(epoch: u64, position: u64) -> Cursor {
        Cursor { epoch: Epoch(epoch), position }
    }

    #[test]
    fn every_cursor_is_read_back() {
        for (epoch, position, text) in [
            (0, 0, "0.0"),
            (35, 36, "z.10"),
            (u64::MAX, u64::MAX, "3w5e11264sgsf.3w5e11264sgsf"),
            (1_u64 << 60, 1_000_000, "8rc4kbdvss1s.lfls"),
        ] {
            let cursor = cursor(epoch, position);
            assert_eq!(Cursor::parse(cursor.to_string().as_bytes()), Some(cursor), "{cursor}");
            assert_eq!(cursor.to_string(), text);
            assert!(cursor.to_string().len() <= 32);
        }
    }

    #[test]
    fn other_texts_are_no_cursors() {
        for text in [
            "",
            ".",
            "0",
            "0.",
            ".0",
            "00.0",
            "0.00",
            "0.01",
            "0.0.0",
            "A.0",
            "a.B",
            "a.-1",
            "a. 1",
            "a.1 ",
            "+1.1",
            "a.3w5e11264sgsg",
            "a.10000000000000",
            "a.1\0",
            "\u{e9}.1",
            "42",
        ] {
            assert_eq!(Cursor::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
