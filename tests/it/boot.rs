//! How perch comes up: with everything in place, with something not there yet, and with something that can't work.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use perch::sim::DEFAULT_TOKEN;

use super::support::aws::{Fault, unique};
use super::support::chat;
use super::support::discord::Discord;
use super::support::host::{Host, KEY};
use super::support::perch::{Perch, Start, clean_command, free_port, perch, wait};

/// What waits longer than a poll in these tests has not noticed; the rest is for a busy machine.
const SLACK: Duration = Duration::from_secs(5);
/// Between two looks before a configuration says how often.
const FIRST_POLL: Duration = Duration::from_secs(2);

/// Both sides of perch answer, and the bot has begun one session.
#[track_caller]
fn assert_serves(host: &Host, perch: &Perch) {
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running");
    assert_eq!(host.discord.ask("hello"), "hello", "{}", perch.log_text());
    assert_eq!(chat::ask(host.port, "good day"), "good day");
    let counters = host.discord.counters();
    assert_eq!((counters.identifies, counters.resumes), (1, 0));
    assert!(counters.violations.is_empty(), "{:?}", counters.violations);
}

#[test]
fn an_instance_boots_from_its_bucket_and_serves() {
    let host = Host::new();
    let version = host.upload(host.config(&host.token()));
    let mut perch = host.perch().ready();
    let status = perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running");
    assert_eq!(status["config"]["version"], version.as_str());
    assert_eq!(status["changes"][0]["outcome"], "applied");
    assert_serves(&host, &perch);
    let asked = host.cloud.requests();
    let pinned = format!("/{}/{KEY}?x-id=GetObject&versionId={version}", host.bucket);
    let gets: Vec<_> = asked.iter().filter(|asked| asked.method == "GET").map(|asked| &*asked.path).collect();
    assert_eq!(gets, [pinned], "one GET, of the version that the HEAD named");
    let secrets = asked.iter().filter(|asked| asked.action.ends_with("GetSecretValue")).count();
    assert_eq!(secrets, 1, "the token is asked for once");
    assert_eq!(host.cloud.credentials_handed_out(), 1, "the role's credentials come from the metadata service");
    assert!(!perch.log_text().contains(DEFAULT_TOKEN) && !status.to_string().contains(DEFAULT_TOKEN));
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    assert_eq!(perch.messages("WARN"), [""; 0]);
    assert_eq!(perch.messages("ERROR"), [""; 0]);
}

#[test]
fn without_versioning_the_etag_names_what_runs() {
    let host = Host::with_versioning(false);
    let version = host.upload(host.config(&host.token()));
    assert_eq!(version.len(), 32, "an MD5: {version}");
    let perch = host.perch().ready();
    assert_eq!(perch.status()["config"]["version"], version.as_str());
    assert_serves(&host, &perch);
    let next = host.upload(host.config(&host.token()));
    perch.wait_version(&next);
    assert_serves(&host, &perch);
}

#[test]
fn the_token_may_be_in_any_place_and_in_several() {
    let mut host = Host::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bot-token");
    // As an editor leaves it: with a line end that does not belong to the token.
    std::fs::write(&file, format!("{DEFAULT_TOKEN}\n")).unwrap();
    let file = file.display();
    let (whole, arn) = host.cloud.create_secret("whole", DEFAULT_TOKEN);
    let keyed = format!("{{\"other\": 1, \"DISCORD_BOT_TOKEN\": \"{DEFAULT_TOKEN}\"}}");
    let (_, keyed_arn) = host.cloud.create_secret("keyed", &keyed);
    let kms = unique("arn:aws:kms:eu-central-1:123456789012:key/discord-bot-dev-token");
    host.cloud.create_secret_named(&kms, &keyed);
    let (lacking, _) = host.cloud.create_secret("lacking", "{\"other\": \"key\"}");
    for token in [
        format!("{{ secret = \"{whole}\" }}"),
        format!("{{ secret = \"{arn}\" }}"),
        format!("{{ secret = \"{keyed_arn}\", key = \"DISCORD_BOT_TOKEN\" }}"),
        format!("{{ secret = \"{kms}\", key = \"DISCORD_BOT_TOKEN\" }}"),
        format!("{{ file = \"{file}\" }}"),
        "{ credential = \"bot-token\" }".to_owned(),
        "{ env = \"THE_BOT_TOKEN\" }".to_owned(),
        // Each place before the last lacks it in its own way.
        format!(
            "[{{ env = \"NOBODY_SET_THIS\" }}, {{ file = \"{file}.gone\" }}, {{ credential = \"gone\" }}, \
             {{ secret = \"gone\" }}, {{ secret = \"{lacking}\", key = \"DISCORD_BOT_TOKEN\" }}, \
             {{ secret = \"{whole}\" }}]"
        ),
    ] {
        host.discord = Discord::start();
        host.port = free_port();
        let version = host.upload(host.config(&token));
        let perch = host
            .perch()
            .env([
                ("CREDENTIALS_DIRECTORY".to_owned(), directory.path().display().to_string()),
                ("THE_BOT_TOKEN".to_owned(), DEFAULT_TOKEN.to_owned()),
            ])
            .ready();
        assert_eq!(perch.status()["config"]["version"], version.as_str(), "{token}");
        assert_serves(&host, &perch);
        assert_eq!(perch.messages("WARN"), [""; 0], "{token}");
    }
}

