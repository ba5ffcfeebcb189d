//! Positions as ids of the log, and what is sent to groups as it is kept and published.

use super::resp::number;
use crate::cursor::Position;
use std::time::Duration;

/// Of an id's two numbers the second has so many bits in a position; the scripts begin a new millisecond before it has
/// more.
const SEQUENCE_BITS: u32 = 18;
/// September 2020, in milliseconds: so positions have 59 bits until 2055.
const FIRST_MS: u64 = 1_600_000_000_000;

/// The position with the id `MILLISECONDS-NUMBER`; 0 for `0-0`.
pub(super) fn position_of(id: &[u8]) -> Option<Position> {
    let dash = memchr::memchr(b'-', id)?;
    let (ms, sequence) = (number(&id[..dash])?, number(&id[dash + 1..])?);
    if (ms, sequence) == (0, 0) {
        return Some(0);
    }
    let ms = ms.checked_sub(FIRST_MS).filter(|ms| *ms < 1 << (59 - SEQUENCE_BITS))?;
    (sequence < 1 << SEQUENCE_BITS).then_some(ms << SEQUENCE_BITS | sequence)
}

/// The id of a position.
pub(super) fn id_of(position: Position) -> String {
    if position == 0 {
        return "0-0".to_owned();
    }
    format!("{}-{}", ms_of(position), position & ((1 << SEQUENCE_BITS) - 1))
}

/// The time of a position by the clock of Redis, in milliseconds.
pub(crate) fn ms_of(position: Position) -> u64 {
    (position >> SEQUENCE_BITS) + FIRST_MS
}

/// The first position at that time or later.
pub(super) fn position_at(ms: u64) -> Position {
    ms.saturating_sub(FIRST_MS) << SEQUENCE_BITS
}

/// How far two positions are apart that were given out that long after each other.
pub(crate) fn span_of(time: Duration) -> Position {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_mul(1 << SEQUENCE_BITS)
}

/// What goes with an event, as the sum of these.
pub(super) mod flags {
    pub(crate) const TRANSIENT: u32 = 1;
    pub(crate) const CLOSE: u32 = 2;
    pub(crate) const END: u32 = 4;
    /// Further events of the same send follow.
    pub(crate) const MORE: u32 = 8;
    /// There is no event.
    pub(crate) const BARE: u32 = 16;
    /// Nothing is sent; the question is who would get it.
    pub(crate) const PROBE: u32 = 32;
}

/// One event, or a command without one: `ID FLAGS FRAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) position: Position,
    pub(super) flags: u32,
    pub(super) frame: &'a [u8],
}

impl<'a> Entry<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = bytes.splitn(3, |byte| *byte == b' ');
        let position = position_of(parts.next()?)?;
        let flags = u32::try_from(number(parts.next()?)?).ok()?;
        Some(Self { position, flags, frame: parts.next()? })
    }
}

/// The group names of something sent to several of them, and the entry.
pub(super) fn parse_for_many(bytes: &[u8]) -> Option<(&str, Entry<'_>)> {
    let rest = bytes.strip_prefix(b"G")?;
    let end = memchr::memmem::find(rest, b"\n\n")?;
    Some((std::str::from_utf8(&rest[..end]).ok()?, Entry::parse(&rest[end + 2..])?))
}

/// A send in the log: `GATEWAY.SERIAL.FLAGS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) gateway: u32,
    pub(super) serial: u64,
    pub(super) flags: u32,
}

impl Tag {
    /// What those of a gateway begin with.
    pub(super) fn start(gateway: u32) -> String {
        format!("{gateway:x}.")
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let gateway = u32::from_str_radix(parts.next()?, 16).ok()?;
        Some(Self { gateway, serial: parts.next()?.parse().ok()?, flags: parts.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_positions_are_in_the_same_order() {
        let ids = ["0-0", "1600000000000-1", "1790000000000-0", "1790000000000-262143", "1790000000001-0"];
        let positions: Vec<Position> = ids.iter().map(|id| position_of(id.as_bytes()).unwrap()).collect();
        assert!(positions.is_sorted());
        assert_eq!(positions.iter().map(|position| id_of(*position)).collect::<Vec<_>>(), ids);
        assert!(position_of(b"3000000000000-1").unwrap() < 1 << 59);
        for bad in ["", "1", "-", "1-1", "1790000000000-262144", "9790000000000-0", "x-1", "1790000000000--1"] {
            assert_eq!(position_of(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(ms_of(position_at(1_790_000_000_123)), 1_790_000_000_123);
    }

    #[test]
    fn entries_are_read_back() {
        let entry = Entry::parse(b"1790000000000-5 10 data: a b\n\n").unwrap();
        assert_eq!((entry.flags, entry.frame), (10, b"data: a b\n\n".as_slice()));
        assert_eq!(Entry::parse(b"1790000000000-5 16 ").unwrap().frame, b"");
        assert_eq!(Entry::parse(b"1790000000000-5 16"), None);
        assert_eq!(parse_for_many(b"Ga\nb\n\n1790000000000-5 0 x").unwrap().0, "a\nb");
        let tag = Tag::parse(&(Tag::start(0xab) + "7.3"));
        assert_eq!(tag, Some(Tag { gateway: 0xab, serial: 7, flags: 3 }));
    }
}
