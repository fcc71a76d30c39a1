//! What is counted, and how Prometheus reads it: text format 0.0.4.
//!
//! To count one more thing: a [`Counter`] or a [`Histogram`] where it happens, one [`Page::family`] in the [`Source`] of that
//! part, and where the part is new, one line in `cli/daemon.rs`. Counting is an atomic addition; all else happens when
//! somebody asks.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>, and for names
//! <https://prometheus.io/docs/practices/naming/>.

use std::fmt::{self, Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn add(&self) {
        self.add_many(1);
    }

    /// Counts several.
    pub fn add_many(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upper bounds of a [`Histogram`], in microseconds: from what an echo takes to what a model may.
const BOUNDS: [u64; 14] = [
    250,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    120_000_000,
];

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each of the [`BOUNDS`], and one for what took longer. Each thing is in one of them.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    /// Counts one that took so long.
    pub fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < took);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(took, Ordering::Relaxed);
    }
}

/// Something that has numbers to show.
pub trait Source: Send + Sync {
    /// Writes its families to `page`.
    fn write(&self, page: &mut Page);
}

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The text that is written.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins the family `name`; `help` is a sentence. All of a family's numbers follow at once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
        Family { page: self, name }
    }

    /// The whole text.
    #[must_use]
    pub fn text(self) -> String {
        self.0
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _infallible = writeln!(self.0, "{line}");
    }
}

/// A family that is being written.
pub struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Family<'_> {
    /// One number, with its labels.
    pub fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let (name, labels) = (self.name, Labels(labels));
        self.page.line(format_args!("{name}{labels} {value}"));
    }

    /// All the numbers of a histogram, in seconds.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let name = self.name;
        let mut total = 0;
        for (index, bucket) in histogram.buckets.iter().enumerate() {
            total += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS.get(index).map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound).to_string());
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.page.line(format_args!("{name}_bucket{} {total}", Labels(&labels)));
        }
        let sum = seconds(histogram.microseconds.load(Ordering::Relaxed));
        let labels = Labels(labels);
        self.page.line(format_args!("{name}_sum{labels} {sum}\n{name}_count{labels} {total}"));
    }
}

fn seconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64()
}

/// Labels as they are written; nothing where there are none.
struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{}{name}=\"{value}\"", if index == 0 { '{' } else { ',' })?;
        }
        if self.0.is_empty() { Ok(()) } else { f.write_char('}') }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_the_format_asks_for() {
        let (counter, histogram) = (Counter::default(), Histogram::default());
        counter.add_many(3);
        for took in [250, 251, 90_000, 200_000_000] {
            histogram.observe(Duration::from_micros(took));
        }
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "Of \\ and\nlines.").value(&[], counter.get());
        page.family("b", Kind::Gauge, "Odd.").value(&[("name", "\"\\\n"), ("b", "c")], 0.5);
        page.family("c_seconds", Kind::Histogram, "Long.").histogram(&[("route", "/")], &histogram);
        insta::assert_snapshot!(page.text(), @r#"
        # HELP a_total Of \\ and\nlines.
        # TYPE a_total counter
        a_total 3
        # HELP b Odd.
        # TYPE b gauge
        b{name="\"\\\n",b="c"} 0.5
        # HELP c_seconds Long.
        # TYPE c_seconds histogram
        c_seconds_bucket{route="/",le="0.00025"} 1
        c_seconds_bucket{route="/",le="0.001"} 2
        c_seconds_bucket{route="/",le="0.0025"} 2
        c_seconds_bucket{route="/",le="0.005"} 2
        c_seconds_bucket{route="/",le="0.01"} 2
        c_seconds_bucket{route="/",le="0.025"} 2
        c_seconds_bucket{route="/",le="0.05"} 2
        c_seconds_bucket{route="/",le="0.1"} 3
        c_seconds_bucket{route="/",le="0.25"} 3
        c_seconds_bucket{route="/",le="1"} 3
        c_seconds_bucket{route="/",le="2.5"} 3
        c_seconds_bucket{route="/",le="10"} 3
        c_seconds_bucket{route="/",le="30"} 3
        c_seconds_bucket{route="/",le="120"} 3
        c_seconds_bucket{route="/",le="+Inf"} 4
        c_seconds_sum{route="/"} 200.090501
        c_seconds_count{route="/"} 4
        "#);
    }
}
