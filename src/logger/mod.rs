//! The log: simple_logger on stderr, made harmless.
//!
//! simple_logger writes with `eprintln!`, which panics when stderr is a closed pipe and blocks the
//! whole event loop when it is a full one. So descriptor 2 becomes a private pipe, and a relay thread
//! carries whole lines from there to the real stderr as far as that takes them without blocking.
//! What a slow reader leaves no room for is dropped and counted; a dead one is forgotten.
//!
//! Two writes for each line would be a tenth of what a stream costs to open. So our own lines do not go through the
//! pipe: they wait in memory, and the pipe only wakes the relay for the first of them.

mod format;
mod relay;

pub use format::LogFormat;

use crate::sys;
use format::Formatter;
use log::LevelFilter;
use relay::{Lines, Relay};
use simple_logger::SimpleLogger;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// How long [`Logger::finish`] waits for a slow reader to take the last lines.
const FINISH_TIME: Duration = Duration::from_millis(200);

/// The relay as seen from the rest of the process. Clones name the same relay.
#[derive(Clone, Debug, Default)]
pub struct Logger(Arc<Mutex<Option<Running>>>);

#[derive(Debug)]
struct Running {
    lines: Arc<Lines>,
    stderr: OwnedFd,
    /// Disconnects when the relay has ended.
    ended: mpsc::Receiver<()>,
}

impl Logger {
    /// Installs the global logger, and the relay unless `level` is off; also a panic hook that lets
    /// the panic's message out. Without descriptors or threads to spare, the log goes straight to
    /// stderr. Call once per process.
    pub fn start(level: LevelFilter, format: LogFormat) -> Logger {
        // Libraries get no further than warnings: their traces hold request heads and so credentials.
        let logger = SimpleLogger::new()
            .with_utc_timestamps()
            .with_level(level.min(LevelFilter::Warn))
            .with_module_level(env!("CARGO_PKG_NAME"), level);
        log::set_max_level(logger.max_level());
        let lines = Arc::<Lines>::default();
        // Fails only if there is a logger already, and then that one serves.
        let _ = log::set_boxed_logger(Box::new(Formatter::new(format, logger, Arc::clone(&lines))));
        if level == LevelFilter::Off {
            return Logger::default();
        }
        let running = Running::start(lines)
            .inspect_err(|error| log::warn!(error = error.to_string(); "log relay failed to start"));
        let logger = Logger(Arc::new(Mutex::new(running.ok())));
        let at_panic = logger.clone();
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            at_panic.finish();
            print(panic);
        }));
        logger
    }

    /// Lets out what is pending, waiting at most 250 ms for it, and makes stderr what it was at the
    /// start. Call before the process exits; the second call does nothing.
    pub fn finish(&self) {
        let Some(running) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // Closing the pipe's two write ends, this one and stderr, is what tells the relay to end. A failure here
        // leaves nothing to be done but to exit.
        running.lines.close();
        if sys::replace_stderr(running.stderr.as_fd()).is_ok() {
            // A little longer than the relay itself allows.
            let _ = running.ended.recv_timeout(FINISH_TIME * 5 / 4);
        }
    }
}

impl Running {
    fn start(lines: Arc<Lines>) -> io::Result<Running> {
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let (reader, writer) = io::pipe()?;
        let (alive, ended) = mpsc::channel();
        let output = stderr.try_clone()?;
        let fetched = Arc::clone(&lines);
        thread::Builder::new().name("log".to_owned()).stack_size(128 * 1024).spawn(move || {
            Relay::default().run(&fetched, reader, output.as_fd(), FINISH_TIME);
            drop(alive);
        })?;
        // From here on everything on descriptor 2 goes through the relay.
        sys::replace_stderr(writer.as_fd())?;
        lines.open(writer);
        Ok(Running { lines, stderr, ended })
    }
}
