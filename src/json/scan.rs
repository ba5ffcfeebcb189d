//! The fast path: the usual JSON of backends, in one pass. It reports no errors. Anything unusual, whether an error or
//! just a negative number, ends it with `None`, and the full parser reads the text again.
//!
//! Written by hand, because a send is parsed for every event. A derived serde_json struct takes 1.2 times the
//! instructions for 100 bytes of text, and 2.3 times for 1 kB of quoted JSON, which it also has to allocate. Tests and
//! a fuzz target compare the two parsers.

use super::unescape::{plain_bytes, plain_bytes_of_word, unescape};
use super::value::{Fields, Value};

pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// The buffer for one string with escapes; a second such string is unusual and ends the fast path.
    scratch: Option<&'a mut String>,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str, scratch: &'a mut String) -> Self {
        Scanner { text, at: 0, scratch: Some(scratch) }
    }

    /// Reads an object; `read` is called with each key and reads its value.
    #[inline]
    pub(crate) fn object(&mut self, mut read: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            if self.peek()? != b'"' {
                return None;
            }
            let key = self.key()?;
            self.take(b':')?;
            read(self, key)?;
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    /// Reads an object and returns the fields `names`, as [`super::value::object`] does.
    #[inline]
    pub(crate) fn fields<const N: usize>(&mut self, names: &[&str; N]) -> Option<Fields<'a, N>> {
        let mut fields = [None; N];
        self.object(|scanner, key| {
            let value = scanner.value()?;
            if let Some(index) = names.iter().position(|name| *name == key) {
                fields[index] = Some(value);
            }
            Some(())
        })?;
        Some(fields)
    }

    /// Reads a string, without its escapes, a literal, or a number in digits.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> Option<Value<'a>> {
        match self.peek()? {
            b'"' => Some(Value::String { raw: self.string()?, escaped: false }),
            b'0'..=b'9' | b'f' | b'n' | b't' => self.word(),
            _ => None,
        }
    }

    /// Whether only white space is left.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// The next byte that is not white space, without consuming it.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.as_bytes().get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(*byte),
            }
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.at += 1;
        Some(())
    }

    /// Reads a string whose opening quote is next, and which is short.
    #[inline(always)]
    fn key(&mut self) -> Option<&'a str> {
        let start = self.at + 1;
        if let Some(word) = self.text.as_bytes().get(start..)?.first_chunk() {
            let length = plain_bytes_of_word(*word);
            if word.get(length) == Some(&b'"') {
                self.at = start + length + 1;
                return self.text.get(start..start + length);
            }
        }
        self.string()
    }

    /// Reads a string whose opening quote is next.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at + 1;
        let end = start + plain_bytes(&self.text.as_bytes()[start..]);
        match self.text.as_bytes().get(end)? {
            b'"' => {
                self.at = end + 1;
                self.text.get(start..end)
            }
            b'\\' => self.escaped_string(),
            _ => None,
        }
    }

    fn escaped_string(&mut self) -> Option<&'a str> {
        self.at += 1;
        let scratch = self.scratch.take()?;
        self.at += unescape(self.rest(), scratch);
        if self.rest().first() != Some(&b'"') {
            return None;
        }
        self.at += 1;
        Some(scratch)
    }

    fn word(&mut self) -> Option<Value<'a>> {
        let rest = self.rest();
        let length = match rest.first()? {
            b't' if rest.starts_with(b"true") => 4,
            b'f' if rest.starts_with(b"false") => 5,
            b'n' if rest.starts_with(b"null") => 4,
            b'0' => 1,
            _ => rest.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        };
        let word = self.text.get(self.at..self.at + length).filter(|word| !word.is_empty())?;
        self.at += length;
        Some(Value::Other(word))
    }
}
