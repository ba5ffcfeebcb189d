//! Request heads, compared with a second parser written from RFC 9112 and docs/protocol.md, section 8, and with
//! themselves: splitting the bytes must make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssegateway::http::request::{Expect, Framing, HEADERS_MAX, Head, HeadError, Version, parse, storage};

const BYTES_MAX: usize = 16 * 1024;

fuzz_target!(|input: &[u8]| {
    let mut room = storage();
    let whole = parse(&mut room, input, BYTES_MAX);
    match reference(input) {
        Reference::Incomplete => assert!(!matches!(whole, Ok(Some(_))), "accepted an incomplete head: {whole:?}"),
        Reference::Refused(why) => assert!(whole.is_err(), "{why}, but: {whole:?}"),
        Reference::Taken(expected) => match &whole {
            Ok(Some(head)) => agree(head, &expected),
            Err(HeadError::TooLarge) => assert!(expected.fields.len() > HEADERS_MAX),
            Ok(None) | Err(_) => panic!("a good head got {whole:?}"),
        },
    }
    for cut in cuts(input.len()) {
        let mut room = storage();
        let part = parse(&mut room, &input[..cut], BYTES_MAX);
        match (&part, &whole) {
            (Ok(None), Ok(Some(head))) => assert!(cut < head.bytes, "all {} bytes were there", head.bytes),
            (Ok(None), Ok(None) | Err(_)) | (Err(_), Err(_)) => {}
            (Ok(Some(part)), Ok(Some(whole))) => same(part, whole),
            (Ok(Some(_)), Ok(None) | Err(_)) | (Err(_), Ok(_)) => {
                panic!("the first {cut} bytes alone: {part:?}; all: {whole:?}")
            }
        }
    }
    limits(input, &whole);
});

/// Where to split: everywhere if that is cheap.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length / 256 + 1)
}

/// A head may have exactly as many bytes as it is allowed.
fn limits(input: &[u8], whole: &Result<Option<Head<'_, '_>>, HeadError>) {
    let mut room = storage();
    match whole {
        Ok(Some(head)) => {
            assert!(matches!(parse(&mut room, input, head.bytes), Ok(Some(_))));
            let mut room = storage();
            assert!(parse(&mut room, input, head.bytes - 1).is_err());
            let mut room = storage();
            assert!(parse(&mut room, &input[..head.bytes - 1], head.bytes - 1).is_err());
        }
        // A few empty lines are not yet a head.
        Ok(None) if input.len() > 18 => assert!(parse(&mut room, input, input.len()).is_err()),
        Ok(None) | Err(_) => {}
    }
}

fn same(part: &Head<'_, '_>, whole: &Head<'_, '_>) {
    assert_eq!((part.method, part.target, part.version), (whole.method, whole.target, whole.version));
    assert_eq!((part.framing, part.expect, part.keep_alive), (whole.framing, whole.expect, whole.keep_alive));
    assert_eq!((part.headers, part.bytes), (whole.headers, whole.bytes));
}

enum Reference<'b> {
    Incomplete,
    Refused(&'static str),
    Taken(Expected<'b>),
}

struct Expected<'b> {
    method: &'b [u8],
    target: &'b [u8],
    http_1_1: bool,
    fields: Vec<(&'b [u8], &'b [u8])>,
    framing: Framing,
    bytes: usize,
}

/// Parses by lines, which requires a complete head.
fn reference(input: &[u8]) -> Reference<'_> {
    let mut start = 0;
    while input[start..].starts_with(b"\r\n") {
        start += 2;
    }
    if start > 16 {
        return Reference::Refused("too many empty lines");
    }
    let Some(end) = input[start..].windows(4).position(|window| window == b"\r\n\r\n") else {
        return Reference::Incomplete;
    };
    let head = &input[start..start + end];
    match read(head, start + end + 4) {
        Ok(expected) => Reference::Taken(expected),
        Err(why) => Reference::Refused(why),
    }
}

fn read(head: &[u8], bytes: usize) -> Result<Expected<'_>, &'static str> {
    let mut lines = split(head, b"\r\n").into_iter();
    let line = lines.next().ok_or("no request line")?;
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("not three words");
    };
    if method.is_empty() || !method.iter().all(|byte| is_tchar(*byte) && !byte.is_ascii_lowercase()) {
        return Err("method");
    }
    let http_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err("version"),
    };
    if !target.iter().all(|byte| (0x21..0x7f).contains(byte)) || !is_form(method, target) {
        return Err("target");
    }
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').ok_or("no colon")?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|byte| is_tchar(*byte)) {
            return Err("field name");
        }
        if !value.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)) {
            return Err("field value");
        }
        fields.push((name, trim(value)));
    }
    let framing = framing(&fields, http_1_1)?;
    let hosts = named(&fields, "host");
    if hosts.len() > 1 || (hosts.is_empty() && http_1_1) {
        return Err("host");
    }
    if !hosts.iter().all(|host| is_host(host)) {
        return Err("host bytes");
    }
    Ok(Expected { method, target, http_1_1, fields, framing, bytes })
}

