//! A certificate in files that somebody else writes: read again when they change.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::certificate::Certificate;
use super::expiry::Expiry;
use super::{Certificates, Standing};
use crate::config::http_tls::Files;

/// Follows the files at this `pace` for as long as it is polled.
pub async fn follow(files: Files, pace: Duration, certificates: Arc<Certificates>) {
    // They may have changed since they were read with the configuration; reading them once more costs nothing.
    let mut seen = None;
    let mut expiry = Expiry::default();
    let mut flaws = Flaws::default();
    loop {
        let remedy = format!("write a newer one to {}", files.cert.display());
        expiry.look(certificates.served(), &remedy);
        tokio::time::sleep(pace).await;
        let now = (mark(&files.cert).await, mark(&files.key).await);
        // What will not do is tried until it does: the second of two files may be on its way.
        if seen.as_ref() == Some(&now) && flaws.newest.is_none() {
            continue;
        }
        seen = Some(now);
        match Certificate::read(&files.cert, &files.key).await {
            Ok(certificate) => {
                flaws = Flaws::default();
                certificates.stand(Standing::default());
                certificates.serve(&Arc::new(certificate));
            }
            Err(flaw) => {
                let text = flaw.to_string();
                if flaws.is_to_be_said(&text) {
                    tracing::warn!(
                        service = crate::http::NAME,
                        "the certificate's files changed and will not do, so the old one stays: {text}"
                    );
                    let trouble = Some(format!("the files will not do: {text}"));
                    certificates.stand(Standing { trouble, ..Standing::default() });
                }
            }
        }
    }
}

/// What is wrong with the files, and whether somebody was told.
#[derive(Default)]
struct Flaws {
    newest: Option<String>,
    said: Option<String>,
}

impl Flaws {
    /// Files that are just being written are whole at the next look: a flaw counts when it is seen twice, and once.
    fn is_to_be_said(&mut self, text: &str) -> bool {
        let again = self.newest.as_deref() == Some(text);
        self.newest = Some(text.to_owned());
        if !again || self.said.as_deref() == Some(text) {
            return false;
        }
        self.said = Some(text.to_owned());
        true
    }
}

/// What changes when a file is written or replaced, links to it included; `None` where it is not there.
async fn mark(path: &Path) -> Option<[i64; 5]> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.size());
    Some([device.cast_signed(), inode.cast_signed(), size.cast_signed(), metadata.mtime(), metadata.mtime_nsec()])
}
