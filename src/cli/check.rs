//! `perch check`: the daemon's own loader, run dry.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{CONFIGURATION, FAILED, Style, fail, parse_uri, print};
use crate::aws::Aws;
use crate::config::http_tls::Certificate;
use crate::config::{Config, Mistake, Mistakes};
use crate::http::examine;
use crate::secrets;
use crate::source::{self, Look, SourceError, Uri};

/// Check a configuration without running it
///
/// Reads a configuration the way the daemon does, lists every mistake with its key and line, and looks whether the
/// secrets and certificates that it names are there and will do. Tokens are not tried. Certificate files that a
/// configuration in S3 names may be on another machine: where there are none on this one, a note says so.
#[derive(Args)]
#[command(after_help = "Examples:\n  perch check perch.toml\n  perch check s3://my-bucket/perch.toml\n\n\
    Exit codes: 0 it is good, 78 it is not, 1 it can't be read.")]
pub struct Check {
    /// The configuration: `s3://BUCKET/KEY` or a file's path
    #[arg(env = "PERCH_CONFIG", value_name = "CONFIG", value_parser = parse_uri)]
    config: Uri,
    /// Print JSON, for another program
    #[arg(long)]
    json: bool,
}

impl Check {
    pub async fn run(self) -> ExitCode {
        crate::tls::install_default_provider();
        let aws = Aws::default();
        let found = match source::open(&self.config, &aws).look(None).await {
            Ok(Look::Found(found)) => found,
            Ok(Look::Unchanged) => return fail(&format!("{} brought nothing", self.config)),
            Err(SourceError::Unusable { version, text }) => {
                let mistakes = vec![Mistake { place: crate::config::Place::default(), text }];
                return self.bad(&version.0, &mistakes, &[]);
            }
            Err(error) => {
                if self.json {
                    print(&format!("{}\n", json!({ "valid": false, "error": error.to_string(), "mistakes": [] })));
                }
                return fail(&error.to_string());
            }
        };
        let config = match Config::load(&found.bytes) {
            Ok(config) => config,
            Err(Mistakes(mistakes)) => return self.bad(&found.version.0, &mistakes, &[]),
        };
        let mut mistakes = Vec::new();
        for wanted in config.secrets() {
            if let Err(why) = secrets::fetch(wanted, &aws).await {
                mistakes.push(Mistake { place: wanted.place.clone(), text: why.to_string() });
            }
        }
        let tls = config.http.as_ref().and_then(|http| http.tls.as_ref());
        let mut notes = Vec::new();
        if let Some(Certificate::Files(files)) = tls.map(|tls| &tls.certificate) {
            let seen = examine::files(files, matches!(self.config, Uri::S3 { .. })).await;
            mistakes.extend(seen.mistakes);
            notes = seen.notes;
        }
        if !mistakes.is_empty() {
            mistakes.sort();
            return self.bad(&found.version.0, &mistakes, &notes);
        }
        if self.json {
            let shown = json!({ "valid": true, "version": found.version, "mistakes": [], "notes": notes });
            return print(&format!("{shown}\n"));
        }
        let style = Style::detect();
        let notes = list(&notes, "note").map_or_else(String::new, |notes| format!(", with {notes}"));
        print(&format!("{} {} (version {}) is good{notes}\n", style.good("✓"), self.config, found.version))
    }

    fn bad(&self, version: &str, mistakes: &[Mistake], notes: &[Mistake]) -> ExitCode {
        let printed = if self.json {
            let shown = json!({ "valid": false, "version": version, "mistakes": mistakes, "notes": notes });
            print(&format!("{shown}\n"))
        } else {
            let style = Style::detect();
            let found: Vec<String> = list(mistakes, "mistake").into_iter().chain(list(notes, "note")).collect();
            let found = found.join("\nand ");
            print(&format!("{} {} (version {version}) has {found}\n", style.bad("✗"), self.config))
        };
        if printed == ExitCode::from(FAILED) { printed } else { ExitCode::from(CONFIGURATION) }
    }
}

/// How many there are, and each on a line; nothing where there are none.
fn list(all: &[Mistake], what: &str) -> Option<String> {
    let lines: String = all.iter().map(|one| format!("\n  {one}")).collect();
    let ending = if all.len() == 1 { "" } else { "s" };
    (!all.is_empty()).then(|| format!("{} {what}{ending}:{lines}", all.len()))
}