fn framing(fields: &[(&[u8], &[u8])], http_1_1: bool) -> Result<Framing, &'static str> {
    let lengths = named(fields, "content-length");
    let codings = named(fields, "transfer-encoding");
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::Empty),
        ([], [coding]) if http_1_1 && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        ([length], []) => {
            let text = std::str::from_utf8(length).map_err(|_| "length")?;
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err("length");
            }
            match text.parse() {
                Ok(0) => Ok(Framing::Empty),
                Ok(length) => Ok(Framing::Length(length)),
                Err(_) => Err("length"),
            }
        }
        _ => Err("framing"),
    }
}

/// RFC 9112 section 3.2: origin, absolute, asterisk and authority form.
fn is_form(method: &[u8], target: &[u8]) -> bool {
    let lower = target.to_ascii_lowercase();
    let authority = ["http://", "https://"].iter().find_map(|scheme| lower.strip_prefix(scheme.as_bytes()));
    match target {
        [] => false,
        [b'/', ..] => true,
        b"*" if method == b"OPTIONS" => true,
        _ if method == b"CONNECT" => true,
        _ => authority.is_some_and(|rest| {
            let host = rest.split(|byte| b"/?".contains(byte)).next().unwrap_or_default();
            !host.is_empty() && !host.starts_with(b":") && is_host(host)
        }),
    }
}

/// uri-host and port of RFC 3986, without commas.
fn is_host(host: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(host) else { return false };
    let (name, port) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port = port.strip_prefix(':').unwrap_or(port).chars().all(|digit| digit.is_ascii_digit());
    if !is_port || (!port.is_empty() && !port.starts_with(':')) {
        return false;
    }
    let may_stand = |character: char| character.is_ascii_alphanumeric() || "-._~!$&'()*+;=".contains(character);
    match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => match address.strip_prefix(['v', 'V']).and_then(|rest| rest.split_once('.')) {
            Some((version, rest)) => {
                !version.is_empty()
                    && version.chars().all(|digit| digit.is_ascii_hexdigit())
                    && !rest.is_empty()
                    && rest.chars().all(|character| may_stand(character) || character == ':')
            }
            None => address.parse::<std::net::Ipv6Addr>().is_ok(),
        },
        None => {
            let mut pieces = name.split('%');
            let start = pieces.next().unwrap_or_default();
            let is_escape =
                |piece: &str| piece.len() >= 2 && piece.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
            start.chars().all(may_stand) && pieces.all(|piece| is_escape(piece) && piece.chars().all(may_stand))
        }
    }
}

fn agree(head: &Head<'_, '_>, expected: &Expected<'_>) {
    assert_eq!(head.method.as_bytes(), expected.method);
    assert_eq!(head.target.as_bytes(), expected.target);
    assert_eq!(head.version == Version::Http11, expected.http_1_1);
    assert_eq!(head.framing, expected.framing);
    assert_eq!(head.bytes, expected.bytes);
    let fields: Vec<(&[u8], &[u8])> = head.headers.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
    assert_eq!(fields, expected.fields);

    let close = named(&fields, "connection")
        .iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|option| trim(option).eq_ignore_ascii_case(b"close"));
    assert_eq!(head.keep_alive, expected.http_1_1 && !close);
    let values = named(&fields, "expect");
    let members = values.iter().flat_map(|value| value.split(|byte| *byte == b',')).map(trim);
    let expect = match &members.filter(|member| !member.is_empty()).collect::<Vec<_>>()[..] {
        [] => Expect::Nothing,
        _ if !expected.http_1_1 => Expect::Nothing,
        [value] if value.eq_ignore_ascii_case(b"100-continue") => Expect::Continue,
        _ => Expect::Unknown,
    };
    assert_eq!(head.expect, expect);

    let (path, whole) = (head.path(), head.path_and_query());
    assert!(whole.starts_with(path) && !path.contains('?'));
    assert!(whole[path.len()..].is_empty() || whole[path.len()..].starts_with('?'));
    if head.target.starts_with('/') {
        assert_eq!(whole, head.target);
    }
}

fn named<'b>(fields: &[(&[u8], &'b [u8])], name: &str) -> Vec<&'b [u8]> {
    fields.iter().filter(|field| field.0.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.1).collect()
}

fn split<'b>(mut bytes: &'b [u8], separator: &[u8]) -> Vec<&'b [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = bytes.windows(separator.len()).position(|window| window == separator) {
        parts.push(&bytes[..at]);
        bytes = &bytes[at + separator.len()..];
    }
    parts.push(bytes);
    parts
}

/// OWS of RFC 9110 section 5.6.3: spaces and tabs.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is_tchar(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+')
        || matches!(byte, b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}
