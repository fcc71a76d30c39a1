//! What perch says while it runs: to the journal with fields, to a terminal as text, anywhere else as JSON lines.
//!
//! `journalctl -u perch` shows nothing but the message, so a message says all that a person needs; the fields beside
//! it (`service`, `change`, `config_version`, `request_id`, in the journal with the prefix `PERCH_`) are for filtering.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

pub mod lines;
pub mod metrics;
pub mod panics;

use lines::{Format, Lines};

/// Where journald takes entries with fields: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Where the entries go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// The journal if standard error is connected to it, text on a terminal, JSON elsewhere
    Auto,
    /// The journal's own socket, with fields
    Journal,
    /// Lines for people on standard error
    Text,
    /// Lines of JSON on standard error
    Json,
}

/// Changes the level while perch runs.
#[derive(Clone)]
pub struct LevelHandle(Option<reload::Handle<Targets, Registry>>);

impl LevelHandle {
    /// A handle that changes nothing, for tests that bring their own subscriber.
    #[must_use]
    pub fn none() -> Self {
        LevelHandle(None)
    }

    /// Takes effect with the next entry.
    pub fn set(&self, level: Level) {
        if let Some(handle) = &self.0 {
            // It fails only if the subscriber is gone, and then there is nobody to tell.
            drop(handle.reload(targets(level)));
        }
    }
}

/// perch at `level`. Libraries say little above it: their errors always, and at `debug` and `trace` their `info`,
/// never more, as some print whole frames, tokens included, below that.
fn targets(level: Level) -> Targets {
    let libraries = if level >= Level::DEBUG { LevelFilter::INFO } else { LevelFilter::ERROR };
    // serenity's spans hold whole requests at `info` already.
    let serenity = libraries.min(LevelFilter::WARN);
    Targets::new().with_default(libraries).with_target("serenity", serenity).with_target("perch", level)
}

/// Starts saying things. Call it once.
///
/// # Errors
/// When the journal is asked for by name and can't be reached.
pub fn start(output: Output, level: Level) -> std::io::Result<LevelHandle> {
    let (filter, handle) = reload::Layer::new(targets(level));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match choose(output) {
        Output::Journal => Box::new(
            tracing_journald::Layer::new()?
                .with_field_prefix(Some("PERCH".to_owned()))
                .with_syslog_identifier("perch".to_owned())
                .with_priority_mappings(PriorityMappings {
                    error: Priority::Error,
                    warn: Priority::Warning,
                    info: Priority::Informational,
                    debug: Priority::Debug,
                    trace: Priority::Debug,
                }),
        ),
        Output::Text => Box::new(Lines::new(Format::Text { colour: std::io::stderr().is_terminal() })),
        Output::Auto | Output::Json => Box::new(Lines::new(Format::Json)),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    panics::install();
    Ok(LevelHandle(Some(handle)))
}

fn choose(output: Output) -> Output {
    if output != Output::Auto {
        return output;
    }
    if std::io::stderr().is_terminal() {
        return Output::Text;
    }
    let journal = match std::env::var("JOURNAL_STREAM") {
        // systemd sets it to the device and inode of the journal's stream; a service whose standard error was
        // redirected elsewhere has another inode there (systemd.exec(5)).
        Ok(stream) => standard_error_is(&stream),
        // A unit with `StandardError=null` or a file still has the journal.
        Err(_) => std::env::var_os("INVOCATION_ID").is_some() || std::env::var_os("NOTIFY_SOCKET").is_some(),
    };
    if journal && Path::new(JOURNAL_SOCKET).exists() { Output::Journal } else { Output::Json }
}

fn standard_error_is(stream: &str) -> bool {
    let Ok(file) = std::io::stderr().as_fd().try_clone_to_owned().map(File::from) else { return false };
    let Ok(metadata) = file.metadata() else { return false };
    stream == format!("{}:{}", metadata.dev(), metadata.ino())
}
