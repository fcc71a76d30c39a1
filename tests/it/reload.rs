//! How perch changes while it serves: what is applied and when, what is refused and how, and what nobody notices.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use perch::sim::DEFAULT_TOKEN;
use serde_json::{Value, json};

use super::support::aws::{Fault, unique};
use super::support::chat::{self, Crowd};
use super::support::host::{Host, KEY};
use super::support::perch::{Perch, Start, free_port, wait};

/// The pace of these tests' configurations.
const POLL: Duration = Duration::from_secs(1);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_secs(5);

/// `perch reload`, which must end with this code; returns what it printed.
#[track_caller]
fn reload(perch: &Perch, code: i32) -> String {
    let output = perch.verb(&["reload"]);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}{}", perch.log_text());
    said
}

#[track_caller]
fn connected(perch: &Perch) -> Value {
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running")
}

#[test]
fn a_version_is_applied_within_a_poll_and_touches_no_connection() {
    let host = Host::new();
    let config = host.config(&host.token());
    host.upload(&config);
    let perch = host.perch().ready();
    let session = connected(&perch);
    let uploaded = Instant::now();
    let version = host.upload(format!("{config}max_body = \"1MiB\"\n\n[log]\nlevel = \"debug\"\n"));
    let status = perch.wait_version(&version);
    assert!(uploaded.elapsed() < POLL + SLACK, "{:?}", uploaded.elapsed());
    let steps = json!(["http.max_body: 65536 → 1048576", "log.level: info → debug"]);
    assert_eq!(status["changes"][0]["steps"], steps);
    assert_eq!(status["services"]["discord"]["since"], session["services"]["discord"]["since"]);
    assert_eq!(host.discord.ask("still there?"), "still there?");
    // The same token from another place is no reason to connect anew either.
    let elsewhere = host.upload(host.config(&host.token()));
    perch.wait_version(&elsewhere);
    let counters = host.discord.counters();
    assert_eq!((counters.connections, counters.identifies, counters.resumes), (1, 1, 0));
}

#[test]
fn fifty_clients_notice_nothing_of_twenty_reloads() {
    let host = Host::new();
    let token = host.token();
    host.upload(host.config(&token));
    let perch = host.perch().ready();
    connected(&perch);
    let crowd = Crowd::rushing(host.port, 50);
    for round in 0..20 {
        crowd.wait_answers(50);
        let level = ["info", "debug"][round % 2];
        let size = round + 1;
        let text = format!("{}max_body = \"{size}MiB\"\n\n[log]\nlevel = \"{level}\"\n", host.config(&token));
        let version = host.upload(if size <= 16 { text } else { host.config(&token) + &format!("# {round}\n") });
        reload(&perch, 0);
        assert_eq!(perch.status()["config"]["version"], version.as_str());
    }
    crowd.wait_answers(50);
    crowd.end();
    assert_eq!(host.discord.ask("and you?"), "and you?");
    let counters = host.discord.counters();
    assert_eq!((counters.connections, counters.identifies, counters.resumes), (1, 1, 0));
    let status = perch.status();
    let applied = status["changes"].as_array().unwrap().iter().filter(|change| change["outcome"] == "applied");
    assert_eq!(applied.count(), 21);
    assert_eq!(perch.messages("WARN"), [""; 0]);
    assert_eq!(perch.messages("ERROR"), [""; 0]);
}

#[test]
fn a_changed_address_is_bound_before_the_old_one_is_left() {
    let mut host = Host::new();
    host.upload(host.http_config());
    let perch = host.perch().ready();
    let old = host.port;
    // Somebody in the middle of asking, and somebody who has yet to begin.
    let body = json!({ "message": "slowly" }).to_string();
    let mut slow = TcpStream::connect(("127.0.0.1", old)).unwrap();
    let head = "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\n";
    write!(slow, "{head}Content-Length: {}\r\n\r\n{}", body.len(), &body[..5]).unwrap();
    // Answered, so the half request before it has been taken on as well.
    chat::ask(old, "taken on?");
    host.port = free_port();
    let new = host.port;
    let version = host.upload(host.http_config());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // In this order: where the old one is gone the new one must be there.
                assert!(chat::listens(old) || chat::listens(new), "nobody listens");
            }
        });
        let changed = perch.wait_version(&version);
        let step = format!("http.listen: 127.0.0.1:{old} → 127.0.0.1:{new} (rebinds)");
        assert_eq!(changed["changes"][0]["steps"], json!([step]));
        wait("the old address to be left", || (!chat::listens(old)).then_some(()));
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(chat::ask(new, "moved"), "moved");
    assert_eq!(perch.status()["http"]["listeners"], json!([format!("127.0.0.1:{new}")]));
    slow.write_all(&body.as_bytes()[5..]).unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"reply\":\"slowly\""), "{answer}");
    // The whole of what it listens on already, in other words: it can't have both at once.
    let overlapping = host.http_config().replace("127.0.0.1", "0.0.0.0");
    let refused = host.upload(overlapping);
    let status = perch.wait_status("the refusal", |status| status["config"]["refused"]["version"] == refused.as_str());
    let text = format!(
        "0.0.0.0:{new} overlaps 127.0.0.1:{new}, which perch itself listens on now; go by way of another port, or \
         restart perch with the new address"
    );
    assert_eq!(status["config"]["refused"]["mistakes"], json!([{ "line": 5, "key": "http.listen", "text": text }]));
    assert_eq!(chat::ask(new, "still here"), "still here");
}

