//! The honest users beside an attack: streams that count their events, senders, connects, probes; and a control, which
//! does what a probe does against a server that has nothing else to do.

use crate::backend::Tokens;
use crate::common::{Client, HEARTBEAT, get, send_request};
use crate::reader::Reader;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) const STREAMS: usize = 200;
const SENDERS: usize = 4;
/// Each stream gets an event in that time.
const ROUND: Duration = Duration::from_secs(1);
const PROBES: Duration = Duration::from_millis(50);
/// How long clients wait for their streams; a backend may be slow.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// How long events may take to arrive once the last send is answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was done how often, and how long it took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Times {
    pub count: usize,
    pub failed: usize,
    pub slowest: Duration,
}

impl Times {
    fn add(&mut self, since: Instant, good: bool) {
        self.count += 1;
        self.failed += usize::from(!good);
        self.slowest = self.slowest.max(since.elapsed());
    }

    fn merge(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            failed: self.failed + other.failed,
            slowest: self.slowest.max(other.slowest),
        }
    }
}

/// What they noticed.
pub(crate) struct Seen {
    /// Streams that ended.
    pub lost: usize,
    /// Events of answered sends that never came.
    pub missing: usize,
    pub events: Times,
    pub sends: Times,
    pub connects: Times,
    pub probes: Times,
    pub control: Times,
    /// The longest that the gateway waited for a processor within a tenth of a second.
    pub stall: Duration,
}

struct Shared {
    port: u16,
    base: Instant,
    stop: AtomicBool,
    /// Sends answered with 200, by stream.
    sent: Vec<AtomicUsize>,
    sending: AtomicUsize,
    open: AtomicUsize,
    connects: Mutex<Times>,
}

pub(crate) struct Honest {
    shared: Arc<Shared>,
    readers: JoinHandle<(usize, usize, Times)>,
    senders: Vec<JoinHandle<Times>>,
    probes: JoinHandle<Times>,
    control: JoinHandle<Times>,
    connects: JoinHandle<()>,
}

impl Honest {
    /// Opens the streams, and starts the rest. A new client connects every `pace`.
    pub(crate) fn start(port: u16, tokens: &Tokens, pace: Duration) -> Self {
        let shared = Arc::new(Shared {
            port,
            base: Instant::now(),
            stop: AtomicBool::new(false),
            sent: (0..STREAMS).map(|_| AtomicUsize::new(0)).collect(),
            sending: AtomicUsize::new(SENDERS),
            open: AtomicUsize::new(0),
            connects: Mutex::default(),
        });
        let readers = spawn(&shared, |shared| Streams::open(shared.clone()).read());
        crate::common::eventually("the honest streams are open", || shared.open.load(Ordering::SeqCst) == STREAMS);
        let senders = (0..SENDERS).map(|n| {
            let tokens: Vec<(usize, String)> =
                (n..STREAMS).step_by(SENDERS).map(|stream| (stream, tokens.of(&url(stream)))).collect();
            spawn(&shared, move |shared| send(shared, &tokens))
        });
        let senders = senders.collect();
        let probes = spawn(&shared, |shared| probe(shared, shared.port));
        let control = spawn(&shared, |shared| {
            let port = idle_server();
            probe(shared, port)
        });
        let connects = spawn(&shared, move |shared| connect(shared, pace));
        Self { shared, readers, senders, probes, control, connects }
    }

    pub(crate) fn finish(self) -> Seen {
        self.shared.stop.store(true, Ordering::SeqCst);
        let sends = self
            .senders
            .into_iter()
            .map(|sender| sender.join().expect("a sender"))
            .fold(Times::default(), Times::merge);
        let (lost, missing, events) = self.readers.join().expect("every event arrives once and in order");
        self.connects.join().expect("the connects");
        let connects = *self.shared.connects.lock().unwrap();
        let [probes, control] = [self.probes, self.control].map(|probes| probes.join().expect("the probes"));
        Seen { lost, missing, events, sends, connects, probes, control, stall: Duration::ZERO }
    }
}

fn spawn<T: Send + 'static>(
    shared: &Arc<Shared>,
    run: impl FnOnce(&Arc<Shared>) -> T + Send + 'static,
) -> JoinHandle<T> {
    let shared = shared.clone();
    std::thread::spawn(move || run(&shared))
}

fn url(stream: usize) -> String {
    format!("/honest/{stream}")
}

struct Open {
    /// `None`: it has ended.
    socket: Option<TcpStream>,
    reader: Reader,
    accepted: bool,
    received: usize,
}

struct Streams {
    shared: Arc<Shared>,
    poll: Poll,
    open: Vec<Open>,
    lost: usize,
    times: Times,
}

