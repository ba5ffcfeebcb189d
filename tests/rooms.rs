//! The layers of the crate (see its documentation): pure rooms name nothing impure, and no room
//! imports from one below it.

use std::fs;
use std::path::{Path, PathBuf};

/// Bottom to top; the rooms of one line may import from each other.
const ROOMS: [&[&str]; 9] = [
    &["clock", "table", "timer", "buffer", "escape", "secret", "metrics"],
    &["http", "sse", "json"],
    &["send"],
    &["callback"],
    &["job", "hub"],
    &["gateway"],
    &["limits", "sys", "config", "logger", "process", "notify"],
    &["workers", "reactor"],
    &["serve", "cli", "healthcheck"],
];

/// Rooms that a simulation or a fuzzer must be able to run, and what none of them may name.
const PURE: [&str; 14] = [
    "clock", "table", "timer", "buffer", "escape", "secret", "metrics", "http", "sse", "json", "send", "callback",
    "job", "hub",
];
const IMPURE: [&str; 9] =
    ["std::net", "std::thread", "std::env", "std::fs", "Instant", "SystemTime::now", "mio::", "ureq", "libc"];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flat_map(|entry| sources(&entry.expect("a directory entry").path())).collect()
}

/// The code of a room, without comments and without its unit tests.
fn code(room: &str) -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = [sources(&src.join(room)), sources(&src.join(format!("{room}.rs")))].concat();
    assert!(!files.is_empty(), "no room {room}");
    files
        .into_iter()
        .filter(|file| !file.ends_with("tests.rs"))
        .map(|file| {
            let text = fs::read_to_string(&file).expect("a readable source");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            (file, lines.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

#[test]
fn pure_rooms_name_nothing_impure() {
    for room in PURE.iter().chain(&["gateway"]) {
        for (file, code) in code(room) {
            for word in IMPURE {
                assert!(!code.contains(word), "{} names {word}", file.display());
            }
        }
    }
}

#[test]
fn no_room_imports_from_one_below_it_in_the_table() {
    for (level, rooms) in ROOMS.iter().enumerate() {
        for room in *rooms {
            for (file, code) in code(room) {
                for later in ROOMS[level + 1..].iter().flat_map(|rooms| rooms.iter()) {
                    let import = format!("crate::{later}");
                    assert!(!code.contains(&import), "{} imports {import}", file.display());
                }
            }
        }
    }
}

#[test]
fn every_room_is_in_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).expect("the sources") {
        let name = entry.expect("a directory entry").file_name().into_string().expect("a plain name");
        let room = name.trim_end_matches(".rs");
        let known = ROOMS.iter().any(|rooms| rooms.contains(&room)) || ["lib", "main"].contains(&room);
        assert!(known, "{room} is missing from the table");
    }
}
