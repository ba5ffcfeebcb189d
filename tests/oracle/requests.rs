//! All requests except sends: streams, probes, reports and malformed ones, each with its expected answer.

use super::exchange::What;
use super::groups::name_of;
use ssegateway::gateway::{Listener, Settings};
use std::rc::Rc;

/// A request in its written form.
#[derive(Debug)]
pub(crate) struct Asked {
    pub bytes: Vec<u8>,
    /// Its end in `bytes`.
    pub end: usize,
    pub what: What,
}

impl Asked {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>, what: What) -> Self {
        let bytes = bytes.into();
        Self { end: bytes.len(), bytes, what }
    }

    /// The same with a body that the gateway answers without waiting for.
    pub(crate) fn with_rest(mut self, rest: &[u8]) -> Self {
        self.bytes.extend_from_slice(rest);
        self
    }
}

/// What a listener serves besides the probes.
#[derive(Clone, Copy)]
pub(crate) struct Serves {
    streams: bool,
    pub internal: bool,
    /// `/internal/*` needs a token.
    guarded: bool,
}

impl Serves {
    pub(crate) fn on(listener: Listener, settings: &Settings) -> Self {
        let streams = listener == Listener::Public;
        let internal = !streams || !settings.internal_listener;
        Self { streams, internal, guarded: settings.internal_token.is_some() }
    }
}

const HEALTHY: &str = r#"{"status":"ok"}"#;
pub(crate) const NOT_FOUND: &str = r#"{"error":"Not found"}"#;
const NOT_ALLOWED: &str = r#"{"error":"Method not allowed"}"#;
const UNEXPECTED: &str = r#"{"error":"Expectation failed"}"#;
const UNAUTHORIZED: &str = r#"{"error":"Unauthorized"}"#;

pub(crate) const fn fixed(status: u16, body: &'static str) -> What {
    What::Fixed { status, body, head_only: false, close: false }
}

pub(crate) const fn last(status: u16, body: &'static str) -> What {
    What::Fixed { status, body, head_only: false, close: true }
}

const fn broken(status: u16) -> What {
    What::Broken { status }
}

pub(crate) const PROBE_KINDS: usize = 12;
pub(crate) const REFUSED_KINDS: usize = 21;

/// Requests that are answered at once. `%` marks where further fields may be inserted.
const PROBES: [(&str, What); PROBE_KINDS] = [
    ("GET /healthz HTTP/1.1\r\nHost: a\r\n%\r\n", fixed(200, HEALTHY)),
    (
        "HEAD /healthz HTTP/1.1\r\nHost: a\r\n%\r\n",
        What::Fixed { status: 200, body: "", head_only: true, close: false },
    ),
    ("GET /readyz/?x HTTP/1.1\r\nHost: a\r\n%\r\n", What::Ready { close: false }),
    ("OPTIONS /x HTTP/1.1\r\nHost: a\r\n%\r\n", fixed(204, "")),
    ("GET /internal/x HTTP/1.1\r\nHost: a\r\n%\r\n", fixed(404, NOT_FOUND)),
    ("PUT /x HTTP/1.1\r\nHost: a\r\n%Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", fixed(405, NOT_ALLOWED)),
    ("OPTIONS /healthz HTTP/1.1\r\nHost: a\r\n%\r\n", fixed(204, "")),
    ("GET /healthz/?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n%\r\n", fixed(200, HEALTHY)),
    ("PUT /healthz HTTP/1.1\r\nHost: a\r\n%\r\n", fixed(405, NOT_ALLOWED)),
    ("GET /healthz HTTP/1.1\r\nHost: a\r\n%Content-Length: 11\r\n\r\nhello world", fixed(200, HEALTHY)),
    (
        "GET /healthz HTTP/1.1\r\nHost: a\r\n%Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n",
        fixed(200, HEALTHY),
    ),
    ("GET /x HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n%\r\n", fixed(417, UNEXPECTED)),
];

