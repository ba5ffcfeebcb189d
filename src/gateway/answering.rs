//! Answers that come later than their requests, in the order of these.

use super::answers::ResponseMode;
use super::results::SendResult;
use std::collections::VecDeque;

/// Answers due on one connection: a client that pipelines more must wait.
const DUE_MAX: usize = 64;

/// Deferred answers of a connection.
pub(super) struct Answering {
    /// Those that are due, in the order of their requests. Never empty.
    due: VecDeque<Due>,
    /// The number of the first one.
    first: u32,
    /// Whether all are answers to sends, behind which further sends may be read.
    only_sends: bool,
    /// Input after the last of these requests.
    pub rest: Vec<u8>,
}

/// One of them.
struct Due {
    mode: ResponseMode,
    /// The result of a send, while one before it has none.
    result: Option<SendResult>,
}

impl Answering {
    /// The first request whose answer is deferred.
    pub(super) fn new(mode: ResponseMode, is_send: bool) -> Self {
        let due = VecDeque::from([Due { mode, result: None }]);
        Self { due, first: 0, only_sends: is_send, rest: Vec::new() }
    }

    /// Adds the answer to a further send; returns its number.
    pub(super) fn add_send(&mut self, mode: ResponseMode) -> u32 {
        self.due.push_back(Due { mode, result: None });
        self.first + self.due.len() as u32 - 1
    }

    /// Whether further requests are expected on the connection.
    pub(super) fn keeps_alive(&self) -> bool {
        self.due.back().is_some_and(|due| due.mode.keep_alive)
    }

    /// Whether a further send may be read.
    pub(super) fn reads_ahead(&self) -> bool {
        self.only_sends && self.due.len() < DUE_MAX && self.keeps_alive()
    }

    /// Notes the result of a send.
    pub(super) fn set_result(&mut self, number: u32, result: SendResult) {
        let index = number.wrapping_sub(self.first) as usize;
        if let Some(due) = self.due.get_mut(index) {
            due.result = Some(result);
        }
    }

    /// Takes the next send whose answer can be written, unless it is the last one that is due.
    pub(super) fn next_but_last(&mut self) -> Option<(ResponseMode, SendResult)> {
        let result = self.due.front().filter(|_| self.due.len() > 1)?.result?;
        let due = self.due.pop_front()?;
        self.first = self.first.wrapping_add(1);
        Some((due.mode, result))
    }

    /// The only answer that is due, and its result if it is that of a send and known.
    pub(super) fn last(&self) -> Option<(ResponseMode, Option<SendResult>)> {
        self.due.front().filter(|_| self.due.len() == 1).map(|due| (due.mode, due.result))
    }

    /// Bytes that it makes the gateway hold, beside those of one that waits for a single answer.
    pub(super) fn bytes(&self) -> usize {
        self.rest.len() + (self.due.len() - 1) * size_of::<Due>()
    }
}
