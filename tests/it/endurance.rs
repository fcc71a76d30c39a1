//! A long life in a short time: changes, lost connections and a flood of messages leave perch as small as it was.
//!
//! `tests/bench/endurance` does the same with larger numbers, and at Discord's real rate.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use perch::chat::{Ask, Deltas, Failure, Responder};
use perch::discord::{self, Discord as Service, Patience};
use perch::sim::{DEFAULT_TOKEN, Fault, Options, RateLimits, Say, When};
use perch::store::Store;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::support::authority::Authority;
use super::support::bot::Bot;
use super::support::chat;
use super::support::child;
use super::support::host::Host;
use super::support::perch::{PATIENCE, Perch, Start, wait};

/// How often each is done, unless these variables say otherwise.
const RELOADS: (&str, usize) = ("PERCH_TEST_RELOADS", 60);
const ROTATIONS: (&str, usize) = ("PERCH_TEST_ROTATIONS", 40);
const RECONNECTS: (&str, usize) = ("PERCH_TEST_RECONNECTS", 20);
const MENTIONS: (&str, usize) = ("PERCH_TEST_MENTIONS", 3_000);
/// How many times faster than Discord the simulator takes messages; 1 is Discord's own rate.
const RATE: (&str, usize) = ("PERCH_TEST_RATE", 10);

/// What memory may grow by. Allocators keep what they once had: what a leak of 1 KiB a change would cost shows in the
/// large numbers.
const GROWTH: u64 = 8 << 20;

fn number((variable, usual): (&str, usize)) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// But for sockets.
    descriptors: usize,
    /// Idle connections among them, which are kept for a minute and a half.
    sockets: usize,
    threads: usize,
    /// In bytes.
    memory: u64,
}

impl Held {
    fn by(perch: &Perch) -> Held {
        let process = PathBuf::from(format!("/proc/{}", perch.pid()));
        let list = |name: &str| std::fs::read_dir(process.join(name)).unwrap().map(|entry| entry.unwrap().path());
        // One that is closed meanwhile is none any more.
        let open = list("fd").filter_map(|path| std::fs::read_link(path).ok());
        let (sockets, others): (Vec<_>, Vec<_>) = open.partition(|path| path.to_string_lossy().starts_with("socket:"));
        Held {
            descriptors: others.len(),
            sockets: sockets.len(),
            threads: list("task").count(),
            memory: perch.memory(),
        }
    }

    /// Waits until `perch` holds as many descriptors and no more sockets and threads than this, and little more memory.
    #[track_caller]
    fn again(self, perch: &Perch) -> Held {
        wait_long("as many descriptors and threads as before", || {
            let now = Held::by(perch);
            let same = now.descriptors == self.descriptors;
            let fewer = now.sockets <= self.sockets && now.threads <= self.threads;
            (same && fewer).then_some(now).ok_or((self, now))
        })
        .within(self)
    }

    #[track_caller]
    fn within(self, before: Held) -> Held {
        assert!(self.memory <= before.memory + GROWTH, "{before:?} became {self:?}");
        self
    }
}

