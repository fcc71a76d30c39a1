//! What S3 and Secrets Manager can answer, and what perch makes of it.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perch::aws::Aws;
use perch::config::secret::{SecretPlace, SecretRef};
use perch::secrets::{self, Answer, Secret};
use perch::source::{self, Found, Look, Source, SourceError, Uri, Version};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::authority::Authority;
use crate::support::aws::{Asked, Cloud, Fault, unique};

const KEY: &str = "perch.toml";

fn object(cloud: &Cloud, bucket: &str) -> Arc<dyn Source> {
    object_of(&cloud.aws(), bucket)
}

fn object_of(aws: &Aws, bucket: &str) -> Arc<dyn Source> {
    source::open(&Uri::S3 { bucket: bucket.to_owned(), key: KEY.to_owned() }, aws)
}

fn version(name: &str) -> Version {
    Version(name.to_owned())
}

/// What was found, as version and text.
fn found(look: Result<Look, SourceError>) -> (String, String) {
    match look {
        Ok(Look::Found(Found { version, bytes })) => (version.0, String::from_utf8(bytes).unwrap()),
        other => panic!("nothing found: {other:?}"),
    }
}

#[tokio::test]
async fn a_version_is_fetched_once_and_by_its_id() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let first = cloud.put_object(&bucket, KEY, "first");
    let source = object(&cloud, &bucket);
    assert_eq!(found(source.look(None).await), (first.clone(), "first".to_owned()));
    assert!(matches!(source.look(Some(&version(&first))).await, Ok(Look::Unchanged)));
    let second = cloud.put_object(&bucket, KEY, "second");
    assert_eq!(found(source.look(Some(&version(&first))).await), (second.clone(), "second".to_owned()));
    let asked: Vec<_> = cloud.requests().into_iter().map(|Asked { method, path, .. }| (method, path)).collect();
    let head = ("HEAD".to_owned(), format!("/{bucket}/{KEY}"));
    let get = |id: &str| ("GET".to_owned(), format!("/{bucket}/{KEY}?x-id=GetObject&versionId={id}"));
    assert_eq!(asked, [head.clone(), get(&first), head.clone(), head, get(&second)]);
}

#[tokio::test]
async fn without_versioning_the_etag_names_the_version() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(false);
    let first = cloud.put_object(&bucket, KEY, "first");
    assert_eq!(first.len(), 32, "an MD5: {first}");
    let source = object(&cloud, &bucket);
    assert_eq!(found(source.look(None).await), (first.clone(), "first".to_owned()));
    assert!(matches!(source.look(Some(&version(&first))).await, Ok(Look::Unchanged)));
    let second = cloud.put_object(&bucket, KEY, "second");
    assert_eq!(found(source.look(Some(&version(&first))).await), (second, "second".to_owned()));
}

#[tokio::test]
async fn with_versioning_suspended_the_etag_names_the_version() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let old = cloud.put_object(&bucket, KEY, "while it kept versions");
    cloud.set_versioning(&bucket, "Suspended");
    let source = object(&cloud, &bucket);
    assert_eq!(found(source.look(None).await).0, old);
    cloud.put_object(&bucket, KEY, "first");
    // What S3 answers then and moto does not.
    cloud.fault(Fault::edit().header("x-amz-version-id", "null"));
    let (first, text) = found(source.look(Some(&version(&old))).await);
    assert_eq!((first.len(), text.as_str()), (32, "first"));
    cloud.put_object(&bucket, KEY, "second");
    let (second, text) = found(source.look(Some(&version(&first))).await);
    assert_eq!(text, "second");
    assert!(matches!(source.look(Some(&version(&second))).await, Ok(Look::Unchanged)));
}

