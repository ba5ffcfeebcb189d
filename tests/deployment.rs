//! The deployment files and their excerpts in the documents. `make test-deploy` tests that they work.

use ssegateway::config::{Config, DefaultValue, VARIABLES};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const UNIT: &str = "examples/deploy/ssegateway.service";
const KUBERNETES: &str = "examples/deploy/kubernetes.yaml";
const PROMETHEUS: &str = "examples/deploy/prometheus.yml";
const COMPOSE: &str = "compose.yaml";
const CLUSTER: &str = "examples/deploy/cluster/compose.yaml";

/// The default of `SHUTDOWN_TIMEOUT_SECONDS`.
const DRAIN_SECONDS: u64 = 10;

/// Variables of other programs, and other words in capitals.
const NOT_OURS: [&str; 5] = ["AF_INET", "AF_INET6", "AF_UNIX", "GATEWAY_URL", "POD_IP"];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// The fenced blocks under a heading of that document.
fn shown(document: &str, heading: &str) -> Vec<String> {
    let text = read(document);
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```").skip(1).step_by(2);
    blocks.map(|block| block.split_once('\n').expect("a language").1.to_owned()).collect()
}

#[test]
fn the_documents_show_the_files_themselves() {
    for (document, heading, file) in [
        ("docs/deployment.md", "systemd", UNIT),
        ("docs/deployment.md", "Kubernetes, as a sidecar", KUBERNETES),
        ("docs/metrics.md", "Collecting them", PROMETHEUS),
    ] {
        let (blocks, file) = (shown(document, heading), read(file));
        assert!(!blocks.is_empty(), "nothing is shown under {heading}");
        for block in blocks {
            assert!(file.contains(&block), "{heading} shows what is not in the file:\n{block}");
        }
    }
}

#[test]
fn every_variable_exists() {
    for name in [UNIT, KUBERNETES, COMPOSE, CLUSTER] {
        let text = read(name);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let variables: Vec<&str> =
            words.filter(|word| word.contains('_') && !word.contains(|c: char| c.is_ascii_lowercase())).collect();
        assert!(variables.contains(&"CALLBACK_URL"), "{name}: {variables:?}");
        for variable in variables {
            let known = VARIABLES.iter().any(|known| known.name == variable) || NOT_OURS.contains(&variable);
            assert!(known, "{name} has {variable}, which means nothing");
        }
    }
}

/// The cells of the rows about variables in a table: name and default.
fn documented(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows = rows.filter(|(name, _)| !name.contains(|c: char| c.is_ascii_lowercase()));
    rows.map(|(name, rest)| (name, rest.split(" | ").next().unwrap_or_default()))
}

#[test]
fn every_variable_is_documented_with_its_default() {
    let section = |name: &str, heading: &str| {
        let text = read(name);
        let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect(heading);
        section.split("\n## ").next().unwrap_or_default().to_owned()
    };
    let tables = [section("docs/protocol.md", "2. Configuration (environment only)"), read("docs/configuration.md")];
    for table in &tables {
        let documented: BTreeMap<&str, &str> = documented(table).collect();
        let known: BTreeSet<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(documented.keys().copied().collect::<BTreeSet<_>>(), known, "documented, and known");
        for variable in VARIABLES.iter().filter(|variable| variable.default == DefaultValue::Literal) {
            let (default, literal) = (documented[variable.name], variable.show(&Config::default()));
            assert!(default.starts_with(&format!("`{literal}`")), "{}: {default}, not {literal}", variable.name);
        }
    }
}

/// The first number after `name`.
fn number(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("no {name}"));
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).expect("a number")
}

#[test]
fn probes_use_the_internal_port() {
    let pod = read(KUBERNETES);
    let internal_port = number(&pod, "INTERNAL_PORT, value");
    let probes: Vec<u64> = pod.split("httpGet: ").skip(1).map(|probe| number(probe, "port: ")).collect();
    assert_eq!(probes, [internal_port; 3]);
}

#[test]
fn kill_timeouts_exceed_the_drain() {
    let unit = read(UNIT);
    assert!(number(&unit, "\nTimeoutStopSec=") > DRAIN_SECONDS && !unit.contains("Environment=SHUTDOWN"), "{unit}");
    assert!(number(&read(COMPOSE), "stop_grace_period: ") > DRAIN_SECONDS);
    let cluster = read(CLUSTER);
    let delay = number(&cluster, "SHUTDOWN_DELAY_SECONDS: ");
    assert!(number(&cluster, "stop_grace_period: ") > DRAIN_SECONDS + delay);
    let pod = read(KUBERNETES);
    let end = number(&pod, "SHUTDOWN_DELAY_SECONDS, value") + number(&pod, "SHUTDOWN_TIMEOUT_SECONDS, value");
    // The application ends after it.
    assert!(number(&pod, "\n      terminationGracePeriodSeconds: ") >= end + 10, "{end}");
}
