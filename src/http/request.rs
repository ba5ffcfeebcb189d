//! Request heads: bytes to a [`Head`], or to the reason for refusing them.
//!
//! httparse finds the tokens. The rules that make a message unambiguous (RFC 9112 sections 2.2, 3.2 and 5) are here,
//! and those about fields in `super::fields`.

use std::mem::MaybeUninit;

use super::fields::Fields;
pub use super::fields::{Expect, Framing, HeadError, Version};
use super::host::is_host;

/// Header fields in one head. Browsers send some 20, proxies add a handful.
pub const HEADERS_MAX: usize = 256;

/// Empty lines before a request line that are skipped; old clients sent one after a POST body
/// (RFC 9112 section 2.2).
const LEADING_CRLF_MAX: usize = 8;

/// Storage for the header fields of one head, which borrow from the input.
pub type Storage<'b> = [MaybeUninit<httparse::Header<'b>>; HEADERS_MAX];

/// Uninitialised storage, at no cost.
pub fn storage<'b>() -> Storage<'b> {
    [const { MaybeUninit::uninit() }; HEADERS_MAX]
}

/// A request's head, checked.
#[derive(Debug)]
pub struct Head<'h, 'b> {
    /// Upper-case, as sent.
    pub method: &'b str,
    /// The request target, visible ASCII, as sent.
    pub target: &'b str,
    /// HTTP/1.0 or 1.1.
    pub version: Version,
    /// Field names as sent; values trimmed.
    pub headers: &'h [httparse::Header<'b>],
    /// How the body that follows is delimited.
    pub framing: Framing,
    /// The client's expectation before it sends the body.
    pub expect: Expect,
    /// Whether another request may follow on the connection.
    pub keep_alive: bool,
    /// The first `Origin`.
    pub origin: Option<&'b [u8]>,
    /// The first `Content-Type`.
    pub content_type: Option<&'b [u8]>,
    /// Whether any `Content-Encoding` names a coding other than `identity`.
    pub is_coded: bool,
    /// The head's length in the input, leading empty lines included.
    pub bytes: usize,
}

impl Head<'_, '_> {
    /// The target's path and query: the target itself, or what follows the authority of an absolute
    /// one (RFC 9112 section 3.2.2).
    pub fn path_and_query(&self) -> &str {
        if self.target.starts_with('/') {
            return self.target;
        }
        match absolute_form(self.target) {
            Some(rest) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
            None => self.target,
        }
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        let whole = self.path_and_query();
        memchr::memchr(b'?', whole.as_bytes()).map_or(whole, |query| &whole[..query])
    }

    /// The first field of that name (lower-case), its value trimmed.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }
}

/// Reads one head from the start of `bytes`. `Ok(None)`: it is not complete yet.
///
/// `bytes_max` bounds the head, leading empty lines included.
pub fn parse<'h, 'b>(
    storage: &'h mut Storage<'b>,
    bytes: &'b [u8],
    bytes_max: usize,
) -> Result<Option<Head<'h, 'b>>, HeadError> {
    let skipped = leading_crlf(bytes)?;
    let rest = &bytes[skipped..];
    if rest.is_empty() || rest == b"\r" {
        return Ok(None);
    }
    let mut request = httparse::Request::new(&mut []);
    let complete = match request.parse_with_uninit_headers(rest, storage) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => {
            reject_bare_line_ends(rest)?;
            return if bytes.len() >= bytes_max { Err(HeadError::TooLarge) } else { Ok(None) };
        }
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(httparse::Error::Version) => return unsupported_version(rest, bytes.len() >= bytes_max),
        Err(httparse::Error::HeaderName) => return Err(HeadError::Malformed("invalid header name")),
        Err(httparse::Error::HeaderValue) => return Err(HeadError::Malformed("invalid header value")),
        Err(httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token) => {
            return Err(HeadError::Malformed("invalid request line"));
        }
    };
    if skipped + complete > bytes_max {
        return Err(HeadError::TooLarge);
    }
    reject_bare_line_ends(&rest[..complete])?;
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HeadError::Malformed("invalid request line"));
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let headers: &'h [httparse::Header<'b>] = request.headers;
    check_request_line(method, target)?;
    let fields = Fields::read(headers, version)?;
    Ok(Some(Head {
        method,
        target,
        version,
        headers,
        framing: fields.framing,
        expect: fields.expect,
        keep_alive: version == Version::Http11 && !fields.close,
        origin: fields.origin,
        content_type: fields.content_type,
        is_coded: fields.is_coded,
        bytes: skipped + complete,
    }))
}

