//! JSON from backends, read in place: the fields of an object as slices of its text, and each value parsed on demand as
//! the type the caller expects.
//!
//! serde_json decides what is JSON (except in the fast path, [`Scanner`]); the rest works on text that it has accepted.
//! Typed deserialization would refuse too much: duplicate fields, lone surrogates, and numbers too large for an `f64`
//! in unused fields. Nesting of any depth costs no stack, because unused values are skipped by a loop.

mod scan;
mod unescape;
mod value;

pub(crate) use scan::Scanner;
pub(crate) use unescape::unescaped;
pub(crate) use value::{Fields, Value, object};

/// The body as text; invalid UTF-8 becomes U+FFFD in `lossy`. A byte order mark is skipped, as RFC 8259 section 8.1
/// allows: .NET and PowerShell write one.
pub(crate) fn text<'a>(body: &'a [u8], lossy: &'a mut String) -> &'a str {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(_) => {
            *lossy = String::from_utf8_lossy(body).into_owned();
            lossy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_utf8_becomes_replacement_characters() {
        let mut lossy = String::new();
        assert_eq!(text("{\"v\":\"\u{e9}\"}".as_bytes(), &mut lossy), "{\"v\":\"\u{e9}\"}");
        assert_eq!(lossy, "", "text is not copied");
        assert_eq!(text("\u{feff}{}\u{feff}".as_bytes(), &mut lossy), "{}\u{feff}", "only the first mark is skipped");
        assert_eq!(text(b"{\"v\":\"a\xFFb\xE2\x82\"}", &mut lossy), "{\"v\":\"a\u{fffd}b\u{fffd}\"}");
    }
}
