//! The events of groups as bytes: encoded once for all members, or collected for a lagging one.

use super::output::hex_digits;
use crate::buffer::SharedBytes;
use crate::cursor::{Cursor, Position, TEXT_BYTES_MAX};
use crate::hub::{ConnId, EndReason, Frame};
use memchr::memchr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

/// As much as the loop writes at once.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// The maximum collected for one write: with the framing of the last event it still fits.
const COLLECTED_BYTES_MAX: usize = WRITE_BYTES_MAX - 64;

/// The rest of an event that is copied: of larger ones all members whose sockets are full have the same copy.
const COPIED_BYTES_MAX: usize = 1024;

/// The events of which rests are remembered.
const RESTS_MAX: usize = 16;

/// Memory that is kept for reuse.
const SPARE_BYTES_MAX: usize = 128 * 1024;

/// `id: CURSOR` and a line feed, as a frame has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdLine {
    bytes: [u8; Self::BYTES_MAX],
    length: u8,
}

impl IdLine {
    const BYTES_MAX: usize = "id: \n".len() + TEXT_BYTES_MAX;

    pub(super) fn new(cursor: Cursor) -> Self {
        const FIELD: &[u8] = b"id: ";
        let (mut bytes, text) = ([0; Self::BYTES_MAX], cursor.text());
        let end = FIELD.len() + text.as_bytes().len();
        bytes[..FIELD.len()].copy_from_slice(FIELD);
        bytes[FIELD.len()..end].copy_from_slice(text.as_bytes());
        bytes[end] = b'\n';
        Self { bytes, length: end as u8 + 1 }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The framing of a stream's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    /// With the cursor as the id.
    pub ids: bool,
    /// Each in a chunk of its own (RFC 9112 section 7.1).
    pub chunks: bool,
}

/// Appends a frame with `id` after its name.
pub(super) fn write_frame(out: &mut Vec<u8>, frame: &[u8], id: Option<&IdLine>) {
    let Some(id) = id else { return out.extend_from_slice(frame) };
    let name = if frame.starts_with(b"event: ") { memchr(b'\n', frame).map_or(0, |end| end + 1) } else { 0 };
    out.extend_from_slice(&frame[..name]);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(&frame[name..]);
}

/// The same in a chunk of its own.
fn write_chunk(out: &mut Vec<u8>, frame: &[u8], id: Option<&IdLine>) {
    let size = frame.len() + id.map_or(0, |id| id.as_bytes().len());
    out.extend_from_slice(hex_digits(size, &mut [0; 16]));
    out.extend_from_slice(b"\r\n");
    write_frame(out, frame, id);
    out.extend_from_slice(b"\r\n");
}

/// Appends a frame in one of the framings that members use.
fn write_framed(out: &mut Vec<u8>, frame: &[u8], id: Option<&IdLine>, framing: Framing) {
    let id = id.filter(|_| framing.ids);
    if framing.chunks { write_chunk(out, frame, id) } else { write_frame(out, frame, id) }
}

/// Appends frames without their `id` fields. Fields begin at the start of a line, data never does.
pub(super) fn without_ids(frames: &[u8]) -> Vec<u8> {
    frames.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"id:")).flatten().copied().collect()
}

/// The end of the first frame.
pub(super) fn first_frame_end(frames: &[u8]) -> usize {
    memchr::memmem::find(frames, b"\n\n").map_or(frames.len(), |at| at + 2)
}

/// The event in flight, in each framing used by a member.
#[derive(Default)]
pub(super) struct LiveFrame {
    /// In another epoch its position may be that of another event.
    cursor: Option<Cursor>,
    encodings: [Vec<u8>; 4],
}

impl LiveFrame {
    fn index(framing: Framing) -> usize {
        usize::from(framing.ids) * 2 + usize::from(framing.chunks)
    }

    /// Whether that event is available in that framing.
    pub(super) fn has(&self, cursor: Cursor, framing: Framing) -> bool {
        self.cursor == Some(cursor) && !self.encodings[Self::index(framing)].is_empty()
    }

    pub(super) fn encode(&mut self, cursor: Cursor, frame: &[u8], id: Option<&IdLine>, framing: Framing) {
        if self.cursor != Some(cursor) {
            self.cursor = Some(cursor);
            self.encodings.iter_mut().for_each(Vec::clear);
        }
        write_framed(&mut self.encodings[Self::index(framing)], frame, id, framing);
    }

    fn bytes(&self, framing: Framing) -> &[u8] {
        &self.encodings[Self::index(framing)]
    }
}

/// Events for one stream, each framed by itself.
#[derive(Default)]
pub(super) struct Collected {
    bytes: Vec<u8>,
    /// Where each ends, and its position.
    ends: Vec<(usize, Position)>,
}

