//! Who may use the chat, where the configuration says who: keys, tokens, and every way to come without.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::support::exchange::{Response, exchange};
use super::support::issuer::{AUDIENCE, Issuer, Pool};
use super::support::perch::{Perch, Start, free_port, keep_secret, perch, wait};
use super::support::socket::Person;

/// A new key of `name`, and the entry for the secret.
fn key(name: &str) -> (String, Value) {
    let made = perch(&["key", name, "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let key = made["key"].as_str().unwrap().to_owned();
    keep_secret(&key);
    (key, made["entry"].clone())
}

/// perch with this `[auth]`, and a directory for its secrets.
struct Door {
    perch: Perch,
    port: u16,
}

impl Door {
    fn open(auth: impl FnOnce(&Path) -> String) -> Door {
        let port = free_port();
        let start = Start::with_text("");
        let http = format!(
            "[http]\nlisten = \"127.0.0.1:{port}\"\n\n[reload]\npoll = \"1s\"\nsecrets = \"1s\"\nbake = \"1s\"\n\n"
        );
        std::fs::write(start.directory().join("perch.toml"), http + &auth(start.directory())).unwrap();
        Door { perch: start.ready(), port }
    }

    /// One that takes the keys in the file it returns.
    fn for_keys(entries: &Value) -> (Door, PathBuf) {
        let mut file = PathBuf::new();
        let door = Door::open(|directory| {
            file = directory.join("keys.json");
            std::fs::write(&file, entries.to_string()).unwrap();
            format!("[auth.api_keys]\nfile = \"{}\"\n", file.display())
        });
        (door, file)
    }

    fn for_tokens(issuer: &Issuer) -> Door {
        Door::open(|_| oidc(issuer.url(), AUDIENCE))
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        exchange("GET", &format!("http://127.0.0.1:{}{path}", self.port), headers, b"")
    }

    fn knock(&self, headers: &[(&str, &str)]) -> Response {
        let headers: Vec<_> = headers.iter().copied().chain([("Content-Type", "application/json")]).collect();
        let body = json!({ "message": "hello" }).to_string();
        exchange("POST", &format!("http://127.0.0.1:{}/api/chat", self.port), &headers, body.as_bytes())
    }

    /// Asks with this credential.
    fn show(&self, credential: &str) -> Response {
        self.knock(&[("Authorization", &format!("Bearer {credential}"))])
    }

    #[track_caller]
    fn let_in(&self, credential: &str) {
        let answer = self.show(credential);
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), self.perch.log_text());
    }

    /// Is refused, with these words.
    #[track_caller]
    fn refused(&self, credential: &str, words: &str) {
        let answer = self.show(credential);
        assert_eq!(answer.status, 401, "{}", answer.text());
        let wanted = format!("Bearer realm=\"perch\", error=\"invalid_token\", error_description=\"{words}\"");
        assert_eq!(answer.header("WWW-Authenticate"), Some(wanted.as_str()));
        assert!(answer.text().contains(words), "{}", answer.text());
    }
}

fn oidc(issuer: &str, audience: &str) -> String {
    format!("[auth.oidc]\nissuer = \"{issuer}\"\naudience = \"{audience}\"\n")
}

#[test]
fn whoever_has_a_key_is_served_and_nobody_else() {
    let (ada, entry) = key("ada");
    let (door, _) = Door::for_keys(&entry);
    door.let_in(&ada);
    let answer = door.knock(&[]);
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer realm=\"perch\""));
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        problem["detail"],
        "sign in: send `Authorization: Bearer KEY`, with an API key or a token of the issuer"
    );
    door.refused(&key("ada").0, "the key is not known");
    // The hash is in the secret, and no way in.
    door.refused(entry["ada"].as_str().unwrap(), "tokens are not taken here, only keys");
    door.refused(
        &format!("perch_{}", entry["ada"].as_str().unwrap().trim_start_matches("sha256:")),
        "the key is not known",
    );
    door.refused(&ada[..ada.len() - 1], "the key is not known");
    door.refused(&ada.to_uppercase(), "tokens are not taken here, only keys");
    assert_eq!(door.knock(&[("Authorization", &format!("bearer   {ada}"))]).status, 200, "the scheme has no case");
}

