//! `GET /internal/connections`: the open streams, page by page (docs/protocol.md, section 9).

use super::answers::Answer;
use super::connection::{Connection, State};
use super::routes::Page;
use super::sweep::Sweep;
use crate::clock::rfc3339;
use crate::hub::{ConnId, Groups, Joined};
use crate::table::Table;
use std::fmt::Write;

/// The most slots that a turn of the loop scans for one page, free ones included: a hundred microseconds.
const TURN_SLOTS: usize = 8 * 1024;
/// The most slots that one page scans, free ones included.
const PAGE_SLOTS_MAX: usize = 64 * 1024;
/// A page ends once it is this long, whatever its limit: URLs can be as long as a head.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// A page under construction. A stream keeps its slot, so one that stays open while all pages are fetched is on exactly
/// one of them.
pub(super) struct Listing {
    body: String,
    /// The remaining entries of the page.
    room: usize,
    sweep: Sweep,
    /// The end of the page's range of slots.
    end: usize,
    /// The slot of the last entry.
    last: Option<u32>,
    /// Only the streams in this group.
    group: Option<Box<str>>,
}

/// The head of a page.
pub(super) struct Heading<'a> {
    /// The id of this run of the gateway.
    pub instance: &'a str,
    /// The number of open streams.
    pub streams: u64,
    pub groups: &'a Groups,
}

impl Listing {
    pub(super) fn new(page: Page) -> Self {
        let first = page.after.map_or(0, |after| (after as usize).saturating_add(1));
        Self {
            body: String::new(),
            room: page.limit,
            sweep: Sweep::starting_at(first),
            end: first.saturating_add(PAGE_SLOTS_MAX),
            last: None,
            group: page.group,
        }
    }

    /// Continues for one turn; returns the answer once the page is complete. `in_kernel`: bytes in the kernel for a
    /// client.
    pub(super) fn advance(
        &mut self,
        connections: &Table<Connection>,
        heading: &Heading<'_>,
        in_kernel: impl Fn(ConnId) -> usize,
    ) -> Option<Answer<'static>> {
        let slots = connections.slots();
        if self.body.is_empty() {
            let instance = heading.instance;
            let count = match &self.group {
                Some(name) => heading.groups.standing(name).map_or(0, |standing| standing.members as u64),
                None => heading.streams,
            };
            self.body = format!(r#"{{"instance":"{instance}","count":{count},"connections":["#);
        }
        let mut is_full = false;
        for (id, connection) in connections.iter_slots(self.sweep.slice(TURN_SLOTS, slots.min(self.end))) {
            let State::Streaming(streaming) = &connection.state else { continue };
            if self.group.as_ref().is_some_and(|name| !heading.groups.is_member(streaming.joined, name)) {
                continue;
            }
            if self.room == 0 || self.body.len() >= PAGE_BYTES_MAX {
                is_full = true;
                break;
            }
            let separator = if self.body.ends_with('[') { "" } else { "," };
            // Writing to a String cannot fail. The URL is already escaped as JSON.
            let _ = write!(
                self.body,
                r#"{separator}{{"token":"{}","url":"{}","opened_at":"{}","pending_bytes":{}"#,
                connection.token,
                streaming.request.escaped_url(),
                rfc3339(streaming.opened_at.into()),
                connection.out.len().max(connection.out.counted() as usize) + in_kernel(id)
            );
            self.write_groups(heading.groups, streaming.joined);
            self.body.push('}');
            self.room -= 1;
            self.last = Some(id.slot());
        }
        if !is_full && !self.sweep.is_done() {
            return None;
        }
        let next = if is_full { self.last.map(|slot| slot as usize) } else { (self.end < slots).then(|| self.end - 1) };
        let mut body = std::mem::take(&mut self.body);
        let _ = match next {
            Some(slot) => write!(body, r#"],"next":"{slot}"}}"#),
            None => write!(body, r#"],"next":null}}"#),
        };
        Some(Answer::listing(body))
    }

    /// The groups of an entry, in the order in which it joined them, if it is in any.
    fn write_groups(&mut self, groups: &Groups, joined: Joined) {
        if joined == Joined::NONE {
            return;
        }
        let names: Vec<&str> = groups.names_of(joined).collect();
        let quoted = names.iter().rev().map(|name| serde_json::to_string(name).unwrap_or_default());
        let _ = write!(self.body, r#","groups":[{}]"#, quoted.collect::<Vec<_>>().join(","));
    }
}
