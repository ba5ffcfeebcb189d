//! Routing: a pure function of a request's head, and the fixed answers.

use super::answers::Refusal;
use super::feed::{FeedRequest, Format};
use super::settings::{Cors, Settings};
use crate::http::grammar::{decimal, is_token, list, percent_decoded};
use crate::http::request::{Expect, Head};
use crate::http::response::CorsHeaders;
use crate::http::unread;
use crate::send::{Target, is_group_name};
use core::net::Ipv4Addr;
use std::borrow::Cow;

/// The listener that accepted a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// `PORT`: streams and probes, and sends unless there is a second listener.
    Public,
    /// `INTERNAL_PORT`: sends and probes.
    Internal,
}

/// The origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This machine, by a loopback address.
    Loopback,
    /// Anywhere else.
    Remote,
}

/// The handler of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// A GET for a stream.
    Stream(CorsHeaders),
    /// A POST that asks for a stream.
    PostedStream(CorsHeaders),
    /// A POST whose body is a send.
    Send,
    /// A POST whose body is a feed: many sends.
    Feed(FeedRequest),
    /// A POST whose body changes the groups of a stream.
    Groups,
    /// Any other answer; the request's body is ignored.
    Answer(Reply),
}

/// An answer that depends only on the gateway's state when it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Healthz,
    Readyz,
    /// The metrics; always the last answer on its connection.
    Metrics,
    /// The page of live figures.
    Dashboard,
    /// A page of the open streams.
    Connections(Page),
    /// How a group stands.
    Group(Box<str>),
    /// The newest cursor.
    Cursor,
    /// 204 to OPTIONS, with the value of `Allow`.
    Options(&'static str, CorsHeaders),
    /// 204 to a CORS preflight, with the value of `Access-Control-Allow-Headers`.
    Preflight(CorsHeaders, String),
    /// An error without further details.
    Refused(Refusal, CorsHeaders),
    /// 405, with the value of `Allow`.
    MethodNotAllowed(&'static str, CorsHeaders),
    /// 400, with the bad query parameter and the allowed values.
    BadParameter(&'static str),
}

/// The requested part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// The last slot of the previous page.
    pub after: Option<u32>,
    /// Maximum number of entries; at least 1.
    pub limit: usize,
    /// Only the streams in this group.
    pub group: Option<Box<str>>,
}

/// What is wrong with the name of a group in a query.
const BAD_GROUP: &str = "group must be a name of 1 to 128 bytes";

/// Default and maximum number of entries on a page.
const PAGE_LIMIT: usize = 1000;
const PAGE_LIMIT_MAX: usize = 10_000;

/// Headers that any page may send with its GET for a stream.
const ALLOWED_HEADERS: &str = "Authorization, Cache-Control, Content-Type, Last-Event-ID";

const ALLOW_STREAM: &str = "GET, OPTIONS";
const ALLOW_POSTED_STREAM: &str = "GET, POST, OPTIONS";
const ALLOW_PROBE: &str = "GET, HEAD, OPTIONS";
const ALLOW_SEND: &str = "POST, OPTIONS";
const ALLOW_REPORT: &str = "GET, OPTIONS";
const ALLOW_GROUPS: &str = "GET, POST, OPTIONS";
const ALLOW_ALL: &str = "GET, HEAD, POST, OPTIONS";

/// Decides on a request.
pub(super) fn route(head: &Head<'_, '_>, listener: Listener, peer: Peer, settings: &Settings) -> Route {
    let path = head.path();
    if head.target == "*" {
        return Route::Answer(Reply::Options(ALLOW_ALL, CorsHeaders::Off));
    }
    if path.starts_with("/internal/") {
        return internal(head, path, listener, peer, settings);
    }
    match path {
        "/healthz" | "/healthz/" => probe(head, Reply::Healthz),
        "/readyz" | "/readyz/" => probe(head, Reply::Readyz),
        _ if listener == Listener::Internal => Route::Answer(Reply::Refused(Refusal::NotFound, CorsHeaders::Off)),
        _ => stream(head, settings),
    }
}

fn probe(head: &Head<'_, '_>, reply: Reply) -> Route {
    Route::Answer(match head.method {
        "OPTIONS" => Reply::Options(ALLOW_PROBE, CorsHeaders::Off),
        "GET" | "HEAD" if head.expect == Expect::Unknown => Reply::Refused(Refusal::Expectation, CorsHeaders::Off),
        "GET" | "HEAD" => reply,
        _ => Reply::MethodNotAllowed(ALLOW_PROBE, CorsHeaders::Off),
    })
}

fn stream(head: &Head<'_, '_>, settings: &Settings) -> Route {
    let cors = cors_headers(&settings.cors, head.origin);
    let post = settings.post_streams;
    let allow = if post { ALLOW_POSTED_STREAM } else { ALLOW_STREAM };
    match head.method {
        "GET" | "POST" if head.expect == Expect::Unknown && (post || head.method == "GET") => {
            Route::Answer(Reply::Refused(Refusal::Expectation, cors))
        }
        "GET" => Route::Stream(cors),
        "POST" if post && head.is_coded => Route::Answer(Reply::Refused(Refusal::MediaType, cors)),
        "POST" if post => Route::PostedStream(cors),
        "OPTIONS" if cors != CorsHeaders::Off && head.header("access-control-request-method").is_some() => {
            Route::Answer(Reply::Preflight(cors, allowed_headers(head)))
        }
        "OPTIONS" => Route::Answer(Reply::Options(allow, cors)),
        _ => Route::Answer(Reply::MethodNotAllowed(allow, cors)),
    }
}

/// The valid header names requested by a preflight; without any, those that pages usually send.
fn allowed_headers(head: &Head<'_, '_>) -> String {
    let fields =
        head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("access-control-request-headers"));
    let names = fields.flat_map(|header| list(header.value)).filter(|name| is_token(name));
    let names: Vec<_> = names.filter_map(|name| std::str::from_utf8(name).ok()).collect();
    if names.is_empty() { ALLOWED_HEADERS.to_owned() } else { names.join(", ") }
}

