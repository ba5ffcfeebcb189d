//! The machine the benchmark runs on.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Keeps this process, and the threads that it starts from now on, on one core; returns the gateway's core and this
/// one. `None`: there is but one core, or no taskset.
pub(crate) fn pin_load() -> Option<(usize, usize)> {
    let allowed = allowed_cores();
    // Far apart, as neighbours may be two halves of one core.
    let (server, load) = (*allowed.first()?, *allowed.last()?);
    let arguments = ["-c", "-p", &load.to_string(), &std::process::id().to_string()].map(str::to_owned);
    let taskset = Command::new("taskset").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    (server != load && taskset.is_ok_and(|status| status.success())).then_some((server, load))
}

/// The cores that this process may use, from a list as `0-3,8`.
fn allowed_cores() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// One line on machine and binary.
pub(crate) fn describe(program: &Path, cores: Option<(usize, usize)>) -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processors = information.lines().filter(|line| line.starts_with("processor")).count();
    let model = information.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let pinned = match cores {
        Some((server, load)) => format!("gateway on core {server}, load on core {load}"),
        None => "nothing pinned to a core, so the figures vary".to_owned(),
    };
    let version = Command::new(program).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    let version = version.lines().next().unwrap_or_default();
    format!("{version}, {processors} x {model}, Linux {}, {pinned}", kernel.trim())
}
