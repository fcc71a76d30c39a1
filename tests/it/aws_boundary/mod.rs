//! What S3 and Secrets Manager can answer, and what perch makes of it.

use std::sync::Arc;

use perch::aws::Aws;
use perch::source::{self, Found, Look, Source, SourceError, Uri, Version};

use crate::support::aws::Cloud;

mod object;
mod secret;
mod surroundings;

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
