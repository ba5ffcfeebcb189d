//! One-time log hints for likely configuration mistakes.

use super::answers::{ConnectResult, Refusal};
use super::routes::{Listener, Reply};
use super::settings::Settings;
use super::stats::Stats;
use crate::escape::Escaped;
use crate::http::request::Head;
use crate::http::response::CorsHeaders;
use crate::send::{self, SendError};
use crate::sse::Event;
use log::warn;

/// The hints that have been given, each once.
#[derive(Default)]
pub(super) struct Hints {
    given: Vec<&'static str>,
    /// Sends that were looked at or passed over.
    sends: u32,
    /// Scratch memory for a look.
    scratch: String,
}

/// A second look at a send costs more than the first: so many get one at the start, then one in so many.
const SENDS_LOOKED_AT: u32 = 256;
const SENDS_PASSED_OVER: u32 = 4096;
/// Scratch memory that is kept between looks.
const SCRATCH_BYTES_MAX: usize = 4096;

const DATA_OUTSIDE: &str = "data belongs inside event: {token, event: {data}}";

impl Hints {
    /// Returns the hint, unless it has been given before.
    fn once(&mut self, hint: &'static str) -> Option<&'static str> {
        if self.given.contains(&hint) {
            return None;
        }
        self.given.push(hint);
        Some(hint)
    }

    /// A page of another origin requests a stream that its browser will not let it read.
    pub(super) fn cors(&mut self, head: &Head<'_, '_>, cors: &CorsHeaders) {
        match cors {
            CorsHeaders::Off | CorsHeaders::Denied => {}
            CorsHeaders::Any | CorsHeaders::Origin(_) => return,
        }
        let Some(origin) = foreign_origin(head) else { return };
        let hint = "the browser will not let that page read the stream: add its origin to CORS_ORIGINS, \
                    or serve both under one host name";
        if let Some(hint) = self.once(hint) {
            warn!(origin, hint; "stream requested by a page of another origin");
        }
    }

    /// A likely reason for the rejections of a backend that has never accepted; `None` if it was given before.
    pub(super) fn rejection(&mut self, status: u16, stats: &Stats) -> Option<&'static str> {
        if stats.connects(ConnectResult::Accepted) > 0 {
            return None;
        }
        self.once(match status {
            300..=399 => "redirects are not followed: CALLBACK_URL must be the final URL, including any trailing slash",
            401 | 403 => "if this was not intended: the callback route must not require a login or a CSRF token",
            404 | 405 | 501 => {
                "if this was not intended: check port and path of CALLBACK_URL; the route must accept POST"
            }
            400..=499 => {
                "if this was not intended: the callback route must read JSON from the body of a POST, \
                 and Django's ALLOWED_HOSTS must have the host of CALLBACK_URL"
            }
            _ => "the backend failed: see its own log",
        })
    }

    /// The limit of memory is near.
    pub(super) fn memory(&mut self) {
        if let Some(hint) =
            self.once("give it more memory, or set MAX_STREAMS, MAX_HEADER_BYTES or MAX_BODY_BYTES lower")
        {
            warn!(hint; "requests are refused: MEMORY_LIMIT_BYTES is nearly reached");
        }
    }

    /// The maximum number of streams is reached.
    pub(super) fn streams_max(&mut self, streams_max: usize) {
        if let Some(hint) = self.once("raise MAX_STREAMS if it is set, else the limit on open descriptors") {
            warn!(streams_max, hint; "a stream was refused: too many streams");
        }
    }

    /// A send is invalid; the backend may ignore its answers.
    pub(super) fn invalid_send(&mut self, error: SendError) {
        let hint = match error {
            SendError::InvalidJson => {
                "the body must be a JSON object; Python's requests sends one with json=, not data="
            }
            SendError::Token => "use the token from the body of the connect callback",
            SendError::Event => "an event is an object whose data is a string",
            SendError::Name => "a name is a string; leave it out for the events that onmessage gets",
            SendError::Id => "an id is a string or an integer: convert anything else to a string",
            SendError::Data => "data is a string: convert anything else with json.dumps or JSON.stringify",
            SendError::GroupEventId => "in groups the gateway gives the ids: put your own into the data",
            SendError::NameLineBreak
            | SendError::IdLineBreak
            | SendError::IdControl
            | SendError::Retry
            | SendError::Targets
            | SendError::Group
            | SendError::Groups
            | SendError::EventAndEvents
            | SendError::Events
            | SendError::Listed(..)
            | SendError::Will(_)
            | SendError::WillAlone
            | SendError::WillWithoutEnd
            | SendError::Close
            | SendError::Transient
            | SendError::TransientToken
            | SendError::End
            | SendError::EndTarget
            | SendError::AnswerGroups
            | SendError::TooManyGroups
            | SendError::Since
            | SendError::Attach
            | SendError::Headers
            | SendError::Status
            | SendError::ExpiresIn => "the sender received this error as its answer",
        };
        if let Some(hint) = self.once(hint) {
            warn!(error = &*error.message(), hint; "a send was refused");
        }
    }

    /// An event for a stream with cursors brings an id of its own.
    pub(super) fn foreign_id(&mut self, event: &Event<'_>) {
        if event.id.is_some()
            && let Some(hint) =
                self.once("the ids of streams that can be resumed are the gateway's: event.id is left out")
        {
            warn!(hint; "an event has an id of its own");
        }
    }