#[test]
fn what_is_for_everybody_stays_open_and_the_rest_has_no_other_name() {
    let (_, entry) = key("ada");
    let (door, _) = Door::for_keys(&entry);
    for open in ["/", "/health", "/ready", "/assets/chat.js", "/nothing"] {
        assert_ne!(door.get(open, &[]).status, 401, "{open}");
    }
    for closed in
        ["/api/chat", "/api/", "/api", "/api/ws", "/api/nothing", "/api/conversations", "/api/chat?x", "/v1/models"]
    {
        assert_eq!(door.get(closed, &[]).status, 401, "{closed}");
    }
    for odd in ["//api/chat", "/./api/chat", "/%61pi/chat", "/API/chat", "/x/../api/chat", "/api%2Fchat", "/;/api/chat"]
    {
        let answer = exchange(
            "POST",
            &format!("http://127.0.0.1:{}{odd}", door.port),
            &[("Content-Type", "application/json")],
            b"{\"message\": \"hello\"}",
        );
        assert_ne!(answer.status, 200, "{odd}: {}", answer.text());
    }
}

#[test]
fn a_credential_comes_one_way_and_once() {
    let (ada, entry) = key("ada");
    let (door, _) = Door::for_keys(&entry);
    let bearer = format!("Bearer {ada}");
    let twice = door.knock(&[("Authorization", &bearer), ("Authorization", &bearer)]);
    assert_eq!(twice.status, 400);
    assert!(twice.header("WWW-Authenticate").unwrap().contains("error=\"invalid_request\""));
    for other in [format!("Basic {ada}"), "Bearer".to_owned(), "Bearer ".to_owned(), ada.clone(), String::new()] {
        assert_eq!(door.knock(&[("Authorization", &other)]).status, 401, "{other}");
    }
    assert_eq!(door.get(&format!("/api/chat?access_token={ada}"), &[]).status, 401);
    assert_eq!(door.knock(&[("Cookie", &format!("perch={ada}"))]).status, 401);
    assert_eq!(door.knock(&[("X-Api-Key", &ada)]).status, 401);
    // A browser's WebSocket has no other header.
    assert_ne!(door.get("/api/ws", &[("Sec-WebSocket-Protocol", &format!("perch, bearer.{ada}"))]).status, 401);
    let twice = format!("bearer.{ada}, bearer.{ada}");
    assert_eq!(door.get("/api/ws", &[("Sec-WebSocket-Protocol", &twice)]).status, 400);
    assert_eq!(door.get("/api/ws", &[("Sec-WebSocket-Protocol", "perch, bearer.")]).status, 401);
}

#[test]
fn a_key_is_rotated_without_a_restart_and_a_broken_secret_changes_nothing() {
    let (old, entry) = key("ada");
    let (door, file) = Door::for_keys(&entry);
    door.let_in(&old);
    let (new, new_entry) = key("ada");
    std::fs::write(&file, json!({ "ada": [entry["ada"], new_entry["ada"]] }).to_string()).unwrap();
    assert!(door.perch.verb(&["reload"]).status.success());
    door.let_in(&new);
    door.let_in(&old);
    std::fs::write(&file, new_entry.to_string()).unwrap();
    // Nobody asks for this look.
    door.perch.wait_status("the new keys", |status| status["changes"].as_array().is_some_and(|made| made.len() == 3));
    door.let_in(&new);
    door.refused(&old, "the key is not known");
    let broken = json!({ "ada": new_entry["ada"], "bob": "hunter2-hunter2-hunter2" }).to_string();
    keep_secret(&broken);
    std::fs::write(&file, &broken).unwrap();
    door.perch.wait_status("the refusal", |status| status["services"]["secrets"]["state"] == "recovering");
    door.let_in(&new);
    let said = door.perch.messages("WARN").join("\n").replace(&file.display().to_string(), "FILE");
    insta::assert_snapshot!(said, @"auth.api_keys: the new value of file `FILE` is refused, the old one stays in use: file `FILE` holds no hashes of keys: entry 2 holds no hash; `perch key NAME` prints one");
    let status = door.perch.status();
    assert_eq!(status["services"]["auth"]["state"], "running");
    assert!(!status.to_string().contains("hunter2"), "{status:#}");
    // The only one may be taken away as well, by saying so.
    std::fs::write(&file, "{}").unwrap();
    assert!(door.perch.verb(&["reload"]).status.success());
    door.refused(&new, "the key is not known");
}

