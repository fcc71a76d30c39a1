//! Entries as lines on standard error: text for people, JSON for everything else.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

pub enum Format {
    Text { colour: bool },
    Json,
}

/// Writes each entry as one line, in one write, so that lines of several threads never mix.
pub struct Lines {
    format: Format,
}

impl Lines {
    #[must_use]
    pub fn new(format: Format) -> Self {
        Lines { format }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        let mut line = match self.format {
            Format::Text { colour } => fields.text(level, colour),
            Format::Json => fields.json(level, event.metadata().target()),
        };
        line.push('\n');
        // Where standard error is closed there is nowhere left to complain.
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.push((field.name(), text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.others.push((field.name(), value.to_owned()));
        }
    }
}

impl Fields {
    fn text(&self, level: Level, colour: bool) -> String {
        let (name, code) = match level {
            Level::ERROR => ("error", "31;1"),
            Level::WARN => ("warn", "33"),
            Level::INFO => ("info", "32"),
            Level::DEBUG => ("debug", "34"),
            Level::TRACE => ("trace", "35"),
        };
        let service = self.others.iter().find(|(name, _)| *name == "service").map_or("perch", |(_, value)| value);
        // A terminal obeys control characters, and what others sent may hold some.
        let message: String =
            self.message.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
        let message = message.replace('\n', "\n                            ");
        let time = clock(SystemTime::now());
        if colour {
            format!("\x1b[2m{time}\x1b[0m \x1b[{code}m{name:<5}\x1b[0m \x1b[1m{service:<10}\x1b[0m  {message}")
        } else {
            format!("{time} {name:<5} {service:<10}  {message}")
        }
    }

    fn json(self, level: Level, target: &str) -> String {
        let mut object = Map::new();
        let now = SystemTime::now();
        object.insert("time".to_owned(), Value::String(format!("{}T{}Z", date(now), clock_millis(now))));
        object.insert("level".to_owned(), Value::String(level.to_string()));
        object.insert("message".to_owned(), Value::String(self.message));
        for (name, value) in self.others {
            object.insert(format!("PERCH_{}", name.replace('.', "_").to_uppercase()), Value::String(value));
        }
        if !target.starts_with("perch") {
            object.insert("target".to_owned(), Value::String(target.to_owned()));
        }
        Value::Object(object).to_string()
    }
}

fn seconds(time: SystemTime) -> (u64, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_millis())
}

/// The time of day in UTC.
fn clock(time: SystemTime) -> String {
    let (seconds, _) = seconds(time);
    let day = seconds % 86_400;
    format!("{:02}:{:02}:{:02}", day / 3_600, day / 60 % 60, day % 60)
}

fn clock_millis(time: SystemTime) -> String {
    let mut text = clock(time);
    let _infallible = write!(text, ".{:03}", seconds(time).1);
    text
}

/// The date in UTC, by the days-to-civil arithmetic of the proleptic Gregorian calendar
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn date(time: SystemTime) -> String {
    let days = seconds(time).0 / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// A time span as people say it, roughly.
#[must_use]
pub fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// A moment as people read it in `status`: date and time of day in UTC.
#[must_use]
pub fn moment(time: SystemTime) -> String {
    format!("{} {}", date(time), clock(time))
}

/// A moment as RFC 3339 writes it, in UTC.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    format!("{}T{}Z", date(time), clock_millis(time))
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn dates_are_right_at_the_edges() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01");
        assert_eq!(at(951_782_399), "2000-02-28");
        assert_eq!(at(951_782_400), "2000-02-29");
        assert_eq!(at(951_868_800), "2000-03-01");
        assert_eq!(at(4_107_542_399), "2100-02-28");
        assert_eq!(at(4_107_542_400), "2100-03-01");
    }
}
