//! Configuration to running gateway. All errors at startup are reported here, in one line.

use crate::clock::Millis;
use crate::config::{CallbackUrl, Config};
use crate::gateway::{Finished, Gateway};
use crate::healthcheck::{self, Endpoint};
use crate::limits::Limits;
use crate::notify::{ServiceManager, ServiceState};
use crate::reactor::mio::{Listeners, MioSystem};
use crate::reactor::{Reactor, System};
use crate::sys::{self, Signals, SocketFile};
use crate::workers::{self, Lookups, Sessions, Wake, WorkerSettings, Workers};
use log::{info, warn};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, mpsc};

/// Enough for a burst of reconnecting pages; the kernel caps it at net.core.somaxconn.
const BACKLOG_MAX: u64 = 4096;
/// Enough for a small container.
const BACKLOG_MIN: u64 = 128;
/// What a client that is not accepted yet makes the kernel hold, if its request is as large as it may be: together at most
/// a quarter of the limit of memory.
const WAITING_CLIENT_BYTES: u64 = 16 * 1024;

/// How many clients may wait to be accepted.
fn backlog(memory_max: Option<u64>) -> i32 {
    let backlog = memory_max.map_or(BACKLOG_MAX, |max| max / 4 / WAITING_CLIENT_BYTES).clamp(BACKLOG_MIN, BACKLOG_MAX);
    // It fits: it is clamped.
    backlog as i32
}

/// A port or a socket that cannot be opened.
#[derive(Debug)]
pub struct Unopened {
    /// With its address and the reason.
    pub line: String,
    /// Where another process listens.
    pub taken: Option<Endpoint>,
}

/// Opens the ports and the socket of the configuration.
pub fn open(config: &Config) -> Result<Listeners, Unopened> {
    let backlog = backlog(config.gateway.memory_bytes_max);
    let public = listen(config.public_endpoint(), backlog, "PORT")?;
    let internal = config.internal_endpoint().map(|socket| listen(socket, backlog, "INTERNAL_PORT")).transpose()?;
    let unix = config.internal_socket.as_ref();
    let internal_unix = unix.map(|path| listen_unix(path, config.internal_socket_mode, backlog)).transpose()?;
    Ok(Listeners { public, internal, internal_unix })
}

fn listen_unix(path: &Path, mode: u32, backlog: i32) -> Result<(SocketFile, UnixListener), Unopened> {
    sys::listen_unix(path, mode, backlog).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => "; another process listens there: stop it, or set INTERNAL_SOCKET to another path",
            ErrorKind::AlreadyExists => {
                "; there is a file that is no socket: remove it, or set INTERNAL_SOCKET to another path"
            }
            ErrorKind::NotFound => "; its directory must exist",
            ErrorKind::PermissionDenied => "; this user must be able to write to its directory",
            _ => "",
        };
        let taken = (error.kind() == ErrorKind::AddrInUse).then(|| Endpoint::Socket(path.to_owned()));
        Unopened { line: format!("cannot listen on {}: {error}{hint}", path.display()), taken }
    })
}

/// `variable` sets the port.
fn listen(address: SocketAddr, backlog: i32, variable: &str) -> Result<TcpListener, Unopened> {
    let opened = match sys::listen(address, backlog) {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && lacks_ipv6(&error) => {
            sys::listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()), backlog)
        }
        result => result,
    };
    opened.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("; another process uses that port: stop it, or set {variable} to a free one")
            }
            ErrorKind::PermissionDenied => {
                format!("; ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or set {variable} to a higher port")
            }
            ErrorKind::AddrNotAvailable => "; no interface of this machine has that address".to_owned(),
            _ => String::new(),
        };
        let taken = (error.kind() == ErrorKind::AddrInUse).then_some(Endpoint::Port(address));
        Unopened { line: format!("cannot listen on {address}: {error}{hint}"), taken }
    })
}

/// For `check`: what is wrong with the ports and the socket, if anything is.
pub fn try_open(config: &Config) -> Option<String> {
    let unopened = open(config).err()?;
    Some(match unopened.taken {
        Some(endpoint) if healthcheck::is_gateway(&endpoint) => format!(
            "a gateway is running at {endpoint}: that is fine if it is the one that this configuration is for, \
             but a second one needs another port or socket"
        ),
        Some(_) | None => unopened.line,
    })
}

/// Whether a kernel or container without IPv6 refused the socket or the bind.
fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// The warning of a gateway without a backend.
pub const CALLBACK_UNSET: &str = "CALLBACK_URL is not set: every stream gets 503";

/// Items with `separator` between them, or `none`.
fn listed(items: impl Iterator<Item = String>, separator: &str) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(separator) }
}

/// Logs the configuration at startup, and warns of a missing backend.
fn log_start(config: &Config, limits: &Limits, listeners: &Listeners) {
    let address =
        |listener: &TcpListener| listener.local_addr().map_or("none".to_owned(), |address| address.to_string());
    let socket = listeners.internal_unix.as_ref().map(|(file, _)| file.path().display().to_string());
    let internal_address = listed(listeners.internal.as_ref().map(address).into_iter().chain(socket), ",");
    let guards = [
        (listeners.internal.is_some(), "port"),
        (listeners.internal_unix.is_some(), "socket"),
        (config.gateway.internal_token.is_some(), "token"),
    ];
    let internal_guard = listed(guards.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name.to_owned()), "+");
    let callback = config.callback_url.as_ref().map_or("none".to_owned(), CallbackUrl::bare);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        address = address(&listeners.public),
        internal_address,
        internal_guard,
        callback,
        streams_max = limits.streams_max,
        connections_max = limits.connections_max,
        callbacks_max = limits.threads_max,
        memory_max = config.gateway.memory_bytes_max.map_or("none".to_owned(), |bytes| bytes.to_string());
        "started"
    );
    if config.callback_url.is_none() {
        let hint = "set it to the URL of the backend's callback endpoint, like http://127.0.0.1:8000/callback";
        warn!(hint; "{CALLBACK_UNSET}");
    }
}

