//! `perch reload`: look now.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::{FAILED, NOT_RUNNING, RuntimeDirectory, Style, complain, print};
use crate::admin::client::{self, AskError};

/// A look and a try, and those under way before them, have time-outs of their own; together they are shorter.
const PATIENCE: Duration = Duration::from_mins(3);

/// Look for a new configuration and new secrets now
///
/// Makes the running daemon look at its configuration and secrets at once, waits, and prints what came of it. What
/// could not be prepared before is tried again, and so is a service that is parked.
#[derive(Args)]
#[command(after_help = "Examples:\n  perch reload\n  perch reload --json | jq -r .outcome\n  perch reload --force\n\n\
    Exit codes: 0 applied or nothing new, 1 refused or not to be had, 3 no daemon running.")]
pub struct Reload {
    #[command(flatten)]
    runtime: RuntimeDirectory,
    /// Try the newest version again even though it was applied before and undone
    #[arg(long)]
    force: bool,
    /// Print JSON, for another program
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub async fn run(self) -> ExitCode {
        let route = if self.force { "/reload?force=true" } else { "/reload" };
        let bytes = match client::ask(&self.runtime.runtime_dir, Method::POST, route, PATIENCE).await {
            Ok(bytes) => bytes,
            Err(error) => {
                complain(&error.to_string());
                return ExitCode::from(if matches!(error, AskError::NotRunning(_)) { NOT_RUNNING } else { FAILED });
            }
        };
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let outcome = answer["outcome"].as_str().unwrap_or("unknown");
        if self.json {
            print(&format!("{answer}\n"));
        } else {
            print(&describe(outcome, &answer));
        }
        match outcome {
            "applied" | "unchanged" => ExitCode::SUCCESS,
            _ => ExitCode::from(FAILED),
        }
    }
}

fn describe(outcome: &str, answer: &Value) -> String {
    let style = Style::detect();
    let version = answer["version"].as_str().unwrap_or("none");
    let list = |key: &str, show: &dyn Fn(&Value) -> String| -> String {
        answer[key].as_array().into_iter().flatten().map(|item| format!("  {}\n", show(item))).collect()
    };
    match outcome {
        "applied" => {
            let steps = list("steps", &|step| step.as_str().unwrap_or_default().to_owned());
            let bake = match answer["bake"].as_u64() {
                None | Some(0) => String::new(),
                Some(seconds) => format!("  it is watched for {seconds} s, and undone if it makes things unhealthy\n"),
            };
            format!("{} applied: version {version}\n{steps}{bake}", style.good("✓"))
        }
        "unchanged" => format!("{} nothing new: version {version}\n", style.good("✓")),
        "refused" => {
            let refused = answer["refused"].as_str().unwrap_or("unknown");
            let mistakes = list("mistakes", &super::status::show_mistake);
            format!("{} refused: version {refused}; version {version} stays in use\n{mistakes}", style.bad("✗"))
        }
        _ => {
            let text = answer["text"].as_str().unwrap_or_default();
            format!("{} {outcome}: {text}; version {version} stays in use\n", style.bad("✗"))
        }
    }
}
