//! Outcomes as HTTP: each refusal, result of a send and result of a connect, with its status, text and metric label.

use super::results::{LineError, MembershipResult, Published, SendResult};
use crate::callback::{ExtraHeaders, PassedHeader};
use crate::cursor::Cursor;
use crate::http::response::{self, CorsHeaders, Date, Response};
use crate::metrics;
use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

/// How to answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseMode {
    /// Whether more requests are read from the connection.
    pub keep_alive: bool,
    /// The request was a HEAD.
    pub head_only: bool,
}

impl ResponseMode {
    /// An answer with its body, after which the connection closes.
    pub(super) const LAST: Self = Self { keep_alive: false, head_only: false };
}

/// Why a request is refused before it becomes a stream or a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed,
    HeadTooLarge,
    BodyTooLarge,
    Timeout,
    Version,
    TransferCoding,
    NotFound,
    Method,
    Unauthorized,
    Origin,
    MediaType,
    Expectation,
    Parameter,
    /// The unguarded list of tokens, requested from another host.
    ListingUnguarded,
    ShuttingDown,
    /// The gateway is short of memory.
    Memory,
    /// Streaming sends have all the places that they may have.
    Feeds,
}

/// Each refusal at its index: status, text of the `error` field (for some only its beginning), metric label.
const REFUSALS: [(Refusal, u16, &str, &str); 17] = [
    (Refusal::Malformed, 400, "Bad request", "malformed"),
    (Refusal::HeadTooLarge, 431, "Request header fields too large", "head_too_large"),
    (Refusal::BodyTooLarge, 413, "Request body too large", "body_too_large"),
    (Refusal::Timeout, 408, "Request timeout", "timeout"),
    (Refusal::Version, 505, "HTTP version not supported", "version"),
    (Refusal::TransferCoding, 501, "Transfer coding not implemented", "transfer_coding"),
    (Refusal::NotFound, 404, "Not found", "not_found"),
    (Refusal::Method, 405, "Method not allowed", "method"),
    (Refusal::Unauthorized, 401, "Unauthorized", "unauthorized"),
    (Refusal::Origin, 403, "Requests from web pages are not allowed", "origin"),
    (Refusal::MediaType, 415, "Unsupported charset or content coding", "media_type"),
    (Refusal::Expectation, 417, "Expectation failed", "expectation"),
    (Refusal::Parameter, 400, "Invalid request", "parameter"),
    (
        Refusal::ListingUnguarded,
        403,
        "Set INTERNAL_PORT or INTERNAL_TOKEN to list tokens from another host",
        "listing_unguarded",
    ),
    (Refusal::ShuttingDown, 503, "Shutting down", "shutting_down"),
    (Refusal::Memory, 503, "Out of memory", "memory"),
    (Refusal::Feeds, 503, "Too many streaming sends", "feeds"),
];

impl Refusal {
    pub(super) const COUNT: usize = REFUSALS.len();

    pub(super) fn labels() -> impl Iterator<Item = &'static str> {
        REFUSALS.iter().map(|(.., label)| *label)
    }

    pub(super) fn status(self) -> u16 {
        REFUSALS[self as usize].1
    }

    fn message(self) -> &'static str {
        REFUSALS[self as usize].2
    }
}

/// The result of a request for a stream; each has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectResult {
    Accepted,
    Rejected,
    Unavailable,
    Timeout,
    /// No worker was free in time.
    QueueTimeout,
    ClientLeft,
    NotConfigured,
    TooManyStreams,
    ShuttingDown,
    /// Too much was sent to the stream before it opened.
    Overflow,
    /// Accepted, but there is nothing to stream any more: 204.
    NoContent,
    /// The gateway is short of memory.
    Memory,
}

/// Status and text of the gateway's own answers.
type OwnAnswer = (u16, &'static str);

/// Each result at its index: metric label, and the answer if the backend has given none.
const CONNECT_RESULTS: [(ConnectResult, &str, Option<OwnAnswer>); 12] = [
    (ConnectResult::Accepted, "accepted", None),
    (ConnectResult::Rejected, "rejected", None),
    (ConnectResult::Unavailable, "unavailable", Some((503, "Backend unavailable"))),
    (ConnectResult::Timeout, "timeout", Some((504, "Gateway timeout"))),
    (ConnectResult::QueueTimeout, "queue_timeout", Some((504, "Gateway timeout"))),
    (ConnectResult::ClientLeft, "client_left", None),
    (ConnectResult::NotConfigured, "not_configured", Some((503, "Service not configured"))),
    (ConnectResult::TooManyStreams, "too_many_streams", Some((503, "Too many streams"))),
    (ConnectResult::ShuttingDown, "shutting_down", Some((503, "Shutting down"))),
    (ConnectResult::Overflow, "overflow", Some((503, "Too much was sent before the stream opened"))),
    (ConnectResult::NoContent, "no_content", None),
    (ConnectResult::Memory, "memory", Some((503, "Out of memory"))),
];

impl ConnectResult {
    pub(super) const COUNT: usize = CONNECT_RESULTS.len();

    pub(super) fn labels() -> impl Iterator<Item = &'static str> {
        CONNECT_RESULTS.iter().map(|(_, label, _)| *label)
    }
}

