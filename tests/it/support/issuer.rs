//! Issuers of tokens: one that forges them too, and a user pool of Cognito's.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::aws::Peer;
use super::exchange::exchange;
use super::perch::keep_secret;
use super::python::script;

/// For whom tokens are.
pub const AUDIENCE: &str = "perch-chat";

/// An issuer that does what `tests/support/issuer.py` says.
pub struct Issuer(Peer);

impl Issuer {
    pub fn start() -> Self {
        Issuer(Peer::start(&script("issuer.py"), &[]))
    }

    pub fn url(&self) -> &str {
        &self.0.urls[0]
    }

    /// What a good token of `subject` claims.
    pub fn claims(&self, subject: &str) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        json!({ "iss": self.url(), "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600 })
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.token("sign", &json!({ "header": header, "claims": claims }))
    }

    /// A good token.
    pub fn token_of(&self, subject: &str) -> String {
        self.sign(&json!({}), &self.claims(subject))
    }

    /// One that must not be taken.
    pub fn forge(&self, trick: &str) -> String {
        self.token("forge", &json!({ "trick": trick, "claims": self.claims("eve") }))
    }

    fn token(&self, how: &str, wish: &Value) -> String {
        let token = self.ask(how, wish).as_str().unwrap().to_owned();
        keep_secret(&token);
        token
    }

    /// Signs with a new key from now on; `forget` takes those of before out of what is published.
    pub fn rotate(&self, forget: bool) {
        self.ask("rotate", &json!({ "forget": forget }));
    }

    /// Answers what is asked for its configuration, or its keys, with this: a status, `"hang"`, a text, null for nothing.
    pub fn fault(&self, discovery: &Value, keys: &Value) {
        self.ask("faults", &json!({ "discovery": discovery, "keys": keys }));
    }

    /// How often its keys were asked for.
    pub fn asked(&self) -> u64 {
        let answer = exchange("GET", &format!("{}/asked", self.url()), &[], b"");
        let asked: Value = serde_json::from_slice(&answer.body).unwrap();
        asked["keys"].as_u64().unwrap()
    }

    fn ask(&self, what: &str, wish: &Value) -> Value {
        let answer = exchange("POST", &format!("{}/{what}", self.url()), &[], wish.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap_or_else(|_| Value::String(answer.text()))
    }
}

/// A user pool and one person's tokens.
pub struct Pool {
    _peer: Peer,
    pub discovery: String,
    pub issuer: String,
    pub client: String,
    pub access: String,
    pub id: String,
    pub refresh: String,
}

impl Pool {
    pub fn start() -> Self {
        let peer = Peer::start(&script("cognito.py"), &[]);
        let [discovery, issuer, client, access, id, refresh] = peer.urls.clone().try_into().unwrap();
        Pool { _peer: peer, discovery, issuer, client, access, id, refresh }
    }
}
