//! The AWS SDK, made once and only when something needs it.

/// A handle on AWS; clones share one.
#[derive(Clone, Default)]
pub struct Aws {}
