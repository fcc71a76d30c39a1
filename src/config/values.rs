//! Values that more than one section has: durations, sizes, addresses.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::document::{Table, quote};

impl Table<'_> {
    /// A duration as `"30s"`, `"500ms"`, `"5m"`, `"2h"`, `"90d"`, within `bounds`.
    pub(super) fn duration(&mut self, key: &'static str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let entry = self.entry(key)?;
        let text = entry.text("a duration such as \"30s\"")?;
        let Some(value) = parse_duration(text) else {
            entry.mistake(format!(
                "{} is not a duration; write \"500ms\", \"30s\", \"5m\", \"2h\" or \"90d\"",
                quote(text)
            ));
            return None;
        };
        if !bounds.contains(&value) {
            let (least, most) = (show_duration(*bounds.start()), show_duration(*bounds.end()));
            entry.mistake(format!("{} is out of range; it goes from {least} to {most}", quote(text)));
            return None;
        }
        Some(value)
    }

    /// A size as `"64KiB"`, within `bounds`, in bytes.
    pub(super) fn size(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let entry = self.entry(key)?;
        let text = entry.text("a size such as \"64KiB\"")?;
        let Some(value) = parse_size(text) else {
            entry.mistake(format!("{} is not a size; write \"512B\", \"64KiB\" or \"5MiB\"", quote(text)));
            return None;
        };
        if !bounds.contains(&value) {
            entry.mistake(format!(
                "{} is out of range; it goes from {} to {}",
                quote(text),
                show_size(*bounds.start()),
                show_size(*bounds.end())
            ));
            return None;
        }
        Some(value)
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let entry = self.entry(key)?;
        let DeValue::Boolean(value) = entry.value else {
            entry.wrong_type("true or false");
            return None;
        };
        Some(*value)
    }

    /// A whole number within `bounds`.
    pub(super) fn integer(&mut self, key: &'static str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let entry = self.entry(key)?;
        let DeValue::Integer(written) = entry.value else {
            entry.wrong_type("a whole number");
            return None;
        };
        let value = u32::from_str_radix(written.as_str(), written.radix()).ok().filter(|value| bounds.contains(value));
        if value.is_none() {
            entry.mistake(format!("is out of range; it goes from {} to {}", bounds.start(), bounds.end()));
        }
        value
    }

    /// A number with up to three decimals, in thousandths, within `bounds`.
    pub(super) fn number(&mut self, key: &'static str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let entry = self.entry(key)?;
        let value: Option<f64> = match entry.value {
            DeValue::Float(written) => written.as_str().parse().ok(),
            DeValue::Integer(written) => i32::from_str_radix(written.as_str(), written.radix()).ok().map(f64::from),
            _ => {
                entry.wrong_type("a number");
                return None;
            }
        };
        // Compared as it is written; what is not a number is in no range.
        let (least, most) = (f64::from(*bounds.start()) / 1_000.0, f64::from(*bounds.end()) / 1_000.0);
        let Some(value) = value.filter(|value| (least..=most).contains(value)) else {
            entry.mistake(format!("is out of range; it goes from {least} to {most}"));
            return None;
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the bounds are those of u32")]
        let thousandths = (value * 1_000.0).round() as u32;
        Some(thousandths)
    }

    /// A text on one line, neither empty nor longer than `longest` bytes.
    pub(super) fn line(&mut self, key: &'static str, wanted: &str, longest: usize) -> Option<String> {
        let entry = self.entry(key)?;
        let text = entry.text(wanted)?;
        let flaw = match text {
            _ if text.trim().is_empty() => "is empty".to_owned(),
            _ if text.chars().any(char::is_control) => format!("must be {wanted}, on one line"),
            _ if text.len() > longest => format!("is longer than {longest} bytes"),
            _ => return Some(text.to_owned()),
        };
        entry.mistake(flaw);
        None
    }

    /// An http or https address without a trailing slash.
    pub(super) fn address(&mut self, key: &'static str, example: &str) -> Option<String> {
        let entry = self.entry(key)?;
        let text = entry.text(&format!("an address such as \"{example}\""))?;
        let flaw = match reqwest::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                if !url.username().is_empty() || url.password().is_some() {
                    "must not hold a user name or password".to_owned()
                } else if url.query().is_some() || url.fragment().is_some() {
                    "must not hold a query or a fragment".to_owned()
                } else {
                    return Some(text.trim_end_matches('/').to_owned());
                }
            }
            _ => format!("{} is not an http or https address", quote(text)),
        };
        entry.mistake(flaw);
        None
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

/// A duration the way the configuration writes it.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    // One day is 24 hours to whoever writes it.
    if milliseconds > 86_400_000 && milliseconds.is_multiple_of(86_400_000) {
        return format!("{}d", milliseconds / 86_400_000);
    }
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if milliseconds >= length && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// A size the way the configuration writes it.
pub(super) fn show_size(bytes: u64) -> String {
    for (unit, length) in [("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= length && bytes.is_multiple_of(length) {
            return format!("{}{unit}", bytes / length);
        }
    }
    format!("{bytes}B")
}