#[test]
fn it_waits_for_a_configuration_that_is_not_there_yet() {
    let host = Host::new();
    let config = host.config(&host.token());
    // What S3 answers about an object that is not there to whoever may not list the bucket.
    host.cloud.fault(Fault::refuse(403, "AccessDenied", "Access Denied").path(&format!("/{}/", host.bucket)));
    let mut perch = host.perch().start();
    let status = perch.wait_status("two looks", |status| status["config"]["trouble"]["attempts"].as_u64() >= Some(2));
    let (uri, bucket) = (host.uri(), &host.bucket);
    let reason = format!(
        "{uri} does not exist, or may not be read: the answer was 403 AccessDenied (Access Denied), which S3 says for \
         both to a role that lacks s3:ListBucket on `{bucket}`; upload it, or allow the role s3:GetObject and \
         s3:GetObjectVersion"
    );
    assert_eq!(perch.messages("WARN"), [format!("waiting for a configuration: {reason}")]);
    assert_eq!(perch.log().len(), 1, "{}", perch.log_text());
    assert_eq!(status["config"]["state"], "waiting");
    assert_eq!(status["config"]["waiting_for"], reason);
    assert_eq!(status["perch"]["ready"], false);
    let told = perch.notified();
    assert!(
        told.iter().any(|text| text.trim_end() == format!("STATUS=waiting for a configuration: {reason}")),
        "{told:?}"
    );
    assert!(told.iter().any(|text| text.trim_end() == "EXTEND_TIMEOUT_USEC=60000000"), "{told:?}");
    assert!(!told.iter().any(|text| text.contains("READY=1")), "{told:?}");
    // Nothing is there for the clients of either side.
    assert!(!chat::listens(host.port));
    assert_eq!(host.discord.counters().rest_requests, 0);
    host.cloud.clear_faults();
    let uploaded = Instant::now();
    let version = host.upload(config);
    perch.wait_notified("READY=1");
    assert!(uploaded.elapsed() < FIRST_POLL + SLACK, "{:?}", uploaded.elapsed());
    assert_eq!(perch.status()["config"]["version"], version.as_str());
    assert_serves(&host, &perch);
    assert_eq!(perch.messages("WARN").len(), 1, "{}", perch.log_text());
    assert_eq!(perch.messages("ERROR"), [""; 0]);
}

#[test]
fn what_perch_waits_for_may_be_a_good_version() {
    let host = Host::new();
    let bad = host.upload("[http]\nlisten = 8080\n");
    let mut perch = host.perch().start();
    let uri = host.uri();
    let waiting = format!("STATUS=waiting for a configuration: version {bad} of {uri} was refused; upload a good one");
    perch.wait_notified(&waiting);
    assert_eq!(
        perch.messages("ERROR"),
        [format!(
            "version {bad} refused, there is no earlier version to run:\n  \
             line 2, http.listen: must be an address such as \"0.0.0.0:8080\", not an integer"
        )]
    );
    let good = host.upload(host.http_config());
    perch.wait_notified("READY=1");
    assert_eq!(perch.status()["config"]["version"], good.as_str());
}

#[test]
fn it_can_be_ended_while_it_waits_for_an_answer() {
    let host = Host::new();
    host.cloud.fault(Fault::hang());
    let mut perch = host.perch().start();
    wait("a look that hangs", || (!host.cloud.requests().is_empty()).then_some(()));
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
}

