//! The callback about the start of the gateway: before all others, until the backend has accepted it.

use super::Oracle;
use super::callbacks::Reply;
use ssegateway::callback::{Call, Outcome};

/// From one attempt to the next: a tenth of the time so far, within these bounds.
const INTERVAL: (u64, u64) = (1000, 5000);

/// Its progress.
#[derive(Default)]
pub(super) struct Start {
    is_accepted: bool,
    in_flight: bool,
    /// The start of the first attempt.
    since: Option<u64>,
    next_at: u64,
}

impl Oracle {
    /// Whether connects wait until the backend has accepted the start.
    pub(super) fn awaits_start(&self) -> bool {
        let settings = &self.settings;
        settings.start_callback && settings.callback_configured && !self.start.is_accepted && !self.is_draining()
    }

    /// Whether it is to be tried at once.
    pub(super) fn owes_start(&self) -> bool {
        self.awaits_start() && !self.start.in_flight && self.now >= self.start.next_at && !self.holds_deadlines()
    }

    /// The gateway makes it.
    pub(crate) fn start_called(&mut self, call: &Call) {
        let mut body = Vec::new();
        call.write_body(&mut body);
        assert_eq!(body, br#"{"action":"start"}"#);
        assert_eq!(body.len(), call.body_bytes());
        assert!(self.call_ids.insert(call.id), "the id of a callback is reused");
        self.timers_run();
        assert!(self.awaits_start(), "a start that nobody waits for");
        assert!(!self.start.in_flight, "a start is told twice at once");
        assert!(self.now >= self.start.next_at, "a start is told again too soon");
        self.start.in_flight = true;
        self.start.since.get_or_insert(self.now);
    }

    /// The gateway receives its outcome.
    pub(crate) fn start_ended(&mut self, reply: &Reply) {
        self.input += 1;
        if self.is_draining() {
            return;
        }
        self.start.in_flight = false;
        self.start.is_accepted = matches!(reply.outcome, Outcome::Answered { status: 200..=299, .. });
        self.note_outage(!self.start.is_accepted);
        let lasted = self.start.since.map_or(0, |since| self.now - since);
        self.start.next_at = self.now + (lasted / 10).clamp(INTERVAL.0, INTERVAL.1);
    }
}
