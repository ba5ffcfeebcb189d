//! Tells the service manager where the gateway is in its life: `sd_notify(3)`, which is one datagram to
//! the socket that `$NOTIFY_SOCKET` names. Without a manager that asks, nothing is done.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A manager may be busy for a moment; a loop that serves streams cannot wait for long.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

/// What the manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    /// Clients are served.
    Ready,
    /// The end has been asked for and has begun.
    Stopping,
}

impl ServiceState {
    fn text(self) -> &'static str {
        match self {
            ServiceState::Ready => "READY=1",
            ServiceState::Stopping => "STOPPING=1",
        }
    }
}

/// The service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager(Option<OsString>);

impl ServiceManager {
    /// The one that started this process, if it wants to be told.
    pub fn from_env() -> ServiceManager {
        ServiceManager(std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()))
    }

    /// Tells it. A failure is logged: the gateway serves all the same, and the manager has a timeout.
    pub fn notify(&self, state: ServiceState) {
        let Some(name) = &self.0 else { return };
        if let Err(error) = send(name, state.text()) {
            log::error!(socket = name.to_string_lossy().as_ref(), error = error.to_string(); "cannot notify the service manager: {}", state.text());
        }
    }
}

fn send(name: &OsStr, text: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        // A name that is no file (unix(7)); containers get such ones.
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_takes_nothing_holds_nobody_up() {
        let name = format!("ssegateway-{}", uuid::Uuid::from_bytes(crate::sys::random_bytes().unwrap()));
        let _full = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let name = OsString::from(format!("@{name}"));
        let error = loop {
            if let Err(error) = send(&name, ServiceState::Ready.text()) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
