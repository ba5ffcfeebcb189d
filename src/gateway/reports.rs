//! What the backend and its operators may ask: `/internal/metrics` and `/internal/connections`.

use super::connection::{Connection, State};
use super::requests::ResponseMode;
use super::routes::Page;
use super::stats::{Gauges, ProcessFigures};
use super::streams::escaped_url_of;
use super::{ConnId, Gateway};
use crate::clock::{Millis, rfc3339};
use crate::http::response::{self, CorsHeaders, Response};
use crate::metrics;
use std::fmt::Write;

/// Most slots that one page looks at, free ones included: some hundred microseconds.
const PAGE_SLOTS_MAX: usize = 64 * 1024;
/// A page ends once it is this long, whatever its limit: URLs can be as long as a head.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// The connections whose output waits for their peers, and how much that is in all.
#[derive(Default)]
pub(super) struct Backlog {
    bytes: u64,
    /// Each connection at most once, as its flag says; some have caught up or gone since.
    ids: Vec<ConnId>,
}

impl Backlog {
    /// Takes note of what `connection` keeps waiting now.
    pub fn note(&mut self, id: ConnId, connection: &mut Connection) {
        let bytes = u32::try_from(connection.waiting_bytes()).unwrap_or(u32::MAX);
        if bytes == connection.pending {
            return;
        }
        self.bytes = self.bytes - u64::from(connection.pending) + u64::from(bytes);
        connection.pending = bytes;
        if !connection.backlogged && bytes > 0 {
            connection.backlogged = true;
            self.ids.push(id);
        }
    }

    /// Takes note that `connection` is gone.
    pub fn forget(&mut self, connection: &Connection) {
        self.bytes -= u64::from(connection.pending);
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Gateway {
    /// Takes note of what a connection keeps waiting.
    pub(super) fn note_pending(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        self.backlog.note(id, connection);
        // Every connection stands there once at most, so the rest of such a long list is stale.
        if self.backlog.ids.len() > 2 * self.connections.len() + 64 {
            self.sweep_backlog();
        }
    }

    /// Drops those that have caught up or gone; returns the most that one of the others keeps waiting.
    fn sweep_backlog(&mut self) -> u32 {
        let mut ids = std::mem::take(&mut self.backlog.ids);
        let mut largest = 0;
        ids.retain(|id| {
            let Some(connection) = self.connections.get_mut(*id) else { return false };
            largest = largest.max(connection.pending);
            connection.backlogged = connection.pending > 0;
            connection.backlogged
        });
        self.backlog.ids = ids;
        largest
    }

    /// Gives up memory that is not in use.
    pub(super) fn shrink_backlog(&mut self) {
        self.sweep_backlog();
        self.backlog.ids.shrink_to_fit();
    }

    /// Answers a request for the metrics, with what the gateway cannot know by itself. The answer is the last
    /// one on its connection.
    #[cold]
    pub fn report(&mut self, now: Millis, id: ConnId, process: &ProcessFigures) {
        if !self.is_reporting(id) {
            return;
        }
        let gauges = Gauges {
            ready: self.settings.callback_configured && !self.is_leaving(),
            streams_connecting: self.tokens.len() as u64 - self.stats.streams_open,
            streams_max: self.settings.streams_max as u64,
            connections_open: self.connections.len() as u64,
            calls: self.calls.counts(),
            pending_bytes: self.backlog.bytes(),
            pending_bytes_largest: self.sweep_backlog().into(),
        };
        let text = self.stats.render(&gauges, process);
        let date = self.date;
        let Some(out) = self.output(now, id) else { return };
        let response = Response {
            status: 200,
            content_type: metrics::CONTENT_TYPE,
            body: text.as_bytes(),
            fields: &[],
            cors: &CorsHeaders::Off,
            close: true,
            head_only: false,
        };
        response::write(out, &date, &response);
        self.start_closing(id);
        self.settle(now, id);
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
                escaped_url_of(&streaming.request),
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