#[test]
fn a_socket_ends_with_the_key_that_opened_it() {
    let (key_of_ada, ada) = key("ada");
    let (key_of_bob, bob) = key("bob");
    let both = json!({ "ada": ada["ada"], "bob": bob["bob"] });
    let (door, file) = Door::for_keys(&both);
    let connect = |key: &str| Person::try_connect(door.port, &[&format!("Authorization: Bearer {key}")]);
    let (mut ada_there, mut bob_there) = (connect(&key_of_ada), connect(&key_of_bob));
    assert_eq!((ada_there.next(), bob_there.next()), (json!(["open"]), json!(["open"])));
    ada_there.join("lobby", None);
    bob_there.join("lobby", None);
    std::fs::write(&file, json!({ "bob": bob["bob"] }).to_string()).unwrap();
    assert_eq!(door.perch.verb(&["reload"]).status.code(), Some(0));
    ada_there.send(&json!({ "type": "ask", "text": "am I still here?" }));
    assert_eq!(ada_there.closed(), 1008);
    bob_there.say("lobby", "I am");
}

#[test]
fn a_socket_ends_where_its_token_is_for_somebody_else_now() {
    let issuer = Issuer::start();
    let door = Door::for_tokens(&issuer);
    let mut there = Person::try_connect(door.port, &[&format!("Authorization: Bearer {}", issuer.token_of("ada"))]);
    assert_eq!(there.next(), json!(["open"]));
    there.join("lobby", None);
    let text = std::fs::read_to_string(door.perch.config_path()).unwrap();
    std::fs::write(door.perch.config_path(), text.replace(AUDIENCE, "another")).unwrap();
    assert_eq!(door.perch.verb(&["reload"]).status.code(), Some(0));
    there.send(&json!({ "type": "ask", "text": "am I still here?" }));
    assert_eq!(there.closed(), 1008);
}

#[test]
fn without_its_keys_nobody_is_let_in() {
    let door = Door::open(|directory| format!("[auth.api_keys]\nfile = \"{}\"\n", directory.join("none").display()));
    let answer = door.show(&key("ada").0);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(door.knock(&[]).status, 503);
    assert_eq!(door.get("/health", &[]).status, 200);
    let (ada, entry) = key("ada");
    std::fs::write(door.perch.directory().join("none"), entry.to_string()).unwrap();
    wait("the key", || (door.show(&ada).status == 200).then_some(()));
}

