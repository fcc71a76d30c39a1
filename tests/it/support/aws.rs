//! AWS on this machine: moto for S3 and Secrets Manager, a metadata service for credentials, and between them and
//! perch a proxy that goes wrong when it is told to.

use std::borrow::Borrow;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use perch::aws::{Aws, Settings};
use serde_json::{Value, json};

use super::exchange::{Response, exchange};
use super::perch::keep_secret;
use super::python::{interpreter, script};

pub const REGION: &str = "eu-central-1";
/// Long enough for any answer from this machine, so short that a test can wait for it to pass.
const PATIENCE: Duration = Duration::from_secs(3);

/// One test's AWS. Buckets and secrets live in one moto for the whole process, so their names are made up anew;
/// faults and the metadata service are the test's own.
pub struct Cloud {
    moto: &'static str,
    proxy: Peer,
    metadata: Peer,
}

/// A request that came through the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    /// The operation, of a service that names it in a header (`GetSecretValue`).
    pub action: String,
    /// `pass` where none applied.
    pub fault: String,
}

impl Cloud {
    /// Starts the stand-ins that are not there yet, and returns when all of them answer.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same behind TLS, with a certificate for `localhost` from somebody else's CA.
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Self {
        Self::start_with(&["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()])
    }

    fn start_with(options: &[&str]) -> Self {
        let moto = moto();
        let mut arguments = vec!["--upstream", moto];
        arguments.extend(options);
        Cloud {
            moto,
            proxy: Peer::start(&script("fault_proxy.py"), &arguments),
            metadata: Peer::start(&script("imds.py"), &["--region", REGION]),
        }
    }

    /// Where S3 and Secrets Manager are.
    pub fn url(&self) -> String {
        self.proxy.urls[0].replace("https://127.0.0.1", "https://localhost")
    }

    pub fn metadata_url(&self) -> String {
        self.metadata.urls[0].clone()
    }

    /// The library's own handle on this AWS, with credentials from the metadata service and little patience.
    pub fn aws(&self) -> Aws {
        Aws::with(self.settings())
    }

    pub fn settings(&self) -> Settings {
        Settings {
            region: None,
            endpoint_url: Some(self.url()),
            metadata_url: Some(self.metadata_url()),
            patience: Some(PATIENCE),
        }
    }

    /// The environment of a perch process: no keys, as on an instance with a role. The rest of AWS_… is to be removed.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT_URL", self.url()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.metadata_url()),
            // Whoever runs the tests may have a profile of their own.
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
            ("NO_PROXY", "127.0.0.1,localhost".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Makes a bucket and returns its name.
    pub fn create_bucket(&self, versioned: bool) -> String {
        let bucket = unique("bucket");
        let place = format!(
            "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        );
        self.s3("PUT", &bucket, place.as_bytes());
        if versioned {
            self.set_versioning(&bucket, "Enabled");
        }
        bucket
    }

    /// `Enabled` or `Suspended`.
    pub fn set_versioning(&self, bucket: &str, status: &str) {
        let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        self.s3("PUT", &format!("{bucket}?versioning"), body.as_bytes());
    }

    /// Uploads an object and returns the name of its version as perch says it: its `VersionId`, else its `ETag`.
    pub fn put_object(&self, bucket: &str, key: &str, bytes: impl AsRef<[u8]>) -> String {
        let answer = self.s3("PUT", &format!("{bucket}/{key}"), bytes.as_ref());
        let version = answer.header("x-amz-version-id").filter(|id| *id != "null");
        version.or(answer.header("ETag")).expect("S3 names what it stored").trim_matches('"').to_owned()
    }

    /// Deletes an object and returns the `VersionId` of the delete marker, where the bucket keeps versions.
    pub fn delete_object(&self, bucket: &str, key: &str) -> Option<String> {
        self.s3("DELETE", &format!("{bucket}/{key}"), b"").header("x-amz-version-id").map(str::to_owned)
    }

    fn s3(&self, method: &str, path: &str, body: &[u8]) -> Response {
        let answer = exchange(method, &format!("{}/{path}", self.moto), &[authorization("s3")], body);
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
        answer
    }

    /// Makes a secret with a name of its own that begins with `prefix`; returns its name and its ARN.
    pub fn create_secret(&self, prefix: &str, value: &str) -> (String, String) {
        let name = unique(prefix);
        keep_secret(value);
        let answer = self.secrets_manager("CreateSecret", &json!({"Name": name, "SecretString": value}));
        (name, answer["ARN"].as_str().unwrap().to_owned())
    }

    /// Makes a secret called `name`.
    pub fn create_secret_named(&self, name: &str, value: &str) {
        keep_secret(value);
        self.secrets_manager("CreateSecret", &json!({"Name": name, "SecretString": value}));
    }

    /// Makes a secret of bytes, given in base64; returns its name.
    pub fn create_binary_secret(&self, base64: &str) -> String {
        let name = unique("binary");
        self.secrets_manager("CreateSecret", &json!({"Name": name, "SecretBinary": base64}));
        name
    }

    /// Gives a secret a new value; returns its `VersionId`.
    pub fn put_secret(&self, name: &str, value: &str) -> String {
        keep_secret(value);
        let answer = self.secrets_manager("PutSecretValue", &json!({"SecretId": name, "SecretString": value}));
        answer["VersionId"].as_str().unwrap().to_owned()
    }

    /// Schedules a secret for deletion.
    pub fn delete_secret(&self, name: &str) {
        self.secrets_manager("DeleteSecret", &json!({"SecretId": name}));
    }

    pub fn restore_secret(&self, name: &str) {
        self.secrets_manager("RestoreSecret", &json!({"SecretId": name}));
    }

    fn secrets_manager(&self, action: &str, wish: &Value) -> Value {
        let target = format!("secretsmanager.{action}");
        let headers = [
            authorization("secretsmanager"),
            ("X-Amz-Target", &target),
            ("Content-Type", "application/x-amz-json-1.1"),
        ];
        let answer = exchange("POST", &format!("{}/", self.moto), &headers, wish.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{action}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Adds a fault; see [`Fault`].
    pub fn fault(&self, fault: impl Borrow<Fault>) {
        self.control("POST", "faults", &fault.borrow().0);
    }

    /// Ends every fault, and what hangs.
    pub fn clear_faults(&self) {
        self.control("DELETE", "faults", &Value::Null);
    }

    /// Whether the port of [`Cloud::url`] takes connections.
    pub fn listen(&self, open: bool) {
        self.control("PUT", "listening", &json!(open));
    }

    /// What came through the proxy since the start or the last [`Cloud::forget_requests`].
    pub fn requests(&self) -> Vec<Asked> {
        let text = |note: &Value, key: &str| note[key].as_str().unwrap_or_default().to_owned();
        let notes: Vec<Value> = serde_json::from_value(self.control("GET", "requests", &Value::Null)).unwrap();
        notes
            .iter()
            .map(|note| Asked {
                method: text(note, "method"),
                path: text(note, "path"),
                action: text(note, "action"),
                fault: text(note, "fault"),
            })
            .collect()
    }

    pub fn forget_requests(&self) {
        self.control("DELETE", "requests", &Value::Null);
    }

    fn control(&self, method: &str, path: &str, wish: &Value) -> Value {
        let answer = exchange(method, &format!("{}/{path}", self.proxy.urls[1]), &[], wish.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// How often the metadata service was asked for the role's credentials.
    pub fn credentials_handed_out(&self) -> u64 {
        let answer = exchange("GET", &format!("{}/control", self.metadata.urls[0]), &[], b"");
        let state: Value = serde_json::from_slice(&answer.body).unwrap();
        state["asked"]["/latest/meta-data/iam/security-credentials/perch"].as_u64().unwrap_or_default()
    }

    /// How often the metadata service was asked anything.
    pub fn metadata_questions(&self) -> u64 {
        let answer = exchange("GET", &format!("{}/control", self.metadata.urls[0]), &[], b"");
        let state: Value = serde_json::from_slice(&answer.body).unwrap();
        state["asked"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
    }

    /// Changes what the metadata service does, e.g. `json!({"mode": "deny"})`; `tests/support/imds.py` says what it can.
    pub fn metadata(&self, wish: &Value) {
        let url = format!("{}/control", self.metadata.urls[0]);
        let answer = exchange("PUT", &url, &[], wish.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{wish}: {}", answer.text());
    }
}

/// Something that goes wrong between perch and AWS, for every request that fits or for the next few.
#[derive(Clone, Debug)]
pub struct Fault(Value);

impl Fault {
    fn new(what: &str) -> Self {
        Fault(json!({"do": what}))
    }

    /// The service answers with an error in its own form.
    pub fn refuse(status: u16, code: &str, message: &str) -> Self {
        Self::new("answer").with("status", json!(status)).with("code", json!(code)).with("message", json!(message))
    }

    /// An answer of these bytes.
    pub fn answer(status: u16, body: &str) -> Self {
        Self::new("answer").with("status", json!(status)).with("body", json!(body))
    }

    /// No answer until the faults are cleared.
    pub fn hang() -> Self {
        Self::new("hang")
    }

    pub fn slow(seconds: f32) -> Self {
        Self::new("slow").with("seconds", json!(seconds))
    }

    /// Half of the body, and the connection is closed.
    pub fn cut() -> Self {
        Self::new("cut")
    }

    /// The connection is reset.
    pub fn reset() -> Self {
        Self::new("reset")
    }

    /// `method` and `path` are asked of S3 just before what fits is passed on.
    pub fn just_before(method: &str, path: &str, body: &str) -> Self {
        Self::new("before").with("requests", json!([{"method": method, "path": path, "body": body}]))
    }

    /// Passed on; the answer's headers are changed.
    pub fn edit() -> Self {
        Self::new("edit").with("headers", json!({}))
    }

    /// For this method alone.
    pub fn method(self, method: &str) -> Self {
        self.with("method", json!(method))
    }

    /// For paths that begin so: `/bucket/key`.
    pub fn path(self, path: &str) -> Self {
        self.with("path", json!(path))
    }

    /// For this operation of Secrets Manager alone.
    pub fn action(self, action: &str) -> Self {
        self.with("action", json!(action))
    }

    /// For the next `count` requests that fit, and no more.
    pub fn times(self, count: u32) -> Self {
        self.with("count", json!(count))
    }

    /// With this header in the answer; for [`Fault::edit`], [`Fault::refuse`] and [`Fault::answer`].
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.0["headers"][name] = json!(value);
        self
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.0[key] = value;
        self
    }
}

/// A stand-in that runs as a process of its own until it is dropped, or this process is gone.
pub struct Peer {
    process: Child,
    pub urls: Vec<String>,
}

impl Peer {
    /// One that `tests/support/leashed.py` knows.
    pub fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(interpreter());
        command.arg(script("leashed.py")).arg(program).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
        Self::run(command)
    }

    /// A program that says first where it is, and ends when its standard input does.
    pub fn run(mut command: Command) -> Self {
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("tests/run has installed it");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line).unwrap();
        let urls: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        assert!(!urls.is_empty(), "a stand-in ended before it said where it is: {command:?}");
        Peer { process, urls }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The one moto of this process. Its leash ends it: statics are not dropped.
fn moto() -> &'static str {
    static MOTO: OnceLock<Peer> = OnceLock::new();
    &MOTO.get_or_init(|| Peer::start(Path::new("moto"), &[])).urls[0]
}

/// moto takes any signature, and the region and the service from it.
fn authorization(service: &str) -> (&'static str, &'static str) {
    let value = match service {
        "s3" => "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/s3/aws4_request, Signature=0",
        _ => "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/secretsmanager/aws4_request, Signature=0",
    };
    ("Authorization", value)
}

/// A name that no other test has.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
