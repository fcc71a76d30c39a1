//! What the READMEs say to paste, pasted: only the address in `PERCH` is this test's own.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::support::aws::{Cloud, REGION};
use super::support::perch::{Perch, Start, binary, clean, clean_command, free_port, keep_secret};
use super::support::python;

/// Where the READMEs say that perch is.
const ADDRESS: &str = "http://127.0.0.1:8080";
const CHAT: &str = "src/http/README.md";

/// What somebody copies.
struct Block {
    language: String,
    text: String,
}

/// The blocks of commands and programs under a heading, as far as the next.
#[track_caller]
fn blocks(readme: &str, heading: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(readme)).unwrap();
    let mut blocks = Vec::new();
    let (mut here, mut open) = (false, None::<Block>);
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some("")) => blocks.extend(open.take().filter(|_| here)),
            (Some(block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, Some(language)) => open = Some(Block { language: language.to_owned(), text: String::new() }),
            (None, None) if line.starts_with('#') => here = line.trim_start_matches('#').trim() == heading,
            (None, None) => {}
        }
    }
    blocks.retain(|block| ["sh", "python"].contains(&&*block.language));
    assert!(!blocks.is_empty(), "{readme} has nothing to paste under {heading}");
    blocks
}

/// Somebody with a shell, in a directory with what is in the repository's root as far as the examples need it.
struct Terminal {
    directory: tempfile::TempDir,
    perch: String,
    environment: Vec<(String, String)>,
}

