//! The usual body in one pass: a shortcut past the careful reader that never judges. Whatever is wrong or merely odd
//! (a field that nobody knows, an escape in a token, a number as `3e3`) ends the shortcut, and the careful reader
//! decides.
//!
//! By hand, for speed alone: this runs for every event, and serde_json, which serves the careful reader, takes three
//! times as long. Tests and a fuzzer hold it to what that one says.

use super::{EventFields, SendCommand, Text};
use crate::json::{BLOCK, Block, Padding, WORD, escape_starts, unremarkable_bytes};
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
        while let Some(word) = text.get(at..at + WORD) {
            let count = unremarkable_bytes(word);
            at += count;
            if count < WORD {
                break;
            }
        }
        loop {
            match text.get(at)? {
                b'"' => return self.string_until(at, false),
                b'\\' => {
                    let end = self.end_of_escaped(at)?;
                    return self.string_until(end, true);
                }
                control if *control < b' ' => return None,
                // Less than a word is left.
                _ => at += 1,
            }
        }
    }

    /// Ends a string before the quote at `end`.
    fn string_until(&mut self, end: usize, escaped: bool) -> Option<Text<'a>> {
        let inner = self.text.get(self.at..end)?;
        self.at = end + 1;
        Some(Text::spelled(inner, escaped))
    }

    /// Where the quote is that ends a string whose first escape is at `at`. JSON within JSON has many, so this goes by
    /// blocks.
    fn end_of_escaped(&self, mut at: usize) -> Option<usize> {
        let text = self.text.as_bytes();
        while at < text.len() {
            let mut padding = Padding::new();
            let block = Block::of(&text[at..], &mut padding);
            let (quotes, backslashes) = (block.places_of(b'"'), block.places_of(b'\\'));
            let starts = escape_starts(backslashes);
            let escaped = starts << 1;
            let length = (quotes & !escaped).trailing_zeros() as usize;
            if block.has_control(length) {
                return None;
            }
            let mut others = escaped & !(quotes | backslashes);
            while others != 0 {
                let place = others.trailing_zeros() as usize;
                if place >= length {
                    break;
                }
                others &= others - 1;
                match &text[at + place..] {
                    [b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => {}
                    [b'u', unit @ ..] if unit.get(..4)?.iter().all(u8::is_ascii_hexdigit) => {}
                    _ => return None,
                }
            }
            if length < BLOCK {
                return Some(at + length);
            }
            // An escape that would be cut off belongs to the next block.
            at += BLOCK - (starts >> (BLOCK - 1)) as usize;
        }
        None
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

    /// Of every length, so that escapes lie across the ends of blocks, and some of them bad.
    #[test]
    fn both_readers_agree_on_data_of_any_length() {
        let good = ["a", "\\\"", "\\\\", "\\/", "\\n", "\\u00e9", "\\ud83d\\ude00", "\u{20ac}", "        "];
        let bad = ["\\x", "\\u12g4", "\\u\u{e9}12", "\n", "\0", "\"", "\\"];
        let mut state = 1_u32;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as usize % below
        };
        for length in 0..300 {
            let mut letters: Vec<&str> = (0..length).map(|_| good[random(good.len())]).collect();
            let body =
                |letters: &[&str]| format!("{{\"event\":{{\"data\":\"{}\"}},\n\"token\":\"t\"}}", letters.concat());
            let well = body(&letters);
            assert_eq!(parse(&well).ok_or(SendError::InvalidJson), parse_carefully(&well), "{well}");
            letters.insert(random(length + 1), bad[random(bad.len())]);
            let ill = body(&letters);
            if let Some(command) = parse(&ill) {
                assert_eq!(Ok(command), parse_carefully(&ill), "{ill}");
            }
        }
    }

    /// The first escape starts a block, so each of these crosses the end of one at some distance.
    #[test]
    fn a_bad_escape_is_seen_wherever_in_a_block_it_stands() {
        for gap in 0..2 * BLOCK + 2 {
            let run = "x".repeat(gap);
            for (escape, is_good) in
                [("\\n", true), ("\\u00e9", true), ("\\x", false), ("\\u12g4", false), ("\\u1", false)]
            {
                let body = format!("{{\"token\":\"t\",\"event\":{{\"data\":\"\\n{run}{escape}\"}}}}");
                assert_eq!(parse(&body).is_some(), is_good, "{body}");
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
