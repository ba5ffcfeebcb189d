//! What one event of Redis means for many streams or groups, done in slices. Later events wait for it.

use super::following::WaitId;
use super::sweep::Sweep;
use crate::cursor::{Epoch, Position};
use std::collections::VecDeque;

/// Where an epoch is that begins.
pub(super) enum Stage {
    /// Streams leave their groups.
    Streams(Sweep),
    /// What was known of groups is forgotten; nobody is in them.
    Groups(Sweep),
}

/// An epoch that begins.
pub(super) struct NewEpoch {
    pub epoch: Epoch,
    /// The newest position.
    pub head: Position,
    pub stage: Stage,
}

/// All that is to be done before the next event is taken.
pub(super) struct Backlog {
    /// What may still be done in this turn; about a microsecond each.
    left: usize,
    pub new_epoch: Option<NewEpoch>,
    /// A group of which events may be missing, and how many of its members may not have been told.
    pub gap: Option<(Box<str>, usize)>,
    /// What may have waited long enough.
    pub waits: VecDeque<WaitId>,
}

impl Default for Backlog {
    /// Without a limit, unless [`Backlog::allow`] sets one.
    fn default() -> Self {
        Self { left: usize::MAX, new_epoch: None, gap: None, waits: VecDeque::new() }
    }
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.new_epoch.is_none() && self.gap.is_none() && self.waits.is_empty()
    }

    /// A turn begins, in which so much may be done.
    pub(super) fn allow(&mut self, effort: usize) {
        self.left = effort;
    }

    /// Something is done.
    pub(super) fn spend(&mut self, effort: usize) {
        self.left = self.left.saturating_sub(effort);
    }

    /// Whether nothing more may be done in this turn.
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}