fn internal(head: &Head<'_, '_>, path: &str, listener: Listener, peer: Peer, settings: &Settings) -> Route {
    if settings.internal_listener && listener == Listener::Public {
        return Route::Answer(Reply::Refused(Refusal::NotFound, CorsHeaders::Off));
    }
    // No web page is a legitimate caller, whatever host name it used.
    if head.origin.is_some() {
        return Route::Answer(Reply::Refused(Refusal::Origin, CorsHeaders::Off));
    }
    if let Some(token) = &settings.internal_token
        && !bearer_matches(head.header("authorization"), token.expose().as_bytes())
    {
        return Route::Answer(Reply::Refused(Refusal::Unauthorized, CorsHeaders::Off));
    }
    match path.strip_suffix('/').unwrap_or(path) {
        "/internal/send" => match (post(head, Route::Send, ALLOW_SEND), feed_format(head)) {
            (Route::Send, Some(format)) => {
                read_feed_query(head, format).map_or_else(|why| Route::Answer(Reply::BadParameter(why)), Route::Feed)
            }
            (route, _) => route,
        },
        "/internal/groups" if head.method == "POST" => post(head, Route::Groups, ALLOW_GROUPS),
        "/internal/metrics" => report(head, Reply::Metrics, ALLOW_REPORT),
        "/internal/cursor" => report(head, Reply::Cursor, ALLOW_REPORT),
        "/internal" | "/internal/connections" | "/internal/groups" if !may_list(head, peer, settings) => {
            Route::Answer(Reply::Refused(Refusal::ListingUnguarded, CorsHeaders::Off))
        }
        "/internal" => report(head, Reply::Dashboard, ALLOW_REPORT),
        "/internal/connections" => {
            report(head, page(head).map_or_else(Reply::BadParameter, Reply::Connections), ALLOW_REPORT)
        }
        "/internal/groups" => {
            let group = query_value(head, "group").map_or(Err(BAD_GROUP), |name| group_name(&name));
            report(head, group.map_or_else(Reply::BadParameter, Reply::Group), ALLOW_GROUPS)
        }
        _ => Route::Answer(Reply::Refused(Refusal::NotFound, CorsHeaders::Off)),
    }
}

