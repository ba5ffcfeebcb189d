//! Streams in groups: what each must be written, in which order, and what may be left out.

use super::Oracle;
use super::groups::{GROUP_ENDED, Groups, Mask};
use super::streams::{Phase, Stream, parse_retry};
use ssegateway::callback::{Detail, Reason};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

pub(crate) type Ending = (Reason, Option<Detail>);

/// Cursors with which clients come back.
const CURSORS_MAX: usize = 64;

/// The end of a stream that has fallen behind what is kept.
const SLOW: Ending = (Reason::Error, Some(Detail::SlowConsumer));

/// Something that a stream is to be written.
pub(super) enum Piece {
    /// What its connect's answer says, or a send to its token; with this position, if it comes first.
    Block {
        frame: Rc<[u8]>,
        id: Option<u64>,
        is_held: bool,
    },
    Retry {
        delay: u32,
        id: Option<u64>,
    },
    /// `id`: it is kept.
    Event {
        position: u64,
        frame: Rc<[u8]>,
        has_id: bool,
        is_transient: bool,
        is_replayed: bool,
        groups: Mask,
    },
}

pub(super) struct Due {
    pub piece: Piece,
    pub is_required: bool,
}

impl Piece {
    fn is_event(&self) -> bool {
        matches!(self, Self::Event { .. })
    }

    /// Whether this is it, without its id.
    fn is(&self, frame: &[u8], id: Option<u64>, is_leaving: bool) -> bool {
        match self {
            Self::Block { frame: due, id: due_id, .. } => **due == *frame && id == *due_id,
            Self::Retry { delay, id: due_id } => {
                let is_near = parse_retry(frame).is_some_and(|retry| retry.abs_diff(*delay) <= delay / 5);
                is_near && (id == *due_id || is_leaving)
            }
            Self::Event { position, frame: due, has_id, .. } => **due == *frame && id == has_id.then_some(*position),
        }
    }
}

/// A stream in groups.
#[derive(Default)]
pub(crate) struct Member {
    /// Its groups, each with the position behind which it is owed their events, and whether its answer granted it.
    pub groups: BTreeMap<usize, (u64, bool)>,
    pub(super) is_resumable: bool,
    pub(super) due: VecDeque<Due>,
    /// The newest position that it was told.
    pub(super) has: u64,
    /// The newest event that was dropped although it was due.
    lost: u64,
    /// Why it ends behind what is due.
    pub ending: Option<Ending>,
    /// Its socket has had room for everything: events and sends to its token come in their order, transient ones too.
    pub is_prompt: bool,
    /// The drain has come: events that it has not reached may be left out.
    is_leaving: bool,
    has_left_out: bool,
}

impl Member {
    /// `position`: of a stream whose ids are positions.
    pub(super) fn new(is_prompt: bool, position: Option<u64>) -> Self {
        let (is_resumable, has) = (position.is_some(), position.unwrap_or(0));
        Self { is_prompt, is_resumable, has, ..Self::default() }
    }

    pub(super) fn push(&mut self, piece: Piece, is_required: bool) {
        self.due.push_back(Due { piece, is_required });
    }

    /// Something was sent to its token.
    pub(super) fn push_block(&mut self, frame: &[u8]) {
        let frame = if self.is_resumable { without_id(frame) } else { frame.into() };
        self.push(Piece::Block { frame, id: None, is_held: false }, true);
    }

    pub(super) fn push_event(&mut self, position: u64, frame: &Rc<[u8]>, is_transient: bool, groups: Mask) {
        let has_id = self.is_resumable && !is_transient;
        let is_required = self.ending.is_none() && (!is_transient || self.is_prompt);
        let frame = Rc::clone(frame);
        self.push(Piece::Event { position, frame, has_id, is_transient, is_replayed: false, groups }, is_required);
    }

    /// An event of a group was dropped.
    pub(super) fn lose(&mut self, group: usize, dropped: u64) {
        let is_due = |due: &Due| matches!(due.piece, Piece::Event { position, .. } if position == dropped);
        if self.groups.get(&group).is_some_and(|(from, _)| *from < dropped) && self.due.iter().any(is_due) {
            self.lost = self.lost.max(dropped);
        }
    }

