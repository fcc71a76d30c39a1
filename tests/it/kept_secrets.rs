//! perch is started again while Secrets Manager is out of reach, with what systemd kept for it in between.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perch::sim::DEFAULT_TOKEN;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde_json::Value;

use super::support::aws::Fault;
use super::support::chat;
use super::support::discord::Discord;
use super::support::host::Host;
use super::support::perch::{Perch, Store, wait};

const NAME: &str = "perch-secrets";

/// What stays while perch comes and goes: its socket, its bucket, and a token in Secrets Manager.
struct Stage {
    host: Host,
    listener: TcpListener,
    token: String,
}

impl Stage {
    fn new() -> Stage {
        let mut host = Host::new();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        host.port = listener.local_addr().unwrap().port();
        let token = host.token();
        Stage { host, listener, token }
    }

    /// Starts perch as systemd does, with `store` handed back to it, before a Discord that knows nothing yet.
    fn start(&mut self, store: &Store) -> Perch {
        self.host.discord = Discord::start();
        self.host.upload(self.host.config(&self.token));
        self.host.perch().socket_and_store(&self.listener, store).ready()
    }

    /// What systemd keeps after perch has run with the token and was stopped.
    fn keep(&mut self) -> Store {
        let mut perch = self.start(&Store::new());
        connected(&perch);
        let store = wait("the secrets to be kept", || Some(perch.stored()).filter(|store| !store.is_empty()));
        assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
        assert_no_secret_on_disk(perch.directory());
        store
    }

    fn secret_faults(&self, fault: Fault) {
        self.host.cloud.fault(fault.action("GetSecretValue"));
    }

    #[track_caller]
    fn assert_waits(&self, perch: &Perch) {
        perch.wait_status("the bot to wait", |status| status["services"]["discord"]["state"] == "waiting");
        assert_eq!(chat::ask(self.host.port, "still here?"), "still here?");
        assert_eq!(self.host.discord.counters().rest_requests, 0);
    }
}

#[track_caller]
fn connected(perch: &Perch) -> Value {
    perch.wait_status("the bot", |status| status["services"]["discord"]["state"] == "running")
}

/// No file under `directory` has the token in it.
#[track_caller]
fn assert_no_secret_on_disk(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            assert_no_secret_on_disk(&path);
        } else if kind.is_file() {
            let mut bytes = Vec::new();
            File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            let found = bytes.windows(DEFAULT_TOKEN.len()).any(|window| window == DEFAULT_TOKEN.as_bytes());
            assert!(!found, "the token is in {}", path.display());
        }
    }
}

fn bytes(memory: &OwnedFd) -> Vec<u8> {
    let file = File::from(memory.try_clone().unwrap());
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Memory with `bytes`, as somebody else may pass it for perch's own.
fn forged(bytes: &[u8], sealed: bool) -> Store {
    let memory = memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    File::from(memory.try_clone().unwrap()).write_all(bytes).unwrap();
    if sealed {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(memory.as_fd(), seals).unwrap();
    }
    vec![(NAME.to_owned(), Arc::new(memory))]
}

#[test]
fn the_bot_comes_back_with_the_token_it_had_while_secrets_manager_is_out_of_reach() {
    let mut stage = Stage::new();
    let store = stage.keep();
    let [(name, memory)] = store.as_slice() else { panic!("{store:?}") };
    assert_eq!(name, NAME);
    let holds = bytes(memory).windows(DEFAULT_TOKEN.len()).any(|window| window == DEFAULT_TOKEN.as_bytes());
    assert!(holds, "it is the token that is kept");
    let denied = "User: arn:aws:sts::123456789012:assumed-role/perch/i-0 is not authorized";
    for (fault, why) in [
        (Fault::hang(), "no answer"),
        (Fault::reset(), "Connection reset by peer"),
        (Fault::refuse(500, "InternalServiceError", "An error occurred."), "500 InternalServiceError"),
        (Fault::refuse(400, "AccessDeniedException", denied), "may not be read"),
    ] {
        stage.secret_faults(fault);
        let mut perch = stage.start(&store);
        let status = connected(&perch);
        assert_eq!(stage.host.discord.ask("the same?"), "the same?");
        assert_eq!(chat::ask(stage.host.port, "and you?"), "and you?");
        let [warned] = perch.messages("WARN").try_into().unwrap();
        let said = "secrets can't be read, those in use stay in use: discord.token: its value of ";
        assert!(warned.starts_with(said) && warned.contains(why), "{warned}");
        assert!(warned.contains(" ago, kept over the restart, is used: no place has the secret: secret `token-"));
        assert!(status["config"]["secrets_trouble"]["text"].as_str().unwrap().contains("kept over the restart"));
        stage.host.cloud.clear_faults();
        let reload = perch.verb(&["reload"]);
        assert_eq!(reload.status.code(), Some(0), "{reload:?}");
        assert!(perch.status()["config"]["secrets_trouble"].is_null());
        assert_eq!(perch.messages("WARN").len(), 1, "{}", perch.log_text());
        assert_eq!(perch.messages("ERROR"), [""; 0]);
        // What is kept has not changed, so systemd was told nothing of it.
        assert!(!perch.notified().iter().any(|text| text.contains("FDSTORE")), "{:?}", perch.notified());
        assert_eq!(perch.stop().code(), Some(0));
        assert_no_secret_on_disk(perch.directory());
    }
}

#[test]
fn where_nothing_was_kept_the_bot_waits_and_http_serves() {
    let mut stage = Stage::new();
    stage.secret_faults(Fault::refuse(500, "InternalServiceError", "An error occurred."));
    let perch = stage.start(&Store::new());
    stage.assert_waits(&perch);
    assert_eq!(perch.stored().len(), 0);
    stage.host.cloud.clear_faults();
    connected(&perch);
    wait("the secrets to be kept", || (perch.stored().len() == 1).then_some(()));
}

#[test]
fn a_secret_that_was_deleted_meanwhile_is_not_used_again() {
    let mut stage = Stage::new();
    let store = stage.keep();
    let name = stage.token.split('"').nth(1).unwrap().to_owned();
    stage.host.cloud.delete_secret(&name);
    let perch = stage.start(&store);
    stage.assert_waits(&perch);
    let reason = perch.status()["services"]["discord"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("is scheduled for deletion"), "{reason}");
    wait("systemd to drop it", || perch.stored().is_empty().then_some(()));
    // Not even when Secrets Manager is out of reach afterwards.
    stage.secret_faults(Fault::refuse(500, "InternalServiceError", "An error occurred."));
    perch.wait_status("the outage", |status| {
        let reason = status["services"]["discord"]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("500 InternalServiceError"))
    });
    stage.assert_waits(&perch);
}

