//! The usual body in one pass: a shortcut past the careful reader that never judges. Whatever is wrong or merely odd
//! (a field that nobody knows, an escape in a token, a number as `3e3`) ends the shortcut, and the careful reader
//! decides.
//!
//! By hand, for speed alone: this runs for every event, and serde_json, which serves the careful reader, takes three
//! times as long. Tests and a fuzzer hold it to what that one says.

use super::{EventFields, SendCommand, Text};
use crate::json::{ONES, WORD, equal_bytes, first_byte, word_of};
use std::borrow::Cow;

/// Reads `text` if it is a good command spelled as backends usually spell it.
pub(super) fn parse(text: &str) -> Option<SendCommand<'_>> {
    let mut reader = Reader { text, at: 0 };
    let (mut token, mut event, mut close) = ("", None, false);
    reader.object(|reader, key| {
        match key {
            "token" => token = reader.plain_string()?,
            "event" => event = Some(reader.event()?),
            "close" => close = reader.boolean()?,
            _ => return None,
        }
        Some(())
    })?;
    reader.skip_blanks();
    let complete = reader.at == text.len() && !token.is_empty();
    complete.then_some(SendCommand { token: Cow::Borrowed(token), event, close })
}

/// Reads JSON from `at` on. `None` from any of its functions ends the shortcut.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', ..] = self.rest() {
            self.at += 1;
        }
    }

    /// Takes `byte`, and blanks before it, if that comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let comes = self.rest().first() == Some(&byte);
        self.at += usize::from(comes);
        comes
    }

    /// Reads an object; `field` is given each key and reads the value.
    fn object(&mut self, mut field: impl FnMut(&mut Reader<'a>, &'a str) -> Option<()>) -> Option<()> {
        if !self.take(b'{') {
            return None;
        }
        if self.take(b'}') {
            return Some(());
        }
        loop {
            let key = self.plain_string()?;
            if !self.take(b':') {
                return None;
            }
            field(self, key)?;
            if !self.take(b',') {
                return self.take(b'}').then_some(());
            }
        }
    }

    fn event(&mut self) -> Option<EventFields<'a>> {
        let (mut data, mut name, mut id, mut retry) = (None, None, None, None);
        self.object(|reader, key| {
            match key {
                "data" => data = Some(reader.string()?),
                "name" => name = Some(reader.plain_string()?),
                "id" => id = Some(reader.plain_string()?),
                "retry" => retry = Some(reader.retry()?),
                _ => return None,
            }
            Some(())
        })?;
        Some(EventFields { name: name.map(Cow::Borrowed), id: id.map(Cow::Borrowed), retry, data: data? })
    }

    /// A string without escapes, and so without control characters.
    fn plain_string(&mut self) -> Option<&'a str> {
        self.string()?.plain()
    }

    /// A string (RFC 8259, section 7).
    fn string(&mut self) -> Option<Text<'a>> {
        if !self.take(b'"') {
            return None;
        }
        let text = self.text.as_bytes();
        let mut at = self.at;
        let mut escaped = false;
        loop {
            while let Some(word) = text.get(at..at + WORD) {
                let count = unremarkable_bytes(word);
                at += count;
                if count < WORD {
                    break;
                }
            }
            match text.get(at)? {
                b'"' => {
                    let inner = self.text.get(self.at..at)?;
                    self.at = at + 1;
                    return Some(Text::spelled(inner, escaped));
                }
                b'\\' => {
                    escaped = true;
                    at += match text.get(at + 1)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                        b'u' if text.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => 6,
                        _ => return None,
                    }
                }
                control if *control < b' ' => return None,
                // Less than a word is left.
                _ => at += 1,
            }
        }
    }

    fn boolean(&mut self) -> Option<bool> {
        self.skip_blanks();
        let truth = self.rest().starts_with(b"true");
        if !truth && !self.rest().starts_with(b"false") {
            return None;
        }
        self.at += if truth { "true".len() } else { "false".len() };
        Some(truth)
    }

    /// A number in digits, from 0 to 2147483647. Whatever else may belong to it is not what follows a value.
    fn retry(&mut self) -> Option<u32> {
        self.skip_blanks();
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = self.text.get(self.at..self.at + count)?;
        if count > 1 && digits.starts_with('0') {
            return None;
        }
        self.at += count;
        digits.parse().ok().filter(|number| i32::try_from(*number).is_ok())
    }
}

/// How many bytes of `word` stand before the first quote, backslash or control character.
fn unremarkable_bytes(word: &[u8]) -> usize {
    let word = word_of(word);
    let below_blank = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
    first_byte(below_blank | equal_bytes(word, b'"') | equal_bytes(word, b'\\'))
}

#[cfg(test)]
mod tests {
    use super::super::{SendError, parse_carefully};
    use super::*;
    use serde::de::IgnoredAny;

    #[test]
    fn the_usual_bodies_take_the_shortcut() {
        for body in [
            r#"{"token":"t"}"#,
            r#"{"token":"t","event":{"name":"n","data":"{\"a\":1}\n\u00e9\ud83d\ude00"}}"#,
            r#" { "close" : true, "event" : {"data":"","id":"","retry":2147483647}, "token" : "t" } "#,
            r#"{"token":"t","event":{"retry":0,"data":"a b"}}"#,
        ] {
            assert_eq!(Ok(parse(body).unwrap()), parse_carefully(body), "{body}");
        }
    }

    #[test]
    fn the_bytes_before_a_remarkable_one_are_counted_whatever_stands_around_it() {
        let remarkable = |byte: &u8| *byte < b' ' || [b'"', b'\\'].contains(byte);
        for before in [b'a', 0xFF] {
            for behind in [b' ', b'a', b'!', b'\x7f', 0x80, 0xFF, b'"', b'\\', 0] {
                for at in 0..WORD {
                    for byte in 0..=u8::MAX {
                        let mut word = [before; WORD];
                        word[at..].fill(behind);
                        word[at] = byte;
                        let expected = word.iter().position(remarkable).unwrap_or(WORD);
                        assert_eq!(unremarkable_bytes(&word), expected, "{word:?}");
                    }
                }
            }
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
        let fulls = [
            r#"{"token":"t","event":{"name":"name of it","id":"7","retry":3000,"data":"a\n\"b\ud83d\ude00"},"close":true}"#,
            r#"{"token":"t\u0041","event":{"name":"n","id":"\ud83d\ude00","retry":3000,"data":"a\n\"b"},"close":true,"x":[{},1.5e3]}"#,
        ];
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
            let mut body = fulls[random(2)].as_bytes().to_vec();
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
