//! The real binary: spawned with only the environment that a test sets, awaited, and ended by its pid.

use super::{Backend, Client, PATIENCE, Port, Response, Stream, get, process, send_request, sys};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The program under test: the variable SSEGATEWAY may name another than cargo's build, such as one for another machine.
pub(crate) fn program() -> OsString {
    std::env::var_os("SSEGATEWAY").unwrap_or_else(|| env!("CARGO_BIN_EXE_ssegateway").into())
}

/// The result of a complete run.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the binary to its end with only these arguments and variables.
pub(crate) fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).env_clear().envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let status = wait(&mut child, PATIENCE);
    let output = Output { code: status.code(), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    assert!(!output.stderr.contains("panicked"), "{output:?}");
    output
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Waits for a child to exit; otherwise kills it and fails.
fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if start.elapsed() > patience {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the process did not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[derive(Default)]
struct Log {
    text: Mutex<String>,
    grew: Condvar,
}

/// Options for starting a gateway.
pub(crate) struct Builder {
    variables: Vec<(String, String)>,
    internal: bool,
    stderr: Option<std::io::PipeWriter>,
    shell: Option<String>,
}

impl Builder {
    /// Sets a variable, also to an empty value.
    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    /// Opens a second listener for `/internal/*`.
    pub(crate) fn internal_port(mut self) -> Self {
        self.internal = true;
        self
    }

    /// Uses this as the process's stderr; its log is then not captured.
    pub(crate) fn stderr(mut self, pipe: std::io::PipeWriter) -> Self {
        self.stderr = Some(pipe);
        self
    }

    /// Starts it under `ulimit` with these arguments.
    pub(crate) fn ulimit(self, arguments: &str) -> Self {
        self.shell(&format!("ulimit {arguments}"))
    }

    /// Starts it from a shell, after these commands; `$0` is the binary.
    pub(crate) fn shell(mut self, commands: &str) -> Self {
        self.shell = Some(format!("{commands} && exec \"$0\""));
        self
    }

    /// Starts the binary and waits until it listens.
    pub(crate) fn start(self) -> Gateway {
        let reserved = Port::reserve();
        let internal = self.internal.then(Port::reserve);
        let mut command = match &self.shell {
            None => Command::new(program()),
            Some(script) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(script).arg(program());
                shell
            }
        };
        command.env_clear().env("PORT", reserved.to_string());
        if let Some(internal) = &internal {
            command.env("INTERNAL_PORT", internal.to_string());
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let stderr = match &self.stderr {
            None => Stdio::piped(),
            Some(pipe) => pipe.try_clone().expect("a second descriptor").into(),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        sys::hear_hangups(&mut command);
        let mut child = command.spawn().expect("the binary starts");
        let log = Arc::new(Log::default());
        let follower = child.stderr.take().map(|pipe| follow(pipe, log.clone()));
        let mut gateway =
            Gateway { child, port: reserved.number, _reserved: reserved, internal, log, follower, ended: false };
        let start = Instant::now();
        loop {
            if gateway.child.try_wait().expect("wait").is_some() {
                gateway.exit_code();
                panic!("the gateway did not start");
            }
            if gateway.healthy() {
                return gateway;
            }
            assert!(start.elapsed() < PATIENCE, "the gateway never listened: {}", gateway.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn follow(pipe: impl Read + Send + 'static, log: Arc<Log>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            log.text.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            log.grew.notify_all();
            line.clear();
        }
    })
}

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub port: u16,
    _reserved: Port,
    internal: Option<Port>,
    log: Arc<Log>,
    follower: Option<JoinHandle<()>>,
    ended: bool,
}

impl Gateway {
    /// Without a callback URL.
    pub(crate) fn builder() -> Builder {
        let builder = Builder { variables: Vec::new(), internal: false, stderr: None, shell: None };
        builder.set("LISTEN_ADDRESS", "127.0.0.1")
    }

    pub(crate) fn for_backend(backend: &Backend) -> Builder {
        Self::builder().set("CALLBACK_URL", backend.url())
    }

    /// With defaults for everything but the ports.
    pub(crate) fn start(backend: &Backend) -> Self {
        Self::for_backend(backend).start()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where `/internal/*` is served.
    pub(crate) fn internal_port(&self) -> u16 {
        self.internal.as_ref().map_or(self.port, |port| port.number)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// One request on a connection of its own.
    pub(crate) fn request(&self, request: impl AsRef<[u8]>) -> Response {
        Client::open(self.port, request).response()
    }

    pub(crate) fn get(&self, target: &str) -> Response {
        self.request(get(target))
    }

    /// POSTs a body to `/internal/send`.
    pub(crate) fn send(&self, body: &str) -> Response {
        Client::open(self.internal_port(), send_request(body)).response()
    }

    /// Sends an unnamed event.
    pub(crate) fn event(&self, token: &str, data: &str) -> Response {
        self.send(&serde_json::json!({"token": token, "event": {"data": data}}).to_string())
    }

    pub(crate) fn close(&self, token: &str) -> Response {
        self.send(&format!(r#"{{"token":"{token}","close":true}}"#))
    }

    /// Opens a stream and reads its head.
    pub(crate) fn open(&self, target: &str) -> Stream {
        Stream::accept(Client::open(self.port, get(target)))
    }

    /// Opens a stream and takes its token from the connect callback.
    #[track_caller]
    pub(crate) fn open_with(&self, backend: &Backend, target: &str) -> (Stream, String) {
        let stream = self.open(target);
        (stream, backend.connect(target).token().to_owned())
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.text.lock().unwrap().clone()
    }

    /// Waits for a line that contains all of these and returns it.
    #[track_caller]
    pub(crate) fn log_line(&self, parts: &[&str]) -> String {
        let start = Instant::now();
        let mut text = self.log.text.lock().unwrap();
        loop {
            if let Some(line) = text.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.to_owned();
            }
            let Some(left) = PATIENCE.checked_sub(start.elapsed()) else {
                // Not under the lock, as dropping the gateway shows the log.
                drop(text);
                panic!("no {parts:?} in the log");
            };
            text = self.log.grew.wait_timeout(text, left.max(Duration::from_millis(1))).unwrap().0;
        }
    }

    pub(crate) fn signal(&self, signal: i32) {
        sys::signal(self.child.id(), signal);
    }

    /// Waits for the end; the exit status, `None` if a signal killed it.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let status = wait(&mut self.child, PATIENCE);
        self.ended = true;
        // The last lines may still be in the pipe.
        if let Some(follower) = self.follower.take() {
            follower.join().expect("the log is read to its end");
        }
        status.code()
    }

    /// Drains it. All disconnect callbacks are complete when this returns, so a missing one is lost.
    pub(crate) fn drain(&mut self) {
        self.signal(sys::SIGTERM);
        assert_eq!(self.exit_code(), Some(0), "a drain ends with 0: {}", self.log());
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Whether it serves; by then it listens on all its ports.
    fn healthy(&self) -> bool {
        // The default LISTEN_ADDRESS can also be reached over loopback.
        TcpStream::connect(("127.0.0.1", self.port)).is_ok() && self.get("/healthz").status == 200
    }

    /// Open descriptors of the process.
    pub(crate) fn descriptors(&self) -> usize {
        process::descriptors(self.child.id())
    }

    /// Descriptors that fit the kernel's table for the process, which only grows.
    pub(crate) fn descriptor_room(&self) -> usize {
        process::descriptor_room(self.child.id())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- log of the gateway\n{log}---");
        } else {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}
