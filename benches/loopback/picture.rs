//! A latency histogram as a picture: SVG, on a logarithmic axis, in light and dark.

use super::common::text::count;
use super::histogram::Histogram;
use super::report::time;
use std::fmt::Write;
use std::time::Duration;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 24.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = HEIGHT - 52.0;
/// Bars for each factor of ten.
const BARS: f64 = 36.0;

const STYLE: &str = "
  text { font: 13px system-ui, sans-serif; fill: #444c56 }
  .title { font-size: 16px; font-weight: 600; fill: #1c2128 }
  .background { fill: #ffffff }
  .bar { fill: #2f81f7 }
  .tail { fill: #2f81f7; opacity: .35 }
  .axis { stroke: #d0d7de }
  .mark { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 4 3 }
  .label { fill: #cf222e; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #9da7b3 }
    .title { fill: #e6edf3 }
    .background { fill: #0d1117 }
    .axis { stroke: #30363d }
    .mark { stroke: #ff7b72 }
    .label { fill: #ff7b72 }
  }";

/// The axis: decades of microseconds.
struct Axis {
    first: f64,
    last: f64,
}

impl Axis {
    /// From the shortest latency to the longest, with a small margin.
    fn of(histogram: &Histogram) -> Self {
        let lowest = histogram.buckets().next().map_or(1, |(lowest, ..)| lowest.max(1));
        let highest = histogram.max().as_nanos().max(1000) as f64;
        let bar = |nanoseconds: f64| (nanoseconds / 1e3).log10() * BARS;
        Self { first: (bar(lowest as f64).floor() - 1.0) / BARS, last: (bar(highest).ceil() + 1.0) / BARS }
    }

    fn x(&self, nanoseconds: f64) -> f64 {
        let place = ((nanoseconds / 1e3).log10() - self.first) / (self.last - self.first);
        LEFT + place.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

pub(crate) fn draw(histogram: &Histogram) -> String {
    let axis = Axis::of(histogram);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\">\n\
         <title>Latency at 2,000 events a second</title>\n<style>{STYLE}\n</style>\n\
         <rect class=\"background\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"30\">Latency from send to client at 2,000 events a second</text>\n"
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{RIGHT}\" y=\"30\" text-anchor=\"end\">{} events, longest {}</text>",
        count(histogram.total()),
        time(histogram.max())
    );
    draw_bars(&mut svg, histogram, &axis);
    draw_axis(&mut svg, &axis);
    draw_marks(&mut svg, histogram, &axis);
    svg + "</svg>\n"
}

fn draw_bars(svg: &mut String, histogram: &Histogram, axis: &Axis) {
    let first = (axis.first * BARS).round() as i64;
    let last = (axis.last * BARS).round() as i64;
    let mut heights = vec![0.0; (last - first) as usize];
    for (lowest, highest, number) in histogram.buckets() {
        // A bucket may span bars: each gets its share.
        let edge = |nanoseconds: f64| (nanoseconds.max(1.0) / 1e3).log10() * BARS - first as f64;
        let (from, to) = (edge(lowest as f64), edge(highest as f64 + 1.0));
        let mut at = from;
        while at < to {
            let next = (at.floor() + 1.0).min(to);
            let bar = (at.max(0.0) as usize).min(heights.len() - 1);
            heights[bar] += number as f64 * (next - at) / (to - from);
            at = next;
        }
    }
    let most = heights.iter().fold(1.0, |most: f64, height| most.max(*height));
    let width = (RIGHT - LEFT) / heights.len() as f64;
    let beyond = axis.x(histogram.quantile(0.999).as_nanos() as f64);
    for (index, height) in heights.iter().enumerate().filter(|(_, height)| **height > 0.0) {
        let x = LEFT + index as f64 * width;
        // One event among thousands is still visible.
        let pixels = ((BOTTOM - TOP) * height / most).max(2.0);
        let class = if x >= beyond { "tail" } else { "bar" };
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{pixels:.1}\"/>",
            x + 0.5,
            BOTTOM - pixels,
            (width - 1.0).max(0.5)
        );
    }
}

fn draw_axis(svg: &mut String, axis: &Axis) {
    let _ = writeln!(svg, "<path class=\"axis\" d=\"M{LEFT} {BOTTOM}H{RIGHT}\"/>");
    for decade in -1..7 {
        for step in [1.0, 2.0, 5.0] {
            let micro = step * 10_f64.powi(decade);
            let place = micro.log10();
            if place < axis.first || place > axis.last {
                continue;
            }
            let x = axis.x(micro * 1e3);
            let label = time(Duration::from_nanos((micro * 1e3) as u64)).replace(".0 ", " ");
            let _ = writeln!(
                svg,
                "<path class=\"axis\" d=\"M{x:.1} {BOTTOM}v6\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                BOTTOM + 24.0
            );
        }
    }
}

fn draw_marks(svg: &mut String, histogram: &Histogram, axis: &Axis) {
    for (line, (name, quantile)) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)].into_iter().enumerate() {
        let latency = histogram.quantile(quantile);
        let x = axis.x(latency.as_nanos() as f64);
        // Each label on a line of its own, so that they never overlap.
        let y = 56.0 + 18.0 * line as f64;
        let (anchor, text_x) = if x > RIGHT - 120.0 { ("end", x - 6.0) } else { ("start", x + 6.0) };
        let _ = writeln!(
            svg,
            "<path class=\"mark\" d=\"M{x:.1} {:.1}V{BOTTOM}\"/>\
             <text class=\"label\" x=\"{text_x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{name} {}</text>",
            y - 10.0,
            time(latency)
        );
    }
}
