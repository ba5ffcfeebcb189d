//! A second parser of the backend's JSON, by `serde_json::Value`, which shares only the grammar with the in-place
//! parser.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A body as the second parser sees it.
pub enum Body {
    /// An object that it can represent.
    Object(Fields),
    /// JSON of another type, or not JSON.
    Refused,
    /// JSON that it cannot represent: a lone surrogate, a number beyond an f64, deep nesting.
    Beyond,
}

/// An object; numbers also by their text, as a `Value` rounds them.
pub struct Fields {
    values: serde_json::Map<String, Value>,
    texts: BTreeMap<String, Box<RawValue>>,
}

impl Fields {
    fn read(text: &str) -> Option<Fields> {
        let values = serde_json::from_str(text).ok()?;
        let texts = serde_json::from_str(text).ok()?;
        Some(Fields { values, texts })
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The object in that field.
    pub fn object(&self, name: &str) -> Option<Fields> {
        Fields::read(self.texts.get(name)?.get())
    }

    /// The elements of the array in that field, each as an object if it is one.
    pub fn array(&self, name: &str) -> Option<Vec<Option<Fields>>> {
        let elements: Vec<Box<RawValue>> = serde_json::from_str(self.texts.get(name)?.get()).ok()?;
        Some(elements.iter().map(|element| Fields::read(element.get())).collect())
    }

    /// Whether the field is absent or `null`.
    pub fn is_absent(&self, name: &str) -> bool {
        self.get(name).is_none_or(Value::is_null)
    }

    /// The text of the integer in that field, if it is one in digits.
    pub fn digits(&self, name: &str) -> Option<&str> {
        let text = self.texts.get(name)?.get();
        (self.get(name)?.is_number() && !text.contains(['.', 'e', 'E'])).then_some(text)
    }

    /// The integer in that field, exactly; `Err` if it is not an integer in 0..=2147483647.
    pub fn integer(&self, name: &str) -> Option<Result<u32, ()>> {
        self.texts.get(name).map(|text| integer(text.get()).ok_or(()))
    }
}

pub fn read(text: &str) -> Body {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(fields) = Fields::read(text) {
        return Body::Object(fields);
    }
    // It ignores values, so it fails only on the grammar.
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let valid = IgnoredAny::deserialize(&mut deserializer).is_ok() && deserializer.end().is_ok();
    let object = text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{');
    if valid && object { Body::Beyond } else { Body::Refused }
}

/// A string without line breaks.
pub fn is_line(text: &str) -> bool {
    !text.contains(['\r', '\n', '\0'])
}

/// By long addition, digit by digit, of a decimal that is moved to where its point belongs.
fn integer(text: &str) -> Option<u32> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let text = text.to_ascii_lowercase();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    if digits.iter().all(|digit| *digit == b'0') {
        return Some(0);
    }
    // The input has no room for digits that would balance more.
    let exponent: i64 = exponent.parse().ok().filter(|exponent: &i64| exponent.abs() < 100_000)?;
    let mut point = i64::try_from(whole.len()).ok()? + exponent;
    while point < 0 {
        digits.insert(0, b'0');
        point += 1;
        if digits.len() > 100_000 {
            return None;
        }
    }
    let point = usize::try_from(point).ok()?;
    if digits.len() < point {
        digits.resize(point, b'0');
    }
    let (whole, fraction) = digits.split_at(point);
    if negative || fraction.iter().any(|digit| *digit != b'0') {
        return None;
    }
    let whole = String::from_utf8(whole.to_vec()).ok()?;
    let whole = whole.trim_start_matches('0');
    if whole.len() > 10 {
        return None;
    }
    whole.parse::<u64>().ok().filter(|number| *number <= 2_147_483_647).and_then(|number| u32::try_from(number).ok())
}
