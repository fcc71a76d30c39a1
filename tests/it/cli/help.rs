//! What the verbs say of themselves, and what is said of a command line that is wrong.

use super::super::support::perch::clean_command;
use super::session;

fn help(arguments: &[&str]) -> String {
    let output = clean_command().args(arguments).env("COLUMNS", "100").output().unwrap();
    // Between paragraphs of an option there are lines of spaces.
    session(&output).lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The same with what is said of `--runtime-dir` everywhere shortened, as the help of `run` has it.
#[track_caller]
fn help_beside_runtime_dir(arguments: &[&str]) -> String {
    let option = "      --runtime-dir <DIR>";
    let said = "\n          Where the running daemon's admin socket is\n\n          [env: RUNTIME_DIRECTORY=]\n          \
                [default: /run/perch]\n";
    let text = help(arguments);
    assert!(text.contains(&format!("{option}{said}")), "{text}");
    text.replace(said, " …\n")
}

#[test]
fn help_shows_the_verbs_and_how_to_begin() {
    insta::assert_snapshot!(help(&["--help"]), @r##"
    One binary that turns a bare EC2 instance into a running Discord bot and chat service, keeps it
    running, and changes it while it runs

    Usage: perch <COMMAND>

    Commands:
      run          Run the daemon
      dev          Try perch on this machine, with no AWS and no Discord account
      check        Check a configuration without running it
      status       Show what runs
      reload       Look for a new configuration and new secrets now
      key          Make an API key
      people       Show who has conversations with perch, export them or delete them
      openapi      Print the description of the API in OpenAPI 3.1
      completions  Print a shell's completions
      man          Print the manual page in roff
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Try it without AWS and without a Discord account:
      perch dev

    Run it:
      perch run --config s3://my-bucket/perch.toml

    Exit codes: 0 done, 1 failed, 2 usage, 3 no daemon running, 78 configuration, 143 ended by a second
    signal.
    exit 0
    "##);
}

#[test]
fn help_of_the_daemons_verbs_is_worth_reading() {
    insta::assert_snapshot!(help(&["run", "--help"]), @r##"
    Run the daemon

    Reads the configuration, runs what it asks for, and applies each new version of it. Region,
    credentials and endpoints are the AWS SDK's own: AWS_REGION, the instance's role over IMDSv2,
    AWS_ENDPOINT_URL and so on.

    SIGHUP looks for changes at once. SIGTERM finishes what is in flight and exits 0; a second one ends
    it at once.

    Usage: perch run [OPTIONS] --config <URI>

    Options:
          --config <URI>
              The configuration: s3://BUCKET/KEY or a file's path

              [env: PERCH_CONFIG=]

          --state-dir <DIR>
              Where perch keeps what outlives it

              [env: STATE_DIRECTORY=]
              [default: /var/lib/perch]

          --runtime-dir <DIR>
              Where the running daemon's admin socket is

              [env: RUNTIME_DIRECTORY=]
              [default: /run/perch]

          --log <OUTPUT>
              Where log entries go

              Possible values:
              - auto:    The journal if standard error is connected to it, text on a terminal, JSON
                elsewhere
              - journal: The journal's own socket, with fields
              - text:    Lines for people on standard error
              - json:    Lines of JSON on standard error

              [env: PERCH_LOG=]
              [default: auto]

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      perch run --config s3://my-bucket/perch.toml
      perch run --config /etc/perch/perch.toml --state-dir /tmp/perch --runtime-dir /tmp/perch

    With a file, an invalid configuration ends perch with 78; with S3 it waits for a good version.
    exit 0
    "##);
    insta::assert_snapshot!(help(&["dev", "--help"]), @r##"
    Try perch on this machine, with no AWS and no Discord account

    Runs the daemon on this machine with a local file as its configuration and the Discord simulator in
    place of Discord, and prints where the chat page and the simulator's page are. Edit the file, and
    the change is applied.

    Usage: perch dev [OPTIONS] [CONFIG]

    Arguments:
      [CONFIG]
              The configuration file; a built-in one is written and used when none is named

    Options:
          --state-dir <DIR>
              Where perch keeps what outlives it [default: perch-dev in the user's state directory]

          --runtime-dir <DIR>
              Where the running daemon's admin socket is [default: the state directory]

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      perch dev
      perch dev my-perch.toml

    The simulator takes the place of Discord whatever the file's [discord] table says: the token that it
    names is not looked up.
    exit 0
    "##);
}

#[test]
#[expect(clippy::too_many_lines, reason = "the texts are long")]
fn help_of_the_other_verbs_is_worth_reading() {
    insta::assert_snapshot!(help(&["check", "--help"]), @r##"
    Check a configuration without running it

    Reads a configuration the way the daemon does, lists every mistake with its key and line, and looks
    whether the secrets and certificates that it names are there and will do. Tokens are not tried.
    Certificate files that a configuration in S3 names may be on another machine: where there are none
    on this one, a note says so.

    Usage: perch check [OPTIONS] <CONFIG>

    Arguments:
      <CONFIG>
              The configuration: `s3://BUCKET/KEY` or a file's path

              [env: PERCH_CONFIG=]

    Options:
          --json
              Print JSON, for another program

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      perch check perch.toml
      perch check s3://my-bucket/perch.toml

    Exit codes: 0 it is good, 78 it is not, 1 it can't be read.
    exit 0
    "##);
    insta::assert_snapshot!(help_beside_runtime_dir(&["status", "--help"]), @r##"
    Show what runs

    Shows the running daemon's configuration version, its services and since when, the Discord session,
    the last changes and what was refused and why.

    Usage: perch status [OPTIONS]

    Options:
          --runtime-dir <DIR> …

          --history
              Show every change that is remembered, with who brought it and how long each step took

          --json
              Print JSON, for another program

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      perch status
      perch status --history
      perch status --json | jq .services.discord.state

    Exit codes: 0 it runs, 1 the daemon gave no answer, 3 no daemon running.
    exit 0
    "##);
    insta::assert_snapshot!(help_beside_runtime_dir(&["reload", "--help"]), @r##"
    Look for a new configuration and new secrets now

    Makes the running daemon look at its configuration and secrets at once, waits, and prints what came
    of it. What could not be prepared before is tried again, and so is a service that is parked.

    Usage: perch reload [OPTIONS]

    Options:
          --runtime-dir <DIR> …

          --force
              Try the newest version again even though it was applied before and undone

          --json
              Print JSON, for another program

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      perch reload
      perch reload --json | jq -r .outcome
      perch reload --force

    Exit codes: 0 applied or nothing new, 1 refused or not to be had, 3 no daemon running.
    exit 0
    "##);
    insta::assert_snapshot!(help_beside_runtime_dir(&["people", "--help"]), @r##"
    Show who has conversations with perch, export them or delete them

    Lists those of whom something is kept, whoever was heard of last first: people with a cookie
    (`visitor:`), an API key (`key:`), a sign-in (`oidc:`) or an account on Discord (`discord:`). The
    1,000 latest are shown.

    Usage: perch people [OPTIONS] [COMMAND]

    Commands:
      export  Print all that is kept of a person, as JSON
      delete  Delete all that is kept of a person
      help    Print this message or the help of the given subcommand(s)

    Options:
          --runtime-dir <DIR> …

          --json
              Print JSON, for another program

      -h, --help
              Print help (see a summary with '-h')

    Examples:
      perch people
      perch people --json | jq -r '.people[].person'
      perch people export discord:80351110224678912 >export.json
      perch people delete discord:80351110224678912

    Exit codes: 0 done, 1 failed, or nothing is kept of this person, 3 no daemon running.
    exit 0
    "##);
    insta::assert_snapshot!(help(&["completions", "--help"]), @r##"
    Print a shell's completions

    Prints what makes a shell complete perch's verbs and options.

    Usage: perch completions <SHELL>

    Arguments:
      <SHELL>
              The shell

              [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -h, --help
              Print help (see a summary with '-h')

    Example:
      perch completions bash > /usr/share/bash-completion/completions/perch
    exit 0
    "##);
    insta::assert_snapshot!(help(&["man", "--help"]), @r##"
    Prints the manual page of perch and its verbs in roff.

      perch man > /usr/share/man/man1/perch.1

    Usage: perch man

    Options:
      -h, --help
              Print help (see a summary with '-h')
    exit 0
    "##);
}

#[test]
fn a_command_line_that_is_wrong_says_what_would_be_right() {
    insta::assert_snapshot!(help(&["stats"]), @r##"
    error: unrecognized subcommand 'stats'

      tip: a similar subcommand exists: 'status'

    Usage: perch <COMMAND>

    For more information, try '--help'.
    exit 2
    "##);
    insta::assert_snapshot!(help(&["run"]), @r##"
    error: the following required arguments were not provided:
      --config <URI>

    Usage: perch run --config <URI>

    For more information, try '--help'.
    exit 2
    "##);
}
