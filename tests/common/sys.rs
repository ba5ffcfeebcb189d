//! The two system calls that the standard library has no stable door to.

use std::net::TcpStream;
use std::os::fd::AsRawFd;

pub const SIGINT: i32 = libc::SIGINT;
pub const SIGTERM: i32 = libc::SIGTERM;

/// Sends a signal to a child of this test.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill reads two integers; the pid is a child that has not been waited for, so it names no other process.
    let result = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(result, 0, "kill({pid}, {signal}): {}", std::io::Error::last_os_error());
}

/// Makes closing the socket send a reset instead of a FIN.
pub fn reset_on_close(socket: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the descriptor is open for the life of `socket`, and the pointer and length describe `linger` exactly.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "SO_LINGER: {}", std::io::Error::last_os_error());
}
