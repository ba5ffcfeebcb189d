//! Output: the unsent bytes of a connection and their framing, and the connections with unsent bytes.

use super::actions::{Action, CloseMode};
use crate::buffer::{Buffer, Content, Pool, SharedBytes};
use crate::clock::Millis;
use crate::hub::ConnId;
use crate::planted;
use std::collections::VecDeque;
use std::time::Duration;

/// Space reserved for the size of a chunk: most batches for a stream have 16 to 255 bytes.
const CHUNK_SIZE_ROOM: &[u8] = b"00\r\n";
/// The last chunk (RFC 9112 section 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How long a client counts as reading after it has accepted bytes.
const READS_FOR: Duration = Duration::from_secs(1);
/// How many times the usual limit a client that reads may have unsent: a healthy client needs a second or two for a
/// burst with the initial state of a page.
const READER_FACTOR: usize = 4;
/// After so long without accepting bytes a client counts as one that has stopped reading, where memory is short: the round
/// trip of a distant one. A browser that is cut comes back, and one that is refused in its favour never does.
const STALLS_AFTER: Duration = Duration::from_millis(100);

/// The output of one connection.
pub(super) struct Output {
    buffer: Buffer,
    /// Whether a response body is framed in chunks (RFC 9112 section 7.1).
    chunked: bool,
    /// Whether it is in the list of connections with fresh output.
    fresh: bool,
    /// Whether it is in the list of connections with unsent output.
    listed: bool,
    /// Unsent bytes, as counted in the sum over all connections.
    counted: u32,
    /// When output last made progress or began to queue.
    progress_at: Millis,
}

