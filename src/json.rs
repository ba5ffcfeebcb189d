//! JSON as backends send it, read in place: an object's fields as slices of its text, and each slice as
//! the one type its reader hopes for.
//!
//! serde_json decides what is JSON (but for the shortcut in `send`); the rest is done on text it has accepted. Typed
//! deserialization could not judge it: it cannot tell `null` from an absent field, gives up on lone surrogates, and
//! lets a number too large for an `f64` spoil its neighbours. Nesting of any depth costs no stack, because values
//! nobody reads are skipped by a loop.

use memchr::memchr;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The body as text; invalid UTF-8 becomes U+FFFD. Borrowed unless there is some.
pub(crate) fn text(body: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(body) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(body),
    }
}

/// Reads `text` as one JSON object and returns the values of the fields `names`, in that order; of
/// duplicates the last. `None` if `text` is not JSON or not an object.
pub(crate) fn object<'a, const N: usize>(text: &'a str, names: &[&str; N]) -> Option<[Option<Value<'a>>; N]> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = deserializer.deserialize_map(Fields { names }).ok()?;
    deserializer.end().ok()?;
    Some(fields)
}

/// The text of one JSON value, known to be valid JSON without blanks around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a>(&'a str);

impl<'a> Value<'a> {
    pub(crate) fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// The boolean, or `None` for any other type.
    pub(crate) fn as_bool(self) -> Option<bool> {
        match self.0 {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// The string, borrowed if it has no escapes; lone surrogates become U+FFFD. `None` for any other type.
    pub(crate) fn as_string(self) -> Option<Cow<'a, str>> {
        let inner = self.inner()?;
        let plain = memchr(b'\\', inner.as_bytes()).is_none();
        Some(if plain { Cow::Borrowed(inner) } else { Cow::Owned(unescape(inner)) })
    }

    /// The inside of the string, escapes and all. `None` for any other type.
    pub(crate) fn inner(self) -> Option<&'a str> {
        self.0.strip_prefix('"')?.strip_suffix('"')
    }

    /// The number, if it is mathematically an integer in 0..=2147483647, however it is spelled (`3000.0`,
    /// `3e3`, `-0`). Exact: nothing is rounded. `None` for any other number or type.
    pub(crate) fn as_u31(self) -> Option<u32> {
        // The usual spelling. Plus signs and other oddities cannot appear in text that is JSON.
        if let Ok(number) = self.0.parse::<u32>() {
            return in_u31(number.into());
        }
        if !self.0.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
            return None;
        }
        let (negative, magnitude) = match self.0.strip_prefix('-') {
            Some(magnitude) => (true, magnitude),
            None => (false, self.0),
        };
        let (mantissa, exponent) = magnitude.split_once(['e', 'E']).unwrap_or((magnitude, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let fraction = fraction.trim_end_matches('0');
        let digits = || whole.bytes().chain(fraction.bytes());
        if digits().all(|digit| digit == b'0') {
            return Some(0);
        }
        if negative {
            return None;
        }
        // The value is now the digits, which are not all zero, times ten to the power of `scale`. An exponent
        // beyond i64 makes it huge or tiny: the body that could balance it with digits does not fit in memory.
        let mut scale = exponent.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        let mut excess_zeros = 0;
        if scale < 0 {
            let zeros = digits().rev().take_while(|digit| *digit == b'0').count();
            excess_zeros = usize::try_from(scale.unsigned_abs()).ok().filter(|needed| *needed <= zeros)?;
            scale = 0;
        }
        let count = whole.len() + fraction.len() - excess_zeros;
        let mut number = 0_u64;
        for digit in digits().take(count) {
            number = number * 10 + u64::from(digit - b'0');
            in_u31(number)?;
        }
        // Ends within ten steps: the number is not zero, so it soon leaves the range.
        for _ in 0..scale {
            number *= 10;
            in_u31(number)?;
        }
        in_u31(number)
    }

    /// The fields `names` of the object, as [`object`] finds them; `None` for any other type.
    pub(crate) fn as_object<const N: usize>(self, names: &[&str; N]) -> Option<[Option<Value<'a>>; N]> {
        object(self.0, names)
    }
}

fn in_u31(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number <= i32::MAX as u32)
}

