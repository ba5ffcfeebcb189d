//! Writes the queue to stderr, in a thread that may block.

use super::queue::{CHUNK_BYTES, Queue, count_lines};
use crate::sys;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

/// Writes the lines of `queue` to `output` until its reader has gone.
pub(super) fn run(queue: &Queue, mut output: impl Write + AsFd) {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    loop {
        chunk.clear();
        let lines = queue.take(&mut chunk);
        let mut rest = chunk.as_slice();
        match write(&mut output, &mut rest) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return queue.close(),
            // A full disk may have space again.
            Err(_) => queue.lose(if rest.len() == chunk.len() { lines } else { count_lines(rest) }),
        }
    }
}

/// Writes all of `rest`; after an error the unwritten part is left in it.
fn write(output: &mut (impl Write + AsFd), rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process with the same stderr may have made it nonblocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                sys::wait_writable(output.as_fd(), None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{BufRead, BufReader, PipeReader, Read, Seek};
    use std::os::fd::{BorrowedFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    fn start(output: impl Write + AsFd + Send + 'static) -> (Arc<Queue>, JoinHandle<()>) {
        let queue = Arc::new(Queue::new());
        let lines = Arc::clone(&queue);
        (queue, thread::spawn(move || run(&lines, output)))
    }

    fn start_on_pipe() -> (Arc<Queue>, JoinHandle<()>, PipeReader) {
        let (reader, output) = io::pipe().unwrap();
        let (queue, writer) = start(output);
        (queue, writer, reader)
    }

    /// A file that is gone when it is closed.
    fn plain_file() -> File {
        let name = uuid::Uuid::from_bytes(sys::random_bytes().unwrap()).to_string();
        let path = std::env::temp_dir().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn a_burst_to_a_plain_file_loses_nothing() {
        let mut file = plain_file();
        let queue = Queue::new();
        let mut all = String::new();
        // All before the writer runs, and each of more than twice the usual length.
        for number in 0..20_000 {
            let line = format!("{number:0>399}\n");
            queue.push(&line);
            all += &line;
        }
        let queue = Arc::new(queue);
        let (lines, output) = (Arc::clone(&queue), file.try_clone().unwrap());
        thread::spawn(move || run(&lines, output));
        queue.wait_until_written(LONG);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text == all);
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_nothing_else() {
        const LINES: u64 = 200_000;
        let (queue, writer, reader) = start_on_pipe();
        let line = format!("{}\n", "x".repeat(99));
        // Far more than the pipe and the queue can hold: this returns only because lines are dropped.
        for _ in 0..LINES {
            queue.push(&line);
        }
        queue.wait_until_written(Duration::from_millis(20));
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let (mut kept, mut dropped) = (0, 0);
        while kept + dropped < LINES {
            let got = lines.next().unwrap();
            match got.strip_suffix(" log lines dropped") {
                Some(count) => dropped += count.parse::<u64>().unwrap(),
                None => {
                    assert_eq!(got.len(), 99);
                    kept += 1;
                }
            }
        }
        assert!(kept > 80_000 && dropped > 100_000, "{kept} kept, {dropped} dropped");
        queue.push("again\n");
        assert_eq!(lines.next().unwrap(), "again");
        drop(lines);
        queue.push("for nobody\n");
        writer.join().unwrap();
    }

    #[test]
    fn a_dead_reader_is_forgotten() {
        let (queue, writer, reader) = start_on_pipe();
        drop(reader);
        queue.push("one\n");
        writer.join().unwrap();
        queue.push("two\n");
        queue.wait_until_written(Duration::MAX);
    }

    #[test]
    fn a_nonblocking_stderr_is_waited_for() {
        let (mut reader, output) = UnixStream::pair().unwrap();
        output.set_nonblocking(true).unwrap();
        let (queue, _) = start(output);
        let text: String = (0..50_000).map(|number| format!("a line that is not short: {number}\n")).collect();
        text.split_inclusive('\n').for_each(|line| queue.push(line));
        let mut got = vec![0; text.len()];
        reader.read_exact(&mut got).unwrap();
        assert!(got == text.as_bytes());
    }

    /// A disk that is full at first.
    struct Disk {
        full: File,
        pipe: OwnedFd,
        is_full: Arc<AtomicBool>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.is_full.load(Ordering::SeqCst) {
                self.full.write(bytes)
            } else {
                File::from(self.pipe.try_clone()?).write(bytes)
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for Disk {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.pipe.as_fd()
        }
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (reader, pipe) = io::pipe().unwrap();
        let is_full = Arc::new(AtomicBool::new(true));
        let (queue, _) = start(Disk { full, pipe: pipe.into(), is_full: Arc::clone(&is_full) });
        for line in ["one\n", "two\n", "three\n"] {
            queue.push(line);
            queue.wait_until_written(LONG);
        }
        is_full.store(false, Ordering::SeqCst);
        queue.push("four\n");
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "3 log lines dropped");
        assert_eq!(lines.next().unwrap(), "four");
    }
}
