//! System calls of the gateway, counted by strace.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For strace to end: it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Tracer(Child);

impl Tracer {
    /// Starts counting the calls of that process.
    ///
    /// # Errors
    ///
    /// strace is missing or not permitted to trace.
    pub(crate) fn attach(pid: u32) -> io::Result<Self> {
        let pid = pid.to_string();
        let child = Command::new("strace")
            .args(["-f", "-c", "-U", "calls,name", "-p", &pid])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("strace does not start: {error}")))?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(Self(child))
    }

    /// Stops counting and returns the calls by name.
    ///
    /// # Errors
    ///
    /// strace counted nothing; the error has its output.
    pub(crate) fn detach(mut self) -> io::Result<BTreeMap<String, u64>> {
        // SIGPIPE makes it detach, print its summary and exit, as SIGTERM and SIGHUP would: but those are blocked in every
        // child of this program.
        Command::new("kill").args(["-PIPE", &self.0.id().to_string()]).status()?;
        let start = Instant::now();
        while self.0.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other("strace does not end"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // A summary of one process fits into the pipe.
        let mut text = String::new();
        if let Some(mut pipe) = self.0.stderr.take() {
            pipe.read_to_string(&mut text)?;
        }
        let mut calls = BTreeMap::new();
        for line in text.lines() {
            if let [number, name] = line.split_whitespace().collect::<Vec<_>>()[..]
                && let Ok(number) = number.parse()
                && name != "total"
            {
                calls.insert(name.to_owned(), number);
            }
        }
        if calls.is_empty() { Err(io::Error::other(format!("strace counted nothing:\n{text}"))) } else { Ok(calls) }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One column for each (depth, events, calls).
pub(crate) fn table(columns: &[(usize, u64, BTreeMap<String, u64>)]) -> String {
    let mut table = "| system calls per event".to_owned();
    for (depth, ..) in columns {
        table += &if *depth == 1 { " | request by request".to_owned() } else { format!(" | {depth} pipelined") };
    }
    table += &format!(" |\n|---{}|\n", "|---:".repeat(columns.len()));
    let names: BTreeSet<&String> = columns.iter().flat_map(|(.., calls)| calls.keys()).collect();
    for name in names {
        let each = columns
            .iter()
            .map(|(_, events, calls)| calls.get(name).copied().unwrap_or(0) as f64 / (*events).max(1) as f64);
        // The others are a few calls in the whole run.
        if each.clone().any(|each| each >= 0.001) {
            let cells: String = each.map(|each| format!(" | {each:.3}")).collect();
            table += &format!("| {name}{cells} |\n");
        }
    }
    table
}
