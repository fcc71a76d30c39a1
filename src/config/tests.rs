use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::plan::plan;

/// A configuration with every table, as it may look on a host.
const FULL: &str = r#"
environment = "test"

[discord]
token = [{ env = "TOKEN" }, { secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:bot-AbCdEf", key = "T" }]
respond = "echo"
api_url = "http://127.0.0.1:9/"

[discord.catch_up]
max_age = "30m"
per_channel = 10
total = 0x20

[http]
listen = "[::1]:8080"
max_body = "1MiB"
origins = ["https://www.example.com", "http://localhost:3000"]
trusted_proxies = ["10.0.0.0/8", "2001:db8::1"]

[chat]
backend = "openai"
base_url = "http://127.0.0.1:11434/v1/"
model = "llama3.2"
api_key = [{ env = "KEY" }, { file = "/run/secrets/key" }]
system = " Be brief. "
temperature = 0.25
max_tokens = 1_000
history = 6

[chat.timeout]
connect = "500ms"
first_token = "2m"
between_tokens = "10s"

[limits]
ipv6_prefix = 56
exempt = []

[limits.address]
requests_per_minute = 600
burst = 100
connections = 50
rooms = 20
messages_per_minute = "off"
files_per_minute = 1_000
tokens_per_day = "off"

[limits.person]
requests_per_minute = 30

[limits.total]
requests_per_minute = 100_000
tokens_per_day = 0

[reload]
poll = "1s"
secrets = "2m"
bake = "0s"

[log]
level = "debug"

[run]
drain = "5s"
departure = false
"#;

fn mistakes(text: &str) -> String {
    Config::load(text.as_bytes()).expect_err("the document has mistakes").to_string()
}

fn load(text: &str) -> Config {
    Config::load(text.as_bytes()).expect("the document is good")
}

#[test]
fn every_value_is_read() {
    let config = load(FULL);
    assert_eq!(config.environment, Environment::Test);
    let discord = config.discord.clone().expect("there is a [discord] table");
    let places: Vec<String> = discord.token.places.iter().map(ToString::to_string).collect();
    assert_eq!(
        places,
        [
            "environment variable `TOKEN`",
            "secret `arn:aws:secretsmanager:eu-west-1:123456789012:secret:bot-AbCdEf` (key `T`)"
        ]
    );
    assert_eq!(discord.api_url.as_deref(), Some("http://127.0.0.1:9"));
    let catch_up = discord::CatchUp { max_age: Duration::from_mins(30), per_channel: 10, total: 32 };
    assert_eq!(discord.catch_up, catch_up);
    let http = config.http.clone().expect("there is an [http] table");
    assert_eq!(http.listen.to_string(), "[::1]:8080");
    assert_eq!(http.max_body, 1 << 20);
    assert_eq!(http.origins, ["https://www.example.com", "http://localhost:3000"]);
    assert_eq!(network::show(&http.trusted_proxies), "10.0.0.0/8, 2001:db8::1/128");
    let limits = &config.limits;
    assert_eq!((limits.ipv6_prefix, &*limits.exempt), (56, &[][..]));
    assert_eq!((limits.connections.map(u32::from), limits.rooms.map(u32::from)), (Some(50), Some(20)));
    assert_eq!((limits.address.messages, limits.person.messages), (None, None));
    let shown = |allowance: &limits::Allowance| {
        [limits::show(allowance.requests), limits::show(allowance.files), limits::show(allowance.tokens)].join("; ")
    };
    assert_eq!(shown(&limits.address), "600 a minute, 100 at once; 1000 a minute, 500 at once; off");
    assert_eq!(shown(&limits.person), "30 a minute, 15 at once; off; 1000000");
    assert_eq!(shown(&limits.total), "100000 a minute, 50000 at once; off; off");
    let chat::Backend::OpenAi(chat) = &config.chat.backend else { panic!("another backend: {:?}", config.chat) };
    assert_eq!((&*chat.base_url, &*chat.model), ("http://127.0.0.1:11434/v1", "llama3.2"));
    assert_eq!(config.secrets().last().map(|key| &*key.place.key), Some("chat.api_key"));
    assert_eq!(chat.system.as_deref(), Some("Be brief."));
    assert_eq!(chat.temperature.map(|temperature| temperature.to_string()).as_deref(), Some("0.25"));
    assert_eq!((chat.max_tokens, chat.history), (Some(1_000), 6));
    let (connect, first_token) = (Duration::from_millis(500), Duration::from_mins(2));
    assert_eq!(chat.timeout, chat::Timeout { connect, first_token, between_tokens: Duration::from_secs(10) });
    assert_eq!(config.reload.poll, Duration::from_secs(1));
    assert_eq!(config.reload.secrets, Duration::from_mins(2));
    assert_eq!(config.reload.bake, Duration::ZERO);
    assert_eq!(config.log.level, tracing::Level::DEBUG);
    assert_eq!(config.run, run::Run { drain: Duration::from_secs(5), unready: Duration::ZERO, departure: false });
}

#[test]
fn defaults_are_those_of_the_readme() {
    let config = load("[http]\n[discord]\ntoken = { env = \"TOKEN\" }\n");
    assert_eq!(config.environment, Environment::Production);
    assert!(config.run.departure);
    let catch_up = discord::CatchUp { max_age: Duration::from_hours(1), per_channel: 100, total: 500 };
    assert_eq!(config.discord.expect("there is a [discord] table").catch_up, catch_up);
    assert_eq!(config.http.expect("there is an [http] table").listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.reload.poll, Duration::from_secs(10));
}

#[test]
fn a_chat_backend_needs_little_more_than_a_model() {
    let chat = |lines: &str| match load(&format!("[http]\n[chat]\nbackend = \"openai\"\n{lines}")).chat.backend {
        chat::Backend::OpenAi(openai) => openai,
        chat::Backend::Echo => panic!("another backend"),
    };
    let local = chat("model = \"m\"\nbase_url = \"http://localhost:8000\"");
    assert_eq!((local.api_key, local.system, local.temperature, local.max_tokens), (None, None, None, None));
    assert_eq!((local.history, local.timeout), (20, chat::Timeout::default()));
    let openai = chat("model = \"m\"\napi_key = { env = \"KEY\" }");
    assert_eq!(openai.base_url, "https://api.openai.com/v1");
    assert_eq!(
        mistakes("[http]\n[chat]\nbackend = \"openai\"\n"),
        "line 2, chat.api_key: is missing; write where to find it: { secret = NAME, key = KEY }, { file = PATH }, { \
         credential = NAME } or { env = NAME }\n\
         line 2, chat.model: is missing; name the model that answers, such as \"gpt-4o-mini\""
    );
    // The other backend's keys may stay where they are; its secret is not asked for.
    let echo = load("[http]\n[chat]\nbackend = \"echo\"\nmodel = \"m\"\napi_key = { env = \"KEY\" }\n");
    assert_eq!((echo.secrets().len(), echo.chat.history()), (0, 0));
}

#[test]
fn mistakes_in_the_chat_table_have_their_places() {
    insta::assert_snapshot!(mistakes(r#"
[http]
[chat]
backend = "openapi"
base_url = "https://me:secret@example.com/v1"
model = "two\nlines"
api_key = "sk-a-key-in-the-open"
system = 1
temperature = 2.5
max_tokens = 0
history = 1.5
stream = true
[chat.timeout]
connect = "1ms"
first = "1s"
"#), @r#"
    line 4, chat.backend: `openapi` is not one of "echo", "openai"
    line 5, chat.base_url: must not hold a user name or password
    line 6, chat.model: must be the name of a model, on one line
    line 7, chat.api_key: must say where to find the secret, never the secret itself: { secret = NAME, key = KEY }, { file = PATH }, { credential = NAME } or { env = NAME }
    line 8, chat.system: must be what the model is told first, as a string, not an integer
    line 9, chat.temperature: is out of range; it goes from 0 to 2
    line 10, chat.max_tokens: is out of range; it goes from 1 to 1000000
    line 11, chat.history: must be a whole number, not a float
    line 12, chat.stream: is an unknown key; known here: api_key, attachments, backend, base_url, history, max_tokens, model, system, temperature, timeout
    line 14, chat.timeout.connect: `1ms` is out of range; it goes from 100ms to 1m
    line 15, chat.timeout.first: is an unknown key; known here: between_tokens, connect, first_token
    "#);
    let mistakes = mistakes(
        "[http]\n[chat]\nbase_url = \"ftp://x\"\nmodel = \" \"\ntemperature = nan\nhistory = -1\nmax_tokens = 99_999_999_999\n",
    );
    insta::assert_snapshot!(mistakes, @"
    line 3, chat.base_url: `ftp://x` is not an http or https address
    line 4, chat.model: is empty
    line 5, chat.temperature: is out of range; it goes from 0 to 2
    line 6, chat.history: is out of range; it goes from 0 to 200
    line 7, chat.max_tokens: is out of range; it goes from 1 to 1000000
    ");
}

#[test]
fn what_a_model_reads_is_said_or_known_of_openai_alone() {
    let reads = |lines: &str| {
        let text =
            format!("[http]\n[chat]\nbackend = \"openai\"\nmodel = \"m\"\napi_key = {{ env = \"KEY\" }}\n{lines}\n");
        load(&text).chat.attachments().to_string()
    };
    assert_eq!(reads(""), "images, pdf");
    assert_eq!(reads("attachments = []"), "none");
    assert_eq!(reads("attachments = \"pdf\""), "pdf");
    assert_eq!(reads("base_url = \"http://127.0.0.1:9/v1\""), "none");
    assert_eq!(reads("base_url = \"http://127.0.0.1:9/v1\"\nattachments = [\"images\"]"), "images");
    let mistake = mistakes("[http]\n[chat]\nattachments = [\"images\", \"sound\"]\n");
    assert_eq!(mistake, "line 3, chat.attachments[1]: `sound` is neither \"images\" nor \"pdf\"");
}

#[test]
fn all_mistakes_are_found_at_once() {
    insta::assert_snapshot!(mistakes(r#"
enviroment = "production"

[http]
listen = 8080
max_body = "9GiB"
port = 1

[reload]
poll = "10ms"
bake = "soon"

[log]
level = "loud"

[weather]
"#), @r#"
    line 2, enviroment: is an unknown key; did you mean `environment`?
    line 5, http.listen: must be an address such as "0.0.0.0:8080", not an integer
    line 6, http.max_body: `9GiB` is not a size; write "512B", "64KiB" or "5MiB"
    line 7, http.port: is an unknown key; known here: listen, max_body, origins, tls, trusted_proxies
    line 10, reload.poll: `10ms` is out of range; it goes from 1s to 1h
    line 11, reload.bake: `soon` is not a duration; write "500ms", "30s", "5m", "2h" or "90d"
    line 14, log.level: `loud` is not one of "error", "warn", "info", "debug", "trace"
    line 16, weather: is an unknown key; known here: auth, chat, discord, environment, http, limits, log, reload, run, store
    "#);
}

#[test]
fn mistakes_about_limits_origins_and_proxies_say_what_to_write() {
    insta::assert_snapshot!(mistakes(r#"
[http]
origins = ["https://example.com/", "https://EXAMPLE.com", "https://example.com:443", "*", "null", "example.com", 7]
trusted_proxies = ["10.0.0.1/8", "localhost", "10.0.0.0/33"]
[limits]
ipv6_prefix = 8
exempt = "10.0.0.1"
[limits.address]
requests_per_minute = 10
burst = 11
tokens_per_day = "none"
[limits.person]
files_per_minute = 5
requests_per_minute = -1
tokens_per_day = 0.5
"#), @r#"
    line 3, http.origins[0]: `https://example.com/` is not how browsers write it; write "https://example.com"
    line 3, http.origins[1]: `https://EXAMPLE.com` is not how browsers write it; write "https://example.com"
    line 3, http.origins[2]: `https://example.com:443` is not how browsers write it; write "https://example.com"
    line 3, http.origins[3]: `*` would let every site use perch as whoever visits it; name the sites
    line 3, http.origins[4]: `null` is no origin such as "https://www.example.com"
    line 3, http.origins[5]: `example.com` is no origin such as "https://www.example.com"
    line 3, http.origins[6]: must be a list of origins such as ["https://www.example.com"], not an integer
    line 4, http.trusted_proxies[0]: `10.0.0.1/8` has bits set after its prefix; write "10.0.0.0/8"
    line 4, http.trusted_proxies[1]: `localhost` is no address and no range such as "10.0.0.0/8"
    line 4, http.trusted_proxies[2]: `10.0.0.0/33` is no address and no range such as "10.0.0.0/8"
    line 6, limits.ipv6_prefix: is out of range; it goes from 16 to 128
    line 7, limits.exempt: must be a list of addresses and ranges such as ["10.0.0.0/8", "2001:db8::1"], not a string
    line 10, limits.address.burst: is more than the 10 requests of a whole minute
    line 11, limits.address.tokens_per_day: `none` is no number, and not "off"
    line 13, limits.person.files_per_minute: is an unknown key; known here: burst, requests_per_minute, tokens_per_day
    line 14, limits.person.requests_per_minute: is out of range; it goes from 0 to 4294967295
    line 15, limits.person.tokens_per_day: must be a whole number or "off", not a float
    "#);
}

#[test]
fn the_bounds_of_a_catch_up_are_numbers_within_reason() {
    insta::assert_snapshot!(mistakes(r#"
[discord]
token = { env = "TOKEN" }
[discord.catch_up]
max_age = "48h"
per_channel = "many"
total = -1
"#), @r#"
    line 5, discord.catch_up.max_age: `48h` is out of range; it goes from 0ms to 24h
    line 6, discord.catch_up.per_channel: must be a whole number, not a string
    line 7, discord.catch_up.total: is out of range; it goes from 1 to 10000
    "#);
}

#[test]
fn broken_toml_is_reported_with_the_mistakes_around_it() {
    insta::assert_snapshot!(mistakes("[http]\nlisten = \nport = 1\n\n[reload]\npoll = \"1x\"\n"), @"
    line 2: is not TOML: string values must be quoted, expected literal string
    line 3, http.port: is an unknown key; known here: listen, max_body, origins, tls, trusted_proxies
    line 6, reload.poll: `1x` is not a duration; write \"500ms\", \"30s\", \"5m\", \"2h\" or \"90d\"
    ");
}

#[test]
fn what_is_no_text_is_refused_with_its_place() {
    let error = Config::load(b"[http]\nlisten = \"\xff\"\n").expect_err("it is not UTF-8");
    assert_eq!(error.to_string(), "line 2: byte 18 is not UTF-8; save the document as UTF-8");
    assert_eq!(mistakes(""), "the configuration: is empty");
    assert_eq!(mistakes(" \n\t\n"), "the configuration: is empty");
    assert_eq!(mistakes("[log]\n"), "the configuration: asks for no service; add a [discord] or an [http] table");
}

#[test]
fn a_secret_is_a_place_and_its_value_is_never_repeated() {
    for written in [r#"token = "MTk4.secret.value""#, r#"token = ["MTk4.secret.value"]"#] {
        let text = mistakes(&format!("[discord]\n{written}\n"));
        assert!(text.contains("never the secret itself"), "{text}");
        assert!(!text.contains("MTk4"), "{text}");
    }
}

#[test]
fn a_secret_place_must_make_sense() {
    insta::assert_snapshot!(mistakes(r#"
[discord]
token = [
  { secret = "a", env = "B" },
  { file = "relative", key = "K" },
  { credential = "../x" },
  { vault = "v" },
  { env = "" },
  7,
]
"#), @"
    line 4, discord.token[0]: must name exactly one place: { secret = NAME, key = KEY }, { file = PATH }, { credential = NAME } or { env = NAME }
    line 5, discord.token[1].file: must be an absolute path
    line 5, discord.token[1].key: goes with `secret` only
    line 6, discord.token[2].credential: is a name, not a path
    line 7, discord.token[3]: must name exactly one place: { secret = NAME, key = KEY }, { file = PATH }, { credential = NAME } or { env = NAME }
    line 7, discord.token[3].vault: is an unknown key; known here: credential, env, file, key, secret
    line 8, discord.token[4].env: is empty
    line 9, discord.token[5]: must be a place: { secret = NAME, key = KEY }, { file = PATH }, { credential = NAME } or { env = NAME }, not an integer
    ");
    assert_eq!(
        mistakes("[discord]\n"),
        "line 1, discord.token: is missing; write where to find it: { secret = NAME, key = KEY }, { file = PATH }, { \
         credential = NAME } or { env = NAME }"
    );
}

#[test]
fn noise_makes_a_bounded_list() {
    let noise = "x = \n".repeat(10_000);
    let Mistakes(list) = Config::load(noise.as_bytes()).expect_err("it is noise");
    assert!(list.len() <= 50, "{} mistakes", list.len());
}

#[test]
fn the_plan_names_what_changes_and_what_it_costs() {
    let old = load(FULL);
    assert_eq!(plan(&old, &old), []);
    let new = load(
        &FULL
            .replace("[::1]:8080", "[::1]:8081")
            .replace("127.0.0.1:9/", "127.0.0.1:10")
            .replace("max_age = \"30m\"", "max_age = \"2h\"")
            .replace("total = 0x20", "total = 40")
            .replace("\"debug\"", "\"info\"")
            .replace(":11434/v1/", ":8000/v1")
            .replace("llama3.2", "llama4")
            .replace("{ env = \"KEY\" }", "{ env = \"OTHER\" }")
            .replace("Be brief.", &"Be brief and friendly. ".repeat(4))
            .replace("temperature = 0.25\n", "")
            .replace("\"http://localhost:3000\"", "")
            .replace("\"10.0.0.0/8\", \"2001:db8::1\"", "")
            .replace("exempt = []", "exempt = [\"192.0.2.1\"]")
            .replace("tokens_per_day = \"off\"", "tokens_per_day = 5")
            .replace("burst = 100\n", "")
            .replace("max_tokens = 1_000", "max_tokens = 2_000")
            .replace("history = 6", "history = 0")
            .replace("\"500ms\"", "\"1s\"")
            .replace("{ env = \"TOKEN\" }", "{ env = \"OTHER\" }"),
    );
    let steps: Vec<String> = plan(&old, &new).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(steps.join("\n"), @"
    discord.token: environment variable `TOKEN`, secret `arn:aws:secretsmanager:eu-west-1:123456789012:secret:bot-AbCdEf` (key `T`) → environment variable `OTHER`, secret `arn:aws:secretsmanager:eu-west-1:123456789012:secret:bot-AbCdEf` (key `T`)
    discord.api_url: http://127.0.0.1:9 → http://127.0.0.1:10 (new Discord session)
    discord.catch_up.max_age: 30m → 2h
    discord.catch_up.total: 32 → 40
    http.listen: [::1]:8080 → [::1]:8081 (rebinds)
    http.origins: https://www.example.com, http://localhost:3000 → https://www.example.com
    http.trusted_proxies: 10.0.0.0/8, 2001:db8::1/128 → none
    chat.base_url: http://127.0.0.1:11434/v1 → http://127.0.0.1:8000/v1
    chat.model: llama3.2 → llama4
    chat.api_key: environment variable `KEY`, file `/run/secrets/key` → environment variable `OTHER`, file `/run/secrets/key`
    chat.system: `Be brief.` → `Be brief and friendly. Be brief and friendly. Be brief and f…`
    chat.temperature: 0.25 → the API's own
    chat.max_tokens: 1000 → 2000
    chat.history: 6 → 0
    chat.timeout.connect: 500ms → 1s
    limits.exempt: none → 192.0.2.1/32
    limits.address.requests_per_minute: 600 a minute, 100 at once → 600 a minute, 300 at once
    limits.address.tokens_per_day: off → 5
    log.level: debug → info
    ");
    let echo = load(&FULL.replace("backend = \"openai\"", "backend = \"echo\""));
    let steps: Vec<String> = plan(&old, &echo).iter().map(ToString::to_string).collect();
    assert_eq!(steps, ["chat.backend: openai → echo"]);
    let without = load("environment = \"test\"\n[http]\nlisten = \"[::1]:8080\"\nmax_body = \"1MiB\"\n");
    let steps: Vec<String> = plan(&old, &without).iter().map(ToString::to_string).collect();
    assert_eq!(steps.first().map(String::as_str), Some("[discord]: on → off (new Discord session)"));
}

#[test]
fn the_built_in_configuration_of_dev_is_good() {
    load(include_str!("../cli/dev.toml"));
}

/// Documents near a good one: pieces left out, doubled, replaced.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (0..FULL.len(), 0..40_usize, "[\\PC\n]{0,12}");
    proptest::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, length, insert) in edits {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, insert.chars());
        }
        text.into_iter().collect()
    })
}

fn judge(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Err(Mistakes(list)) = Config::load(bytes) {
        prop_assert!(!list.is_empty());
        let lines = bytes.split(|byte| *byte == b'\n').count();
        for mistake in list {
            let whole = mistake.text == "is empty" || mistake.text.starts_with("asks for no service");
            prop_assert!(whole || (1..=lines).contains(&mistake.place.line), "{mistake:?}");
            prop_assert!(!mistake.text.is_empty());
            prop_assert!(mistake.to_string().chars().count() < 600, "{mistake}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_documents_are_read_or_refused_with_a_place(text in mutated()) {
        judge(text.as_bytes())?;
    }

    #[test]
    fn noise_is_refused_with_a_place(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        judge(&bytes)?;
    }
}

#[test]
fn keys_below_a_broken_header_are_nobodys() {
    let mistakes = Config::load(b"[http\nlisten = \"127.0.0.1:80\"\n[log]\nlevel = 5\n").unwrap_err();
    insta::assert_snapshot!(mistakes, @r#"
    line 1: is not TOML: unclosed table, expected `]`
    line 4, log.level: must be one of "error", "warn", "info", "debug", "trace", not an integer
    "#);
}

const HTTPS: &str = "[http]\n[http.tls]\ncert = \"/c.pem\"\nkey = \"/k.pem\"\n";

#[test]
fn https_has_its_certificate_from_files_or_from_acme() {
    let tls = |text: &str| load(text).http.and_then(|http| http.tls).expect("there is an [http.tls] table");
    let files = tls(HTTPS);
    assert_eq!(files.listen.to_string(), "0.0.0.0:443");
    let http_tls::Certificate::Files(files) = files.certificate else { panic!("other than files") };
    assert_eq!((files.cert.to_str(), files.key.to_str()), (Some("/c.pem"), Some("/k.pem")));
    let acme = tls("[http]\n[http.tls.acme]\ndomains = [\"Chat.Example.org\", \"example.org\"]\n").certificate;
    let expected = http_tls::Acme {
        directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
        domains: vec!["chat.example.org".to_owned(), "example.org".to_owned()],
        email: None,
        challenge: http_tls::Challenge::TlsAlpn01,
    };
    assert_eq!(acme, http_tls::Certificate::Acme(expected));
}

#[test]
fn mistakes_about_https_have_their_places() {
    insta::assert_snapshot!(mistakes(
        "[http]\n[http.tls]\nlisten = \"0.0.0.0:8080\"\ncert = \"\"\nkye = \"/k.pem\"\n"
    ), @r#"
    line 2, http.tls.key: is missing; name the file with the certificate's key, in PEM
    line 3, http.tls.listen: 0.0.0.0:8080 and http.listen 0.0.0.0:8080 overlap; HTTP and HTTPS need a port each
    line 4, http.tls.cert: is empty
    line 5, http.tls.kye: is an unknown key; did you mean `key`?
    "#);
    insta::assert_snapshot!(mistakes("[http]\n[http.tls]\n"), @r#"line 2, http.tls: names no certificate; write `cert` and `key`, or a table [http.tls.acme] that orders one"#);
    insta::assert_snapshot!(mistakes(
        "[http]\n[http.tls]\ncert = \"/c.pem\"\n[http.tls.acme]\ndirectory = \"http://ca.test\"\nemail = \"me\"\n\
         challenge = \"dns-01\"\n"
    ), @r#"
    line 4, http.tls.acme: excludes `cert` and `key`: a certificate is either ordered by ACME or read from files
    line 4, http.tls.acme.domains: is missing; name what the certificate is for, such as ["chat.example.org"]
    line 5, http.tls.acme.directory: must be an https address: ACME is spoken over nothing else
    line 6, http.tls.acme.email: `me` is no address that mail goes to
    line 7, http.tls.acme.challenge: `dns-01` is not one of "tls-alpn-01", "http-01"
    "#);
    insta::assert_snapshot!(mistakes(
        "[http]\n[http.tls.acme]\ndomains = [\"*.example.org\", \"192.0.2.1\", \"bücher.example\", \"a.test\", \"A.test\", \
         \"a b\", 7]\n"
    ), @r#"
    line 3, http.tls.acme.domains[0]: `*.example.org` is a wildcard, which only a challenge by DNS can prove; write each name
    line 3, http.tls.acme.domains[1]: `192.0.2.1` is not a name such as "chat.example.org"
    line 3, http.tls.acme.domains[2]: `bücher.example` has letters beyond ASCII; write it as DNS has it, with "xn--"
    line 3, http.tls.acme.domains[4]: `A.test` is written twice in http.tls.acme.domains
    line 3, http.tls.acme.domains[5]: `a b` is not a name such as "chat.example.org"
    line 3, http.tls.acme.domains[6]: must be a name such as "chat.example.org", not an integer
    "#);
    insta::assert_snapshot!(mistakes("[http]\n[http.tls.acme]\ndomains = []\nemail = \"a@b@c\"\n"), @r#"
    line 3, http.tls.acme.domains: must hold 1 to 100 names
    line 4, http.tls.acme.email: `a@b@c` is no address that mail goes to
    "#);
}

#[test]
fn changes_of_https_are_told() {
    let acme = |domains: &str| format!("[http]\n[http.tls.acme]\ndomains = [{domains}]\n");
    let told = |old: &str, new: &str| {
        plan(&load(old), &load(new)).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(told("[http]\n", HTTPS), "[http.tls]: off → on (rebinds)");
    assert_eq!(told(HTTPS, &HTTPS.replace("/k.pem", "/l.pem")), "http.tls.key: /k.pem → /l.pem");
    assert_eq!(
        told(HTTPS, &HTTPS.replace("cert", "listen = \"0.0.0.0:8443\"\ncert")),
        "http.tls.listen: 0.0.0.0:443 → 0.0.0.0:8443 (rebinds)"
    );
    assert_eq!(told(HTTPS, &acme("\"a.test\"")), "[http.tls.acme]: off → on");
    assert_eq!(
        told(&acme("\"a.test\""), &acme("\"a.test\", \"b.test\"")),
        "http.tls.acme.domains: a.test → a.test, b.test"
    );
}

#[test]
fn who_may_sign_in_is_read_and_mistakes_about_it_are_found() {
    let auth = |text: &str| load(&format!("[http]\n{text}")).auth.expect("there is an [auth] table");
    let both = auth(
        "[auth.api_keys]\nsecret = \"keys\"\n[auth.oidc]\nissuer = \"https://issuer.example/pool/\"\naudience = \"a\"\n",
    );
    assert_eq!(both.api_keys.map(|keys| keys.place.key).as_deref(), Some("auth.api_keys"));
    let oidc = both.oidc.expect("there is an issuer");
    assert_eq!((&*oidc.issuer, &*oidc.audience), ("https://issuer.example/pool/", &["a".to_owned()][..]));
    let local =
        auth("[auth.oidc]\nissuer = \"http://[::1]:9000\"\naudience = [\"a\", \"b\"]\n").oidc.expect("an issuer");
    assert_eq!(local.audience, ["a", "b"]);
    let keys = load("[http]\n[auth]\napi_keys = { secret = \"keys\" }\n");
    assert_eq!(keys.secrets().last().map(|key| &*key.place.key), Some("auth.api_keys"));
    assert!(load("[http]\n").auth.is_none());
    let found = |text: &str| mistakes(&format!("[http]\n{text}"));
    assert_eq!(
        found("[auth]\n"),
        "line 2, auth: lets nobody in; add [auth.api_keys] or [auth.oidc], or leave the table out"
    );
    assert!(found("[auth]\napi_keys = \"perch_hunter2\"\n").contains("must say where to find the secret"));
    assert!(!found("[auth]\napi_keys = \"perch_hunter2\"\n").contains("hunter2"));
    let issuer = |issuer: &str| found(&format!("[auth.oidc]\nissuer = \"{issuer}\"\naudience = \"a\"\n"));
    for plain in ["http://issuer.example", "http://localhost.example", "http://127.0.0.1.example", "http://192.0.2.1"] {
        assert!(issuer(plain).starts_with("line 3, auth.oidc.issuer: must be https"), "{plain}: {}", issuer(plain));
    }
    for odd in ["issuer.example", "ftp://issuer.example", "https://me@issuer.example", "https://issuer.example?x", ""] {
        assert!(issuer(odd).starts_with("line 3, auth.oidc.issuer: "), "{odd}");
    }
    assert!(found("[auth.oidc]\nissuer = \"https://issuer.example\"\n").contains("auth.oidc.audience: is missing"));
    for odd in ["\"\"", "[]", "7", "[\"a\", \" \"]"] {
        let text = format!("[auth.oidc]\nissuer = \"https://issuer.example\"\naudience = {odd}\n");
        assert!(found(&text).contains("auth.oidc.audience"), "{odd}");
    }
    assert!(found("[run]\ndrain = \"40s\"\nunready = \"41s\"\n").contains("together are more than 80s"));
}

#[test]
fn a_change_of_who_may_sign_in_is_in_the_plan() {
    let none = "[http]\n";
    let keys = "[http]\n[auth.api_keys]\nsecret = \"keys\"\n";
    let issuer = "[http]\n[auth.oidc]\nissuer = \"https://issuer.example\"\naudience = \"a\"\n";
    let steps = |old: &str, new: &str| {
        plan(&load(old), &load(new)).iter().map(|step| (step.section(), step.to_string())).collect::<Vec<_>>()
    };
    let own = |text: &str| ("auth".to_owned(), text.to_owned());
    assert_eq!(steps(none, keys), [own("[auth]: off → on")]);
    assert_eq!(steps(keys, issuer), [own("auth.api_keys: secret `keys` → none"), own("[auth.oidc]: off → on")]);
    assert_eq!(steps(issuer, &issuer.replace("\"a\"", "[\"a\", \"b\"]")), [own("auth.oidc.audience: a → a, b")]);
}
