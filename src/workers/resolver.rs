//! The addresses of the backend's name, looked up at most once at a time.
//!
//! `getaddrinfo` blocks and cannot be cancelled, so it runs in a thread of its own. All callbacks share one lookup and
//! its answer: a silent name server costs one thread, not one per callback. The last good answer is used for as long as
//! lookups fail, since a name server's outage says nothing about the backend.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Minimum intervals between lookups.
#[derive(Clone, Copy)]
pub(super) struct LookupIntervals {
    /// After a good answer. Short, for backends that move; still one lookup per thousands of calls.
    pub answer: Duration,
    /// After a failure, so that a burst of callbacks does not become a burst of lookups.
    pub failure: Duration,
}

impl Default for LookupIntervals {
    fn default() -> Self {
        Self { answer: Duration::from_secs(5), failure: Duration::from_secs(1) }
    }
}

/// How long callers wait for a lookup if there is an older answer. A healthy name server is faster.
const REFRESH_TIME_MAX: Duration = Duration::from_millis(250);
/// The maximum number of addresses used from one answer.
pub(super) const ADDRESSES_MAX: usize = 16;

/// The blocking lookup: host (no brackets) and port to addresses, the best first.
pub(super) type Lookup = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's lookup (`getaddrinfo`).
pub(super) fn system_lookup() -> Lookup {
    Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

/// Why there are no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResolveError {
    /// No answer within the caller's time.
    TimedOut,
    /// The lookup failed; the text is for the log.
    Failed(String),
}

/// Addresses of one host and port. Clones share the cache.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Shared>);

struct Shared {
    host: String,
    port: u16,
    /// The host is an address and needs no lookup.
    literal: Option<SocketAddr>,
    lookup: Lookup,
    intervals: LookupIntervals,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The last good answer; empty before the first.
    addresses: Vec<SocketAddr>,
    /// The address of the last connection.
    preferred: Option<SocketAddr>,
    /// Why the last lookup failed.
    failure: String,
    /// The earliest start of the next lookup.
    due: Option<Instant>,
    /// Start of the current lookup.
    looking_up: Option<Instant>,
}

impl Resolver {
    /// For `host` in the form of a URL, with brackets around IPv6.
    pub(super) fn new(host: &str, port: u16, lookup: Lookup, intervals: LookupIntervals) -> Self {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        Self(Arc::new(Shared {
            host: bare.to_owned(),
            port,
            literal: bare.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, port)),
            lookup,
            intervals,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// One to [`ADDRESSES_MAX`] addresses, the one that worked last first. Waits for a lookup that is due, at most for
    /// `timeout`; a lookup that takes longer continues for later callers.
    pub(super) fn resolve(&self, timeout: Duration) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Some(address) = self.0.literal {
            return Ok(vec![address]);
        }
        let start = Instant::now();
        let mut state = self.0.lock();
        self.refresh(&mut state, start);
        while let Some(since) = state.looking_up {
            let now = Instant::now();
            let mut left = timeout.saturating_sub(now.duration_since(start));
            if !state.addresses.is_empty() {
                left = left.min(REFRESH_TIME_MAX.saturating_sub(now.duration_since(since)));
            }
            if left.is_zero() {
                break;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match state.looking_up {
            _ if !state.addresses.is_empty() => Ok(state.by_preference()),
            Some(_) => Err(ResolveError::TimedOut),
            None => Err(ResolveError::Failed(state.failure.clone())),
        }
    }

    /// Whether `address` is in the last good answer. Never waits, but starts the lookup if it is due.
    pub(super) fn is_current(&self, address: SocketAddr) -> bool {
        if self.0.literal.is_some() {
            return true;
        }
        let mut state = self.0.lock();
        self.refresh(&mut state, Instant::now());
        state.addresses.contains(&address)
    }

    /// Puts `address`, to which a connection was opened, first from now on.
    pub(super) fn prefer(&self, address: SocketAddr) {
        self.0.lock().preferred = Some(address);
    }

    /// Starts the lookup if it is due.
    fn refresh(&self, state: &mut State, now: Instant) {
        if state.looking_up.is_some() || state.due.is_some_and(|due| now < due) {
            return;
        }
        let shared = Arc::clone(&self.0);
        match thread::Builder::new().name("lookup".to_owned()).spawn(move || shared.look_up()) {
            Ok(_) => state.looking_up = Some(now),
            Err(error) => state.failure = format!("no thread for a name lookup: {error}"),
        }
    }
}

impl State {
    fn by_preference(&self) -> Vec<SocketAddr> {
        let mut addresses = self.addresses.clone();
        if let Some(at) = addresses.iter().position(|address| Some(*address) == self.preferred) {
            addresses[..=at].rotate_right(1);
        }
        addresses
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self) {
        let answer = (self.lookup)(&self.host, self.port);
        let mut state = self.lock();
        state.looking_up = None;
        let interval = match answer {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.truncate(ADDRESSES_MAX);
                state.addresses = addresses;
                self.intervals.answer
            }
            Ok(_) => {
                state.failure = "the name has no addresses".to_owned();
                self.intervals.failure
            }
            Err(error) => {
                state.failure = error.to_string();
                self.intervals.failure
            }
        };
        state.due = Some(Instant::now() + interval);
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
            let resolver = Resolver::new(host, 80, Arc::clone(&never), LookupIntervals::default());
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
        let resolver = Resolver::new("backend", 8000, lookup, LookupIntervals::default());
        // While the name server is silent, callers wait no longer than their timeout.
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
        let resolver = Resolver::new("nowhere", 1, lookup, LookupIntervals::default());
        let failed = Err(ResolveError::Failed("no such name".to_owned()));
        assert_eq!(resolver.resolve(LONG), failed);
        assert_eq!(resolver.resolve(LONG), failed);
        // Once the failure has expired, a new lookup is made.
        resolver.0.lock().due = None;
        assert_eq!(resolver.resolve(LONG), Err(ResolveError::Failed("the name has no addresses".to_owned())));
        assert_eq!(lookups.load(Ordering::SeqCst), 2);
    }
}
