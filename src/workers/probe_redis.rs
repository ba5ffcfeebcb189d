//! `check --connect`: whether Redis can be reached, and used as a gateway uses it, one line a step.

use super::resolver::system_lookup;
use super::tls::{Session, Sessions};
use crate::clock::Millis;
use crate::redis::{self, Event, Limits, Link, Outcome, RedisSettings};
use crate::sys;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// A step, and why it has failed.
struct Failed(&'static str, String);

/// Connects, and tries all that a gateway does when it begins: for 15 s Redis holds it for one. `age` and `events`: the limits
/// of history; `extra_roots`: certificates in DER. `say` gets a line for each step. `false`: one has failed, and the others
/// were left out.
pub fn probe_redis(
    settings: &RedisSettings,
    (age, events): (Duration, usize),
    extra_roots: &[Vec<u8>],
    mut say: impl FnMut(&str),
) -> bool {
    let result = steps(settings, Limits { age, events }, extra_roots, &mut say);
    if let Err(Failed(step, why)) = &result {
        say(&format!("Redis {step}: failed: {why}; {}", redis::hint(why, settings)));
    }
    result.is_ok()
}

fn steps(
    settings: &RedisSettings,
    limits: Limits,
    extra_roots: &[Vec<u8>],
    say: &mut impl FnMut(&str),
) -> Result<(), Failed> {
    let addresses =
        system_lookup()(&settings.host, settings.port).map_err(|error| Failed("name", error.to_string()))?;
    if addresses.is_empty() {
        return Err(Failed("name", "it has no address".to_owned()));
    }
    if settings.host.parse::<IpAddr>().is_err() {
        let all: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        say(&format!("Redis name: {} is {}", settings.host, all.join(", ")));
    }
    let (address, socket) =
        connect(&addresses, settings.timeout).map_err(|error| Failed("connection", error.to_string()))?;
    say(&format!("Redis connection: to {address}"));
    let session = settings.is_tls.then(|| Sessions::new(extra_roots, &settings.host).and_then(|tls| tls.open()));
    let session = session.transpose().map_err(|error| Failed("TLS", error.to_string()))?;
    let is_trusted = session.is_none();
    let random = sys::random_bytes().map_err(|error| Failed("answer", error.to_string()))?;
    let Some(link) = Link::new(settings.clone(), limits, None, u64::from_le_bytes(random)) else {
        return Err(Failed("answer", "this build has no support for Redis".to_owned()));
    };
    let mut probe = Probe { socket, session, is_trusted, link, start: Instant::now() };
    probe.link.expire(probe.now());
    probe.link.connected(probe.now());
    while !probe.link.is_live() {
        let was_trusted = probe.is_trusted;
        probe.exchange()?;
        if probe.is_trusted && !was_trusted {
            say(&format!("Redis TLS: the certificate is good for {}", settings.host));
        }
    }
    let (version, policy) = probe.link.server();
    say(&format!("Redis answer: version {version}, all rights that are needed, maxmemory-policy {policy}"));
    let (round_trip, ahead) = probe.ask()?;
    let clock =
        if ahead.abs() < 1000 { "its clock agrees".to_owned() } else { format!("its clock is {ahead} ms ahead") };
    say(&format!("Redis round trip: {:.1} ms; {clock}", round_trip.as_secs_f64() * 1000.0));
    Ok(())
}

/// Connects to the first of some addresses that takes it.
fn connect(addresses: &[SocketAddr], timeout: Duration) -> io::Result<(SocketAddr, TcpStream)> {
    let mut result = Err(ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        result = TcpStream::connect_timeout(address, timeout).and_then(|socket| {
            socket.set_read_timeout(Some(timeout))?;
            socket.set_write_timeout(Some(timeout))?;
            socket.set_nodelay(true)?;
            Ok((*address, socket))
        });
        if result.is_ok() {
            break;
        }
    }
    result
}

/// A gateway's connection, of one who waits.
struct Probe {
    socket: TcpStream,
    session: Option<Session>,
    /// The server has proved who it is, or need not.
    is_trusted: bool,
    link: Link,
    start: Instant,
}

impl Probe {
    fn now(&self) -> Millis {
        Millis::ZERO.after(self.start.elapsed())
    }

    fn step(&self) -> &'static str {
        if self.is_trusted { "answer" } else { "TLS" }
    }

    /// Writes all that is to be written, and waits for some input.
    fn exchange(&mut self) -> Result<(), Failed> {
        let step = self.step();
        let failed = |error: std::io::Error| {
            let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            Failed(step, if is_late { "no answer in time".to_owned() } else { error.to_string() })
        };
        let unsent = self.link.unsent().to_vec();
        self.link.wrote(unsent.len());
        let sent = match &mut self.session {
            None => self.socket.write_all(&unsent),
            Some(session) => session.send(&unsent).and_then(|()| {
                let sealed = session.unsent().to_vec();
                session.wrote(sealed.len());
                self.socket.write_all(&sealed)
            }),
        };
        sent.map_err(failed)?;
        let mut input = [0; READ_BYTES];
        let count = self.socket.read(&mut input).map_err(failed)?;
        if count == 0 {
            return Err(Failed(step, "it has closed the connection".to_owned()));
        }
        let mut plain = Vec::new();
        match &mut self.session {
            None => plain.extend_from_slice(&input[..count]),
            Some(session) => session.receive(&input[..count], &mut plain).map_err(|why| Failed(step, why))?,
        }
        self.is_trusted |= !plain.is_empty();
        self.link.received(self.now(), &plain);
        match self.link.complaint() {
            "" => Ok(()),
            why => Err(Failed(self.step(), why.to_owned())),
        }
    }

    /// How long a request takes, and by how many milliseconds the clock of Redis is ahead of ours.
    fn ask(&mut self) -> Result<(Duration, i64), Failed> {
        let start = Instant::now();
        let serial = self.link.newest(self.now());
        loop {
            while let Some(event) = self.link.next_event() {
                if let Event::Done(done, Outcome::Head(head)) = event
                    && done == serial
                {
                    let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    return Ok((start.elapsed(), redis::ms_of(head) as i64 - ours.as_millis() as i64));
                }
            }
            self.exchange()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn an_address_where_nobody_listens_is_not_the_last_to_be_tried() {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (closed, open) = (listen().local_addr().unwrap(), listen());
        let address = open.local_addr().unwrap();
        let (to, _) = connect(&[closed, address], Duration::from_secs(60)).unwrap();
        assert_eq!(to, address);
        assert_eq!(connect(&[closed], Duration::from_secs(60)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
