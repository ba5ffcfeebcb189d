//! The report: rows, put together from one or more runs, as a table in Markdown.

use super::common::text::count;
use super::stamp::Tally;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Micro,
    Seconds,
    Kibibytes,
    /// The value is in bytes.
    Mebibytes,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Micro if value < 100.0 => format!("{value:.1} µs"),
            Self::Micro => time(Duration::from_secs_f64(value / 1e6)),
            Self::Seconds => format!("{value:.2} s"),
            Self::Kibibytes => format!("{value:.2} KiB"),
            Self::Mebibytes => mebibytes(value),
        }
    }
}

/// Delivery errors. For connects and disconnects, their callbacks are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
}

impl Faults {
    pub(crate) fn of(tally: Tally) -> Self {
        Self { lost: tally.lost, duplicated: tally.duplicated, reordered: tally.reordered }
    }

    pub(crate) fn and(self, tally: Tally) -> Self {
        self.plus(Self::of(tally))
    }

    fn plus(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: Unit,
    details: String,
    faults: Option<Faults>,
}

impl Row {
    pub(crate) fn new(name: &str, value: f64, unit: Unit) -> Self {
        Self { name: name.to_owned(), value, unit, details: String::new(), faults: None }
    }

    /// Secondary figures.
    pub(crate) fn details(self, details: String) -> Self {
        Self { details, ..self }
    }

    pub(crate) fn faults(self, faults: Faults) -> Self {
        Self { faults: Some(faults), ..self }
    }

    fn is_clean(&self) -> bool {
        self.faults.is_none_or(|faults| faults == Faults::default())
    }
}

/// The rows of each run; every run has the same ones.
pub(crate) struct Report(Vec<Vec<Row>>);

impl Report {
    pub(crate) fn new(runs: Vec<Vec<Row>>) -> Self {
        Self(runs)
    }

    /// Nothing was lost, duplicated or reordered.
    pub(crate) fn is_clean(&self) -> bool {
        self.0.iter().flatten().all(Row::is_clean)
    }

    /// The median of several runs, with its details, the lowest and the highest.
    pub(crate) fn table(&self) -> String {
        let mut table = "| | measured | details | lost, duplicated, reordered |\n|---|---:|---|---|\n".to_owned();
        for line in 0..self.0.first().map_or(0, Vec::len) {
            let mut runs: Vec<&Row> = self.0.iter().filter_map(|run| run.get(line)).collect();
            runs.sort_by(|a, b| a.value.total_cmp(&b.value));
            let (median, lowest, highest) = (runs[runs.len() / 2], runs[0], runs[runs.len() - 1]);
            let Row { name, value, unit, details, .. } = median;
            let mut measured = format!("**{}**", unit.show(*value));
            if runs.len() > 1 {
                measured += &format!(" ({} to {})", unit.show(lowest.value), unit.show(highest.value));
            }
            let faults = runs.iter().filter_map(|row| row.faults).reduce(Faults::plus);
            let faults = faults.map_or(String::new(), |Faults { lost, duplicated, reordered }| {
                format!("{}, {}, {}", count(lost), count(duplicated), count(reordered))
            });
            table += &format!("| {name} | {measured} | {details} | {faults} |\n");
        }
        table
    }
}

/// A duration with three digits, in a fitting unit.
pub(crate) fn time(duration: Duration) -> String {
    let micro = duration.as_secs_f64() * 1e6;
    match micro {
        ..1e3 => format!("{micro:.0} µs"),
        ..1e4 => format!("{:.1} ms", micro / 1e3),
        ..1e6 => format!("{:.0} ms", micro / 1e3),
        _ => format!("{:.2} s", micro / 1e6),
    }
}

pub(crate) fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}