#[test]
fn who_guesses_waits_and_who_is_known_does_not() {
    let (ada, entry) = key("ada");
    let (door, _) = Door::for_keys(&entry);
    door.let_in(&ada);
    let mut answers = (0..40).map(|_| door.show(&key("ada").0));
    let waits = answers.find(|answer| answer.status != 401).expect("an end of patience");
    assert_eq!(waits.status, 429, "{}", waits.text());
    let pause: u64 = waits.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=3).contains(&pause), "{pause} s");
    door.let_in(&ada);
    let warnings = door.perch.messages("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].starts_with("127.0.0.1 fails to sign in again and again"), "{warnings:#?}");
}

#[test]
fn a_new_token_waits_for_nobody_who_guesses_beside_it() {
    let issuer = Issuer::start();
    let door = Door::for_tokens(&issuer);
    door.let_in(&issuer.token_of("ada"));
    let guess = |number: u8| format!("perch_{}", format!("{number:02x}").repeat(32));
    let mut answers = (0..40).map(|number| door.show(&guess(number)));
    answers.find(|answer| answer.status == 429).expect("an end of patience");
    door.let_in(&issuer.token_of("grace"));
    let token = issuer.token_of("eve");
    let (signed, _) = token.rsplit_once('.').unwrap();
    assert_eq!(door.show(&format!("{signed}.{}", "A".repeat(342))).status, 429);
}

#[test]
fn tokens_of_cognito_are_taken() {
    let pool = Pool::start();
    for token in [&pool.access, &pool.id, &pool.refresh] {
        keep_secret(token);
    }
    let door = Door::open(|_| oidc(&pool.issuer, &pool.client) + &format!("discovery = \"{}\"\n", pool.discovery));
    door.let_in(&pool.access);
    door.let_in(&pool.id);
    assert_eq!(door.show(&pool.refresh).status, 401);
    let (rest, last) = pool.access.split_at(pool.access.len() - 2);
    let changed = if last == "AA" { "BA" } else { "AA" };
    assert_eq!(door.show(&format!("{rest}{changed}")).status, 401);
}

#[test]
fn tokens_of_cognito_for_another_client_are_not_taken() {
    let pool = Pool::start();
    let door = Door::open(|_| oidc(&pool.issuer, "another-client") + &format!("discovery = \"{}\"\n", pool.discovery));
    door.refused(&pool.access, "the token is for another audience");
    door.refused(&pool.id, "the token is for another audience");
}

/// A forged token, and what is said of it.
#[track_caller]
fn forged(trick: &str, words: &str) {
    let issuer = Issuer::start();
    let door = Door::for_tokens(&issuer);
    door.let_in(&issuer.token_of("ada"));
    door.refused(&issuer.forge(trick), words);
}

#[test]
fn a_token_that_says_it_needs_no_signature_is_refused() {
    forged("none", "the token is not signed with RS256 or ES256");
}

#[test]
fn a_token_signed_with_the_public_key_as_a_shared_secret_is_refused() {
    forged("hmac with the public key", "the token is not signed with RS256 or ES256");
}

#[test]
fn the_same_under_the_name_of_rsa_is_refused() {
    forged("hmac under the name of rsa", "the token's signature is not the issuer's");
}

#[test]
fn a_token_that_brings_its_own_key_is_refused() {
    forged("a key of its own", "the token's header asks for what is not supported here");
}

#[test]
fn a_token_of_a_stranger_is_refused() {
    forged("a stranger's key", "the token's signature is not the issuer's");
}

#[test]
fn a_token_with_another_hash_is_refused() {
    forged("another hash", "the token's signature is not the issuer's");
}

#[test]
fn a_token_with_another_padding_is_refused() {
    forged("another padding", "the token's signature is not the issuer's");
}

#[test]
fn a_token_with_claims_changed_is_refused() {
    forged("other claims", "the token's signature is not the issuer's");
}

#[test]
fn what_a_good_signature_does_not_make_good_is_refused() {
    let issuer = Issuer::start();
    let door = Door::for_tokens(&issuer);
    let good = issuer.claims("ada");
    let claims = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        issuer.sign(&json!({}), &claims)
    };
    let now = good["iat"].as_u64().unwrap();
    door.refused(&claims("exp", json!(now - 60)), "the token has expired");
    door.refused(&claims("nbf", json!(now + 300)), "the token is not valid yet");
    door.refused(&claims("iat", json!(now + 300)), "the token is from the future");
    door.refused(&claims("iss", json!("https://evil.example")), "the token is from another issuer");
    door.refused(&claims("aud", json!("somebody")), "the token is for another audience");
    door.refused(&claims("sub", json!("")), "the token names no subject");
    let header = |header: Value| issuer.sign(&header, &good);
    door.refused(&header(json!({ "crit": ["exp"] })), "the token's header asks for what is not supported here");
    door.refused(
        &header(json!({ "jku": "https://evil.example" })),
        "the token's header asks for what is not supported here",
    );
    door.refused(&header(json!({ "kid": null })), "the token does not name its key");
    door.refused(&header(json!({ "typ": "dpop+jwt" })), "the token is of another type");
    door.refused(&"A".repeat(20_000), "the token is too long");
}

#[test]
fn an_issuer_may_change_its_key_at_any_time() {
    let issuer = Issuer::start();
    let door = Door::for_tokens(&issuer);
    let old = issuer.token_of("ada");
    door.let_in(&old);
    issuer.rotate(false);
    door.let_in(&issuer.token_of("ada"));
    door.let_in(&old);
    issuer.rotate(true);
    door.let_in(&issuer.token_of("ada"));
    door.refused(&old, "the token names a key that its issuer does not have");
}

