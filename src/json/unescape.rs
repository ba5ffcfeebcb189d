//! Decodes the inside of a JSON string. JSON within JSON has a backslash every few bytes, so text is scanned and copied
//! a word at a time.

use memchr::memchr;
use std::borrow::Cow;

/// Bytes processed together.
const WORD: usize = size_of::<u64>();
/// Bytes examined together where none is expected to be special: a vector register.
const BLOCK: usize = 16;
/// A one in each byte of a word.
const ONES: u64 = u64::MAX / 0xFF;
/// The high bit of each byte of a word.
const HIGH_BITS: u64 = ONES << 7;

/// The decoded inside of a JSON string, borrowed if it has no escapes; lone surrogates become U+FFFD.
pub(crate) fn unescaped(raw: &str) -> Cow<'_, str> {
    if memchr(b'\\', raw.as_bytes()).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = String::new();
    unescape(raw.as_bytes(), &mut out);
    Cow::Owned(out)
}

/// Decodes into `out` the inside of a JSON string at the start of `text`, and returns the position of its end in
/// `text`: the closing quote, or a byte not allowed in a string.
pub(super) fn unescape(text: &[u8], out: &mut String) -> usize {
    let mut room = std::mem::take(out).into_bytes();
    // An escape is at least as long as its character; a word is copied whole.
    room.resize(text.len() + WORD, 0);
    let (read, written) = copy(text, &mut room);
    room.truncate(written);
    // The bytes were UTF-8 and still are.
    *out = String::from_utf8(room).unwrap_or_default();
    read
}

/// Copies the inside of a string and resolves its escapes; returns the number of bytes read and written.
fn copy(text: &[u8], out: &mut [u8]) -> (usize, usize) {
    let (mut at, mut length) = (0, 0);
    loop {
        while let (Some(word), Some(room)) = (text[at..].first_chunk(), out[length..].first_chunk_mut()) {
            // Surplus bytes are overwritten.
            *room = *word;
            let count = plain_bytes_of_word(*word);
            at += count;
            length += count;
            if count < WORD {
                break;
            }
        }
        match text[at..] {
            [b'\\', character @ (b'"' | b'\\' | b'/'), ..] => {
                out[length] = character;
                at += 2;
                length += 1;
            }
            [b'\\', ref escape @ ..] => {
                let Some((character, taken)) = escaped_character(escape) else { return (at, length) };
                at += 1 + taken;
                length += character.encode_utf8(&mut out[length..]).len();
            }
            [] | [b'"' | ..b' ', ..] => return (at, length),
            // Less than a word remains.
            [byte, ..] => {
                out[length] = byte;
                at += 1;
                length += 1;
            }
        }
    }
}

/// The number of bytes before the first quote, backslash or control character in `text`.
pub(super) fn plain_bytes(text: &[u8]) -> usize {
    let mut at = 0;
    while text[at..].first_chunk().is_some_and(is_plain) {
        at += BLOCK;
    }
    while let Some(word) = text[at..].first_chunk() {
        let count = plain_bytes_of_word(*word);
        at += count;
        if count < WORD {
            return at;
        }
    }
    at + text[at..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | ..b' ')).count()
}

/// Without a branch inside, so that it compiles to vector instructions.
fn is_plain(block: &[u8; BLOCK]) -> bool {
    let marks = block.map(|byte| u8::from(byte < b' ') | u8::from(byte == b'"') | u8::from(byte == b'\\'));
    u128::from_ne_bytes(marks) == 0
}

/// The same in a word, up to its length.
pub(super) fn plain_bytes_of_word(word: [u8; WORD]) -> usize {
    let word = u64::from_le_bytes(word);
    let below_blank = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
    let marks = below_blank | equal_bytes(word, b'"') | equal_bytes(word, b'\\');
    (marks & HIGH_BITS).trailing_zeros() as usize / 8
}

/// Marks the bytes of `word` that equal `byte` by their high bits. The lowest mark is exact, higher ones may be false
/// (Mycroft, 1987).
fn equal_bytes(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal
}

/// The character of the escape that `escape` starts with (after its backslash), and the escape's length; `None` if it
/// is invalid.
fn escaped_character(escape: &[u8]) -> Option<(char, usize)> {
    Some(match escape.first()? {
        b'n' => ('\n', 1),
        b't' => ('\t', 1),
        b'r' => ('\r', 1),
        b'b' => ('\u{8}', 1),
        b'f' => ('\u{c}', 1),
        b'u' => escaped_unit(escape)?,
        _ => return None,
    })
}

