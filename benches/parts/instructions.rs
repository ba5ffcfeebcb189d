//! Instructions counted by callgrind: this program runs itself under it, once per case.

use super::cases::CASES;
use std::path::Path;
use std::process::Command;

const CALLS: usize = 500;
/// Warm-up before counting, so that buffers have grown, code is loaded, and hints have been looked for.
const CALLS_BEFORE: usize = 300;

/// The case's calls; only these are counted.
#[inline(never)]
fn counted_calls(work: &mut dyn FnMut()) {
    for _ in 0..CALLS {
        work();
    }
}

pub(crate) fn work(index: Option<usize>) {
    let case = &CASES[index.expect("the number of a case")];
    let mut work = (case.prepare)();
    for _ in 0..CALLS_BEFORE {
        work();
    }
    counted_calls(&mut work);
}

pub(crate) fn print_table() {
    println!("| | instructions |\n|---|---:|");
    for (index, case) in CASES.iter().enumerate() {
        let instructions = count(index) / (CALLS * case.pieces);
        let each = if case.pieces > 1 { ", each" } else { "" };
        println!("| {case}{each} | {instructions} |");
    }
}

fn count(index: usize) -> usize {
    let program = std::env::current_exe().expect("the path of this program");
    let details = program.with_file_name(format!("callgrind.{index}.out"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counted_calls*"])
        .arg(format!("--callgrind-out-file={}", details.display()))
        .arg(&program)
        .args(["instructions-of", &index.to_string()])
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => fail(&format!("valgrind did not start: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    match line.and_then(|(_, count)| count.trim().parse().ok()) {
        Some(count) => count,
        None => fail(&format!("valgrind counted nothing in {}:\n{text}", Path::new(&program).display())),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1);
}