#[test]
fn made_up_key_names_do_not_make_perch_hammer_the_issuer() {
    let issuer = Issuer::start();
    let door = Door::for_tokens(&issuer);
    let known = issuer.token_of("ada");
    door.let_in(&known);
    let before = issuer.asked();
    for number in 0..100 {
        let token = issuer.sign(&json!({ "kid": format!("made-up-{number}") }), &issuer.claims("eve"));
        let answer = door.show(&token);
        assert!(matches!(answer.status, 401 | 429) || answer.header("Retry-After").is_some(), "{}", answer.status);
    }
    let asked = issuer.asked() - before;
    assert!((1..=4).contains(&asked), "it was asked {asked} times");
    door.let_in(&known);
    // Nobody can say yet that it is no good.
    issuer.rotate(false);
    let answer = door.show(&issuer.token_of("ada"));
    assert_eq!(answer.status, 503, "{}", answer.text());
}

#[test]
fn while_the_issuer_is_down_its_known_keys_are_good() {
    let issuer = Issuer::start();
    let door = Door::for_tokens(&issuer);
    let known = issuer.token_of("ada");
    door.let_in(&known);
    issuer.rotate(false);
    issuer.fault(&json!(500), &Value::Null);
    let answer = door.show(&issuer.token_of("ada"));
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("Retry-After").is_some());
    door.let_in(&known);
    door.perch.wait_status("the trouble", |status| status["services"]["auth"]["state"] == "recovering");
    issuer.fault(&Value::Null, &Value::Null);
    wait("the new key", || (door.show(&issuer.token_of("ada")).status == 200).then_some(()));
    assert_eq!(door.perch.messages("WARN").len(), 1, "{}", door.perch.log_text());
}

#[test]
fn an_issuer_that_is_down_at_the_start_keeps_out_whoever_has_a_token_alone() {
    let issuer = Issuer::start();
    issuer.fault(&json!(503), &Value::Null);
    let (ada, entry) = key("ada");
    let door = Door::open(|directory| {
        let file = directory.join("keys.json");
        std::fs::write(&file, entry.to_string()).unwrap();
        format!("{}\n[auth.api_keys]\nfile = \"{}\"\n", oidc(issuer.url(), AUDIENCE), file.display())
    });
    let token = issuer.token_of("bob");
    let answer = door.show(&token);
    assert_eq!(answer.status, 503, "{}", answer.text());
    door.let_in(&ada);
    assert_eq!(door.get("/ready", &[]).status, 200);
    // It is tried several times and told of once.
    wait("more tries", || {
        let asked = exchange("GET", &format!("{}/asked", issuer.url()), &[], b"");
        let asked: Value = serde_json::from_slice(&asked.body).unwrap();
        (asked["discovery"].as_u64() >= Some(3)).then_some(())
    });
    let said = door.perch.messages("WARN").join("\n").replace(issuer.url(), "ISSUER");
    insta::assert_snapshot!(said, @"the issuer's keys can't be had: ISSUER/.well-known/openid-configuration can't be asked: it answers 503; whoever has a token is answered with 503, whoever has a key is served, and perch goes on asking");
    issuer.fault(&Value::Null, &Value::Null);
    wait("the issuer", || (door.show(&token).status == 200).then_some(()));
    let again = "the issuer's keys can be had again: 1 are known";
    wait("the news of it", || door.perch.messages("INFO").iter().any(|said| said == again).then_some(()));
}

#[test]
fn a_version_that_names_another_issuer_is_undone() {
    let issuer = Issuer::start();
    let door = Door::for_tokens(&issuer);
    let token = issuer.token_of("ada");
    door.let_in(&token);
    door.perch.wait_status("the blessing", |status| !status["config"]["last_good"].is_null());
    let text = std::fs::read_to_string(door.perch.config_path()).unwrap();
    let other = text.replace(issuer.url(), "https://issuer.example");
    let discovery = format!("discovery = \"{}/.well-known/openid-configuration\"\n", issuer.url());
    std::fs::write(door.perch.config_path(), other + &discovery).unwrap();
    door.perch.wait_status("the way back", |status| status["changes"][0]["outcome"] == "reverted");
    door.let_in(&token);
}
