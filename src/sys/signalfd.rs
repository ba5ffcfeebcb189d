//! Blocked signals as a descriptor: signalfd(2), which Linux alone has.

use super::errno::check;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// What a read returns for one signal.
pub(super) const MESSAGE_BYTES: usize = size_of::<libc::signalfd_siginfo>();

/// A nonblocking descriptor that is readable while one of these signals, which are blocked, is pending.
pub(super) fn open(set: libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised; -1 asks for a new descriptor.
    let fd = check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) })?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