/// Requests that are refused and end their connection.
const REFUSED: [(&[u8], What); REFUSED_KINDS] = [
    (b"GET / HTTP/1.1\r\n\r\n", broken(400)),
    (b"GET / HTTP/1.1\nHost: a\r\n\r\n", broken(400)),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", broken(505)),
    (b"POST /internal/send HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", broken(501)),
    (b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", last(405, NOT_ALLOWED)),
    (b"GET /x HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nConnection: close\r\n\r\n", last(417, UNEXPECTED)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", broken(400)),
    (b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", last(405, NOT_ALLOWED)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", broken(400)),
    (b"GET / HTTP/1.1\nHost: a\n\n", broken(400)),
    (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", broken(400)),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", broken(400)),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", broken(400)),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", broken(400)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", broken(400)),
    (b"GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n", broken(400)),
    (b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", broken(400)),
    (b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", broken(400)),
    (b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", broken(400)),
    (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", broken(400)),
    (b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET /", broken(400)),
];

/// A probe, or another request with an immediate answer. `close`: it is the last one on its connection.
pub(crate) fn probe(kind: usize, close: bool, serves: Serves) -> Asked {
    let (text, what) = &PROBES[kind];
    let mut what = serves.answer(text.as_bytes(), what);
    if let What::Fixed { close: last, .. } | What::Ready { close: last } = &mut what {
        *last = close;
    }
    Asked::new(text.replacen('%', if close { "Connection: close\r\n" } else { "" }, 1), what)
}

/// A request that is refused.
pub(crate) fn refused(kind: usize, serves: Serves) -> Asked {
    let (bytes, what) = &REFUSED[kind];
    Asked::new(*bytes, serves.answer(bytes, what))
}

/// A head with too many bytes.
pub(crate) fn long_head(settings: &Settings) -> Asked {
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    head.resize(settings.head_bytes_max + 100, b'x');
    Asked::new(head, broken(431))
}

/// A request whose body is too long; that many bytes of it are sent.
pub(crate) fn long_body(settings: &Settings, comes: usize) -> Asked {
    let length = settings.body_bytes_max + 1;
    let head = format!("POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    Asked::new(head, last(405, NOT_ALLOWED)).with_rest(&vec![b'x'; comes])
}

/// The list of streams with at most that many on its first page, or else the metrics.
pub(crate) fn report(limit: Option<usize>, serves: Serves) -> Asked {
    let (target, what) = match limit {
        Some(limit) => (format!("connections?limit={limit}"), What::List { limit, open: 0..=0 }),
        None => ("metrics".to_owned(), What::Metrics { open: 0..=0 }),
    };
    let bytes = format!("GET /internal/{target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    let what = serves.answer(&bytes, &what);
    Asked::new(bytes, what)
}

/// `/internal/groups` of a group, or else `/internal/cursor`.
pub(crate) fn look(group: Option<usize>, serves: Serves) -> Asked {
    let target = group.map_or("cursor".to_owned(), |group| format!("groups?group={}", name_of(group)));
    let bytes = format!("GET /internal/{target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    let what = serves.answer(&bytes, &What::Look { group, shows: None });
    Asked::new(bytes, what)
}

/// Fields of a stream's GET, and their form in callbacks.
const FIELDS: [(&str, &str); 3] = [
    ("", ""),
    ("Last-Event-ID: 7\r\n", r#""last-event-id":"7""#),
    ("Cookie: a=1\r\nCookie: b=\"2\"\r\n", r#""cookie":"a=1; b=\"2\"""#),
];

/// Where a client that comes back names its cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamedIn {
    Header,
    Query,
    /// A header comes before the query.
    HeaderBeforeQuery,
    /// But an empty one does not count.
    QueryBehindEmptyHeader,
}

/// The GET of a client that comes back with a cursor.
pub(crate) fn resumed_stream(path: &str, cursor: &str, named: NamedIn, serves: Serves) -> Asked {
    let (header, query) = match named {
        NamedIn::Header => (Some(cursor), None),
        NamedIn::Query => (None, Some(cursor)),
        NamedIn::HeaderBeforeQuery => (Some(cursor), Some("7")),
        NamedIn::QueryBehindEmptyHeader => (Some(""), Some(cursor)),
    };
    let target = query.map_or(path.to_owned(), |query| format!("{path}&last_event_id={}", query.replace('.', "%2e")));
    let field = header
        .map_or(Default::default(), |id| (format!("Last-Event-ID: {id}\r\n"), format!(r#""last-event-id":"{id}""#)));
    stream_with(&target, false, (&field.0, &field.1), Some(cursor), 0, serves)
}

/// A GET for a stream. `old`: its client speaks HTTP/1.0. `declared`: bytes of its body.
pub(crate) fn stream(target: &str, old: bool, kind: usize, declared: usize, serves: Serves) -> Asked {
    let field = FIELDS[kind % FIELDS.len()];
    let cursor = field.0.strip_prefix("Last-Event-ID: ").map(str::trim_end);
    stream_with(target, old, field, cursor, declared, serves)
}

fn stream_with(
    target: &str,
    old: bool,
    field: (&str, &str),
    cursor: Option<&str>,
    declared: usize,
    serves: Serves,
) -> Asked {
    let (host, quoted_host) = if old { ("", "") } else { ("Host: a\r\n", r#""host":"a""#) };
    let (field, quoted_field) = field;
    let (length, quoted_length) = match declared {
        0 => Default::default(),
        _ => (format!("Content-Length: {declared}\r\n"), format!(r#""content-length":"{declared}""#)),
    };
    let head = format!("GET {target} HTTP/1.{}\r\n{host}{field}{length}\r\n", u8::from(!old));
    let quoted = [quoted_host, quoted_field, &quoted_length].into_iter().filter(|field| !field.is_empty());
    let quoted = format!(r#"{{"url":"{target}","headers":{{{}}}}}"#, Vec::from_iter(quoted).join(","));
    let body = vec![b'b'; declared];
    if !serves.streams {
        let mut asked =
            Asked::new(head, if old { last(404, NOT_FOUND) } else { fixed(404, NOT_FOUND) }).with_rest(&body);
        asked.end = asked.bytes.len();
        return asked;
    }
    let what =
        What::Stream { chunked: !old, declared: declared as u64, quoted: quoted.into(), cursor: cursor.map(Rc::from) };
    Asked::new(head, what).with_rest(&body)
}

impl Serves {
    /// The answer on this listener; `what` is the answer of a listener that serves everything.
    fn answer(self, request: &[u8], what: &What) -> What {
        let path = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let refusal = if path.starts_with(b"/internal/") {
            let refusal = if !self.internal { Some((404, NOT_FOUND)) } else { None };
            refusal.or(self.guarded.then_some((401, UNAUTHORIZED)))
        } else {
            let served = self.streams || path.starts_with(b"/healthz") || path.starts_with(b"/readyz");
            (!served).then_some((404, NOT_FOUND))
        };
        match (refusal, what) {
            (None, what) | (Some(_), what @ What::Broken { .. }) => what.clone(),
            (Some((status, body)), What::Fixed { head_only, close, .. }) => {
                What::Fixed { status, body, head_only: *head_only, close: *close }
            }
            (
                Some((status, body)),
                What::Ready { .. } | What::Metrics { .. } | What::List { .. } | What::Look { .. },
            ) => fixed(status, body),
            (Some(_), What::Stream { .. } | What::Send(_)) => unreachable!("not in these tables"),
        }
    }
}
