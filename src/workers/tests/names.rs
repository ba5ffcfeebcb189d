//! Backends with a host name: failing lookups, addresses that do not answer.

use super::*;
use std::sync::Mutex;

const CLOSING: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

/// A name server whose answer changes during a test.
#[derive(Clone)]
struct Names(Arc<Mutex<Result<Vec<SocketAddr>, &'static str>>>, Arc<AtomicUsize>);

impl Names {
    fn new(addresses: &[SocketAddr]) -> Self {
        Self(Arc::new(Mutex::new(Ok(addresses.to_vec()))), Arc::default())
    }

    fn set(&self, answer: Result<&[SocketAddr], &'static str>) {
        *self.0.lock().unwrap() = answer.map(<[_]>::to_vec);
    }

    fn lookups(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    fn lookup(&self) -> Lookup {
        let names = self.clone();
        Arc::new(move |_, _| {
            names.1.fetch_add(1, Ordering::SeqCst);
            names.0.lock().unwrap().clone().map_err(io::Error::other)
        })
    }

    /// A pool that repeats the lookup with every call.
    fn pool(&self, timeout: Duration) -> Pool {
        let lookup_intervals = LookupIntervals { answer: Duration::ZERO, failure: Duration::ZERO };
        Pool::new(
            "http://backend.test/",
            Options { timeout, ..Tuning { lookup: self.lookup(), lookup_intervals, ..Tuning::default() }.into() },
        )
    }
}

/// Unanswered connection attempts of this machine to `address`.
fn is_connecting(address: SocketAddr) -> bool {
    const SYN_SENT: &str = "02";
    let port = format!(":{:04X}", address.port());
    std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2].ends_with(&port) && fields[3] == SYN_SENT
    })
}

#[test]
fn while_lookups_fail_the_last_good_addresses_serve() {
    let names = Names::new(&[answering(CLOSING)]);
    let pool = names.pool(LONG);
    assert_eq!(pool.call(), answered(204, Some("")));
    for failure in [Err("no name server answers"), Ok(&[][..])] {
        names.set(failure);
        for _ in 0..20 {
            let before = names.lookups();
            assert_eq!(pool.call(), answered(204, Some("")));
            assert!(names.lookups() > before, "asked again");
        }
    }
    let moved = answering("HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n");
    names.set(Ok(&[moved]));
    assert_eq!(pool.call(), answered(403, None));
}

#[test]
fn a_name_server_that_falls_silent_stops_no_call() {
    let address = answering(CLOSING);
    let (_release, hold) = mpsc::channel::<()>();
    let (lookups, hold) = (AtomicUsize::new(0), Mutex::new(hold));
    let lookup: Lookup = Arc::new(move |_, _| {
        if lookups.fetch_add(1, Ordering::SeqCst) > 0 {
            let _ = hold.lock().unwrap().recv();
        }
        Ok(vec![address])
    });
    let lookup_intervals = LookupIntervals { answer: Duration::ZERO, failure: Duration::ZERO };
    let pool = Pool::new("http://backend.test/", Tuning { lookup, lookup_intervals, ..Tuning::default() });
    for _ in 0..20 {
        assert_eq!(pool.call(), answered(204, Some("")));
    }
}

#[test]
fn a_dead_first_address_costs_a_quarter_of_a_second_once() {
    let dead = Blackhole::new();
    let names = Names::new(&[dead.address, answering(CLOSING)]);
    let pool = names.pool(LONG);
    let start = Instant::now();
    assert_eq!(pool.call(), answered(204, Some("")));
    let took = start.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(!is_connecting(dead.address), "the other attempt is closed");
    let quickest = (0..5).map(|_| {
        let start = Instant::now();
        assert_eq!(pool.call(), answered(204, Some("")));
        start.elapsed()
    });
    assert!(quickest.min() < Some(Duration::from_millis(250)), "the address that worked is tried first");
}

#[test]
fn an_address_that_takes_its_time_stays_in_the_race() {
    let (slow, dead) = (Blackhole::new(), Blackhole::new());
    let names = Names::new(&[slow.address, dead.address]);
    let pool = names.pool(LONG);
    pool.workers.submit(call(7, None));
    eventually("the second address is tried", || is_connecting(dead.address));
    let script = thread::spawn(move || {
        let mut stream = slow.accept();
        read_request(&mut stream).unwrap();
        stream.write_all(CLOSING.as_bytes()).unwrap();
    });
    assert_eq!(pool.next().outcome, answered(204, Some("")));
    script.join().unwrap();
}

#[test]
fn a_backend_that_moves_is_followed_although_its_connections_are_kept() {
    let names = Names::new(&[answering("HTTP/1.1 204 No Content\r\n\r\n")]);
    let pool = names.pool(LONG);
    assert_eq!(pool.call(), answered(204, Some("")));
    names.set(Ok(&[answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")]));
    eventually("the new address is called", || pool.call() == answered(403, None));
    for _ in 0..20 {
        assert_eq!(pool.call(), answered(403, None));
    }
}

#[test]
fn a_connection_stays_while_its_address_is_among_the_names() {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut calls = 0;
        while read_request(&mut stream).is_some() {
            calls += 1;
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        }
        calls
    });
    let dead = Blackhole::new();
    let names = Names::new(&[address]);
    let pool = names.pool(LONG);
    for answer in [&[address][..], &[dead.address, address], &[address, dead.address]] {
        names.set(Ok(answer));
        for _ in 0..10 {
            assert_eq!(pool.call(), answered(204, Some("")));
        }
    }
    drop(pool);
    assert_eq!(script.join().unwrap(), 30);
}

#[test]
fn addresses_that_refuse_are_passed_over_at_once() {
    let refusing = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut addresses: Vec<SocketAddr> = (0..15).map(|_| refusing()).collect();
    let start = Instant::now();
    assert_eq!(Names::new(&addresses).pool(LONG).call(), Outcome::Unavailable { written: false });
    addresses.push(answering(CLOSING));
    assert_eq!(Names::new(&addresses).pool(LONG).call(), answered(204, Some("")));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn all_addresses_together_have_the_time_of_one_call() {
    let dead: Vec<Blackhole> = (0..3).map(|_| Blackhole::new()).collect();
    let addresses: Vec<SocketAddr> = dead.iter().map(|dead| dead.address).collect();
    let start = Instant::now();
    let timeout = Duration::from_millis(400);
    assert_eq!(Names::new(&addresses).pool(timeout).call(), Outcome::TimedOut { written: false });
    assert!((timeout..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
}
