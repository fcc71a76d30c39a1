//! `perch status`: what runs.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::{FAILED, NOT_RUNNING, RuntimeDirectory, Style, complain, print};
use crate::admin::client::{self, AskError};
use crate::telemetry::lines::{moment, span};

mod history;

/// A daemon that lives answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many changes are shown to people who did not ask for the history.
const CHANGES: usize = 5;

/// Show what runs
///
/// Shows the running daemon's configuration version, its services and since when, the Discord session, the last
/// changes and what was refused and why.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  perch status\n  perch status --history\n  perch status --json | jq .services.discord.state\n\n\
    Exit codes: 0 it runs, 1 the daemon gave no answer, 3 no daemon running."
)]
pub struct Status {
    #[command(flatten)]
    runtime: RuntimeDirectory,
    /// Show every change that is remembered, with who brought it and how long each step took
    #[arg(long)]
    history: bool,
    /// Print JSON, for another program
    #[arg(long)]
    json: bool,
}

impl Status {
    pub async fn run(self) -> ExitCode {
        let (route, show): (_, fn(&Value, &Style) -> String) =
            if self.history { ("/history", history::describe) } else { ("/status", describe) };
        match client::ask(&self.runtime.runtime_dir, Method::GET, route, PATIENCE).await {
            Ok(bytes) => {
                let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                if self.json { print(&format!("{answer}\n")) } else { print(&show(&answer, &Style::detect())) }
            }
            Err(error) => {
                complain(&error.to_string());
                ExitCode::from(if matches!(error, AskError::NotRunning(_)) { NOT_RUNNING } else { FAILED })
            }
        }
    }
}

/// The status for people.
fn describe(status: &Value, style: &Style) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _infallible = describe_into(&mut text, status, style);
    text
}

fn describe_into(text: &mut String, status: &Value, style: &Style) -> std::fmt::Result {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let perch = &status["perch"];
    let ready = if perch["ready"] == true { style.good("ready") } else { style.bad("not ready") };
    writeln!(
        text,
        "{} {} (process {}), up {}, {ready}",
        style.bold("perch"),
        word(&perch["version"]),
        perch["pid"],
        age(&perch["started"]),
    )?;
    if let Some(reason) = perch["departing"]["reason"].as_str() {
        writeln!(text, "  {}   {reason}", style.bad("leaving"))?;
    }
    let config = &status["config"];
    writeln!(text, "\n{}  {}", style.bold("configuration"), word(&config["source"]))?;
    let why = config["waiting_for"].as_str();
    if let Some(version) = config["version"].as_str() {
        writeln!(text, "  version   {version}, {}, applied {} ago", word(&config["state"]), age(&config["since"]))?;
        if let Some(why) = why {
            writeln!(text, "            {why}")?;
        }
    } else {
        writeln!(text, "  {}   {}", style.bad("waiting"), why.unwrap_or("it has not answered yet"))?;
    }
    if config["last_good"].is_object() && config["last_good"]["version"] != config["version"] {
        let good = &config["last_good"];
        writeln!(text, "  last good {}, blessed {} ago", word(&good["version"]), age(&good["at"]))?;
    }
    if config["refused"].is_object() {
        let refused = &config["refused"];
        let what = if refused["quarantined"] == true { "undone " } else { "refused" };
        writeln!(text, "  {}   {}, {} ago:", style.bad(what), word(&refused["version"]), age(&refused["at"]))?;
        for mistake in refused["mistakes"].as_array().into_iter().flatten() {
            writeln!(text, "    {}", show_mistake(mistake))?;
        }
    }
    for (key, what) in [("trouble", "the source"), ("secrets_trouble", "secrets")] {
        if config[key].is_object() {
            let trouble = &config[key];
            writeln!(
                text,
                "  {}   {what} for {}: {}",
                style.bad("no answer"),
                age(&trouble["since"]),
                word(&trouble["text"])
            )?;
        }
    }
    if status["services"].as_object().is_some_and(|services| !services.is_empty()) {
        writeln!(text, "\n{}", style.bold("services"))?;
    }
    for (name, health) in status["services"].as_object().into_iter().flatten() {
        let state = word(&health["state"]);
        let state = if state == "running" { style.good(&state) } else { style.bad(&state) };
        write!(text, "  {name:<9} {state} for {}", age(&health["since"]))?;
        if health["restarts"].as_u64().unwrap_or(0) > 0 {
            write!(text, ", started again {}", times(health["restarts"].as_u64().unwrap_or(0)))?;
        }
        if let Some(reason) = health["reason"].as_str() {
            write!(text, "\n            {reason}")?;
        }
        for line in details(name, &status[name]) {
            write!(text, "\n            {line}")?;
        }
        text.push('\n');
    }
    let changes = status["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !changes.is_empty() {
        writeln!(text, "\n{}", style.bold("last changes"))?;
    }
    for change in changes.iter().take(CHANGES) {
        history::describe_change(text, change, style)?;
    }
    Ok(())
}

