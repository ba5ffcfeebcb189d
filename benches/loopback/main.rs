//! `make bench`: what the release binary costs and how fast it is, over loopback, as a backend and its clients see it.
//!
//! The gateway runs on one core, everything else on another. Processor time is the kernel's account of the gateway's
//! process; on loopback that includes most of the work for the receiver of each packet. Every event carries a stamp,
//! so that lost, duplicated and reordered ones are noticed. `docs/performance.md` says how to read the figures.

mod backend;
mod clients;
#[path = "../common/mod.rs"]
mod common;
mod groups;
mod histogram;
mod load;
mod machine;
mod picture;
mod reader;
mod report;
mod rows;
mod senders;
mod server;
mod stamp;
mod syscalls;

use histogram::Histogram;
use report::{Report, Row};
use rows::Bench;
use ssegateway::limits::Limits;
use ssegateway::sys::{self, Signals};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Descriptors in addition to those of the streams: the backends' connections, epoll, files.
const DESCRIPTORS_RESERVE: u64 = 256;

fn main() -> ExitCode {
    // Before any thread starts.
    match Signals::block().map_err(Box::from).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("bench: something was lost, duplicated or reordered");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A set of rows, all from one kind of run.
type Rows = fn(&mut Bench) -> std::io::Result<Vec<Row>>;

const PARTS: [(&str, Rows); 4] = [
    ("sending", rows::sending),
    ("holding", rows::holding),
    ("connecting", rows::connecting),
    ("groups", groups::groups),
];

fn run(signals: Signals) -> Result<bool, Box<dyn Error>> {
    let program = setting("BENCH_SERVER").map_or_else(|| env!("CARGO_BIN_EXE_ssegateway").into(), PathBuf::from);
    let runs: usize = setting("BENCH_RUNS").map_or(Ok(1), |runs| runs.parse())?;
    let only = setting("BENCH_ONLY");
    let descriptors = sys::raise_descriptor_limit()?;
    // The gateway raises its limit as well.
    let streams_max = Limits::from_descriptors(descriptors, 128, None, false)?.streams_max;
    let streams_max = streams_max.min(descriptors.saturating_sub(DESCRIPTORS_RESERVE) as usize);
    if streams_max < rows::MANY_STREAMS {
        println!("The descriptor limit (ulimit -n) is {descriptors}: no more than {streams_max} streams.\n");
    }
    let cores = machine::pin_load();
    let full = setting("BENCH_FULL").is_some();
    let mut bench = Bench { program, cores, signals, full, streams_max, latency: Histogram::default() };
    let setup = machine::describe(&bench.program, cores);
    println!("{setup}\n");

    if std::env::args().nth(1).as_deref() == Some("system-calls") {
        println!("{}", rows::system_calls(&mut bench)?);
        return Ok(true);
    }
    let parts: Vec<_> = PARTS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)).collect();
    if parts.is_empty() {
        return Err("ONLY is one of sending, holding, connecting, groups".into());
    }
    let mut all = Vec::new();
    for number in 1..=runs {
        let mut rows = Vec::new();
        for (name, part) in &parts {
            eprintln!("{name} (run {number} of {runs})");
            rows.extend(part(&mut bench)?);
        }
        all.push(rows);
    }
    let report = Report::new(all);
    let table = report.table();
    println!("\n{table}");

    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    fs::create_dir_all(&directory)?;
    let mut text = format!("{setup}\n\n{table}");
    if bench.latency.total() > 0 {
        fs::write(directory.join("latency.svg"), picture::draw(&bench.latency))?;
        text += "\n![Latency at 2,000 events a second](latency.svg)\n";
    }
    fs::write(directory.join("report.md"), text)?;
    println!("This is also in {}.", directory.join("report.md").display());
    Ok(report.is_clean())
}
