//! A record of callbacks: every accepted connect has exactly one disconnect; a rejected one has none, or one with `error`
//! where a first attempt broke (contract, section 6).

use super::Call;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The backend's decision on a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Rejected,
    /// It received the call and gave no valid answer: a disconnect must follow all the same.
    Unclear,
}

#[derive(Debug, Default)]
struct Entry {
    /// The decision on all attempts, since a connect may be retried on a fresh connection.
    verdict: Option<Verdict>,
    reasons: Vec<String>,
}

impl Entry {
    /// It ended with `error`, as a connect does whose first attempt broke after it was written.
    fn is_in_doubt(&self) -> bool {
        self.reasons == ["error"]
    }
}

/// Totals of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub accepted: usize,
    pub rejected: usize,
    pub unclear: usize,
    pub disconnects: usize,
    /// Connects that still lack their disconnect.
    pub open: usize,
}

/// Filled by a backend's handler, by token; clones share the content.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<HashMap<String, Entry>>>);

impl Ledger {
    pub(crate) fn connected(&self, token: &str, verdict: Verdict) {
        let mut entries = self.0.lock().unwrap();
        let entry = entries.entry(token.to_owned()).or_default();
        // A first attempt may have been accepted, whatever becomes of the second.
        entry.verdict = Some(match (entry.verdict, verdict) {
            (Some(Verdict::Accepted | Verdict::Unclear), Verdict::Rejected) => Verdict::Unclear,
            (None | Some(_), verdict) => verdict,
        });
    }

    pub(crate) fn disconnected(&self, token: &str, reason: &str) {
        self.0.lock().unwrap().entry(token.to_owned()).or_default().reasons.push(reason.to_owned());
    }

    /// Records a call; the verdict is for connects.
    pub(crate) fn enter(&self, call: &Call, verdict: Verdict) {
        match call.action() {
            "connect" => self.connected(call.token(), verdict),
            "disconnect" => self.disconnected(call.token(), call.reason()),
            other => panic!("a callback of another kind: {other:?}"),
        }
    }

    pub(crate) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for entry in self.0.lock().unwrap().values() {
            let expected = match entry.verdict {
                Some(Verdict::Accepted) => {
                    sums.accepted += 1;
                    1
                }
                // The gateway cannot know what became of a first attempt that broke.
                Some(Verdict::Rejected) if entry.is_in_doubt() => {
                    sums.unclear += 1;
                    1
                }
                Some(Verdict::Rejected) => {
                    sums.rejected += 1;
                    0
                }
                Some(Verdict::Unclear) => {
                    sums.unclear += 1;
                    1
                }
                None => 0,
            };
            sums.disconnects += entry.reasons.len();
            sums.open += usize::from(entry.reasons.len() < expected);
        }
        sums
    }

    /// Disconnects with this reason.
    pub(crate) fn reasons(&self, reason: &str) -> usize {
        self.0.lock().unwrap().values().flat_map(|entry| &entry.reasons).filter(|given| *given == reason).count()
    }

    /// Asserts that nothing is missing, duplicated or out of order.
    #[track_caller]
    pub(crate) fn assert_settled(&self) {
        self.assert_settled_but(|_| false);
    }

    /// The same, but a disconnect may be missing where `excused` allows it; returns how many are.
    #[track_caller]
    pub(crate) fn assert_settled_but(&self, excused: impl Fn(&str) -> bool) -> usize {
        let mut missing = 0;
        for (token, entry) in self.0.lock().unwrap().iter() {
            let expected = match entry.verdict {
                Some(Verdict::Accepted | Verdict::Unclear) => 1,
                Some(Verdict::Rejected) => usize::from(entry.is_in_doubt()),
                None => panic!("a disconnect without a connect: {token} {entry:?}"),
            };
            if entry.reasons.len() < expected && excused(token) {
                missing += 1;
            } else {
                assert_eq!(entry.reasons.len(), expected, "{token} {entry:?}");
            }
        }
        missing
    }
}
