//! The Terraform module says what it is about, and says nothing that the current AWS provider would not understand.
//! What takes minutes and larger tools, `packaging/terraform/check` does by itself.

use std::path::Path;
use std::process::Command;

use super::support::namespace::skip;

#[test]
fn the_module_is_formatted_its_names_are_the_providers_and_its_page_is_up_to_date() {
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/terraform/check");
    let output = Command::new(check).args(["readme", "names", "format"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // Without Terraform, which no registry of packages has, its own formatter can't be asked.
    let skipped = "skipped: format: terraform is not installed";
    let format = if said.contains(skipped) { skipped } else { "format: ok" };
    assert_eq!(said.trim_end(), format!("readme: ok\nnames: ok\n{format}"));
    if format == skipped {
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