/// Uploads what must change nothing, and asserts that it is named once with all its mistakes.
#[track_caller]
fn assert_changes_nothing(host: &Host, perch: &Perch, what: &str, put: impl FnOnce() -> String, mistakes: &[&str]) {
    let live = perch.status()["config"]["version"].as_str().unwrap().to_owned();
    let refused = put();
    let named = |status: &Value| status["config"]["refused"]["version"] == refused.as_str();
    let status = perch.wait_status(&format!("the refusal of {what}"), named);
    assert_eq!(status["config"]["version"], live.as_str(), "{what}");
    let told: Vec<Mistake> = serde_json::from_value(status["config"]["refused"]["mistakes"].clone()).unwrap();
    assert_eq!(told.iter().map(ToString::to_string).collect::<Vec<_>>(), mistakes, "{what}");
    assert_eq!(status["changes"][0]["to"], refused.as_str());
    assert_eq!(status["changes"][0]["outcome"], "refused");
    // A look more, so that a second entry would be there; and who asks is told the same.
    let said = reload(perch, 1);
    for mistake in told {
        assert!(said.contains(&mistake.text), "{what}: {said}");
    }
    let about = |entry: &&Value| entry["PERCH_CONFIG_VERSION"] == refused.as_str();
    let log = perch.log();
    let entries: Vec<_> = log.iter().filter(about).collect();
    assert_eq!(entries.len(), 1, "{what}: {entries:#?}");
    assert_eq!(entries[0]["level"], "ERROR");
    let list = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect::<String>();
    assert_eq!(entries[0]["message"], format!("version {refused} refused, version {live} stays in use:{list}"));
    assert_eq!(chat::ask(host.port, what), what);
}

/// A mistake as `status` has it.
#[derive(serde::Deserialize)]
struct Mistake {
    line: usize,
    key: String,
    text: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, self.key.as_str()) {
            (0, "") => write!(f, "the configuration: {}", self.text),
            (line, "") => write!(f, "line {line}: {}", self.text),
            (line, key) => write!(f, "line {line}, {key}: {}", self.text),
        }
    }
}

/// Uploads a good version, which must be applied.
#[track_caller]
fn assert_applied(host: &Host, perch: &Perch, good: &str) {
    let version = host.upload(format!("{good}# {}\n", unique("good")));
    reload(perch, 0);
    let status = perch.status();
    assert_eq!(status["config"]["version"], version.as_str());
    assert!(status["config"]["refused"].is_null());
}

