//! The command line as people and other programs use it.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use perch::sim::{DEFAULT_TOKEN, Options, Simulator};
use serde_json::{Value, json};

use super::support::aws::Cloud;
use super::support::namespace::has;
use super::support::perch::{Perch, Start, clean_command, free_port, perch};

/// Every verb that people are shown.
const VERBS: [&str; 9] = ["run", "dev", "check", "status", "reload", "people", "completions", "man", "help"];

/// Both outputs and the exit code, as somebody at a terminal sees them.
fn session(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    format!("{}{}exit {}", text(&output.stdout), text(&output.stderr), output.status.code().unwrap())
}

/// A running daemon with both services, on the simulator.
struct Running {
    perch: Perch,
    port: u16,
    simulator: Simulator,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let simulator = runtime.block_on(Simulator::start(Options::default())).unwrap();
        let port = free_port();
        let text = format!(
            "[http]\nlisten = \"127.0.0.1:{port}\"\n[discord]\napi_url = \"{}\"\ntoken = {{ env = \"TOKEN\" }}\n",
            simulator.url()
        );
        let perch = Start::with_text(&text).env([("TOKEN".to_owned(), DEFAULT_TOKEN.to_owned())]).ready();
        perch.wait_status("a Discord session", |status| {
            // The latency comes with the first heartbeat's answer.
            status["discord"]["guilds"] == 1
        });
        Running { perch, port, simulator, _runtime: runtime }
    }

    fn edit(&self, change: impl Fn(String) -> String) {
        let path = self.perch.config_path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, change(text)).unwrap();
    }

    /// `text` without what differs from run to run.
    fn redacted(&self, text: &str) -> String {
        let status = self.perch.status();
        let mut text = text
            .replace(self.perch.directory().to_str().unwrap(), "DIRECTORY")
            .replace(&self.simulator.url(), "SIMULATOR")
            .replace(&format!("process {}", self.perch.pid()), "process PID")
            .replace(&format!("127.0.0.1:{}", self.port), "127.0.0.1:PORT");
        let refused = status["config"]["refused"]["version"].as_str().unwrap_or("none");
        let changes = status["changes"].as_array().into_iter().flatten();
        let versions = changes.flat_map(|change| [&change["from"], &change["to"]]).filter_map(Value::as_str);
        let live = status["config"]["version"].as_str().unwrap();
        text = text.replace(live, "LIVE").replace(refused, "REFUSED");
        for version in versions {
            text = text.replace(version, "EARLIER");
        }
        times(&text)
    }
}

