//! From a configuration to a running gateway: what can fail at the start fails here, with one line.

use crate::callback::Completion;
use crate::config::{CallbackUrl, Config};
use crate::limits::Limits;
use crate::sys::{self, Signals};
use crate::workers::{Wake, WorkerSettings, Workers};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};

/// A burst of reconnecting pages fits; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// The open ports, nonblocking.
#[derive(Debug)]
pub struct Listeners {
    pub public: TcpListener,
    pub internal: Option<TcpListener>,
}

impl Listeners {
    /// Opens them. Errors: one line naming the address and what is wrong with it.
    pub fn open(config: &Config) -> Result<Listeners, String> {
        let public = listen(config.public_socket())?;
        let internal = config.internal_socket().map(listen).transpose()?;
        Ok(Listeners { public, internal })
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let opened = match sys::listen(address, BACKLOG) {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && lacks_ipv6(&error) => {
            sys::listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()), BACKLOG)
        }
        result => result,
    };
    opened.map_err(|error| format!("cannot listen on {address}: {error}"))
}

/// What a kernel or container without IPv6 says to a socket or a bind.
fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Serves until a signal ends it. Errors: one line; what could not be set up, or broke for good.
pub fn serve(config: &Config, limits: &Limits, listeners: Listeners, signals: Signals) -> Result<(), String> {
    log_start(config, limits, &listeners);
    let (workers, completions) = start_workers(config, limits, Arc::new(|| {}))?;
    sys::wait(Some(signals.as_fd()), None, None).map_err(|error| format!("cannot wait for signals: {error}"))?;
    drop((workers, completions, listeners));
    Ok(())
}

/// Says in the log what has started.
fn log_start(config: &Config, limits: &Limits, listeners: &Listeners) {
    let callback_url = config.callback_url.as_ref().map_or("none".to_owned(), CallbackUrl::masked);
    // A query may well be a key.
    let callback_url = callback_url.split('?').next().unwrap_or_default();
    log::info!(
        "started version={} callback_url={callback_url} streams_max={} connections_max={} callback_threads_max={}",
        env!("CARGO_PKG_VERSION"),
        limits.streams_max,
        limits.connections_max,
        limits.threads_max
    );
    for (name, listener) in [("public", Some(&listeners.public)), ("internal", listeners.internal.as_ref())] {
        if let Some(Ok(address)) = listener.map(TcpListener::local_addr) {
            log::info!("listening port={name} address={address}");
        }
    }
}

/// The callback pool, if there is a backend, and where its completions arrive. `wake` is called after
/// each. Errors: one line.
fn start_workers(
    config: &Config,
    limits: &Limits,
    wake: Wake,
) -> Result<(Option<Workers>, mpsc::Receiver<Completion>), String> {
    let (sender, receiver) = mpsc::channel();
    let Some(callback_url) = &config.callback_url else { return Ok((None, receiver)) };
    let settings = WorkerSettings {
        url: callback_url.url.clone(),
        authorization: config.callback_authorization().map(|value| value.expose().to_owned()),
        timeout: config.callback_timeout,
        threads_max: limits.threads_max,
    };
    let workers = Workers::start(settings, sender, wake)
        .map_err(|error| format!("cannot prepare callbacks to {}: {error}", callback_url.masked()))?;
    Ok((Some(workers), receiver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let lookup = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Config::from_env(lookup).unwrap().0
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let port = address.port().to_string();
        let line = Listeners::open(&config(&[("PORT", &port), ("LISTEN_ADDRESS", "127.0.0.1")])).unwrap_err();
        assert!(line.starts_with(&format!("cannot listen on {address}: Address already in use")), "{line}");
    }

    #[test]
    fn without_ipv6_the_default_address_is_the_one_of_ipv4() {
        for code in [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL] {
            assert!(lacks_ipv6(&io::Error::from_raw_os_error(code)));
        }
        assert!(!lacks_ipv6(&io::Error::from_raw_os_error(libc::EADDRINUSE)));
        let anywhere = listen((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, anywhere.local_addr().unwrap().port())).unwrap();
    }

    #[test]
    fn no_backend_no_workers() {
        let limits = Limits::share(1024, 8, None);
        let wake: Wake = Arc::new(|| {});
        assert!(start_workers(&config(&[]), &limits, wake.clone()).unwrap().0.is_none());
        let with_url = config(&[("CALLBACK_URL", "http://a:b@localhost/")]);
        assert!(start_workers(&with_url, &limits, wake).unwrap().0.is_some());
    }
}
