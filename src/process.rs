//! What the kernel knows of this process, for the metrics (proc(5)). Read only when somebody asks; what a
//! kernel or a container without `/proc` does not tell is left out.

use crate::gateway::ProcessFigures;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// Ticks a second in `/proc/self/stat`: a constant of Linux's interface to programs.
const TICKS_PER_SECOND: u64 = 100;

/// The figures now, for a process that started at `started_at`.
pub fn figures(started_at: SystemTime) -> ProcessFigures {
    let status = read("/proc/self/status");
    ProcessFigures {
        cpu: cpu(&read("/proc/self/stat")),
        resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
        virtual_bytes: field(&status, "VmSize:").map(|kib| kib * 1024),
        threads: field(&status, "Threads:"),
        descriptors: descriptors(),
        descriptors_max: field(&read("/proc/self/limits"), "Max open files"),
        started_at: started_at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs()),
    }
}

/// User and system time: the twelfth and thirteenth field behind the name, which stands in parentheses and may
/// hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number behind that name at the start of a line.
#[inline(never)]
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// From Linux 6.2 on the directory's size is the number of descriptors; before, they must be counted.
fn descriptors() -> Option<u64> {
    const DIRECTORY: &str = "/proc/self/fd";
    match fs::metadata(DIRECTORY).ok()?.size() {
        // The one that the counting itself takes does not count.
        0 => Some(fs::read_dir(DIRECTORY).ok()?.count().saturating_sub(1) as u64),
        size => Some(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_this_process() {
        let figures = figures(SystemTime::now());
        assert!(figures.cpu.is_some());
        assert!(figures.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(figures.virtual_bytes > figures.resident_bytes);
        assert!(figures.threads.is_some_and(|threads| threads >= 1));
        assert!(figures.descriptors.is_some_and(|descriptors| descriptors >= 3));
        assert!(figures.descriptors_max > figures.descriptors);
        assert!(figures.started_at.is_some_and(|at| at > 1_700_000_000));
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 1 0 9 0 0";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1_750)));
        assert_eq!(cpu(""), None);
        assert_eq!(cpu("7 (a"), None);
    }
}