    /// Not everything was accepted: from now on it may lag.
    pub(super) fn stop(&mut self) {
        self.is_prompt = false;
        for due in &mut self.due {
            due.is_required &= !matches!(due.piece, Piece::Event { is_transient: true, .. });
        }
    }

    /// The drain ends it. What it has not been written of its groups it gets when it is back.
    pub(super) fn leave(&mut self, delay: u32, has_history: bool) {
        if !self.is_prompt && has_history {
            self.is_leaving = true;
            self.due.iter_mut().filter(|due| due.piece.is_event()).for_each(|due| due.is_required = false);
        }
        // With its groups it may have ended before, which nothing has shown.
        self.push(Piece::Retry { delay, id: None }, self.ending.is_none());
    }

    /// Nothing more is written to it.
    pub(super) fn forget_due(&mut self) {
        self.due.clear();
    }

    /// Whether something is due that must come.
    pub(super) fn is_owed(&self) -> bool {
        self.due.iter().any(|due| due.is_required)
    }

    /// The position of the next event that must come.
    fn next_position(&self) -> Option<u64> {
        self.due.iter().find_map(|due| match due.piece {
            Piece::Event { position, is_transient: false, .. } if due.is_required => Some(position),
            Piece::Event { .. } | Piece::Block { .. } | Piece::Retry { .. } => None,
        })
    }

    /// Whether it may be cut, as something is due that is not kept any more.
    fn may_be_cut(&self) -> bool {
        !self.is_prompt && self.next_position().is_some_and(|next| next <= self.lost)
    }

    /// The place of that frame among what is due.
    fn place_of(&self, frame: &[u8], id: Option<u64>) -> Option<usize> {
        let (mut events, mut others) = (false, false);
        for (place, due) in self.due.iter().enumerate() {
            let passed = if due.piece.is_event() { &mut events } else { &mut others };
            if !*passed && due.piece.is(frame, id, self.is_leaving) {
                return Some(place);
            }
            *passed |= due.is_required;
            if events && others {
                return None;
            }
        }
        None
    }

    /// Whether that frame is due, heartbeats aside.
    pub(super) fn expects(&self, frame: &[u8]) -> bool {
        let (id, rest) = self.split(frame);
        let id = id.and_then(|id| ssegateway::cursor::Cursor::parse(id.as_bytes())).map(|cursor| cursor.position);
        self.place_of(&rest, id).is_some()
    }

    /// A frame was written.
    fn take(&mut self, frame: &[u8], groups: &mut Groups) {
        let (id, rest) = self.split(frame);
        let id = id.map(|id| groups.position_of(&id));
        let Some(place) = self.place_of(&rest, id) else {
            panic!("not due: {}, but {}", frame.escape_ascii(), self.describe());
        };
        let Some(Due { piece, .. }) = self.due.remove(place) else { return };
        for before in self.due.iter().take(place) {
            let is_wrong = match (&before.piece, &piece) {
                (Piece::Event { is_replayed, .. }, Piece::Block { .. }) => self.is_prompt || *is_replayed,
                (Piece::Block { is_held, .. }, Piece::Event { is_replayed, .. }) => {
                    self.is_prompt || (*is_held && !is_replayed)
                }
                (Piece::Event { .. }, Piece::Event { .. } | Piece::Retry { .. })
                | (Piece::Block { .. } | Piece::Retry { .. }, _) => false,
            };
            assert!(
                !(is_wrong && before.is_required && !self.is_leaving),
                "out of order: {}, behind {}",
                frame.escape_ascii(),
                self.describe()
            );
        }
        // What is passed over does not come any more.
        let is_event = piece.is_event();
        let mut at = 0;
        for _ in 0..place {
            if self.due[at].piece.is_event() == is_event {
                let left_out = self.due.remove(at);
                self.has_left_out |= self.is_leaving && left_out.is_some_and(|due| due.piece.is_kept());
            } else {
                at += 1;
            }
        }
        if let Piece::Event { position, .. } = piece {
            assert!(!self.has_left_out, "an event is left out before {position}");
        }
        self.tell(id);
    }

