//! The role that Terraform gives a host is enough, and nothing in it is for nothing: perch under the very documents of
//! `packaging/terraform/policies`, in an AWS that enforces them.

use std::path::Path;

use serde_json::{Value, json};

use super::support::account::Account;
use super::support::aws::unique;
use super::support::chat;
use super::support::discord::Discord;
use super::support::perch::{Perch, Start, free_port, wait};

const KEY: &str = "perch.toml";

/// A configuration object, a secret and a role, as the module makes them, and Discord.
struct Installation {
    account: Account,
    discord: Discord,
    port: u16,
    bucket: String,
    secret: String,
    role: String,
    policy: Value,
}

impl Installation {
    fn new() -> Self {
        let account = Account::start();
        let secret = unique("perch-bot");
        let arn = account.secret(&secret, &json!({ "DISCORD_BOT_TOKEN": perch::sim::DEFAULT_TOKEN }).to_string());
        let bucket = unique("perch");
        let policy = daemon_policy(&format!("arn:aws:s3:::{bucket}/{KEY}"), &arn);
        let role = unique("perch-bot");
        let made = Installation { account, discord: Discord::start(), port: free_port(), bucket, secret, role, policy };
        made.upload("info");
        made
    }

    fn uri(&self) -> String {
        format!("s3://{}/{KEY}", self.bucket)
    }

    fn upload(&self, level: &str) -> String {
        let text = format!(
            "[discord]\ntoken = {{ secret = \"{}\", key = \"DISCORD_BOT_TOKEN\" }}\napi_url = \"{}\"\n\n\
             [http]\nlisten = \"127.0.0.1:{}\"\n\n[reload]\npoll = \"1s\"\nsecrets = \"1s\"\n\n[log]\nlevel = \"{level}\"\n",
            self.secret,
            self.discord.url(),
            self.port
        );
        self.account.object(&self.bucket, KEY, &text)
    }

    /// perch under a role that may do what `policy` says.
    fn perch(&self, policy: &Value) -> Start {
        Start::new(&self.uri()).env(self.account.assume(&self.role, policy))
    }
}

/// The document that Terraform renders, rendered.
fn daemon_policy(configuration_arn: &str, secret_arn: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/terraform/policies/daemon.json.tftpl");
    let template = std::fs::read_to_string(file).unwrap();
    let text = template.replace("${configuration_arn}", configuration_arn).replace("${secret_arn}", secret_arn);
    assert!(!text.contains("${"), "the template has a place that nothing fills: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Each action of the document, with the document without it.
fn without_each_action(policy: &Value) -> Vec<(String, Value)> {
    let mut fewer = Vec::new();
    for (at, statement) in policy["Statement"].as_array().unwrap().iter().enumerate() {
        let actions = match &statement["Action"] {
            Value::Array(actions) => actions.clone(),
            one => vec![one.clone()],
        };
        for action in &actions {
            let mut changed = policy.clone();
            let kept: Vec<_> = actions.iter().filter(|other| *other != action).collect();
            if kept.is_empty() {
                changed["Statement"].as_array_mut().unwrap().remove(at);
            } else {
                changed["Statement"][at]["Action"] = json!(kept);
            }
            fewer.push((action.as_str().unwrap().to_owned(), changed));
        }
    }
    fewer
}

#[track_caller]
fn bot_runs(perch: &Perch) {
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running");
}

#[test]
fn perch_does_all_its_work_under_the_role_that_terraform_makes() {
    let installation = Installation::new();
    let perch = installation.perch(&installation.policy).ready();
    bot_runs(&perch);
    assert_eq!(installation.discord.ask("enough?"), "enough?");
    assert_eq!(chat::ask(installation.port, "enough?"), "enough?");
    let version = installation.upload("debug");
    perch.wait_version(&version);
    let reload = perch.verb(&["reload"]);
    assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    assert_eq!((perch.messages("WARN"), perch.messages("ERROR")), (vec![], vec![]));
}

#[test]
fn an_action_that_the_role_lacks_is_named_with_what_it_is_needed_for() {
    let installation = Installation::new();
    let lacking = without_each_action(&installation.policy);
    let actions: Vec<_> = lacking.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["s3:GetObject", "s3:GetObjectVersion", "secretsmanager:GetSecretValue"]);
    for (action, policy) in &lacking {
        let perch = installation.perch(policy).start();
        let resource =
            if action.starts_with("s3:") { installation.uri() } else { format!("`{}`", installation.secret) };
        let missing = format!("not authorized to perform: {action} ");
        wait(&format!("{action} and {resource} to be named"), || {
            let messages = [perch.messages("WARN"), perch.messages("ERROR")].concat();
            messages.iter().any(|message| message.contains(&missing) && message.contains(&resource)).then_some(())
        });
        // Once the role has it, nobody has to do anything on the host.
        installation.account.assume(&installation.role, &installation.policy);
        bot_runs(&perch);
    }
}
