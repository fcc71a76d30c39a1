//! The configuration as an object, through good days and bad ones.

use perch::source::{self, Look, SourceError};

use super::{KEY, found, object, version};
use crate::support::aws::{Asked, Cloud, Fault};

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