/// Field of "Too many streams" and "Out of memory", in seconds.
const RETRY_AFTER: &[Field<'static>] = &[("Retry-After", b"5")];

/// Field of "Redis unavailable".
const RETRY_SOON: &[Field<'static>] = &[("Retry-After", b"1")];

/// Field of "Unauthorized".
const CHALLENGE: &[Field<'static>] = &[("WWW-Authenticate", b"Bearer")];

const NO_CORS: &CorsHeaders = &CorsHeaders::Off;

/// Name and value of a header field.
type Field<'a> = (&'a str, &'a [u8]);

/// A response, without its date and [`ResponseMode`].
#[derive(Debug)]
pub(super) struct Answer<'a> {
    status: u16,
    content_type: &'a [u8],
    body: Cow<'a, [u8]>,
    fields: Cow<'a, [Field<'a>]>,
    cors: &'a CorsHeaders,
    /// Whether pages of other origins may read the fields.
    exposed: bool,
}

impl<'a> Answer<'a> {
    fn new(status: u16, body: impl Into<Cow<'a, [u8]>>) -> Self {
        Answer {
            status,
            content_type: response::JSON.as_bytes(),
            body: body.into(),
            fields: Cow::Borrowed(&[]),
            cors: NO_CORS,
            exposed: false,
        }
    }

    /// All messages are plain text without quotes.
    fn error(status: u16, message: &str) -> Self {
        Answer::new(status, [r#"{"error":""#, message, r#""}"#].concat().into_bytes())
    }

    fn with_fields(self, fields: impl Into<Cow<'a, [Field<'a>]>>) -> Self {
        Answer { fields: fields.into(), ..self }
    }

    pub(super) fn with_cors(mut self, cors: &'a CorsHeaders) -> Self {
        self.cors = cors;
        self
    }

    pub(super) fn refusal(refusal: Refusal, cors: &'a CorsHeaders) -> Self {
        let answer = Answer::error(refusal.status(), refusal.message()).with_cors(cors);
        match refusal {
            Refusal::Unauthorized => answer.with_fields(CHALLENGE),
            Refusal::Memory | Refusal::Feeds => answer.with_fields(RETRY_AFTER),
            Refusal::Malformed
            | Refusal::HeadTooLarge
            | Refusal::BodyTooLarge
            | Refusal::Timeout
            | Refusal::Version
            | Refusal::TransferCoding
            | Refusal::NotFound
            | Refusal::Method
            | Refusal::Origin
            | Refusal::MediaType
            | Refusal::Expectation
            | Refusal::Parameter
            | Refusal::ListingUnguarded
            | Refusal::ShuttingDown => answer,
        }
    }

    /// A refusal with a reason.
    pub(super) fn detailed_refusal(refusal: Refusal, detail: &str) -> Self {
        Answer::error(refusal.status(), &format!("{}: {detail}", refusal.message()))
    }

    pub(super) fn method_not_allowed(allow: &'static str, cors: &'a CorsHeaders) -> Self {
        Answer::refusal(Refusal::Method, cors).with_fields(vec![("Allow", allow.as_bytes())])
    }

    /// The answer to OPTIONS.
    pub(super) fn options(allow: &'static str, cors: &'a CorsHeaders) -> Self {
        Answer::new(204, b"".as_slice()).with_cors(cors).with_fields(vec![("Allow", allow.as_bytes())])
    }

    /// The answer to a CORS preflight (WHATWG Fetch, section 3.2.2). `headers` may be sent, by a POST where there are such
    /// streams.
    pub(super) fn preflight(cors: &'a CorsHeaders, headers: &'a str, post_streams: bool) -> Self {
        let methods: &[u8] = if post_streams { b"GET, POST" } else { b"GET" };
        let answer = Answer::new(204, b"".as_slice()).with_cors(cors);
        match cors {
            CorsHeaders::Off | CorsHeaders::Denied => answer,
            CorsHeaders::Any | CorsHeaders::Origin(_) => answer.with_fields(vec![
                ("Access-Control-Allow-Methods", methods),
                ("Access-Control-Allow-Headers", headers.as_bytes()),
                ("Access-Control-Max-Age", b"86400"),
            ]),
        }
    }

    pub(super) fn healthy() -> Self {
        Answer::new(200, br#"{"status":"ok"}"#.as_slice())
    }

    /// `redis`: whether there is a connection to Redis, and whether there has ever been one; `None`: it is not used.
    pub(super) fn readiness(configured: bool, shutting_down: bool, redis: Option<(bool, bool)>) -> Self {
        let is_ready = configured && !shutting_down && redis.is_none_or(|(_, has_been)| has_been);
        let (status, word) = if is_ready { (200, "ready") } else { (503, "not_ready") };
        let redis = redis.map_or(String::new(), |(is_live, _)| format!(r#","redis":{is_live}"#));
        let body = format!(r#"{{"status":"{word}","configured":{configured}{redis}}}"#);
        Answer::new(status, body.into_bytes())
    }

    pub(super) fn send(result: SendResult) -> Self {
        if let Some((status, message)) = result.error() {
            let answer = Answer::error(status, &message);
            return if result == SendResult::Unavailable { answer.with_fields(RETRY_SOON) } else { answer };
        }
        match result {
            SendResult::Buffered => Answer::new(200, br#"{"status":"buffered"}"#.as_slice()),
            SendResult::Published(Published { id, reached }) => {
                let id = id.map(|id| id.text());
                let id: [&str; 3] = id.as_ref().map_or([""; 3], |id| [r#","id":""#, id.as_str(), "\""]);
                let reached = if reached { r#","reached":true}"# } else { r#","reached":false}"# };
                Answer::new(200, [r#"{"status":"ok""#, id[0], id[1], id[2], reached].concat().into_bytes())
            }
            SendResult::Unavailable
            | SendResult::Ok
            | SendResult::NotFound
            | SendResult::Failed
            | SendResult::Invalid(_)
            | SendResult::Ended
            | SendResult::Lost
            | SendResult::OutOfMemory
            | SendResult::NoAnswer
            | SendResult::Asked(_) => Answer::new(200, br#"{"status":"ok"}"#.as_slice()),
        }
    }

    /// A feed whose body is over.
    pub(super) fn feed(accepted: u64, errors: &[LineError]) -> Self {
        let mut body = format!(r#"{{"status":"ok","accepted":{accepted}"#);
        for (index, LineError { line, result }) in errors.iter().enumerate() {
            let Some((status, message)) = result.error() else { continue };
            body.push_str(if index == 0 { r#","errors":["# } else { "," });
            // Writing to a String cannot fail.
            let _ = write!(body, r#"{{"line":{line},"status":{status},"error":"{message}"}}"#);
        }
        body.push_str(if errors.is_empty() { "}" } else { "]}" });
        Answer::new(200, body.into_bytes())
    }

    /// The rest of a feed is not read.
    pub(super) fn refused_feed(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed => Answer::detailed_refusal(refusal, "invalid chunk"),
            Refusal::HeadTooLarge
            | Refusal::BodyTooLarge
            | Refusal::Timeout
            | Refusal::Version
            | Refusal::TransferCoding
            | Refusal::NotFound
            | Refusal::Method
            | Refusal::Unauthorized
            | Refusal::Origin
            | Refusal::MediaType
            | Refusal::Expectation
            | Refusal::Parameter
            | Refusal::ListingUnguarded
            | Refusal::ShuttingDown
            | Refusal::Memory
            | Refusal::Feeds => Answer::refusal(refusal, NO_CORS),
        }
    }

    /// The error of a feed after so many lines.
    pub(super) fn with_line(mut self, line: u64) -> Self {
        let body = self.body.to_mut();
        body.pop();
        body.extend_from_slice(format!(r#","line":{line}}}"#).as_bytes());
        self
    }

    pub(super) fn membership(result: MembershipResult) -> Self {
        match result {
            MembershipResult::Ok => Answer::send(SendResult::Ok),
            MembershipResult::Buffered => Answer::send(SendResult::Buffered),
            MembershipResult::NotFound => Answer::send(SendResult::NotFound),
            MembershipResult::Failed => Answer::send(SendResult::Failed),
            MembershipResult::Unavailable | MembershipResult::Asked => Answer::send(SendResult::Unavailable),
            MembershipResult::NoAnswer => Answer::send(SendResult::NoAnswer),
            MembershipResult::Invalid(error) => Answer::error(400, &error.message()),
        }
    }

    /// The one answer after which `EventSource` stays away.
    pub(super) fn no_content(cors: &'a CorsHeaders, headers: &'a ExtraHeaders<'a>) -> Self {
        let fields: Vec<Field<'a>> = headers.iter().collect();
        Answer { exposed: true, ..Answer::new(204, b"".as_slice()).with_cors(cors).with_fields(fields) }
    }

    /// How a group stands.
    pub(super) fn group(name: &str, streams: usize, cursor: Option<Cursor>, is_ended: bool, is_complete: bool) -> Self {
        let name = serde_json::to_string(name).unwrap_or_default();
        let cursor = Self::cursor_json(cursor);
        let rest = if is_complete { "" } else { r#","complete":false"# };
        let body = format!(r#"{{"group":{name},"streams":{streams},"cursor":{cursor},"ended":{is_ended}{rest}}}"#);
        Answer::new(200, body.into_bytes())
    }

    /// The newest cursor, if there is history.
    pub(super) fn cursor(cursor: Option<Cursor>) -> Self {
        Answer::new(200, format!(r#"{{"cursor":{}}}"#, Self::cursor_json(cursor)).into_bytes())
    }

    fn cursor_json(cursor: Option<Cursor>) -> String {
        cursor.map_or_else(|| "null".to_owned(), |cursor| format!("\"{cursor}\""))
    }

    /// `failure` is a result that the gateway answers by itself.
    pub(super) fn connect_failure(failure: ConnectResult, cors: &'a CorsHeaders) -> Self {
        let (status, message) = CONNECT_RESULTS[failure as usize].2.unwrap_or((503, "Backend unavailable"));
        let answer = Answer::error(status, message).with_cors(cors);
        match failure {
            ConnectResult::TooManyStreams | ConnectResult::Memory => answer.with_fields(RETRY_AFTER),
            ConnectResult::Accepted
            | ConnectResult::Rejected
            | ConnectResult::Unavailable
            | ConnectResult::Timeout
            | ConnectResult::QueueTimeout
            | ConnectResult::ClientLeft
            | ConnectResult::NotConfigured
            | ConnectResult::ShuttingDown
            | ConnectResult::Overflow
            | ConnectResult::NoContent => answer,
        }
    }

    /// The backend rejected the connect; `body` is its own, if that is passed on.
    pub(super) fn rejection(
        status: u16,
        passed: &'a [(PassedHeader, Vec<u8>)],
        body: Option<&'a [u8]>,
        cors: &'a CorsHeaders,
    ) -> Self {
        let body = body.filter(|body| !body.is_empty());
        let mut answer = match body {
            Some(body) => Answer { content_type: b"", ..Answer::new(status, body) },
            None => Answer::error(status, &format!("Backend returned {status}")),
        };
        let mut fields = Vec::new();
        for (header, value) in passed {
            match header {
                PassedHeader::RetryAfter => fields.push(("Retry-After", value.as_slice())),
                PassedHeader::WwwAuthenticate => fields.push(("WWW-Authenticate", value.as_slice())),
                PassedHeader::ContentType if body.is_some() => answer.content_type = value,
                PassedHeader::ContentType => {}
            }
        }
        answer.with_cors(cors).with_fields(fields)
    }

    /// The page of live figures, which may load nothing and ask nobody but its own gateway.
    pub(super) fn dashboard() -> Self {
        let page = include_bytes!("dashboard.html").as_slice();
        let policy = b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
            base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        let fields = vec![("Content-Security-Policy", policy.as_slice()), ("Cache-Control", b"no-cache".as_slice())];
        Answer { content_type: b"text/html; charset=utf-8", ..Answer::new(200, page) }.with_fields(fields)
    }

    pub(super) fn listing(json: String) -> Self {
        Answer::new(200, json.into_bytes())
    }

    pub(super) fn metrics(text: String) -> Self {
        Answer { content_type: metrics::CONTENT_TYPE.as_bytes(), ..Answer::new(200, text.into_bytes()) }
    }

    /// Appends the response; `keepalive` is how long its connection may be idle, if it is announced.
    pub(super) fn write(&self, out: &mut Vec<u8>, date: &Date, mode: ResponseMode, keepalive: Option<Duration>) {
        let response = Response {
            status: self.status,
            content_type: self.content_type,
            body: &self.body,
            fields: &self.fields,
            cors: self.cors,
            exposed: self.exposed,
            close: !mode.keep_alive,
            keepalive,
            head_only: mode.head_only,
        };
        response::write(out, date, &response);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_index() {
        assert!(REFUSALS.iter().enumerate().all(|(index, (refusal, ..))| *refusal as usize == index));
        assert!(CONNECT_RESULTS.iter().enumerate().all(|(index, (result, ..))| *result as usize == index));
    }
}
