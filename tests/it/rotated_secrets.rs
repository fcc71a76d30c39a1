//! Tokens are rotated, badly and well, while perch runs and before it starts.

use perch::sim::DEFAULT_TOKEN;
use serde_json::Value;

use super::support::chat;
use super::support::host::Host;
use super::support::perch::{Perch, wait};
use super::support::upstream::{MODEL, Upstream};

/// A host whose configuration names the secret `name`, with `reload` for the table of that name.
fn host(reload: &str) -> (Host, String) {
    let host = Host::new();
    let (name, _) = host.cloud.create_secret("rotated", DEFAULT_TOKEN);
    let config = host.config(&format!("{{ secret = \"{name}\" }}"));
    host.upload(config.replace("poll = \"1s\"", &format!("poll = \"1s\"\n{reload}")));
    (host, name)
}

#[track_caller]
fn connected(perch: &Perch) -> Value {
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running")
}

/// Waits until the secrets were looked at this often since now.
#[track_caller]
fn looked(host: &Host, times: usize) {
    host.cloud.forget_requests();
    wait("looks at the secrets", || (looks(host) >= times).then_some(()));
}

fn looks(host: &Host) -> usize {
    host.cloud.requests().iter().filter(|asked| asked.action.ends_with("GetSecretValue")).count()
}

/// The warnings, without the name of the test's own secret.
fn warnings(perch: &Perch, name: &str) -> String {
    perch.messages("WARN").join("\n").replace(name, "NAME")
}

#[test]
fn a_bad_new_token_leaves_the_bot_alone_and_is_told_once() {
    let (host, name) = host("secrets = \"1s\"");
    let perch = host.perch().ready();
    let before = connected(&perch);
    host.cloud.put_secret(&name, "a.mistyped.token");
    perch.wait_status("the refusal", |status| status["services"]["secrets"]["state"] == "recovering");
    looked(&host, 4);
    insta::assert_snapshot!(warnings(&perch, &name), @"discord.token: the new value of secret `NAME` is refused, the old one stays in use: Discord refused the bot token (401: Unauthorized); reset it on the Bot page of the application in https://discord.com/developers/applications and store the new one in secret `NAME`");
    let during = connected(&perch);
    assert_eq!(during["services"]["discord"]["since"], before["services"]["discord"]["since"]);
    assert!(during["config"]["refused"].is_null(), "{during:#}");
    assert_eq!(during["changes"].as_array().unwrap().len(), 2, "it is told of once: {during:#}");
    assert!(during["changes"][0]["reason"].as_str().unwrap().contains("is refused, the old one stays in use"));
    assert_eq!(host.discord.ask("still you?"), "still you?");
    // Who asks is told again.
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0));
    assert_eq!(perch.messages("WARN").len(), 2);
    host.discord.take_tokens(&[DEFAULT_TOKEN, "a.good.token"]);
    host.cloud.put_secret(&name, "a.good.token");
    let after = perch.wait_status("the end of it", |status| status["services"]["secrets"].is_null());
    assert_eq!(after["changes"][0]["cause"], "secrets");
    wait("the new session", || (host.discord.counters().identifies == 2).then_some(()));
    connected(&perch);
    assert_eq!(host.discord.ask("a new one?"), "a new one?");
    let over = |text: &String| text.starts_with("discord.token: no value of it is refused any more, after ");
    assert_eq!(perch.messages("INFO").iter().filter(|text| over(text)).count(), 1, "{}", perch.log_text());
    assert_eq!(perch.messages("WARN").len(), 2);
    assert_eq!(perch.messages("ERROR"), [""; 0]);
}

#[test]
fn a_host_that_starts_with_a_bad_new_token_uses_the_previous_one() {
    let (host, name) = host("secrets = \"1s\"");
    host.cloud.put_secret(&name, "a.mistyped.token");
    let perch = host.perch().ready();
    connected(&perch);
    assert_eq!(host.discord.ask("hello"), "hello");
    looked(&host, 4);
    insta::assert_snapshot!(warnings(&perch, &name), @"discord.token: AWSCURRENT of secret `NAME` is refused, AWSPREVIOUS is used: Discord refused the bot token (401: Unauthorized); reset it on the Bot page of the application in https://discord.com/developers/applications and store the new one in secret `NAME`");
    assert_eq!(perch.status()["changes"].as_array().unwrap().len(), 1);
    assert_eq!(host.discord.counters().identifies, 1);
    assert_eq!(perch.messages("ERROR"), [""; 0]);
}

#[test]
fn a_new_version_with_a_secret_that_was_rotated_badly_uses_its_previous_token() {
    let (host, _) = host("secrets = \"1h\"");
    let perch = host.perch().ready();
    connected(&perch);
    let (other, _) = host.cloud.create_secret("other", DEFAULT_TOKEN);
    host.cloud.put_secret(&other, "a.mistyped.token");
    let version = host.upload(host.config(&format!("{{ secret = \"{other}\" }}")));
    perch.wait_version(&version);
    let warned = warnings(&perch, &other);
    assert!(
        warned.starts_with("discord.token: AWSCURRENT of secret `NAME` is refused, AWSPREVIOUS is used: "),
        "{warned}"
    );
    // It is the token that was in use before, so the session goes on.
    assert_eq!(host.discord.counters().identifies, 1);
    assert_eq!(host.discord.ask("still you?"), "still you?");
}