/// The character of an escape that starts with `u`, and its length. A pair of surrogates is one character; a lone
/// surrogate is U+FFFD.
fn escaped_unit(escape: &[u8]) -> Option<(char, usize)> {
    let unit = hex_unit(escape, 1)?;
    if let Some(character) = char::from_u32(unit) {
        return Some((character, 5));
    }
    // A low surrogate counts only after a high one.
    let low = if unit < 0xDC00 && escape.get(5..7) == Some(b"\\u") { hex_unit(escape, 7) } else { None };
    if let Some(low @ 0xDC00..=0xDFFF) = low {
        let code = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        return Some((char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11));
    }
    Some((char::REPLACEMENT_CHARACTER, 5))
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
            assert_eq!(unescaped(inner), expected, "{inner}");
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
            assert_eq!(unescaped(&inner), expected, "{inner}");
        }
    }

    #[test]
    fn an_escape_is_found_however_far_away_it_stands() {
        for distance in 0..100 {
            let run = "x".repeat(distance);
            assert_eq!(unescaped(&format!("{run}\\n{run}\\t")), format!("{run}\n{run}\t"));
        }
    }

    #[test]
    fn each_lone_surrogate_is_one_replacement_character() {
        assert_eq!(unescaped("\\ud800"), "\u{fffd}");
        assert_eq!(unescaped("a\\udc00b"), "a\u{fffd}b");
        assert_eq!(unescaped("\\ud800\\ud800"), "\u{fffd}\u{fffd}");
        assert_eq!(unescaped("\\udc00\\ud800"), "\u{fffd}\u{fffd}");
        assert_eq!(unescaped("\\ud83d\\ud83d\\ude00"), "\u{fffd}\u{1f600}");
        assert_eq!(unescaped("\\ud83d\\ude00\\ude00"), "\u{1f600}\u{fffd}");
        assert_eq!(unescaped("\\udc00\\udc00"), "\u{fffd}\u{fffd}");
        assert_eq!(unescaped("\\ud83d\\n"), "\u{fffd}\n");
        assert_eq!(unescaped("\\ud83d\\u0041"), "\u{fffd}A");
        assert_eq!(unescaped("\\ud83dude00"), "\u{fffd}ude00");
        assert_eq!(unescaped("\\ud83d\\\\ude00"), "\u{fffd}\\ude00");
        assert_eq!(unescaped("\\ud83d\u{e9}"), "\u{fffd}\u{e9}");
    }

    #[test]
    fn it_ends_before_what_no_string_may_hold() {
        let long = "x".repeat(WORD);
        for plain in ["", "x", "\\\"", "\u{e9}", &long] {
            for end in ["\"", "\n", "\0", "\\", "\\x", "\\u12g4", "\\u12", "\\u\u{e9}12", "\\ud800\\x"] {
                let mut out = "what stood there before".to_owned();
                let at = unescape(format!("{plain}{end}{long}").as_bytes(), &mut out);
                let surrogate = if end.starts_with("\\ud800") { "\u{fffd}" } else { "" };
                assert_eq!(at, plain.len() + 2 * surrogate.len(), "{plain}{end}");
                assert_eq!(out, unescaped(plain) + surrogate, "{plain}{end}");
            }
        }
    }

    #[test]
    fn plain_bytes_are_counted_in_text_of_any_length() {
        for length in 0..=4 * BLOCK {
            for end in [b'"', b'\\', 0, 0x1F, b'a', 0x7F, 0xFF] {
                let mut text = vec![b'a'; length];
                text.push(end);
                text.extend([b'"'; BLOCK]);
                let expected = length + usize::from(matches!(end, b'a' | 0x7F..));
                assert_eq!(plain_bytes(&text), expected, "{text:?}");
                text.truncate(length + 1);
                assert_eq!(plain_bytes(&text), expected, "{text:?}");
            }
        }
    }

    #[test]
    fn plain_bytes_are_counted_whatever_stands_behind_them() {
        let remarkable = |byte: &u8| *byte < b' ' || [b'"', b'\\'].contains(byte);
        for before in [b'a', 0xFF] {
            for behind in [b' ', b'a', b'!', b'\x7f', 0x80, 0xFF, b'"', b'\\', 0] {
                for at in 0..WORD {
                    for byte in 0..=u8::MAX {
                        let mut word = [before; WORD];
                        word[at..].fill(behind);
                        word[at] = byte;
                        let expected = word.iter().position(remarkable).unwrap_or(WORD);
                        assert_eq!(plain_bytes(&word), expected, "{word:?}");
                    }
                }
            }
        }
    }
}
