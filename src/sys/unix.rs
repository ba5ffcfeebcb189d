//! Unix sockets as listeners, and their files.

use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The file of a Unix socket that this process has bound; removed on drop.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: FileId::of(&fs::symlink_metadata(path)?) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Tells one file from a later one of the same name. An inode may be used again at once, hence the time; it is not that of
/// the last chmod or chown.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    modified_at: (i64, i64),
}

impl FileId {
    fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino(), modified_at: (file.mtime(), file.mtime_nsec()) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| FileId::of(&file) == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a Unix socket with these permissions and listens: nonblocking, close-on-exec. Replaces a socket on which nobody
/// listens. Drop the file before the listener, so that nobody takes it for such a one.
///
/// # Errors
///
/// `AddrInUse`: another process listens there; `AlreadyExists`: there is a file that is no socket.
pub fn listen_unix(path: &Path, mode: u32, backlog: i32) -> io::Result<(SocketFile, UnixListener)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != ErrorKind::AddrInUse || !is_stale(path, &address)? {
            return Err(error);
        }
        fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    let file = SocketFile::new(path)?;
    // Before it listens: until then connections are refused.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(backlog)?;
    Ok((file, OwnedFd::from(socket).into()))
}

/// Whether nobody listens on the socket there.
fn is_stale(path: &Path, address: &SockAddr) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full is alive.
    probe.set_nonblocking(true)?;
    Ok(probe.connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A path of its own, short enough for a socket.
    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ssegateway-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_live_socket_stays_and_a_dead_one_is_replaced() {
        let path = path("stale");
        let (file, listener) = listen_unix(&path, 0o600, 16).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listen_unix(&path, 0o600, 16).unwrap_err().kind(), ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        // The clock of files moves on every few milliseconds.
        let (second, _listener) = loop {
            let (second, listener) = listen_unix(&path, 0o666, 16).unwrap();
            if second.id != file.id {
                break (second, listener);
            }
        };
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        UnixStream::connect(&path).unwrap();
        // Not its own any more.
        drop(file);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let path = path("file");
        fs::write(&path, "kept").unwrap();
        assert_eq!(listen_unix(&path, 0o600, 16).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        fs::remove_file(&path).unwrap();
    }
}