#[tokio::test]
async fn an_object_that_is_not_there() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let source = object(&cloud, &bucket);
    let absent = |text: String| Some(SourceError::Absent(text));
    assert_eq!(source.look(None).await.err(), absent(format!("s3://{bucket}/perch.toml does not exist; upload it")));
    // Who may not list the bucket is told this, whether the object is there or not.
    cloud.fault(Fault::refuse(403, "AccessDenied", "Access Denied"));
    assert_eq!(
        source.look(None).await.err(),
        absent(format!(
            "s3://{bucket}/perch.toml does not exist, or may not be read: the answer was 403 AccessDenied (Access \
             Denied), which S3 says for both to a role that lacks s3:ListBucket on `{bucket}`; upload it, or allow \
             the role s3:GetObject and s3:GetObjectVersion"
        ))
    );
    cloud.clear_faults();
    let listing = "User: arn:aws:sts::123456789012:assumed-role/perch/i-0 is not authorized to perform: \
                   s3:ListBucket on resource: \"arn:aws:s3:::b\"";
    cloud.fault(Fault::refuse(403, "AccessDenied", listing));
    let Some(SourceError::Absent(text)) = source.look(None).await.err() else { panic!("it is absent") };
    assert!(text.contains("or s3:ListBucket is needed to be told so"), "{text}");
    assert!(text.contains("arn:aws:sts::123456789012:assumed-role/perch/i-0"), "{text}");
    cloud.clear_faults();
    let gone = object(&cloud, "a-bucket-that-nobody-made");
    assert_eq!(
        gone.look(None).await.err(),
        absent(
            "s3://a-bucket-that-nobody-made/perch.toml does not exist: there is no bucket `a-bucket-that-nobody-made`"
                .to_owned()
        )
    );
    let id = cloud.put_object(&bucket, KEY, "at last");
    assert_eq!(found(source.look(None).await), (id, "at last".to_owned()));
}

#[tokio::test]
async fn a_delete_marker_is_named() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let running = version(&cloud.put_object(&bucket, KEY, "running"));
    let marker = cloud.delete_object(&bucket, KEY).unwrap();
    let source = object(&cloud, &bucket);
    assert_eq!(
        source.look(Some(&running)).await.err(),
        Some(SourceError::Unusable {
            version: version(&marker),
            text: format!(
                "s3://{bucket}/perch.toml was deleted; upload it again, or remove the delete marker {marker}"
            ),
        })
    );
    assert!(matches!(source.look(Some(&version(&marker))).await, Ok(Look::Unchanged)));
    let again = cloud.put_object(&bucket, KEY, "again");
    assert_eq!(found(source.look(Some(&version(&marker))).await).0, again);
}

#[tokio::test]
async fn what_is_too_large_is_not_downloaded() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let source = object(&cloud, &bucket);
    let exact = "#".repeat(usize::try_from(source::SIZE_LIMIT).unwrap());
    cloud.put_object(&bucket, KEY, &exact);
    assert_eq!(found(source.look(None).await).1, exact);
    let noise = cloud.put_object(&bucket, KEY, vec![0xa5; 10 << 20]);
    cloud.forget_requests();
    let too_large = Some(SourceError::Unusable {
        version: version(&noise),
        text: format!("s3://{bucket}/perch.toml is larger than 256 KiB, which no configuration needs"),
    });
    assert_eq!(source.look(None).await.err(), too_large);
    assert!(cloud.requests().iter().all(|asked| asked.method == "HEAD"));
    // A HEAD that tells less than there is.
    cloud.fault(Fault::edit().method("HEAD").header("Content-Length", "1"));
    assert_eq!(source.look(None).await.err(), too_large);
}

#[tokio::test]
async fn an_empty_object_is_found() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let id = cloud.put_object(&bucket, KEY, "");
    assert_eq!(found(object(&cloud, &bucket).look(None).await), (id, String::new()));
}

#[tokio::test]
async fn an_object_replaced_between_head_and_get_is_looked_at_again() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(false);
    let path = format!("/{bucket}/{KEY}");
    cloud.put_object(&bucket, KEY, "old");
    cloud.fault(Fault::just_before("PUT", &path, "new").method("GET").times(1));
    let source = object(&cloud, &bucket);
    assert_eq!(found(source.look(None).await).1, "new");
    cloud.fault(Fault::just_before("PUT", &path, "newer").method("GET").times(1));
    cloud.fault(Fault::just_before("PUT", &path, "newest").method("GET").times(1));
    assert_eq!(
        source.look(None).await.err(),
        Some(SourceError::Unavailable(format!(
            "s3://{bucket}/perch.toml was replaced again and again while it was read"
        )))
    );
    assert_eq!(found(source.look(None).await).1, "newest");
}

#[tokio::test]
async fn a_version_removed_between_head_and_get_is_looked_at_again() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let stays = cloud.put_object(&bucket, KEY, "stays");
    let goes = cloud.put_object(&bucket, KEY, "goes");
    let removal = format!("/{bucket}/{KEY}?versionId={goes}");
    cloud.fault(Fault::just_before("DELETE", &removal, "").method("GET").times(1));
    assert_eq!(found(object(&cloud, &bucket).look(None).await), (stays, "stays".to_owned()));
}

