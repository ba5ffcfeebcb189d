//! Sockets, from the listener to the close; and writes that never block.

use super::check;
use libc::{c_int, c_void};
use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Binds and listens: address reusable at once, `[::]` taking IPv4 too whatever the system's default
/// is, close-on-exec, nonblocking. `backlog` is cut by the kernel to `net.core.somaxconn`.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes plain integers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    if address.is_ipv6() {
        set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &0_i32)?;
    }
    bind(&socket, address)?;
    listen_backlog(socket.as_fd(), backlog)?;
    Ok(TcpListener::from(socket))
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: all zeroes is a valid sockaddr_in.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            // SAFETY: pointer and size describe `raw`.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), size) }
        }
        SocketAddr::V6(v6) => {
            // SAFETY: all zeroes is a valid sockaddr_in6.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            let size = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            // SAFETY: pointer and size describe `raw`.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), size) }
        }
    };
    check(result)?;
    Ok(())
}

/// Listens on a bound socket, or changes the backlog of one that listens already: std and mio
/// hard-code 128, and clients beyond the backlog wait a second for their SYN to be repeated.
pub fn listen_backlog(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: takes plain integers; the descriptor is open for the duration of the borrow.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(())
}

/// Prepares a listener for streams; Linux hands both options down to the sockets that it accepts.
/// `TCP_NODELAY`, as a frame that waits for the acknowledgement of the last one can be 40 ms late.
/// `TCP_USER_TIMEOUT`: a connection fails once data stays unacknowledged for `timeout` (milliseconds on
/// the wire; more than 24 days count as 24 days).
pub fn set_stream_options(listener: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let millis = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)?;
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &millis)
}

fn set_option<T>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // The options used here are at most 16 bytes.
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and size describe `value`, which outlives the call; the callers in this module
    // pass the type that the option asks for.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size) })?;
    Ok(())
}

/// What [`wait`] found. Errors and hang-ups count as ready: the next read or write reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub input: bool,
    pub output: bool,
}

/// Waits until `input` can be read or `output` written without blocking, or `timeout` has passed
/// (`None`: for ever). A descriptor that is `None` is not waited for.
pub fn wait(
    input: Option<BorrowedFd<'_>>,
    output: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<Ready> {
    // poll skips negative descriptors.
    let entry = |fd: Option<BorrowedFd<'_>>, events| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events,
        revents: 0,
    };
    let mut fds = [entry(input, libc::POLLIN), entry(output, libc::POLLOUT)];
    // Rounded up, or the last millisecond would be spent spinning.
    let millis = timeout.map_or(-1, |time| c_int::try_from(time.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX));
    // SAFETY: pointer and count describe `fds`.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), 2, millis) }) {
        Ok(_) => Ok(Ready { input: fds[0].revents != 0, output: fds[1].revents != 0 }),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Ready { input: false, output: false }),
        Err(error) => Err(error),
    }
}

/// Writes what can be written at once to a descriptor of any kind. On a socket this never blocks; on
/// a pipe it does not if [`wait`] found it writable and `bytes` is no longer than [`PIPE_CHUNK`].
pub fn write_at_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `bytes`.
    let mut sent = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    if sent < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOTSOCK) {
        // SAFETY: pointer and length describe `bytes`.
        sent = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    }
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What a pipe that polls as writable takes without blocking (PIPE_BUF, pipe(7)).
pub const PIPE_CHUNK: usize = libc::PIPE_BUF;

/// Whether a socket is open with nothing to read. Takes nothing out of it and never blocks.
pub fn is_quiet(fd: BorrowedFd<'_>) -> bool {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the pointer is to a live byte, and the length is 1.
    let read = unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast::<c_void>(), 1, flags) };
    read < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// Makes the coming close of a socket a reset that discards what is unsent.
pub fn abort_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    const MOMENT: Option<Duration> = Some(Duration::ZERO);

    fn tcp_option(fd: BorrowedFd<'_>, name: c_int) -> c_int {
        let mut value: c_int = 0;
        let mut size = size_of::<c_int>() as libc::socklen_t;
        // SAFETY: the pointers are to a live int and its size.
        let result = unsafe {
            let value = (&raw mut value).cast::<c_void>();
            libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, name, value, &raw mut size)
        };
        check(result).unwrap();
        value
    }

    #[test]
    fn listeners_take_what_their_address_says() {
        let v4 = listen((Ipv4Addr::LOCALHOST, 0).into(), 4096).unwrap();
        TcpStream::connect(v4.local_addr().unwrap()).unwrap();
        // A machine without IPv6 has nothing to check here.
        if let Ok(dual) = listen((Ipv6Addr::UNSPECIFIED, 0).into(), 4096) {
            let port = dual.local_addr().unwrap().port();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        let taken = listen(v4.local_addr().unwrap(), 4096).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        listen_backlog(v4.as_fd(), 1).unwrap();
    }

    #[test]
    fn accepted_sockets_inherit_the_listeners_options() {
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
            // A machine without IPv6 has nothing to check there.
            let Ok(listener) = listen(address, 16) else { continue };
            set_stream_options(listener.as_fd(), Duration::from_secs(31_536_000)).unwrap();
            set_stream_options(listener.as_fd(), Duration::from_millis(29_500)).unwrap();
            let _far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert!(wait(Some(listener.as_fd()), None, None).unwrap().input);
            let (near, _) = listener.accept().unwrap();
            assert_ne!(tcp_option(near.as_fd(), libc::TCP_NODELAY), 0);
            assert_eq!(tcp_option(near.as_fd(), libc::TCP_USER_TIMEOUT), 29_500);
        }
    }

    #[test]
    fn waiting_tells_what_would_not_block() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let idle = wait(Some(reader.as_fd()), Some(writer.as_fd()), None).unwrap();
        assert_eq!(idle, Ready { input: false, output: true });
        assert_eq!(write_at_once(writer.as_fd(), b"x").unwrap(), 1);
        assert_eq!(wait(Some(reader.as_fd()), None, None).unwrap(), Ready { input: true, output: false });
        while wait(None, Some(writer.as_fd()), MOMENT).unwrap().output {
            writer.write_all(&[b'y'; PIPE_CHUNK]).unwrap();
        }
        let mut one = [0];
        reader.read_exact(&mut one).unwrap();
        assert_eq!(&one, b"x");
        drop(reader);
        assert!(wait(None, Some(writer.as_fd()), None).unwrap().output);
        assert_eq!(write_at_once(writer.as_fd(), b"z").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_socket_is_never_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_far, _) = listener.accept().unwrap();
        let full = loop {
            if let Err(error) = write_at_once(near.as_fd(), &[0; 65_536]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_quiet_socket_is_told_from_others() {
        let ends: [fn(TcpStream); 2] = [drop, |far| abort_on_close(far.as_fd()).unwrap()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for end in ends {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            assert!(is_quiet(near.as_fd()));
            far.write_all(b"x").unwrap();
            wait(Some(near.as_fd()), None, None).unwrap();
            assert!(!is_quiet(near.as_fd()));
            (&near).read_exact(&mut [0]).unwrap();
            assert!(is_quiet(near.as_fd()));
            end(far);
            wait(Some(near.as_fd()), None, None).unwrap();
            assert!(!is_quiet(near.as_fd()));
        }
    }

    #[test]
    fn an_aborted_socket_resets_its_peer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        abort_on_close(near.as_fd()).unwrap();
        drop(near);
        assert_eq!(far.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
