//! Reports the state of the gateway to the service manager, as `sd_notify(3)` does: one datagram to the socket that
//! `$NOTIFY_SOCKET` names. Without that variable nothing is sent.

use std::ffi::{OsStr, OsString};
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a busy manager may delay the event loop.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

/// A state worth a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    /// The gateway serves clients.
    Ready,
    /// Shutdown has begun.
    Stopping,
}

impl ServiceState {
    fn text(self) -> &'static str {
        match self {
            Self::Ready => "READY=1",
            Self::Stopping => "STOPPING=1",
        }
    }
}

/// The name of the service manager's socket, if there is one.
#[derive(Debug)]
pub struct ServiceManager(Option<OsString>);

impl ServiceManager {
    /// The manager that started this process.
    pub fn from_env() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()))
    }

    /// Reports `state`. A failure is only logged: the manager has a timeout of its own.
    pub fn notify(&self, state: ServiceState) {
        let Some(name) = &self.0 else { return };
        if let Err(error) = send(name, state.text()) {
            let (socket, error) = (name.to_string_lossy(), error.to_string());
            log::error!(socket = socket.as_ref(), error; "cannot notify the service manager: {}", state.text());
        }
    }
}

fn send(name: &OsStr, text: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        // An abstract name (unix(7)), as containers get.
        #[cfg(target_os = "linux")]
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
    fn a_full_socket_does_not_block() {
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
