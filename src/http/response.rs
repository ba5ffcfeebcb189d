//! Responses: plain values in, bytes appended. Infallible.

use std::time::{Duration, SystemTime};

/// The value of a `Date` field, rendered once per second instead of once per response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    unix_seconds: u64,
    text: [u8; 29],
}

impl Date {
    /// IMF-fixdate (RFC 9110 section 5.6.7). Times past the year 9999 are shown as its last second.
    pub fn new(unix_seconds: u64) -> Self {
        let unix_seconds = unix_seconds.min(253_402_300_799);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds);
        let mut text = [b' '; 29];
        let rendered = httpdate::fmt_http_date(time);
        let length = rendered.len().min(text.len());
        text[..length].copy_from_slice(&rendered.as_bytes()[..length]);
        Self { unix_seconds, text }
    }

    /// Seconds since the Unix epoch.
    pub fn unix_seconds(&self) -> u64 {
        self.unix_seconds
    }
}

/// The `Access-Control-*` and `Vary` fields (WHATWG Fetch, section 3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CorsHeaders {
    /// CORS is not configured.
    #[default]
    Off,
    /// Any origin may read, without credentials.
    Any,
    /// The answer depends on the origin, and this one gets no permission.
    Denied,
    /// This origin may read, with credentials.
    Origin(Box<str>),
}

impl CorsHeaders {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Off => {}
            Self::Any => out.extend_from_slice(b"Access-Control-Allow-Origin: *\r\n"),
            Self::Denied => out.extend_from_slice(b"Vary: Origin\r\n"),
            Self::Origin(origin) => {
                write_field(out, "Access-Control-Allow-Origin", origin.as_bytes());
                out.extend_from_slice(b"Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n");
            }
        }
    }
}

impl CorsHeaders {
    /// Lets pages read the fields `names` (WHATWG Fetch, section 3.2.3), if they may read the answer at all.
    fn expose<'a>(&self, out: &mut Vec<u8>, names: impl Iterator<Item = &'a str>) {
        match self {
            Self::Off | Self::Denied => {}
            Self::Any | Self::Origin(_) => {
                let start = out.len();
                for name in names {
                    let separator: &[u8] = if out.len() == start { b"Access-Control-Expose-Headers: " } else { b", " };
                    out.extend_from_slice(separator);
                    out.extend_from_slice(name.as_bytes());
                }
                if out.len() > start {
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }
}

/// The media type of all answers except the metrics.
pub const JSON: &str = "application/json";

/// A complete response.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// 200 to 599.
    pub status: u16,
    /// The media type of the body; empty: none is told.
    pub content_type: &'a [u8],
    /// Empty: no body and no `Content-Type`.
    pub body: &'a [u8],
    /// Further fields, in this order.
    pub fields: &'a [(&'a str, &'a [u8])],
    /// The CORS fields.
    pub cors: &'a CorsHeaders,
    /// Whether pages of other origins may read `fields`.
    pub exposed: bool,
    /// Whether this is the last response on its connection.
    pub close: bool,
    /// The idle timeout of the connection after it, if announced.
    pub keepalive: Option<Duration>,
    /// The answer to a HEAD request: the fields of the body, without the body.
    pub head_only: bool,
}

/// Appends a response.
pub fn write(out: &mut Vec<u8>, date: &Date, response: &Response<'_>) {
    write_status(out, response.status, date);
    // RFC 9110 section 8.6: none in a 204, and a 304 would have to name another body's length.
    if !matches!(response.status, 204 | 304) {
        if !response.body.is_empty() && !response.content_type.is_empty() {
            write_field(out, "Content-Type", response.content_type);
        }
        out.extend_from_slice(b"Content-Length: ");
        write_decimal(out, response.body.len());
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in response.fields {
        write_field(out, name, value);
    }
    response.cors.write(out);
    if response.exposed {
        response.cors.expose(out, response.fields.iter().map(|(name, _)| *name));
    }
    if response.close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    if let Some(idle) = response.keepalive {
        out.extend_from_slice(b"Keep-Alive: timeout=");
        write_decimal(out, usize::try_from(idle.as_secs()).unwrap_or(usize::MAX));
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !response.head_only && !matches!(response.status, 204 | 304) {
        out.extend_from_slice(response.body);
    }
}

/// Appends the head of an event stream (docs/protocol.md, section 3). `fields` are those of the backend, which a page of
/// another origin may read.
pub fn write_stream_head<'a>(
    out: &mut Vec<u8>,
    date: &Date,
    chunked: bool,
    cors: &CorsHeaders,
    fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
) {
    write_status(out, 200, date);
    out.extend_from_slice(
        b"Content-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n\
          Connection: close\r\n",
    );
    if chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    for (name, value) in fields.clone() {
        write_field(out, name, value);
    }
    cors.write(out);
    cors.expose(out, fields.map(|(name, _)| name));
    out.extend_from_slice(b"\r\n");
}

/// Appends the interim response that requests the body.
pub fn write_continue(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

fn write_status(out: &mut Vec<u8>, status: u16, date: &Date) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, usize::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(&date.text);
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// By hand: `write!` takes as long as the rest of the head.
fn write_decimal(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; usize::MAX.ilog10() as usize + 1];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[start..]);
        }
    }
}

