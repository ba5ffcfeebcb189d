//! Replaces `signalfd` on systems without it: a thread waits for the signals.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

/// What a read returns for one signal.
pub(super) const MESSAGE_BYTES: usize = 1;

/// A nonblocking descriptor that is readable once one of these signals, which are blocked, has arrived.
pub(super) fn open(set: libc::sigset_t) -> io::Result<OwnedFd> {
    let (reader, mut writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    let wait = move || {
        loop {
            let mut signal = 0;
            // SAFETY: the set is initialised, and the pointer is to a live integer.
            let result = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
            // Until the reader is closed.
            if result == 0 && writer.write_all(&[0; MESSAGE_BYTES]).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(reader.into())
}
