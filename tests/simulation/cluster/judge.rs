//! What clients read, compared with the account of what Redis has carried out.

use super::truth::event_of;
use super::*;

impl World {
    /// A client takes bytes in.
    pub(super) fn take(&mut self, n: usize, bytes: &[u8]) {
        self.clients[n].frames.held.extend_from_slice(bytes);
        if !self.clients[n].is_headed {
            let Client { frames, token, node, is_headed, attaches, .. } = &mut self.clients[n];
            let held = &mut frames.held;
            let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") else { return };
            if let Some(record) = &mut self.record {
                record.frame(token.as_u128() as u64, &String::from_utf8_lossy(&held[..end]));
                if held.starts_with(b"HTTP/1.1 204") {
                    return;
                }
            }
            if held.starts_with(b"HTTP/1.1 204") {
                assert!(matches!(attaches, Some(None | Some(false))), "client {n}: there was something to attach to");
                return self.clients[n].granted.clear();
            }
            assert_ne!(*attaches, Some(Some(false)), "client {n}: there was nothing to attach to");
            if self.nodes[*node].drains && held.starts_with(b"HTTP/1.1 503") {
                return;
            }
            assert!(held.starts_with(b"HTTP/1.1 200"), "{}", held.escape_ascii());
            held.drain(..end + 4);
            *is_headed = true;
        }
        while let Some(frame) = self.clients[n].frames.next() {
            self.judge(n, &frame);
        }
    }

    fn judge(&mut self, n: usize, frame: &str) {
        let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
        self.note(|| format!("client {n} gets {frame:.80?}"));
        if let Some(record) = &mut self.record {
            record.frame(self.clients[n].token.as_u128() as u64, frame);
            // Events of groups that nobody here is in take a position at once only without Redis: heartbeats differ.
            if let Some(id) = field("id: ").filter(|_| !frame.starts_with(':')) {
                self.clients[n].cursor = Some(id.to_owned());
            }
            return;
        }
        let cursor = field("id: ").map(|id| {
            let (epoch, position) = id.split_once('.').expect("a cursor");
            (epoch.to_owned(), u64::from_str_radix(position, 36).expect("a position"))
        });
        self.note(|| format!("client {n} gets {frame:.80?}"));
        if field("event: ") == Some("gap") {
            self.take_gap(n, cursor.clone().expect("a gap has an id"));
        }
        let data = field("data: ").unwrap_or_default();
        if let Some(number) = data.strip_prefix('t') {
            self.take_by_token(n, number.parse().expect("a number"));
        } else if !data.is_empty() {
            self.take_event(n, cursor.as_ref(), frame);
        }
        if let Some((epoch, position)) = cursor {
            let client = &mut self.clients[n];
            // What was sent since its GET may have overtaken the question where that is in the order.
            if client.epoch.is_none() && !self.plan.is_orderly() {
                client.excuse = self.truth.count;
            }
            let is_known = client.epoch.as_ref().is_none_or(|known| *known == epoch);
            assert!(is_known, "client {n}: another epoch without a gap: {frame:?}");
            assert!(position >= client.has, "client {n}: a position went back: {frame:?} behind {}", client.has);
            self.check_nothing_missing(n, &epoch, position, frame);
            let client = &mut self.clients[n];
            (client.epoch, client.has) = (Some(epoch), position);
            client.cursor = field("id: ").map(str::to_owned);
        }
    }

    /// A client is told that something may be missing.
    fn take_gap(&mut self, n: usize, (epoch, position): (String, u64)) {
        let client = &mut self.clients[n];
        // A gateway that was never connected does not know where a client without a cursor begins.
        let is_new = client.epoch.is_none() || client.has == 0;
        let may_lose = self.plan.may_lose() || (is_new && !self.plan.is_orderly());
        assert!(may_lose, "client {n}: a gap without need at {:?} {}", client.epoch, client.has);
        if client.epoch.as_ref() != Some(&epoch) {
            (client.has, client.last) = (0, 0);
        }
        client.epoch = Some(epoch);
        client.has = position;
        client.excuse = self.truth.count;
        client.seen.clear();
    }

    fn take_by_token(&mut self, n: usize, number: u64) {
        let client = &mut self.clients[n];
        assert!(client.by_token.insert(number), "client {n}: {number} twice by its token");
        let token = client.token;
        self.sends.check_by_token(number, token);
    }

    fn take_event(&mut self, n: usize, cursor: Option<&(String, u64)>, frame: &str) {
        let event = event_of(frame);
        let executed =
            self.truth.events.get(&event).unwrap_or_else(|| panic!("client {n}: never carried out: {frame:?}"));
        let client = &mut self.clients[n];
        let is_due = executed.groups.iter().any(|group| client.granted.contains(group));
        assert!(is_due, "client {n}: an event of {:?}, not {:?}: {frame:.40?}", executed.groups, client.granted);
        assert_eq!(cursor.is_none(), executed.is_transient, "client {n}: kept events have ids: {frame:.40?}");
        assert!(executed.position > client.last, "client {n}: out of order or twice: {frame:.40?} {executed:?}");
        client.last = executed.position;
        let Some((epoch, position)) = cursor else { return };
        if client.epoch.is_none() && !self.plan.is_orderly() {
            client.excuse = self.truth.count;
        }
        assert!(*position > client.has, "client {n}: an event twice or out of order: {frame:.40?}");
        assert!(self.truth.is_at(epoch, *position, event), "client {n}: not the event of that position: {frame:.40?}");
        // Before it itself is noted.
        self.check_nothing_missing(n, &epoch.clone(), position - 1, frame);
        let client = &mut self.clients[n];
        client.has = *position;
        let executed = &self.truth.events[&event];
        let mut groups = executed.groups.intersection(&client.granted);
        // Of several groups it is not known which one has kept it.
        if let (Some(group), None) = (groups.next(), groups.next()) {
            client.seen.insert(*group);
        }
    }

    /// A client is told that it has everything up to `position`.
    fn check_nothing_missing(&mut self, n: usize, epoch: &str, position: u64, at: &str) {
        let client = &self.clients[n];
        if position <= client.has {
            return;
        }
        for (event, executed) in self.truth.between(epoch, client.has + 1, position) {
            let mut groups = executed.groups.intersection(&client.granted).peekable();
            if executed.is_transient || groups.peek().is_none() || self.truth.lost.contains(&event) {
                continue;
            }
            let is_excused = executed.number <= client.excuse && groups.all(|group| !client.seen.contains(group));
            assert!(is_excused, "client {n}: {event} is missing at {at:.60?}: {executed:?}, behind {}", client.has);
        }
    }

    /// At the end.
    pub(super) fn check_has_all(&mut self, n: usize) {
        if self.clients[n].connection.is_none() {
            return;
        }
        assert!(self.clients[n].is_headed, "client {n}: no head");
        let epoch = self.clients[n].epoch.clone().unwrap_or_else(|| panic!("client {n}: no position"));
        assert!(self.truth.is_newest(&epoch, self.lineage), "client {n}: left in the epoch {epoch}");
        self.check_nothing_missing(n, &epoch, u64::MAX, "the end");
        let client = &self.clients[n];
        self.sends.check_reached(client.token, &client.by_token);
    }
}
