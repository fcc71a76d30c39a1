//! An AWS account in which a role may do what its policy says, and nothing else.

use std::path::Path;

use serde_json::{Value, json};

use super::aws::{Peer, REGION};
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

    fn ask(&self, what: &str, wish: &Value) -> Value {
        let answer = exchange("POST", &format!("{}/{what}", self.peer.urls[1]), &[], wish.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }
}