/// What a service tells about itself, in lines.
fn details(service: &str, details: &Value) -> Vec<String> {
    let number = |key: &str| details[key].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
    match service {
        _ if !details.is_object() => Vec::new(),
        "http" => {
            let mut lines = vec![format!("listens on {}", plain(&details["listeners"]))];
            lines.extend(certificate(&details["tls"]));
            lines
        }
        "chat" => vec![format!("asks {} at {}", plain(&details["model"]), plain(&details["base_url"]))],
        "discord" => {
            let session = if details["session"] == true { "session" } else { "no session" };
            let latency = details["latency_ms"]
                .as_u64()
                .map_or_else(|| "latency not known yet".to_owned(), |latency| format!("latency {latency} ms"));
            let guilds = match details["guilds"].as_u64() {
                Some(1) => "1 guild".to_owned(),
                _ => format!("{} guilds", number("guilds")),
            };
            let user = details["user"]["name"].as_str().map_or_else(String::new, |name| format!("as {name}, "));
            let mut lines = vec![
                format!("{session}, {user}shard {}, {latency}, in {guilds}", plain(&details["shard"])),
                format!(
                    "IDENTIFYs {} ({} left today), RESUMEs {}",
                    number("identifies"),
                    number("identify_remaining"),
                    number("resumes")
                ),
                format!("answered {}, refused {}, lost {}", number("replies"), number("refused"), number("lost")),
            ];
            lines.extend(details["invite"].as_str().map(|invite| format!("invite it with {invite}")));
            lines
        }
        _ => details.as_object().into_iter().flatten().map(|(key, value)| format!("{key} {}", plain(value))).collect(),
    }
}

/// The certificate that is served, and what comes next.
fn certificate(tls: &Value) -> Vec<String> {
    let at =
        |seconds: &Value| seconds.as_u64().map(|seconds| moment(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
    let mut lines = Vec::new();
    if tls.is_null() {
        return lines;
    }
    match at(&tls["not_after"]) {
        Some(until) => {
            lines.push(format!("certificate for {} by {}, until {until}", plain(&tls["names"]), plain(&tls["issuer"])));
        }
        None => lines.push(format!("no certificate yet from {}; HTTP is served meanwhile", plain(&tls["from"]))),
    }
    let next = at(&tls["next"]);
    let failed = match (tls["failures"].as_u64(), at(&tls["last_failure"])) {
        (Some(1), Some(last)) => format!("; failed {last}"),
        (Some(failures), Some(last)) => format!("; failed {}, last {last}", times(failures)),
        _ => String::new(),
    };
    match (tls["trouble"].as_str(), next) {
        (Some(trouble), Some(next)) => lines.push(format!("{trouble}{failed}; tried again {next}")),
        (Some(trouble), None) => lines.push(trouble.to_owned()),
        (None, Some(next)) => lines.push(format!("the next is ordered {next}")),
        (None, None) => {}
    }
    lines
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

/// A mistake as the daemon's JSON has it, for people.
pub fn show_mistake(mistake: &Value) -> String {
    let text = mistake["text"].as_str().unwrap_or_default();
    match (mistake["line"].as_u64().unwrap_or(0), mistake["key"].as_str().unwrap_or_default()) {
        (0, "") => text.to_owned(),
        (0, key) => format!("{key}: {text}"),
        (line, "") => format!("line {line}: {text}"),
        (line, key) => format!("line {line}, {key}: {text}"),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// How long ago a moment (seconds since 1970) was, roughly.
fn age(at: &Value) -> String {
    let Some(at) = at.as_u64() else { return "-".to_owned() };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    span(at.elapsed().unwrap_or_default())
}
