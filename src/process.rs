//! Figures of this process for the metrics, from proc(5), read once per scrape. A figure that the kernel or the container
//! does not provide is left out.

use crate::gateway::ProcessFigures;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// Clock ticks in `/proc/self/stat` (`USER_HZ`, time(7)): the same on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// The current figures of this process, which started at `started_at`.
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

/// User and system time: the twelfth and thirteenth field after the name, which is in parentheses and can itself
/// contain spaces and parentheses.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number after `name` at the start of a line.
#[inline(never)]
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Since Linux 6.2 the size of the directory is the number of descriptors; before that, they must be counted.
fn descriptors() -> Option<u64> {
    const DIRECTORY: &str = "/proc/self/fd";
    match fs::metadata(DIRECTORY).ok()?.size() {
        // Without the one that reads the directory.
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