    /// The id of a frame, if ids are positions, and the frame without it.
    fn split(&self, frame: &[u8]) -> (Option<String>, Vec<u8>) {
        if self.is_resumable { split_id(frame) } else { (None, frame.to_vec()) }
    }

    /// A position was written.
    fn tell(&mut self, id: Option<u64>) {
        let Some(id) = id else { return };
        assert!(id >= self.has, "a position before the last one: {id} after {}", self.has);
        let is_ahead = self.next_position().is_some_and(|next| next <= id);
        assert!(!is_ahead, "a position ahead of what was written: {id}");
        self.has = id;
    }

    /// A heartbeat was written.
    fn beat(&mut self, frame: &[u8], groups: &mut Groups) {
        let (id, _) = self.split(frame);
        assert_eq!(id.is_some(), self.is_resumable, "a heartbeat has the position: {}", frame.escape_ascii());
        let id = id.map(|id| groups.position_of(&id));
        self.tell(id);
    }

    pub(super) fn describe(&self) -> String {
        let describe = |due: &Due| {
            let what = match &due.piece {
                Piece::Block { frame, id, .. } => format!("{id:?} {:.40}", frame.escape_ascii().to_string()),
                Piece::Retry { delay, id } => format!("retry {delay} {id:?}"),
                Piece::Event { position, frame, has_id, .. } => {
                    format!("{position} {has_id} {:.40}", frame.escape_ascii().to_string())
                }
            };
            format!("[{}{what}]", if due.is_required { "" } else { "perhaps " })
        };
        let due: String = self.due.iter().take(8).map(describe).collect();
        format!(
            "{due} {:?} has {} lost {} prompt {} ending {:?}",
            self.groups, self.has, self.lost, self.is_prompt, self.ending
        )
    }
}

impl Piece {
    fn is_kept(&self) -> bool {
        matches!(self, Self::Event { is_transient: false, .. })
    }
}

/// The id of a frame, and the frame without it. No data begins a line with it.
fn split_id(frame: &[u8]) -> (Option<String>, Vec<u8>) {
    let is_id = |line: &&[u8]| line.starts_with(b"id: ");
    let mut lines = frame.split_inclusive(|byte| *byte == b'\n');
    let id = lines.find(is_id).map(|line| String::from_utf8_lossy(&line[4..line.len() - 1]).into_owned());
    let rest = frame.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_id(line)).flatten().copied().collect();
    (id, rest)
}

/// The same for an event whose own id does not count.
pub(super) fn without_id(frame: &[u8]) -> Rc<[u8]> {
    let lines = frame.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"id:"));
    lines.flatten().copied().collect()
}

impl Oracle {
    pub(super) fn member(&mut self, n: usize) -> &mut Member {
        let stream = self.exchanges[n].stream.as_mut().expect("a stream");
        stream.member.as_mut().expect("a stream in groups")
    }

    pub(super) fn ending_of(&self, n: usize) -> Option<Ending> {
        self.exchanges[n].stream.as_ref()?.member.as_ref()?.ending
    }

    /// A stream ends behind what is due to it now.
    pub(super) fn end_member(&mut self, n: usize, ending: Ending) {
        self.member(n).ending.get_or_insert(ending);
    }

    /// The same if all groups of its answer have ended that it is still in.
    pub(super) fn end_if_over(&mut self, n: usize) {
        let granted = |member: &Member| -> Vec<usize> {
            member.groups.iter().filter(|(_, (_, is_granted))| *is_granted).map(|(group, _)| *group).collect()
        };
        let granted = granted(self.member(n));
        if !granted.is_empty() && granted.iter().all(|group| self.groups.groups[*group].is_ended) {
            self.end_member(n, GROUP_ENDED);
        }
    }

