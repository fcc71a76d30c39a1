//! The configuration as an S3 object: a HEAD tells whether there is another version, a GET pinned to it brings it.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;

use super::{Found, Look, SIZE_LIMIT, Source, SourceError, Version};
use crate::aws::{Aws, Failure, Refusal};

/// A whole look: HEAD, GET and body, once more when the object was replaced meanwhile.
const LOOK: Duration = Duration::from_secs(45);
/// A configuration's body is one packet or a few: what takes longer has stopped.
const BODY: Duration = Duration::from_secs(10);

pub struct S3Object {
    aws: Aws,
    bucket: String,
    key: String,
}

/// What holds a GET to the version that the HEAD named.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pin {
    VersionId(String),
    /// Where the bucket keeps no versions, or has stopped to (its objects are all called `null`); with its quotes.
    ETag(String),
}

/// What one HEAD and GET came to.
enum Attempt {
    Settled(Look),
    /// Another version came between the two.
    Replaced,
}

impl Pin {
    fn new(version_id: Option<&str>, etag: Option<&str>) -> Option<Self> {
        match version_id.filter(|id| !id.is_empty() && *id != "null") {
            Some(id) => Some(Pin::VersionId(id.to_owned())),
            None => etag.map(|etag| Pin::ETag(etag.to_owned())),
        }
    }

    fn of_head(head: &HeadObjectOutput) -> Option<Self> {
        Self::new(head.version_id(), head.e_tag())
    }

    fn of_get(get: &GetObjectOutput) -> Option<Self> {
        Self::new(get.version_id(), get.e_tag())
    }

    fn version(&self) -> Version {
        match self {
            Pin::VersionId(id) => Version(id.clone()),
            Pin::ETag(etag) => Version(etag.trim_matches('"').to_owned()),
        }
    }
}

impl S3Object {
    pub fn new(aws: Aws, bucket: &str, key: &str) -> Self {
        S3Object { aws, bucket: bucket.to_owned(), key: key.to_owned() }
    }

    async fn attempt(&self, known: Option<&Version>) -> Result<Attempt, SourceError> {
        let s3 = self.aws.s3().await.map_err(|failure| self.unavailable(&failure))?;
        let head = match s3.head_object().bucket(&self.bucket).key(&self.key).send().await {
            Ok(head) => head,
            Err(error) => return self.without_head(&s3, self.aws.failure(&error).await, known).await,
        };
        let Some(pin) = Pin::of_head(&head) else {
            return Err(self.says("has neither a VersionId nor an ETag; the endpoint is not S3"));
        };
        let version = pin.version();
        if known == Some(&version) {
            return Ok(Attempt::Settled(Look::Unchanged));
        }
        self.check_size(head.content_length(), &version)?;
        let request = s3.get_object().bucket(&self.bucket).key(&self.key);
        let request = match &pin {
            Pin::VersionId(id) => request.version_id(id),
            Pin::ETag(etag) => request.if_match(etag),
        };
        let get = match request.send().await {
            Ok(get) => get,
            Err(error) => return self.without_get(&s3, &self.aws.failure(&error).await),
        };
        if Pin::of_get(&get).as_ref() != Some(&pin) {
            return Ok(Attempt::Replaced);
        }
        self.check_size(get.content_length(), &version)?;
        let bytes = self.read(get, &version).await?;
        Ok(Attempt::Settled(Look::Found(Found { version, bytes })))
    }

    fn check_size(&self, length: Option<i64>, version: &Version) -> Result<(), SourceError> {
        let length = length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
        if length > SIZE_LIMIT { Err(self.too_large(version)) } else { Ok(()) }
    }

    /// Reads the body, and never more of it than a configuration may have.
    async fn read(&self, get: GetObjectOutput, version: &Version) -> Result<Vec<u8>, SourceError> {
        let whole = get.content_length().and_then(|length| usize::try_from(length).ok());
        let mut body = get.body;
        let mut bytes = Vec::with_capacity(whole.unwrap_or_default());
        loop {
            match tokio::time::timeout(BODY, body.try_next()).await {
                Err(_) => return Err(self.says("can't be read: its body stopped coming")),
                Ok(Err(error)) => {
                    let reason = crate::aws::root(&error);
                    return Err(self.says(&format!("can't be read whole: {reason}")));
                }
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
            }
            if bytes.len() as u64 > SIZE_LIMIT {
                return Err(self.too_large(version));
            }
        }
        match whole {
            Some(whole) if whole != bytes.len() => {
                let text = format!("can't be read whole: {} of {whole} bytes came", bytes.len());
                Err(self.says(&text))
            }
            _ => Ok(bytes),
        }
    }

