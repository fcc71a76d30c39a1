//! The command line: one file a verb.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory, Parser, Subcommand};

use crate::source::Uri;

mod check;
mod daemon;
mod dev;
mod key;
mod people;
mod reload;
mod run;
mod sim;
mod status;

/// Something failed: a refused reload, a source that can't be reached, a drain deadline missed.
const FAILED: u8 = 1;
/// As clap has it for a command line that can't be understood.
const USAGE: u8 = 2;
/// `status` found no daemon.
const NOT_RUNNING: u8 = 3;
/// `EX_CONFIG` of sysexits(3): the configuration is no valid configuration.
const CONFIGURATION: u8 = 78;
/// 128 + SIGTERM: a second signal ended it with work unfinished.
const INTERRUPTED: u8 = 143;

/// One binary that turns a bare EC2 instance into a running Discord bot and chat service, keeps it running, and
/// changes it while it runs.
#[derive(Parser)]
#[command(name = "perch", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Try it without AWS and without a Discord account:\n  perch dev\n\n\
    Run it:\n  perch run --config s3://my-bucket/perch.toml\n\n\
    Exit codes: 0 done, 1 failed, 2 usage, 3 no daemon running, 78 configuration, 143 ended by a second signal.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Run),
    Dev(dev::Dev),
    Check(check::Check),
    Status(status::Status),
    Reload(reload::Reload),
    Key(key::Key),
    People(people::People),
    /// Print the description of the API in OpenAPI 3.1
    #[command(
        long_about = "Prints the description of the HTTP API in OpenAPI 3.1, as JSON.\n\n  perch openapi > perch.openapi.json"
    )]
    Openapi,
    Completions(Completions),
    /// Print the manual page in roff
    #[command(
        long_about = "Prints the manual page of perch and its verbs in roff.\n\n  perch man > /usr/share/man/man1/perch.1"
    )]
    Man,
    Sim(sim::Sim),
}

/// Print a shell's completions
///
/// Prints what makes a shell complete perch's verbs and options.
#[derive(Args)]
#[command(after_help = "Example:\n  perch completions bash > /usr/share/bash-completion/completions/perch")]
struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// Where the daemon keeps and shows itself.
#[derive(Args)]
struct Directories {
    /// Where perch keeps what outlives it
    #[arg(long, env = "STATE_DIRECTORY", default_value = "/var/lib/perch", value_name = "DIR", value_parser = first_directory)]
    state_dir: PathBuf,
    #[command(flatten)]
    runtime: RuntimeDirectory,
}

#[derive(Args)]
struct RuntimeDirectory {
    /// Where the running daemon's admin socket is
    #[arg(long, global = true, env = "RUNTIME_DIRECTORY", default_value = "/run/perch", value_name = "DIR", value_parser = first_directory)]
    runtime_dir: PathBuf,
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.verb {
        Verb::Run(run) => run.run(),
        Verb::Dev(dev) => dev.run(),
        Verb::Check(check) => block_on(check.run()),
        Verb::Status(status) => block_on(status.run()),
        Verb::Reload(reload) => block_on(reload.run()),
        Verb::Key(key) => key.run(),
        Verb::People(people) => block_on(people.run()),
        Verb::Sim(sim) => block_on(sim.run()),
        Verb::Openapi => print(&format!("{}\n", crate::http::openapi())),
        Verb::Completions(Completions { shell }) => {
            let mut bytes = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "perch", &mut bytes);
            print_bytes(&bytes)
        }
        Verb::Man => print_bytes(&manual()),
    }
}

/// The manual page: perch itself, then a section a verb, so that one file holds all.
fn manual() -> Vec<u8> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page).and_then(|()| {
        let shown = |verb: &&Command| !verb.is_hide_set() && verb.get_name() != "help";
        let verbs = command.get_subcommands().filter(shown);
        let verbs = verbs.flat_map(|verb| std::iter::once(verb).chain(verb.get_subcommands().filter(shown)));
        verbs.into_iter().try_for_each(|verb| {
            let man = clap_mangen::Man::new(verb.clone());
            let mut section = Vec::new();
            man.render_description_section(&mut section)?;
            man.render_synopsis_section(&mut section)?;
            man.render_options_section(&mut section)?;
            man.render_extra_section(&mut section)?;
            let name = verb.get_bin_name().unwrap_or_else(|| verb.get_name());
            let text = String::from_utf8_lossy(&section).replace(".SH DESCRIPTION\n", "").replace(".SH ", ".SS ");
            writeln!(page, ".SH \"{}\"\n{text}", name.to_uppercase())
        })
    });
    debug_assert!(rendered.is_ok(), "writing to memory can't fail");
    // The page names pages of the verbs' own, which there are not; and what follows the options is examples.
    let page = String::from_utf8_lossy(&page).replace("perch\\-", "perch ").replace("EXTRA", "EXAMPLES AND EXIT CODES");
    page.lines()
        .map(|line| line.strip_suffix("(1)").unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect::<String>()
        .into()
}

/// Runs one verb on a small runtime.
fn block_on(verb: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(verb),
        Err(error) => fail(&format!("the runtime can't be made: {error}")),
    }
}

/// Prints for people or for another program; a reader that has gone away is no failure.
fn print_bytes(bytes: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("standard output can't be written: {error}")),
    }
}

fn print(text: &str) -> ExitCode {
    print_bytes(text.as_bytes())
}

#[expect(clippy::print_stderr, reason = "the command line speaks to people here")]
fn complain(text: &str) {
    eprintln!("perch: {text}");
}

/// Says why, and fails.
fn fail(text: &str) -> ExitCode {
    complain(text);
    ExitCode::from(FAILED)
}

/// A directory; of several, as systemd passes a unit's `StateDirectory=a b`, the first (systemd.exec(5)).
#[expect(clippy::unnecessary_wraps, reason = "clap's parsers can fail")]
fn first_directory(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text.split_once(':').map_or(text, |(first, _)| first)))
}

/// The configuration's address as an argument.
fn parse_uri(text: &str) -> Result<Uri, String> {
    text.parse()
}

/// Text for a terminal: bold, dim or coloured there, plain elsewhere.
struct Style {
    colours: bool,
}

impl Style {
    fn detect() -> Self {
        use std::io::IsTerminal;
        Style { colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }
}
