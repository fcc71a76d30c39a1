//! `perch check`: the daemon's loader, run dry.

use super::super::support::aws::Cloud;
use super::super::support::perch::{clean_command, perch};
use super::session;

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
