//! A scripted backend that records every callback.

use super::{PATIENCE, Port, sys};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One callback, in full.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub method: String,
    pub target: String,
    /// In the order and case received.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The decoded body; null if it is not JSON.
    pub json: Value,
    /// The number of the TCP connection to this backend, from 0.
    pub connection: usize,
    /// The number of the call on that connection, from 0.
    pub ordinal: usize,
    pub at: Instant,
}

impl Call {
    fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    pub(crate) fn action(&self) -> &str {
        self.text("action")
    }

    pub(crate) fn token(&self) -> &str {
        self.text("token")
    }

    pub(crate) fn reason(&self) -> &str {
        self.text("reason")
    }

    pub(crate) fn url(&self) -> &str {
        self.json["request"]["url"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn detail(&self) -> Option<&str> {
        self.header("SSEGateway-Detail")
    }
}

/// A gate that a test opens and others wait for.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Whether it opened in time.
    pub(crate) fn wait(&self) -> bool {
        let open = self.0.0.lock().unwrap();
        let (open, _) = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        *open
    }
}

/// A part of an answer.
#[derive(Clone)]
pub(crate) enum Step {
    Write(Vec<u8>),
    Wait(Gate),
    /// Waits this long; the fault is the timing of the next step.
    Pause(Duration),
    /// Writes this repeatedly, 20 ms apart, until the gateway closes.
    Drip(&'static [u8]),
    /// Writes nothing more until the gateway closes.
    Hang,
    Close,
    Reset,
}

/// What the backend does with a callback. Unless a step says otherwise the connection is kept alive.
#[derive(Clone)]
pub(crate) struct Answer(Vec<Step>);

impl Answer {
    /// A complete response.
    pub(crate) fn new(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        Self::raw(text)
    }

    pub(crate) fn ok() -> Self {
        Self::new(200, &[], "")
    }

    /// 200 with this body.
    pub(crate) fn json(body: &str) -> Self {
        Self::new(200, &[("Content-Type", "application/json")], body)
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::new(status, &[], "")
    }

    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Write(bytes.into())])
    }

    /// No answer at all.
    pub(crate) fn silence() -> Self {
        Self(vec![Step::Hang])
    }

    pub(crate) fn close() -> Self {
        Self(vec![Step::Close])
    }

    pub(crate) fn reset() -> Self {
        Self(vec![Step::Reset])
    }

    /// The same, when the gate opens.
    pub(crate) fn after(mut self, gate: &Gate) -> Self {
        self.0.insert(0, Step::Wait(gate.clone()));
        self
    }

    /// The same, after a delay.
    pub(crate) fn delayed(mut self, time: Duration) -> Self {
        self.0.insert(0, Step::Pause(time));
        self
    }

    pub(crate) fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

type Handler = dyn Fn(&Call) -> Answer + Send + Sync;

struct Shared {
    /// Every call, and whether the test has taken it.
    calls: Mutex<Vec<(Call, bool)>>,
    arrived: Condvar,
    connections: AtomicUsize,
    /// By number of the connection.
    sockets: Mutex<Vec<(usize, TcpStream)>>,
    /// Whether calls are recorded for the test.
    records: bool,
    stopped: AtomicBool,
    handler: Box<Handler>,
}

/// A running backend; it stops when dropped.
pub(crate) struct Backend {
    shared: Arc<Shared>,
    address: Ipv4Addr,
    pub port: Port,
    threads: Threads,
    acceptors: Mutex<Vec<JoinHandle<()>>>,
}

/// How connections are served.
#[derive(Clone, Copy)]
enum Threads {
    PerConnection,
    /// One request on each connection.
    Workers(usize),
}

