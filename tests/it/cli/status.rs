//! What `perch status` and `perch reload` say of a daemon, and where there is none.

use perch::sim::{DEFAULT_TOKEN, Options, Simulator};
use serde_json::{Value, json};

use super::super::support::perch::{Perch, Start, free_port, perch};
use super::session;

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
        perch.wait_status("a Discord session", |status| status["discord"]["guilds"] == 1);
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
        // It comes with the first heartbeat's answer, which may be there already.
        times(&text).replace("latency N ms", "latency not known yet")
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
