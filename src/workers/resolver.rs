//! The backend's name, looked up at most once at a time.
//!
//! `getaddrinfo` blocks and cannot be cancelled, so it runs in a thread of its own. All callbacks
//! share one lookup and its answer: a silent name server costs one thread, not one per callback.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long addresses are used. Short, for backends that move; still one lookup per thousands of calls.
const ANSWER_TTL: Duration = Duration::from_secs(5);
/// How long a failure stands, so that a burst of callbacks does not become a burst of lookups.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// As many as the HTTP client takes.
pub const ADDRESSES_MAX: usize = 16;

/// The blocking lookup: host (no brackets) and port to addresses, the most promising first.
pub type Lookup = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's lookup (`getaddrinfo`).
pub fn system_lookup() -> Lookup {
    Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

/// Why there are no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// No answer within the caller's time.
    TimedOut,
    /// The lookup said no; the text is for the log.
    Failed(String),
}

/// Addresses of one host and port. Clones share the cache.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    host: String,
    port: u16,
    /// The host is an address: no lookup ever.
    literal: Option<SocketAddr>,
    lookup: Lookup,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    looking_up: bool,
    latest: Option<Latest>,
}

struct Latest {
    valid_until: Instant,
    answer: Result<Vec<SocketAddr>, String>,
}

impl Resolver {
    /// For `host` as it stands in a URL, brackets around IPv6 included.
    pub fn new(host: &str, port: u16, lookup: Lookup) -> Resolver {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        Resolver(Arc::new(Shared {
            host: bare.to_owned(),
            port,
            literal: bare.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, port)),
            lookup,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// One to [`ADDRESSES_MAX`] addresses, from the cache or by a lookup that is waited for at most
    /// `timeout`. A lookup that takes longer goes on, for whoever asks next.
    pub fn resolve(&self, timeout: Duration) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Some(address) = self.0.literal {
            return Ok(vec![address]);
        }
        let start = Instant::now();
        let mut state = self.0.lock();
        loop {
            let now = Instant::now();
            if let Some(latest) = &state.latest
                && now < latest.valid_until
            {
                return latest.answer.clone().map_err(ResolveError::Failed);
            }
            if !state.looking_up {
                state.looking_up = true;
                if let Err(error) = self.start_lookup() {
                    state.looking_up = false;
                    return Err(ResolveError::Failed(format!("no thread for a name lookup: {error}")));
                }
            }
            let left = timeout.saturating_sub(now.duration_since(start));
            if left.is_zero() {
                return Err(ResolveError::TimedOut);
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn start_lookup(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        thread::Builder::new().name("lookup".to_owned()).spawn(move || shared.look_up())?;
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self) {
        let answer = match (self.lookup)(&self.host, self.port) {
            Ok(addresses) if addresses.is_empty() => Err("the name has no addresses".to_owned()),
            Ok(mut addresses) => {
                addresses.truncate(ADDRESSES_MAX);
                Ok(addresses)
            }
            Err(error) => Err(error.to_string()),
        };
        let ttl = if answer.is_ok() { ANSWER_TTL } else { FAILURE_TTL };
        let mut state = self.lock();
        state.looking_up = false;
        state.latest = Some(Latest { valid_until: Instant::now() + ttl, answer });
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(60);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn literals_need_no_lookup() {
        let never: Lookup = Arc::new(|_, _| panic!("looked up"));
        for (host, want) in [("127.0.0.1", "127.0.0.1:80"), ("[::1]", "[::1]:80")] {
            let resolver = Resolver::new(host, 80, Arc::clone(&never));
            assert_eq!(resolver.resolve(Duration::ZERO), Ok(vec![address(want)]));
        }
    }

    #[test]
    fn a_crowd_shares_one_lookup() {
        let lookups = Arc::new(AtomicUsize::new(0));
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let counted = Arc::clone(&lookups);
        let lookup: Lookup = Arc::new(move |host, port| {
            assert_eq!((host, port), ("backend", 8000));
            counted.fetch_add(1, Ordering::SeqCst);
            gate.lock().unwrap().recv().unwrap();
            Ok(vec![address("127.0.0.1:8000"); 40])
        });
        let resolver = Resolver::new("backend", 8000, lookup);
        // While the server is silent nobody waits longer than told.
        for _ in 0..5 {
            assert_eq!(resolver.resolve(Duration::from_millis(1)), Err(ResolveError::TimedOut));
        }
        let crowd: Vec<_> = (0..8)
            .map(|_| {
                let resolver = resolver.clone();
                thread::spawn(move || resolver.resolve(LONG))
            })
            .collect();
        go.send(()).unwrap();
        for one in crowd {
            assert_eq!(one.join().unwrap().unwrap().len(), ADDRESSES_MAX);
        }
        assert!(resolver.resolve(Duration::ZERO).is_ok());
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn failures_are_remembered_too() {
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lookups);
        let lookup: Lookup = Arc::new(move |_, _| match counted.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("no such name")),
            _ => Ok(Vec::new()),
        });
        let resolver = Resolver::new("nowhere", 1, lookup);
        let failed = Err(ResolveError::Failed("no such name".to_owned()));
        assert_eq!(resolver.resolve(LONG), failed);
        assert_eq!(resolver.resolve(LONG), failed);
        // Once the failure has expired, a new lookup is made.
        resolver.0.lock().latest.as_mut().unwrap().valid_until = Instant::now();
        assert_eq!(resolver.resolve(LONG), Err(ResolveError::Failed("the name has no addresses".to_owned())));
        assert_eq!(lookups.load(Ordering::SeqCst), 2);
    }
}