/// The bytes of the empty lines at the start.
fn leading_crlf(bytes: &[u8]) -> Result<usize, HeadError> {
    let count = bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count();
    if count > LEADING_CRLF_MAX {
        return Err(HeadError::Malformed("too many empty lines"));
    }
    match &bytes[count * 2..] {
        [b'\n', ..] => Err(HeadError::Malformed("bare LF")),
        [b'\r', other, ..] if *other != b'\n' => Err(HeadError::Malformed("bare CR")),
        _ => Ok(count * 2),
    }
}

/// httparse accepts a bare LF as a line end; a front proxy may not (RFC 9112 section 2.2).
fn reject_bare_line_ends(head: &[u8]) -> Result<(), HeadError> {
    let Some((first, rest)) = head.split_first() else { return Ok(()) };
    // Without an early exit this compiles to a few vector instructions.
    let bare = rest
        .iter()
        .zip(head)
        .fold(*first == b'\n', |bare, (byte, before)| bare | ((*byte == b'\n') & (*before != b'\r')));
    if bare { Err(HeadError::Malformed("bare LF")) } else { Ok(()) }
}

/// Distinguishes another version of HTTP from bytes that are not HTTP.
fn unsupported_version<'h, 'b>(rest: &[u8], full: bool) -> Result<Option<Head<'h, 'b>>, HeadError> {
    let Some(end) = memchr::memchr(b'\n', rest) else {
        return if full { Err(HeadError::TooLarge) } else { Ok(None) };
    };
    let line = rest[..end].strip_suffix(b"\r").ok_or(HeadError::Malformed("bare LF"))?;
    let version = line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
    // The sender of an HTTP/2 preface (RFC 9113 section 3.4) understands no HTTP/1.1 answer, not even a 505.
    if line.starts_with(b"PRI ") {
        return Err(HeadError::Malformed("HTTP/2 without an upgrade"));
    }
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(HeadError::Version)
        }
        _ => Err(HeadError::Malformed("invalid request line")),
    }
}

