//! A stream's position in the events of its groups.

use crate::cursor::Position;

const IN_GROUPS: u64 = 1;
const RESUMABLE: u64 = 1 << 1;
const LAGGING: u64 = 1 << 2;
const HAS_TAIL: u64 = 1 << 3;
const FLAGS: u64 = IN_GROUPS | RESUMABLE | LAGGING | HAS_TAIL;
const FLAG_BITS: u32 = FLAGS.count_ones();

/// A position and flags in one word, since streams without groups have it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached(u64);

impl Reached {
    /// For a stream in a group.
    pub(super) fn new(position: Position, is_resumable: bool) -> Self {
        Self(position << FLAG_BITS | IN_GROUPS | if is_resumable { RESUMABLE } else { 0 })
    }

    /// The stream has never been in a group.
    pub(super) fn is_plain(self) -> bool {
        self.0 == 0
    }

    /// The minimum position of the stream; exact while it lags.
    pub(super) fn position(self) -> Position {
        self.0 >> FLAG_BITS
    }

    pub(super) fn set_position(&mut self, position: Position) {
        self.0 = position << FLAG_BITS | self.0 & FLAGS | IN_GROUPS;
    }

    /// Ids on the stream are cursors.
    pub(super) fn is_resumable(self) -> bool {
        self.0 & RESUMABLE != 0
    }

    /// The stream reads kept events: its socket was full, or it is replaying.
    pub(super) fn is_lagging(self) -> bool {
        self.0 & LAGGING != 0
    }

    pub(super) fn set_lagging(&mut self, is_lagging: bool) {
        self.set(LAGGING, is_lagging);
    }

    /// Something follows once the stream has reached a certain position.
    pub(super) fn has_tail(self) -> bool {
        self.0 & HAS_TAIL != 0
    }

    pub(super) fn set_tail(&mut self, has_tail: bool) {
        self.set(HAS_TAIL, has_tail);
    }

    fn set(&mut self, flag: u64, value: bool) {
        self.0 = if value { self.0 | flag } else { self.0 & !flag };
    }
}