    /// What a failed HEAD means. Its answer has no body, so a GET is asked for the reason.
    async fn without_head(
        &self,
        s3: &Client,
        failure: Failure,
        known: Option<&Version>,
    ) -> Result<Attempt, SourceError> {
        let Failure::Refused(refusal) = &failure else { return Err(self.unavailable(&failure)) };
        let told = refusal.status >= 500
            || refusal.delete_marker.is_some()
            || refusal.bucket_region.is_some() && moved(refusal);
        let failure = if told {
            failure
        } else {
            match s3.get_object().bucket(&self.bucket).key(&self.key).send().await {
                // It arrived this moment.
                Ok(_) => return Ok(Attempt::Replaced),
                Err(error) => self.aws.failure(&error).await,
            }
        };
        match self.refused(s3, &failure) {
            SourceError::Unusable { version, .. } if known == Some(&version) => Ok(Attempt::Settled(Look::Unchanged)),
            error => Err(error),
        }
    }

    /// What a failed GET means after a HEAD that went well.
    fn without_get(&self, s3: &Client, failure: &Failure) -> Result<Attempt, SourceError> {
        match failure {
            Failure::Refused(Refusal { status: 404 | 412, .. }) => Ok(Attempt::Replaced),
            Failure::Refused(refusal) if refusal.status == 403 => Err(self.says(&format!(
                "is there but may not be read: {refusal}; the role needs s3:GetObject and s3:GetObjectVersion on it, \
                 and kms:Decrypt where it is encrypted with a KMS key"
            ))),
            _ => Err(self.refused(s3, failure)),
        }
    }

    fn refused(&self, s3: &Client, failure: &Failure) -> SourceError {
        let Failure::Refused(refusal) = failure else { return self.unavailable(failure) };
        let Refusal { status, code, message, .. } = refusal;
        if let Some(marker) = &refusal.delete_marker {
            return SourceError::Unusable {
                version: Version(marker.clone()),
                text: format!("{self} was deleted; upload it again, or remove the delete marker {marker}"),
            };
        }
        if moved(refusal) {
            let asked = s3.config().region().map_or("another", AsRef::as_ref);
            return self.says(&match &refusal.bucket_region {
                Some(region) => format!("is in region {region}, and perch asks in {asked}; set AWS_REGION={region}"),
                None => format!("is in another region than {asked} ({refusal}); set AWS_REGION"),
            });
        }
        if code == "NoSuchBucket" {
            return SourceError::Absent(format!("{self} does not exist: there is no bucket `{}`", self.bucket));
        }
        if *status == 404 {
            return SourceError::Absent(format!("{self} does not exist; upload it"));
        }
        if *status != 403 || code != "AccessDenied" && !code.is_empty() {
            return self.unavailable(failure);
        }
        if message.contains("s3:ListBucket") {
            // S3 names this action to whoever asks for an object that is not there.
            return SourceError::Absent(format!(
                "{self} does not exist, or s3:ListBucket is needed to be told so: {refusal}; upload it"
            ));
        }
        if message.contains("s3:GetObject") || message.contains("kms:") {
            return self.says(&format!("may not be read: {refusal}; allow the role that action"));
        }
        SourceError::Absent(format!(
            "{self} does not exist, or may not be read: {refusal}, which S3 says for both to a role that lacks \
             s3:ListBucket on `{}`; upload it, or allow the role s3:GetObject and s3:GetObjectVersion",
            self.bucket
        ))
    }

    fn too_large(&self, version: &Version) -> SourceError {
        let text = format!("{self} is larger than {} KiB, which no configuration needs", SIZE_LIMIT / 1024);
        SourceError::Unusable { version: version.clone(), text }
    }

    fn unavailable(&self, failure: &Failure) -> SourceError {
        self.says(&format!("can't be read: {failure}"))
    }

    fn says(&self, text: &str) -> SourceError {
        SourceError::Unavailable(format!("{self} {text}"))
    }
}

impl std::fmt::Display for S3Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// S3 answers so in a region that does not have the bucket.
fn moved(refusal: &Refusal) -> bool {
    matches!(refusal.status, 301 | 307)
        || matches!(refusal.code.as_str(), "PermanentRedirect" | "AuthorizationHeaderMalformed")
}

#[async_trait]
impl Source for S3Object {
    async fn look(&self, known: Option<&Version>) -> Result<Look, SourceError> {
        let twice = async {
            for _ in 0..2 {
                if let Attempt::Settled(look) = self.attempt(known).await? {
                    return Ok(look);
                }
            }
            Err(self.says("was replaced again and again while it was read"))
        };
        match tokio::time::timeout(LOOK, twice).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.unavailable(&Failure::TimedOut)),
        }
    }
}
