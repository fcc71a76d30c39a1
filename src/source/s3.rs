//! The configuration as an S3 object.

use async_trait::async_trait;

use super::{Look, Source, SourceError, Version};
use crate::aws::Aws;

pub struct S3Object {
    #[expect(dead_code)]
    aws: Aws,
    bucket: String,
    key: String,
}

impl S3Object {
    pub fn new(aws: Aws, bucket: &str, key: &str) -> Self {
        S3Object { aws, bucket: bucket.to_owned(), key: key.to_owned() }
    }
}

#[async_trait]
impl Source for S3Object {
    async fn look(&self, _known: Option<&Version>) -> Result<Look, SourceError> {
        Err(SourceError::Unavailable(format!("s3://{}/{} can't be read yet", self.bucket, self.key)))
    }
}
