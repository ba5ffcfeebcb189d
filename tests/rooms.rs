//! The layers of the crate (see its documentation): a module imports only from those above it in the table, and so do
//! the files within a module, calls to methods included. Pure modules name nothing impure.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules; each imports only from those before it, and those on one line may import from each other.
const MODULES: [&[&str]; 16] = [
    &["clock", "planted", "cursor"],
    &["table", "escape", "flood", "secret"],
    &["timer", "buffer", "metrics"],
    &["http", "sse", "json"],
    &["send"],
    &["callback"],
    &["job"],
    &["redis"],
    &["hub", "engine"],
    &["gateway"],
    &["sys"],
    &["limits", "cgroup", "logger"],
    &["config"],
    &["process", "notify"],
    &["workers", "reactor"],
    &["healthcheck", "serve", "cli"],
];

/// The files of the modules that are folders, in the same order.
const FILES: [(&str, &[&str]); 14] = [
    ("http", &["grammar", "host", "fields", "request", "body", "unread", "response", "mod"]),
    ("sse", &["reader", "mod"]),
    ("json", &["unescape", "value", "scan", "mod"]),
    ("send", &["errors", "mod", "membership", "lines"]),
    ("callback", &["headers", "answer", "request", "mod"]),
    (
        "hub",
        &[
            "tokens",
            "watches",
            "outage",
            "pace",
            "pending",
            "flights",
            "capacity",
            "redelivery",
            "start",
            "calls",
            "history",
            "memberships",
            "groups",
            "keeping",
            "walks",
            "mod",
        ],
    ),
    (
        "redis",
        &[
            "settings", "resp", "scripts", "entries", "page", "held", "requests", "server", "state", "commands",
            "sync", "link", "absent", "mod",
        ],
    ),
    ("engine", &["memory", "mod"]),
    (
        "gateway",
        &[
            "settings",
            "actions",
            "results",
            "answers",
            "answering",
            "feed",
            "asking",
            "routes",
            "output",
            "reached",
            "connection",
            "following",
            "pages",
            "sweep",
            "backlog",
            "shutdown",
            "jitter",
            "deadlines",
            "places",
            "lingering",
            "budget",
            "redis_stats",
            "group_stats",
            "stats",
            "hints",
            "listing",
            "frames",
            "shared",
            "ending",
            "paging",
            "members",
            "replay",
            "entering",
            "epochs",
            "publishing",
            "rejections",
            "streams",
            "sends",
            "feeds",
            "relief",
            "expiry",
            "draining",
            "replies",
            "requests",
            "upstream",
            "mod",
            "visits",
            "writes",
            "wire",
            "room",
            "invariants",
        ],
    ),
    ("reactor", &["system", "budgets", "gate", "link", "memory", "pause", "upstream", "mod", "run", "mio"]),
    (
        "workers",
        &[
            "resolver",
            "lookup",
            "dial",
            "idle",
            "settings",
            "socket",
            "verifier",
            "tls",
            "no_tls",
            "transport",
            "failures",
            "late",
            "client",
            "probe",
            "probe_redis",
            "mod",
        ],
    ),
    ("sys", &["errno", "stdio", "memory", "signalfd", "sigwait", "signals", "socket", "unix", "mod"]),
    (
        "config",
        &["values", "certificates", "no_certificates", "url", "redis", "fields", "variables", "strangers", "mod"],
    ),
    ("logger", &["queue", "format", "writer", "mod"]),
];

