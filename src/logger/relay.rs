//! From memory and from the private pipe to the real stderr: whole lines, never blocking.

use crate::sys;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longer lines are cut, so that a line fits into what a writable pipe takes at once. A request line
/// of 4 KiB still shows its beginning.
const LINE_BYTES_MAX: usize = sys::PIPE_CHUNK;
/// What waits for a slow reader. A burst of a thousand lines passes; more would only be stale.
const PENDING_BYTES_MAX: usize = 128 * 1024;
/// Read from the pipe at once at most.
const SCRATCH_BYTES: usize = 4 * 1024;
/// Memory that is kept when a burst is over.
const KEPT_BYTES_MAX: usize = 16 * 1024;
/// How long to let lines gather, unless so many come that the pipe could fill up meanwhile: a thousand
/// streams that open at once then cost a few wake-ups, not a thousand.
const GATHERING_TIME: Duration = Duration::from_millis(2);
const CUT: &[u8] = b"...\n";

/// Lines that wait in memory for the relay to fetch them. To leave one there costs no system call, unless it is the
/// first.
#[derive(Debug, Default)]
pub struct Lines(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Wakes the relay, if there is one.
    wake: Option<Arc<PipeWriter>>,
    /// Each with its end.
    bytes: Vec<u8>,
    /// Lines that found no room in `bytes`.
    dropped: u64,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a relay fetches them that reads the other end of `wake`.
    pub fn open(&self, wake: PipeWriter) {
        self.lock().wake = Some(Arc::new(wake));
    }

    /// No more are taken; those that wait are still fetched.
    pub fn close(&self) {
        self.lock().wake = None;
    }

    /// Leaves `line`, which comes without its end. `false`: there is no relay.
    pub fn push(&self, line: &str) -> bool {
        let mut waiting = self.lock();
        let Some(wake) = &waiting.wake else { return false };
        let wake = (waiting.bytes.is_empty() && waiting.dropped == 0).then(|| Arc::clone(wake));
        if waiting.bytes.len() + line.len() < PENDING_BYTES_MAX {
            waiting.bytes.extend_from_slice(line.as_bytes());
            waiting.bytes.push(b'\n');
        } else {
            waiting.dropped += 1;
        }
        // Should others have filled the pipe, the relay needs the lock before it reads on.
        drop(waiting);
        if let Some(wake) = wake {
            // The relay passes over empty lines.
            let _ = wake.as_ref().write_all(b"\n");
        }
        true
    }
}

/// Lines on their way.
#[derive(Debug, Default)]
pub struct Relay {
    /// The beginning of a line whose end has not been read yet.
    line: Vec<u8>,
    /// The rest of the current line is to be skipped: it was too long.
    cut: bool,
    /// Whole lines, not yet written.
    pending: Vec<u8>,
    /// Lines that found no room in `pending`.
    dropped: u64,
    /// Where `lines` are fetched to.
    fetched: Vec<u8>,
}

impl Relay {
    /// Carries `lines`, and what `input` brings, until that ends, then for at most `finish_time` more.
    pub fn run(&mut self, lines: &Lines, mut input: PipeReader, output: BorrowedFd<'_>, finish_time: Duration) {
        let mut scratch = [0; SCRATCH_BYTES];
        let mut output = Some(output);
        let mut deadline: Option<Instant> = None;
        loop {
            let wants_output = output.filter(|_| !self.pending.is_empty());
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if timeout.is_some_and(|left| left.is_zero() || wants_output.is_none()) {
                return;
            }
            let open_input = deadline.is_none().then_some(input.as_fd());
            // poll fails only for lack of kernel memory; to read on is then the best that can be done.
            let ready = sys::wait(open_input, wants_output, timeout)
                .unwrap_or(sys::Ready { input: open_input.is_some(), output: false });
            if ready.input {
                match input.read(&mut scratch) {
                    Ok(bytes @ 1..) => {
                        self.feed(&scratch[..bytes]);
                        if bytes < SCRATCH_BYTES / 2 {
                            thread::sleep(GATHERING_TIME);
                        }
                        self.fetch(lines);
                    }
                    Ok(0) | Err(_) => {
                        self.end_line();
                        self.fetch(lines);
                        deadline = Some(Instant::now() + finish_time);
                    }
                }
            }
            if ready.output
                && let Some(fd) = output
                && !self.write_chunk(fd)
            {
                output = None;
            }
            if output.is_none() {
                self.pending = Vec::new();
            }
        }
    }