    /// A frame was written to a stream in groups.
    pub(super) fn member_frame(&mut self, n: usize, frame: &[u8]) {
        let stream = self.exchanges[n].stream.as_mut().expect("a stream");
        let is_heartbeat = is_heartbeat(frame);
        if is_heartbeat {
            stream.count_heartbeat();
        }
        let member = stream.member.as_mut().expect("a stream in groups");
        if is_heartbeat {
            member.beat(frame, &mut self.groups)
        } else {
            member.take(frame, &mut self.groups)
        }
        if let (Some(id), _) = member.split(frame) {
            self.cursors.push_back(id.into());
            if self.cursors.len() > CURSORS_MAX {
                self.cursors.pop_front();
            }
        }
    }

    /// A write to a stream in groups is over: what is known of its backlog is whether there is any.
    pub(super) fn note_member_write(&mut self, n: usize, is_whole: bool) {
        let it = &mut self.exchanges[n];
        let Some(stream) = &mut it.stream else { return };
        let Some(member) = &mut stream.member else { return };
        if is_whole && (member.is_prompt || stream.phase == Phase::Over) {
            return self.note_member_room(n);
        }
        if !is_whole {
            member.stop();
        }
        // Even if nothing is left that must come: it looks again in the next turn.
        it.backlog = 1;
    }

    /// The same where its socket may have got room.
    pub(crate) fn note_member_room(&mut self, n: usize) {
        let it = &mut self.exchanges[n];
        let Some(stream) = it.stream.as_ref().filter(|stream| stream.headed) else { return };
        let Some(member) = stream.member.as_ref().filter(|_| it.shut_at.is_none()) else { return };
        it.backlog = usize::from(it.refused || !it.responses.is_between() || member.is_owed());
    }

    /// All output has been offered: streams with room are up to date.
    pub(super) fn note_prompt_members(&mut self) {
        for n in &self.open {
            let it = &mut self.exchanges[*n];
            let is_free = !it.refused && it.backlog == 0;
            if let Some(member) = it.stream.as_mut().and_then(|stream| stream.member.as_mut())
                && is_free
            {
                member.due.clear();
                member.is_prompt = true;
            }
        }
    }

    /// Whether a stream in groups may have ended so, although nothing has shown it yet; then it has.
    pub(super) fn may_have_ended(&mut self, n: usize, ending: Option<Ending>) -> bool {
        let Some(stream) = self.exchanges[n].stream.as_mut().filter(|stream| stream.phase == Phase::Open) else {
            return false;
        };
        let Some(member) = &stream.member else { return false };
        let found = if member.may_be_cut() && ending.is_none_or(|ending| ending == SLOW) {
            SLOW
        } else if let Some(due) = member.ending.filter(|due| ending.is_none_or(|ending| ending == *due)) {
            due
        } else {
            return false;
        };
        stream.end(found.0, found.1);
        true
    }

    /// The same where no output can have shown it: the stream was cut, or is not framed in chunks.
    pub(super) fn may_have_ended_unseen(&mut self, n: usize) -> bool {
        let Some(stream) = &self.exchanges[n].stream else { return false };
        let is_raw = !stream.chunked && stream.may_end();
        self.may_have_ended(n, Some(SLOW)) || (is_raw && self.may_have_ended(n, None))
    }

    /// Streams that may have ended, which only their clients' reading would show.
    pub(super) fn unsure_ends(&self) -> usize {
        let is_unsure = |n: &&usize| {
            let stream = self.exchanges[**n].stream.as_ref().filter(|stream| stream.phase == Phase::Open);
            stream.and_then(|stream| stream.member.as_ref()).is_some_and(|member| member.ending.is_some())
        };
        self.open.iter().filter(is_unsure).count()
    }
}

pub(crate) fn is_heartbeat(frame: &[u8]) -> bool {
    frame.starts_with(b": heartbeat\n")
}

impl Stream {
    /// Whether that frame is due.
    pub(super) fn expects(&self, frame: &[u8]) -> bool {
        match &self.member {
            Some(member) => member.expects(frame),
            None => !self.expected.is_empty(),
        }
    }

    /// Whether it may end now, as its groups have.
    pub(super) fn may_end(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.ending.is_some() && !member.is_owed())
    }

    /// Whether frames are due that must come.
    pub(super) fn is_owed_frames(&self) -> bool {
        !self.expected.is_empty() || self.member.as_ref().is_some_and(|member| member.is_owed())
    }
}