#[test]
fn documents_that_change_nothing() {
    let host = Host::new();
    let good = host.config(&host.token());
    host.upload(&good);
    let perch = host.perch().ready();
    connected(&perch);
    let visitors = Crowd::strolling(host.port);
    let noise: Vec<u8> =
        (0..10_u32 << 20).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let uri = host.uri();
    let larger = format!("the configuration: {uri} is larger than 256 KiB, which no configuration needs");
    let cases: [(&str, Vec<u8>, &[&str]); 9] = [
        (
            "broken TOML",
            b"[http\nlisten = \"127.0.0.1:1\"\n".to_vec(),
            &["line 1: is not TOML: unclosed table, expected `]`"],
        ),
        (
            "an unknown key",
            format!("{good}lisen = 1\n").into(),
            &["line 10, http.lisen: is an unknown key; did you mean `listen`?"],
        ),
        (
            "a wrong type",
            format!("{good}max_body = 5\n").into(),
            &["line 10, http.max_body: must be a size such as \"64KiB\", not an integer"],
        ),
        (
            "out of range",
            format!("{good}\n[run]\ndrain = \"2h\"\n").into(),
            &["line 12, run.drain: `2h` is out of range; it goes from 1s to 80s"],
        ),
        (
            "three mistakes",
            b"environment = \"prod\"\n[http]\nlisten = \"nowhere\"\nmax_body = true\n".to_vec(),
            &[
                "line 1, environment: `prod` is not one of \"development\", \"test\", \"production\"",
                "line 3, http.listen: `nowhere` is not an address; write \"0.0.0.0:8080\" or \"[::]:8080\"",
                "line 4, http.max_body: must be a size such as \"64KiB\", not a boolean",
            ],
        ),
        ("10 MiB of noise", noise, &[&larger]),
        (
            "what is not UTF-8",
            b"[http]\n# caf\xe9\n".to_vec(),
            &["line 2: byte 13 is not UTF-8; save the document as UTF-8"],
        ),
        ("an empty object", Vec::new(), &["the configuration: is empty"]),
        (
            "nothing to serve",
            b"environment = \"test\"\n".to_vec(),
            &["the configuration: asks for no service; add a [discord] or an [http] table"],
        ),
    ];
    for (what, bytes, mistakes) in cases {
        let (before, size) = (peak_memory(&perch), bytes.len() as u64);
        assert_changes_nothing(&host, &perch, what, || host.upload(bytes), mistakes);
        let grown = peak_memory(&perch) - before;
        assert!(grown < 8 << 10, "{what}: {grown} KiB more in memory for {size} bytes");
        assert_applied(&host, &perch, &good);
    }
    let marker = host.cloud.delete_object(&host.bucket, KEY).unwrap();
    let deleted =
        format!("the configuration: {uri} was deleted; upload it again, or remove the delete marker {marker}");
    assert_changes_nothing(&host, &perch, "a delete marker", || marker, &[&deleted]);
    assert_applied(&host, &perch, &good);
    visitors.end();
    let counters = host.discord.counters();
    assert_eq!((counters.connections, counters.identifies, counters.resumes), (1, 1, 0));
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

/// The most memory that it has had at once, in KiB.
fn peak_memory(perch: &Perch) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", perch.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn versions_that_can_not_be_prepared_change_nothing() {
    let host = Host::new();
    let token = host.token();
    let good = host.config(&token);
    host.upload(&good);
    let perch = host.perch().ready();
    connected(&perch);
    let visitors = Crowd::strolling(host.port);
    let gone = unique("gone");
    assert_changes_nothing(
        &host,
        &perch,
        "a secret that does not exist",
        || host.upload(host.config(&format!("{{ secret = \"{gone}\" }}"))),
        &[&format!("line 2, discord.token: no place has the secret: secret `{gone}`: does not exist in eu-central-1")],
    );
    assert_applied(&host, &perch, &good);
    let (lacking, _) = host.cloud.create_secret("lacking", "{\"OTHER\": \"hush-hush\"}");
    assert_changes_nothing(
        &host,
        &perch,
        "a key that does not exist",
        || host.upload(host.config(&format!("{{ secret = \"{lacking}\", key = \"DISCORD_BOT_TOKEN\" }}"))),
        &[&format!(
            "line 2, discord.token: no place has the secret: secret `{lacking}` (key `DISCORD_BOT_TOKEN`): has no key \
             `DISCORD_BOT_TOKEN`, only `OTHER`"
        )],
    );
    assert_applied(&host, &perch, &good);
    let before = host.discord.counters();
    let (wrong, _) = host.cloud.create_secret("wrong", "MTk4.hush-hush.aaaa");
    assert_changes_nothing(
        &host,
        &perch,
        "a token that Discord refuses",
        || host.upload(host.config(&format!("{{ secret = \"{wrong}\" }}"))),
        &[&format!(
            "line 2, discord.token: Discord refused the bot token (401: Unauthorized); reset it on the Bot page of \
             the application in https://discord.com/developers/applications and store the new one in secret `{wrong}`"
        )],
    );
    let after = host.discord.counters();
    assert_eq!(after.invalid_requests - before.invalid_requests, 2, "one GET /users/@me, and one when asked to");
    assert_applied(&host, &perch, &good);
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap();
    let port = address.port();
    let own = format!("127.0.0.1:{}", host.port);
    assert_changes_nothing(
        &host,
        &perch,
        "a port taken by another process",
        || host.upload(good.replace(&own, &address.to_string())),
        &[&format!(
            "line 9, http.listen: {address} is taken by another process; see which with `ss -ltnp 'sport = :{port}'`, \
             end it or choose another port"
        )],
    );
    assert_applied(&host, &perch, &good);
    // All at once, and each with its place.
    assert_changes_nothing(
        &host,
        &perch,
        "a secret and a port",
        || host.upload(host.config(&format!("{{ secret = \"{gone}\" }}")).replace(&own, &address.to_string())),
        &[
            &format!(
                "line 9, http.listen: {address} is taken by another process; see which with `ss -ltnp 'sport = \
                 :{port}'`, end it or choose another port"
            ),
            &format!("line 2, discord.token: no place has the secret: secret `{gone}`: does not exist in eu-central-1"),
        ],
    );
    assert_applied(&host, &perch, &good);
    visitors.end();
    assert_eq!(host.discord.ask("all the same?"), "all the same?");
    let counters = host.discord.counters();
    assert_eq!((counters.connections, counters.identifies, counters.resumes), (1, 1, 0));
    assert!(!perch.log_text().contains("hush-hush") && !perch.status().to_string().contains("hush-hush"));
}