/// The format of a feed's body; `None`: the content type is of no feed.
#[inline(always)]
fn feed_format(head: &Head<'_, '_>) -> Option<Format> {
    // Of every send, so a glance has to do for the usual type.
    head.content_type.filter(|value| value.len() > b"application/json".len()).and_then(format_of_type)
}

#[cold]
fn format_of_type(value: &[u8]) -> Option<Format> {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is = |name: &[u8]| essence.eq_ignore_ascii_case(name);
    let lines = is(b"application/x-ndjson").then_some(Format::Lines);
    lines.or_else(|| is(b"text/event-stream").then_some(Format::Events))
}

/// Whether a request is a feed, whatever else is wrong with it: its body may never end.
pub(super) fn is_feed(head: &Head<'_, '_>) -> bool {
    matches!(head.path(), "/internal/send" | "/internal/send/") && feed_format(head).is_some()
}

/// What the query says of a feed. Errors: what is wrong with it.
fn read_feed_query(head: &Head<'_, '_>, format: Format) -> Result<FeedRequest, &'static str> {
    let query = head.path_and_query().split_once('?').map_or("", |(_, query)| query);
    let mut request = FeedRequest { format, target: None, ends: false };
    for parameter in query.split('&') {
        let target = match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("group", name) => Target::Group(group_name(&percent_decoded(name))?.into_string().into()),
            ("token", token) => {
                let token = String::from_utf8(percent_decoded(token)).ok().filter(|token| !token.is_empty());
                Target::Token(token.ok_or("token must not be empty")?.into())
            }
            ("end", "true" | "false") => {
                request.ends = parameter.ends_with("true");
                continue;
            }
            ("end", _) => return Err("end must be true or false"),
            _ => continue,
        };
        if request.target.replace(target).is_some() {
            return Err("token and group exclude each other, and come once");
        }
    }
    match (&request.target, format) {
        (Some(Target::Group(_)), _) => Ok(request),
        (_, _) if request.ends => Err("end needs a group"),
        (None, Format::Events) => Err("an event stream needs a group or a token"),
        (_, _) => Ok(request),
    }
}

fn post(head: &Head<'_, '_>, route: Route, allow: &'static str) -> Route {
    match head.method {
        "OPTIONS" => Route::Answer(Reply::Options(allow, CorsHeaders::Off)),
        "POST" if head.expect == Expect::Unknown => {
            Route::Answer(Reply::Refused(Refusal::Expectation, CorsHeaders::Off))
        }
        "POST" if !is_utf8_json(head) => Route::Answer(Reply::Refused(Refusal::MediaType, CorsHeaders::Off)),
        "POST" => route,
        _ => Route::Answer(Reply::MethodNotAllowed(allow, CorsHeaders::Off)),
    }
}

fn report(head: &Head<'_, '_>, reply: Reply, allow: &'static str) -> Route {
    Route::Answer(match head.method {
        "OPTIONS" => Reply::Options(allow, CorsHeaders::Off),
        "GET" if head.expect == Expect::Unknown => Reply::Refused(Refusal::Expectation, CorsHeaders::Off),
        "GET" => reply,
        _ => Reply::MethodNotAllowed(allow, CorsHeaders::Off),
    })
}

/// Tokens are capabilities to send, so an unguarded `/internal/*` does not list them to the world: only to this
/// machine, and not through a proxy that marks its requests as forwarded.
fn may_list(head: &Head<'_, '_>, peer: Peer, settings: &Settings) -> bool {
    let guarded = settings.internal_listener || settings.internal_token.is_some();
    let forwarded = || ["forwarded", "x-forwarded-for", "via"].iter().any(|name| head.header(name).is_some());
    guarded || (peer == Peer::Loopback && !forwarded() && !head.header("host").is_some_and(is_domain))
}

