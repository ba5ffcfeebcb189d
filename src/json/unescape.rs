//! The inside of a JSON string to the text it stands for.
//!
//! JSON within JSON has a backslash every few bytes, so all of a [`Block`] are looked for at once, and what lies
//! between two is copied by runs of a fixed length, whose excess the next one overwrites.

use super::block::{BLOCK, Block, Padding, ROOM, escape_starts};

/// The text that a JSON string's inside stands for.
pub(crate) fn unescape(inner: &str) -> String {
    // Every escape is at least as long as what it stands for.
    let mut out = Vec::with_capacity(inner.len() + ROOM);
    let mut escaped = Escaped::new(inner);
    while let Some(character) = escaped.copy_plain(&mut out) {
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    // It is text, as it was before.
    String::from_utf8(out).unwrap_or_default()
}

/// The inside of a JSON string, on its way out.
pub(crate) struct Escaped<'a> {
    text: &'a [u8],
    /// Where the block in hand starts.
    start: usize,
    /// Where it ends: before a backslash whose escape it would cut off.
    end: usize,
    /// What comes next.
    at: usize,
    /// The escapes of the block from there on, by places in it.
    starts: u64,
}

impl<'a> Escaped<'a> {
    pub(crate) fn new(inner: &'a str) -> Escaped<'a> {
        Escaped { text: inner.as_bytes(), start: 0, end: 0, at: 0, starts: 0 }
    }

    /// Appends what comes before the next escape that is more than a backslash before the character it stands for.
    /// The result is the character that this one stands for, U+FFFD for a lone surrogate; `None` at the end.
    pub(crate) fn copy_plain(&mut self, out: &mut Vec<u8>) -> Option<char> {
        while self.at < self.text.len() {
            let is_new = self.at >= self.end;
            if is_new {
                self.start = self.at;
            }
            let mut padding = Padding::new();
            let block = Block::of(&self.text[self.start..], &mut padding);
            if is_new {
                self.look_through(&block);
            }
            // Room to copy whole runs; what is left of it is taken back.
            let before = out.len();
            out.resize(before + ROOM, 0);
            let Some(room) = out.last_chunk_mut() else { break };
            let mut length = 0;
            let mut from = self.at - self.start;
            while self.starts != 0 {
                let backslash = self.starts.trailing_zeros() as usize;
                self.starts &= self.starts - 1;
                block.copy(from..backslash, room, length);
                length += backslash - from;
                from = backslash + 1;
                if !matches!(block.byte(from), b'"' | b'\\' | b'/') {
                    out.truncate(before + length);
                    let (character, taken) = escaped_character(&self.text[self.start + from..]);
                    self.go_on_at(self.start + from + taken);
                    return Some(character);
                }
            }
            let end = self.end - self.start;
            block.copy(from..end, room, length);
            length += end - from;
            out.truncate(before + length);
            self.at = self.end;
        }
        None
    }

    /// Finds the end and the escapes of the block, which starts where the text goes on.
    fn look_through(&mut self, block: &Block<'_>) {
        let starts = escape_starts(block.places_of(b'\\'));
        let last_place = 1 << (BLOCK - 1);
        let cut_off = starts & last_place != 0;
        self.starts = starts & !last_place;
        self.end = self.text.len().min(self.start + BLOCK - usize::from(cut_off));
    }

    /// Leaves out what is before `at`.
    fn go_on_at(&mut self, at: usize) {
        self.at = at;
        if at < self.end {
            self.starts &= u64::MAX << (at - self.start);
        } else {
            self.starts = 0;
        }
    }
}

/// What the escape stands for whose backslash `escape` follows, and how much of `escape` belongs to it; U+FFFD for a
/// lone surrogate.
fn escaped_character(escape: &[u8]) -> (char, usize) {
    match escape.first() {
        Some(b'n') => ('\n', 1),
        Some(b't') => ('\t', 1),
        Some(b'r') => ('\r', 1),
        Some(b'b') => ('\u{8}', 1),
        Some(b'f') => ('\u{c}', 1),
        Some(b'u') => unescape_unicode(escape),
        Some(itself @ (b'"' | b'\\' | b'/')) => (char::from(*itself), 1),
        // Not JSON, so serde_json has turned it away; kept as it stands all the same.
        Some(_) | None => ('\\', 0),
    }
}

/// The character of an escape that starts with `u`, and how much of `escape` it takes. A pair of
/// surrogates is one character; a surrogate alone is U+FFFD.
fn unescape_unicode(escape: &[u8]) -> (char, usize) {
    let Some(unit) = hex_unit(escape, 1) else { return (char::REPLACEMENT_CHARACTER, 1) };
    if let Some(character) = char::from_u32(unit) {
        return (character, 5);
    }
    // A low surrogate counts only behind a high one.
    let low = if unit < 0xDC00 && escape.get(5..7) == Some(b"\\u") { hex_unit(escape, 7) } else { None };
    if let Some(low @ 0xDC00..=0xDFFF) = low {
        let code = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11);
    }
    (char::REPLACEMENT_CHARACTER, 5)
}