#[test]
fn where_the_previous_token_is_refused_too_the_bot_is_parked() {
    let (host, name) = host("secrets = \"1s\"");
    host.cloud.put_secret(&name, "a.mistyped.token");
    host.discord.take_tokens(&["another"]);
    let perch = host.perch().ready();
    perch.wait_status("the bot parked", |status| status["services"]["discord"]["state"] == "parked");
    looked(&host, 4);
    assert_eq!(perch.messages("WARN"), [""; 0]);
    assert_eq!(perch.messages("ERROR").len(), 1, "{}", perch.log_text());
    assert_eq!(chat::ask(host.port, "still here?"), "still here?");
}

#[test]
fn a_token_that_is_revoked_while_in_use_is_replaced_by_the_rotated_one_at_once() {
    let (host, name) = host("secrets = \"1h\"");
    let perch = host.perch().ready();
    connected(&perch);
    host.cloud.put_secret(&name, "a.rotated.token");
    assert_eq!(host.discord.counters().identifies, 1);
    host.discord.take_tokens(&["a.rotated.token"]);
    wait("the new session", || (host.discord.counters().identifies == 2).then_some(()));
    connected(&perch);
    assert_eq!(host.discord.ask("back?"), "back?");
    let [parked] = perch.messages("ERROR").try_into().unwrap();
    assert!(parked.contains("gateway close code 4004"), "{parked}");
    assert_eq!(perch.messages("WARN"), [""; 0]);
    assert_eq!(perch.status()["changes"][0]["cause"], "secrets");
}

#[test]
fn a_rotation_taken_back_in_discord_is_taken_back_here() {
    let (host, name) = host("secrets = \"1h\"");
    host.discord.take_tokens(&[DEFAULT_TOKEN, "a.rotated.token"]);
    host.cloud.put_secret(&name, "a.rotated.token");
    let perch = host.perch().ready();
    connected(&perch);
    host.discord.take_tokens(&[DEFAULT_TOKEN]);
    wait("the new session", || (host.discord.counters().identifies == 2).then_some(()));
    connected(&perch);
    assert_eq!(host.discord.ask("back?"), "back?");
    insta::assert_snapshot!(warnings(&perch, &name), @"discord.token: AWSCURRENT of secret `NAME` is refused, AWSPREVIOUS is used: Discord refused the bot token (gateway close code 4004); reset it on the Bot page of the application in https://discord.com/developers/applications and store the new one in secret `NAME`");
}

#[test]
fn a_dead_token_parks_the_bot_until_there_is_another() {
    let (host, name) = host("secrets = \"1s\"");
    let perch = host.perch().ready();
    connected(&perch);
    host.discord.take_tokens(&["another"]);
    perch.wait_status("the bot parked", |status| status["services"]["discord"]["state"] == "parked");
    // Each asks for both labels.
    looked(&host, 6);
    assert_eq!(perch.status()["services"]["discord"]["state"], "parked");
    assert_eq!(perch.messages("WARN"), [""; 0]);
    assert_eq!(perch.messages("ERROR").len(), 1, "{}", perch.log_text());
    assert_eq!(perch.status()["changes"].as_array().unwrap().len(), 1);
    assert_eq!(chat::ask(host.port, "still here?"), "still here?");
    host.cloud.put_secret(&name, "a.mistyped.token");
    perch.wait_status("the refusal", |status| status["services"]["secrets"]["state"] == "recovering");
    looked(&host, 4);
    let warned = warnings(&perch, &name);
    assert!(
        warned.starts_with("discord.token: the new value of secret `NAME` is refused, as the old one is: ")
            && perch.messages("WARN").len() == 1,
        "{warned}"
    );
    assert_eq!(perch.status()["services"]["discord"]["state"], "parked");
    host.discord.take_tokens(&["a.new.token"]);
    host.cloud.put_secret(&name, "a.new.token");
    connected(&perch);
    assert_eq!(host.discord.counters().identifies, 2);
}

#[test]
fn a_rotated_key_of_the_chat_is_taken_without_touching_discord() {
    let host = Host::new();
    let upstream = Upstream::start();
    let keys = ["sk-the-first-key-of-this-test", "sk-the-second-key-of-this-test"];
    upstream.take_keys(&keys);
    let (name, _) = host.cloud.create_secret("chat", keys[0]);
    let chat = format!(
        "[chat]\nbackend = \"openai\"\nbase_url = \"{}\"\nmodel = \"{MODEL}\"\napi_key = {{ secret = \"{name}\" }}\n",
        upstream.url()
    );
    host.upload(host.config(&host.token()).replace("[reload]\n", "[reload]\nsecrets = \"1s\"\n") + &chat);
    let perch = host.perch().ready();
    perch.wait_status("the bot and the chat", |status| {
        ["discord", "chat"].iter().all(|service| status["services"][service]["state"] == "running")
    });
    host.cloud.put_secret(&name, keys[1]);
    wait("the new key", || {
        assert_eq!(chat::ask(host.port, "hello"), "You said: hello");
        (upstream.asked().last()?.authorization == format!("Bearer {}", keys[1])).then_some(())
    });
    let counters = host.discord.counters();
    assert_eq!((counters.connections, counters.identifies, counters.resumes), (1, 1, 0));
    assert_eq!(host.discord.ask("and you?"), "and you?");
    assert_eq!(perch.status()["changes"][0]["cause"], "secrets");
}