/// Idle connections take longer to go than others wait.
#[track_caller]
fn wait_long<T>(what: &str, mut condition: impl FnMut() -> Result<T, (Held, Held)>) -> T {
    let deadline = Instant::now() + 4 * PATIENCE;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => panic!("waited in vain for {what}: {seen:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[track_caller]
fn reload(perch: &Perch) -> String {
    let output = perch.verb(&["reload"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}: {}", perch.log_text());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[expect(clippy::print_stdout, reason = "what was measured, for whoever asks with --nocapture")]
fn reloads_and_rotated_secrets_leave_memory_threads_and_descriptors_where_they_were() {
    let (reloads, rotations) = (number(RELOADS), number(ROTATIONS));
    let host = Host::new();
    let other_token = "MTEwMDAwMDAwMDAwMDAwMDAxMA.perch.another-token-of-the-same-bot";
    host.discord.take_tokens(&[DEFAULT_TOKEN, other_token]);
    let secret = |token: &str| format!("{{\"DISCORD_BOT_TOKEN\": \"{token}\"}}");
    let (name, _) = host.cloud.create_secret("rotated", &secret(DEFAULT_TOKEN));
    let place = format!("{{ secret = \"{name}\", key = \"DISCORD_BOT_TOKEN\" }}");
    // Looks are made when they are asked for, and no others come in between.
    let paces = "poll = \"1h\"\nsecrets = \"1h\"\nbake = \"0s\"";
    let config = host.config(&place).replace("poll = \"1s\"", paces);
    host.upload(&config);
    let perch = host.perch().ready();
    let running = |status: &serde_json::Value| status["services"]["discord"]["state"] == "running";
    let change = |round: usize| {
        let version = host.upload(format!("{config}max_body = \"{}KiB\"\n", 64 + round % 2));
        assert!(reload(&perch).contains(&version));
    };
    let rotate = |round: usize| {
        host.cloud.put_secret(&name, &secret([other_token, DEFAULT_TOKEN][round % 2]));
        reload(&perch);
    };
    // Whatever is made on first use is there before it counts.
    for round in 0..10 {
        change(round);
    }
    for round in 0..2 {
        rotate(round);
    }
    perch.wait_status("a session", running);
    host.discord.ask("before");
    let before = settled(&perch);

    let begun = Instant::now();
    for round in 0..reloads {
        change(round);
    }
    let changed = begun.elapsed();
    let begun = Instant::now();
    for round in 0..rotations {
        rotate(round);
    }
    let rotated = begun.elapsed();
    // Each token has a session of its own, and what is said between two of them is not heard. Whoever is at it need not
    // wait for the next IDENTIFY, which the rotations may have spent.
    let answers = || host.discord.counters().messages_created;
    let answered = answers();
    wait("an answer", || {
        if perch.status()["services"]["discord"]["state"] == "waiting" {
            reload(&perch);
        }
        host.discord.simulator().say(Say::new("after").in_channel("dm")).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        (answers() > answered).then_some(())
    });
    let status = perch.wait_status("a session", running);
    let after = before.again(&perch);
    let counters = host.discord.counters();
    println!(
        "{reloads} reloads in {changed:.1?} and {rotations} rotated secrets in {rotated:.1?}, with {} IDENTIFYs: \
         {before:?}, then {after:?}",
        counters.identifies
    );
    assert_eq!(status["config"]["state"], "live");
    assert_eq!(counters.violation_count, 0, "{:?}", counters.violations);
    assert_eq!(chat::ask(host.port, "still there"), "still there");
}

/// What `perch` holds once that has not changed for a while.
fn settled(perch: &Perch) -> Held {
    let mut last = Held::by(perch);
    let mut since = Instant::now();
    wait("a quiet moment", || {
        let now = Held::by(perch);
        if (now.descriptors, now.sockets, now.threads) != (last.descriptors, last.sockets, last.threads) {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(2)).then_some(now)
    })
}

/// Echoes.
struct Echo;

#[async_trait]
impl Responder for Echo {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Ok(ask.message.to_owned())
    }
}

#[test]
#[ignore = "a daemon for the test below"]
fn quick_to_reconnect() {
    child::run(Echo, || {
        // A connection that stood counts as healthy at once: or each of the many reconnects would wait a minute.
        let patience = Patience { stable: Duration::ZERO, ..Patience::default() };
        vec![Arc::new(Service::new(discord::Options::default(), Store::in_memory()).with_patience(patience))]
    });
}

#[test]
#[expect(clippy::print_stdout, reason = "what was measured, for whoever asks with --nocapture")]
fn forced_reconnects_leave_memory_threads_and_descriptors_where_they_were() {
    let reconnects = number(RECONNECTS);
    let bot = Bot::new();
    let token = ("TOKEN".to_owned(), DEFAULT_TOKEN.to_owned());
    let perch = Start::child("endurance::quick_to_reconnect", &bot.config()).env([token]).ready();
    perch.wait_status("a session", |status| status["discord"]["session"] == true);
    let mut asked = Vec::new();
    let mut reconnect = |round: usize| {
        let resumed = bot.discord.counters().resumed;
        bot.discord.simulator().fault(Fault::Reconnect { when: When::Now });
        asked.push(bot.mention("general", &format!("while it reconnects {round}")));
        wait("a resumed session", || (bot.discord.counters().resumed > resumed).then_some(()));
        bot.wait_answers("general", asked.len());
    };
    for round in 0..3 {
        reconnect(round);
    }
    let before = settled(&perch);
    let begun = Instant::now();
    for round in 0..reconnects {
        reconnect(round);
    }
    let took = begun.elapsed();
    let after = before.again(&perch);
    let counters = bot.discord.counters();
    println!(
        "{reconnects} reconnects in {took:.1?}, with {} IDENTIFY and {} RESUMEs: {before:?}, then {after:?}",
        counters.identifies, counters.resumed
    );
    let answered: Vec<_> = bot.answers("general").into_iter().filter_map(|answer| answer.to).collect();
    assert_eq!(answered, asked);
    assert_eq!((counters.identifies, counters.violation_count), (1, 0), "{:?}", counters.violations);
}

/// The daemon as it is, with `api_url`: limits are somebody else's to keep, and it obeys when it is told to wait.
fn behind_a_proxy(options: Options) -> (Bot, Start) {
    let bot = Bot::with(options);
    let start = bot.perch();
    (bot, start)
}

/// The daemon as it is, which takes the simulator for discord.com, and keeps to its limits as it does there.
fn at_discord_itself(options: Options) -> (Bot, Start) {
    perch::tls::install_default_provider();
    let authority = Authority::new();
    let (certificate, key) = authority.issue("discord.com");
    let certificates = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).unwrap();
    let bot = Bot::with(Options { tls: Some(Arc::new(tls)), ..options });
    let start = bot.perch();
    let config = bot.config().replace(&format!("api_url = \"{}\"\n", bot.discord.url()), "");
    std::fs::write(start.directory().join("perch.toml"), config).unwrap();
    let trusted = start.directory().join("authority.pem");
    std::fs::write(&trusted, authority.pem()).unwrap();
    let address = bot.discord.simulator().address().to_string();
    let start = start.argument("--discord-address").argument(&address);
    (bot, start.env([("SSL_CERT_FILE".to_owned(), trusted.to_str().unwrap().to_owned())]))
}

/// As many as Discord's limit of 50 requests a second over all is worth, with its one message a second in each.
const CHANNELS: usize = 50;
/// How many mentions may wait for their answers at a time: perch takes 1,000 in a channel and 10,000 in all.
const OPEN: u64 = 2_000;

#[test]
#[expect(clippy::print_stdout, reason = "what was measured, for whoever asks with --nocapture")]
fn a_flood_of_mentions_is_answered_once_each_and_memory_stays_bounded() {
    let (mentions, rate) = (number(MENTIONS), number(RATE));
    let scale = u32::try_from(rate).unwrap();
    let limits = RateLimits { scale, global: 50 * scale };
    let options = Options { rate_limits: limits, ..Options::default() };
    let (bot, start) = if rate == 1 { at_discord_itself(options) } else { behind_a_proxy(options) };
    let channels: Vec<_> = (0..CHANNELS).map(|number| format!("flood-{number}")).collect();
    for name in &channels {
        bot.add_channel(name, true);
    }
    let perch = start.ready();
    perch.wait_status("a session", |status| status["discord"]["session"] == true);
    // A little below the limits, as a crowd that is just not too large.
    let pace = Duration::from_secs(1) / 45 / scale;
    let mut asked: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut warm = None;
    let begun = Instant::now();
    for number in 0..mentions {
        let answered = || bot.discord.counters().messages_created;
        let due = begun + pace * u32::try_from(number).unwrap();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if number % 100 == 0 {
            wait("perch to keep up", || (number as u64 - answered() < OPEN).then_some(()));
        }
        if number == mentions / 10 {
            warm = Some(Held::by(&perch));
        }
        let channel = channels[number % CHANNELS].as_str();
        asked.entry(channel).or_default().push(bot.mention(channel, &number.to_string()));
    }
    let said = begun.elapsed();
    let mut answered = bot.discord.counters().messages_created;
    while answered < mentions as u64 {
        wait("one more answer", || (bot.discord.counters().messages_created > answered).then_some(()));
        answered = bot.discord.counters().messages_created;
    }
    let took = begun.elapsed();
    for (channel, ids) in &asked {
        let answers: Vec<_> = bot.answers(channel).into_iter().filter_map(|answer| answer.to).collect();
        assert!(
            answers == *ids,
            "in #{channel}: {} asked, {} answered: {}",
            ids.len(),
            answers.len(),
            perch.log_text()
        );
    }
    let (warm, full) = (warm.unwrap(), Held::by(&perch));
    let counters = bot.discord.counters();
    println!(
        "{mentions} mentions said in {said:.1?} and answered in {took:.1?}, {:.0} a second; {} 429s obeyed, {} nonces met \
         again: {warm:?} after a tenth, {full:?} at the end",
        f64::from(u32::try_from(mentions).unwrap()) / took.as_secs_f64(),
        counters.rate_limited,
        counters.nonce_deduplicated
    );
    assert_eq!((counters.identifies, counters.violation_count), (1, 0), "{:?}", counters.violations);
    full.within(warm);
    assert_eq!(perch.status()["discord"]["lost"], 0);
}