    /// A send with only a token is a probe; with `data` next to the token, an event was intended.
    pub(super) fn missing_event(&mut self, body: &[u8]) {
        if memchr::memmem::find(body, b"\"data\"").is_some()
            && let Some(hint) = self.once(DATA_OUTSIDE)
        {
            warn!(hint; "a send without an event");
        }
    }

    /// A valid send may have fields that mean nothing; some are looked at.
    #[inline]
    pub(super) fn fields(&mut self, body: &[u8]) {
        self.sends = self.sends.wrapping_add(1);
        if self.sends <= SENDS_LOOKED_AT || self.sends.is_multiple_of(SENDS_PASSED_OVER) {
            self.unknown_field(body);
        }
    }

    #[cold]
    fn unknown_field(&mut self, body: &[u8]) {
        let field = send::unknown_field(body, &mut self.scratch);
        self.scratch.shrink_to(SCRATCH_BYTES_MAX);
        let Some(field) = field else { return };
        let hint = match field.as_str() {
            "data" => DATA_OUTSIDE,
            "event.event" | "event.type" => "the name of an event is its field name",
            field if field.starts_with("event.") => "the fields of an event are data, name, id and retry",
            _ => "the fields of a send are token, group, groups, event, events, close, end and transient",
        };
        if let Some(hint) = self.once(hint) {
            let field = Escaped(&field).to_string();
            warn!(field, hint; "a send has a field that means nothing");
        }
    }

    /// A request that gets an error may have used the wrong port or path.
    pub(super) fn refusal(&mut self, head: &Head<'_, '_>, listener: Listener, reply: &Reply, settings: &Settings) {
        let is_internal = head.path().starts_with("/internal/");
        let hint = match reply {
            Reply::Refused(refusal, _) => match refusal {
                Refusal::NotFound if !is_internal => {
                    "streams are served on PORT, not on INTERNAL_PORT or INTERNAL_SOCKET"
                }
                Refusal::NotFound if settings.internal_listener && listener == Listener::Public => {
                    "INTERNAL_PORT or INTERNAL_SOCKET is set: /internal/ is served there only"
                }
                Refusal::NotFound => {
                    "the paths are /internal/send, /internal/groups, /internal/cursor, /internal/connections, /internal/metrics, and /internal/ for a page"
                }
                Refusal::Unauthorized => "INTERNAL_TOKEN is set: send it as Authorization: Bearer",
                Refusal::Origin => "web pages may not use /internal/: send from the backend",
                Refusal::MediaType => "a send must be uncompressed JSON in UTF-8",
                Refusal::ListingUnguarded => {
                    "other hosts and proxies get the list only if INTERNAL_PORT or INTERNAL_TOKEN is set"
                }
                Refusal::Malformed
                | Refusal::HeadTooLarge
                | Refusal::BodyTooLarge
                | Refusal::Timeout
                | Refusal::Version
                | Refusal::TransferCoding
                | Refusal::Method
                | Refusal::Expectation
                | Refusal::Parameter
                | Refusal::ShuttingDown
                | Refusal::Memory
                | Refusal::Feeds => return,
            },
            Reply::MethodNotAllowed(..) if is_internal => "a send is a POST to /internal/send, a report is a GET",
            Reply::MethodNotAllowed(..) => "a stream is opened by GET; a send is a POST to /internal/send",
            Reply::Healthz
            | Reply::Readyz
            | Reply::Dashboard
            | Reply::Metrics
            | Reply::Connections(_)
            | Reply::Group(_)
            | Reply::Cursor
            | Reply::Options(..)
            | Reply::Preflight(..)
            | Reply::BadParameter(_) => return,
        };
        if let Some(hint) = self.once(hint) {
            warn!(method = head.method, path = head.path(), hint; "a request was refused");
        }
    }

    /// A request over a limit may be legitimate.
    pub(super) fn limit(&mut self, refusal: Refusal) {
        let hint = match refusal {
            Refusal::BodyTooLarge => "raise MAX_BODY_BYTES if sends may be that large",
            Refusal::HeadTooLarge => {
                "raise MAX_HEADER_BYTES, or reduce the header fields: usually cookies are the largest"
            }
            Refusal::Feeds => "raise the limit on open descriptors, or MAX_STREAMS if it is set",
            Refusal::Memory => {
                self.memory();
                return;
            }
            Refusal::Malformed
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
            | Refusal::ShuttingDown => return,
        };
        if let Some(hint) = self.once(hint) {
            warn!(status = refusal.status(), hint; "a request was refused");
        }
    }

    /// A malformed request may be the first bytes of TLS: a handshake record (RFC 8446 section 5.1).
    pub(super) fn tls(&mut self, input: &[u8]) {
        if input.starts_with(&[22, 3])
            && let Some(hint) = self.once("use http:// here; TLS belongs in a proxy in front of the gateway")
        {
            warn!(hint; "a client sent TLS");
        }
    }
}

/// The `Origin` of a request, if it differs from its `Host`.
fn foreign_origin<'a>(head: &'a Head<'_, '_>) -> Option<&'a str> {
    let origin = std::str::from_utf8(head.origin?).ok()?;
    let host = head.header("host").unwrap_or_default();
    let own = origin.split_once("://").is_some_and(|(_, authority)| authority.as_bytes().eq_ignore_ascii_case(host));
    (!own).then_some(origin)
}