#[test]
fn an_object_replaced_between_head_and_get_is_never_half_applied() {
    let host = Host::with_versioning(false);
    let good = host.http_config();
    host.upload(&good);
    let perch = host.perch().ready();
    let newest = format!("{good}max_body = \"3MiB\"\n");
    let path = format!("/{}/{KEY}", host.bucket);
    host.cloud.fault(Fault::just_before("PUT", &path, &newest).method("GET").times(1));
    let passed_over = host.upload(format!("{good}max_body = \"2MiB\"\n"));
    let status = perch
        .wait_status("the newest", |status| status["changes"][0]["steps"] == json!(["http.max_body: 65536 → 3145728"]));
    assert_ne!(status["config"]["version"], passed_over.as_str());
    assert_eq!(status["changes"].as_array().unwrap().len(), 2, "the one in between was never tried");
    // What was there before may come back: it has its old name then.
    let bad = host.upload("[http\n");
    perch.wait_status("the refusal", |status| status["config"]["refused"]["version"] == bad.as_str());
    host.upload(&newest);
    let status = perch.wait_status("all well", |status| status["config"]["refused"].is_null());
    assert_eq!(status["config"]["version"], status["changes"][0]["to"]);
    assert_eq!(perch.messages("INFO").last().unwrap(), "the version that runs is the newest again");
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

/// What becomes of a running service while S3 does not answer well: nothing.
#[track_caller]
fn assert_outlives(what: &str, break_it: impl FnOnce(&Host), mend: impl FnOnce(&Host), backs_off: bool, reason: &str) {
    let host = Host::new();
    let good = host.http_config();
    host.upload(&good);
    let perch = host.perch().ready();
    let visitors = Crowd::strolling(host.port);
    break_it(&host);
    let began = Instant::now();
    let attempts = if backs_off { 3 } else { 1 };
    let status = perch.wait_status(what, |status| status["config"]["trouble"]["attempts"].as_u64() >= Some(attempts));
    if backs_off {
        // Two waits of at least 1.5 s and 3 s lie between three attempts in vain.
        assert!(began.elapsed() > Duration::from_millis(4_500), "{what}: {:?}", began.elapsed());
    }
    let text = status["config"]["trouble"]["text"].as_str().unwrap();
    assert!(text.starts_with(&host.uri()) && text.contains(reason), "{what}: {text}");
    assert_eq!(status["services"]["http"]["state"], "running", "{what}");
    mend(&host);
    let next = host.upload(format!("{good}# next\n"));
    let status = perch.wait_version(&next);
    assert!(status["config"]["trouble"].is_null(), "{what}");
    visitors.end();
    let warned = perch.messages("WARN");
    assert_eq!(warned.len(), 1, "{what}: {warned:#?}");
    assert!(warned[0].starts_with(&format!("what runs goes on, without newer versions: {}", host.uri())), "{warned:?}");
    let mended: Vec<_> = perch.messages("INFO").into_iter().filter(|text| text.contains("can be read after")).collect();
    assert_eq!(mended.len(), 1, "{what}: {mended:#?}");
    assert_eq!(perch.messages("ERROR"), [""; 0], "{what}");
}

#[test]
fn s3_going_wrong_is_not_noticed_by_those_who_are_served() {
    let fault = |fault: fn() -> Fault| move |host: &Host| host.cloud.fault(fault());
    let clear = |host: &Host| host.cloud.clear_faults();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let broken = fault(|| Fault::refuse(500, "InternalError", "We encountered an internal error."));
            assert_outlives("500", broken, clear, true, "the answer was 500");
        });
        scope.spawn(|| {
            let slow_down = fault(|| Fault::refuse(503, "SlowDown", "Please reduce your request rate."));
            assert_outlives("503", slow_down, clear, true, "the answer was 503");
        });
        scope.spawn(|| assert_outlives("a hang", fault(Fault::hang), clear, false, "no answer in time"));
        scope.spawn(|| {
            let cut = |host: &Host| {
                host.cloud.fault(Fault::cut().method("GET"));
                host.upload(format!("{}# cut\n", host.http_config()));
            };
            assert_outlives("a cut body", cut, clear, true, "can't be read whole");
        });
        scope.spawn(|| {
            let refuse = |host: &Host| host.cloud.listen(false);
            let again = |host: &Host| host.cloud.listen(true);
            assert_outlives("a refused connection", refuse, again, true, "Connection refused (os error 111)");
        });
        scope.spawn(|| {
            let expired = fault(|| Fault::refuse(400, "ExpiredToken", "The provided token has expired."));
            assert_outlives("expired credentials", expired, clear, true, "the AWS credentials are expired");
        });
    });
}

