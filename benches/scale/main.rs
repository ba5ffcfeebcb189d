//! `make bench-scale`: the cost of a stream, an event, a heartbeat and a connect with a thousand to a million streams.
//!
//! The event loop and the protocol run on a kernel that costs nothing (`net.rs`), so growth with the number of streams
//! is visible: memory, time for each piece of work, and the longest turn of the loop, during which everything else
//! waits. Time is this thread's processor time: a busy machine does not lengthen a turn.

#[path = "../common/mod.rs"]
mod common;
mod net;
mod world;

use common::allocator::{self, Counting};
use common::text::count;
use std::process::Command;
use world::{Turns, World};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const EVENTS: usize = 320_000;
/// Sends to a group of all streams.
const SENDS_TO_ALL: usize = 16;

fn main() {
    let argument = std::env::args().nth(1).and_then(|argument| argument.parse().ok());
    match argument {
        Some(streams) => measure(streams),
        None => print_table(),
    }
}

/// One process for each size, so that none inherits another's heap.
fn print_table() {
    let program = std::env::current_exe().expect("the path of this program");
    let mut table = String::new();
    for streams in SIZES {
        let output = Command::new(&program).arg(streams.to_string()).output().expect("this program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let column = String::from_utf8(output.stdout).expect("text");
        if table.is_empty() {
            // The first column also gives the row names.
            table = "|\n|---\n".to_owned() + &column.lines().map(|line| before_tab(line) + "\n").collect::<String>();
        }
        let cells = [format!(" | {} streams", count(streams as u64)), "|---:".to_owned()]
            .into_iter()
            .chain(column.lines().map(|line| format!(" | {}", line.split('\t').nth(1).unwrap_or_default())));
        table = table.lines().zip(cells).map(|(line, cell)| format!("{line}{cell}\n")).collect();
    }
    print!("{}", table.lines().map(|line| format!("{line} |\n")).collect::<String>().replace("---: |", "---:|"));
}

fn before_tab(line: &str) -> String {
    format!("| {}", line.split('\t').next().unwrap_or_default())
}

/// Measures every operation with that many streams.
fn measure(streams: usize) {
    let mut world = World::new(streams);
    let (start, resident) = (allocator::bytes_in_use(), resident_bytes());

    world.open(streams);
    let connects = world.take_turns();
    let bytes = (allocator::bytes_in_use() - start) / streams;
    let text = world.request_bytes();
    row("memory per stream, bytes", bytes);
    row("of which the text of the client's request", text);
    row("resident, bytes per stream", resident_bytes().saturating_sub(resident) / streams);

    world.send(streams, EVENTS / 4);
    world.take_turns();
    world.send(streams, EVENTS);
    let sends = world.take_turns();
    row("CPU per event, ns", sends.nanoseconds_each(EVENTS));

    let beats = world.beat();
    let ticks = world.take_turns();
    row("CPU per heartbeat, ns", ticks.nanoseconds_each(beats));
    row("heartbeats per turn", beats / ticks.count);

    allocator::forget_peak();
    let before = allocator::bytes_in_use();
    let pause = world.pause();
    let pause_bytes = allocator::bytes_at_peak() - before;

    world.leave();
    let leaving = world.take_turns();
    row("CPU per connect, µs", micro(connects.nanoseconds_each(streams)));
    row("CPU per disconnect, µs", micro(leaving.nanoseconds_each(streams)));
    world.rest();
    let release = world.take_turns();

    world.open(streams);
    world.take_turns();
    allocator::forget_peak();
    let before = allocator::bytes_in_use();
    world.drain();
    let drain = world.take_turns();
    let drain_bytes = allocator::bytes_at_peak() - before;

    let audience = measure_audience(streams);
    let (per_membership, per_event) = measure_groups(streams, bytes);
    row("CPU per delivery of a send to all, ns", audience.nanoseconds_each(SENDS_TO_ALL * streams));
    row("memory per membership in a group of its own, bytes", per_membership);
    row("memory per kept event of 100 bytes, the group included, bytes", per_event);
    row("longest turn, ms: sends to a group of all", longest(audience));
    row("longest turn, ms: connecting", longest(connects));
    row("longest turn, ms: sending", longest(sends));
    row("longest turn, ms: heartbeats, evenly spread", longest(ticks));
    row("longest turn, ms: all heartbeats at once, after a pause", longest(pause));
    row("longest turn, ms: all leave at once", longest(leaving));
    row("longest turn, ms: releasing memory", longest(release));
    row("longest turn, ms: shutdown", longest(drain));
    row("temporary memory, kB: all heartbeats at once", pause_bytes / 1000);
    row("temporary memory, kB: shutdown", drain_bytes / 1000);
}

/// All streams in one group: sends to it.
fn measure_audience(streams: usize) -> Turns {
    let mut world = World::new(streams);
    world.answer_by(|_| r#"{"groups":["all"]}"#.to_owned());
    world.open(streams);
    world.publish(streams, ["all".to_owned()]);
    world.take_turns();
    let writes = world.publish(streams, std::iter::repeat_n("all".to_owned(), SENDS_TO_ALL));
    assert!(writes >= streams, "all are written to: {writes}");
    world.take_turns()
}

/// Each stream in a group of its own: bytes per membership, group included, and per event kept. `plain`: bytes of a
/// stream in none.
fn measure_groups(streams: usize, plain: usize) -> (usize, usize) {
    let mut world = World::new(streams);
    let start = allocator::bytes_in_use();
    world.answer_by(|n| format!(r#"{{"groups":["user:{n}"]}}"#));
    world.open(streams);
    let members = allocator::bytes_in_use() - start;
    world.publish(streams, (0..streams).map(|n| format!("user:{n}")));
    let kept = allocator::bytes_in_use() - start - members;
    (members / streams - plain, kept / streams)
}

fn row(name: &str, value: impl Cell) {
    println!("{name}\t{}", value.text());
}

trait Cell {
    fn text(self) -> String;
}

impl Cell for String {
    fn text(self) -> String {
        self
    }
}

impl Cell for usize {
    fn text(self) -> String {
        count(self as u64)
    }
}

impl Cell for f64 {
    fn text(self) -> String {
        count(self.round() as u64)
    }
}

fn longest(turns: Turns) -> String {
    let milliseconds = turns.longest.as_secs_f64() * 1e3;
    if milliseconds < 10.0 { format!("{milliseconds:.2}") } else { format!("{milliseconds:.0}") }
}

fn micro(nanoseconds: f64) -> String {
    format!("{:.2}", nanoseconds / 1e3)
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) * 1024
}
