//! The system calls that std and mio do not offer, behind safe functions. The only module with `unsafe`. For Linux;
//! parts specific to glibc are left out elsewhere. On other Unix systems, such as macOS, the gateway runs for development:
//! without `TCP_USER_TIMEOUT` and `TCP_NOTSENT_LOWAT`, without the figures of proc(5) and the limit of a cgroup.

#![allow(unsafe_code)]

mod errno;
mod memory;
#[cfg(target_os = "linux")]
mod signalfd;
mod signals;
#[cfg(not(target_os = "linux"))]
mod sigwait;
mod socket;
mod stdio;
mod unix;

use errno::check;
pub use memory::{limit_heap, release_heap, release_stack};
pub use signals::{Signals, delay_abort};
pub use socket::{
    abort_on_close, is_quiet, listen, probe_silent_peer, send_now, set_stream_options, unacknowledged,
    wait_any_writable, wait_readable, wait_writable,
};
pub use unix::{SocketFile, listen_unix};

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Restricts name lookups to the hosts file and DNS. A statically linked glibc would otherwise load the NSS modules in
/// `nsswitch.conf`, and a module built for another glibc crashes the process. Call first in `main`, before any thread.
pub fn pin_nss() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
    {
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const libc::c_char, services: *const libc::c_char) -> libc::c_int;
        }
        // SAFETY: both arguments are NUL-terminated and static; no other thread runs yet. A failure
        // leaves the default in place, so the result needs no check.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}

/// Raises the soft limit on descriptors to the hard one, if it can, and returns the soft limit now in force.
/// Errors: the limit cannot be read.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    // OPEN_MAX: the hard limit of macOS is often infinite, and more than this is refused.
    #[cfg(target_vendor = "apple")]
    let possible = limit.rlim_max.min(10_240);
    #[cfg(not(target_vendor = "apple"))]
    let possible = limit.rlim_max;
    if limit.rlim_cur < possible {
        let raised = libc::rlimit { rlim_cur: possible, rlim_max: limit.rlim_max };
        // SAFETY: the pointer is to a live rlimit.
        if check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) }).is_ok() {
            limit = raised;
        }
    }
    // The width of rlim_t differs between targets.
    #[allow(clippy::useless_conversion)]
    Ok(limit.rlim_cur.into())
}

/// Lets the kernel's table of this process's descriptors grow to `count` of them at once, at most the descriptor limit:
/// `open` is duplicated to the highest number, and that one is closed. The table never shrinks. In a process with threads
/// Linux waits for an RCU grace period each time it doubles, and with it the loop in its `accept`: 10 to 20 ms were seen
/// at 256 connections, at 512, and so on. Without effect if it fails.
pub fn reserve_descriptors(open: BorrowedFd, count: usize) {
    let Some(highest) = count.checked_sub(1).and_then(|highest| libc::c_int::try_from(highest).ok()) else { return };
    // SAFETY: takes plain integers; `open` is a descriptor for the length of the call.
    if let Ok(duplicate) = check(unsafe { libc::fcntl(open.as_raw_fd(), libc::F_DUPFD_CLOEXEC, highest) }) {
        // SAFETY: a new descriptor without another owner.
        drop(unsafe { OwnedFd::from_raw_fd(duplicate) });
    }
}

/// Bytes from the kernel's generator, fit for secrets; at most 256, which are never cut short. Calls the kernel
/// directly: a library that looks up `getrandom` at run time does not find it in a static binary and opens
/// `/dev/urandom`, which an empty root does not have. Errors: a kernel before Linux 3.17, or a filter that forbids the
/// call.
pub fn random_bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    const { assert!(COUNT <= 256) };
    let mut bytes = [0; COUNT];
    loop {
        // SAFETY: the pointer and the length are those of a live array.
        #[cfg(target_os = "linux")]
        let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        // SAFETY: the same; the call returns 0 once it has filled the array.
        #[cfg(not(target_os = "linux"))]
        let read = match unsafe { libc::getentropy(bytes.as_mut_ptr().cast(), bytes.len()) } {
            0 => bytes.len() as isize,
            failed => failed as isize,
        };
        if usize::try_from(read) == Ok(bytes.len()) {
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        // Interrupted only until the generator is seeded, early in the boot.
        if read >= 0 || error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random_bytes::<16>().unwrap(), random_bytes::<16>().unwrap());
    }

    #[test]
    fn the_descriptor_limit_ends_up_at_the_hard_one() {
        let limit = raise_descriptor_limit().unwrap();
        assert!(limit > 3);
        assert_eq!(raise_descriptor_limit().unwrap(), limit);
    }
}