#[tokio::test]
async fn another_version_than_the_one_asked_for_is_not_taken() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    cloud.put_object(&bucket, KEY, "text");
    cloud.fault(Fault::edit().method("GET").header("x-amz-version-id", "another"));
    let problem = object(&cloud, &bucket).look(None).await.unwrap_err();
    assert!(matches!(&problem, SourceError::Unavailable(text) if text.contains("was replaced")), "{problem}");
}

/// What each way of not answering well is called; a moment later all is well again.
#[tokio::test]
async fn s3_not_answering_well() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let id = cloud.put_object(&bucket, KEY, "0123456789".repeat(1000));
    let host = cloud.url().replace("http://", "");
    let source = object(&cloud, &bucket);
    let cases = [
        (
            Fault::refuse(500, "InternalError", "We encountered an internal error. Please try again."),
            "can't be read: the answer was 500".to_owned(),
        ),
        (
            Fault::refuse(503, "SlowDown", "Please reduce your request rate.").method("GET"),
            "can't be read: the answer was 503 SlowDown (Please reduce your request rate.)".to_owned(),
        ),
        (Fault::hang(), format!("can't be read: no answer from {host}: no answer in time")),
        (Fault::hang().method("GET"), format!("can't be read: no answer from {host}: no answer in time")),
        (Fault::cut().method("GET"), "can't be read whole: end of file before message length reached".to_owned()),
        (
            Fault::edit().method("GET").header("x-amz-checksum-crc32", "AAAAAA=="),
            "can't be read whole: body checksum mismatch. expected body checksum to be 00000000 but it was bdce8b57"
                .to_owned(),
        ),
        (Fault::reset(), format!("can't be read: no answer from {host}: Connection reset by peer (os error 104)")),
        (
            Fault::refuse(400, "ExpiredToken", "The provided token has expired."),
            "can't be read: the AWS credentials are expired or unknown to AWS (ExpiredToken: The provided token has \
             expired.)"
                .to_owned(),
        ),
        (
            Fault::refuse(403, "RequestTimeTooSkewed", "The difference is too large."),
            "can't be read: the answer was 403 RequestTimeTooSkewed (The difference is too large.); this host's clock \
             is wrong"
                .to_owned(),
        ),
        (
            Fault::refuse(403, "AccessDenied", "not authorized to perform: kms:Decrypt on resource: k").method("GET"),
            "is there but may not be read: the answer was 403 AccessDenied (not authorized to perform: kms:Decrypt on \
             resource: k); the role needs s3:GetObject and s3:GetObjectVersion on it, and kms:Decrypt where it is \
             encrypted with a KMS key"
                .to_owned(),
        ),
        (
            Fault::refuse(403, "AccessDenied", "not authorized to perform: s3:GetObject on resource: o"),
            "may not be read: the answer was 403 AccessDenied (not authorized to perform: s3:GetObject on resource: \
             o); allow the role that action"
                .to_owned(),
        ),
        (
            Fault::refuse(301, "PermanentRedirect", "Use another endpoint.").header("x-amz-bucket-region", "eu-west-1"),
            "is in region eu-west-1, and perch asks in eu-central-1; set AWS_REGION=eu-west-1".to_owned(),
        ),
        (
            Fault::refuse(400, "AuthorizationHeaderMalformed", "expecting 'eu-west-1'"),
            "is in another region than eu-central-1 (the answer was 400 AuthorizationHeaderMalformed (expecting \
             'eu-west-1')); set AWS_REGION"
                .to_owned(),
        ),
    ];
    for (fault, text) in cases {
        cloud.fault(&fault);
        let problem = source.look(None).await.err();
        assert_eq!(problem, Some(SourceError::Unavailable(format!("s3://{bucket}/{KEY} {text}"))), "{fault:?}");
        cloud.clear_faults();
        assert_eq!(found(source.look(None).await).0, id, "after {fault:?}");
    }
    cloud.listen(false);
    assert_eq!(
        source.look(None).await.err(),
        Some(SourceError::Unavailable(format!(
            "s3://{bucket}/{KEY} can't be read: no answer from {host}: Connection refused (os error 111)"
        )))
    );
    cloud.listen(true);
    assert_eq!(found(source.look(None).await).0, id);
}

#[tokio::test]
async fn one_lost_connection_is_made_good_at_once() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let id = cloud.put_object(&bucket, KEY, "text");
    cloud.fault(Fault::reset().times(1));
    assert_eq!(found(object(&cloud, &bucket).look(None).await).0, id);
}