impl Terminal {
    fn new(perch: String) -> Terminal {
        let directory = tempfile::tempdir().unwrap();
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), directory.path().join("tests")).unwrap();
        Terminal { directory, perch, environment: Vec::new() }
    }

    /// A command that finds perch, and Python with what `pip install` brought.
    fn command(&self, program: &str) -> Command {
        let mut command = clean(Command::new(program));
        let mut path = vec![binary().parent().unwrap().to_owned(), python::interpreter().parent().unwrap().to_owned()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        command.current_dir(&self.directory).env("PATH", std::env::join_paths(path).unwrap());
        command.env("PERCH", &self.perch).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Pastes one after the other into one shell, and returns what is printed.
    #[track_caller]
    fn paste(&self, blocks: &[Block]) -> String {
        let mut script = "set -euo pipefail\n".to_owned();
        for Block { language, text } in blocks {
            match &**language {
                "python" => script += &format!("python3 - <<'END OF PROGRAM'\n{text}END OF PROGRAM\n"),
                _ => script += &text.replace(&format!("PERCH={ADDRESS}"), &format!("PERCH={}", self.perch)),
            }
            // Answers end without a line break.
            script += "\necho\n";
        }
        let output = self.command("bash").arg("-c").arg(&script).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{said}\n{errors}");
        assert_eq!(errors, "", "{script}");
        said
    }
}

/// What is printed, without blank lines and what differs from run to run.
fn redacted(said: &str) -> String {
    let mut text = String::new();
    for word in said.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        let number = digits.len() >= 10 && digits.bytes().all(|digit| digit.is_ascii_digit());
        match digits.len() {
            16.. => text.push_str("ID"),
            _ if number => text.push_str("MOMENT"),
            _ => text.push_str(digits),
        }
        text.push_str(&word[digits.len()..]);
    }
    if let Some((before, rest)) = text.split_once("\"updated\":\"")
        && let Some((_, rest)) = rest.split_once('"')
    {
        text = format!("{before}\"updated\":\"MOMENT\"{rest}");
    }
    text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// `perch dev`, as the README begins; ended when this is dropped.
struct Dev {
    child: Child,
    _home: tempfile::TempDir,
    address: String,
}

impl Dev {
    fn start() -> Dev {
        let home = tempfile::tempdir().unwrap();
        let mut command = clean_command();
        // The configuration that it begins with; another test may be at the usual port.
        let file = home.path().join("perch.toml");
        let begin = include_str!("../../src/cli/dev.toml").replace("8080", &free_port().to_string());
        std::fs::write(&file, begin).unwrap();
        command.arg("dev").arg(&file).env("HOME", home.path()).env_remove("XDG_STATE_HOME");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = printed.find(|line| line.contains("chat page")).expect("perch dev says where the page is");
        let address = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let serves = log.find(|line| line.contains("applied"));
        assert!(serves.is_some(), "perch dev ended");
        // What it still says is read, so that it is not kept from saying it; ends with it.
        std::thread::spawn(move || log.for_each(drop));
        Dev { child, _home: home, address }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Already gone where the test ended it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn the_first_examples_work_as_pasted() {
    let dev = Dev::start();
    let said = Terminal::new(dev.address.clone()).paste(&blocks("README.md", "From code"));
    insta::assert_snapshot!(redacted(&said), @r#"
    {"reply":"hello","conversation":"ID"}event: start
    data: {"conversation":"ID","message":MOMENT}
    event: delta
    data: {"text":"tell me a story"}
    event: done
    data: {"conversation":"ID"}
    {"reply":"what is this?\n[chat.png (image/png, 61 KiB)]","conversation":"ID"}{"id":"chatcmpl-ID","object":"chat.completion","created":MOMENT,"model":"perch","choices":[{"index":0,"message":{"role":"assistant","content":"hello","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}
    hello
    "#);
}

#[test]
fn the_examples_of_the_chat_work_as_pasted() {
    let dev = Dev::start();
    let terminal = Terminal::new(dev.address.clone());
    insta::assert_snapshot!(redacted(&terminal.paste(&blocks(CHAT, "Messages"))), @r#"
    {"reply":"hello","conversation":"ID"}
    event: start
    data: {"conversation":"ID","message":MOMENT}
    event: delta
    data: {"text":"tell me a story"}
    event: done
    data: {"conversation":"ID"}
    {"reply":"what is this?\n[chat.png (image/png, 61 KiB)]","conversation":"ID"}
    "#);
    insta::assert_snapshot!(redacted(&terminal.paste(&blocks(CHAT, "What speaks OpenAI's API"))), @r#"
    hello stop
    hello
     0 tokens
    {"object":"list","data":[{"id":"perch","object":"model","created":MOMENT,"owned_by":"perch"}]}data: {"choices":[{"delta":{"content":"","role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}],"created":MOMENT,"id":"chatcmpl-ID","model":"perch","object":"chat.completion.chunk"}
    data: {"choices":[{"delta":{"content":"hello"},"finish_reason":null,"index":0,"logprobs":null}],"created":MOMENT,"id":"chatcmpl-ID","model":"perch","object":"chat.completion.chunk"}
    data: {"choices":[{"delta":{},"finish_reason":"stop","index":0,"logprobs":null}],"created":MOMENT,"id":"chatcmpl-ID","model":"perch","object":"chat.completion.chunk"}
    data: [DONE]
    "#);
    // The operator's commands beside it name somebody who is not here.
    let mut kept = blocks(CHAT, "What people said");
    kept.retain(|block| block.text.contains("curl"));
    insta::assert_snapshot!(redacted(&terminal.paste(&kept)), @r#"{"reply":"hello","conversation":"ID"}{"conversations":[{"id":"ID","title":"hello","updated":"MOMENT","messages":2}]}"#);
    let export = std::fs::read(terminal.directory.path().join("perch-export.json")).unwrap();
    let export: Value = serde_json::from_slice(&export).unwrap();
    assert_eq!(export["conversations"][0]["messages"][0]["text"], "hello", "{export:#}");
}

#[test]
fn the_example_of_a_room_works_as_pasted() {
    let dev = Dev::start();
    let terminal = Terminal::new(dev.address.clone());
    let program = blocks(CHAT, "Rooms, over a WebSocket").remove(0);
    std::fs::write(terminal.directory.path().join("room.py"), program.text).unwrap();
    let mut python = terminal.command("python3").args(["-u", "room.py"]).stdout(Stdio::piped()).spawn().unwrap();
    let printed = BufReader::new(python.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut told = Vec::new();
    for line in printed {
        let frame: Value = serde_json::from_str(&line).unwrap();
        told.push(frame["type"].as_str().unwrap().to_owned());
        if frame["type"] == "done" {
            break;
        }
    }
    // It would listen for ever.
    python.kill().unwrap();
    python.wait().unwrap();
    told.sort();
    assert_eq!(told, ["delta", "done", "joined", "message"]);
}

/// perch with keys in Secrets Manager, where nobody has put any yet.
fn perch_with_keys(cloud: &Cloud) -> (Perch, String) {
    let port = free_port();
    let text = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n[auth.api_keys]\nsecret = \"perch-keys\"\n");
    let perch = Start::with_text(&text).env(cloud.env()).ready();
    (perch, format!("http://127.0.0.1:{port}"))
}

#[test]
fn keys_are_made_and_used_as_pasted() {
    let cloud = Cloud::start();
    let (perch, address) = perch_with_keys(&cloud);
    let mut terminal = Terminal::new(address);
    terminal.environment = cloud.env();
    let runtime = perch.runtime_dir().to_str().unwrap().to_owned();
    terminal.environment.extend(
        [("RUNTIME_DIRECTORY", runtime), ("AWS_DEFAULT_REGION", REGION.to_owned())]
            .map(|(name, value)| (name.to_owned(), value)),
    );
    let command = |text: &str| Block { language: "sh".to_owned(), text: text.to_owned() };
    let [first, used, second] = blocks(CHAT, "Who may use the chat").try_into().ok().expect("three blocks");
    let client = blocks("README.md", "From code").pop().expect("the last is the client's");
    let reload = || command("perch reload >/dev/null");
    let shown = |name: &str| command(&format!("echo {name}:\"$(jq -r .key <<<\"$new\")\""));
    let said = terminal.paste(&[first, reload(), used, client, second, reload(), shown("bob")]);
    let keys: Vec<&str> = said.lines().filter_map(|line| line.split("perch_").nth(1)).collect();
    assert_eq!(keys.len(), 2, "{said}");
    for key in &keys {
        keep_secret(key);
    }
    // Ada has asked, with curl and with OpenAI's client; then there is a key for Bob too.
    let answers: Vec<&str> = said.lines().filter(|line| line.contains("reply") || *line == "hello").collect();
    assert_eq!(answers.len(), 2, "{said}");
    let try_key = |key: &str| {
        let mut curl = terminal.command("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("Authorization: Bearer {key}")]);
        let status = curl.arg(format!("{}/v1/models", terminal.perch)).output().unwrap().stdout;
        String::from_utf8(status).unwrap()
    };
    for key in keys {
        assert_eq!(try_key(&format!("perch_{key}")), "200");
        assert_eq!(try_key(&format!("perch_{}", key.replace(|c: char| c.is_ascii_digit(), "0"))), "401");
    }
}