/// Whether `host`, with or without a port, is a public domain name: it has a dot and is not an address. A page whose
/// own name was rebound to this machine (DNS rebinding) sends no `Origin` with a GET, but such a `Host`.
fn is_domain(host: &[u8]) -> bool {
    let name = host.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_address = || std::str::from_utf8(name).is_ok_and(|name| name.parse::<Ipv4Addr>().is_ok());
    name.contains(&b'.') && !host.starts_with(b"[") && !is_address()
}

/// The page requested by the query. Errors: the reason.
fn page(head: &Head<'_, '_>) -> Result<Page, &'static str> {
    let query = head.path_and_query().split_once('?').map_or("", |(_, query)| query);
    let mut page = Page { after: None, limit: PAGE_LIMIT, group: None };
    for parameter in query.split('&') {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("after", value) => {
                let after = decimal(value.as_bytes()).and_then(|after| u32::try_from(after).ok());
                page.after = Some(after.ok_or("after must be what next of the last page said")?);
            }
            ("limit", value) => {
                let limit = decimal(value.as_bytes()).and_then(|limit| usize::try_from(limit).ok());
                let limit = limit.filter(|limit| *limit > 0).ok_or("limit must be a positive integer")?;
                page.limit = limit.min(PAGE_LIMIT_MAX);
            }
            ("group", value) => page.group = Some(group_name(&percent_decoded(value))?),
            _ => {}
        }
    }
    Ok(page)
}

/// The first value of a parameter of the query, percent-decoded. A plus is a plus: this is no form.
pub(super) fn query_value(head: &Head<'_, '_>, name: &str) -> Option<Vec<u8>> {
    let (_, query) = head.path_and_query().split_once('?')?;
    let mut parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
    parameters.find(|(known, _)| *known == name).map(|(_, value)| percent_decoded(value))
}

fn group_name(name: &[u8]) -> Result<Box<str>, &'static str> {
    let name = std::str::from_utf8(name).ok().filter(|name| is_group_name(name));
    name.map(Box::from).ok_or(BAD_GROUP)
}

/// The CORS fields of an error for an incomplete or malformed head, as far as its lines have arrived and could be for a
/// stream.
pub(super) fn cors_of_unread(input: &[u8], listener: Listener, settings: &Settings) -> CorsHeaders {
    let is_stream = |target: &[u8]| match target.split(|byte| *byte == b'?').next() {
        Some(b"/healthz" | b"/healthz/" | b"/readyz" | b"/readyz/") | None => false,
        Some(path) => path.starts_with(b"/") && !path.starts_with(b"/internal/"),
    };
    match unread::origin(input) {
        Some(origin) if listener == Listener::Public && unread::target(input).is_some_and(is_stream) => {
            cors_headers(&settings.cors, Some(origin))
        }
        Some(_) | None => CorsHeaders::Off,
    }
}

/// The CORS fields for `origin` (the raw `Origin` field).
fn cors_headers(cors: &Cors, origin: Option<&[u8]>) -> CorsHeaders {
    match (cors, origin) {
        (Cors::Off, _) => CorsHeaders::Off,
        (Cors::Any, _) => CorsHeaders::Any,
        (Cors::Origins(_), None) => CorsHeaders::Denied,
        (Cors::Origins(origins), Some(given)) => origins
            .iter()
            .find(|origin| origin.as_bytes().eq_ignore_ascii_case(given))
            .and_then(|_| std::str::from_utf8(given).ok())
            .map_or(CorsHeaders::Denied, |origin| CorsHeaders::Origin(origin.into())),
    }
}

/// Whether `field` is `Bearer EXPECTED`. Takes the same time for every wrong token of the right length, so that it
/// cannot be guessed byte by byte.
fn bearer_matches(field: Option<&[u8]>, expected: &[u8]) -> bool {
    let Some((scheme, credentials)) = field.and_then(|field| field.split_at_checked(7)) else { return false };
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return false;
    }
    let given = credentials.trim_ascii();
    let difference = given.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == expected.len() && std::hint::black_box(difference) == 0
}

