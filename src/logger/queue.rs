//! Lines in memory, between the threads that log and the one that writes.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of queued lines. 20,000 streams that close in one turn of the loop log 3 MB; a reader that is behind by more
/// than twice that is stuck, and its lines would be stale.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of one write, and so of one line: a pipe accepts this many at once or none (PIPE_BUF, pipe(7)), so a killed
/// process leaves no partial line there.
pub(super) const CHUNK_BYTES: usize = libc::PIPE_BUF;

/// Bytes of memory kept after a burst.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// How long lines are collected before the writer takes the first: a thousand streams that open at once then cost a few
/// wake-ups, not a thousand.
const GATHERING_TIME: Duration = Duration::from_millis(2);

/// A bounded queue of lines with one reader, the writer. A push costs no system call, unless the writer sleeps.
#[derive(Debug)]
pub(super) struct Queue {
    lines: Mutex<Lines>,
    filled: Condvar,
    /// Whether some lines are unwritten. Changed under the lock; read without it where a lock could deadlock.
    unwritten: AtomicBool,
}

#[derive(Debug)]
struct Lines {
    /// Whole lines, each with its end.
    bytes: VecDeque<u8>,
    /// Unreported lines lost before those in `bytes`, by failed writes.
    lost_before: u64,
    /// Unreported lines that did not fit after those in `bytes`. Until the writer gets there, no more are accepted, so
    /// that the report appears where the lines are missing.
    lost_behind: u64,
    /// The log has no reader any more.
    is_closed: bool,
}

impl Queue {
    pub(super) const fn new() -> Self {
        let lines = Lines { bytes: VecDeque::new(), lost_before: 0, lost_behind: 0, is_closed: false };
        Self { lines: Mutex::new(lines), filled: Condvar::new(), unwritten: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line with its end, of at most [`CHUNK_BYTES`], or counts it as lost. Never blocks for long, and
    /// survives a failed allocation.
    pub(super) fn push(&self, line: &str) {
        debug_assert!(line.ends_with('\n') && line.len() <= CHUNK_BYTES);
        let mut lines = self.lock();
        if lines.is_closed {
            return;
        }
        if lines.has_room(line.len()) {
            lines.bytes.extend(line.as_bytes());
        } else {
            lines.lost_behind += 1;
        }
        let writer_sleeps = !self.unwritten.swap(true, Ordering::Relaxed);
        drop(lines);
        if writer_sleeps {
            self.filled.notify_one();
        }
    }

    /// Waits for lines, and moves up to [`CHUNK_BYTES`] of them to `chunk`, which is empty. Returns the number of lines
    /// lost if the chunk is. The next call implies that the chunk was written.
    pub(super) fn take(&self, chunk: &mut Vec<u8>) -> u64 {
        loop {
            let mut lines = self.lock();
            if !lines.is_empty() {
                return lines.take(chunk);
            }
            self.unwritten.store(false, Ordering::Release);
            drop(self.filled.wait_while(lines, |_| !self.unwritten.load(Ordering::Relaxed)));
            thread::sleep(GATHERING_TIME);
        }
    }

    /// Counts lines that were taken but could not be written.
    pub(super) fn lose(&self, count: u64) {
        self.lock().lost_before += count;
    }

    /// Discards all lines, including future ones.
    pub(super) fn close(&self) {
        let mut lines = self.lock();
        lines.is_closed = true;
        lines.bytes = VecDeque::new();
        self.unwritten.store(false, Ordering::Release);
    }

    /// Set while some lines are unwritten.
    pub(super) fn unwritten(&self) -> &AtomicBool {
        &self.unwritten
    }

    /// Waits until all lines are written, at most for `timeout`. Takes no lock: the caller may be a panic under it.
    pub(super) fn wait_until_written(&self, timeout: Duration) {
        let start = Instant::now();
        while self.unwritten.load(Ordering::Acquire) && start.elapsed() < timeout {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Lines {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.lost_behind == 0
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        self.lost_behind == 0 && self.bytes.len() + bytes <= QUEUE_BYTES_MAX && self.bytes.try_reserve(bytes).is_ok()
    }

    fn take(&mut self, chunk: &mut Vec<u8>) -> u64 {
        if self.bytes.is_empty() {
            self.lost_before += std::mem::take(&mut self.lost_behind);
        }
        let lost = std::mem::take(&mut self.lost_before);
        if lost > 0 {
            // Writing to a Vec cannot fail.
            let _ = writeln!(chunk, "{lost} log lines dropped");
        }
        let report = chunk.len();
        chunk.extend(self.bytes.iter().take(CHUNK_BYTES - report));
        chunk.truncate(memchr::memrchr(b'\n', chunk).map_or(0, |end| end + 1));
        self.bytes.drain(..chunk.len() - report);
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = VecDeque::new();
        }
        lost + count_lines(&chunk[report..])
    }
}

pub(super) fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all chunks; asserts that none is too long or ends within a line.
    fn take_all(queue: &Queue) -> (String, u64) {
        let (mut text, mut count, mut chunk) = (String::new(), 0, Vec::new());
        while !queue.lock().is_empty() {
            chunk.clear();
            count += queue.take(&mut chunk);
            assert!(chunk.len() <= CHUNK_BYTES && chunk.ends_with(b"\n"));
            text += std::str::from_utf8(&chunk).unwrap();
        }
        (text, count)
    }

    #[test]
    fn chunks_are_whole_lines_in_order() {
        let queue = Queue::new();
        let longest = format!("{}\n", "x".repeat(CHUNK_BYTES - 1));
        let mut all = String::new();
        for number in 0..1_000 {
            let line = if number % 100 == 0 { longest.clone() } else { format!("line {number}\n") };
            queue.push(&line);
            all += &line;
        }
        assert_eq!(take_all(&queue), (all, 1_000));
        assert!(queue.lock().bytes.capacity() <= KEPT_BYTES_MAX);
    }

    #[test]
    fn lines_without_room_are_counted_where_they_are_missing() {
        let queue = Queue::new();
        let line = format!("{}\n", "x".repeat(1023));
        let room = QUEUE_BYTES_MAX / line.len();
        for _ in 0..room + 5 {
            queue.push(&line);
        }
        let mut chunk = Vec::new();
        assert_eq!(queue.take(&mut chunk), 4);
        // Room again; but the report comes first.
        queue.push("not yet\n");
        let (text, count) = take_all(&queue);
        assert!(text.ends_with("x\n6 log lines dropped\n"));
        assert_eq!(count, room as u64 - 4 + 6);
        queue.push("again\n");
        assert_eq!(take_all(&queue), ("again\n".to_owned(), 1));
    }

    #[test]
    fn lines_lost_later_are_reported_before_the_next() {
        let queue = Queue::new();
        queue.push("one\n");
        queue.push("two\n");
        assert_eq!(take_all(&queue).1, 2);
        queue.lose(2);
        assert!(queue.lock().is_empty(), "a report alone is no reason to try again");
        queue.push("three\n");
        assert_eq!(take_all(&queue), ("2 log lines dropped\nthree\n".to_owned(), 3));
    }

    #[test]
    fn a_closed_queue_holds_nothing() {
        let queue = Queue::new();
        queue.push("one\n");
        assert!(queue.unwritten().load(Ordering::Relaxed));
        queue.close();
        queue.push("two\n");
        assert!(queue.lock().is_empty() && !queue.unwritten().load(Ordering::Relaxed));
        queue.wait_until_written(Duration::MAX);
    }
}
