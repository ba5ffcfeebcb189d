//! The results of system calls.

use libc::c_int;
use std::io;

/// Turns -1 from a system call into the error in errno.
pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
