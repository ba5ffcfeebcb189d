//! What the backend and its operators may ask: `/internal/metrics` and `/internal/connections`.

use super::connection::State;
use super::requests::ResponseMode;
use super::routes::Page;
use super::stats::{Gauges, ProcessFigures};
use super::{ConnId, Gateway, Ticket};
use crate::clock::{Millis, rfc3339};
use crate::http::response::{self, CorsHeaders, Response};
use crate::metrics;
use std::fmt::Write;

/// Most slots that one page looks at, free ones included: some hundred microseconds.
const PAGE_SLOTS_MAX: usize = 64 * 1024;
/// A page ends once it is this long, whatever its limit: URLs can be as long as a head.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

impl Gateway {
    /// Answers a request for the metrics, with what the gateway cannot know by itself.
    #[cold]
    pub fn report(&mut self, now: Millis, ticket: Ticket, process: &ProcessFigures) {
        let gauges = Gauges {
            ready: self.settings.callback_configured && !self.is_leaving(),
            streams_connecting: self.tokens.len() as u64 - self.stats.streams_open,
            streams_max: self.settings.streams_max as u64,
            connections_open: self.connections.len() as u64,
            calls: self.calls.counts(),
            pending_bytes: self.outbox.unsent_bytes(),
            pending_bytes_largest: self.sweep_unsent().into(),
        };
        let text = self.stats.render(&gauges, process);
        self.answer_ticket(now, ticket, |date, mode, out| {
            let response = Response {
                status: 200,
                content_type: metrics::CONTENT_TYPE,
                body: text.as_bytes(),
                fields: &[],
                cors: &CorsHeaders::Off,
                close: !mode.keep_alive,
                head_only: mode.head_only,
            };
            response::write(out, date, &response);
        });
    }

    /// One page of the open streams, in the order of their slots: a stream keeps its slot, so one that stays
    /// open while all pages are fetched is on exactly one of them.
    pub(super) fn write_connections(&mut self, now: Millis, id: ConnId, page: Page, mode: ResponseMode) {
        let mut body =
            format!(r#"{{"instance":"{}","count":{},"connections":["#, self.settings.instance, self.stats.streams_open);
        let (mut listed, mut last, mut next) = (0, 0, None);
        let first = page.after.map_or(0, |after| (after as usize).saturating_add(1));
        let end = first.saturating_add(PAGE_SLOTS_MAX);
        if end < self.connections.slots() {
            next = Some(end - 1);
        }
        for (key, connection) in self.connections.iter_slots(first..end) {
            let State::Streaming(streaming) = &connection.state else { continue };
            if listed == page.limit || body.len() >= PAGE_BYTES_MAX {
                next = Some(last);
                break;
            }
            let separator = if listed == 0 { "" } else { "," };
            // Writing to a String cannot fail. The URL is escaped as JSON already.
            let _ = write!(
                body,
                r#"{separator}{{"token":"{}","url":"{}","opened_at":"{}","pending_bytes":{}}}"#,
                connection.token,
                streaming.request.escaped_url(),
                rfc3339(streaming.opened_at),
                connection.out.len()
            );
            listed += 1;
            last = key.slot() as usize;
        }
        let _ = match next {
            Some(slot) => write!(body, r#"],"next":"{slot}"}}"#),
            None => write!(body, r#"],"next":null}}"#),
        };
        self.respond(now, id, 200, body.as_bytes(), &[], &CorsHeaders::Off, mode);
    }
}
