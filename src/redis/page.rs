//! A page of what Redis keeps of some groups, for streams that have not got as far as this gateway remembers.

use super::entries::{Entry, position_of};
use super::resp::Value;
use crate::cursor::Position;
use crate::planted;
use std::sync::Arc;

/// How long a page is, about; of each group it has one event at least.
pub(super) const PAGE_BYTES: usize = 64 * 1024;

/// An event of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageEvent {
    pub(crate) position: Position,
    /// The index of its group: one of several groups comes as often.
    pub(crate) group: usize,
    pub(crate) frame: Arc<[u8]>,
}

/// What is kept of some groups, each behind a position of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// Of each group the position before which Redis may have dropped some; 0: it has not.
    pub(crate) dropped: Vec<Position>,
    /// In order.
    pub(crate) events: Vec<PageEvent>,
    /// Everything up to here is in it.
    pub(crate) covers: Position,
}

impl Page {
    /// Reads the answer to the script.
    pub(super) fn parse(value: &Value<'_>) -> Option<Self> {
        let (newest, groups) = value.elements()?.split_first()?;
        let mut page = Self { covers: position_of(newest.bytes()?)?, ..Self::default() };
        for (group, parts) in groups.chunks_exact(3).enumerate() {
            page.dropped.push(position_of(parts[0].bytes()?)?);
            for entry in parts[2].elements()? {
                let Entry { position, frame, .. } = Entry::parse(entry.bytes()?)?;
                page.events.push(PageEvent { position, group, frame: Arc::from(frame) });
            }
            // Events lost behind the first page.
            if parts[1].integer()? == 1 && !planted::is("a-page-is-taken-for-all-of-its-groups") {
                page.covers = page.covers.min(page.events.last()?.position);
            }
        }
        page.events.sort_by_key(|event| event.position);
        Some(page)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.events.iter().map(|event| size_of_val(event) + event.frame.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_covers_what_the_first_group_that_was_cut_does() {
        let list = |ids: [&'static str; 2]| Value::Array(ids.map(|id| Value::Blob(id.as_bytes())).to_vec());
        let answer = Value::Array(vec![
            Value::Blob(b"1790000000000-9"),
            Value::Blob(b"1790000000000-1"),
            Value::Integer(1),
            list(["1790000000000-3 0 a", "1790000000000-7 0 c"]),
            Value::Blob(b"0-0"),
            Value::Integer(0),
            list(["1790000000000-5 0 b", "1790000000000-8 0 d"]),
        ]);
        let page = Page::parse(&answer).expect("a page");
        let at = |sequence: &str| position_of(format!("1790000000000-{sequence}").as_bytes()).unwrap();
        assert_eq!((page.covers, &*page.dropped), (at("7"), &[at("1"), 0][..]));
        assert_eq!(page.events.iter().map(|event| event.group).collect::<Vec<_>>(), [0, 1, 0, 1]);
        assert!(page.events.is_sorted_by_key(|event| event.position));
    }
}