fn absolute_form(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

fn check_request_line(method: &str, target: &str) -> Result<(), HeadError> {
    // Methods are case-sensitive (RFC 9110 section 9.1) and all registered ones are upper-case.
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(HeadError::Malformed("invalid method"));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(HeadError::Malformed("invalid request target"));
    }
    let known_form = target.starts_with('/')
        || (target == "*" && method == "OPTIONS")
        || method == "CONNECT"
        || absolute_form(target).is_some_and(|rest| {
            // Parsers disagree on whether an authority ends at a `#`, a backslash or an `@`.
            let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
            !authority.is_empty() && !authority.starts_with(':') && is_host(authority.as_bytes())
        });
    if known_form { Ok(()) } else { Err(HeadError::Malformed("invalid request target")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 16 * 1024;

    fn error(bytes: &[u8]) -> HeadError {
        parse(&mut storage(), bytes, MAX).expect_err("must be refused")
    }

    fn malformed(bytes: &[u8]) {
        let error = error(bytes);
        assert!(matches!(error, HeadError::Malformed(_)), "{error:?} for {:?}", String::from_utf8_lossy(bytes));
    }

    fn with<T>(bytes: &[u8], check: impl FnOnce(&Head<'_, '_>) -> T) -> T {
        let mut storage = storage();
        let head = parse(&mut storage, bytes, MAX).expect("well-formed").expect("complete");
        check(&head)
    }

    fn framing(fields: &str) -> Framing {
        with(format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes(), |head| head.framing)
    }

    fn refused(fields: &str) -> HeadError {
        error(format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn reads_a_head_and_leaves_what_follows() {
        let bytes = b"\r\nGET /a?b=c HTTP/1.1\r\nHost: h\r\nX-Y:  z \t\r\nX-Empty:\r\n\r\nrest\n";
        with(bytes, |head| {
            assert_eq!((head.method, head.target, head.path()), ("GET", "/a?b=c", "/a"));
            assert_eq!(head.bytes, bytes.len() - 5);
            assert_eq!(head.header("x-y"), Some(&b"z"[..]));
            assert_eq!(head.header("x-empty"), Some(&b""[..]));
            assert!(head.keep_alive);
        });
    }

    #[test]
    fn every_prefix_of_a_good_head_is_incomplete() {
        let bytes = b"\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        for end in 0..bytes.len() {
            assert!(parse(&mut storage(), &bytes[..end], MAX).expect("no error yet").is_none(), "at {end}");
        }
        with(bytes, |head| assert!(!head.keep_alive));
    }

    #[test]
    fn refuses_what_is_not_http_1() {
        malformed(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc");
        malformed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        malformed(b"GET /\r\n\r\n");
        malformed(b"get / HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET / http/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET / HTTP/1.10\r\nHost: h\r\n\r\n");
        malformed(b"GET / HTTP/2\r\nHost: h\r\n\r\n");
        malformed(b"GET / HTTP/x.0\r\nHost: h\r\n\r\n");
        malformed(b"GET / HTTP/2.x\r\nHost: h\r\n\r\n");
        for version in ["0.9", "1.2", "2.0", "9.9"] {
            assert_eq!(error(format!("GET / HTTP/{version}\r\nHost: h\r\n\r\n").as_bytes()), HeadError::Version);
        }
    }

    #[test]
    fn refuses_lines_that_two_parsers_read_differently() {
        malformed(b"GET / HTTP/1.1\nHost: h\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: h\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: h\r\n\n");
        malformed(b"GET / HTTP/1.1\nHost: h\n\r\n");
        malformed(b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: h\r\n X: folded\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n\tfolded\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost : h\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n");
        malformed(b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET /\xc3\xa4 HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n");
    }

    #[test]
    fn requires_one_plausible_host() {
        malformed(b"GET / HTTP/1.1\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n");
        malformed(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n");
        malformed(b"GET / HTTP/1.1\r\nHost: user@h\r\n\r\n");
        with(b"GET / HTTP/1.0\r\n\r\n", |head| assert!(!head.keep_alive));
        with(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", |_| ());
    }

    #[test]
    fn knows_the_forms_of_a_target() {
        let path = |target: &str| {
            with(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(), |head| head.path().to_owned())
        };
        assert_eq!(path("//x"), "//x");
        assert_eq!(path("/%zz?a?b"), "/%zz");
        assert_eq!(path("http://other:1/internal/send?x"), "/internal/send");
        assert_eq!(path("HTTPS://other?x=/y"), "");
        assert_eq!(path("http://other"), "/");
        malformed(b"GET a HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET * HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"GET http://:80/a HTTP/1.1\r\nHost: h\r\n\r\n");
        for end in ["#", "\\", "@h", "#@h", ",h", ":x", "%zz"] {
            malformed(format!("POST http://h{end}/internal/send HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        }
        with(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", |_| ());
        with(b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", |_| ());
    }

    #[test]
    fn frames_bodies_one_way_only() {
        assert_eq!(framing(""), Framing::Empty);
        assert_eq!(framing("Content-Length: 0\r\n"), Framing::Empty);
        assert_eq!(framing("content-length: 007 \r\n"), Framing::Length(7));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Framing::Chunked);
        for bad in ["", "+1", "-1", "1,1", "1 1", "0x1", "18446744073709551616", "1;"] {
            assert!(matches!(refused(&format!("Content-Length: {bad}\r\n")), HeadError::Malformed(_)), "{bad}");
        }
        for bad in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding: ,chunked\r\n",
            "Transfer-Encoding: chunked;q=1\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
        ] {
            assert!(matches!(refused(bad), HeadError::Malformed(_)), "{bad}");
        }
        for unknown in ["gzip", "gzip, chunked", "xchunked", "identity"] {
            assert_eq!(refused(&format!("Transfer-Encoding: {unknown}\r\n")), HeadError::TransferCoding, "{unknown}");
        }
        malformed(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    }

    #[test]
    fn reads_expectations() {
        let expect =
            |fields: &str| with(format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes(), |head| head.expect);
        assert_eq!(expect(""), Expect::Nothing);
        assert_eq!(expect("Expect: 100-Continue\r\n"), Expect::Continue);
        assert_eq!(expect("Expect: 200-ok\r\n"), Expect::Unknown);
        assert_eq!(expect("Expect:\r\n"), Expect::Nothing);
        assert_eq!(expect("Expect: , 100-continue\r\nExpect:\r\n"), Expect::Continue);
        assert_eq!(expect("Expect: 100-continue, x\r\n"), Expect::Unknown);
        assert_eq!(expect("Expect: 100-continue\r\nExpect: 100-continue\r\n"), Expect::Unknown);
        with(b"POST / HTTP/1.0\r\nExpect: x\r\n\r\n", |head| assert_eq!(head.expect, Expect::Nothing));
    }

    #[test]
    fn limits_are_exact() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        assert!(parse(&mut storage(), head, head.len()).expect("fits").is_some());
        assert_eq!(parse(&mut storage(), head, head.len() - 1).expect_err("too large"), HeadError::TooLarge);
        let partial = &head[..head.len() - 1];
        assert_eq!(parse(&mut storage(), partial, partial.len()).expect_err("cannot fit"), HeadError::TooLarge);
        let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(count - 1));
        with(fields(HEADERS_MAX).as_bytes(), |head| assert_eq!(head.headers.len(), HEADERS_MAX));
        assert_eq!(error(fields(HEADERS_MAX + 1).as_bytes()), HeadError::TooLarge);
    }

    #[test]
    fn a_few_empty_lines_may_come_first() {
        let behind = |count: usize| format!("{}GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n".repeat(count));
        with(behind(8).as_bytes(), |head| assert_eq!(head.bytes, behind(8).len()));
        malformed(behind(9).as_bytes());
        malformed("\r\n".repeat(9).as_bytes());
        malformed(b"\r\n\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
        malformed(b"\r\n\rGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }

    #[test]
    fn another_version_is_judged_once_its_line_is_there() {
        let line = b"GET / HTTP/2.0";
        assert!(parse(&mut storage(), line, line.len() + 1).expect("no end yet").is_none());
        assert_eq!(parse(&mut storage(), line, line.len()).expect_err("cannot fit"), HeadError::TooLarge);
    }

    #[test]
    fn reads_the_fields_that_guard_sends() {
        let text = "POST / HTTP/1.1\r\nHost: h\r\nOrigin: https://a\r\nOrigin: null\r\nContent-Type: a/b\r\n\r\n";
        with(text.as_bytes(), |head| {
            assert_eq!((head.origin, head.content_type), (Some(&b"https://a"[..]), Some(&b"a/b"[..])));
            assert!(!head.is_coded);
        });
        let coded =
            |fields: &str| with(format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes(), |head| head.is_coded);
        assert!(!coded("Content-Encoding: identity\r\n"));
        assert!(coded("content-encoding: gzip\r\nContent-Encoding: Identity\r\n"));
        assert!(coded("Content-Encoding: identity, br\r\n"));
    }

    #[test]
    fn fields_as_long_as_those_that_count_mean_nothing() {
        let fields = "From: a/b\r\nAccept: x\r\nUser-Agent: close\r\nX-Request-Id: x\r\nAccept-Charset: x\r\n\
                      X-Forwarded-Host: gzip\r\nIf-Modified-Since: x\r\n";
        with(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes(), |head| {
            assert_eq!((head.framing, head.expect, head.keep_alive), (Framing::Empty, Expect::Nothing, true));
            assert_eq!((head.origin, head.content_type, head.is_coded), (None, None, false));
        });
    }
}
