//! What a socket needs from the listener to the close.

use super::check;
use libc::{c_int, c_void};
use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Binds and listens: address reusable at once, `[::]` also for IPv4 whatever the system's default, close-on-exec,
/// nonblocking. The kernel caps `backlog` at `net.core.somaxconn`.
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

/// Listens on a bound socket, or changes the backlog of a listener: std and mio hard-code 128, and clients beyond the
/// backlog wait a second until they repeat their SYN.
pub fn listen_backlog(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: takes plain integers; the descriptor is open for the duration of the borrow.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(())
}

/// Prepares a listener for streams; accepted sockets inherit both options on Linux.
/// `TCP_NODELAY`: a frame that waits for the acknowledgement of the previous one can be 40 ms late.
/// `TCP_USER_TIMEOUT`: a connection fails once data has been unacknowledged for `timeout`, at most 24 days.
pub fn set_stream_options(listener: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let millis = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)?;
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &millis)
}

fn set_option<T>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // The options used here are at most 16 bytes.
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and size describe `value`, which outlives the call; the callers in this module pass the type that
    // the option requires.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size) })?;
    Ok(())
}

/// Waits until a write to a descriptor of any kind can go ahead or fail, or until `timeout` has passed (`None`: for ever).
/// `false`: it would still block, or a signal came.
pub fn wait_writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // Rounded up, or the last millisecond would be spent spinning.
    let millis = timeout.map_or(-1, |time| c_int::try_from(time.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX));
    // SAFETY: the pointer is to one live entry, and the count is 1.
    match check(unsafe { libc::poll(&raw mut entry, 1, millis) }) {
        Ok(count) => Ok(count > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends what a socket takes without blocking.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `bytes`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Whether a socket is open with nothing to read. Consumes nothing and never blocks.
pub fn is_quiet(fd: BorrowedFd<'_>) -> bool {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the pointer is to a live byte, and the length is 1.
    let read = unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast::<c_void>(), 1, flags) };
    read < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// Makes close() send RST and drop unsent data (SO_LINGER 0).
pub fn abort_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

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
            listener.set_nonblocking(false).unwrap();
            let (near, _) = listener.accept().unwrap();
            assert_ne!(tcp_option(near.as_fd(), libc::TCP_NODELAY), 0);
            assert_eq!(tcp_option(near.as_fd(), libc::TCP_USER_TIMEOUT), 29_500);
        }
    }

    #[test]
    fn a_full_pipe_is_not_writable_and_a_broken_one_is() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let is_writable = |writer: &io::PipeWriter| wait_writable(writer.as_fd(), Some(Duration::ZERO)).unwrap();
        while is_writable(&writer) {
            writer.write_all(&[b'x'; libc::PIPE_BUF]).unwrap();
        }
        reader.read_exact(&mut [0; libc::PIPE_BUF]).unwrap();
        assert!(is_writable(&writer));
        writer.write_all(&[b'x'; libc::PIPE_BUF]).unwrap();
        assert!(!is_writable(&writer));
        drop(reader);
        assert!(wait_writable(writer.as_fd(), None).unwrap());
    }

    #[test]
    fn a_send_never_blocks() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_far, _) = listener.accept().unwrap();
        let full = loop {
            if let Err(error) = send_now(near.as_fd(), &[0; 65_536]) {
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
            let _ = near.peek(&mut [0]);
            assert!(!is_quiet(near.as_fd()));
            (&near).read_exact(&mut [0]).unwrap();
            assert!(is_quiet(near.as_fd()));
            end(far);
            let _ = near.peek(&mut [0]);
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
