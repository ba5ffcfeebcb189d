//! The gateway under test: the real binary in a process of its own, and its resource usage.

use super::common::sys;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_secs(10);
/// A port that was free a moment ago may be taken by now.
const PORT_ATTEMPTS: usize = 5;

pub(crate) struct Server {
    child: Child,
    pub address: SocketAddr,
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub resident: usize,
    /// The private dirty part of it: heap and stacks, not the program's text.
    pub private: usize,
}

impl Server {
    /// Starts it on the given core, with that many seconds between heartbeats; returns once it listens.
    ///
    /// # Errors
    ///
    /// It does not start, or does not listen in time.
    pub(crate) fn start(program: &Path, backend: SocketAddr, core: Option<usize>, heartbeat: u64) -> io::Result<Self> {
        for _ in 0..PORT_ATTEMPTS {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let mut command = match core {
                Some(core) => {
                    let mut taskset = Command::new("taskset");
                    taskset.arg("-c").arg(core.to_string()).arg(program);
                    taskset
                }
                None => Command::new(program),
            };
            command.env_clear();
            command.env("CALLBACK_URL", format!("http://{backend}/callback"));
            command.env("LISTEN_ADDRESS", address.ip().to_string());
            command.env("PORT", address.port().to_string());
            command.env("HEARTBEAT_INTERVAL_SECONDS", heartbeat.to_string());
            // The log is written as usual, but discarded.
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut server = Self { child: command.spawn()?, address };
            if server.wait_until_it_listens()? {
                return Ok(server);
            }
        }
        Err(io::Error::other(format!("{} exits at once", program.display())))
    }

    fn wait_until_it_listens(&mut self) -> io::Result<bool> {
        let start = Instant::now();
        while start.elapsed() < START_TIMEOUT {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(io::Error::other("the gateway does not listen"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time used so far, in user and kernel mode.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub(crate) fn processor_time(&self) -> io::Result<Duration> {
        sys::process_time(self.pid())
    }

    /// # Errors
    ///
    /// The process has ended.
    pub(crate) fn memory(&self) -> io::Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()))?;
        Ok(Memory { resident: field(&text, "Rss:"), private: field(&text, "Private_Dirty:") })
    }

    /// The highest resident memory so far.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub(crate) fn memory_peak(&self) -> io::Result<usize> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        Ok(field(&text, "VmHWM:"))
    }
}

/// A field of proc(5) in KiB, converted to bytes.
fn field(text: &str, name: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) * 1024
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