/// The phrase for a status (RFC 9110 section 15); empty for one that is not registered.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(response: &Response<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, &Date::new(784_111_777), response);
        String::from_utf8(out).expect("ASCII")
    }

    const PLAIN: Response<'static> = Response {
        status: 200,
        content_type: JSON.as_bytes(),
        body: b"{}",
        fields: &[],
        cors: &CorsHeaders::Off,
        exposed: false,
        close: false,
        keepalive: None,
        head_only: false,
    };

    #[test]
    fn renders_a_json_response() {
        assert_eq!(
            render(&PLAIN),
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn renders_fields_grants_and_close() {
        let cors = CorsHeaders::Origin("https://a.example".into());
        let response = Response { status: 405, fields: &[("Allow", b"GET")], cors: &cors, close: true, ..PLAIN };
        assert_eq!(
            render(&response),
            "HTTP/1.1 405 Method Not Allowed\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\nAllow: GET\r\n\
             Access-Control-Allow-Origin: https://a.example\r\nAccess-Control-Allow-Credentials: true\r\n\
             Vary: Origin\r\nConnection: close\r\n\r\n{}"
        );
    }

    #[test]
    fn exposed_fields_are_named_to_origins_that_may_read() {
        let fields: &[(&str, &[u8])] = &[("X-A", b"1"), ("X-B", b"2")];
        for (cors, exposes) in [(CorsHeaders::Off, false), (CorsHeaders::Denied, false), (CorsHeaders::Any, true)] {
            let response = render(&Response { status: 204, fields, cors: &cors, exposed: true, ..PLAIN });
            assert_eq!(response.contains("\r\nAccess-Control-Expose-Headers: X-A, X-B\r\n"), exposes, "{response}");
        }
        assert!(!render(&Response { exposed: true, cors: &CorsHeaders::Any, ..PLAIN }).contains("Expose"));
    }

    #[test]
    fn leaves_out_bodies_that_must_not_be_there() {
        let head = render(&Response { head_only: true, ..PLAIN });
        assert!(head.contains("Content-Length: 2\r\n") && head.ends_with("\r\n\r\n"));
        for status in [204, 304] {
            let response = render(&Response { status, ..PLAIN });
            assert!(!response.contains("Content-") && response.ends_with("\r\n\r\n"), "{response}");
        }
    }

    #[test]
    fn an_unknown_status_has_an_empty_phrase() {
        assert!(render(&Response { status: 299, ..PLAIN }).starts_with("HTTP/1.1 299 \r\n"));
    }

    #[test]
    fn far_dates_do_not_panic() {
        assert_eq!(Date::new(u64::MAX).unix_seconds(), 253_402_300_799);
    }
}
