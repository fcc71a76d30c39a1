//! `perch people`: what is kept of those who talk to it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use reqwest::Url;
use serde_json::Value;

use super::{FAILED, NOT_RUNNING, RuntimeDirectory, Style, USAGE, complain, print};
use crate::admin::client::{self, AskError};

/// Removing a large history takes its time; nothing else does.
const PATIENCE: Duration = Duration::from_secs(60);

/// Show who has conversations with perch, export them or delete them
///
/// Lists those of whom something is kept, whoever was heard of last first: people with a cookie (`visitor:`), an API
/// key (`key:`), a sign-in (`oidc:`) or an account on Discord (`discord:`). The 1,000 latest are shown.
#[derive(Args)]
#[command(after_help = "Examples:\n  perch people\n  perch people --json | jq -r '.people[].person'\n  \
    perch people export discord:80351110224678912 >export.json\n  perch people delete discord:80351110224678912\n\n\
    Exit codes: 0 done, 1 failed, or nothing is kept of this person, 3 no daemon running.")]
pub struct People {
    #[command(flatten)]
    runtime: RuntimeDirectory,
    /// Print JSON, for another program
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    Export(Export),
    Delete(Delete),
}

/// Print all that is kept of a person, as JSON
///
/// Prints every conversation of this person as one JSON document.
#[derive(Args)]
#[command(after_help = "Example:\n  perch people export key:alice | jq -r '.conversations[].messages[].text'\n\n\
    Exit codes: 0 done, 1 failed, or nothing is kept of this person, 3 no daemon running.")]
struct Export {
    /// Whom, as `perch people` shows them
    person: String,
}

/// Delete all that is kept of a person
///
/// Deletes every conversation of this person for good, from memory and from the database's files.
#[derive(Args)]
#[command(after_help = "Example:\n  perch people delete key:alice\n\n\
    Exit codes: 0 done, 1 failed, or nothing is kept of this person, 3 no daemon running.")]
struct Delete {
    /// Whom, as `perch people` shows them
    person: String,
}

impl People {
    pub async fn run(self) -> ExitCode {
        let directory = &self.runtime.runtime_dir;
        let done = match &self.verb {
            None => list(directory, self.json).await,
            Some(_) if self.json => {
                complain(
                    "--json is for the list of people: an export is JSON anyway, and there is nothing to print of a deletion",
                );
                return ExitCode::from(USAGE);
            }
            Some(Verb::Export(Export { person })) => {
                let route = about("people/export", person);
                let mut out = std::io::stdout().lock();
                let asked = client::download(directory, Method::GET, &route, PATIENCE, &mut out);
                asked.await.map(|()| ExitCode::SUCCESS)
            }
            Some(Verb::Delete(Delete { person })) => {
                let route = about("people", person);
                let asked = client::ask(directory, Method::DELETE, &route, PATIENCE).await;
                asked.map(|_| print(&format!("{} nothing is kept of {person} any more\n", Style::detect().good("✓"))))
            }
        };
        done.unwrap_or_else(|error| {
            complain(&error.to_string());
            ExitCode::from(if matches!(error, AskError::NotRunning(_)) { NOT_RUNNING } else { FAILED })
        })
    }
}

async fn list(directory: &Path, json: bool) -> Result<ExitCode, AskError> {
    let bytes = client::ask(directory, Method::GET, "/people", PATIENCE).await?;
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(print(&if json { format!("{answer}\n") } else { describe(&answer) }))
}

/// A route with the person it is about.
fn about(route: &str, person: &str) -> String {
    let url = Url::parse_with_params(&format!("http://perch/{route}"), [("person", person)]);
    let url = url.expect("the address in front is a good one, and what comes behind it is encoded");
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

fn describe(answer: &Value) -> String {
    let style = Style::detect();
    let people = answer["people"].as_array().map(Vec::as_slice).unwrap_or_default();
    if people.is_empty() {
        return "nothing is kept of anybody\n".to_owned();
    }
    let mut text = format!("{}\n", style.dim("last heard of         conversations  person"));
    for person in people {
        let shown = |key: &str| person[key].as_str().unwrap_or_default().to_owned();
        let at: String = shown("updated").replace('T', " ").chars().take(19).collect();
        text.push_str(&format!("{at}Z  {:>13}  {}\n", person["conversations"].as_u64().unwrap_or(0), shown("person")));
    }
    let all = answer["all"].as_u64().unwrap_or(0);
    if all > people.len() as u64 {
        text.push_str(&format!("and {} more\n", all - people.len() as u64));
    }
    text
}