/// The UTF-16 code unit written as four hexadecimal digits at byte `at`.
fn hex_unit(escape: &[u8], at: usize) -> Option<u32> {
    let digits = escape.get(at..at + 4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved_as_serde_json_resolves_them() {
        for inner in [
            "",
            "\\\"",
            "\\\\",
            "\\\\n",
            "\\\\\\n",
            "a\\/b",
            "\\b\\f\\n\\r\\t",
            "\\u0000",
            "\\u00e9\\u00E9",
            "\\uFFFF",
            "\\ud83d\\ude00!",
            "x\u{1f600}\\ud83d\\uDE00y\\n\u{e9}",
            "\\\\u0041",
            "\\uD7FF\\uE000",
        ] {
            let expected: String = serde_json::from_str(&format!("\"{inner}\"")).unwrap();
            assert_eq!(unescape(inner), expected, "{inner}");
        }
    }

    #[test]
    fn text_of_any_length_and_letters_is_unescaped() {
        let mut state = 1_u32;
        let letters = ["a", "\\\"", "\\\\", "\\/", "\\n", "\\u00e9", "\u{e9}", "\u{20ac}", "\u{1f600}", "        "];
        for length in 0..400 {
            let inner: String = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    letters[(state >> 16) as usize % letters.len()]
                })
                .collect();
            let expected: String = serde_json::from_str(&format!("\"{inner}\"")).unwrap();
            assert_eq!(unescape(&inner), expected, "{inner}");
        }
    }

    #[test]
    fn json_within_json_is_copied_in_one_go() {
        let quoted = "{\\\"path\\\":\\\"C:\\\\\\/\\\"}";
        for (inner, next) in [(quoted, None), (&format!("{quoted}\\n{quoted}"), Some('\n'))] {
            let mut out = b"before".to_vec();
            assert_eq!(Escaped::new(inner).copy_plain(&mut out), next);
            assert_eq!(out, b"before{\"path\":\"C:\\/\"}");
        }
    }

    #[test]
    fn an_escape_is_found_however_far_away_it_stands() {
        for distance in 0..100 {
            let run = "x".repeat(distance);
            assert_eq!(unescape(&format!("{run}\\n{run}\\t")), format!("{run}\n{run}\t"));
        }
    }

    #[test]
    fn each_lone_surrogate_is_one_replacement_character() {
        assert_eq!(unescape("\\ud800"), "\u{fffd}");
        assert_eq!(unescape("a\\udc00b"), "a\u{fffd}b");
        assert_eq!(unescape("\\ud800\\ud800"), "\u{fffd}\u{fffd}");
        assert_eq!(unescape("\\udc00\\ud800"), "\u{fffd}\u{fffd}");
        assert_eq!(unescape("\\ud83d\\ud83d\\ude00"), "\u{fffd}\u{1f600}");
        assert_eq!(unescape("\\ud83d\\ude00\\ude00"), "\u{1f600}\u{fffd}");
        assert_eq!(unescape("\\udc00\\udc00"), "\u{fffd}\u{fffd}");
        assert_eq!(unescape("\\ud83d\\n"), "\u{fffd}\n");
        assert_eq!(unescape("\\ud83d\\u0041"), "\u{fffd}A");
        assert_eq!(unescape("\\ud83dude00"), "\u{fffd}ude00");
        assert_eq!(unescape("\\ud83d\\\\ude00"), "\u{fffd}\\ude00");
        assert_eq!(unescape("\\ud83d\u{e9}"), "\u{fffd}\u{e9}");
    }
}
