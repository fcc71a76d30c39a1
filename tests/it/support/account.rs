//! An AWS account in which a role may do what its policy says, and nothing else.

use std::path::Path;

use serde_json::{Value, json};

use super::aws::{Peer, REGION, unique};
use super::exchange::exchange;
use super::perch::keep_secret;

pub struct Account {
    peer: Peer,
}

impl Account {
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/iam.py");
        Account { peer: Peer::start(&script, &[]) }
    }

    /// Uploads an object, into a bucket that keeps versions; returns its VersionId.
    pub fn object(&self, bucket: &str, key: &str, text: &str) -> String {
        let answer = self.ask("object", &json!({ "bucket": bucket, "key": key, "text": text }));
        answer["version"].as_str().unwrap().to_owned()
    }

    /// Makes a secret; returns its ARN.
    pub fn secret(&self, name: &str, value: &str) -> String {
        keep_secret(value);
        self.ask("secret", &json!({ "name": name, "text": value }))["arn"].as_str().unwrap().to_owned()
    }

    /// Lets `role` do what `policy` says from now on, and returns the environment of a process that has assumed it.
    pub fn assume(&self, role: &str, policy: &Value) -> Vec<(String, String)> {
        let keys = self.ask("role", &json!({ "name": role, "policy": policy }));
        let keys =
            keys.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
        let around = [
            ("AWS_REGION", REGION),
            ("AWS_ENDPOINT_URL", &self.peer.urls[0]),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("NO_PROXY", "127.0.0.1,localhost"),
        ];
        keys.chain(around.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
    }

    /// Makes a key; returns its ARN and what it encrypted.
    pub fn key(&self) -> (String, String) {
        let answer = self.ask("key", &json!({ "text": "a secret" }));
        (answer["arn"].as_str().unwrap().to_owned(), answer["encrypted"].as_str().unwrap().to_owned())
    }

    /// Makes a log group; returns its ARN.
    pub fn log_group(&self, name: &str) -> String {
        self.ask("group", &json!({ "name": name }))["arn"].as_str().unwrap().to_owned()
    }

    /// Whether a role that may do what `policy` says may do this.
    pub fn may(&self, policy: &Value, service: &str, operation: &str, arguments: &Value) -> bool {
        let keys = self.ask("role", &json!({ "name": unique("perch-host"), "policy": policy }));
        let call = json!({ "keys": keys, "service": service, "operation": operation, "arguments": arguments });
        self.ask("call", &call)["refused"].is_null()
    }

    fn ask(&self, what: &str, wish: &Value) -> Value {
        let answer = exchange("POST", &format!("{}/{what}", self.peer.urls[1]), &[], wish.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }
}
