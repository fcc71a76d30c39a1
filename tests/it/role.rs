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

fn daemon_policy(configuration_arn: &str, secret_arn: &str) -> Value {
    policy("daemon.json.tftpl", &[("configuration_arn", configuration_arn), ("secret_arn", secret_arn)])
}

/// The document that Terraform renders, rendered.
fn policy(template: &str, values: &[(&str, &str)]) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/terraform/policies").join(template);
    let mut text = std::fs::read_to_string(file).unwrap();
    for (name, value) in values {
        text = text.replace(&format!("${{{name}}}"), value);
    }
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
            // A statement has an action: in the last one's place one that everybody may do.
            changed["Statement"][at]["Action"] =
                if kept.is_empty() { json!("sts:GetCallerIdentity") } else { json!(kept) };
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

/// Something that a host does, and the action that it takes.
struct Deed<'a> {
    action: &'a str,
    service: &'a str,
    operation: &'a str,
    arguments: Value,
}

/// With the document each is done, and without its action it is not; nothing of `others` is done in any case.
#[track_caller]
fn enough_and_no_more(account: &Account, policy: &Value, deeds: &[Deed<'_>], others: &[Deed<'_>]) {
    let may = |policy: &Value, deed: &Deed<'_>| account.may(policy, deed.service, deed.operation, &deed.arguments);
    for deed in deeds {
        assert!(may(policy, deed), "{} {}", deed.action, deed.arguments);
    }
    for deed in others {
        assert!(!may(policy, deed), "{} {}", deed.action, deed.arguments);
    }
    for (action, policy) in without_each_action(policy) {
        for deed in deeds {
            assert_eq!(may(&policy, deed), deed.action != action, "{} without {action}", deed.action);
        }
    }
}

#[test]
fn a_host_reads_the_version_of_the_package_that_its_template_names_and_nothing_else_for_it() {
    const PACKAGE: &str = "packages/perch.rpm";
    let account = Account::start();
    let bucket = unique("perch");
    let older = account.object(&bucket, PACKAGE, "older");
    account.object(&bucket, PACKAGE, "newer");
    account.object(&bucket, KEY, "configuration");
    let get = |action, key, version: Option<&str>| {
        let mut arguments = json!({ "Bucket": bucket, "Key": key });
        if let Some(version) = version {
            arguments["VersionId"] = json!(version);
        }
        Deed { action, service: "s3", operation: "get_object", arguments }
    };
    let arn = format!("arn:aws:s3:::{bucket}/{PACKAGE}");
    // One that Terraform uploaded, and one that is somewhere else.
    for (action, version) in [("s3:GetObjectVersion", Some(older.as_str())), ("s3:GetObject", None)] {
        let policy = policy("package.json.tftpl", &[("action", action), ("package_arn", &arn)]);
        let put = json!({ "Bucket": bucket, "Key": PACKAGE, "Body": "another" });
        let others = [
            get("the configuration", KEY, None),
            Deed { action: "s3:PutObject", service: "s3", operation: "put_object", arguments: put },
        ];
        enough_and_no_more(&account, &policy, &[get(action, PACKAGE, version)], &others);
    }
}

#[test]
fn a_host_writes_its_journal_and_reads_nobodys() {
    let account = Account::start();
    let names = [unique("perch"), unique("other")];
    let [arn, _] = names.each_ref().map(|name| account.log_group(name));
    let deed = |action, operation, group: &str, more: Value| {
        let mut arguments = more;
        arguments["logGroupName"] = json!(group);
        Deed { action, service: "logs", operation, arguments }
    };
    let stream = || json!({ "logStreamName": unique("i-0") });
    let write = || json!({ "logStreamName": "i-0", "logEvents": ["ready"] });
    let deeds = [
        deed("logs:CreateLogStream", "create_log_stream", &names[0], stream()),
        deed("logs:DescribeLogStreams", "describe_log_streams", &names[0], json!({})),
        deed("logs:PutLogEvents", "put_log_events", &names[0], write()),
    ];
    let others = [
        deed("another group", "create_log_stream", &names[1], stream()),
        deed("another group", "put_log_events", &names[1], write()),
        deed("logs:FilterLogEvents", "filter_log_events", &names[0], json!({})),
        deed("logs:CreateLogGroup", "create_log_group", &unique("new"), json!({})),
    ];
    let mut policy = policy("journal.json.tftpl", &[("log_group_arn", &arn)]);
    // AWS knows what is in a group by the group's ARN and an asterisk; this AWS by the ARN alone.
    assert_eq!(policy["Statement"][0]["Resource"], json!(format!("{arn}:*")));
    policy["Statement"][0]["Resource"] = json!(arn);
    enough_and_no_more(&account, &policy, &deeds, &others);
}

#[test]
fn a_key_is_for_what_s3_and_secrets_manager_decrypt_with_it() {
    let account = Account::start();
    let (arn, encrypted) = account.key();
    let decrypt = || Deed {
        action: "kms:Decrypt",
        service: "kms",
        operation: "decrypt",
        arguments: json!({ "CiphertextBlob": encrypted }),
    };
    let encrypt = json!({ "KeyId": arn, "Plaintext": "a secret" });
    let others = [Deed { action: "kms:Encrypt", service: "kms", operation: "encrypt", arguments: encrypt }];
    let mut policy = policy("key.json.tftpl", &[("key_arn", &arn), ("region", "eu-central-1")]);
    // By itself a host decrypts nothing.
    assert!(!account.may(&policy, "kms", "decrypt", &decrypt().arguments));
    let via = policy["Statement"][0].as_object_mut().unwrap().remove("Condition").unwrap();
    let services = ["s3.eu-central-1.amazonaws.com", "secretsmanager.eu-central-1.amazonaws.com"];
    assert_eq!(via, json!({ "StringEquals": { "kms:ViaService": services } }));
    enough_and_no_more(&account, &policy, &[decrypt()], &others);
}

#[test]
fn session_managers_agent_says_that_it_is_there_and_reads_no_parameter() {
    let account = Account::start();
    let policy = policy("session-manager.json", &[]);
    // The others are a channel's, which this AWS has not.
    let agent = Deed {
        action: "ssm:UpdateInstanceInformation",
        service: "ssm",
        operation: "UpdateInstanceInformation",
        arguments: json!({}),
    };
    let parameter = json!({ "Name": "a-password" });
    let others =
        [Deed { action: "ssm:GetParameter", service: "ssm", operation: "get_parameter", arguments: parameter }];
    enough_and_no_more(&account, &policy, &[agent], &others);
}