/// The table of descriptors has 8 bytes of the kernel's memory for each: 512 KiB.
const DESCRIPTORS_RESERVED_MAX: usize = 65_536;

/// Serves until a signal ends it. Errors: one line.
pub fn run(mut config: Config, limits: &Limits, listeners: Listeners, signals: Signals) -> Result<Finished, String> {
    log_start(&config, limits, &listeners);
    sys::reserve_descriptors(listeners.public.as_fd(), limits.descriptors().min(DESCRIPTORS_RESERVED_MAX));
    let has_internal = config.gateway.internal_listener;
    let mut system = MioSystem::new(listeners, signals, config.gateway.client_timeout)
        .map_err(|error| format!("cannot start the event loop: {error}"))?;
    config.gateway.instance = system.draw_token().to_string();
    let (sender, completions) = mpsc::channel();
    let wakeup = system.wakeup();
    let wake: Wake = Arc::new(move || wakeup.wake());
    if let Some(url) = &config.callback_url {
        let workers = Workers::start(worker_settings(&config, limits, url), sender.clone(), Wake::clone(&wake))
            .map_err(|error| format!("cannot prepare callbacks to {}: {error}", url.masked()))?;
        system.set_workers(workers);
    }
    system.set_lookups(Lookups::new(sender, wake), completions);
    let sessions = match &config.gateway.redis {
        Some(redis) if redis.is_tls => Some(
            Sessions::new(&config.callback_roots, &redis.host)
                .map_err(|error| format!("cannot prepare the connection to Redis: {error}"))?,
        ),
        Some(_) | None => None,
    };
    let now = Millis::ZERO.after(system.now());
    // Used for the jitter of `retry` only.
    let seed = system.draw_token().as_u64_pair().0;
    let gateway = Gateway::new(config.gateway, now, seed);
    let mut reactor = Reactor::new(system, gateway, limits.connections_max, has_internal);
    if let Some(sessions) = sessions {
        reactor.encrypt_upstream(sessions);
    }
    let manager = ServiceManager::from_env();
    manager.notify(ServiceState::Ready);
    let (finished, left) = reactor
        .run(|| manager.notify(ServiceState::Stopping))
        .map_err(|error| format!("the event loop failed: {error}"))?;
    match finished {
        Finished::Clean => info!(clean = true; "stopped"),
        Finished::TimedOut => warn!(
            clean = false,
            streams_left = left.streams,
            connects_left = left.connects,
            disconnects_left = left.disconnects;
            "stopped"
        ),
    }
    Ok(finished)
}

/// Whether the backend can be reached, and Redis where it is used; `say` gets a line for each step.
pub fn probe(config: &Config, limits: &Limits, mut say: impl FnMut(&str)) -> bool {
    let url = config.callback_url.as_ref();
    let has_backend = url.is_some_and(|url| workers::probe(&worker_settings(config, limits, url), &mut say));
    let settings = &config.gateway;
    let history = (settings.history_age, settings.history_events);
    let has_redis = settings
        .redis
        .as_ref()
        .is_none_or(|redis| workers::probe_redis(redis, history, &config.callback_roots, &mut say));
    has_backend && has_redis
}

fn worker_settings(config: &Config, limits: &Limits, url: &CallbackUrl) -> WorkerSettings {
    WorkerSettings {
        url: url.clone(),
        pass_rejections: config.pass_rejections,
        extra_roots: config.callback_roots.clone(),
        authorization: config.callback_authorization().map(|value| value.expose().to_owned()),
        instance: config.gateway.instance.clone(),
        timeout: config.gateway.callback_timeout,
        threads_max: config.gateway.callback_concurrency,
        late_max: limits.late_max,
    }
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
    fn clients_that_wait_are_bounded_by_the_memory_there_is() {
        assert_eq!([None, Some(16 << 20), Some(48 << 20), Some(1 << 40)].map(backlog), [4096, 256, 768, 4096]);
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let port = address.port().to_string();
        let line = open(&config(&[("PORT", &port), ("LISTEN_ADDRESS", "127.0.0.1")])).unwrap_err().line;
        assert!(line.starts_with(&format!("cannot listen on {address}: Address already in use")), "{line}");
    }

    #[test]
    fn without_ipv6_the_default_address_is_that_of_ipv4() {
        for code in [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL] {
            assert!(lacks_ipv6(&io::Error::from_raw_os_error(code)));
        }
        assert!(!lacks_ipv6(&io::Error::from_raw_os_error(libc::EADDRINUSE)));
        let anywhere = listen((Ipv6Addr::UNSPECIFIED, 0).into(), 16, "PORT").unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, anywhere.local_addr().unwrap().port())).unwrap();
    }
}