impl Streams {
    fn open(shared: Arc<Shared>) -> Self {
        let poll = Poll::new().expect("epoll");
        let open = (0..STREAMS).map(|n| {
            let mut socket = std::net::TcpStream::connect(("127.0.0.1", shared.port)).expect("a connection");
            socket.write_all(get(&url(n)).as_bytes()).expect("a request");
            socket.set_nonblocking(true).expect("nonblocking");
            let mut socket = TcpStream::from_std(socket);
            poll.registry().register(&mut socket, Token(n), Interest::READABLE).expect("epoll takes it");
            Open { socket: Some(socket), reader: Reader::default(), accepted: false, received: 0 }
        });
        let open = open.collect();
        Self { shared, poll, open, lost: 0, times: Times::default() }
    }

    /// Until all that was sent has come; streams lost, events missing, and the times of the others.
    fn read(mut self) -> (usize, usize, Times) {
        let mut events = Events::with_capacity(1024);
        let mut ending: Option<Instant> = None;
        loop {
            match self.poll.poll(&mut events, Some(Duration::from_millis(20))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => panic!("epoll: {error}"),
                Ok(()) | Err(_) => {}
            }
            for event in &events {
                self.take(event.token().0);
            }
            if self.shared.sending.load(Ordering::SeqCst) > 0 {
                continue;
            }
            let since = *ending.get_or_insert_with(Instant::now);
            let missing =
                (0..STREAMS).map(|n| self.shared.sent[n].load(Ordering::SeqCst).saturating_sub(self.open[n].received));
            let missing = missing.sum();
            if missing == 0 || since.elapsed() > PATIENCE {
                return (self.lost, missing, self.times);
            }
        }
    }

    fn take(&mut self, n: usize) {
        let stream = &mut self.open[n];
        let Some(socket) = &mut stream.socket else { return };
        let mut scratch = [0; 16 * 1024];
        loop {
            match socket.read(&mut scratch) {
                Ok(count) if count > 0 => stream.reader.feed(&scratch[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {
                    stream.socket = None;
                    self.lost += 1;
                    break;
                }
            }
        }
        if stream.reader.status == Some(200) && !stream.accepted {
            stream.accepted = true;
            self.shared.open.fetch_add(1, Ordering::SeqCst);
        }
        while let Some(frame) = stream.reader.frame() {
            if frame == HEARTBEAT {
                continue;
            }
            let mut words = frame.strip_prefix("data: ").expect("an event").split_whitespace();
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
            assert_eq!(number(), stream.received as u64, "lost, twice, or out of order");
            stream.received += 1;
            self.times.add(self.shared.base + Duration::from_micros(number()), true);
        }
    }
}

/// An event a round to each of these streams, evenly spread.
fn send(shared: &Shared, tokens: &[(usize, String)]) -> Times {
    let mut times = Times::default();
    let mut client = Client::connect(shared.port);
    let start = Instant::now();
    for n in 0.. {
        let due = ROUND * n / tokens.len() as u32;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let (stream, token) = &tokens[n as usize % tokens.len()];
        let since = Instant::now();
        let data = format!("{} {}", shared.sent[*stream].load(Ordering::SeqCst), shared.base.elapsed().as_micros());
        let request = send_request(&serde_json::json!({"token": token, "event": {"data": data}}).to_string());
        let status = exchange(&mut client, &request).or_else(|| {
            // A kept connection may be closed between two requests; the second one is answered.
            client = Client::connect(shared.port);
            exchange(&mut client, &request)
        });
        if status == Some(200) {
            shared.sent[*stream].fetch_add(1, Ordering::SeqCst);
        }
        times.add(since, status == Some(200));
    }
    shared.sending.fetch_sub(1, Ordering::SeqCst);
    times
}

fn exchange(client: &mut Client, request: &str) -> Option<u16> {
    client.try_send(request).ok()?;
    client.try_response().map(|response| response.status)
}

/// A request each time on a new connection.
fn probe(shared: &Shared, port: u16) -> Times {
    let mut times = Times::default();
    while !shared.stop.load(Ordering::SeqCst) {
        let target = ["/healthz", "/readyz"][times.count % 2];
        let since = Instant::now();
        let status = exchange(&mut Client::connect(port), &get(target));
        times.add(since, status == Some(200));
        std::thread::sleep(PROBES);
    }
    times
}

/// Clients that connect, get their stream, and leave.
fn connect(shared: &Arc<Shared>, pace: Duration) {
    let mut clients = Vec::new();
    for n in 0.. {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        clients.push(spawn(shared, move |shared| {
            let since = Instant::now();
            let good = opens(shared.port, &format!("/new/{n}")).unwrap_or(false);
            shared.connects.lock().unwrap().add(since, good);
        }));
        std::thread::sleep(pace);
    }
    for client in clients {
        client.join().expect("a client");
    }
}

/// Whether a client gets a stream.
fn opens(port: u16, url: &str) -> std::io::Result<bool> {
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(CONNECT_PATIENCE))?;
    client.write_all(get(url).as_bytes())?;
    let mut status = [0; 12];
    client.read_exact(&mut status)?;
    Ok(status == *b"HTTP/1.1 200")
}

/// A server that only answers, one connection after the other; ends with the process.
fn idle_server() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut scratch = [0; 1024];
            if socket.read(&mut scratch).is_ok_and(|count| count > 0) {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    port
}