#[test]
fn what_was_kept_for_one_secret_is_not_used_for_another() {
    let mut stage = Stage::new();
    let store = stage.keep();
    let (other, _) = stage.host.cloud.create_secret("other", DEFAULT_TOKEN);
    stage.token = format!("{{ secret = \"{other}\" }}");
    stage.secret_faults(Fault::refuse(500, "InternalServiceError", "An error occurred."));
    let perch = stage.start(&store);
    stage.assert_waits(&perch);
}

#[test]
fn memory_that_somebody_may_have_tampered_with_is_refused() {
    let mut stage = Stage::new();
    let good = bytes(&stage.keep()[0].1);
    stage.secret_faults(Fault::refuse(500, "InternalServiceError", "An error occurred."));
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let null = vec![(NAME.to_owned(), Arc::new(OwnedFd::from(File::open("/dev/null").unwrap())))];
    let two = [forged(&good, true), forged(&good, true)].concat();
    for (store, why) in [
        (forged(&good, false), "it is not sealed"),
        (forged(&changed, true), "it is not what perch wrote, or another version of perch wrote it"),
        (forged(&vec![0xa5; 2 << 20], true), "it is larger than 1024 KiB"),
        (null, "it is no memory that can be sealed"),
        (two, "there are several, and perch keeps one"),
    ] {
        let mut perch = stage.start(&store);
        stage.assert_waits(&perch);
        let warned = perch.messages("WARN");
        assert_eq!(warned[0], format!("the secrets kept over the restart are not used: {why}"));
        assert!(warned[1].starts_with("discord is waiting: "), "{warned:#?}");
        assert_eq!(warned.len(), 2, "{warned:#?}");
        wait("systemd to drop it", || perch.stored().is_empty().then_some(()));
        assert_eq!(perch.stop().code(), Some(0));
    }
    // The same bytes, as perch seals them, are good.
    let perch = stage.start(&forged(&good, true));
    connected(&perch);
}

#[test]
fn a_rotated_token_takes_the_place_of_the_one_that_was_kept() {
    let mut stage = Stage::new();
    let (name, _) = stage.host.cloud.create_secret("rotated", DEFAULT_TOKEN);
    stage.token = format!("{{ secret = \"{name}\" }}");
    let config = stage.host.config(&stage.token).replace("poll = \"1s\"", "poll = \"1s\"\nsecrets = \"1s\"");
    stage.host.upload(&config);
    let mut perch = stage.host.perch().socket_and_store(&stage.listener, &Store::new()).ready();
    connected(&perch);
    let told = |perch: &Perch| perch.notified().iter().filter(|text| text.starts_with("FDSTORE=1")).count();
    wait("the secrets to be kept", || (told(&perch) == 1).then_some(()));
    // Looks that find nothing new keep nothing anew.
    stage.host.cloud.forget_requests();
    let looks = || stage.host.cloud.requests().iter().filter(|asked| asked.action.ends_with("GetSecretValue")).count();
    wait("three looks", || (looks() >= 3).then_some(()));
    assert_eq!(told(&perch), 1);
    stage.host.discord.take_tokens(&[DEFAULT_TOKEN, "a.rotated.token"]);
    stage.host.cloud.put_secret(&name, "a.rotated.token");
    wait("the new one to be kept", || (told(&perch) == 2).then_some(()));
    let store = perch.stored();
    assert_eq!(store.len(), 1, "it took the place of the old one");
    assert_eq!(perch.stop().code(), Some(0));
    stage.secret_faults(Fault::hang());
    stage.host.discord = Discord::start();
    stage.host.discord.take_tokens(&["a.rotated.token"]);
    stage.host.upload(stage.host.config(&stage.token));
    let began = std::time::Instant::now();
    let perch = stage.host.perch().socket_and_store(&stage.listener, &store).ready();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    connected(&perch);
    assert_eq!(stage.host.discord.ask("new?"), "new?");
}
