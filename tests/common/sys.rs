//! System calls without a stable equivalent in the standard library.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub(crate) const SIGALRM: i32 = libc::SIGALRM;
pub(crate) const SIGCONT: i32 = libc::SIGCONT;
pub(crate) const SIGHUP: i32 = libc::SIGHUP;
pub(crate) const SIGINT: i32 = libc::SIGINT;
pub(crate) const SIGKILL: i32 = libc::SIGKILL;
pub(crate) const SIGPIPE: i32 = libc::SIGPIPE;
pub(crate) const SIGQUIT: i32 = libc::SIGQUIT;
pub(crate) const SIGSTOP: i32 = libc::SIGSTOP;
pub(crate) const SIGTERM: i32 = libc::SIGTERM;
pub(crate) const SIGUSR1: i32 = libc::SIGUSR1;
pub(crate) const SIGUSR2: i32 = libc::SIGUSR2;
pub(crate) const SIGXFSZ: i32 = libc::SIGXFSZ;

/// Sends a signal to a child of this test.
pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: kill reads two integers; the pid is a child that has not been waited for, so it names no other process.
    let result = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(result, 0, "kill({pid}, {signal}): {}", std::io::Error::last_os_error());
}

fn set_option<T>(socket: &impl AsRawFd, name: i32, value: T) {
    // SAFETY: the descriptor is open for the life of `socket`, and the pointer and length describe `value` exactly.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "socket option {name}: {}", io::Error::last_os_error());
}

/// Makes closing the socket send a reset instead of a FIN.
pub(crate) fn reset_on_close(socket: &impl AsRawFd) {
    set_option(socket, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 });
}

/// Limits the kernel's buffer for a client that does not read.
pub(crate) fn receive_buffer(socket: &impl AsRawFd, bytes: i32) {
    set_option(socket, libc::SO_RCVBUF, bytes);
}

/// Raises this process's soft descriptor limit to the hard one, and returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit that outlives the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(result, 0, "getrlimit: {}", io::Error::last_os_error());
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0, "setrlimit: {}", io::Error::last_os_error());
    limit.rlim_cur
}

/// Sets both descriptor limits of a running child.
pub(crate) fn limit_descriptors(pid: u32, count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    // SAFETY: the new limit outlives the call, and no old one is asked for.
    let result =
        unsafe { libc::prlimit(pid as libc::pid_t, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(result, 0, "prlimit: {}", io::Error::last_os_error());
}

/// Moves the calling thread and its future children into a network namespace of their own; its name for `ip` is the
/// thread's id. Errors: not permitted.
pub(crate) fn leave_network() -> io::Result<u32> {
    // SAFETY: it takes a number and changes nothing but the thread's view of the network.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it takes nothing and cannot fail.
    Ok(unsafe { libc::gettid() } as u32)
}

/// A socket that is bound to a port of the kernel's choice on every address, shares it (SO_REUSEADDR), and does not
/// listen.
pub(crate) fn bound_socket() -> OwnedFd {
    // SAFETY: it takes three integers.
    let descriptor = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(descriptor >= 0, "socket: {}", io::Error::last_os_error());
    // SAFETY: it was opened just now, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    set_option(&socket, libc::SO_REUSEADDR, 1_i32);
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: libc::INADDR_ANY },
        sin_zero: [0; 8],
    };
    // SAFETY: the descriptor is open for the life of `socket`, and the pointer and length describe `address` exactly.
    let result = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t)
    };
    assert_eq!(result, 0, "bind: {}", io::Error::last_os_error());
    socket
}

/// A longer backlog than the 128 of the standard library: callbacks may arrive all at once.
pub(crate) fn listen_for_many(listener: &impl AsRawFd) {
    // SAFETY: it takes two integers, and the descriptor is open for the life of `listener`.
    let result = unsafe { libc::listen(listener.as_raw_fd(), 4096) };
    assert_eq!(result, 0, "listen: {}", io::Error::last_os_error());
}

/// Gives the calling thread less of the processor than others that want it.
pub(crate) fn lower_priority() {
    // SAFETY: it takes three integers; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    assert_eq!(result, 0, "setpriority: {}", io::Error::last_os_error());
}

/// Limits the address space of a running child.
pub(crate) fn limit_address_space(pid: u32, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the new limit outlives the call, and no old one is asked for.
    let result = unsafe { libc::prlimit(pid as libc::pid_t, libc::RLIMIT_AS, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(result, 0, "prlimit: {}", io::Error::last_os_error());
}

/// Ends this process like code with a stack protector that finds its stack overwritten: glibc reports it and aborts.
#[cfg(target_env = "gnu")]
pub(crate) fn fail_stack_check() -> ! {
    unsafe extern "C" {
        fn __stack_chk_fail() -> !;
    }
    // SAFETY: it takes no arguments and only reports and aborts.
    unsafe { __stack_chk_fail() }
}

/// Starts the command with the default action of SIGHUP, even if these tests run under nohup(1).
pub(crate) fn hear_hangups(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: signal is async-signal-safe, and names no function.
    let reset = || unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_DFL);
        Ok(())
    };
    // SAFETY: the closure makes one async-signal-safe call and touches no memory of the parent.
    unsafe { command.pre_exec(reset) };
}