impl Collected {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        if self.bytes.capacity() > SPARE_BYTES_MAX {
            self.bytes = Vec::new();
        }
    }

    /// Adds an event; `false` if it does not fit.
    pub(super) fn add(&mut self, cursor: Cursor, frame: &Frame, framing: Framing) -> bool {
        if !self.ends.is_empty() && self.bytes.len() + frame.len() > COLLECTED_BYTES_MAX {
            return false;
        }
        let id = framing.ids.then(|| IdLine::new(cursor));
        write_framed(&mut self.bytes, frame, id.as_ref(), framing);
        self.ends.push((self.bytes.len(), cursor.position));
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// An offer to one member; the kernel decides how much of it is accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub id: ConnId,
    /// The live event at this position, in this framing; `None`: the collected events.
    pub live: Option<(Position, Framing)>,
    /// The member's position before it.
    pub floor: Position,
    /// The member's position after all of it; `None`: there are more events.
    pub complete_to: Option<Position>,
}

impl Offer {
    fn bytes<'a>(&self, live: &'a LiveFrame, collected: &'a Collected) -> &'a [u8] {
        match self.live {
            Some((_, framing)) => live.bytes(framing),
            None => &collected.bytes,
        }
    }
}

/// The accepted part of an offer.
pub(super) struct Taken {
    /// The position of the last event that was at least partly accepted.
    pub position: Option<Position>,
    /// The rest of that event.
    pub rest: Rest,
    /// The number of events that were at least partly accepted.
    pub events: u64,
    pub all: bool,
    /// The socket is not known to be full.
    pub is_room_left: bool,
}

/// What a socket has not accepted of an event.
pub(super) enum Rest {
    Nothing,
    Copied(Vec<u8>),
    Shared(SharedBytes),
}

/// Framed events that did not fit into sockets, for as long as any of these has something unsent of them.
#[derive(Default)]
struct Rests {
    recent: VecDeque<Weak<Vec<u8>>>,
}

impl Rests {
    /// The rest of a framed event from `start` on.
    fn share(&mut self, event: &[u8], start: usize) -> Rest {
        if event.len() - start <= COPIED_BYTES_MAX {
            return Rest::Copied(event[start..].to_vec());
        }
        // Another has another `id`, or another size.
        let known = self.recent.iter().filter_map(Weak::upgrade).find(|bytes| **bytes == event);
        let bytes = known.unwrap_or_else(|| {
            let bytes = Arc::new(event.to_vec());
            self.recent.retain(|bytes| bytes.strong_count() > 0);
            self.recent.truncate(RESTS_MAX - 1);
            self.recent.push_front(Arc::downgrade(&bytes));
            bytes
        });
        Rest::Shared(SharedBytes { bytes, start })
    }
}

/// What follows once a stream has reached a position.
pub(super) struct Tail {
    pub until: Position,
    /// Frames.
    pub held: Vec<u8>,
    pub held_events: u64,
    /// The stream ends after them, once it has reached this position as well.
    pub end: Option<(Position, EndReason)>,
}

/// Events in flight to members, and what follows them.
#[derive(Default)]
pub(super) struct Delivery {
    pub live: LiveFrame,
    pub collected: Collected,
    pub offer: Option<Offer>,
    rests: Rests,
    /// The member that has accepted all that was offered, but is due more.
    pub unfinished: Option<ConnId>,
    /// By the slot of the stream.
    pub tails: BTreeMap<u32, Tail>,
    /// The slots of the streams that lag.
    pub lagging: BTreeSet<u32>,
}

impl Delivery {
    /// Bytes that a stream is sent once it has caught up.
    pub(super) fn held_for(&self, id: ConnId) -> usize {
        self.tails.get(&id.slot()).map_or(0, |tail| tail.held.len())
    }

    /// Begins to collect.
    pub(super) fn start(&mut self) -> &mut Collected {
        self.collected.clear();
        &mut self.collected
    }

    /// The bytes of an offer.
    pub(super) fn bytes(&self, offer: &Offer) -> &[u8] {
        offer.bytes(&self.live, &self.collected)
    }

    /// The accepted part of an offer, given the first `count` bytes.
    pub(super) fn taken(&mut self, offer: &Offer, count: usize) -> Taken {
        let Self { live, collected, rests, .. } = self;
        let bytes = offer.bytes(live, collected);
        let all = count >= bytes.len();
        let one = [(bytes.len(), offer.live.map_or(0, |(position, _)| position))];
        let ends = if offer.live.is_some() { &one[..] } else { &collected.ends[..] };
        let whole = ends.partition_point(|(end, _)| *end <= count);
        let start = whole.checked_sub(1).map_or(0, |last| ends[last].0);
        let part = ends.get(whole).filter(|_| count > start);
        let rest = part.map_or(Rest::Nothing, |(end, _)| rests.share(&bytes[start..*end], count - start));
        let last = part.or_else(|| ends.get(whole.checked_sub(1)?));
        let events = whole as u64 + u64::from(part.is_some());
        let is_room_left = all || count >= WRITE_BYTES_MAX;
        Taken { position: last.map(|(_, position)| *position), rest, events, all, is_room_left }
    }

    /// Frees unused memory.
    pub(super) fn shrink(&mut self) {
        self.live = LiveFrame::default();
        self.collected = Collected::default();
        self.rests = Rests::default();
        self.offer = None;
    }
}
