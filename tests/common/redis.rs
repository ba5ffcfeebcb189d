//! A real redis-server on a port of its own, with whatever faults a test wants.

use super::{PATIENCE, Port, eventually, sys};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A running server; killed when dropped, its data removed.
pub(crate) struct Redis {
    child: Option<Child>,
    port: Port,
    directory: PathBuf,
    arguments: Vec<String>,
}

impl Redis {
    /// Without persistence.
    pub(crate) fn start() -> Self {
        Self::with(&["--appendonly", "no"])
    }

    /// With these arguments, or lines of its configuration.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ssegateway-redis-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Self { child: None, port: Port::reserve(), directory, arguments };
        redis.run();
        redis
    }

    /// Starts it, again.
    pub(crate) fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
        command.arg("--dir").arg(&self.directory).args(&self.arguments);
        let log = std::fs::File::create(self.directory.join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server, which is in Debian's package of that name"));
        let port = self.port.number;
        eventually("Redis listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok_and(|mut connection| {
                connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let mut answer = [0; 5];
                connection.write_all(b"PING\r\n").is_ok()
                    && connection.read_exact(&mut answer).is_ok()
                    && (&answer == b"+PONG" || answer.starts_with(b"-NOA"))
            })
        });
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Stops it without killing it: connections stay open, and nothing answers.
    pub(crate) fn pause(&self) {
        sys::signal(self.pid(), sys::SIGSTOP);
    }

    pub(crate) fn resume(&self) {
        sys::signal(self.pid(), sys::SIGCONT);
    }

    /// Kills it; what it has written to disk stays.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs a command by the inline protocol; the answer's first line, or the first line of its text.
    pub(crate) fn command(&self, command: &str) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port.number)).expect("Redis");
        connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        connection.write_all(format!("{command}\r\n").as_bytes()).expect("a command");
        let mut lines = BufReader::new(connection).lines();
        let mut line = lines.next().expect("an answer").expect("an answer");
        if line.starts_with('$') && line != "$-1" {
            line = lines.next().expect("a text").expect("a text");
        }
        line
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
