//! The pool with scripted backends on loopback: bytes on the wire, and outcomes.

mod bodies;
mod failures;
mod keepalive;
mod late;
mod names;
mod pool;
mod request;

use super::Workers;
use super::resolver::{Lookup, LookupIntervals};
use super::settings::{IdleTimeouts, Tuning, WorkerSettings};
use crate::callback::{Call, CallKind, Called, Detail, Outcome, PassedHeader, Reason};
use crate::config::CallbackUrl;
use crate::job::Completion;
use crate::table::Key;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Long enough to be irrelevant in tests of other things.
const LONG: Duration = Duration::from_secs(60);
/// A timeout that the test waits for.
const SHORT: Duration = Duration::from_millis(100);
/// A timeout that the test waits for, after a step that must be in time even on a busy machine.
const ENOUGH: Duration = Duration::from_secs(2);
/// The instance id of the pool's gateway.
const INSTANCE: &str = "5f0c2a9e-6d1b-4c8e-9f37-2b1d0e4a6c85";

/// A pool with its channel.
struct Pool {
    workers: Workers,
    completions: mpsc::Receiver<Completion>,
    wakes: Arc<AtomicUsize>,
}

/// Options of a pool for tests.
struct Options {
    timeout: Duration,
    threads_max: usize,
    late_max: usize,
    authorization: Option<String>,
    tuning: Tuning,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: LONG, threads_max: 8, late_max: 0, authorization: None, tuning: Tuning::default() }
    }
}

impl From<Tuning> for Options {
    fn from(tuning: Tuning) -> Self {
        Self { tuning, ..Self::default() }
    }
}

impl Pool {
    fn new(url: &str, options: impl Into<Options>) -> Self {
        let options = options.into();
        let (sender, completions) = mpsc::channel();
        let wakes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&wakes);
        let settings = WorkerSettings {
            url: CallbackUrl::parse(url).unwrap(),
            authorization: options.authorization,
            instance: INSTANCE.to_owned(),
            timeout: options.timeout,
            pass_rejections: false,
            extra_roots: Vec::new(),
            threads_max: options.threads_max,
            late_max: options.late_max,
        };
        let wake = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        Self { workers: Workers::assemble(settings, sender, wake, options.tuning).unwrap(), completions, wakes }
    }

    fn to(address: SocketAddr) -> Self {
        Self::new(&format!("http://{address}/"), Options::default())
    }

    fn with_timeout(address: SocketAddr, timeout: Duration) -> Self {
        Self::new(&format!("http://{address}/"), Options { timeout, ..Options::default() })
    }

    fn next(&self) -> Called {
        called(self.completions.recv_timeout(LONG).unwrap())
    }

    /// Makes one call; returns its outcome.
    fn call(&self) -> Outcome {
        self.workers.submit(call(7, None));
        let completion = self.next();
        assert_eq!(completion.id, key(7));
        completion.outcome
    }
}

/// Of a pool there are no other completions.
fn called(completion: Completion) -> Called {
    match completion {
        Completion::Called(called) => called,
        Completion::Resolved(addresses) => panic!("{addresses:?}"),
    }
}

/// Polls for a condition that has no notification.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "never happened: {what}");
        thread::yield_now();
    }
}

fn key(number: u32) -> Key {
    Key::from_parts(number, 1)
}

fn call(number: u32, detail: Option<Detail>) -> Call {
    let kind = match detail {
        None => CallKind::Connect,
        Some(_) => CallKind::Disconnect { reason: Reason::Error, detail },
    };
    let token = uuid::Uuid::from_u128(number.into());
    Call { id: key(number), kind, token, request: format!("{{\"n\":{number}}}").into(), body: None }
}

fn answered(status: u16, body: Option<&str>) -> Outcome {
    Outcome::Answered { status, passed: Vec::new(), body: body.map(|body| body.as_bytes().to_vec()), in_doubt: false }
}

/// Runs `script` as the backend.
fn backend<T: Send + 'static>(script: impl FnOnce(TcpListener) -> T + Send + 'static) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || script(listener)))
}

/// A backend that gives this answer to every request, on any number of connections.
fn answering(answer: &'static str) -> SocketAddr {
    let (address, _forever) =
        backend(move |listener| {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    while read_request(&mut stream).is_some() && stream.write_all(answer.as_bytes()).is_ok() {}
                });
            }
        });
    address
}

/// A listener whose backlog is full: connection attempts get no answer.
struct Blackhole {
    listener: TcpListener,
    address: SocketAddr,
    /// The connections that fill it.
    fillers: Vec<TcpStream>,
}

impl Blackhole {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        // A backlog of 0 holds one connection; a few more attempts are needed until one hangs.
        socket2::SockRef::from(&listener).listen(0).unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) = TcpStream::connect_timeout(&address, SHORT) {
            fillers.push(filler);
        }
        Self { listener, address, fillers }
    }

    /// Empties the backlog and accepts the first connection that is not a filler.
    fn accept(&self) -> TcpStream {
        let fillers: Vec<SocketAddr> = self.fillers.iter().map(|filler| filler.local_addr().unwrap()).collect();
        loop {
            let (stream, peer) = self.listener.accept().unwrap();
            if !fillers.contains(&peer) {
                return stream;
            }
        }
    }
}

/// The next request, head and body; `None` at the end of input.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            assert!(head.is_empty(), "half a request");
            return None;
        }
        head.push(byte[0]);
    }
    let mut request = String::from_utf8(head).unwrap();
    let length = request.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    request.push_str(std::str::from_utf8(&body).unwrap());
    Some(request)
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    crate::sys::abort_on_close(stream.as_fd()).unwrap();
}

/// Waits for the peer to close; anything it sends before is an error.
fn expect_end(stream: &mut TcpStream) {
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("unexpected input: {other:?}"),
    }
}
