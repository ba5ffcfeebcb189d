//! A gateway that is stopped while some of its clients replay, or do not read.

use super::*;

/// Sends to tokens just before.
const LAST_SENDS: usize = 10;

impl World {
    /// Whoever has a stream gets what was sent to its token, and a clean end. What its groups have kept for it, it gets when
    /// it is back.
    pub(super) fn drain(&mut self) {
        for _ in 0..LAST_SENDS {
            self.send_to_token();
        }
        self.note_drops();
        self.judge_cuts();
        let is_pending = |client: &Client| {
            let number = client.token.as_u128() as u64;
            self.calls.iter().any(|(_, _, token)| *token == number)
        };
        let is_open = |client: &Client| client.connection.is_some() && !is_pending(client);
        let open: Vec<usize> = (0..CLIENTS).filter(|n| is_open(&self.clients[*n])).collect();
        self.is_drained = true;
        self.gateway.shut_down(self.time());
        for _ in 0..100 {
            while self.gateway.expire(self.time()) {
                self.carry_out();
            }
            self.turn(u64::MAX);
            for client in &mut self.clients {
                client.room = 1 << 30;
            }
            self.ready.extend(self.by_connection.keys());
        }
        self.judge_cuts();
        self.gateway.assert_invariants();
        for n in open {
            let Client { frames, is_refused, .. } = &self.clients[n];
            // Too much was sent to it before its stream was open.
            if *is_refused && frames.held.starts_with(b"HTTP/1.1 503") {
                continue;
            }
            assert!(frames.is_complete, "client {n}: no clean end: {:?}", frames.held.escape_ascii().to_string());
            self.check_token_sends(n);
        }
    }
}
