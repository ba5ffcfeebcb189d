//! How streams come into groups, and leave them: the answer to a connect, and `/internal/groups` (docs/protocol.md,
//! sections 11 and 12).

use super::groups::{CLOSED, GROUP_ENDED, NOTHING_TO_ATTACH, name_of};
use super::members::{Due, Ending, Member, Piece, without_id};
use super::streams::{Expected, Phase, Verdict};
use super::{Oracle, millis};
use ssegateway::callback::Reason;
use std::rc::Rc;

/// In place of what may be missing.
const GAP: &[u8] = b"event: gap\ndata: \n\n";

/// How the answer to a connect puts a stream into groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grant {
    pub groups: Vec<usize>,
    pub since: Since,
    /// Only if there is something to attach to.
    pub attach: bool,
}

/// Where the answer lets a client begin that has no cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Since {
    #[default]
    Now,
    Start,
    Cursor(Rc<str>),
}

impl Grant {
    /// Its fields in the answer.
    pub(super) fn fields(&self) -> Vec<String> {
        let names: Vec<String> = self.groups.iter().map(|group| format!(r#""{}""#, name_of(*group))).collect();
        let since = match &self.since {
            Since::Now => None,
            Since::Start => Some(r#""since":"start""#.to_owned()),
            Since::Cursor(cursor) => Some(format!(r#""since":"{cursor}""#)),
        };
        let groups = format!(r#""groups":[{}]"#, names.join(","));
        [groups].into_iter().chain(since).chain(self.attach.then(|| r#""attach":true"#.to_owned())).collect()
    }
}

/// A change of a stream's groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub join: Vec<usize>,
    pub leave: Vec<usize>,
}

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    Ok,
    Buffered,
    NotFound,
}

impl Oracle {
    /// The backend has accepted a stream with groups.
    pub(super) fn open_member(&mut self, n: usize, grant: &Grant, event: Option<&Rc<[u8]>>, close: bool) {
        let now = self.now;
        if grant.attach && !self.finds_anything(&grant.groups).expect("the world asks only if it is known") {
            return self.end_before_it_opens(n, NOTHING_TO_ATTACH);
        }
        let stream = self.exchanges[n].stream.as_ref().expect("a stream");
        let (groups, head) = (&self.groups.groups, self.groups.head);
        let is_over = grant.groups.iter().all(|group| groups[*group].is_ended);
        let dropped = grant.groups.iter().map(|group| groups[*group].dropped).max().unwrap_or(0);
        let since = if let Since::Cursor(cursor) = &grant.since { Some(cursor) } else { None };
        let cursor = stream.cursor.as_ref().or(since).map(|cursor| self.groups.known(cursor));
        let is_live = cursor.is_none() && grant.since == Since::Now;
        let has_history = self.has_history();
        let (from, has_gap) = match cursor {
            _ if !has_history => (head, false),
            Some(Some(position)) => (position, dropped > position),
            Some(None) => (0, true),
            None if grant.since == Since::Start => (0, dropped > 0),
            None => (stream.asked_head, dropped > stream.asked_head),
        };
        let is_due = has_history && grant.groups.iter().any(|group| groups[*group].newest() > from);
        if is_over && (is_live || !has_history || (!is_due && !has_gap)) {
            return self.end_before_it_opens(n, GROUP_ENDED);
        }
        let from = if is_due { from } else { head.max(from) };
        let begins: Vec<(usize, u64)> =
            grant.groups.iter().map(|group| (*group, from.max(groups[*group].dropped))).collect();
        let mut member = Member::new(!is_due, has_history.then_some(from));
        member.groups = begins.iter().map(|(group, from)| (*group, (*from, true))).collect();
        // Whoever leaves before the gap returns with the cursor that it had.
        let mut first = (has_history && !has_gap).then_some(from);
        if let Some(delay) = self.settings.reconnect_delay_ms {
            member.push(Piece::Retry { delay, id: first.take() }, true);
        }
        let strip = |frame: &[u8]| if has_history { without_id(frame) } else { frame.into() };
        if let Some(event) = event {
            member.push(Piece::Block { frame: strip(event), id: first.take(), is_held: false }, true);
        }
        if has_gap {
            member.push(Piece::Block { frame: GAP.into(), id: Some(from), is_held: false }, true);
        }
        let held = &stream.held;
        if is_due {
            first = None;
            for (position, frame, groups) in self.groups.kept(&begins) {
                member.push(
                    Piece::Event { position, frame, has_id: true, is_transient: false, is_replayed: true, groups },
                    true,
                );
            }
        } else if held.is_empty()
            && let Some(id) = first.take()
        {
            member.push(Piece::Block { frame: (*b"\n").into(), id: Some(id), is_held: false }, true);
        }
        for frame in held {
            member.push(Piece::Block { frame: strip(frame), id: first.take(), is_held: true }, true);
        }
        let heartbeat = millis(self.settings.heartbeat_interval);
        let it = &mut self.exchanges[n];
        if it.backlog == 0 {
            it.progress_at = now;
        }
        it.backlog = 1;
        let stream = it.stream.as_mut().expect("a stream");
        stream.verdict = Some(Verdict::Accepted);
        stream.phase = Phase::Open;
        stream.heartbeat_at = now + heartbeat;
        stream.held.clear();
        let closes = close || stream.held_close;
        stream.member = Some(Box::new(member));
        if is_over && !is_due {
            return stream.end(GROUP_ENDED.0, GROUP_ENDED.1);
        }
        self.end_if_over(n);
        self.make_held_changes(n);
        if closes && (is_due || self.ending_of(n).is_some()) {
            self.end_member(n, CLOSED);
        } else if closes {
            let stream = self.exchanges[n].stream.as_mut().expect("a stream");
            stream.end(Reason::ServerClosed, None);
        }
    }

    /// There is nothing to stream: its client gets 204.
    fn end_before_it_opens(&mut self, n: usize, (reason, detail): Ending) {
        let stream = self.exchanges[n].stream.as_mut().expect("a stream");
        stream.verdict = Some(Verdict::Failed { status: 204, error: String::new(), retries: false });
        stream.end(reason, detail);
    }

    /// A change of a stream's groups has been read in full.
    pub(super) fn change(&mut self, n: usize, change: Change) -> Changed {
        let Some(stream) = &mut self.exchanges[n].stream else { return Changed::NotFound };
        match stream.phase {
            Phase::Over => Changed::NotFound,
            Phase::Connecting if stream.held_close => Changed::NotFound,
            Phase::Connecting => {
                stream.held_changes.push(change);
                Changed::Buffered
            }
            Phase::Open => self.change_open(n, &change),
        }
    }

    fn change_open(&mut self, n: usize, change: &Change) -> Changed {
        let head = self.groups.head;
        if !self.exchanges[n].is_member() {
            if change.join.is_empty() {
                return Changed::Ok;
            }
            self.become_member(n);
        }
        let member = self.member(n);
        if member.ending.is_some() {
            return Changed::NotFound;
        }
        for group in &change.leave {
            member.leave_group(*group);
        }
        for group in &change.join {
            member.groups.entry(*group).or_insert((head, false));
        }
        self.end_if_over(n);
        Changed::Ok
    }

    /// The changes that were requested before the stream was open.
    pub(super) fn make_held_changes(&mut self, n: usize) {
        let stream = self.exchanges[n].stream.as_mut().expect("a stream");
        for change in std::mem::take(&mut stream.held_changes) {
            self.change_open(n, &change);
        }
    }

    /// A stream in no group comes into one. Its ids stay what they are.
    fn become_member(&mut self, n: usize) {
        let it = &mut self.exchanges[n];
        let stream = it.stream.as_mut().expect("a stream");
        let mut member = Member::new(!it.refused && it.left_over == 0, None);
        for expected in stream.expected.drain(..) {
            let piece = match expected {
                Expected::Frame(frame) => Piece::Block { frame, id: None, is_held: false },
                Expected::Retry(delay) | Expected::RetryUpTo(delay, _) => Piece::Retry { delay, id: None },
            };
            member.push(piece, true);
        }
        stream.member = Some(Box::new(member));
        it.backlog = it.backlog.min(1);
    }
}

impl Member {
    /// What it has not been written of a group that it leaves may not come any more.
    fn leave_group(&mut self, group: usize) {
        if self.groups.remove(&group).is_none() || self.is_prompt {
            return;
        }
        for Due { piece, is_required } in &mut self.due {
            if let Piece::Event { position, groups, .. } = piece {
                let is_due = self.groups.iter().any(|(group, (from, _))| *groups & 1 << group != 0 && from < position);
                *is_required &= is_due;
            }
        }
    }
}
