//! One-time log hints for likely configuration mistakes.

use super::answers::{ConnectResult, Refusal};
use super::routes::{Listener, Reply};
use super::settings::Settings;
use super::stats::Stats;
use crate::http::request::Head;
use crate::http::response::CorsHeaders;
use crate::send::SendError;
use log::warn;

/// The hints that have been given, each once.
#[derive(Default)]
pub(super) struct Hints(Vec<&'static str>);

impl Hints {
    /// Passes a hint on, unless it has been given before.
    fn once(&mut self, hint: &'static str) -> Option<&'static str> {
        if self.0.contains(&hint) {
            return None;
        }
        self.0.push(hint);
        Some(hint)
    }

    /// A page of another origin requests a stream that its browser will not let it read.
    pub(super) fn cors(&mut self, head: &Head<'_, '_>, cors: &CorsHeaders) {
        match cors {
            CorsHeaders::Off | CorsHeaders::Denied => {}
            CorsHeaders::Any | CorsHeaders::Origin(_) => return,
        }
        let Some(origin) = foreign_origin(head) else { return };
        let hint = "its browser will not let the page read the stream: name the origin in CORS_ORIGINS, \
                    or serve both under one host name";
        if let Some(hint) = self.once(hint) {
            warn!(origin, hint; "stream requested by a page of another origin");
        }
    }

    /// Why a backend that has never accepted may have rejected; `None` if that has been said.
    pub(super) fn rejection(&mut self, status: u16, stats: &Stats) -> Option<&'static str> {
        if stats.connects(ConnectResult::Accepted) > 0 {
            return None;
        }
        self.once(match status {
            300..=399 => "redirects are not followed: CALLBACK_URL must be the final address, trailing slash and all",
            401 | 403 => "if this was not intended: the callback route must not require a login or a CSRF token",
            404 | 405 | 501 => "if this was not intended: check port and path of CALLBACK_URL, it must take POST",
            400..=499 => {
                "if this was not intended: the callback route must read JSON from the body of a POST, \
                 and Django's ALLOWED_HOSTS must have the host of CALLBACK_URL"
            }
            _ => "the backend failed: see its own log",
        })
    }

    /// There is no room for one more stream.
    pub(super) fn streams_max(&mut self, streams_max: usize) {
        if let Some(hint) = self.once("raise MAX_STREAMS if it is set, else the limit on open descriptors") {
            warn!(streams_max, hint; "a stream was refused: there are too many");
        }
    }

    /// A send is invalid; the backend may never look at the answers it gets.
    pub(super) fn invalid_send(&mut self, error: SendError) {
        let hint = match error {
            SendError::InvalidJson => {
                "the body must be a JSON object; Python's requests sends one with json=, not data="
            }
            SendError::Token => "the token is the one in the body of the connect callback",
            SendError::Event => "an event is an object with data, which is a string",
            SendError::Data => "data is a string: turn anything else into one with json.dumps or JSON.stringify",
            SendError::Name
            | SendError::NameLineBreak
            | SendError::Id
            | SendError::IdLineBreak
            | SendError::IdControl
            | SendError::Retry
            | SendError::Close => "the sender got this error as its answer",
        };
        if let Some(hint) = self.once(hint) {
            warn!(error = error.message(), hint; "a send was refused");
        }
    }

    /// A send of nothing but a token is a probe; with `data` beside the token an event was meant.
    pub(super) fn missing_event(&mut self, body: &[u8]) {
        if memchr::memmem::find(body, b"\"data\"").is_some()
            && let Some(hint) = self.once("data belongs into event: {token, event: {data}}")
        {
            warn!(hint; "a send had no event in it");
        }
    }

    /// A request that is answered by an error may have been meant for another place.
    pub(super) fn refusal(&mut self, head: &Head<'_, '_>, listener: Listener, reply: &Reply, settings: &Settings) {
        let is_internal = head.path().starts_with("/internal/");
        let hint = match reply {
            Reply::Refused(refusal, _) => match refusal {
                Refusal::NotFound if !is_internal => "streams are served on PORT, not on INTERNAL_PORT",
                Refusal::NotFound if settings.internal_listener && listener == Listener::Public => {
                    "INTERNAL_PORT is set: /internal/ is served on that port only"
                }
                Refusal::NotFound => "there are /internal/send, /internal/connections and /internal/metrics",
                Refusal::Unauthorized => "INTERNAL_TOKEN is set: send Authorization: Bearer, and the token",
                Refusal::Origin => "web pages may not use /internal/: let the backend do it",
                Refusal::MediaType => "a send is JSON in UTF-8, not compressed",
                Refusal::ListingUnguarded => {
                    "other hosts, and proxies, get the list only where INTERNAL_PORT or INTERNAL_TOKEN is set"
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
                | Refusal::ShuttingDown => return,
            },
            Reply::MethodNotAllowed(..) if is_internal => "a send is a POST to /internal/send, a report is a GET",
            Reply::MethodNotAllowed(..) => "a stream is opened by GET; a send is a POST to /internal/send",
            Reply::Healthz
            | Reply::Readyz
            | Reply::Metrics
            | Reply::Connections(_)
            | Reply::Options(..)
            | Reply::Preflight(..)
            | Reply::BadParameter(_) => return,
        };
        if let Some(hint) = self.once(hint) {
            warn!(method = head.method, path = head.path(), hint; "a request was refused");
        }
    }

    /// A request over a limit may still be meant.
    pub(super) fn limit(&mut self, refusal: Refusal) {
        let hint = match refusal {
            Refusal::BodyTooLarge => "raise MAX_BODY_BYTES if sends may be that large",
            Refusal::HeadTooLarge => {
                "raise MAX_HEADER_BYTES, or find out why the header fields, cookies above all, are so large"
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
            && let Some(hint) = self.once("use http:// here; TLS is for a proxy in front of the gateway")
        {
            warn!(hint; "a client speaks TLS");
        }
    }
}

/// The `Origin` of a request, if it is not the one that its `Host` names.
fn foreign_origin<'a>(head: &'a Head<'_, '_>) -> Option<&'a str> {
    let origin = std::str::from_utf8(head.origin?).ok()?;
    let host = head.header("host").unwrap_or_default();
    let own = origin.split_once("://").is_some_and(|(_, authority)| authority.as_bytes().eq_ignore_ascii_case(host));
    (!own).then_some(origin)
}
