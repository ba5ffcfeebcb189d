//! What clients read, compared with the account of what each is owed.

use super::*;

impl World {
    /// A client takes bytes in.
    pub(super) fn take(&mut self, n: usize, bytes: &[u8]) {
        self.clients[n].frames.held.extend_from_slice(bytes);
        if !self.clients[n].is_headed {
            let is_narrow = self.settings.pending_bytes_max == PENDING && !self.clients[n].waiting.is_empty();
            let held = &mut self.clients[n].frames.held;
            let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") else { return };
            // Too much was sent before it was open, or it was not open yet.
            if held.starts_with(b"HTTP/1.1 503") && (is_narrow || self.is_drained) {
                return;
            }
            assert!(held.starts_with(b"HTTP/1.1 200"), "{}", held.escape_ascii());
            held.drain(..end + 4);
            self.clients[n].is_headed = true;
        }
        while let Some(frame) = self.clients[n].frames.next() {
            self.judge(n, &frame);
        }
    }

    fn judge(&mut self, n: usize, frame: &str) {
        let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
        let id = field("id: ");
        let position = id.map(|id| Cursor::parse(id.as_bytes()).expect("a cursor").position);
        if field("event: ") == Some("gap") {
            let client = &mut self.clients[n];
            assert!(std::mem::take(&mut client.owes_gap), "client {n}: a gap without need");
        }
        let owes_gap = self.clients[n].owes_gap;
        assert!(!owes_gap, "client {n}: something was dropped, and it is not told: {frame:?}");
        let data = field("data: ").unwrap_or_default();
        if let Some(send) = data.strip_prefix('t') {
            let send: u64 = send.parse().expect("a number");
            let client = &mut self.clients[n];
            assert!(send > client.last_token_send, "client {n}: sends to its token out of order");
            client.last_token_send = send;
            assert!(client.waiting.remove(&send), "client {n}: {send} comes twice");
            assert!(!client.is_strict || send > client.last_send, "client {n}: {send} behind {}", client.last_send);
            client.last_send = client.last_send.max(send);
        } else if let Some(send) = data.split(' ').next().and_then(|send| send.parse::<u64>().ok()) {
            let client = &mut self.clients[n];
            assert!(!client.is_strict || send > client.last_send, "client {n}: {send} behind {}", client.last_send);
            client.last_send = client.last_send.max(send);
            if let Some(position) = position {
                let (groups, sent) = self.events.get(&position).expect("an event");
                assert_eq!(*sent, send, "client {n}: another event at its position");
                let left = |group: &usize| {
                    let is_due = |(known, from, until): &&(usize, u64, u64)| {
                        known == group && (from + 1..=*until).contains(&position)
                    };
                    client.left.iter().any(|left| is_due(&left))
                };
                let due = |group: &usize| client.granted.get(group).is_some_and(|from| *from < position) || left(group);
                assert!(
                    groups.iter().any(due),
                    "client {n}: an event of groups {groups:?} that it is not in: {frame:.30?} {:?} {:?}",
                    client.granted,
                    client.left
                );
                assert!(position > client.has, "client {n}: an event twice or out of order: {frame:?}");
                self.check_nothing_missing(n, position - 1);
            }
        }
        if let Some(position) = position {
            self.check_nothing_missing(n, position);
            self.clients[n].cursor = id.map(str::to_owned);
        }
    }

    /// Whoever was cut had fallen behind what is kept, or had too much queued for it alone.
    pub(super) fn judge_cuts(&mut self) {
        for token in std::mem::take(&mut self.cut) {
            let n = (token.as_u128() >> 64) as usize;
            let client = &self.clients[n];
            let is_lost = client.granted.keys().any(|group| self.kept[*group].dropped > client.has);
            // Events that were refused count, too.
            let is_full = client.is_refused && !(client.is_strict && client.is_headed);
            let is_much = is_full && self.settings.pending_bytes_max == PENDING;
            assert!(is_lost || is_much || token != client.token, "client {n}: cut although nothing is lost");
        }
    }

    /// The client has been told that it has everything up to `position`.
    pub(super) fn check_nothing_missing(&mut self, n: usize, position: u64) {
        let is_event = self.events.contains_key(&position);
        let client = &self.clients[n];
        if position > client.has {
            let own = if is_event { position } else { position + 1 };
            for (missing, (groups, send)) in self.events.range(client.has + 1..own) {
                let due = |group: &usize| client.granted.get(group).is_some_and(|from| from < missing);
                assert!(!groups.iter().any(due), "client {n}: {send} is missing");
            }
        }
        self.clients[n].has = self.clients[n].has.max(position);
    }

    /// All that was sent to its token, and was not refused, has come.
    pub(super) fn check_token_sends(&self, n: usize) {
        let waiting = &self.clients[n].waiting;
        assert!(waiting.is_empty(), "client {n}: sends to its token are missing: {waiting:?}");
    }
}