#[test]
fn http_serves_while_the_token_is_not_there_yet() {
    let host = Host::new();
    let name = unique("late");
    let version = host.upload(host.config(&format!("{{ secret = \"{name}\", key = \"DISCORD_BOT_TOKEN\" }}")));
    let perch = host.perch().ready();
    let status = perch.status();
    let reason = format!(
        "line 2, discord.token: no place has the secret: secret `{name}` (key `DISCORD_BOT_TOKEN`): does not exist in \
         eu-central-1"
    );
    assert_eq!(status["services"]["discord"]["state"], "waiting");
    assert_eq!(status["services"]["discord"]["reason"], reason);
    assert_eq!(status["config"]["version"], version.as_str());
    assert_eq!(chat::ask(host.port, "anybody?"), "anybody?");
    assert_eq!(host.discord.counters().rest_requests, 0);
    // It is asked for at every poll, and the journal hears of it once.
    host.cloud.forget_requests();
    wait("two more looks for the secret", || (secrets_asked(&host) >= 2).then_some(()));
    assert_eq!(perch.messages("WARN"), [format!("discord is waiting: {reason}")]);
    // A value that lacks the key is no token yet.
    host.cloud.create_secret_named(&name, "{\"TOKEN\": \"elsewhere\"}");
    let lacks = format!(
        "line 2, discord.token: no place has the secret: secret `{name}` (key `DISCORD_BOT_TOKEN`): has no key \
         `DISCORD_BOT_TOKEN`, only `TOKEN`"
    );
    perch.wait_status("the other reason", |status| status["services"]["discord"]["reason"] == lacks.as_str());
    let created = Instant::now();
    host.cloud.put_secret(&name, &format!("{{\"DISCORD_BOT_TOKEN\": \"{DEFAULT_TOKEN}\"}}"));
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running");
    assert!(created.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", created.elapsed());
    assert_serves(&host, &perch);
}

fn secrets_asked(host: &Host) -> usize {
    host.cloud.requests().iter().filter(|asked| asked.action.ends_with("GetSecretValue")).count()
}

#[test]
fn a_token_that_discord_refuses_at_boot_parks_the_bot_alone() {
    let host = Host::new();
    host.discord.take_tokens(&["another"]);
    host.upload(host.config(&host.token()));
    let perch = host.perch().ready();
    let status = perch.wait_status("the bot parked", |status| status["services"]["discord"]["state"] == "parked");
    let reason = status["services"]["discord"]["reason"].as_str().unwrap();
    assert!(reason.contains("Discord refused the bot token (401"), "{reason}");
    assert!(reason.contains("https://discord.com/developers/applications"), "{reason}");
    assert_eq!(perch.messages("ERROR"), [format!("discord is parked until a person acts: {reason}")]);
    assert_eq!(chat::ask(host.port, "still here?"), "still here?");
    assert_eq!(host.discord.counters().identifies, 0);
    host.discord.take_tokens(&[DEFAULT_TOKEN]);
    let reload = perch.verb(&["reload"]);
    assert_eq!(reload.status.code(), Some(0), "{reload:?}");
    assert_serves(&host, &perch);
}

/// What somebody without AWS is told, once, and where: `environment` is all that perch has of it.
fn told_without_aws(environment: &[(&str, &str)]) -> String {
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let checked = clean_command()
        .args(["check", "s3://bucket/perch.toml"])
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .envs(environment.clone())
        .output()
        .unwrap();
    let said = text(&checked.stderr);
    assert_eq!(checked.status.code(), Some(1), "{said}");
    let nothing =
        ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"].map(|name| (name.to_owned(), "/dev/null".to_owned()));
    let mut perch = Start::new("s3://bucket/perch.toml").env(nothing).env(environment).start();
    perch.wait_status("a look", |status| status["config"]["trouble"]["attempts"].as_u64() >= Some(1));
    // One look more, to see that it is told once.
    let asked = perch.verb(&["reload"]);
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    let status = perch.status();
    let warned = perch.messages("WARN");
    assert_eq!(perch.log().len(), 1, "one message: {}", perch.log_text());
    let reason = warned[0].strip_prefix("waiting for a configuration: ").expect("it is a warning").to_owned();
    assert_eq!(status["config"]["waiting_for"], reason);
    assert_eq!(said, format!("perch: {reason}\n"), "`check` says the same");
    assert_eq!(perch.stop().code(), Some(0));
    reason
}

#[test]
fn without_a_region_it_says_what_was_looked_at() {
    let told = told_without_aws(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")]);
    insta::assert_snapshot!(told, @"s3://bucket/perch.toml can't be read: no AWS region: AWS_REGION is not set, no profile names one, and the instance metadata service at http://127.0.0.1:1 does not either (Connection refused (os error 111)); set AWS_REGION");
}

#[test]
fn without_credentials_it_says_what_was_looked_at() {
    let told = told_without_aws(&[
        ("AWS_REGION", "eu-central-1"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"),
    ]);
    insta::assert_snapshot!(told, @"s3://bucket/perch.toml can't be read: no AWS credentials: environment: AWS_ACCESS_KEY_ID is not set; profile: none is defined; web identity: AWS_WEB_IDENTITY_TOKEN_FILE is not set; container: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not set; instance metadata at http://127.0.0.1:1: Connection refused (os error 111)");
}

#[test]
fn without_a_network_it_says_what_was_looked_at() {
    let keys = [("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let nobody = told_without_aws(&[&keys[..], &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]].concat());
    insta::assert_snapshot!(nobody, @"s3://bucket/perch.toml can't be read: no answer from 127.0.0.1:1: Connection refused (os error 111)");
    let nameless = told_without_aws(&[&keys[..], &[("AWS_ENDPOINT_URL", "http://s3.invalid")]].concat());
    insta::assert_snapshot!(nameless, @"s3://bucket/perch.toml can't be read: no answer from s3.invalid: failed to lookup address information: Name or service not known");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code and what was said, of a command line that can't be meant.
fn refused(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = perch(arguments);
    assert!(stdout.is_empty(), "{}", text(&stdout));
    format!("{}\n{}", status.code().expect("it exits"), text(&stderr))
}

#[test]
fn a_command_line_that_can_not_be_meant() {
    insta::assert_snapshot!(refused(&["run"]), @r"
    2
    error: the following required arguments were not provided:
      --config <URI>

    Usage: perch run --config <URI>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["run", "--config", "ftp://host/perch.toml"]), @r"
    2
    error: invalid value 'ftp://host/perch.toml' for '--config <URI>': `ftp://` is not a place perch reads from; write s3://BUCKET/KEY or a file's path

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["run", "--config", "s3://bucket"]), @r"
    2
    error: invalid value 's3://bucket' for '--config <URI>': `s3://bucket` names no object; write s3://BUCKET/KEY

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["run", "--config", ""]), @r"
    2
    error: invalid value '' for '--config <URI>': it is empty; write s3://BUCKET/KEY or a file's path

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["run", "--confg", "perch.toml"]), @r"
    2
    error: unexpected argument '--confg' found

      tip: a similar argument exists: '--config'

    Usage: perch run --config <URI>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["run", "--config", "perch.toml", "--log", "loud"]), @r"
    2
    error: invalid value 'loud' for '--log <OUTPUT>'
      [possible values: auto, journal, text, json]

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["rnu"]), @r"
    2
    error: unrecognized subcommand 'rnu'

    Usage: perch <COMMAND>

    For more information, try '--help'.
    ");
    let nothing = refused(&[]);
    assert!(nothing.starts_with("2\n") && nothing.contains("Usage: perch <COMMAND>"), "{nothing}");
}

/// Runs it to its end, which comes by itself; returns the exit code and the one thing that it said.
#[track_caller]
fn ends(start: Start) -> (i32, String) {
    let mut perch = start.start();
    let code = perch.wait().code().expect("it exits");
    let log = perch.log();
    assert_eq!(log.len(), 1, "one message: {}", perch.log_text());
    assert_eq!(log[0]["level"], "ERROR");
    assert!(!perch.notified().iter().any(|text| text.contains("READY=1")));
    (code, log[0]["message"].as_str().unwrap().to_owned())
}

#[test]
fn a_configuration_file_that_can_not_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().display();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let forbidden = "/proc/sys/net/ipv4/route/flush";
    for (path, said) in [
        (format!("{here}/gone.toml"), format!("{here}/gone.toml does not exist")),
        (here.to_string(), format!("{here} is a directory; name the configuration file in it")),
        (
            format!("{here}/file/perch.toml"),
            format!("{here}/file/perch.toml can't be read: Not a directory (os error 20)"),
        ),
        // Write-only, even for root.
        (forbidden.to_owned(), format!("{forbidden} can't be read: permission denied; see its mode and owner")),
        ("/dev/zero".to_owned(), "/dev/zero is not a regular file".to_owned()),
    ] {
        assert_eq!(ends(Start::new(&path)), (78, format!("no configuration: {said}")));
        let checked = perch(&["check", &path]);
        assert_eq!((checked.status.code(), text(&checked.stderr)), (Some(1), format!("perch: {said}\n")));
    }
}

