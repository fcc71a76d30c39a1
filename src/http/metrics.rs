//! How many requests were answered, and how.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;

use crate::chat::files::Refused;

/// Counts answers by the class of their status.
#[derive(Default)]
pub struct Requests {
    classes: [AtomicU64; 5],
    microseconds: AtomicU64,
    /// Uploads that were not taken, and why.
    pub uploads: Refused,
}

impl Requests {
    pub(super) fn count(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// The counters in Prometheus' text format
    /// (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut text = String::from(
            "# HELP perch_http_requests_total Requests answered, by class of status.\n\
             # TYPE perch_http_requests_total counter\n",
        );
        let mut total = 0;
        for (index, class) in self.classes.iter().enumerate() {
            let count = class.load(Ordering::Relaxed);
            total += count;
            let _infallible = writeln!(text, "perch_http_requests_total{{class=\"{}xx\"}} {count}", index + 1);
        }
        let took = Duration::from_micros(self.microseconds.load(Ordering::Relaxed)).as_secs_f64();
        let _infallible = write!(
            text,
            "# HELP perch_http_request_seconds Time from a request's head to its answer's.\n\
             # TYPE perch_http_request_seconds summary\n\
             perch_http_request_seconds_sum {took}\n\
             perch_http_request_seconds_count {total}\n"
        );
        text
    }
}
