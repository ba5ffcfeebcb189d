//! What somebody who is setting things up is told in the log when something looks like a slip, each thing once.

use super::routes::Reply;
use super::stats::{ConnectResult, Refusal};
use super::{Gateway, Listener};
use crate::http::request::Head;
use crate::http::response::CorsHeaders;
use crate::send::SendError;
use log::warn;

/// The hints that have been given.
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
}

impl Gateway {
    /// A page of another origin asks for a stream that its browser will not let it read.
    pub(super) fn hint_at_cors(&mut self, head: &Head<'_, '_>, cors: &CorsHeaders) {
        match cors {
            CorsHeaders::Off | CorsHeaders::Denied => {}
            CorsHeaders::Any | CorsHeaders::Origin(_) => return,
        }
        let Some(origin) = foreign_origin(head) else { return };
        let hint = "its browser will not let the page read the stream: name the origin in CORS_ORIGINS, \
                    or serve both under one host name";
        if let Some(hint) = self.hints.once(hint) {
            warn!(origin, hint; "stream requested by a page of another origin");
        }
    }

    /// Why a backend that has never accepted may have rejected; `None` if that has been said.
    pub(super) fn rejection_hint(&mut self, status: u16) -> Option<&'static str> {
        if self.stats.connects(ConnectResult::Accepted) > 0 {
            return None;
        }
        self.hints.once(match status {
            300..=399 => "redirects are not followed: CALLBACK_URL must be the final address, trailing slash and all",
            401 | 403 => "if that was not meant: the callback route must not ask for a login or a CSRF token",
            404 | 405 | 501 => "if that was not meant: check port and path of CALLBACK_URL, it must take POST",
            400..=499 => {
                "if that was not meant: the callback route must read JSON from the body of a POST, \
                 and Django's ALLOWED_HOSTS must have the host of CALLBACK_URL"
            }
            _ => "the backend failed: its own log will say why",
        })
    }

    /// There is no room for one more stream.
    pub(super) fn hint_at_streams_max(&mut self) {
        let streams_max = self.settings.streams_max;
        if let Some(hint) = self.hints.once("raise MAX_STREAMS if it is set, else the limit on open descriptors") {
            warn!(streams_max, hint; "a stream was refused: there are too many");
        }
    }

    /// A send asks for what there is not; the backend may never look at the answers it gets.
    pub(super) fn hint_at_invalid_send(&mut self, error: SendError) {
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
            | SendError::Retry
            | SendError::Close => "the sender got this as the answer",
        };
        if let Some(hint) = self.hints.once(hint) {
            warn!(error = error.message(), hint; "a send was refused");
        }
    }

    /// A send that says nothing but its token is a question; with `data` beside the token it was to be an event.
    pub(super) fn hint_at_missing_event(&mut self, body: &[u8]) {
        if memchr::memmem::find(body, b"\"data\"").is_some()
            && let Some(hint) = self.hints.once("data belongs into event: {token, event: {data}}")
        {
            warn!(hint; "a send had no event in it");
        }
    }

    /// A request that is answered by an error may have been meant for another place.
    pub(super) fn hint_at_refusal(&mut self, head: &Head<'_, '_>, listener: Listener, reply: &Reply) {
        let is_internal = head.path().starts_with("/internal/");
        let hint = match reply {
            Reply::Refused(refusal, _) => match refusal {
                Refusal::NotFound if !is_internal => "streams are served on PORT, not on INTERNAL_PORT",
                Refusal::NotFound if self.settings.internal_listener && listener == Listener::Public => {
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
            | Reply::Preflight(_)
            | Reply::BadParameter(_) => return,
        };
        if let Some(hint) = self.hints.once(hint) {
            warn!(method = head.method, path = head.path(), hint; "a request was refused");
        }
    }

    /// A request that is too large may still be meant.
    pub(super) fn hint_at_limit(&mut self, refusal: Refusal) {
        let hint = match refusal {
            Refusal::BodyTooLarge => "raise MAX_BODY_BYTES if sends may be that large",
            Refusal::HeadTooLarge => {
                "raise MAX_HEADER_BYTES, or see why the header fields, cookies above all, are so large"
            }
            _ => return,
        };
        if let Some(hint) = self.hints.once(hint) {
            warn!(status = refusal.status(), hint; "a request was refused");
        }
    }

    /// A request that makes no sense may be the first bytes of TLS: a handshake record (RFC 8446 section 5.1).
    pub(super) fn hint_at_tls(&mut self, input: &[u8]) {
        if input.starts_with(&[22, 3])
            && let Some(hint) = self.hints.once("use http:// here; TLS is for a proxy in front of the gateway")
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
