//! Memberships: the groups of each stream, and the streams of each group.
//!
//! A stream's memberships are a list in one array that all streams share, and a stream holds the index of its first.
//! So a stream in no group costs nothing, and a membership costs no allocation of its own.

use crate::cursor::Position;

/// Memberships in one contiguous piece of memory: the array grows without moving, and without spare capacity.
const CHUNK: usize = 1024;

/// No membership: the end of a list.
const NONE: u32 = u32::MAX;

/// The memberships of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined(u32);

impl Joined {
    /// In no group.
    pub(crate) const NONE: Self = Self(NONE);
}

/// One stream in one group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    /// The stream is owed what comes behind this.
    pub(crate) from: Position,
    /// The group's slot.
    pub(crate) group: u32,
    /// The connection's slot, and [`GRANTED`].
    stream: u32,
    /// Its index in the group's members.
    place: u32,
    /// The stream's next one, or the next free one.
    next: u32,
}

/// Marks a membership granted by the answer to the connect.
const GRANTED: u32 = 1 << 31;

impl Membership {
    /// The connection's slot.
    pub(crate) fn stream(&self) -> u32 {
        self.stream & !GRANTED
    }

    /// Whether the answer to the connect has granted it.
    pub(crate) fn is_granted(&self) -> bool {
        self.stream & GRANTED != 0
    }
}

/// A new membership.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    /// The stream is owed what comes behind this.
    pub(crate) from: Position,
    /// The group's slot.
    pub(crate) group: u32,
    /// The connection's slot.
    pub(crate) stream: u32,
    /// By the answer to the connect.
    pub(crate) is_granted: bool,
}

/// All memberships.
pub(crate) struct Memberships {
    chunks: Vec<Vec<Membership>>,
    /// The head of the list of free ones.
    free: u32,
    len: usize,
}

impl Default for Memberships {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0 }
    }
}

impl Memberships {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, index: u32) -> &Membership {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn get_mut(&mut self, index: u32) -> &mut Membership {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    /// Those of one stream, the newest first.
    pub(crate) fn of(&self, joined: Joined) -> impl Iterator<Item = &Membership> {
        let mut next = joined.0;
        std::iter::from_fn(move || {
            let membership = (next != NONE).then(|| self.get(next))?;
            next = membership.next;
            Some(membership)
        })
    }

    /// Adds one to the stream's and to the group's.
    pub(crate) fn join(&mut self, joined: &mut Joined, members: &mut Vec<u32>, new: Join) {
        let Join { from, group, stream, is_granted } = new;
        let stream = stream | if is_granted { GRANTED } else { 0 };
        let membership = Membership { from, group, stream, place: members.len() as u32, next: joined.0 };
        let index = self.insert(membership);
        members.push(index);
        joined.0 = index;
        self.len += 1;
    }

    fn insert(&mut self, membership: Membership) -> u32 {
        if self.free != NONE {
            let index = self.free;
            let vacated = self.get_mut(index);
            let next = vacated.next;
            *vacated = membership;
            self.free = next;
            return index;
        }
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(membership),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(membership);
                self.chunks.push(chunk);
            }
        }
        ((self.chunks.len() - 1) * CHUNK + self.chunks.last().map_or(0, Vec::len) - 1) as u32
    }

    /// Takes the stream's membership in `group` out of the stream's list, if there is one. The caller takes it out of
    /// the group's members by [`Memberships::vacate`].
    pub(crate) fn unlink(&mut self, joined: &mut Joined, group: u32) -> Option<u32> {
        let (mut before, mut index) = (NONE, joined.0);
        while index != NONE {
            let Membership { group: found, next, .. } = *self.get(index);
            if found == group {
                match before {
                    NONE => joined.0 = next,
                    before => self.get_mut(before).next = next,
                }
                return Some(index);
            }
            (before, index) = (index, next);
        }
        None
    }

    /// Takes the first membership out of the stream's list.
    pub(crate) fn unlink_first(&mut self, joined: &mut Joined) -> Option<u32> {
        let index = joined.0;
        joined.0 = (index != NONE).then(|| self.get(index).next)?;
        Some(index)
    }

    /// Takes an unlinked membership out of its group's members; the last of these moves into its place.
    pub(crate) fn vacate(&mut self, index: u32, members: &mut Vec<u32>) {
        let place = self.get(index).place;
        debug_assert_eq!(members.get(place as usize), Some(&index));
        members.swap_remove(place as usize);
        if let Some(moved) = members.get(place as usize) {
            self.get_mut(*moved).place = place;
        }
        if members.len() < members.capacity() / 4 {
            members.shrink_to(members.len() * 2);
        }
        let free = self.free;
        self.get_mut(index).next = free;
        self.free = index;
        self.len -= 1;
    }

    /// Frees unused memory.
    pub(crate) fn shrink(&mut self) {
        if self.len == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups and streams as lists, to compare with.
    #[test]
    fn both_sides_agree_with_plain_lists() {
        const STREAMS: usize = 7;
        const GROUPS: usize = 5;
        let mut memberships = Memberships::default();
        let mut streams = [Joined::NONE; STREAMS];
        let mut members: [Vec<u32>; GROUPS] = Default::default();
        let mut twin: Vec<(usize, usize)> = Vec::new();
        let mut random = 1_u32;
        for step in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (stream, group) = ((random >> 8) as usize % STREAMS, (random >> 16) as usize % GROUPS);
            if random >> 24 < 4 {
                while let Some(index) = memberships.unlink_first(&mut streams[stream]) {
                    let group = memberships.get(index).group as usize;
                    memberships.vacate(index, &mut members[group]);
                }
                twin.retain(|(known, _)| *known != stream);
            } else if let Some(at) = twin.iter().position(|known| *known == (stream, group)) {
                let index = memberships.unlink(&mut streams[stream], group as u32).expect("a membership");
                memberships.vacate(index, &mut members[group]);
                twin.swap_remove(at);
            } else {
                assert_eq!(memberships.unlink(&mut streams[stream], group as u32), None);
                let join = Join { from: step, group: group as u32, stream: stream as u32, is_granted: step % 2 == 0 };
                memberships.join(&mut streams[stream], &mut members[group], join);
                twin.push((stream, group));
            }
            assert_eq!(memberships.len(), twin.len());
            for (stream, joined) in streams.iter().enumerate() {
                let mut found: Vec<usize> = memberships.of(*joined).map(|found| found.group as usize).collect();
                let mut expected: Vec<usize> =
                    twin.iter().filter(|known| known.0 == stream).map(|known| known.1).collect();
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected);
            }
            for (group, members) in members.iter().enumerate() {
                let count = twin.iter().filter(|known| known.1 == group).count();
                assert_eq!(members.len(), count);
                assert!(members.iter().all(|index| memberships.get(*index).group as usize == group));
            }
        }
    }
}