/// Collects the named fields of one object and skips the others.
struct Fields<'n, const N: usize> {
    names: &'n [&'n str; N],
}

impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
    type Value = [Option<Value<'de>>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = [None; N];
        // Keys are taken raw too: serde_json lets control characters pass in keys that are read as bytes.
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let Some(key) = Value(key.get()).as_string() else { continue };
            if let Some(index) = self.names.iter().position(|name| *name == key) {
                fields[index] = Some(Value(value.get()));
            }
        }
        Ok(fields)
    }
}

/// How much [`copy_plain`] does at once; the room for it is cleared each time.
const COPY_BYTES: usize = 256;
/// Text is gone through by so many bytes.
pub(crate) const WORD: usize = size_of::<u64>();

/// Appends the beginning of a JSON string's inner text, up to an escape that is more than a backslash before the
/// character it stands for; of a long text less. Returns how much of `inner` that was: none, if such an escape is
/// what comes next, for [`escaped_character`] to read.
///
/// JSON within JSON has a backslash every few bytes, so this goes by words of eight bytes: all of one is copied, and
/// what lies behind the next backslash overwritten.
pub(crate) fn copy_plain(inner: &str, out: &mut Vec<u8>) -> usize {
    let most = COPY_BYTES.min(inner.len());
    // Not in the middle of a character, none of which has more than four bytes.
    let end = (0..=most).rev().find(|end| inner.is_char_boundary(*end)).unwrap_or(0);
    let text = &inner.as_bytes()[..end];
    let start = out.len();
    out.resize(start + text.len() + WORD, 0);
    let to = &mut out[start..];
    let (mut read, mut written) = (0, 0);
    // The next byte stands for itself even if it is a backslash: another one was before it.
    let mut literal = false;
    while let Some(word) = text.get(read..read + WORD) {
        to[written..written + WORD].copy_from_slice(word);
        let plain = plain_bytes(word, literal);
        read += plain;
        written += plain;
        literal = plain < WORD;
        if literal {
            if !stands_for_itself(text.get(read + 1)) {
                literal = false;
                break;
            }
            read += 1;
        }
    }
    while let Some(byte) = text.get(read) {
        if *byte == b'\\' && !literal {
            if !stands_for_itself(text.get(read + 1)) {
                break;
            }
            read += 1;
            literal = true;
            continue;
        }
        to[written] = *byte;
        read += 1;
        written += 1;
        literal = false;
    }
    out.truncate(start + written);
    read
}

/// Whether a backslash before `byte` says no more than that it is meant.
fn stands_for_itself(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b'"' | b'\\' | b'/'))
}

/// How many bytes of `word` stand before its first backslash, not counting the first byte if that is `literal`.
fn plain_bytes(word: &[u8], literal: bool) -> usize {
    // A backslash is an even number, so that no odd one is looked for.
    first_byte(equal_bytes(word_of(word) | u64::from(literal), b'\\'))
}

/// A one in each byte of a word.
pub(crate) const ONES: u64 = u64::MAX / 0xFF;

/// Eight bytes as a number, the first one lowest.
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    // A word has as many bytes as that.
    u64::from_le_bytes(bytes.try_into().unwrap_or_default())
}

/// Marks the bytes of `word` that are `byte` by their high bits. The lowest high bit that it sets is right, others may
/// be too many (Mycroft, 1987).
pub(crate) fn equal_bytes(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal
}

/// Which byte has the lowest of the high bits in `marks`; their number, if there is none.
pub(crate) fn first_byte(marks: u64) -> usize {
    (marks & (ONES << 7)).trailing_zeros() as usize / 8
}

