//! The log: lines on stderr that never delay the event loop.
//!
//! Stderr may be a pipe without a reader or a slow disk. So a line goes into a queue in memory, and a thread of its
//! own, the only one that may block on the log, writes the queue to descriptor 2. If the reader is too slow, lines are
//! dropped and counted; if it has closed the pipe, all are discarded.
//!
//! Descriptor 2 itself is not redirected: the runtime and libc report a fatal error there just before abort(3), when no
//! thread of this process can be relied on to relay a message. That abort gives the queue a moment to drain.

mod format;
mod queue;
mod writer;

pub use format::LogFormat;

use crate::sys;
use log::{LevelFilter, Log, Metadata, Record};
use queue::Queue;
use simple_logger::SimpleLogger;
use std::io;
use std::os::fd::AsFd;
use std::panic;
use std::thread;
use std::time::Duration;
use time::OffsetDateTime;

/// How long a flush waits for a slow reader: enough for a full queue at 8 MB/s. A stuck reader delays the exit by this.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// There is one log per process; the hooks for panics and aborts need it to live as long.
static QUEUE: Queue = Queue::new();

/// Installs the global logger, which [`Log::flush`] flushes for at most a second. A panic or an abort also flushes.
/// Call once per process, before `log` is used; nothing is installed if `level` is off. Errors: the thread cannot
/// start.
pub fn start(level: LevelFilter, format: LogFormat) -> io::Result<()> {
    if level == LevelFilter::Off {
        return Ok(());
    }
    // Libraries log warnings at most: their traces contain request heads and so credentials.
    let filter =
        SimpleLogger::new().with_level(level.min(LevelFilter::Warn)).with_module_level(env!("CARGO_PKG_NAME"), level);
    thread::Builder::new().name("log".to_owned()).stack_size(128 * 1024).spawn(|| writer::run(&QUEUE, io::stderr()))?;
    sys::delay_abort(QUEUE.unwritten())?;
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        log::logger().flush();
        // A full pipe must not keep a broken process alive.
        if sys::wait_writable(io::stderr().as_fd(), Some(Duration::ZERO)).unwrap_or(true) {
            print(info);
        }
    }));
    log::set_max_level(filter.max_level());
    // Fails only if there is already a logger, which is then used.
    let _ = log::set_boxed_logger(Box::new(Logger { filter, format }));
    Ok(())
}

struct Logger {
    filter: SimpleLogger,
    format: LogFormat,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            QUEUE.push(&format::line(self.format, record, OffsetDateTime::now_utc()));
        }
    }

    fn flush(&self) {
        QUEUE.wait_until_written(FLUSH_TIMEOUT);
    }
}