impl Backend {
    /// A thread per connection, keep-alive.
    pub(crate) fn new(handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Port::reserve(), Threads::PerConnection, true, handler)
    }

    /// The same, but without recording its calls: for runs with very many.
    pub(crate) fn forgetful(handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Port::reserve(), Threads::PerConnection, false, handler)
    }

    /// Answers everything with an empty 200.
    pub(crate) fn accepting() -> Self {
        Self::new(|_| Answer::ok())
    }

    /// Connects get this answer, disconnects an empty 200.
    pub(crate) fn connecting(answer: Answer) -> Self {
        Self::new(move |call| if call.action() == "connect" { answer.clone() } else { Answer::ok() })
    }

    /// One connection at a time and one request on each, like Python's `http.server.HTTPServer`.
    pub(crate) fn single_threaded(handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_workers(1, handler)
    }

    /// That many at a time, like gunicorn with synchronous workers: further connections wait in the backlog.
    pub(crate) fn with_workers(count: usize, handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Port::reserve(), Threads::Workers(count), true, handler)
    }

    /// On a given port, for a backend that restarts.
    pub(crate) fn on_port(port: Port, handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(port, Threads::PerConnection, true, handler)
    }

    /// On the same port of another address of this machine, for a backend that moves; its calls are not recorded.
    pub(crate) fn elsewhere(port: &Port, handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at(Ipv4Addr::new(127, 0, 0, 2), port.clone(), Threads::PerConnection, false, handler)
    }

    fn start(
        port: Port,
        threads: Threads,
        records: bool,
        handler: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, port, threads, records, handler)
    }

    fn start_at(
        address: Ipv4Addr,
        port: Port,
        threads: Threads,
        records: bool,
        handler: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, port.number)).expect("a port for the backend");
        sys::listen_for_many(&listener);
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            arrived: Condvar::new(),
            connections: AtomicUsize::new(0),
            sockets: Mutex::default(),
            records,
            stopped: AtomicBool::new(false),
            handler: Box::new(handler),
        });
        let acceptors = match threads {
            Threads::PerConnection => 1,
            Threads::Workers(count) => count,
        };
        let acceptors = (0..acceptors).map(|_| {
            let (listener, served) = (listener.try_clone().expect("another descriptor"), shared.clone());
            std::thread::spawn(move || served.accept(&listener, threads))
        });
        let acceptors = Mutex::new(acceptors.collect());
        Self { shared, address, port, threads, acceptors }
    }

    /// The callback URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}/callback", self.address, self.port)
    }

    /// Waits for a matching call and takes it; a call is taken once.
    #[track_caller]
    pub(crate) fn take(&self, what: &str, fits: impl Fn(&Call) -> bool) -> Call {
        let start = Instant::now();
        let mut calls = self.shared.calls.lock().unwrap();
        loop {
            if let Some((call, taken)) = calls.iter_mut().find(|(call, taken)| !taken && fits(call)) {
                *taken = true;
                return call.clone();
            }
            let left = PATIENCE.checked_sub(start.elapsed()).unwrap_or_else(|| panic!("no {what}; calls: {calls:#?}"));
            calls = self.shared.arrived.wait_timeout(calls, left.max(Duration::from_millis(1))).unwrap().0;
        }
    }

    /// The connect callback for a URL.
    #[track_caller]
    pub(crate) fn connect(&self, url: &str) -> Call {
        self.take(&format!("connect of {url}"), |call| call.action() == "connect" && call.url() == url)
    }

    /// The disconnect callback for a token.
    #[track_caller]
    pub(crate) fn disconnect(&self, token: &str) -> Call {
        self.take(&format!("disconnect of {token}"), |call| call.action() == "disconnect" && call.token() == token)
    }

    /// Every call so far, taken or not.
    pub(crate) fn history(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().iter().map(|(call, _)| call.clone()).collect()
    }

    /// The calls so far with this action.
    pub(crate) fn count(&self, action: &str) -> usize {
        self.history().iter().filter(|call| call.action() == action).count()
    }

    /// TCP connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Closes the listener and every connection.
    pub(crate) fn stop(self) {}

    /// The same, but keeps the recorded calls.
    pub(crate) fn shut(&self) {
        if self.shared.stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        for (_, socket) in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let acceptors = std::mem::take(&mut *self.acceptors.lock().unwrap());
        for acceptor in acceptors {
            // Wake one of them, so that it sees the flag and drops its listener.
            let _ = TcpStream::connect((self.address, self.port.number));
            // A worker may be in the middle of a call; do not wait for it.
            if let Threads::PerConnection = self.threads {
                let _ = acceptor.join();
            }
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Shared {
    /// Otherwise the clone kept for `stop` would hold the socket open.
    fn forget(&self, connection: usize) {
        self.sockets.lock().unwrap().retain(|(kept, _)| *kept != connection);
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, threads: Threads) {
        for socket in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(socket) = socket else { continue };
            let connection = self.connections.fetch_add(1, Ordering::SeqCst);
            if let Ok(socket) = socket.try_clone() {
                self.sockets.lock().unwrap().push((connection, socket));
            }
            match threads {
                Threads::Workers(_) => {
                    self.serve(socket, connection, true);
                    self.forget(connection);
                }
                Threads::PerConnection => {
                    let shared = self.clone();
                    std::thread::spawn(move || {
                        shared.serve(socket, connection, false);
                        shared.forget(connection);
                    });
                }
            }
        }
    }

    fn serve(&self, mut socket: TcpStream, connection: usize, single: bool) {
        let _ = socket.set_nodelay(true);
        let mut buffer = Vec::new();
        for ordinal in 0.. {
            let Some(call) = read_call(&mut socket, &mut buffer, connection, ordinal) else { return };
            if self.records {
                self.calls.lock().unwrap().push((call.clone(), false));
                self.arrived.notify_all();
            }
            for step in (self.handler)(&call).0 {
                let done = match step {
                    Step::Write(bytes) => socket.write_all(&bytes).is_ok(),
                    Step::Wait(gate) => gate.wait(),
                    Step::Pause(time) => {
                        std::thread::sleep(time);
                        true
                    }
                    Step::Drip(bytes) => {
                        while socket.write_all(bytes).is_ok() && !self.stopped.load(Ordering::SeqCst) {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        false
                    }
                    Step::Hang => {
                        while socket.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
                        false
                    }
                    Step::Close => {
                        let _ = socket.shutdown(Shutdown::Both);
                        false
                    }
                    Step::Reset => {
                        sys::reset_on_close(&socket);
                        self.forget(connection);
                        false
                    }
                };
                if !done {
                    return;
                }
            }
            if single {
                let _ = socket.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// Reads one request with a declared length; `None` at the end of the connection.
fn read_call(socket: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize, ordinal: usize) -> Option<Call> {
    let head_length = loop {
        if let Some(start) = super::find(buffer, b"\r\n\r\n") {
            break start + 4;
        }
        read_some(socket, buffer)?;
    };
    let head = String::from_utf8(buffer.drain(..head_length).collect()).expect("callback heads are ASCII");
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    assert_eq!(words.next().as_deref(), Some("HTTP/1.1"));
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').expect("a colon"))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|(_, value)| value.parse().expect("a decimal length"));
    let length: usize = length.or((method == "OPTIONS").then_some(0)).expect("callbacks declare their length");
    while buffer.len() < length {
        read_some(socket, buffer)?;
    }
    let body: Vec<u8> = buffer.drain(..length).collect();
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some(Call { method, target, headers, body, json, connection, ordinal, at: Instant::now() })
}

fn read_some(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut scratch = [0; 16 * 1024];
    let count = socket.read(&mut scratch).ok().filter(|count| *count > 0)?;
    buffer.extend_from_slice(&scratch[..count]);
    Some(())
}
