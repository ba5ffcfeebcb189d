//! Chunked bodies, compared with a line-based decoder, and with themselves split into pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssegateway::http::body::{BadChunk, Chunked};

/// Less than the limit of a trailer section, which the second decoder does not have.
const INPUT_MAX: usize = 8000;

fuzz_target!(|input: &[u8]| {
    if input.len() > INPUT_MAX {
        return;
    }
    let whole = decode(&[input]);
    assert_eq!(whole, reference(input), "right: the second decoder");
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(whole, decode(&bytes), "byte by byte");
    for cut in (0..input.len()).step_by(input.len() / 128 + 1) {
        assert_eq!(whole, decode(&[&input[..cut], &input[cut..]]), "cut at {cut}");
    }
});

#[derive(Debug, PartialEq)]
struct Decoded {
    body: Vec<u8>,
    /// The length of the body in the input, once it is complete.
    used: Option<usize>,
}

fn decode(pieces: &[&[u8]]) -> Result<Decoded, BadChunk> {
    let mut decoder = Chunked::default();
    let mut body = Vec::new();
    let mut total = 0;
    for piece in pieces {
        let used = decoder.decode(piece, |data| {
            assert!(!data.is_empty(), "empty data is reported");
            body.extend_from_slice(data);
        })?;
        assert!(used == piece.len() || decoder.is_done(), "stopped at {used} of {}", piece.len());
        total += used;
    }
    Ok(Decoded { body, used: decoder.is_done().then_some(total) })
}

/// A line and the rest after it; an incomplete line if the input ends first.
enum Line<'b> {
    Whole(&'b [u8], &'b [u8]),
    Part(&'b [u8]),
}

/// Up to the first CR, which must be half of a CRLF.
fn line(input: &[u8]) -> Result<Line<'_>, BadChunk> {
    let Some(end) = input.iter().position(|byte| *byte == b'\r') else { return Ok(Line::Part(input)) };
    match input.get(end + 1) {
        Some(b'\n') => Ok(Line::Whole(&input[..end], &input[end + 2..])),
        Some(_) => Err(BadChunk),
        // The part before the CR must be complete.
        None => Ok(Line::Whole(&input[..end], &[])),
    }
}

fn reference(input: &[u8]) -> Result<Decoded, BadChunk> {
    let mut body = Vec::new();
    let mut rest = input;
    loop {
        let size = match line(rest)? {
            Line::Part(part) => {
                size(part, false)?;
                return Ok(Decoded { body, used: None });
            }
            Line::Whole(text, after) => {
                let size = size(text, true)?;
                if rest.ends_with(b"\r") && after.is_empty() && rest.len() == text.len() + 1 {
                    return Ok(Decoded { body, used: None });
                }
                rest = after;
                size
            }
        };
        if size == 0 {
            break;
        }
        let count = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        body.extend_from_slice(&rest[..count]);
        rest = &rest[count..];
        match rest {
            [] | [b'\r'] => return Ok(Decoded { body, used: None }),
            [b'\r', b'\n', after @ ..] => rest = after,
            _ => return Err(BadChunk),
        }
    }
    loop {
        match line(rest)? {
            Line::Part(part) => {
                trailer(part, false)?;
                return Ok(Decoded { body, used: None });
            }
            Line::Whole(text, after) => {
                if !text.is_empty() {
                    trailer(text, true)?;
                }
                if rest.len() == text.len() + 1 {
                    return Ok(Decoded { body, used: None });
                }
                rest = after;
                if text.is_empty() {
                    return Ok(Decoded { body, used: Some(input.len() - rest.len()) });
                }
            }
        }
    }
}

/// RFC 9112 section 7.1: `chunk-size [ chunk-ext ]`, or the beginning of it.
fn size(line: &[u8], whole: bool) -> Result<u64, BadChunk> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    if digits.len() > 16 || (digits.is_empty() && (whole || !rest.is_empty())) {
        return Err(BadChunk);
    }
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let extension = &rest[blanks..];
    match extension {
        [] if whole && blanks > 0 => return Err(BadChunk),
        [] => {}
        [b';', text @ ..] if text.iter().all(|byte| is_text(*byte)) => {}
        _ => return Err(BadChunk),
    }
    if blanks + extension.len().saturating_sub(1) > 256 {
        return Err(BadChunk);
    }
    let digits: String = digits.iter().map(|byte| char::from(*byte)).collect();
    if digits.is_empty() { Ok(0) } else { u64::from_str_radix(&digits, 16).map_err(|_| BadChunk) }
}

/// RFC 9110 section 5: `field-name ":" OWS field-value OWS`, or the beginning of it.
fn trailer(line: &[u8], whole: bool) -> Result<(), BadChunk> {
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = match colon {
        Some(colon) => (&line[..colon], &line[colon + 1..]),
        None if whole => return Err(BadChunk),
        None => (line, &[][..]),
    };
    let named = name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
    if !named || (name.is_empty() && colon.is_some()) || !value.iter().all(|byte| is_text(*byte)) {
        return Err(BadChunk);
    }
    Ok(())
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)
}
