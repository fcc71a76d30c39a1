//! `perch check`: the daemon's own loader, run dry.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{CONFIGURATION, FAILED, Style, fail, parse_uri, print};
use crate::aws::Aws;
use crate::config::{Config, Mistake, Mistakes};
use crate::secrets;
use crate::source::{self, Look, SourceError, Uri};

/// Check a configuration without running it
///
/// Reads a configuration the way the daemon does, lists every mistake with its key and line, and looks whether the
/// secrets that it names are there. Tokens are not tried.
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
                return self.bad(&version.0, &mistakes);
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
            Err(Mistakes(mistakes)) => return self.bad(&found.version.0, &mistakes),
        };
        let mut mistakes = Vec::new();
        for wanted in config.secrets() {
            if let Err(why) = secrets::fetch(wanted, &aws).await {
                mistakes.push(Mistake { place: wanted.place.clone(), text: why.to_string() });
            }
        }
        if !mistakes.is_empty() {
            return self.bad(&found.version.0, &mistakes);
        }
        if self.json {
            return print(&format!("{}\n", json!({ "valid": true, "version": found.version, "mistakes": [] })));
        }
        let style = Style::detect();
        print(&format!("{} {} (version {}) is good\n", style.good("✓"), self.config, found.version))
    }

    fn bad(&self, version: &str, mistakes: &[Mistake]) -> ExitCode {
        let printed = if self.json {
            print(&format!("{}\n", json!({ "valid": false, "version": version, "mistakes": mistakes })))
        } else {
            let style = Style::detect();
            let list: String = mistakes.iter().map(|mistake| format!("  {mistake}\n")).collect();
            let count = match mistakes.len() {
                1 => "1 mistake".to_owned(),
                count => format!("{count} mistakes"),
            };
            print(&format!("{} {} (version {version}) has {count}:\n{list}", style.bad("✗"), self.config))
        };
        if printed == ExitCode::from(FAILED) { printed } else { ExitCode::from(CONFIGURATION) }
    }
}
