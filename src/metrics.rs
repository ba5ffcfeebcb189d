//! Metrics in the text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>, version
//! 0.0.4).
//!
//! Counting is an addition to a plain integer owned by the loop; text is rendered only on a scrape. The counters
//! themselves are in [`crate::gateway`].

use std::fmt::Write;
use std::time::Duration;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Durations in `N` buckets, the last of which is open.
#[derive(Clone, Debug)]
pub struct Histogram<const N: usize> {
    /// Upper bounds of the closed buckets, inclusive, in microseconds and rising; the last is not used.
    bounds: &'static [u64; N],
    counts: [u64; N],
    sum: Duration,
}

impl<const N: usize> Histogram<N> {
    /// An empty one. The last of `bounds` means infinity.
    pub const fn new(bounds: &'static [u64; N]) -> Self {
        Self { bounds, counts: [0; N], sum: Duration::ZERO }
    }

    /// Counts one duration.
    pub fn observe(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let bucket = self.bounds[..N - 1].iter().position(|bound| micros <= *bound).unwrap_or(N - 1);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(duration);
    }
}

/// The text, family by family. It is rarely rendered, so its functions are not inlined.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// The text so far.
    pub fn into_text(self) -> String {
        self.0
    }

    /// One value without labels, as a family of its own.
    #[inline(never)]
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// One counter without labels, as a family of its own.
    #[inline(never)]
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// One counter of time without labels, in seconds.
    #[inline(never)]
    pub fn time_counter(&mut self, name: &str, help: &str, time: Duration) {
        self.family(name, "counter", help);
        self.push(format_args!("{name} {}\n", seconds(time)));
    }

    /// Opens a family; its samples follow.
    #[inline(never)]
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One sample of the open family. Label values are our own and need no escapes.
    #[inline(never)]
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        self.labels(labels, None);
        self.push(format_args!(" {value}\n"));
    }

    /// One histogram of the open family, in seconds.
    pub fn histogram<const N: usize>(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram<N>) {
        self.buckets(name, labels, histogram.bounds, &histogram.counts, histogram.sum);
    }

    #[inline(never)]
    fn buckets(&mut self, name: &str, labels: &[(&str, &str)], bounds: &[u64], counts: &[u64], sum: Duration) {
        let mut count = 0;
        for (index, (bound, bucket)) in bounds.iter().zip(counts).enumerate() {
            count += bucket;
            let is_last = index + 1 == bounds.len();
            let bound = if is_last { "+Inf".to_owned() } else { seconds(Duration::from_micros(*bound)) };
            self.push(format_args!("{name}_bucket"));
            self.labels(labels, Some(&bound));
            self.push(format_args!(" {count}\n"));
        }
        self.push(format_args!("{name}_sum"));
        self.labels(labels, None);
        self.push(format_args!(" {}\n{name}_count", seconds(sum)));
        self.labels(labels, None);
        self.push(format_args!(" {count}\n"));
    }

    #[inline(never)]
    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.push(format_args!("{separator}{name}=\"{value}\""));
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
    }

    #[inline(never)]
    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

/// Seconds as a decimal number, exact to the microsecond.
fn seconds(duration: Duration) -> String {
    let text = format!("{}.{:06}", duration.as_secs(), duration.subsec_micros());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_read_as_the_format_demands() {
        let mut text = Exposition::default();
        text.gauge("a", "Help.", 1);
        text.family("b_total", "counter", "More help.");
        text.sample("b_total", &[("x", "1"), ("y", "z")], 2);
        assert_eq!(
            text.into_text(),
            "# HELP a Help.\n# TYPE a gauge\na 1\n\
             # HELP b_total More help.\n# TYPE b_total counter\nb_total{x=\"1\",y=\"z\"} 2\n"
        );
    }

    #[test]
    fn buckets_are_cumulative_and_their_bounds_inclusive() {
        let mut histogram = Histogram::new(&[1_000, 2_500_000, u64::MAX]);
        for micros in [0, 1_000, 1_001, 2_500_000, 2_500_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        histogram.observe(Duration::from_nanos(1_000_001));
        let mut text = Exposition::default();
        text.histogram("h", &[("a", "b")], &histogram);
        assert_eq!(
            text.into_text(),
            "h_bucket{a=\"b\",le=\"0.001\"} 2\nh_bucket{a=\"b\",le=\"2.5\"} 5\nh_bucket{a=\"b\",le=\"+Inf\"} 6\n\
             h_sum{a=\"b\"} 5.003002\nh_count{a=\"b\"} 6\n"
        );
    }

    #[test]
    fn seconds_are_exact_and_short() {
        for (micros, text) in [(0, "0"), (1, "0.000001"), (10_000_000, "10"), (1_050_000, "1.05")] {
            assert_eq!(seconds(Duration::from_micros(micros)), text);
        }
    }
}