#[test]
fn a_configuration_file_that_is_none() {
    for (content, said) in [
        ("", "the configuration: is empty"),
        (
            "[http]\nlisten = \"here\"\nport = 1\n\n[[log]]\n",
            "line 2, http.listen: `here` is not an address; write \"0.0.0.0:8080\" or \"[::]:8080\"\n  line 3, http.port: is an unknown key; known here: listen, max_body, origins, tls, trusted_proxies\n  line 5, log: must be a table, not a list",
        ),
    ] {
        let (code, message) = ends(Start::with_text(content));
        assert_eq!(code, 78);
        let (_, list) = message.split_once(" refused, and perch ends:\n  ").expect(&message);
        assert_eq!(list, said);
    }
}

#[test]
fn a_port_that_is_taken_at_boot() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port();
    let (code, message) = ends(Start::with_text(&format!("[http]\nlisten = \"{address}\"\n")));
    assert_eq!(code, 1);
    let (_, list) = message.split_once(" refused, there is no earlier version to run:\n  ").expect(&message);
    assert_eq!(
        list,
        format!(
            "line 2, http.listen: {address} is taken by another process; see which with `ss -ltnp 'sport = :{port}'`, \
             end it or choose another port"
        )
    );
}

fn quiet_config() -> String {
    format!("[http]\nlisten = \"127.0.0.1:{}\"\n", free_port())
}

