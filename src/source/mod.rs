//! Where the configuration comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::aws::Aws;

mod file;
mod s3;

/// A configuration larger than this is refused unread, in bytes.
pub const SIZE_LIMIT: u64 = 256 * 1024;

/// A place that holds one configuration document in its newest version.
#[async_trait]
pub trait Source: Send + Sync {
    /// Looks whether there is another version than `known`, and brings it.
    ///
    /// # Errors
    /// Why nothing can be brought; see [`SourceError`].
    async fn look(&self, known: Option<&Version>) -> Result<Look, SourceError>;

    /// How long to wait between two looks when the configuration says `poll`.
    fn pace(&self, poll: Duration) -> Duration {
        poll
    }
}

/// What a look found.
#[derive(Debug)]
pub enum Look {
    Unchanged,
    Found(Found),
}

/// One version's bytes, pinned: these bytes are that version's and no other's.
#[derive(Debug)]
pub struct Found {
    pub version: Version,
    pub bytes: Vec<u8>,
}

/// Names one version of the document: a VersionId, or an ETag where the bucket keeps no versions, or a digest of a
/// file's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub String);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a source brought nothing. Each text says what was asked, what came back, and what to do where it is known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// There is no document, or none that may be seen: S3 answers both alike to whoever may not list the bucket.
    #[error("{0}")]
    Absent(String),
    /// The newest version can't be a configuration: too large, or a delete marker.
    #[error("{text}")]
    Unusable { version: Version, text: String },
    /// It was asked and did not answer well: time-out, 5xx, cut body, replaced while read, no credentials, no region.
    #[error("{0}")]
    Unavailable(String),
}

/// A configuration's address: `s3://bucket/key`, or a file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uri {
    S3 { bucket: String, key: String },
    File(PathBuf),
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return match rest.split_once('/') {
                Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => {
                    Ok(Uri::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
                }
                _ => Err(format!("`{text}` names no object; write s3://BUCKET/KEY")),
            };
        }
        if text.starts_with("s3:") {
            return Err(format!("`{text}` names no object; write s3://BUCKET/KEY"));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(format!(
                "`{scheme}://` is not a place perch reads from; write s3://BUCKET/KEY or a file's path"
            ));
        }
        if text.is_empty() {
            return Err("it is empty; write s3://BUCKET/KEY or a file's path".to_owned());
        }
        Ok(Uri::File(PathBuf::from(text)))
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uri::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Uri::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Opens the source at `uri`; nothing is asked of it yet.
#[must_use]
pub fn open(uri: &Uri, aws: &Aws) -> Arc<dyn Source> {
    match uri {
        Uri::S3 { bucket, key } => Arc::new(s3::S3Object::new(aws.clone(), bucket, key)),
        Uri::File(path) => Arc::new(file::ConfigFile::new(path)),
    }
}
