//! Eviction: which connection is closed for another one.

use super::Oracle;
use super::exchange::Exchange;
use super::streams::Phase;

/// A shorter silence is not significant.
const SHORT: u64 = 100;
/// No connection is evicted earlier.
const TENURE: u64 = 1;
/// Up to this many connections the gateway is certain to check all.
const FEW: usize = 16;

impl Exchange {
    /// The start of its silence; `None`: a request has begun, or an answer is due.
    fn silent_since(&self) -> Option<u64> {
        let idle = self.is_reading() && !self.is_within_request() && self.backlog == 0 && !self.owes_answer();
        (idle && !self.wild && !self.ended && !self.failed).then_some(self.progress_at)
    }
}

impl Oracle {
    /// The gateway closes a connection while there is no place for another one that came in as `peers` did. `unread`: some
    /// of its input could have been read.
    pub(crate) fn gave_way(&mut self, n: usize, peers: &[usize], unread: bool) {
        self.may_have_ended(n, None);
        let it = &self.exchanges[n];
        let over = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Over);
        // It would have been closed in any case.
        let done = it.ended || it.failed || over || it.shut_at.is_some() || it.closing;
        if !done && !it.wild {
            self.check_victim(n, peers);
            let it = &self.exchanges[n];
            assert!(!unread || it.silent_since().is_none(), "client {n}: evicted with a request unread");
        }
        self.open.retain(|open| *open != n);
        self.exchanges[n].closed = true;
    }

    fn check_victim(&self, n: usize, peers: &[usize]) {
        let it = &self.exchanges[n];
        assert!(it.stream.is_none(), "client {n}: a stream evicted");
        // Answers that its client does not read may be lost.
        assert!(!it.owes_answer() || it.backlog > 0, "client {n}: evicted while a request is being answered");
        let silent_for = |at: u64| self.now - at;
        let victim = it.silent_since();
        let since = victim.or(it.started_at).unwrap_or(it.progress_at);
        assert!(silent_for(since) >= TENURE, "client {n}: evicted at once");
        let others: Vec<&Exchange> =
            peers.iter().map(|n| &self.exchanges[*n]).filter(|it| it.stream.is_none()).collect();
        let longest = others.iter().filter_map(|it| it.silent_since()).min().filter(|at| silent_for(*at) >= SHORT);
        if let (true, Some(longest)) = (others.len() <= FEW, longest) {
            assert_eq!(victim, Some(longest), "client {n}: evicted before one that has been silent longer");
        }
    }
}
