//! What waits until groups are known that Redis keeps: streams that open or enter their groups, and changes of groups.

use super::asking::Asker;
use super::connection::Resume;
use crate::clock::Millis;
use crate::hub::{ConnId, GROUPS_MAX};
use crate::send::MembershipError;
use std::collections::{BTreeMap, BTreeSet};

/// What happens once all groups are known.
pub(super) enum Purpose {
    /// A stream opens, whose backend has accepted it, if there is something that it can attach to: Redis is asked. At that
    /// time in any case.
    Attach(Millis),
    /// A stream opens, whose backend has accepted it; at that time in any case.
    Open(Millis),
    /// An open stream enters its groups, not before that time. `resume`: what its client has already; `None`: nothing.
    Enter { not_before: Millis, resume: Option<Resume>, has_gap: bool },
    /// The groups of an open stream are changed; after that time it is too late.
    Change { until: Millis, asker: Asker, leave: Vec<Box<str>> },
}

pub(super) struct Wait {
    /// The groups, each with whether the answer to the connect granted it.
    pub names: Vec<(Box<str>, bool)>,
    pub purpose: Purpose,
}

impl Wait {
    /// When it is due, whatever is known.
    fn at(&self) -> Millis {
        match self.purpose {
            Purpose::Attach(at)
            | Purpose::Open(at)
            | Purpose::Enter { not_before: at, .. }
            | Purpose::Change { until: at, .. } => at,
        }
    }
}

/// A stream, and which of its waits.
pub(super) type WaitId = (ConnId, u64);

/// All that waits.
#[derive(Default)]
pub(super) struct Following {
    waits: BTreeMap<WaitId, Wait>,
    by_group: BTreeMap<Box<str>, Vec<WaitId>>,
    due: BTreeSet<(Millis, WaitId)>,
    last: u64,
    /// Groups for which nothing waits any more.
    released: Vec<Box<str>>,
}

impl Following {
    pub(super) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    pub(super) fn add(&mut self, stream: ConnId, wait: Wait) -> WaitId {
        self.last += 1;
        let id = (stream, self.last);
        for (name, _) in &wait.names {
            self.by_group.entry(name.clone()).or_default().push(id);
        }
        self.due.insert((wait.at(), id));
        self.waits.insert(id, wait);
        id
    }

    pub(super) fn get(&self, id: WaitId) -> Option<&Wait> {
        self.waits.get(&id)
    }

    pub(super) fn take(&mut self, id: WaitId) -> Option<Wait> {
        let wait = self.waits.remove(&id)?;
        self.due.remove(&(wait.at(), id));
        for (name, _) in &wait.names {
            let Some(waiting) = self.by_group.get_mut(name) else { continue };
            waiting.retain(|known| *known != id);
            if waiting.is_empty() {
                self.by_group.remove(name);
                self.released.push(name.clone());
            }
        }
        Some(wait)
    }

    /// The wait of a stream for something to attach to.
    pub(super) fn attaching(&self, stream: ConnId) -> Option<WaitId> {
        let mut waits = self.waits.range((stream, 0)..=(stream, u64::MAX));
        waits.find(|(_, wait)| matches!(wait.purpose, Purpose::Attach(_))).map(|(id, _)| *id)
    }

    /// The wait of a stream that is to enter its groups.
    pub(super) fn entering(&self, stream: ConnId) -> Option<WaitId> {
        let mut waits = self.waits.range((stream, 0)..=(stream, u64::MAX));
        waits.find(|(_, wait)| matches!(wait.purpose, Purpose::Enter { .. })).map(|(id, _)| *id)
    }

    /// Changes the groups that a stream is to enter. Errors: nothing is changed.
    pub(super) fn change_entering<S: AsRef<str>>(
        &mut self,
        id: WaitId,
        join: &[S],
        leave: &[S],
    ) -> Result<(), MembershipError> {
        let Some(wait) = self.waits.get(&id) else { return Ok(()) };
        let leaves = |name: &str| leave.iter().any(|left| left.as_ref() == name);
        let mut names = wait.names.clone();
        names.retain(|(name, _)| !leaves(name));
        for name in join {
            if !names.iter().any(|(known, _)| **known == *name.as_ref()) {
                names.push((Box::from(name.as_ref()), false));
            }
        }
        if names.len() > GROUPS_MAX {
            return Err(MembershipError::TooMany);
        }
        if let Some(Wait { purpose, .. }) = self.take(id) {
            self.add(id.0, Wait { names, purpose });
        }
        Ok(())
    }

    /// The stream is gone: takes all its waits.
    pub(super) fn forget(&mut self, stream: ConnId) -> Vec<Wait> {
        let ids: Vec<WaitId> = self.waits.range((stream, 0)..=(stream, u64::MAX)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// All that waits.
    pub(super) fn all(&self) -> Vec<WaitId> {
        self.waits.keys().copied().collect()
    }

    /// What waits for a group.
    pub(super) fn waiting_for(&self, name: &str) -> Vec<WaitId> {
        self.by_group.get(name).cloned().unwrap_or_default()
    }

    /// Whether something waits for a group.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.by_group.contains_key(name)
    }

    /// The next time for [`Following::next_due`].
    pub(super) fn next_at(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next wait that is due; each comes once.
    pub(super) fn next_due(&mut self, now: Millis) -> Option<WaitId> {
        let (at, id) = *self.due.first()?;
        (at <= now).then(|| {
            self.due.remove(&(at, id));
            id
        })
    }

    /// Nobody is in a group any more for which nothing waits.
    pub(super) fn release(&mut self, name: Box<str>) {
        self.released.push(name);
    }

    /// A group for which nothing waits any more.
    pub(super) fn next_released(&mut self) -> Option<Box<str>> {
        self.released.pop()
    }
}