#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let id = cloud.put_object(&bucket, KEY, "text");
    cloud.fault(Fault::slow(0.5));
    assert_eq!(found(object(&cloud, &bucket).look(None).await).0, id);
}

#[tokio::test]
async fn credentials_that_aws_turned_down_are_asked_for_anew() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    cloud.put_object(&bucket, KEY, "text");
    let source = object(&cloud, &bucket);
    found(source.look(None).await);
    let before = cloud.credentials_handed_out();
    found(source.look(None).await);
    assert_eq!(cloud.credentials_handed_out(), before);
    cloud.fault(Fault::refuse(400, "ExpiredToken", "The provided token has expired."));
    assert!(source.look(None).await.is_err());
    cloud.clear_faults();
    found(source.look(None).await);
    assert_eq!(cloud.credentials_handed_out(), before + 1);
}

fn place(name: &str, key: Option<&str>) -> SecretPlace {
    SecretPlace::SecretsManager { name: name.to_owned(), key: key.map(str::to_owned) }
}

async fn fetch(aws: &Aws, name: &str, key: Option<&str>) -> Result<Secret, Answer> {
    let wanted = SecretRef { places: vec![place(name, key)], ..SecretRef::default() };
    secrets::fetch(&wanted, aws).await.map_err(|mut not_found| not_found.tried.remove(0).1)
}

fn value(answer: Result<Secret, Answer>) -> String {
    answer.unwrap().value.expose_secret().to_owned()
}

fn missing(text: &str) -> Answer {
    Answer::Missing(text.to_owned())
}