/// Seldom looks at the source and often at the secrets.
#[test]
fn a_look_at_the_secrets_does_not_put_off_the_look_at_the_source() {
    let host = Host::new();
    let config = host.config(&host.token()).replace("poll = \"1s\"", "poll = \"3s\"\nsecrets = \"1s\"");
    host.upload(&config);
    let perch = host.perch().ready();
    let version = host.upload(format!("{config}# next\n"));
    perch.wait_version(&version);
}

#[test]
fn a_new_token_reaches_the_bot_while_a_newer_version_is_refused() {
    let host = Host::new();
    let (name, _) = host.cloud.create_secret("rotated", DEFAULT_TOKEN);
    let config =
        host.config(&format!("{{ secret = \"{name}\" }}")).replace("poll = \"1s\"", "poll = \"1s\"\nsecrets = \"1s\"");
    host.upload(&config);
    let perch = host.perch().ready();
    connected(&perch);
    let gone = unique("gone");
    let pending = host.upload(config.replace(&name, &gone));
    perch.wait_status("the refusal", |status| status["config"]["refused"]["version"] == pending.as_str());
    // Rotated: the new token is stored first, then the old one is revoked.
    host.discord.take_tokens(&[DEFAULT_TOKEN, "a.rotated.token"]);
    host.cloud.put_secret(&name, "a.rotated.token");
    wait("the bot to begin a session with the new token", || (host.discord.counters().identifies == 2).then_some(()));
    host.discord.take_tokens(&["a.rotated.token"]);
    connected(&perch);
    assert_eq!(host.discord.ask("new key?"), "new key?");
    // The pending version is as pending as before, and nobody was told so twice.
    assert_eq!(perch.status()["config"]["refused"]["version"], pending.as_str());
    assert_eq!(perch.messages("ERROR").len(), 1, "{:#?}", perch.messages("ERROR"));
    host.cloud.create_secret_named(&gone, "a.rotated.token");
    perch.wait_version(&pending);
    assert_eq!(host.discord.counters().identifies, 2);
}

#[test]
fn who_asks_after_a_refusal_is_told_of_it_again() {
    let good = format!("[http]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let perch = Start::with_text(&good).ready();
    assert!(reload(&perch, 0).contains("nothing new"), "{}", reload(&perch, 0));
    std::fs::write(perch.config_path(), format!("{good}lisen = 1\n")).unwrap();
    perch.wait_status("the refusal", |status| status["config"]["refused"].is_object());
    let said = reload(&perch, 1);
    assert!(said.contains("line 3, http.lisen: is an unknown key; did you mean `listen`?"), "{said}");
    std::fs::write(perch.config_path(), &good).unwrap();
    perch.wait_status("all well", |status| status["config"]["refused"].is_null());
    reload(&perch, 0);
    assert_eq!(perch.messages("ERROR").len(), 1);
}

#[test]
fn a_service_that_is_no_longer_asked_for_is_gone_from_the_status() {
    let host = Host::new();
    let both = host.config(&host.token());
    host.upload(&both);
    let perch = host.perch().ready();
    connected(&perch);
    let bot_alone = both.split("[http]").next().unwrap().to_owned();
    for (text, gone) in [(host.http_config(), "discord"), (both.clone(), ""), (bot_alone, "http")] {
        let version = host.upload(&text);
        perch.wait_version(&version);
        if gone.is_empty() {
            connected(&perch);
            continue;
        }
        // The service reports its own end a moment later; the look after the next one sees what stays.
        host.cloud.forget_requests();
        wait("two more looks", || (host.cloud.requests().len() > 1).then_some(()));
        let status = perch.status();
        assert!(status["services"][gone].is_null() && status[gone].is_null(), "{status:#}");
    }
    wait("the port to be left", || (!chat::listens(host.port)).then_some(()));
}
