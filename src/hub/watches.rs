//! Which connections are to be told when the stream that a token names, or a group, ends.

use super::tokens::ConnId;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watched {
    /// A stream, open or not.
    Token(Uuid),
    /// A group, by its name.
    Group(Box<str>),
}

/// The connections that watch, by what they watch: each at most one thing.
#[derive(Default)]
pub(crate) struct Watches(BTreeMap<Watched, BTreeSet<ConnId>>);

impl Watches {
    /// Whether nobody watches anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many connections watch.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    pub(crate) fn add(&mut self, watched: &Watched, id: ConnId) {
        self.0.entry(watched.clone()).or_default().insert(id);
    }

    /// `false`: it has ended meanwhile.
    pub(crate) fn has(&self, watched: &Watched, id: ConnId) -> bool {
        self.0.get(watched).is_some_and(|ids| ids.contains(&id))
    }

    pub(crate) fn remove(&mut self, watched: &Watched, id: ConnId) {
        if let Some(ids) = self.0.get_mut(watched) {
            ids.remove(&id);
            if ids.is_empty() {
                self.0.remove(watched);
            }
        }
    }

    /// It has ended: the connections that watched it.
    pub(crate) fn end(&mut self, watched: &Watched) -> BTreeSet<ConnId> {
        self.0.remove(watched).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_watches_is_told_once() {
        let [one, two] = [0, 1].map(|slot| ConnId::from_parts(slot, 7));
        let (token, group) = (Watched::Token(Uuid::from_u128(1)), Watched::Group("1".into()));
        let mut watches = Watches::default();
        watches.add(&group, one);
        watches.add(&group, two);
        watches.add(&token, one);
        assert!(watches.has(&group, two) && !watches.has(&token, two));
        assert_eq!(watches.len(), 3);
        watches.remove(&group, one);
        assert_eq!(watches.end(&group), BTreeSet::from([two]));
        assert_eq!(watches.end(&group), BTreeSet::new());
        assert!(!watches.has(&group, two));
        watches.remove(&token, one);
        watches.remove(&token, two);
        assert!(watches.is_empty());
    }
}