/// Times and durations as `N`: `3 s`, `2 ms`, and moments as `MOMENT`.
fn times(text: &str) -> String {
    text.split('\n')
        .map(|line| {
            let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            for at in 1..words.len() {
                let unit = words[at].trim_end_matches([',', ')', ':']);
                let number = words[at - 1].trim_start_matches('(');
                if ["s", "ms", "min"].contains(&unit)
                    && !number.is_empty()
                    && number.bytes().all(|b| b.is_ascii_digit())
                {
                    words[at - 1] = words[at - 1].replace(number, "N");
                }
                if words[at].ends_with('Z') && words[at - 1].split('-').count() == 3 {
                    "MOMENT".clone_into(&mut words[at - 1]);
                    words[at] = String::new();
                }
            }
            words.join(" ")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn status_tells_people_what_runs_what_changed_and_what_was_refused() {
    let running = Running::start();
    let shown = session(&running.perch.verb(&["status"]));
    insta::assert_snapshot!(running.redacted(&shown), @r##"
    perch 0.1.0 (process PID), up N s, ready

    configuration  DIRECTORY/perch.toml
      version   LIVE, baking, applied N s ago

    services
      discord   running for N s
                session, as perch, shard 0/1, latency not known yet, in 1 guild
                IDENTIFYs 1 (999 left today), RESUMEs 0
                answered 0, refused 0, lost 0
                invite it with https://discord.com/oauth2/authorize?client_id=1100000000000000010&scope=bot&permissions=274877975552
      http      running for N s
                listens on 127.0.0.1:PORT

    last changes
      MOMENT   applied  LIVE  (change 1: start, N ms)
    exit 0
    "##);

    running.edit(|text| text + "[log]\nlevel = \"debug\"\n");
    running.perch.wait_status("the edit", |status| status["changes"][0]["id"] == 2);
    running.edit(|text| text.replace("\"debug\"", "\"loud\"") + "[chat]\nfrontend = \"echo\"\n");
    running.perch.wait_status("the refusal", |status| status["config"]["refused"].is_object());
    let shown = session(&running.perch.verb(&["status"]));
    insta::assert_snapshot!(running.redacted(&shown), @r##"
    perch 0.1.0 (process PID), up N s, ready

    configuration  DIRECTORY/perch.toml
      version   LIVE, baking, applied N s ago
      refused   REFUSED, N s ago:
        line 7, log.level: `loud` is not one of "error", "warn", "info", "debug", "trace"
        line 9, chat.frontend: is an unknown key; known here: api_key, attachments, backend, base_url, history, max_tokens, model, system, temperature, timeout

    services
      discord   running for N s
                session, as perch, shard 0/1, latency not known yet, in 1 guild
                IDENTIFYs 1 (999 left today), RESUMEs 0
                answered 0, refused 0, lost 0
                invite it with https://discord.com/oauth2/authorize?client_id=1100000000000000010&scope=bot&permissions=274877975552
      http      running for N s
                listens on 127.0.0.1:PORT

    last changes
      MOMENT   refused  REFUSED  (change 3: new version, N ms)
        line 7, log.level: `loud` is not one of "error", "warn", "info", "debug", "trace"
        line 9, chat.frontend: is an unknown key; known here: api_key, attachments, backend, base_url, history, max_tokens, model, system, temperature, timeout
      MOMENT   applied  LIVE  (change 2: new version, N ms)
        log.level: info → debug
      MOMENT   applied  EARLIER  (change 1: start, N ms)
    exit 0
    "##);

    let refused = running.perch.verb(&["reload"]);
    insta::assert_snapshot!(running.redacted(&session(&refused)), @r##"
    ✗ refused: version REFUSED; version LIVE stays in use
      line 7, log.level: `loud` is not one of "error", "warn", "info", "debug", "trace"
      line 9, chat.frontend: is an unknown key; known here: api_key, attachments, backend, base_url, history, max_tokens, model, system, temperature, timeout
    exit 1
    "##);
    running.edit(|text| text.replace("\"loud\"", "\"info\"").replace("frontend", "backend"));
    let applied = running.perch.verb(&["reload"]);
    insta::assert_snapshot!(running.redacted(&session(&applied)), @r##"
    ✓ applied: version LIVE
      log.level: debug → info
    exit 0
    "##);
    let unchanged = running.perch.verb(&["reload"]);
    insta::assert_snapshot!(running.redacted(&session(&unchanged)), @r##"
    ✓ nothing new: version LIVE
    exit 0
    "##);
}

#[test]
fn status_tells_programs_the_same_under_fixed_keys() {
    let running = Running::start();
    let status = running.perch.status();
    let word = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    assert!(word(&status["config"]["version"]) && word(&status["config"]["state"]), "{status:#}");
    assert_eq!(status["changes"][0]["outcome"], "applied");
    for service in ["http", "discord"] {
        assert_eq!(status["services"][service]["state"], "running", "{status:#}");
        assert!(status["services"][service]["since"].as_u64().is_some_and(|since| since > 1_700_000_000), "{status:#}");
    }
    assert_eq!(status["discord"]["identifies"], 1);
    assert_eq!(status["discord"]["resumes"], 0);
    assert_eq!(status["http"]["listeners"], json!([format!("127.0.0.1:{}", running.port)]));
    // Why a service does not run, where one doesn't.
    running.simulator.change(perch::sim::Settings { tokens: Some(Vec::new()), ..Default::default() }).unwrap();
    let status =
        running.perch.wait_status("Discord to be parked", |status| status["services"]["discord"]["state"] == "parked");
    assert!(status["services"]["discord"]["reason"].as_str().unwrap().contains("4004"), "{status:#}");
    let answer = running.perch.verb(&["reload", "--json"]);
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answer["outcome"], "refused", "{answer:#}");
}

#[test]
fn without_a_daemon_status_and_reload_say_so_and_exit_3() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for verb in ["status", "reload"] {
        let shown = session(&perch(&[verb, "--runtime-dir", path])).replace(path, "DIRECTORY");
        insta::allow_duplicates! {
            insta::assert_snapshot!(shown, @r##"
            perch: no perch is running here: nothing listens on DIRECTORY/admin.sock; name another directory with --runtime-dir
            exit 3
            "##);
        }
        // One that was killed leaves its socket.
        drop(std::os::unix::net::UnixListener::bind(directory.path().join("admin.sock")).unwrap());
        assert!(session(&perch(&[verb, "--runtime-dir", path])).ends_with("exit 3"));
        std::fs::remove_file(directory.path().join("admin.sock")).unwrap();
    }
}

#[test]
fn check_finds_every_mistake_in_a_file_as_the_daemon_would() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("perch.toml");
    let check = |text: &str, arguments: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let output = clean_command().arg("check").arg(&path).args(arguments).output().unwrap();
        let shown = session(&output).replace(directory.path().to_str().unwrap(), "DIRECTORY");
        let (before, rest) =
            shown.split_once("version ").or(shown.split_once("\"version\":\"")).unwrap_or((&shown, ""));
        let version: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
        if version.is_empty() { before.to_owned() } else { shown.replace(&version, "VERSION") }
    };
    insta::assert_snapshot!(check("[http]\n", &[]), @r##"
    ✓ DIRECTORY/perch.toml (version VERSION) is good
    exit 0
    "##);
    insta::assert_snapshot!(check("[http]\n", &["--json"]), @r##"
    {"mistakes":[],"notes":[],"valid":true,"version":"VERSION"}
    exit 0
    "##);
    let three = "[http]\nlisten = \"localhost:8080\"\nport = 80\n\n[reload]\npoll = \"1ms\"\n";
    insta::assert_snapshot!(check(three, &[]), @r##"
    ✗ DIRECTORY/perch.toml (version VERSION) has 3 mistakes:
      line 2, http.listen: `localhost:8080` is not an address; write "0.0.0.0:8080" or "[::]:8080"
      line 3, http.port: is an unknown key; known here: listen, max_body, origins, tls, trusted_proxies
      line 6, reload.poll: `1ms` is out of range; it goes from 1s to 1h
    exit 78
    "##);
    insta::assert_snapshot!(check(three, &["--json"]), @r##"
    {"mistakes":[{"key":"http.listen","line":2,"text":"`localhost:8080` is not an address; write \"0.0.0.0:8080\" or \"[::]:8080\""},{"key":"http.port","line":3,"text":"is an unknown key; known here: listen, max_body, origins, tls, trusted_proxies"},{"key":"reload.poll","line":6,"text":"`1ms` is out of range; it goes from 1s to 1h"}],"notes":[],"valid":false,"version":"VERSION"}
    exit 78
    "##);
    insta::assert_snapshot!(check("[http\n", &[]), @r##"
    ✗ DIRECTORY/perch.toml (version VERSION) has 1 mistake:
      line 1: is not TOML: unclosed table, expected `]`
    exit 78
    "##);
    insta::assert_snapshot!(check("[discord]\ntoken = [{ env = \"NO_SUCH\" }, { file = \"/no/such\" }]\n", &[]), @r##"
    ✗ DIRECTORY/perch.toml (version VERSION) has 1 mistake:
      line 2, discord.token: no place has the secret: environment variable `NO_SUCH`: is not set; file `/no/such`: does not exist
    exit 78
    "##);
    insta::assert_snapshot!(check("", &[]), @r##"
    ✗ DIRECTORY/perch.toml (version VERSION) has 1 mistake:
      the configuration: is empty
    exit 78
    "##);
    std::fs::remove_file(&path).unwrap();
    let missing = session(&clean_command().arg("check").arg(&path).output().unwrap());
    insta::assert_snapshot!(missing.replace(directory.path().to_str().unwrap(), "DIRECTORY"), @r##"
    perch: DIRECTORY/perch.toml does not exist
    exit 1
    "##);
    insta::assert_snapshot!(session(&perch(&["check", "ftp://example.com/perch.toml"])), @r##"
    error: invalid value 'ftp://example.com/perch.toml' for '<CONFIG>': `ftp://` is not a place perch reads from; write s3://BUCKET/KEY or a file's path

    For more information, try '--help'.
    exit 2
    "##);
}

#[test]
fn check_reads_s3_and_secrets_with_the_operators_own_credentials() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let uri = format!("s3://{bucket}/perch.toml");
    let check = || {
        let output = clean_command().args(["check", &uri]).envs(cloud.env()).output().unwrap();
        session(&output).replace(&bucket, "BUCKET").replace(&cloud.url(), "AWS")
    };
    insta::assert_snapshot!(check(), @r##"
    perch: s3://BUCKET/perch.toml does not exist; upload it
    exit 1
    "##);
    let (name, _) = cloud.create_secret("bot", "{\"OTHER_KEY\": \"x\"}");
    let text = format!("[discord]\ntoken = {{ secret = \"{name}\", key = \"DISCORD_BOT_TOKEN\" }}\n");
    let version = cloud.put_object(&bucket, "perch.toml", &text);
    insta::assert_snapshot!(check().replace(&version, "VERSION").replace(&name, "SECRET"), @r##"
    ✗ s3://BUCKET/perch.toml (version VERSION) has 1 mistake:
      line 2, discord.token: no place has the secret: secret `SECRET` (key `DISCORD_BOT_TOKEN`): has no key `DISCORD_BOT_TOKEN`, only `OTHER_KEY`
    exit 78
    "##);
    cloud.put_secret(&name, "{\"DISCORD_BOT_TOKEN\": \"x\"}");
    insta::assert_snapshot!(check().replace(&version, "VERSION"), @r##"
    ✓ s3://BUCKET/perch.toml (version VERSION) is good
    exit 0
    "##);
}

fn help(arguments: &[&str]) -> String {
    let output = clean_command().args(arguments).env("COLUMNS", "100").output().unwrap();
    // Between paragraphs of an option there are lines of spaces.
    session(&output).lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
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

    The simulator takes the place of Discord whatever the file's [discord] table says, so no token is
    needed.
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
    insta::assert_snapshot!(help(&["status", "--help"]), @r##"
    Show what runs

    Shows the running daemon's configuration version, its services and since when, the Discord session,
    the last changes and what was refused and why.

    Usage: perch status [OPTIONS]

    Options:
          --runtime-dir <DIR>
              Where the running daemon's admin socket is

              [env: RUNTIME_DIRECTORY=]
              [default: /run/perch]

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
    insta::assert_snapshot!(help(&["reload", "--help"]), @r##"
    Look for a new configuration and new secrets now

    Makes the running daemon look at its configuration and secrets at once, waits, and prints what came
    of it. What could not be prepared before is tried again, and so is a service that is parked.

    Usage: perch reload [OPTIONS]

    Options:
          --runtime-dir <DIR>
              Where the running daemon's admin socket is

              [env: RUNTIME_DIRECTORY=]
              [default: /run/perch]

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
    insta::assert_snapshot!(help(&["people", "--help"]), @r##"
    Show who has conversations with perch, export them or delete them

    Lists those of whom something is kept, whoever was heard of last first: people with a cookie
    (`visitor:`), an API key (`key:`), a sign-in (`oidc:`) or an account on Discord (`discord:`). The
    1,000 latest are shown.

    Usage: perch people [OPTIONS]
           perch people <COMMAND>

    Commands:
      export  Print all that is kept of a person, as JSON
      delete  Delete all that is kept of a person
      help    Print this message or the help of the given subcommand(s)

    Options:
          --runtime-dir <DIR>
              Where the running daemon's admin socket is

              [env: RUNTIME_DIRECTORY=]
              [default: /run/perch]

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

#[test]
fn completions_know_every_verb_and_load() {
    for shell in ["bash", "zsh", "fish"] {
        let output = perch(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let script = String::from_utf8(output.stdout).unwrap();
        for verb in VERBS.iter().chain(&["--config", "--runtime-dir"]) {
            let known = script.contains(verb) || script.contains(&format!("-l {}", verb.trim_start_matches('-')));
            assert!(known, "{shell} does not know {verb}");
        }
        if has(shell) {
            let flag = if shell == "fish" { "--no-execute" } else { "-n" };
            let mut shell = Command::new(shell).arg(flag).stdin(Stdio::piped()).spawn().unwrap();
            shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success());
        }
    }
    // What somebody gets who types `perch st` and presses tab.
    let script = String::from_utf8(perch(&["completions", "bash"]).stdout).unwrap();
    let typed = "\nCOMP_WORDS=(perch st) COMP_CWORD=1; _perch perch st perch; echo \"${COMPREPLY[@]}\"\n";
    let output = Command::new("bash").arg("-c").arg(script + typed).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "status", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_manual_page_renders_without_a_warning_and_has_every_verb() {
    let page = perch(&["man"]).stdout;
    let render = |program: &str, arguments: &[&str]| {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "100")
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let copy = page.clone();
        let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{program}");
        String::from_utf8(output.stdout).unwrap()
    };
    if has("mandoc") {
        // Its warnings are about a date that the page does not have, and spacing.
        render("mandoc", &["-T", "lint", "-W", "error"]);
    }
    if has("groff") {
        render("groff", &["-man", "-Tutf8", "-ww", "-rCHECKSTYLE=3", "-z"]);
    }
    if has("man") {
        let text = render("man", &["-l", "-"]);
        for verb in VERBS.iter().filter(|verb| **verb != "help") {
            assert!(text.contains(&format!("PERCH {}", verb.to_uppercase())), "{verb} is not in the page:\n{text}");
        }
        assert!(!text.contains("discord-address") && !text.contains("perch sim"), "{text}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = clean_command().arg("man").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
