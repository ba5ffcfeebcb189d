//! `ssegateway healthcheck`: queries a probe of a running gateway, since an image built from scratch has no curl. One
//! request and one status line do not need an HTTP client.

use crate::config::Config;
use crate::escape::Escaped;
use socket2::{SockAddr, Socket, Type};
use std::fmt::{self, Display, Formatter};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Timeout of all attempts together.
const TIME_MAX: Duration = Duration::from_secs(3);
/// More than the answer of a probe.
const ANSWER_BYTES_MAX: usize = 1024;

/// Where a gateway listens.
#[derive(Debug)]
pub enum Endpoint {
    /// An address and a port.
    Port(SocketAddr),
    /// The path of a Unix socket.
    Socket(PathBuf),
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => write!(f, "{address}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Queries `/readyz` or `/healthz`, on the internal port or socket if there is one, where a crowd on the public port cannot delay
/// the answer. Errors: one line with the reason.
pub fn run(config: &Config, ready: bool) -> Result<(), String> {
    let target = if ready { "/readyz" } else { "/healthz" };
    let endpoint = match (config.internal_port, &config.internal_socket) {
        (None, Some(path)) => Endpoint::Socket(path.clone()),
        (None, None) | (Some(_), _) => Endpoint::Port(config.internal_endpoint().unwrap_or(config.public_endpoint())),
    };
    let deadline = Instant::now() + TIME_MAX;
    let mut failure = String::new();
    for (name, address) in addresses(&endpoint).map_err(|error| error.to_string())? {
        match connect(&address, deadline).and_then(|socket| ask(socket, target, "\n", deadline)) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return Ok(()),
            Ok(answer) => {
                let line = answer.lines().next().unwrap_or_default().trim_end();
                return Err(format!("{name}{target} answered \"{}\"", Escaped(line)));
            }
            Err(error) => failure = format!("{name}{target}: {error}"),
        }
    }
    Err(failure)
}

/// Whether it is a gateway that listens there, by its readiness probe.
pub fn is_gateway(endpoint: &Endpoint) -> bool {
    let deadline = Instant::now() + TIME_MAX;
    addresses(endpoint).unwrap_or_default().iter().any(|(_, address)| {
        // A field of no other server's probe.
        let field = "\"configured\":";
        let answer = connect(address, deadline).and_then(|socket| ask(socket, "/readyz", field, deadline));
        answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 ") && answer.contains(field))
    })
}

/// The addresses at which it can be reached from this machine, with their names.
fn addresses(endpoint: &Endpoint) -> io::Result<Vec<(String, SockAddr)>> {
    let listener = match endpoint {
        Endpoint::Port(listener) => listener,
        Endpoint::Socket(path) => return Ok(vec![(path.display().to_string(), SockAddr::unix(path)?)]),
    };
    let hosts: &[IpAddr] = if listener.ip().is_unspecified() {
        &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
    } else {
        &[listener.ip()]
    };
    let named = hosts.iter().map(|host| SocketAddr::new(*host, listener.port()));
    Ok(named.map(|address| (address.to_string(), address.into())).collect())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn connect(address: &SockAddr, deadline: Instant) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.connect_timeout(address, left(deadline)?)?;
    Ok(socket)
}

/// The answer up to `end`, or as much of it as arrived.
fn ask(mut socket: Socket, target: &str, end: &str, deadline: Instant) -> io::Result<String> {
    socket.set_write_timeout(Some(left(deadline)?))?;
    write!(socket, "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; ANSWER_BYTES_MAX];
    while answer.len() < ANSWER_BYTES_MAX && !answer.windows(end.len()).any(|bytes| bytes == end.as_bytes()) {
        socket.set_read_timeout(Some(left(deadline)?))?;
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => answer.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn config(port: u16) -> Config {
        let lookup = |name: &str| match name {
            "PORT" => Some(port.to_string().into()),
            "LISTEN_ADDRESS" => Some("0.0.0.0".into()),
            _ => None,
        };
        Config::from_env(lookup).unwrap().0
    }

    /// The result of a check against a server with this answer, and the request line received.
    fn checked(answer: &'static str, ready: bool) -> (Result<(), String>, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap().lines().next().unwrap().to_owned()
        });
        let result = run(&config(port), ready);
        (result, server.join().unwrap())
    }

    #[test]
    fn only_200_is_healthy() {
        let (result, line) = checked("HTTP/1.1 200 OK\r\n\r\n", false);
        assert_eq!((result, line.as_str()), (Ok(()), "GET /healthz HTTP/1.1"));
        let (result, line) = checked("HTTP/1.1 503 Service Unavailable\r\n\r\n", true);
        assert!(result.unwrap_err().ends_with("/readyz answered \"HTTP/1.1 503 Service Unavailable\""));
        assert_eq!(line, "GET /readyz HTTP/1.1");
        for answer in ["", "HTTP/1.1 2000\r\n", "HTTP/1.1 20", "\r\n", "SSH-2.0\r\n"] {
            assert!(checked(answer, false).0.is_err(), "{answer}");
        }
    }

    #[test]
    fn a_closed_port_is_unhealthy() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let line = run(&config(port), false).unwrap_err();
        assert_eq!(line.lines().count(), 1);
    }
}
