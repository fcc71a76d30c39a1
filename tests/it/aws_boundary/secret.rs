//! Secrets: in each of their forms, missing, and out of reach.

use perch::aws::Aws;
use perch::config::secret::{SecretPlace, SecretRef};
use perch::secrets::{self, Answer, Secret};
use secrecy::ExposeSecret;

use crate::support::aws::{Cloud, Fault, unique};

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
async fn a_secrets_previous_value_is_there_after_a_rotation() {
    let cloud = Cloud::start();
    let aws = cloud.aws();
    let (name, _) = cloud.create_secret("rotated", r#"{"TOKEN": "old"}"#);
    let previous = async |places| secrets::fetch_previous(&SecretRef { places, ..SecretRef::default() }, &aws).await;
    let file = SecretPlace::File("/etc/hostname".into());
    let places = vec![file.clone(), place(&name, Some("TOKEN"))];
    let none = previous(places.clone()).await.unwrap_err();
    assert_eq!(none.tried.len(), 1, "a file has no previous value: {none}");
    assert!(matches!(none.tried[0].1, Answer::Missing(_)), "{none}");
    let before = fetch(&aws, &name, None).await.unwrap().version;
    cloud.put_secret(&name, r#"{"TOKEN": "new"}"#);
    let found = previous(places).await.unwrap();
    assert_eq!((found.value.expose_secret(), found.version), ("old", before));
    assert_eq!(value(fetch(&aws, &name, Some("TOKEN")).await), "new");
    assert_eq!(previous(vec![file]).await.unwrap_err().tried, []);
    cloud.fault(Fault::hang());
    let out = previous(vec![place(&name, None)]).await.unwrap_err();
    assert!(out.unavailable(), "{out}");
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