#[tokio::test]
async fn a_secret_whole_or_by_key_and_by_name_or_arn() {
    let cloud = Cloud::start();
    let aws = cloud.aws();
    let (whole, _) = cloud.create_secret("whole", "a-token\n");
    assert_eq!(value(fetch(&aws, &whole, None).await), "a-token");
    let (object, arn) = cloud.create_secret("object", r#"{"DISCORD_BOT_TOKEN": "in-an-object", "other": "text"}"#);
    assert_eq!(value(fetch(&aws, &object, Some("DISCORD_BOT_TOKEN")).await), "in-an-object");
    assert_eq!(value(fetch(&aws, &arn, Some("other")).await), "text");
    let without_suffix = arn.rsplit_once('-').unwrap().0;
    assert_eq!(value(fetch(&aws, without_suffix, Some("other")).await), "text");
    let binary = cloud.create_binary_secret("eyJrZXkiOiAiw6kifQ==");
    assert_eq!(value(fetch(&aws, &binary, Some("key")).await), "é");
    assert_eq!(value(fetch(&aws, &binary, None).await), r#"{"key": "é"}"#);
    let binary = cloud.create_binary_secret("//4=");
    assert_eq!(fetch(&aws, &binary, None).await.unwrap_err(), missing("is not UTF-8 text"));
}

#[tokio::test]
async fn a_secrets_version_changes_with_its_value() {
    let cloud = Cloud::start();
    let aws = cloud.aws();
    let (name, _) = cloud.create_secret("turning", "old");
    let before = fetch(&aws, &name, None).await.unwrap().version.unwrap();
    let id = cloud.put_secret(&name, "new");
    let after = fetch(&aws, &name, None).await.unwrap();
    assert_eq!((after.version.as_deref(), after.value.expose_secret()), (Some(id.as_str()), "new"));
    assert_ne!(before, id);
    assert!(!format!("{after:?}").contains("new"));
}

#[tokio::test]
async fn a_secret_that_is_of_no_use_says_why_and_never_what_it_is() {
    let cloud = Cloud::start();
    let aws = cloud.aws();
    let (plain, _) = cloud.create_secret("plain", "hunter2");
    assert_eq!(
        fetch(&aws, &plain, Some("TOKEN")).await.unwrap_err(),
        missing("is no JSON object with a key `TOKEN`; leave `key` out to take it whole")
    );
    let (object, _) =
        cloud.create_secret("object", r#"{"b": "hunter2", "a": 2, "list": ["hunter2"], "empty": " ", "null": null}"#);
    for (key, text) in [
        ("TOKEN", "has no key `TOKEN`, only `a`, `b`, `empty`, `list`, `null`"),
        ("a", "has a number at its key `a`, not a string"),
        ("list", "has a list at its key `list`, not a string"),
        ("null", "has null at its key `null`, not a string"),
        ("empty", "has nothing at its key `empty`"),
    ] {
        assert_eq!(fetch(&aws, &object, Some(key)).await.unwrap_err(), missing(text));
    }
    let (nothing, _) = cloud.create_secret("nothing", "{}");
    assert_eq!(
        fetch(&aws, &nothing, Some("a")).await.unwrap_err(),
        missing("is an empty JSON object; it has no key `a`")
    );
    let (blank, _) = cloud.create_secret("blank", "\n");
    assert_eq!(fetch(&aws, &blank, None).await.unwrap_err(), missing("is empty"));
}

#[tokio::test]
async fn a_secret_that_is_not_there() {
    let cloud = Cloud::start();
    let aws = cloud.aws();
    let name = unique("made/later");
    assert_eq!(fetch(&aws, &name, None).await.unwrap_err(), missing("does not exist in eu-central-1"));
    cloud.create_secret_named(&name, "at last");
    assert_eq!(value(fetch(&aws, &name, None).await), "at last");
    assert_eq!(fetch(&aws, "nobody-made-it", None).await.unwrap_err(), missing("does not exist in eu-central-1"));
    // AWS's own answer is a 400.
    cloud.fault(
        Fault::refuse(400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.").times(2),
    );
    let arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-AbCdEf";
    assert_eq!(
        fetch(&aws, arn, None).await.unwrap_err(),
        missing("does not exist in eu-central-1, where perch asks; its ARN says us-east-1")
    );
    assert_eq!(fetch(&aws, "token", None).await.unwrap_err(), missing("does not exist in eu-central-1"));
    cloud.fault(
        Fault::refuse(
            400,
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT",
        )
        .times(1),
    );
    assert_eq!(
        fetch(&aws, "token", None).await.unwrap_err(),
        missing("has no value yet (none is labelled AWSCURRENT)")
    );
    let (name, _) = cloud.create_secret("leaving", "value");
    cloud.delete_secret(&name);
    assert_eq!(
        fetch(&aws, &name, None).await.unwrap_err(),
        missing("is scheduled for deletion; restore it, or name another")
    );
    cloud.restore_secret(&name);
    assert_eq!(value(fetch(&aws, &name, None).await), "value");
}

#[tokio::test]
async fn secrets_manager_not_answering_well() {
    let cloud = Cloud::start();
    let aws = cloud.aws();
    let (name, _) = cloud.create_secret("token", "value");
    let host = cloud.url().replace("http://", "");
    let refused = "User: arn:aws:sts::123456789012:assumed-role/perch/i-0 is not authorized";
    let cases = [
        (
            Fault::refuse(400, "AccessDeniedException", refused),
            format!(
                "may not be read: the answer was 400 AccessDeniedException ({refused}); allow the role \
                 secretsmanager:GetSecretValue on `{name}`, and kms:Decrypt where it is encrypted with a key of yours"
            ),
        ),
        (
            Fault::refuse(400, "DecryptionFailure", "can't decrypt").action("GetSecretValue"),
            "can't be decrypted: the answer was 400 DecryptionFailure (can't decrypt); the KMS key may be disabled, \
             or the role lack kms:Decrypt on it"
                .to_owned(),
        ),
        (
            Fault::refuse(500, "InternalServiceError", "An error occurred on the server side."),
            "the answer was 500 InternalServiceError (An error occurred on the server side.)".to_owned(),
        ),
        (
            Fault::refuse(400, "ExpiredTokenException", "The security token is expired."),
            "the AWS credentials are expired or unknown to AWS (ExpiredTokenException: The security token is expired.)"
                .to_owned(),
        ),
        (Fault::hang(), format!("no answer from {host}: no answer in time")),
        (Fault::reset(), format!("no answer from {host}: Connection reset by peer (os error 104)")),
        (Fault::cut(), "the answer can't be read: end of file before message length reached".to_owned()),
        (Fault::answer(200, "<html>a portal</html>"), "the answer can't be read: ".to_owned()),
    ];
    for (fault, text) in cases {
        cloud.fault(&fault);
        match fetch(&aws, &name, None).await {
            Err(Answer::Unavailable(said)) => assert!(said.starts_with(&text), "{said}\nnot: {text}"),
            other => panic!("{fault:?}: {other:?}"),
        }
        cloud.clear_faults();
        assert_eq!(value(fetch(&aws, &name, None).await), "value", "after {fault:?}");
    }
}

/// Runs `test` of this file again in a process of its own, where the environment is `env` and nothing else of AWS.
fn alone(test: &str, env: &[(String, String)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("aws_boundary::{test}"), "--ignored", "--nocapture"]);
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