/// What the escape stands for whose backslash `escape` follows, and how much of `escape` belongs to it; U+FFFD for a
/// lone surrogate.
pub(crate) fn escaped_character(escape: &str) -> (char, usize) {
    match escape.as_bytes().first() {
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

/// A JSON string's inner text, its escapes resolved.
pub(crate) fn unescape(inner: &str) -> String {
    // Every escape is at least as long as what it stands for.
    let mut out = Vec::with_capacity(inner.len() + WORD);
    let mut rest = inner;
    while !rest.is_empty() {
        rest = &rest[copy_plain(rest, &mut out)..];
        if let Some(escape) = rest.strip_prefix('\\') {
            let (character, length) = escaped_character(escape);
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &escape[length..];
        }
    }
    // It is text, as it was before.
    String::from_utf8(out).unwrap_or_default()
}

/// The character of an escape that starts with `u`, and how much of `escape` it takes. A pair of
/// surrogates is one character; a surrogate alone is U+FFFD.
fn unescape_unicode(escape: &str) -> (char, usize) {
    let Some(unit) = hex_unit(escape, 1) else { return (char::REPLACEMENT_CHARACTER, 1) };
    if let Some(character) = char::from_u32(unit) {
        return (character, 5);
    }
    // A low surrogate counts only behind a high one.
    let low = if unit < 0xDC00 && escape.get(5..7) == Some("\\u") { hex_unit(escape, 7) } else { None };
    if let Some(low @ 0xDC00..=0xDFFF) = low {
        let code = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11);
    }
    (char::REPLACEMENT_CHARACTER, 5)
}

/// The UTF-16 code unit written as four hexadecimal digits at byte `at`.
fn hex_unit(escape: &str, at: usize) -> Option<u32> {
    u32::from_str_radix(escape.get(at..at + 4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The field `v` of the object, or a panic.
    fn value(text: &str) -> Value<'_> {
        object(text, &["v"]).and_then(|[value]| value).unwrap()
    }

    fn string(inner: &str) -> String {
        value(&format!("{{\"v\":\"{inner}\"}}")).as_string().unwrap().into_owned()
    }

    fn number(spelling: &str) -> Option<u32> {
        value(&format!("{{\"v\":{spelling}}}")).as_u31()
    }

    #[test]
    fn what_is_not_one_json_object_is_none() {
        for text in [
            "",
            " ",
            "null",
            "1",
            "\"v\"",
            "[]",
            "[{}]",
            "{",
            "}",
            "{}{}",
            "{} x",
            "{]",
            "{,}",
            "{\"v\"}",
            "{\"v\":}",
            "{\"v\":1,}",
            "{\"v\" 1}",
            "{v:1}",
            "{'v':1}",
            "{1:1}",
            "{null:1}",
            "{\"v\":01}",
            "{\"v\":+1}",
            "{\"v\":-}",
            "{\"v\":.5}",
            "{\"v\":1.}",
            "{\"v\":1e}",
            "{\"v\":NaN}",
            "{\"v\":Infinity}",
            "{\"v\":True}",
            "{\"v\":nul}",
            "{\"v\":\"}",
            "{\"v\":\"\\x\"}",
            "{\"v\":\"\\u12\"}",
            "{\"v\":\"\\u12G4\"}",
            "{\"v\":\"\\u+123\"}",
            "{\"v\":\"\n\"}",
            "{\"v\":\"\t\"}",
            "{\"v\":\"\0\"}",
            "{\"v\n\":1}",
            "{\"\0\":1}",
            "{\"\\x\":1}",
            "{\"w\":[\"\n\"]}",
            "{\"w\":{\"\n\":1}}",
            "{\"w\":[1,]}",
            "{\"w\":[}",
            "{\"w\":[}]",
            "{/**/}",
            "{} //",
            "\u{feff}{}",
            "\u{fffd}{}",
            "{\u{a0}}",
        ] {
            assert!(object(text, &["v"]).is_none(), "{text:?}");
        }
    }

    #[test]
    fn blanks_are_allowed_where_json_allows_them() {
        let [v] = object(" \t\r\n{ \"v\" : \r\n true\t} \n", &["v"]).unwrap();
        assert_eq!(v.unwrap().as_bool(), Some(true));
        let [v] = object("{}", &["v"]).unwrap();
        assert!(v.is_none());
    }

    #[test]
    fn of_duplicates_the_last_counts_however_the_key_is_spelled() {
        assert_eq!(number("1,\"v\":2"), Some(2));
        assert_eq!(number("1,\"\\u0076\":3"), Some(3));
        assert!(value("{\"\\u0076\":1,\"v\":null}").is_null());
        let [slash] = object("{\"a\\/b\\n\":true}", &["a/b\n"]).unwrap();
        assert_eq!(slash.unwrap().as_bool(), Some(true));
    }

    #[test]
    fn other_fields_are_skipped_whatever_they_hold() {
        let text = "{\"a\":1e999999,\"b\":\"\\ud800\",\"\\udfff\":[{\"v\":0}],\"\":-0.0e-0,\"v\":true,\"V\":false}";
        assert_eq!(value(text).as_bool(), Some(true));
    }

    #[test]
    fn strings_without_escapes_are_borrowed() {
        let text = "{\"v\":\"gr\u{fc}n \u{1f600} \u{2028} \u{7f}\"}".to_string();
        let Some(Cow::Borrowed(inner)) = value(&text).as_string() else { panic!("copied") };
        assert_eq!(inner, "gr\u{fc}n \u{1f600} \u{2028} \u{7f}");
    }

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
            assert_eq!(string(inner), expected, "{inner}");
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
    fn the_bytes_before_a_backslash_are_counted_whatever_stands_around_it() {
        for behind in [b'a', b'[', b']', 0x80, 0xFF, b'\\'] {
            for at in 0..WORD {
                for byte in 0..=u8::MAX {
                    let mut word = [b'a'; WORD];
                    word[at..].fill(behind);
                    word[at] = byte;
                    for literal in [false, true] {
                        let plain = |(n, byte): (usize, &u8)| *byte != b'\\' || (literal && n == 0);
                        let expected = word.iter().enumerate().take_while(|at| plain(*at)).count();
                        assert_eq!(plain_bytes(&word, literal), expected, "{word:?} {literal}");
                    }
                }
            }
        }
    }

    #[test]
    fn json_within_json_is_copied_in_one_go() {
        let quoted = "{\\\"path\\\":\\\"C:\\\\\\/\\\"}";
        for inner in [quoted, &format!("{quoted}\\n{quoted}")] {
            let mut out = b"before".to_vec();
            assert_eq!(copy_plain(inner, &mut out), quoted.len());
            assert_eq!(out, b"before{\"path\":\"C:\\/\"}");
        }
    }

    #[test]
    fn an_escape_is_found_however_far_away_it_stands() {
        for distance in 0..100 {
            let run = "x".repeat(distance);
            assert_eq!(string(&format!("{run}\\n{run}\\t")), format!("{run}\n{run}\t"));
        }
    }

    #[test]
    fn each_lone_surrogate_is_one_replacement_character() {
        assert_eq!(string("\\ud800"), "\u{fffd}");
        assert_eq!(string("a\\udc00b"), "a\u{fffd}b");
        assert_eq!(string("\\ud800\\ud800"), "\u{fffd}\u{fffd}");
        assert_eq!(string("\\udc00\\ud800"), "\u{fffd}\u{fffd}");
        assert_eq!(string("\\ud83d\\ud83d\\ude00"), "\u{fffd}\u{1f600}");
        assert_eq!(string("\\ud83d\\ude00\\ude00"), "\u{1f600}\u{fffd}");
        assert_eq!(string("\\udc00\\udc00"), "\u{fffd}\u{fffd}");
        assert_eq!(string("\\ud83d\\n"), "\u{fffd}\n");
        assert_eq!(string("\\ud83d\\u0041"), "\u{fffd}A");
        assert_eq!(string("\\ud83dude00"), "\u{fffd}ude00");
        assert_eq!(string("\\ud83d\\\\ude00"), "\u{fffd}\\ude00");
        assert_eq!(string("\\ud83d\u{e9}"), "\u{fffd}\u{e9}");
    }

    #[test]
    fn integers_count_by_value_not_by_spelling() {
        for (spelling, expected) in [
            ("0", 0),
            ("-0", 0),
            ("-0.0e5", 0),
            ("0e999999999999999999999", 0),
            ("0.000e-999999999999999999999", 0),
            ("3000", 3000),
            ("3000.0", 3000),
            ("3000.000000000000000000000000000", 3000),
            ("3e3", 3000),
            ("3E+3", 3000),
            ("0.3e4", 3000),
            ("0.0003e7", 3000),
            ("30000000e-4", 3000),
            ("300000.00e-2", 3000),
            ("1.5e1", 15),
            ("10e0", 10),
            ("100e-1", 10),
            ("2147483647", 2_147_483_647),
            ("2147483647.0", 2_147_483_647),
            ("2.147483647e9", 2_147_483_647),
            ("21474836470e-1", 2_147_483_647),
        ] {
            assert_eq!(number(spelling), Some(expected), "{spelling}");
        }
        let long = format!("7{}e-{}", "0".repeat(5000), 5000);
        assert_eq!(number(&long), Some(7));
        let tiny = format!("0.{}7e5001", "0".repeat(5000));
        assert_eq!(number(&tiny), Some(7));
    }

    #[test]
    fn other_numbers_and_types_are_no_integers() {
        for spelling in [
            "-1",
            "-1e3",
            "0.5",
            "1.5",
            "3000.0000000000000000000000000001",
            "15e-1",
            "1e-1",
            "1e-400",
            "1e999999999999999999999",
            "1e-999999999999999999999",
            "1e9223372036854775807",
            "1e-9223372036854775808",
            "1.5e-9223372036854775808",
            "1e400",
            "2147483648",
            "2147483648.0",
            "4294967295",
            "4294967296",
            "1e10",
            "99999999999999999999999999999",
            "null",
            "true",
            "\"3000\"",
            "\"\"",
            "[]",
            "[3000]",
            "{}",
        ] {
            assert_eq!(number(spelling), None, "{spelling}");
        }
    }

    #[test]
    fn types_are_told_apart() {
        assert!(value("{\"v\":null}").is_null());
        assert!(!value("{\"v\":\"null\"}").is_null());
        for (text, string, boolean, object) in [
            ("{\"v\":null}", false, false, false),
            ("{\"v\":true}", false, true, false),
            ("{\"v\":false}", false, true, false),
            ("{\"v\":0}", false, false, false),
            ("{\"v\":\"\"}", true, false, false),
            ("{\"v\":\"true\"}", true, false, false),
            ("{\"v\":[]}", false, false, false),
            ("{\"v\":[\"\"]}", false, false, false),
            ("{\"v\":{}}", false, false, true),
        ] {
            let value = value(text);
            assert_eq!(value.as_string().is_some(), string, "{text}");
            assert_eq!(value.as_bool().is_some(), boolean, "{text}");
            assert_eq!(value.as_object(&["v"]).is_some(), object, "{text}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let depth = 100_000;
        for (open, close) in [("[", "]"), ("{\"v\":", "}")] {
            let deep = format!("{{\"w\":{0}1{1},\"v\":{0}1{1}}}", open.repeat(depth), close.repeat(depth));
            let value = value(&deep);
            assert!(value.as_string().is_none() && value.as_u31().is_none() && value.as_bool().is_none());
            assert_eq!(value.as_object(&["v"]).is_some(), open.starts_with('{'));
            assert!(object(&deep[..deep.len() - 2], &["v"]).is_none());
        }
    }

    #[test]
    fn invalid_utf8_becomes_replacement_characters() {
        assert!(matches!(text("{\"v\":\"\u{e9}\"}".as_bytes()), Cow::Borrowed(_)));
        assert_eq!(text(b"{\"v\":\"a\xFFb\xE2\x82\"}"), "{\"v\":\"a\u{fffd}b\u{fffd}\"}");
    }
}