/// Any type is read as JSON, except with a charset other than UTF-8 or a content coding.
fn is_utf8_json(head: &Head<'_, '_>) -> bool {
    // The usual value.
    let is_utf8_type =
        |value: &[u8]| value == b"application/json" || charset(value).is_none_or(|charset| is_utf8(&charset));
    !head.is_coded && head.content_type.is_none_or(is_utf8_type)
}

/// The `charset` parameter of a media type (RFC 9110 sections 5.6.6 and 8.3.1), without quotes and backslashes.
fn charset(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let ends_parameter = |byte: &u8| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match *byte {
            _ if was_escaped => {}
            b'"' => is_quoted = !is_quoted,
            b'\\' => is_escaped = is_quoted,
            _ => {}
        }
        *byte == b';' && !is_quoted
    };
    value.split(ends_parameter).skip(1).find_map(|parameter| {
        let equals = memchr::memchr(b'=', parameter)?;
        let (name, value) = (parameter[..equals].trim_ascii(), parameter[equals + 1..].trim_ascii());
        if !name.eq_ignore_ascii_case(b"charset") {
            return None;
        }
        Some(match value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
            // No charset's name contains an escaped backslash.
            Some(inside) if inside.contains(&b'\\') => {
                Cow::Owned(inside.iter().copied().filter(|byte| *byte != b'\\').collect())
            }
            Some(inside) => Cow::Borrowed(inside),
            None => Cow::Borrowed(value),
        })
    })
}

fn is_utf8(charset: &[u8]) -> bool {
    charset.eq_ignore_ascii_case(b"utf-8") || charset.eq_ignore_ascii_case(b"utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_told_from_addresses_and_bare_names() {
        for host in ["evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.evil.example", "a."] {
            assert!(is_domain(host.as_bytes()), "{host}");
        }
        for host in ["", "127.0.0.1", "127.0.0.1:3000", "[::1]", "[::ffff:127.0.0.1]:3000", "localhost:3000", "gateway"]
        {
            assert!(!is_domain(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn compares_bearer_tokens_whole() {
        assert!(bearer_matches(Some(b"Bearer secret"), b"secret"));
        assert!(bearer_matches(Some(b"bearer   secret"), b"secret"));
        for wrong in [&b"Bearer secre"[..], b"Bearer secrets", b"Bearer Secret", b"Basic secret", b"secret", b""] {
            assert!(!bearer_matches(Some(wrong), b"secret"), "{:?}", String::from_utf8_lossy(wrong));
        }
        assert!(!bearer_matches(None, b"secret"));
    }

    #[test]
    fn finds_the_charset() {
        for (value, expected) in [
            ("application/json", None),
            ("application/json; a=b ; Charset=\"UTF-8\"", Some("UTF-8")),
            ("text/plain;charset=latin1;x=y", Some("latin1")),
            ("application/json; charset=\"utf\\-8\"", Some("utf-8")),
            ("application/json; x=\"a; charset=latin1; b\"", None),
            ("application/json; x=\"\\\"; charset=latin1\"; charset=utf-8", Some("utf-8")),
            ("application/json; x=\\\"; charset=latin1\"; charset=utf-8", Some("utf-8")),
        ] {
            assert_eq!(charset(value.as_bytes()).as_deref(), expected.map(str::as_bytes), "{value}");
        }
    }

    #[test]
    fn grants_by_origin() {
        let list = Cors::Origins(vec!["https://a.example".into()]);
        assert_eq!(cors_headers(&list, Some(b"https://a.example")), CorsHeaders::Origin("https://a.example".into()));
        assert_eq!(cors_headers(&list, Some(b"https://a.example.evil")), CorsHeaders::Denied);
        assert_eq!(cors_headers(&list, None), CorsHeaders::Denied);
        assert_eq!(cors_headers(&Cors::Any, None), CorsHeaders::Any);
        assert_eq!(cors_headers(&Cors::Off, Some(b"https://a.example")), CorsHeaders::Off);
    }
}
