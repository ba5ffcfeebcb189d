//! The grammar shared by header fields: tokens, lists, decimal numbers (RFC 9110 section 5.6).

/// The members of a comma-separated list, trimmed.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Digits only: no sign, no list, no overflow (RFC 9110 section 8.6).
pub(crate) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether `text` is a token (RFC 9110 section 5.6.2).
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// tchar of RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `text` with percent-encoded bytes decoded (RFC 3986 section 2.1). A `%` without two hexadecimal digits stands for itself.
pub(crate) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((byte, behind)) = rest.split_first() {
        let digit = |index: usize| behind.get(index).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &behind[2..];
            }
            _ => {
                decoded.push(*byte);
                rest = behind;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_decoded_where_it_is_one() {
        for (text, decoded) in [
            ("", &b""[..]),
            ("a+b", b"a+b"),
            ("%41%7a%C3%a9", b"Az\xC3\xA9"),
            ("%", b"%"),
            ("%4", b"%4"),
            ("%4x%zz%%41", b"%4x%zz%A"),
            ("%25", b"%"),
        ] {
            assert_eq!(percent_decoded(text), decoded, "{text}");
        }
    }
}