#[test]
fn directories_that_can_not_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.display();
    let start = |option: &str, path: &str| Start::with_text(&quiet_config()).argument(option).argument(path);
    let state = |path: &str, why: &str| {
        let said = format!("state directory {path} can't be used; name a writable one with --state-dir: {why}");
        assert_eq!(ends(start("--state-dir", path)), (1, said));
    };
    state(&file.to_string(), "File exists (os error 17)");
    state(&format!("{file}/state"), "Not a directory (os error 20)");
    state("/proc/perch", "No such file or directory (os error 2)");
    let socket = format!("{file}/run/admin.sock");
    assert_eq!(
        ends(start("--runtime-dir", &format!("{file}/run"))),
        (
            1,
            format!(
                "admin socket {socket} can't be opened; name a writable directory with --runtime-dir: Not a directory \
                 (os error 20)"
            )
        )
    );
}

#[test]
fn a_second_perch_in_the_same_directories() {
    let mut first = Start::with_text(&quiet_config()).ready();
    let (pid, here) = (first.pid(), first.directory().display().to_string());
    let (state, run) = (format!("{here}/state"), format!("{here}/run"));
    assert_eq!(
        ends(Start::with_text(&quiet_config()).argument("--state-dir").argument(&state)),
        (
            1,
            format!(
                "another perch (process {pid}) runs with the state directory {state}; end it, or name another \
                 directory with --state-dir"
            )
        )
    );
    assert_eq!(
        ends(Start::with_text(&quiet_config()).argument("--runtime-dir").argument(&run)),
        (
            1,
            format!(
                "another perch answers at admin socket {run}/admin.sock; end it, or name another directory with \
                 --runtime-dir"
            )
        )
    );
    // The first one is what it was.
    assert_eq!(first.status()["perch"]["pid"], pid);
    assert_eq!(mode(&first.directory().join("state")), 0o700);
    assert_eq!(first.stop().code(), Some(0));
    // What a killed perch leaves behind is in nobody's way.
    let mut killed = Start::with_text(&quiet_config()).ready();
    killed.signal("KILL");
    killed.wait();
    let here = killed.directory().display();
    let again = Start::with_text(&quiet_config())
        .argument("--state-dir")
        .argument(&format!("{here}/state"))
        .argument("--runtime-dir")
        .argument(&format!("{here}/run"))
        .ready();
    assert_eq!(killed.status()["perch"]["pid"], again.pid());
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn no_daemon_is_its_own_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().to_str().unwrap();
    for verb in ["status", "reload"] {
        let output = perch(&[verb, "--runtime-dir", here]);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    }
}
