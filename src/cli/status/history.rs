//! Changes for people: what came, from whom, and how it ended.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::show_mistake;
use crate::cli::Style;
use crate::telemetry::lines::moment;

/// Every change that is remembered, the newest first.
pub fn describe(changes: &Value, style: &Style) -> String {
    let mut text = String::new();
    for change in changes.as_array().into_iter().flatten() {
        // Writing to a string can't fail.
        let _infallible = describe_change(&mut text, change, style).and_then(|()| describe_course(&mut text, change));
    }
    if text.is_empty() { "nothing was changed yet\n".to_owned() } else { text }
}

/// One change, as `status` shows it.
pub fn describe_change(text: &mut String, change: &Value, style: &Style) -> std::fmt::Result {
    let outcome = word(&change["outcome"]);
    let outcome = if outcome == "applied" { style.good(outcome) } else { style.bad(outcome) };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(change["at"].as_u64().unwrap_or(0));
    writeln!(
        text,
        "  {}Z  {outcome}  {}  (change {}: {}, {} ms)",
        moment(at),
        word(&change["to"]),
        change["id"],
        cause(word(&change["cause"])),
        change["took_ms"]
    )?;
    if let Some(reason) = change["reason"].as_str().filter(|reason| !reason.is_empty()) {
        writeln!(text, "    {reason}")?;
    }
    for step in change["steps"].as_array().into_iter().flatten() {
        writeln!(text, "    {}", word(step))?;
    }
    for mistake in change["mistakes"].as_array().into_iter().flatten() {
        writeln!(text, "    {}", show_mistake(mistake))?;
    }
    Ok(())
}

/// Where it came from and how long each step took.
fn describe_course(text: &mut String, change: &Value) -> std::fmt::Result {
    writeln!(text, "    by {}, from {}", word(&change["by"]), word(&change["from"]))?;
    let mut steps = Vec::new();
    let mut step = |name: &str, ms: &Value| {
        if let Some(ms) = ms.as_u64() {
            steps.push(format!("{name} {ms} ms"));
        }
    };
    step("look", &change["look_ms"]);
    step("secrets", &change["secrets_ms"]);
    for (service, ms) in change["services_ms"].as_object().into_iter().flatten() {
        step(service, ms);
    }
    if let Some(us) = change["swap_us"].as_u64() {
        steps.push(format!("swap {us} µs"));
    }
    steps.extend(change["bake_ms"].as_u64().map(|ms| format!("watched {ms} ms")));
    writeln!(text, "    {}", steps.join(", "))
}

/// Why a change was tried, for people.
fn cause(cause: &str) -> &str {
    match cause {
        "version" => "new version",
        "secrets" => "new secrets",
        "asked" => "asked for",
        other => other,
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
