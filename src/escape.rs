//! Foreign text in our log lines: a log record must stay one line and must not control a terminal.

use std::fmt::{self, Display, Formatter, Write};

/// Displays text that a peer or the environment supplied, with control characters (C0, DEL, C1) and
/// the line separators U+2028 and U+2029 written as Rust escapes (`\n`, `\u{1b}`), and `\` doubled
/// so that the result is unambiguous.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let mut plain_from = 0;
        for (at, character) in self.0.char_indices() {
            if !needs_escape(character) {
                continue;
            }
            out.write_str(&self.0[plain_from..at])?;
            for escaped in character.escape_default() {
                out.write_char(escaped)?;
            }
            plain_from = at + character.len_utf8();
        }
        out.write_str(&self.0[plain_from..])
    }
}

fn needs_escape(character: char) -> bool {
    character.is_control() || matches!(character, '\\' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_passes_unchanged() {
        for text in ["", "/chat?room=1", "\u{fc}ml\u{e4}ut \u{65e5}\u{672c}", "quotes ' \""] {
            assert_eq!(Escaped(text).to_string(), text);
        }
    }

    #[test]
    fn control_characters_are_spelled_out() {
        let text = "a\r\nb\tc\u{1b}[31m\0\u{7f}\u{85}\u{9b}\u{2028}\u{2029}\\n";
        let want = r"a\r\nb\tc\u{1b}[31m\u{0}\u{7f}\u{85}\u{9b}\u{2028}\u{2029}\\n";
        assert_eq!(Escaped(text).to_string(), want);
    }
}
