//! The full parser, and values parsed as the type that the caller expects.

use super::unescape::unescaped;
use serde::de::{Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

/// The values of the requested fields, in that order; the last of duplicates.
pub(crate) type Fields<'a, const N: usize> = [Option<Value<'a>>; N];

/// Reads `text` as one JSON object and returns the fields `names`. `None` if `text` is not JSON or not an object.
pub(crate) fn object<'a, const N: usize>(text: &'a str, names: &[&str; N]) -> Option<Fields<'a, N>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = deserializer.deserialize_map(FieldsVisitor { names }).ok()?;
    deserializer.end().ok()?;
    Some(fields)
}

/// One JSON value, known to be valid.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// The text between the quotes if `escaped`, otherwise the text itself.
    String { raw: &'a str, escaped: bool },
    /// The text of any other value, trimmed.
    Other(&'a str),
}

impl<'a> Value<'a> {
    /// Text that may be an object.
    pub(crate) fn object(text: &'a str) -> Self {
        Value::Other(text)
    }

    fn from_text(text: &'a str) -> Self {
        match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(raw) => Value::String { raw, escaped: true },
            None => Value::Other(text),
        }
    }

    pub(crate) fn is_null(self) -> bool {
        matches!(self, Value::Other("null"))
    }

    /// The boolean, or `None` for any other type.
    pub(crate) fn as_bool(self) -> Option<bool> {
        match self {
            Value::Other("true") => Some(true),
            Value::Other("false") => Some(false),
            Value::Other(_) | Value::String { .. } => None,
        }
    }

    /// The string, borrowed if it has no escapes; lone surrogates become U+FFFD. `None` for any other type.
    pub(crate) fn as_string(self) -> Option<Cow<'a, str>> {
        match self {
            Value::String { raw, escaped: false } => Some(Cow::Borrowed(raw)),
            Value::String { raw, escaped: true } => Some(unescaped(raw)),
            Value::Other(_) => None,
        }
    }

    /// The text of an integer written in digits, of any size. `None` for any other number or type.
    pub(crate) fn as_digits(self) -> Option<&'a str> {
        let Value::Other(text) = self else { return None };
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)
    }

    /// The number, if it is mathematically an integer in 0..=2147483647, however it is spelled (`3000.0`,
    /// `3e3`, `-0`). Exact: nothing is rounded. `None` for any other number or type.
    pub(crate) fn as_u31(self) -> Option<u32> {
        let Value::Other(text) = self else { return None };
        // The usual form. Plus signs and the like cannot appear in valid JSON.
        if let Ok(number) = text.parse::<u32>() {
            return in_u31(number.into());
        }
        if !text.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
            return None;
        }
        let (negative, magnitude) = match text.strip_prefix('-') {
            Some(magnitude) => (true, magnitude),
            None => (false, text),
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
        // beyond i64 makes it huge or tiny: a body with enough digits to balance it does not fit in memory.
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
        // Ends within ten steps, since the number is not zero and soon leaves the range.
        for _ in 0..scale {
            number *= 10;
            in_u31(number)?;
        }
        in_u31(number)
    }

    /// The elements of the array; `None` for any other type, and for an array of more than `count_max`.
    pub(crate) fn as_array(self, count_max: usize) -> Option<Vec<Self>> {
        let Value::Other(text) = self else { return None };
        serde_json::Deserializer::from_str(text).deserialize_seq(ElementsVisitor { count_max }).ok()
    }

    /// Name and value of each field of the object, in order; of two with one name the later. `None` for any other type.
    pub(crate) fn as_entries(self) -> Option<Vec<(Cow<'a, str>, Self)>> {
        let Value::Other(text) = self else { return None };
        serde_json::Deserializer::from_str(text).deserialize_map(EntriesVisitor).ok()
    }

    /// The fields `names` of the object, as [`object`] finds them; `None` for any other type.
    pub(crate) fn as_object<const N: usize>(self, names: &[&str; N]) -> Option<Fields<'a, N>> {
        match self {
            Value::Other(text) => object(text, names),
            Value::String { .. } => None,
        }
    }
}

/// Collects the elements of one array, as long as there are not too many.
struct ElementsVisitor {
    count_max: usize,
}

impl<'de> Visitor<'de> for ElementsVisitor {
    type Value = Vec<Value<'de>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "an array of at most {} elements", self.count_max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(element) = elements.next_element::<&RawValue>()? {
            if values.len() == self.count_max {
                return Err(A::Error::custom("too many elements"));
            }
            values.push(Value::from_text(element.get()));
        }
        Ok(values)
    }
}

/// Collects all fields of one object.
struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Vec<(Cow<'de, str>, Value<'de>)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries: Self::Value = Vec::new();
        let mut places: HashMap<Cow<'de, str>, usize> = HashMap::new();
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let Some(key) = Value::from_text(key.get()).as_string() else { continue };
            let value = Value::from_text(value.get());
            match places.entry(key.clone()) {
                Entry::Occupied(place) => entries[*place.get()].1 = value,
                Entry::Vacant(place) => {
                    place.insert(entries.len());
                    entries.push((key, value));
                }
            }
        }
        Ok(entries)
    }
}

fn in_u31(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number <= i32::MAX as u32)
}

/// Collects the named fields of one object and skips the others.
struct FieldsVisitor<'n, const N: usize> {
    names: &'n [&'n str; N],
}

impl<'de, const N: usize> Visitor<'de> for FieldsVisitor<'_, N> {
    type Value = Fields<'de, N>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = [None; N];
        // Keys are read as raw values too: serde_json accepts control characters in keys that are read as bytes.
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let Some(key) = Value::from_text(key.get()).as_string() else { continue };
            if let Some(index) = self.names.iter().position(|name| *name == key) {
                fields[index] = Some(Value::from_text(value.get()));
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The field `v` of the object, or a panic.
    fn value(text: &str) -> Value<'_> {
        object(text, &["v"]).and_then(|[value]| value).unwrap()
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
}
