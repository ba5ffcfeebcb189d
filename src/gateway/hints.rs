//! What somebody who is setting things up is told in the log, once, when something looks like a slip.

use super::Gateway;
use super::stats::ConnectResult;
use crate::http::request::Head;
use crate::http::response::Grant;
use log::warn;

/// What has been said already.
#[derive(Default)]
pub(super) struct Hints {
    cors: bool,
}

impl Gateway {
    /// A page of another origin asks for a stream that its browser will not let it read.
    pub(super) fn hint_at_cors(&mut self, head: &Head<'_, '_>, grant: &Grant) {
        match grant {
            Grant::Off | Grant::Denied if !self.hints.cors => {}
            Grant::Off | Grant::Denied | Grant::Any | Grant::Origin(_) => return,
        }
        let Some(origin) = foreign_origin(head) else { return };
        self.hints.cors = true;
        let hint = "its browser will not let the page read the stream: name the origin in CORS_ORIGINS, \
                    or serve both under one host name";
        warn!(origin, hint; "stream requested by a page of another origin");
    }

    /// Why the very first answer of a backend may be a rejection; `None` once it has accepted or rejected one.
    pub(super) fn rejection_hint(&self, status: u16) -> Option<&'static str> {
        let earlier = self.stats.connects(ConnectResult::Accepted) + self.stats.connects(ConnectResult::Rejected);
        if earlier > 0 {
            return None;
        }
        Some(match status {
            300..=399 => "redirects are not followed: CALLBACK_URL must be the final address, trailing slash and all",
            401 | 403 => "if that was not meant: the callback route must not ask for a login or a CSRF token",
            404 | 405 | 501 => "if that was not meant: check the path of CALLBACK_URL, it must take POST",
            400..=499 => "if that was not meant: the callback route must read JSON from the body of a POST",
            _ => "the backend failed: its own log will say why",
        })
    }
}

/// The `Origin` of a request, if it is not the one that its `Host` names.
fn foreign_origin<'a>(head: &'a Head<'_, '_>) -> Option<&'a str> {
    let origin = std::str::from_utf8(head.origin?).ok()?;
    let host = head.header("host").unwrap_or_default();
    let own = origin.split_once("://").is_some_and(|(_, authority)| authority.as_bytes().eq_ignore_ascii_case(host));
    (!own).then_some(origin)
}
