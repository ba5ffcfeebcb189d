//! The readable part of a head that could not be parsed to its end, because it is too long or malformed, for example.

/// The complete lines of a head that could not be parsed.
fn lines(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let complete = memchr::memrchr(b'\n', input).map_or(0, |end| end + 1);
    input[..complete].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).skip_while(|line| line.is_empty())
}

/// The target in the first line of a head that could not be parsed.
pub(crate) fn target(input: &[u8]) -> Option<&[u8]> {
    lines(input).next()?.split(|byte| *byte == b' ').nth(1)
}

/// The first `Origin` of a head that could not be parsed.
pub(crate) fn origin(input: &[u8]) -> Option<&[u8]> {
    let mut fields = lines(input).skip(1).take_while(|line| !line.is_empty());
    fields.find_map(|line| {
        let (name, value) = line.split_at_checked("origin:".len())?;
        let value = value.trim_ascii();
        let is_field_value = value.iter().all(|byte| (b' '..=b'~').contains(byte));
        (name.eq_ignore_ascii_case(b"origin:") && is_field_value).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_has_come() {
        let input = b"\r\nGET /x HTTP/1.1\r\nHost: h\r\nORIGIN:  https://a.example \r\nOrigin: b\r\nCookie: aaaa";
        assert_eq!(target(input), Some(&b"/x"[..]));
        assert_eq!(origin(input), Some(&b"https://a.example"[..]));
    }

    #[test]
    fn leaves_out_what_has_not() {
        assert_eq!(target(b"GET /x HTT"), None);
        assert_eq!(target(b"\x16\x03\x01\n"), None);
        for input in [
            &b"Origin: a\r\n"[..],
            b"GET /x HTTP/1.1\r\nOrigin: https://a.exam",
            b"GET /x HTTP/1.1\r\n\r\nOrigin: a\r\n",
            b"GET /x HTTP/1.1\r\nOrigin: a\rb\r\n",
            b"GET /x HTTP/1.1\r\nX-Origin: a\r\n",
        ] {
            assert_eq!(origin(input), None, "{:?}", String::from_utf8_lossy(input));
        }
    }
}
