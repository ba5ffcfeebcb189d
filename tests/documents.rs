//! README and docs: links lead somewhere, and what is listed is complete.

mod common;

use common::{Client, Gateway, get};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .chain(["README.md", "CHANGELOG.md", "python/README.md", "js/README.md"].map(|name| root().join(name)))
        .collect()
}

/// The text without code.
fn prose(text: &str) -> String {
    let blocks = text.split("\n```").step_by(2);
    let lines = blocks.flat_map(str::lines).filter(|line| !line.starts_with("    "));
    lines.map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("`") + "\n").collect()
}

/// The anchors of a page, as GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.split("\n```").step_by(2).flat_map(str::lines).filter_map(|line| {
        let heading = line.trim_start_matches('#');
        line.starts_with('#').then(|| heading.trim().to_lowercase())
    });
    let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|heading| heading.chars().filter(is_kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut links = 0;
    for page in documents() {
        let text = read(&page);
        let text = prose(&text);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.starts_with("http")) {
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { page.clone() } else { page.parent().expect("a folder").join(path) };
            assert!(file.exists(), "{}: {target}", page.display());
            if !anchor.is_empty() {
                assert!(anchors(&read(&file)).contains(anchor), "{}: {target}", page.display());
            }
        }
    }
    assert!(links > 50, "{links} links");
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let text = read(&root().join("README.md"));
    assert!(text.lines().count() <= 200, "{} lines", text.lines().count());
    let docs = root().join("docs");
    for page in documents().iter().filter(|page| page.parent() == Some(&docs)) {
        let name = page.file_name().expect("a name").to_string_lossy();
        assert!(text.contains(&format!("](docs/{name}")), "no link to {name}");
    }
}

#[test]
fn every_metric_is_documented_with_its_type_and_labels() {
    let page = read(&root().join("docs/metrics.md"));
    let gateway = Gateway::builder().start();
    let metrics = Client::open(gateway.internal_port(), get("/internal/metrics")).response();
    let mut families = 0;
    for line in metrics.text().lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("a type");
            let row = page.lines().find(|row| {
                row.starts_with("| `")
                    && row.split(" | ").next().is_some_and(|cell| cell.contains(&format!("`{name}`")))
            });
            let row = row.unwrap_or_else(|| panic!("{name} is not documented"));
            assert!(row.contains(&format!("| {kind} |")), "{name} is a {kind}: {row}");
            families += 1;
        } else if !line.starts_with('#') && !line.starts_with("ssegateway_build_info") {
            let labels = line.split('"').skip(1).step_by(2);
            for label in labels.filter(|label| !label.contains(|c: char| c.is_ascii_digit() || c == '+')) {
                assert!(page.contains(&format!("`{label}`")), "{line} is not documented");
            }
        }
    }
    assert!(families > 40, "{families} families");
    let rules = read(&root().join("examples/deploy/alerts.yml"));
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(page.contains(&format!("| `{name}` |")), "no advice for {name}");
    }
}