    /// Takes what waits in memory.
    fn fetch(&mut self, lines: &Lines) {
        let mut bytes = mem::take(&mut self.fetched);
        let mut waiting = lines.lock();
        mem::swap(&mut waiting.bytes, &mut bytes);
        self.dropped += mem::take(&mut waiting.dropped);
        drop(waiting);
        // A line that the pipe has brought half of is none of these.
        let half = (mem::take(&mut self.line), mem::take(&mut self.cut));
        self.feed(&bytes);
        (self.line, self.cut) = half;
        bytes.clear();
        if bytes.capacity() <= KEPT_BYTES_MAX {
            self.fetched = bytes;
        }
    }

    /// Takes what was read; any split of the stream gives the same lines.
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.extend_line(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.extend_line(bytes);
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - CUT.len() - self.line.len();
        if bytes.len() > room {
            self.cut = true;
        }
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The current line is complete: it waits to be written, or is dropped for lack of room.
    fn end_line(&mut self) {
        if self.line.is_empty() && !self.cut {
            return;
        }
        self.line.extend_from_slice(if mem::take(&mut self.cut) { CUT } else { b"\n" });
        if self.pending.len() + self.line.len() <= PENDING_BYTES_MAX {
            self.pending.extend_from_slice(&self.line);
        } else {
            self.dropped += 1;
        }
        self.line.clear();
    }

    /// What to write next: at most a chunk, whole lines where possible.
    fn next_chunk(&self) -> Option<&[u8]> {
        let head = &self.pending[..self.pending.len().min(sys::PIPE_CHUNK)];
        match memchr::memrchr(b'\n', head) {
            Some(end) => Some(&head[..=end]),
            None if head.is_empty() => None,
            None => Some(head),
        }
    }

    /// Writes one chunk; `false` once nobody reads any more.
    fn write_chunk(&mut self, output: BorrowedFd<'_>) -> bool {
        let Some(chunk) = self.next_chunk() else { return true };
        match sys::write_at_once(output, chunk) {
            Ok(written) => {
                self.pending.drain(..written);
                if self.pending.is_empty() && self.pending.capacity() > KEPT_BYTES_MAX {
                    // A burst is over.
                    self.pending = Vec::new();
                }
                if self.dropped > 0 && self.pending.len() <= PENDING_BYTES_MAX / 2 {
                    let lines = mem::take(&mut self.dropped);
                    self.pending.extend_from_slice(format!("{lines} log lines dropped\n").as_bytes());
                }
                true
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => true,
                // Not expected right after poll said otherwise; the pause keeps a descriptor that
                // contradicts itself from taking a whole core.
                io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(1));
                    true
                }
                io::ErrorKind::BrokenPipe => false,
                // A full disk may have room again.
                _ => {
                    self.dropped += self.pending.iter().filter(|byte| **byte == b'\n').count() as u64;
                    self.pending.clear();
                    true
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::thread::JoinHandle;

    const LONG: Duration = Duration::from_secs(60);

    /// A relay in a thread: its input's write end, its output's read end.
    fn start(finish_time: Duration) -> (PipeWriter, PipeReader, JoinHandle<u64>) {
        let (input, writer) = io::pipe().unwrap();
        let (reader, output) = io::pipe().unwrap();
        let relay = thread::spawn(move || {
            let mut relay = Relay::default();
            relay.run(&Lines::default(), input, output.as_fd(), finish_time);
            relay.dropped
        });
        (writer, reader, relay)
    }

    fn lines_of(pieces: &[&[u8]]) -> Vec<u8> {
        let mut relay = Relay::default();
        for piece in pieces {
            relay.feed(piece);
        }
        relay.end_line();
        relay.pending
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let (mut writer, mut reader, relay) = start(LONG);
        let text: String = (0..5_000).map(|number| format!("line {number}\n")).collect();
        let sender = {
            let text = text.clone();
            thread::spawn(move || writer.write_all(text.as_bytes()).unwrap())
        };
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        sender.join().unwrap();
        assert_eq!(relay.join().unwrap(), 0);
        assert_eq!(got, text);
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_nothing_else() {
        let (mut writer, reader, relay) = start(LONG);
        let line = format!("{}\n", "x".repeat(99));
        // Far more than both pipes and the buffer hold: this returns only because lines are dropped.
        for _ in 0..20_000 {
            writer.write_all(line.as_bytes()).unwrap();
        }
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let (mut kept, mut dropped) = (0, 0);
        while kept + dropped < 20_000 {
            let got = lines.next().unwrap();
            match got.strip_suffix(" log lines dropped") {
                Some(count) => dropped += count.parse::<u64>().unwrap(),
                None => {
                    assert_eq!(got.len(), 99);
                    kept += 1;
                }
            }
        }
        assert!(kept > 1_000 && dropped > 10_000);
        writer.write_all(b"again\n").unwrap();
        assert_eq!(lines.next().unwrap(), "again");
        drop(writer);
        assert_eq!(lines.next(), None);
        assert_eq!(relay.join().unwrap(), 0);
    }

    #[test]
    fn a_dead_reader_is_survived() {
        let (mut writer, reader, relay) = start(LONG);
        drop(reader);
        for _ in 0..5_000 {
            writer.write_all(&[b'y'; 100]).unwrap();
            writer.write_all(b"\n").unwrap();
        }
        drop(writer);
        relay.join().unwrap();
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (mut reader, output) = io::pipe().unwrap();
        let mut relay = Relay::default();
        relay.feed(b"one\ntwo\n");
        assert!(relay.write_chunk(full.as_fd()));
        relay.feed(b"three\n");
        while !relay.pending.is_empty() {
            assert!(relay.write_chunk(output.as_fd()));
        }
        drop(output);
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "three\n2 log lines dropped\n");
    }

    #[test]
    fn the_end_does_not_wait_for_a_stuck_reader() {
        let (mut writer, reader, relay) = start(Duration::from_millis(20));
        for _ in 0..2_000 {
            writer.write_all(&[b'z'; 200]).unwrap();
            writer.write_all(b"\n").unwrap();
        }
        drop(writer);
        relay.join().unwrap();
        drop(reader);
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = b"one\n\ntwo\nthree";
        let want = b"one\ntwo\nthree\n";
        for at in 0..=text.len() {
            assert_eq!(lines_of(&[&text[..at], &text[at..]]), want);
        }
    }

    #[test]
    fn lines_from_memory_come_whole_between_those_from_the_pipe() {
        let lines = Lines::default();
        assert!(!lines.push("nobody fetches this"));
        let (_reader, wake) = io::pipe().unwrap();
        lines.open(wake);
        assert!(lines.push("one") && lines.push("two"));
        let mut relay = Relay::default();
        relay.feed(b"first\nha");
        relay.fetch(&lines);
        relay.feed(b"lf\n");
        lines.close();
        assert!(!lines.push("too late"));
        assert_eq!(relay.pending, b"first\none\ntwo\nhalf\n");
    }

    #[test]
    fn lines_that_nobody_fetches_are_counted() {
        let lines = Lines::default();
        let (_reader, wake) = io::pipe().unwrap();
        lines.open(wake);
        let line = "x".repeat(1023);
        for _ in 0..1000 {
            assert!(lines.push(&line));
        }
        let mut relay = Relay::default();
        relay.fetch(&lines);
        assert_eq!(relay.pending.len(), PENDING_BYTES_MAX);
        assert_eq!(relay.dropped, 1000 - 128);
        relay.fetch(&lines);
        assert_eq!(relay.dropped, 1000 - 128);
    }

    #[test]
    fn a_long_line_is_cut() {
        let long = vec![b'a'; 10_000];
        let got = lines_of(&[&long[..5_000], &long[5_000..], b"\nnext\n"]);
        assert_eq!(got[LINE_BYTES_MAX - 4..], *b"...\nnext\n");
        let fits = vec![b'b'; LINE_BYTES_MAX - 4];
        assert_eq!(lines_of(&[&fits]).len(), LINE_BYTES_MAX - 3);
    }
}
