//! A string of a body, left as it stands there until it is written.

use crate::json;
use crate::sse::Frame;
use std::borrow::Cow;
use std::fmt::{self, Debug, Formatter};

/// Text that may still have the escapes of a JSON string in it. Resolving them while a frame is written
/// saves a copy and an allocation: most data is JSON within JSON, and full of quotes.
#[derive(Clone)]
pub struct Text<'a> {
    /// The inside of a JSON string if `escaped`, otherwise the text itself.
    inner: Cow<'a, str>,
    escaped: bool,
}

impl<'a> Text<'a> {
    /// From the inside of a JSON string.
    pub(crate) fn from_json(inner: &'a str) -> Text<'a> {
        Text::spelled(inner, memchr::memchr(b'\\', inner.as_bytes()).is_some())
    }

    /// From the inside of a JSON string that is known to have escapes or to have none.
    pub(super) fn spelled(inner: &'a str, escaped: bool) -> Text<'a> {
        Text { inner: Cow::Borrowed(inner), escaped }
    }

    /// The text, if it was read in place and has no escapes.
    pub(super) fn plain(self) -> Option<&'a str> {
        match self.inner {
            Cow::Borrowed(text) if !self.escaped => Some(text),
            Cow::Borrowed(_) | Cow::Owned(_) => None,
        }
    }

    /// The text, borrowed if it has no escapes; lone surrogates become U+FFFD.
    pub fn resolved(&self) -> Cow<'_, str> {
        if self.escaped { Cow::Owned(json::unescape(&self.inner)) } else { Cow::Borrowed(&self.inner) }
    }

    /// The same text with a string of its own.
    pub fn into_owned(self) -> Text<'static> {
        Text { inner: Cow::Owned(self.inner.into_owned()), escaped: self.escaped }
    }

    /// Appends the text to a frame's data.
    pub(crate) fn write(&self, frame: &mut Frame<'_>) {
        if !self.escaped {
            return frame.push(&self.inner);
        }
        let mut escaped = json::Escaped::new(&self.inner);
        // JSON does not let control characters stand for themselves.
        while let Some(character) = frame.push_unbroken(|out| escaped.copy_plain(out)) {
            frame.push_character(character);
        }
    }
}

impl<'a, T: Into<Cow<'a, str>>> From<T> for Text<'a> {
    fn from(text: T) -> Text<'a> {
        Text { inner: text.into(), escaped: false }
    }
}

/// However it is spelled.
impl PartialEq for Text<'_> {
    fn eq(&self, other: &Text<'_>) -> bool {
        self.resolved() == other.resolved()
    }
}

impl Eq for Text<'_> {}

impl Debug for Text<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.resolved().fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::EventFields;

    fn frame(data: Text<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        EventFields { name: None, id: None, retry: None, data }.write(&mut out);
        out
    }

    #[test]
    fn a_frame_is_the_same_whether_escapes_are_resolved_before_or_while_it_is_written() {
        let letters = ["", "a", "\\n", "\\r", "\\\"", "\\u000a", "\\u000D", "\\ud83d\\ude00", "\u{e9}"];
        let mut texts = vec![String::new()];
        for _ in 0..4 {
            texts = texts.iter().flat_map(|text| letters.map(|letter| format!("{text}{letter}"))).collect();
        }
        for text in texts {
            let resolved = json::unescape(&text);
            assert_eq!(frame(Text::from_json(&text)), frame(resolved.into()), "{text}");
        }
    }

    #[test]
    fn texts_are_equal_however_they_are_spelled() {
        assert_eq!(Text::from_json("a\\u000a"), Text::from("a\n"));
        assert_ne!(Text::from_json("a\\u000a"), Text::from("a\\u000a"));
    }
}
