//! The Terraform module says what it is about, and says nothing that the current AWS provider would not understand.
//! What takes minutes and larger tools, `packaging/terraform/check` does by itself.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::support::namespace::skip;

#[test]
fn the_module_is_formatted_its_names_are_the_providers_and_its_page_is_up_to_date() {
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/terraform/check");
    let output = Command::new(check).args(["readme", "names", "format", "inputs"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // Without Terraform, which no registry of packages has, it can't be asked.
    let skipped = "skipped: format: terraform is not installed\nskipped: inputs: terraform is not installed";
    let asked = if said.contains(skipped) { skipped } else { "format: ok\ninputs: ok" };
    assert_eq!(said.trim_end(), format!("readme: ok\nnames: ok\n{asked}"));
    if asked == skipped {
        skip("terraform is not installed");
    }
}

#[test]
fn what_one_person_runs_in_the_shell_reads_no_secret_from_its_command_line() {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/terraform");
    let outputs = std::fs::read_to_string(module.join("outputs.tf")).unwrap();
    let from = outputs.find("output \"secret_command\"").unwrap();
    let command = outputs[from..].split("\n}\n").next().unwrap();
    assert!(command.contains("read -rsp") && command.contains("--secret-string file:///dev/stdin"), "{command}");
    for file in std::fs::read_dir(&module).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "tf") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                !text.contains("aws_secretsmanager_secret_version"),
                "{}: a value would be in the state",
                path.display()
            );
        }
    }
}

#[test]
fn the_journal_is_read_as_root_as_session_managers_own_user_sees_nothing_of_it() {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/terraform");
    let outputs = std::fs::read_to_string(module.join("outputs.tf")).unwrap();
    let asked: Vec<_> = outputs.lines().filter(|line| line.contains("journalctl")).collect();
    assert_eq!(asked.len(), 1, "{asked:#?}");
    assert!(asked[0].contains("command='sudo journalctl -u perch -f'"), "{asked:#?}");
}

/// A template of the module's, with what fills it in.
fn filled_in(template: &str, values: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/terraform").join(template);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (name, value) in values {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    assert!(!text.contains("${"), "nothing fills in all of {template}: {text}");
    text
}

/// What an entry of `journald.collect_list` may have, and must not have more: translator/config/schema.json of the agent,
/// 1.300070.0 to 1.300071.0.
const COLLECTED: [&str; 8] = [
    "log_group_name",
    "log_stream_name",
    "log_group_class",
    "retention_in_days",
    "filters",
    "units",
    "priority",
    "matches",
];

#[test]
fn the_agent_that_ships_the_journal_is_told_what_it_knows() {
    let settings: Value =
        serde_json::from_str(&filled_in("agent.json.tftpl", &[("log_group", "/perch/perch")])).unwrap();
    let journald = settings["logs"]["logs_collected"]["journald"].as_object().unwrap();
    assert_eq!(journald.keys().collect::<Vec<_>>(), ["collect_list"]);
    let entries = journald["collect_list"].as_array().unwrap();
    assert_eq!(entries.len(), 1);
    let entry = entries[0].as_object().unwrap();
    let unknown: Vec<_> = entry.keys().filter(|key| !COLLECTED.contains(&key.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!((&entry["log_group_name"], &entry["units"]), (&json!("/perch/perch"), &json!(["perch.service"])));
}

/// The user data with the agent in it, as cloud-init takes it apart.
fn second_part() -> String {
    let text = filled_in("user-data.mime.tftpl", &[("install", "#!/bin/sh"), ("agent", "{}")]);
    let text = text.replace("%{ if agent != \"\" ~}\n", "").replace("%{ endif ~}\n", "");
    // What Terraform takes for its own is doubled.
    let text = text.replace("%%{", "\u{1}");
    assert!(!text.contains("%{"), "{text}");
    let text = text.replace('\u{1}', "%{");
    let parts: Vec<_> = text.split("--perch").collect();
    assert_eq!((parts.len(), parts[3]), (4, "--\n"), "{text}");
    let (head, body) = parts[2].split_once("\n\n").unwrap();
    assert!(head.contains("Content-Type: text/x-shellscript;"), "{head}");
    body.to_owned()
}

#[test]
fn an_agent_that_can_not_read_a_journal_is_named_and_one_that_can_is_started() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let program = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    std::fs::create_dir(directory.path().join("etc")).unwrap();
    program("dnf", &format!("echo dnf \"$@\" >>{place}/asked"));
    program("bin/amazon-cloudwatch-agent-ctl", &format!("echo ctl \"$@\" >>{place}/asked"));
    let script = second_part().replace("/opt/aws/amazon-cloudwatch-agent", place);
    let run = |version: &str| {
        program("rpm", &format!("printf %s {version}"));
        let path = format!("{place}:{}", std::env::var("PATH").unwrap());
        let output = Command::new("sh").args(["-c", &script]).env("PATH", path).output().unwrap();
        let asked = std::fs::read_to_string(directory.path().join("asked")).unwrap();
        std::fs::remove_file(directory.path().join("asked")).unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap(), asked.replace(place, "AGENT"))
    };
    let old = "ship_journal: amazon-cloudwatch-agent 1.300069.0 can't read a journal, 1.300070.0 and later can: \
               use a newer image\n";
    assert_eq!(run("1.300069.0"), (Some(1), old.to_owned(), "dnf install -y amazon-cloudwatch-agent\n".to_owned()));
    let asked = "dnf install -y amazon-cloudwatch-agent\n\
                 ctl -a fetch-config -m ec2 -s -c file:AGENT/etc/perch.json\n";
    assert_eq!(run("1.300070.0"), (Some(0), String::new(), asked.to_owned()));
    assert_eq!(std::fs::read_to_string(directory.path().join("etc/perch.json")).unwrap(), "{}\n");
}