impl Output {
    pub(super) fn new(now: Millis) -> Self {
        let buffer = Buffer::default();
        Self { buffer, chunked: false, fresh: false, listed: false, counted: 0, progress_at: now }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Unsent bytes.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the last appended bytes belong to a chunked response body.
    pub(super) fn is_chunked(&self) -> bool {
        self.chunked
    }

    /// Unsent bytes for which a write has been attempted; a new batch of sends does not count as backlog.
    pub(super) fn refused(&self) -> usize {
        // A batch that counts as its own backlog ends the stream of a client that reads.
        if self.fresh && !planted::is("batch-counts-as-backlog") { 0 } else { self.buffer.len() }
    }

    /// Whether too much is unsent: more than `bytes_max`, or several times that for a client that reads.
    pub(super) fn is_overdue(&self, now: Millis, bytes_max: usize) -> bool {
        // What the kernel has not been offered proves nothing. A healthy client is cut for several sends at a time.
        let is_new = |content: &Content| !content.was_refused && !planted::is("backlog-counts-before-it-is-refused");
        let reads = |content: &Content| is_new(content) || now < content.reads_until;
        exceeds(self.refused(), bytes_max, || self.buffer.present().is_some_and(reads))
    }

    /// The same for a stream in its replay, behind which `held` bytes are held back; `waits`: it waits for what is not its
    /// client's to read yet. What its client accepts of the replay shows that it reads.
    pub(super) fn is_overdue_behind(&self, now: Millis, held: usize, waits: bool, bytes_max: usize) -> bool {
        exceeds(held + self.refused(), bytes_max, || waits || now < self.progress_at.after(READS_FOR))
    }

    /// When output last made progress or began to queue; before that, when the connection was accepted.
    pub(super) fn progress_at(&self) -> Millis {
        self.progress_at
    }

    /// Whether its client has read nothing for so long that it counts as one that does not.
    pub(super) fn is_stalled(&self, now: Millis) -> bool {
        now >= self.progress_at.after(STALLS_AFTER)
    }

    /// The sending side was shut down: the wait for the peer restarts.
    pub(super) fn touch(&mut self, now: Millis) {
        self.progress_at = now;
    }

    /// A write is about to be attempted.
    pub(super) fn start_write(&mut self) {
        self.fresh = false;
    }

    /// Sets whether the response body is chunked from here on.
    pub(super) fn set_chunked(&mut self, chunked: bool) {
        self.chunked = chunked;
    }

    /// The bytes to write next, with the last chunk completed.
    pub(super) fn unsent(&mut self) -> &[u8] {
        self.seal();
        self.buffer.unsent()
    }

    /// Completes the chunk that frames were appended to, if there is one.
    fn seal(&mut self) {
        let Some((out, start)) = self.buffer.finish() else { return };
        let size = out.len() - start - CHUNK_SIZE_ROOM.len();
        let mut digits = [0; 16];
        let digits = hex_digits(size, &mut digits);
        // The reserved space was a guess; the data moves if it was wrong.
        let room = CHUNK_SIZE_ROOM.len() - 2;
        let end = out.len();
        out.resize(end + digits.len().saturating_sub(room), 0);
        if digits.len() != room {
            out.copy_within(start + room..end, start + digits.len());
        }
        out.truncate(end + digits.len() - room);
        out[start..start + digits.len()].copy_from_slice(digits);
        out.extend_from_slice(b"\r\n");
    }

    /// Panics if an idle connection keeps a buffer, or unsent bytes are not counted; `unsent` is their number.
    pub(super) fn assert_invariants(&self, unsent: usize) {
        assert!(self.fresh || self.counted as usize == unsent, "unsent bytes are not counted");
        if self.is_empty() {
            assert_eq!(self.buffer.capacity(), 0, "an idle connection keeps a buffer");
        }
    }

    /// Unsent bytes, as counted in [`Outbox::unsent_bytes`].
    pub(super) fn counted(&self) -> u32 {
        self.counted
    }

    /// For [`Outbox::sweep_unsent`]: stays in the list only with unsent bytes, whose number is returned.
    pub(super) fn relist(&mut self) -> u32 {
        self.listed = self.counted > 0;
        self.counted
    }
}

/// Whether so many bytes are more than `bytes_max`, or than several times that for a client that reads.
fn exceeds(bytes: usize, bytes_max: usize, reads: impl FnOnce() -> bool) -> bool {
    bytes > bytes_max && (bytes > bytes_max.saturating_mul(READER_FACTOR) || !reads())
}

/// Output state shared by all connections, and the actions for the owner of the sockets.
#[derive(Default)]
pub(super) struct Outbox {
    pool: Pool,
    /// Connections with output for which no write has been attempted, in order.
    fresh: VecDeque<ConnId>,
    actions: VecDeque<Action>,
    /// How many actions have been taken.
    actions_taken: u64,
    /// The sum of all unsent bytes.
    unsent_bytes: u64,
    /// How many connections have some.
    blocked: u64,
    /// Connections with unsent output, each at most once; some may have caught up or be gone.
    unsent: Vec<ConnId>,
}

impl Outbox {
    /// The vector for bytes outside a stream's frames: heads and whole responses.
    pub(super) fn bytes<'o>(&mut self, now: Millis, output: &'o mut Output) -> &'o mut Vec<u8> {
        if output.is_empty() {
            output.progress_at = now;
        }
        output.buffer.appendable(&mut self.pool)
    }

    /// The vector for a stream's frames: inside a chunk if the body is chunked.
    pub(super) fn frames<'o>(&mut self, now: Millis, output: &'o mut Output) -> &'o mut Vec<u8> {
        if output.is_empty() {
            output.progress_at = now;
        }
        let content = output.buffer.content(&mut self.pool);
        if content.unfinished.is_none() && output.chunked {
            content.unfinished = Some(content.bytes.len());
            content.bytes.extend_from_slice(CHUNK_SIZE_ROOM);
        }
        &mut content.bytes
    }

    /// Appends whole chunks, or frames without any, to an output with nothing unsent.
    pub(super) fn share(&mut self, now: Millis, output: &mut Output, bytes: SharedBytes) {
        output.progress_at = now;
        output.buffer.share(bytes, &mut self.pool);
    }

    /// Ends a response body.
    pub(super) fn end_body(&mut self, now: Millis, output: &mut Output) {
        output.seal();
        if output.chunked {
            self.bytes(now, output).extend_from_slice(LAST_CHUNK);
        }
    }

    /// Queues the connection for a write. Writes happen in this order, so that a send's event is offered to the kernel
    /// before its answer.
    pub(super) fn queue(&mut self, id: ConnId, output: &mut Output) {
        if !output.fresh {
            output.fresh = true;
            self.fresh.push_back(id);
        }
    }

    /// Takes the next connection to write to; it may be gone.
    pub(super) fn next_fresh(&mut self) -> Option<ConnId> {
        self.fresh.pop_front()
    }

    /// The kernel accepted `count` bytes.
    pub(super) fn wrote(&mut self, now: Millis, output: &mut Output, count: usize) {
        if count > 0 {
            // Bytes accepted before the first refusal may just be in the kernel's buffer.
            if let Some(content) = output.buffer.present_mut()
                && content.was_refused
            {
                content.reads_until = now.after(READS_FOR);
            }
            output.buffer.consume(count, &mut self.pool);
            output.progress_at = now;
        }
    }

    /// The kernel accepted nothing. Of a backlog that has just begun it is unknown whether the client reads: it gets some
    /// time to show that.
    pub(super) fn refused(&mut self, now: Millis, output: &mut Output) {
        let Some(content) = output.buffer.present_mut() else { return };
        if !std::mem::replace(&mut content.was_refused, true) {
            content.reads_until = now.after(READS_FOR);
        }
    }

    /// Drops the unsent bytes.
    pub(super) fn discard(&mut self, output: &mut Output) {
        output.buffer.clear(&mut self.pool);
    }

    /// Updates the count of a connection's unsent bytes; whether it has changed.
    #[inline(always)]
    pub(super) fn count_unsent(&mut self, id: ConnId, output: &mut Output, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Of every write, and most leave nothing as nothing was left before.
        let has_changed = bytes != output.counted;
        if has_changed {
            self.change_unsent(id, output, bytes);
        }
        has_changed
    }

    fn change_unsent(&mut self, id: ConnId, output: &mut Output, bytes: u32) {
        self.unsent_bytes = self.unsent_bytes - u64::from(output.counted) + u64::from(bytes);
        self.blocked = self.blocked - u64::from(output.counted > 0) + u64::from(bytes > 0);
        output.counted = bytes;
        if !output.listed && bytes > 0 {
            output.listed = true;
            self.unsent.push(id);
        }
    }

    /// Whether the list of connections with unsent output is so long that most of it is stale: each of `connections` is
    /// listed once at most.
    pub(super) fn is_unsent_stale(&self, connections: usize) -> bool {
        self.unsent.len() > 2 * connections + 64
    }

    /// Drops the connections without unsent output from their list; returns the most bytes that one of the others has.
    /// `relist` is [`Output::relist`] of a connection; `None` if it is gone.
    pub(super) fn sweep_unsent(&mut self, mut relist: impl FnMut(ConnId) -> Option<u32>) -> u32 {
        let mut largest = 0;
        self.unsent.retain(|id| {
            let bytes = relist(*id).unwrap_or(0);
            largest = largest.max(bytes);
            bytes > 0
        });
        largest
    }

    /// How many connections have unsent output.
    pub(super) fn blocked(&self) -> u64 {
        self.blocked
    }

    /// Unsent bytes of all connections.
    pub(super) fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }

    /// Queues an action for when all output has been offered to the kernel.
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn next_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        self.actions_taken += u64::from(action.is_some());
        action
    }

    /// The number of the last action so far.
    pub(super) fn last_action(&self) -> u64 {
        self.actions_taken + self.actions.len() as u64
    }

    /// Whether that action has been taken.
    pub(super) fn has_taken(&self, action: u64) -> bool {
        self.actions_taken >= action
    }

    /// The connection is gone, with its unsent bytes.
    pub(super) fn close(&mut self, id: ConnId, mut output: Output, mode: CloseMode) {
        output.buffer.clear(&mut self.pool);
        self.unsent_bytes -= u64::from(output.counted);
        self.blocked -= u64::from(output.counted > 0);
        self.act(Action::Close(id, mode));
    }

    /// Frees unused memory.
    pub(super) fn shrink(&mut self) {
        self.pool.shrink();
        self.fresh.shrink_to_fit();
        self.actions.shrink_to_fit();
        self.unsent.shrink_to_fit();
    }
}

/// The size of a chunk (RFC 9112 section 7.1).
#[inline(always)]
pub(super) fn hex_digits(mut number: usize, digits: &mut [u8; 16]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[number % 16];
        number /= 16;
        if number == 0 {
            return &digits[at..];
        }
    }
}
