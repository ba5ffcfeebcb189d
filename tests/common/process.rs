//! Resource usage of a process (proc(5)).

use std::time::Duration;

/// The unit of processor time on every Linux (`USER_HZ`, times(2)).
const TICK: Duration = Duration::from_millis(10);

fn status(pid: u32, field: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find(|line| line.split(':').next() == Some(field)).expect("a field of proc(5)");
    line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).expect("a number")
}

/// Resident memory in KiB.
pub(crate) fn rss_kib(pid: u32) -> usize {
    status(pid, "VmRSS")
}

/// Peak resident memory in KiB.
pub(crate) fn peak_rss_kib(pid: u32) -> usize {
    status(pid, "VmHWM")
}

/// Descriptors that fit the kernel's table for the process.
pub(crate) fn descriptor_room(pid: u32) -> usize {
    status(pid, "FDSize")
}

/// Address space in KiB.
pub(crate) fn virtual_kib(pid: u32) -> usize {
    status(pid, "VmSize")
}

/// The main thread's state, as in proc(5): `S` asleep, `T` stopped, `R` running.
pub(crate) fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process that lives");
    let (_, rest) = stat.rsplit_once(") ").expect("a state after the name");
    rest.chars().next().expect("a state")
}

pub(crate) fn threads(pid: u32) -> usize {
    status(pid, "Threads")
}

/// Open descriptors; 0 if the process is gone.
pub(crate) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// How long the main thread has been ready to run and waited for a processor so far; zero if the kernel does not count it.
pub(crate) fn waited(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or_default())
}

/// User and system time used so far, all threads.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name in brackets may contain anything; fields 14 and 15 are counted from its end.
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |field: usize| fields[field - 3].parse::<u32>().expect("a number");
    TICK * (ticks(14) + ticks(15))
}
