//! What perch finds around it: environment, profile, metadata service, network, certificates; and what stays of it in
//! memory.

use std::process::Command;
use std::time::{Duration, Instant};

use perch::aws::Aws;
use perch::source::{Found, Look};
use serde_json::json;

use super::{KEY, found, object_of, version};
use crate::support::authority::Authority;
use crate::support::aws::{Cloud, Fault};

/// Runs `test` of this file again in a process of its own, where the environment is `env` and nothing else of AWS.
fn alone(test: &str, env: &[(String, String)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("aws_boundary::surroundings::{test}"), "--ignored", "--nocapture"]);
    for (name, _) in std::env::vars_os() {
        let known = name.to_string_lossy();
        if known.starts_with("AWS_") || known.to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    let output = command.envs(env.iter().cloned()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// For [`alone`]: looks at `s3://$BUCKET/perch.toml` as the environment says, and expects `$EXPECTED`, or that it
/// begins so where that ends in `…`.
#[tokio::test]
#[ignore = "runs in a process of its own"]
async fn child_that_looks() {
    let started = Instant::now();
    let bucket = std::env::var("BUCKET").unwrap_or("bucket".to_owned());
    let said = match object_of(&Aws::default(), &bucket).look(None).await {
        Ok(Look::Found(Found { bytes, .. })) => String::from_utf8(bytes).unwrap(),
        Ok(Look::Unchanged) => "unchanged".to_owned(),
        Err(problem) => problem.to_string(),
    };
    let expected = std::env::var("EXPECTED").unwrap();
    match expected.strip_suffix('…') {
        Some(beginning) => assert!(said.starts_with(beginning), "{said}\nnot: {expected}"),
        None => assert_eq!(said, expected),
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn no_region_says_what_was_looked_at() {
    let cloud = Cloud::start();
    let metadata = cloud.metadata_url();
    let expected = |url: &str, answer: &str| {
        format!(
            "s3://bucket/perch.toml can't be read: no AWS region: AWS_REGION is not set, no profile names one, and \
             the instance metadata service at {url} does not either ({answer}); set AWS_REGION"
        )
    };
    let nobody = "http://127.0.0.1:1";
    for (mode, url, answer) in [
        ("ok", nobody, "Connection refused (os error 111)"),
        ("deny", &metadata, "request forbidden: IMDS is disabled or the caller has insufficient permissions"),
        ("hang", &metadata, "no answer in time"),
    ] {
        cloud.metadata(&json!({"mode": mode}));
        let env = pairs([("AWS_EC2_METADATA_SERVICE_ENDPOINT", url), ("EXPECTED", &expected(url, answer))]);
        alone("child_that_looks", &env);
    }
}

#[test]
fn no_credentials_says_what_was_looked_at() {
    let cloud = Cloud::start();
    let nobody = "http://127.0.0.1:1".to_owned();
    let expected = |url: &str, answer: &str| {
        format!(
            "s3://bucket/perch.toml can't be read: no AWS credentials: environment: AWS_ACCESS_KEY_ID is not set; \
             profile: none is defined; web identity: AWS_WEB_IDENTITY_TOKEN_FILE is not set; container: \
             AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not set; instance metadata at {url}: {answer}"
        )
    };
    for (mode, url, answer) in [
        ("ok", nobody, "Connection refused (os error 111)"),
        (
            "deny",
            cloud.metadata_url(),
            "request forbidden: IMDS is disabled or the caller has insufficient permissions",
        ),
        ("hang", cloud.metadata_url(), "no answer in time"),
        ("roleless", cloud.metadata_url(), "the instance has no role"),
    ] {
        cloud.metadata(&json!({"mode": mode}));
        let mut env = cloud.env();
        env.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT".to_owned(), url.clone()));
        env.push(("EXPECTED".to_owned(), expected(&url, answer)));
        alone("child_that_looks", &env);
    }
}

#[test]
fn no_network_names_the_host() {
    let expected = "s3://bucket/perch.toml can't be read: no answer from s3.invalid: failed to lookup address \
                    information: …";
    let env = pairs([
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ENDPOINT_URL_S3", "http://s3.invalid"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("EXPECTED", expected),
    ]);
    alone("child_that_looks", &env);
}

/// Each service's own endpoint, and a profile's region.
#[test]
fn the_environment_and_the_profile_are_the_sdks_own() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    cloud.put_object(&bucket, KEY, "text");
    let directory = tempfile::tempdir().unwrap();
    let profile = directory.path().join("config");
    std::fs::write(
        &profile,
        "[profile ops]\nregion = eu-central-1\naws_access_key_id = key\naws_secret_access_key = secret\n",
    )
    .unwrap();
    let env = pairs([
        ("AWS_ENDPOINT_URL_S3", &cloud.url()),
        ("AWS_CONFIG_FILE", profile.to_str().unwrap()),
        ("AWS_PROFILE", "ops"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("BUCKET", &bucket),
        ("EXPECTED", "text"),
    ]);
    alone("child_that_looks", &env);
}

#[test]
fn tls_trusts_a_private_ca_that_is_named_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let stranger = file("stranger.pem", &Authority::new().pem());
    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost");
    let cloud = Cloud::start_with_tls(&file("server.pem", &certificate), &file("server.key", &key));
    let bucket = cloud.create_bucket(true);
    cloud.put_object(&bucket, KEY, "over TLS");
    let host = cloud.url().replace("https://", "");
    let broken = file("broken.pem", "not a certificate");
    let problem = |text: &str| format!("s3://{bucket}/perch.toml can't be read: {text}");
    let untrusted = problem(&format!(
        "no answer from {host}: its certificate comes from nobody who is trusted; name a private CA's file in \
         SSL_CERT_FILE"
    ));
    let useless = problem(&format!("SSL_CERT_FILE names {}, which holds no certificate in PEM form", broken.display()));
    for (trusted, expected) in
        [(file("ca.pem", &authority.pem()), "over TLS".to_owned()), (stranger, untrusted), (broken, useless)]
    {
        let mut env = cloud.env();
        env.push(("SSL_CERT_FILE".to_owned(), trusted.display().to_string()));
        env.push(("BUCKET".to_owned(), bucket.clone()));
        env.push(("EXPECTED".to_owned(), expected));
        alone("child_that_looks", &env);
    }
}

/// For [`alone`]: looks again and again, well and not well, and grows no further once it is warm. Where nobody's
/// bucket is asked for, the credentials are turned down, so that everything of the SDK is made anew.
#[tokio::test]
#[ignore = "runs in a process of its own"]
async fn child_that_polls() {
    let bucket = std::env::var("BUCKET").unwrap();
    let rounds: u32 = std::env::var("ROUNDS").unwrap().parse().unwrap();
    let aws = Aws::default();
    let source = object_of(&aws, &bucket);
    let (id, _) = found(source.look(None).await);
    let known = version(&id);
    let absent = object_of(&aws, &format!("{bucket}-of-nobody"));
    let mut warm = 0;
    for round in 0..rounds {
        assert!(matches!(source.look(Some(&known)).await, Ok(Look::Unchanged)));
        if round % 4 == 0 {
            assert!(absent.look(Some(&known)).await.is_err());
        }
        if round == rounds / 4 {
            warm = resident();
        }
    }
    let grown = resident().saturating_sub(warm);
    assert!(grown < 1024, "{grown} KiB more than {warm} KiB after three times as many looks");
}

/// What this process holds in memory, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn polling_does_not_fill_the_memory() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    cloud.put_object(&bucket, KEY, "text");
    cloud.fault(Fault::refuse(400, "ExpiredToken", "expired").path(&format!("/{bucket}-of-nobody")));
    let mut env = cloud.env();
    env.push(("BUCKET".to_owned(), bucket));
    env.push(("ROUNDS".to_owned(), "400".to_owned()));
    alone("child_that_polls", &env);
}
