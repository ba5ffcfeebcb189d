//! What Redis has carried out, in its order.

use super::fake::{Id, Note};
use std::collections::{BTreeMap, BTreeSet};

/// As in `src/redis/entries.rs`.
pub(super) fn position_of(id: Id) -> u64 {
    (id.ms - 1_600_000_000_000) << 18 | id.sequence
}

/// An event that was carried out.
#[derive(Clone, Debug)]
pub(super) struct Executed {
    /// The how manieth it was.
    pub(super) number: u64,
    pub(super) position: u64,
    /// Those of its groups that had not ended.
    pub(super) groups: BTreeSet<usize>,
    pub(super) is_transient: bool,
}

/// All events. Each has a number of its own, which its data begin with.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) events: BTreeMap<u64, Executed>,
    /// So many were carried out.
    pub(super) count: u64,
    /// The events that are, or were, in a server with these data, by position.
    lineages: Vec<BTreeMap<u64, u64>>,
    /// Which data each epoch is about, and how many events had been carried out when another epoch took its place there.
    /// Later ones are not promised in it, wherever their positions are: whoever is in it is told of a gap.
    epochs: BTreeMap<String, BTreeMap<usize, u64>>,
    /// Events that were dropped too early.
    pub(super) lost: BTreeSet<u64>,
}

impl Truth {
    /// The number of further data, without events.
    pub(super) fn begin(&mut self) -> usize {
        self.lineages.push(BTreeMap::new());
        self.lineages.len() - 1
    }

    /// The number of further data: a copy of others, made when so many events had been carried out. Positions do not tell
    /// which those were: they may have gone back.
    pub(super) fn fork(&mut self, of: usize, count: u64) -> usize {
        let copied = self.lineages[of].iter().filter(|(_, event)| self.events[event].number <= count);
        let copied = copied.map(|(position, event)| (*position, *event)).collect();
        self.lineages.push(copied);
        self.lineages.len() - 1
    }

    /// What is kept of a group is dropped.
    pub(super) fn lose(&mut self, lineage: usize, group: usize) {
        let events = self.lineages[lineage].values().filter(|event| self.events[event].groups.contains(&group));
        self.lost.extend(events);
    }

    /// Something was carried out. `group_of`: the group of a name.
    pub(super) fn note(&mut self, lineage: usize, note: Note, group_of: impl Fn(&str) -> usize) {
        match note {
            Note::Opened { epoch } => {
                // In base 36, as cursors have it.
                let epoch = in_base_36(epoch.parse().expect("a number"));
                for (other, lineages) in &mut self.epochs {
                    let until = lineages.get_mut(&lineage).filter(|until| *other != epoch && **until == u64::MAX);
                    until.into_iter().for_each(|until| *until = self.count);
                }
                self.epochs.entry(epoch).or_default().insert(lineage, u64::MAX);
            }
            Note::Sent { names, frames, is_transient } => {
                for (id, frame) in frames {
                    let event = event_of(&frame);
                    let (position, groups) = (position_of(id), names.iter().map(|name| group_of(name)).collect());
                    self.count += 1;
                    let executed = Executed { number: self.count, position, groups, is_transient };
                    let known = self.events.insert(event, executed);
                    assert!(known.is_none(), "event {event} was carried out twice");
                    self.lineages[lineage].insert(position, event);
                }
            }
        }
    }

    /// The events of an epoch between two positions, both included.
    pub(super) fn between(&self, epoch: &str, from: u64, to: u64) -> impl Iterator<Item = (u64, &Executed)> {
        let lineages = self.epochs.get(epoch).into_iter().flatten();
        let range = from..=to.max(from);
        lineages.flat_map(move |(lineage, until)| {
            let events = self.lineages[*lineage].range(range.clone()).filter(move |(position, _)| **position <= to);
            events.map(|(_, event)| (*event, &self.events[event])).filter(|(_, executed)| executed.number <= *until)
        })
    }

    /// Whether it is the newest epoch of these data.
    pub(super) fn is_newest(&self, epoch: &str, lineage: usize) -> bool {
        self.epochs.get(epoch).is_some_and(|lineages| lineages.get(&lineage) == Some(&u64::MAX))
    }

    /// Whether it is the event at that position.
    pub(super) fn is_at(&self, epoch: &str, position: u64, event: u64) -> bool {
        let lineages = self.epochs.get(epoch).into_iter().flatten();
        lineages.into_iter().any(|(lineage, _)| self.lineages[*lineage].get(&position) == Some(&event))
    }
}

/// The number of an event, from its frame.
pub(super) fn event_of(frame: impl AsRef<[u8]>) -> u64 {
    let frame = std::str::from_utf8(frame.as_ref()).expect("text");
    let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
    data.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number: {frame:?}"))
}

fn in_base_36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((number % 36) as u32, 36).expect("a digit"));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}
