//! Socket options and calls that std and mio lack.

use super::errno::check;
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, c_int, c_short};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Binds and listens: address reusable at once, `[::]` also for IPv4 whatever the system's default, close-on-exec,
/// nonblocking. `backlog` is not the 128 of std and mio, because clients beyond it wait a second for the retransmission
/// of their SYN; the kernel caps it at `net.core.somaxconn`.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Half of the memory that the kernel may use for one peer (it doubles this, socket(7)), in bytes. A quarter of a
/// megabyte in flight is 20 Mbit/s to a peer 100 ms away; the default would be up to 4 MB.
const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// Unsent bytes at which the kernel accepts no more: output for a peer that does not read is then queued in this
/// process, where it is counted. With fewer bytes a write is accepted in one piece, so a peer that keeps up is not
/// affected.
#[cfg(target_os = "linux")]
const UNSENT_IN_KERNEL_BYTES: u32 = 16 * 1024;

/// Prepares a listener for streams; accepted sockets inherit all options on Linux. `TCP_NODELAY`: otherwise a frame
/// that waits for the acknowledgement of the previous one can be 40 ms late. `TCP_USER_TIMEOUT`: a connection fails
/// once data has been unacknowledged for `timeout`, at most 24 days. `SO_SNDBUF`, `TCP_NOTSENT_LOWAT`: the kernel holds
/// little for a peer that does not read.
pub fn set_stream_options(listener: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let listener = SockRef::from(&listener);
    listener.set_tcp_nodelay(true)?;
    listener.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    set_linux_options(&listener, timeout)
}

#[cfg(target_os = "linux")]
fn set_linux_options(listener: &Socket, timeout: Duration) -> io::Result<()> {
    /// The kernel stores milliseconds in an `int`.
    const TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
    listener.set_tcp_user_timeout(Some(timeout.min(TIMEOUT_MAX)))?;
    listener.set_tcp_notsent_lowat(UNSENT_IN_KERNEL_BYTES)
}

#[cfg(not(target_os = "linux"))]
fn set_linux_options(_: &Socket, _: Duration) -> io::Result<()> {
    Ok(())
}

/// Has the kernel probe a peer that is silent: one that has vanished is found about `timeout` after its last sign of life,
/// the `TCP_USER_TIMEOUT` of [`set_stream_options`], which also limits unanswered probes (tcp(7)).
pub fn probe_silent_peer(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    /// The longest that the kernel accepts.
    const SILENCE_MAX: Duration = Duration::from_secs(32_767);
    let part = |divisor: u32| (timeout / divisor).clamp(Duration::from_secs(1), SILENCE_MAX);
    let keepalive = TcpKeepalive::new().with_time(part(2)).with_interval(part(6));
    SockRef::from(&socket).set_tcp_keepalive(&keepalive)
}

/// Bytes written that the peer has not acknowledged (`SIOCOUTQ`, tcp(7)); 0 if unavailable.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> usize {
    let mut bytes: c_int = 0;
    // SAFETY: the request writes one int, to a live one.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) }) {
        Ok(_) => usize::try_from(bytes).unwrap_or(0),
        Err(_) => 0,
    }
}

/// Waits until a write to a descriptor of any kind can go ahead or fail, or until `timeout` has passed (`None`: no
/// limit). `false`: it would still block, or a signal arrived.
pub fn wait_writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    wait_any_writable(&[fd], timeout)
}

/// As [`wait_writable`], for one of several descriptors.
pub fn wait_any_writable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    wait(fds, libc::POLLOUT, timeout)
}

/// Waits until a read from a descriptor of any kind can go ahead, finds the end, or fails, or until `timeout` has passed.
/// `false`: it would still block, or a signal arrived.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    wait(&[fd], libc::POLLIN, Some(timeout))
}

fn wait(fds: &[BorrowedFd<'_>], events: c_short, timeout: Option<Duration>) -> io::Result<bool> {
    let entry = |fd: &BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    let mut entries: Vec<libc::pollfd> = fds.iter().map(entry).collect();
    // A process has fewer descriptors than fit this type.
    let count = entries.len() as libc::nfds_t;
    // Rounded up, so that the last millisecond is not spent spinning.
    let millis = timeout.map_or(-1, |time| c_int::try_from(time.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX));
    // SAFETY: pointer and count describe the live entries.
    match check(unsafe { libc::poll(entries.as_mut_ptr(), count, millis) }) {
        Ok(count) => Ok(count > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends as much as a socket accepts without blocking.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    SockRef::from(&socket).send_with_flags(bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
}

/// Whether a socket is open without input. Consumes nothing and never blocks.
pub fn is_quiet(socket: BorrowedFd<'_>) -> bool {
    let peeked = SockRef::from(&socket).recv_with_flags(&mut [MaybeUninit::uninit()], MSG_PEEK | MSG_DONTWAIT);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Makes close() send RST and drop unsent data (SO_LINGER 0).
pub fn abort_on_close(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
    use std::os::fd::AsFd;

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
            assert!(near.nodelay().unwrap());
            let near = SockRef::from(&near);
            assert_eq!(near.tcp_user_timeout().unwrap(), Some(Duration::from_millis(29_500)));
            assert_eq!(near.send_buffer_size().unwrap(), 2 * SEND_BUFFER_BYTES);
            assert_eq!(near.tcp_notsent_lowat().unwrap(), UNSENT_IN_KERNEL_BYTES);
        }
    }

    #[test]
    fn silent_peers_are_probed_within_the_timeout() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), 16).unwrap();
        let _far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (near, _) = listener.accept().unwrap();
        let socket = SockRef::from(&near);
        assert!(!socket.keepalive().unwrap());
        for (timeout, time, interval) in [(30, 15, 5), (1, 1, 1), (31_536_000, 32_767, 32_767)] {
            probe_silent_peer(near.as_fd(), Duration::from_secs(timeout)).unwrap();
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(time));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(interval));
        }
    }

    #[test]
    fn a_peer_that_does_not_read_leaves_little_in_the_kernel() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), 16).unwrap();
        set_stream_options(listener.as_fd(), Duration::from_secs(30)).unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (near, _) = listener.accept().unwrap();
        assert_eq!(unacknowledged(near.as_fd()), 0);
        let mut written = 0;
        while let Ok(count) = send_now(near.as_fd(), &[b'x'; 10_000]) {
            written += count;
        }
        let held = unacknowledged(near.as_fd());
        assert!(held > 0 && held <= 2 * SEND_BUFFER_BYTES, "{held} of {written} bytes");
        far.read_exact(&mut vec![0; written]).unwrap();
        while unacknowledged(near.as_fd()) > 0 {
            std::thread::yield_now();
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
    fn a_pipe_is_readable_with_bytes_and_at_its_end() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let is_readable = |reader: &io::PipeReader| wait_readable(reader.as_fd(), Duration::ZERO).unwrap();
        assert!(!is_readable(&reader));
        writer.write_all(b"x").unwrap();
        assert!(is_readable(&reader));
        reader.read_exact(&mut [0]).unwrap();
        assert!(!is_readable(&reader));
        drop(writer);
        assert!(is_readable(&reader));
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
