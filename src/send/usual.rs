//! The usual body in one pass: a shortcut past the careful reader that never judges. Whatever is wrong or
//! merely odd (a number as `3e3`, a lone surrogate, a bad value that a later duplicate may yet replace) ends
//! the shortcut, and the careful reader decides.

use super::{EventFields, SendCommand, Text, has_line_break};
use crate::json::Value;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Reads `text` if it is a good command spelled as backends usually spell it.
pub(super) fn parse(text: &str) -> Option<SendCommand<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let command = deserializer.deserialize_map(Command).ok()?;
    deserializer.end().ok()?;
    Some(command)
}

struct Command;

impl<'de> Visitor<'de> for Command {
    type Value = SendCommand<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a command")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SendCommand<'de>, A::Error> {
        let mut token = Cow::Borrowed("");
        let mut event = None;
        let mut close = false;
        while let Some(key) = map.next_key_seed(Line)? {
            match &*key {
                "token" => token = map.next_value_seed(Line)?,
                "event" => event = Some(map.next_value_seed(Event)?),
                "close" => close = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if token.is_empty() {
            return Err(A::Error::missing_field("token"));
        }
        Ok(SendCommand { token, event, close })
    }
}

struct Event;

impl<'de> DeserializeSeed<'de> for Event {
    type Value = EventFields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<EventFields<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Event {
    type Value = EventFields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EventFields<'de>, A::Error> {
        let (mut data, mut name, mut id, mut retry) = (None, None, None, None);
        while let Some(key) = map.next_key_seed(Line)? {
            match &*key {
                "data" => data = Some(map.next_value::<&RawValue>()?),
                "name" => name = Some(map.next_value_seed(Line)?),
                "id" => id = Some(map.next_value_seed(Line)?),
                "retry" => retry = Some(map.next_value::<u32>()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let odd = [&name, &id].into_iter().flatten().any(|line: &Cow<'_, str>| has_line_break(line))
            || retry.is_some_and(|retry| i32::try_from(retry).is_err());
        match data.and_then(|data| Value::of(data).inner()).map(Text::from_json) {
            Some(data) if !odd => Ok(EventFields { name, id, retry, data }),
            Some(_) | None => Err(A::Error::custom("odd")),
        }
    }
}

/// A string, borrowed if it has no escapes. (What serde offers for `Cow` always copies.)
struct Line;

impl<'de> DeserializeSeed<'de> for Line {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Line {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SendError, parse_carefully};
    use super::*;

    #[test]
    fn the_usual_bodies_take_the_shortcut() {
        for body in [
            r#"{"token":"t"}"#,
            r#"{"token":"t","event":{"name":"n","data":"{\"a\":1}\n\u00e9\ud83d\ude00"}}"#,
            r#" { "close" : true, "event" : {"data":"","id":"","retry":2147483647}, "token" : "t", "x":[1e999] } "#,
        ] {
            assert_eq!(Ok(parse(body).unwrap()), parse_carefully(body), "{body}");
        }
    }

    #[test]
    fn the_shortcut_agrees_with_the_careful_reader_or_declines() {
        let values = [
            "null",
            "true",
            "0",
            "7",
            "-0",
            "-1",
            "3.0",
            "3e3",
            "2147483648",
            "4294967296",
            "1e999",
            "01",
            "\"\"",
            "\"a\"",
            "\"\\n\"",
            "\"\\u0000\"",
            "\"\\ud800\"",
            "\"\\ud83d\\ude00\"",
            "\"\n\"",
            "\"\\q\"",
            "\"a",
            "[]",
            "{}",
            "[\"a\"]",
            "{\"data\":\"d\"}",
            "",
        ];
        let keys = [
            "token",
            "event",
            "close",
            "data",
            "name",
            "id",
            "retry",
            "to\\u006ben",
            "d\\u0061ta",
            "x",
            "\\ud800",
            "x\n",
        ];
        for key in keys {
            for value in values {
                let field = format!("\"{key}\":{value}");
                for body in [
                    format!("{{{field}}}"),
                    format!("{{\"token\":\"t\",{field}}}"),
                    format!("{{{field},\"token\":\"t\",\"event\":{{\"data\":\"d\"}},\"close\":false}}"),
                    format!("{{\"token\":\"t\",\"event\":{{\"data\":\"d\",{field}}}}}"),
                    format!(
                        "{{\"token\":\"t\",\"event\":{{{field},\"data\":\"d\",\"name\":\"n\",\"id\":\"1\",\"retry\":9}}}}"
                    ),
                    format!("{{\"token\":\"t\",{field}}} x"),
                ] {
                    if let Some(command) = parse(&body) {
                        assert_eq!(Ok(command), parse_carefully(&body), "{body}");
                    }
                }
            }
        }
    }

    /// Bodies with bytes replaced, removed, doubled and spliced at random, the same ones every time.
    #[test]
    fn both_readers_agree_on_mutilated_bodies() {
        let full = r#"{"token":"t\u0041","event":{"name":"n","id":"\ud83d\ude00","retry":3000,"data":"a\n\"b"},"close":true,"x":[{},1.5e3]}"#;
        let letters = b"{}[]\",:\\u09deE+-. \n\0ntf";
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        let (mut shortcuts, mut valid) = (0, 0);
        for _ in 0..30_000 {
            let mut body = full.as_bytes().to_vec();
            for _ in 0..=random(2) {
                let at = random(body.len());
                match random(4) {
                    0 => body[at] = letters[random(letters.len())],
                    1 => drop(body.remove(at)),
                    2 => body.insert(at, letters[random(letters.len())]),
                    _ => {
                        let piece = body[at..(at + random(40)).min(body.len())].to_vec();
                        let to = random(body.len());
                        body.splice(to..to, piece);
                    }
                }
            }
            let body = String::from_utf8(body).unwrap();
            let careful = parse_carefully(&body);
            let is_object = serde_json::from_str::<IgnoredAny>(&body).is_ok() && body.trim_ascii().starts_with('{');
            assert_eq!(careful != Err(SendError::InvalidJson), is_object, "{body}");
            valid += u32::from(is_object);
            if let Some(command) = parse(&body) {
                shortcuts += 1;
                assert_eq!(Ok(command), careful, "{body}");
            }
        }
        assert!(shortcuts > 1000 && valid > shortcuts, "{shortcuts} shortcuts, {valid} valid");
    }
}