/// Modules that a simulation or a fuzzer must be able to run, and names that none of them may use.
const PURE: [&str; 19] = [
    "clock", "cursor", "table", "timer", "buffer", "escape", "flood", "secret", "metrics", "http", "sse", "json",
    "send", "callback", "job", "redis", "hub", "engine", "gateway",
];
const IMPURE: [&str; 9] =
    ["std::net", "std::thread", "std::env", "std::fs", "Instant", "SystemTime::now", "mio::", "ureq", "libc"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A source file.
struct Source {
    /// The module, and the file within it where the module is a folder.
    module: String,
    file: String,
    /// Without comments and unit tests.
    code: String,
}

impl Source {
    fn name(&self) -> String {
        format!("{}/{}", self.module, self.file)
    }

    /// The words after `prefix`, single or listed in braces.
    fn imports(&self, prefix: &str) -> HashSet<&str> {
        let mut words = HashSet::new();
        for (at, _) in self.code.match_indices(prefix) {
            let behind = &self.code[at + prefix.len()..];
            match behind.strip_prefix('{') {
                Some(list) => {
                    let list = list.split('}').next().unwrap_or_default();
                    words.extend(list.split(',').map(|item| word(item.trim())));
                }
                None => {
                    words.insert(word(behind));
                }
            }
        }
        words
    }

    /// The names after `fn`.
    fn functions(&self) -> HashSet<&str> {
        self.code.match_indices("fn ").map(|(at, _)| word(&self.code[at + 3..])).collect()
    }

    /// The methods called on `receiver` itself, not on one of its fields.
    fn calls(&self, receiver: &str) -> HashSet<&str> {
        let prefix = format!("{receiver}.");
        let is_start =
            |at: usize| !self.code[..at].ends_with(|last: char| last.is_alphanumeric() || "_.".contains(last));
        let calls = self.code.match_indices(&prefix).filter(|(at, _)| is_start(*at)).filter_map(|(at, _)| {
            let behind = &self.code[at + prefix.len()..];
            let name = word(behind);
            behind[name.len()..].starts_with('(').then_some(name)
        });
        calls.collect()
    }
}

fn word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

fn read(module: &str, path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("a readable source");
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let file = path.file_stem().expect("a file").to_string_lossy().into_owned();
    Source { module: module.to_owned(), file, code: lines.join("\n") }
}

/// All sources except the crate's roots and the files of tests.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(src()).expect("the sources") {
        let path = entry.expect("a directory entry").path();
        let module = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        if path.is_file() {
            sources.push(read(&module, &path));
            continue;
        }
        for entry in fs::read_dir(&path).expect("a module") {
            let path = entry.expect("a directory entry").path();
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            if is_source && path.file_stem().is_some_and(|stem| stem != "tests") {
                sources.push(read(&module, &path));
            }
        }
    }
    sources
}

fn rank_of_modules() -> HashMap<&'static str, usize> {
    let ranked = MODULES.iter().enumerate();
    ranked.flat_map(|(rank, modules)| modules.iter().map(move |module| (*module, rank))).collect()
}

#[test]
fn pure_modules_name_nothing_impure() {
    for source in sources().iter().filter(|source| PURE.contains(&source.module.as_str())) {
        for word in IMPURE {
            assert!(!source.code.contains(word), "{} names {word}", source.name());
        }
    }
}

#[test]
fn every_module_is_in_the_table_and_in_the_map_of_the_code() {
    let map = fs::read_to_string(src().join("lib.rs")).expect("lib.rs");
    let ranks = rank_of_modules();
    for source in sources() {
        assert!(ranks.contains_key(source.module.as_str()), "{} is missing from the table", source.module);
        assert!(map.contains(&format!("`{}`", source.module)), "{} is missing from lib.rs", source.module);
    }
}

#[test]
fn no_module_imports_from_one_below_it() {
    let ranks = rank_of_modules();
    let mut wrong = Vec::new();
    for source in sources() {
        let is_below = |import: &&str| ranks.get(import).is_none_or(|rank| *rank > ranks[source.module.as_str()]);
        wrong.extend(
            source.imports("crate::").into_iter().filter(is_below).map(|import| (source.name(), import.to_owned())),
        );
    }
    assert_eq!(wrong, [], "imports from below");
}

#[test]
fn no_file_imports_from_one_below_it() {
    let mut wrong = Vec::new();
    for (module, files) in FILES {
        let rank = |file: &str| files.iter().position(|known| *known == file);
        for source in sources().iter().filter(|source| source.module == module) {
            let own = rank(&source.file);
            assert!(own.is_some(), "{} is missing from the table", source.name());
            // Names that are not files are defined in mod.rs, or reached through it.
            let is_below = |import: &&str| rank(import).or(rank("mod")) >= own;
            wrong.extend(
                source.imports("super::").into_iter().filter(is_below).map(|import| (source.name(), import.to_owned())),
            );
        }
    }
    assert_eq!(wrong, [], "imports from below");
}

/// For objects with methods in several files: `self` in their own methods, `shared` elsewhere.
#[test]
fn no_file_calls_a_method_defined_in_one_below_it() {
    let mut wrong = Vec::new();
    for (module, files) in FILES {
        let rank = |source: &Source| files.iter().position(|known| *known == source.file);
        let all = sources();
        let in_module: Vec<&Source> = all.iter().filter(|source| source.module == module).collect();
        for source in &in_module {
            let calls = ["self", "shared"].into_iter().flat_map(|receiver| source.calls(receiver));
            let is_below = |method: &&str| {
                let homes = in_module.iter().filter(|other| other.functions().contains(method));
                homes.map(|home| rank(home)).min().is_some_and(|highest| highest > rank(source))
            };
            wrong.extend(calls.filter(is_below).map(|method| (source.name(), method.to_owned())));
        }
    }
    assert_eq!(wrong, [], "calls to methods below");
}
