//! Hosts in a `Host` field or an absolute target.

use core::net::Ipv6Addr;

/// Whether `text` is a host and, if it names one, a port (RFC 9110 section 7.2; RFC 3986 sections 3.2.2 and 3.2.3). The
/// host may be empty. A comma is not allowed in a name: it is more likely to separate two hosts.
pub(super) fn is_host(text: &[u8]) -> bool {
    if let Some(literal) = text.strip_prefix(b"[") {
        let end = memchr::memchr(b']', literal);
        return end.is_some_and(|end| is_address(&literal[..end]) && is_port(&literal[end + 1..]));
    }
    let mut rest = text;
    loop {
        let name = rest.iter().position(|byte| !is_name_byte(*byte)).unwrap_or(rest.len());
        rest = match &rest[name..] {
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            rest => return is_port(rest),
        };
    }
}

/// Nothing, or a colon and digits.
fn is_port(text: &[u8]) -> bool {
    text.is_empty() || text.strip_prefix(b":").is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
}

/// The text between brackets: an IPv6 address, or one of a future version.
fn is_address(text: &[u8]) -> bool {
    let future = |rest: &[u8]| {
        let version = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let is_address = |text: &[u8]| !text.is_empty() && text.iter().all(|byte| is_name_byte(*byte) || *byte == b':');
        version > 0 && rest[version..].strip_prefix(b".").is_some_and(is_address)
    };
    match text {
        [b'v' | b'V', rest @ ..] => future(rest),
        _ => std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()),
    }
}

/// Bytes allowed unescaped in a host's name.
fn is_name_byte(byte: u8) -> bool {
    // Every request has a Host, so each byte must cost only one table look-up.
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let marks = b"-._~!$&'()*+;=";
        let mut index = 0;
        while index < marks.len() {
            table[marks[index] as usize] = true;
            index += 1;
        }
        let mut byte = 0;
        while byte < 128 {
            table[byte] |= (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        table
    };
    TABLE[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_hosts() {
        for host in [
            "",
            ":80",
            "h",
            "a.example:",
            "a_b.example.:8000",
            "127.0.0.1:3000",
            "[::1]",
            "[::ffff:127.0.0.1]:3000",
            "[v1f.a:b]",
            "caf%C3%a9:1",
            "a!$&'()*+;=~b",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "h:abc", "h:-1", "a:b:c", "::1", "[", "]", "[]", "[::1", "[::1]x", "[::1]:x", "[h]", "[v.a]", "[v1]",
            "[v1.]", "[vx.a]", "%", "%z", "%zz", "%4z", "%z4", "h%4", "a[::1]", "a b", "a,b", "a/b", "a@b", "a?b",
            "a#b", "a\\b", "\u{e9}",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
