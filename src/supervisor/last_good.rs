//! The last blessed configuration, in `last-good/` in the state directory: what perch serves when it starts and the
//! newest one can't be had, or can't be used.
//!
//! `version.json` names the file with the text, which has its digest for a name. The text is there before it is named,
//! and the one before goes after that: a crash at any point leaves one that is whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hexadecimal;
use crate::source::Version;

const DIRECTORY: &str = "last-good";
const NAME: &str = "version.json";

/// A configuration that was watched for long enough.
#[derive(Clone, Debug)]
pub struct LastGood {
    pub version: Version,
    pub bytes: Arc<[u8]>,
    pub blessed: SystemTime,
}

/// `version.json`.
#[derive(Serialize, Deserialize)]
struct Named {
    /// Whose version it is: another source's is of no use.
    source: String,
    version: String,
    /// Seconds since 1970.
    blessed: u64,
    /// The file beside this one that holds the text.
    file: String,
}

/// Reads what was kept of `source`, if anything was.
///
/// # Errors
/// When something is there that can't be read, or is not what was written.
pub fn load(state_dir: &Path, source: &str) -> anyhow::Result<Option<LastGood>> {
    let directory = state_dir.join(DIRECTORY);
    let path = directory.join(NAME);
    let named = match std::fs::read(&path) {
        Ok(named) => named,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{} can't be read", path.display())),
    };
    let named: Named =
        serde_json::from_slice(&named).with_context(|| format!("{} is not what perch wrote", path.display()))?;
    if named.source != source {
        return Ok(None);
    }
    let text = directory.join(&named.file);
    let bytes = std::fs::read(&text).with_context(|| format!("{} can't be read", text.display()))?;
    ensure!(file_name(&bytes) == named.file, "{} was changed since perch wrote it", text.display());
    Ok(Some(LastGood {
        version: Version(named.version),
        bytes: bytes.into(),
        blessed: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(named.blessed),
    }))
}

/// Whether anything is kept.
pub fn is_there(state_dir: &Path) -> bool {
    state_dir.join(DIRECTORY).join(NAME).exists()
}

/// Keeps `good` in place of what was kept before.
///
/// # Errors
/// When it can't be written; what was kept before is then still there.
pub fn save(state_dir: &Path, source: &str, good: &LastGood) -> anyhow::Result<()> {
    let directory = state_dir.join(DIRECTORY);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("{} can't be made", directory.display()))?;
    let file = file_name(&good.bytes);
    let named = Named {
        source: source.to_owned(),
        version: good.version.0.clone(),
        blessed: good.blessed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        file: file.clone(),
    };
    write(&directory.join(&file), &good.bytes)?;
    write(&directory.join(NAME), &serde_json::to_vec(&named).context("the version can't be written")?)?;
    for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name != NAME && name != file.as_str() {
            // What stays is a few kilobytes that nobody reads.
            drop(std::fs::remove_file(entry.path()));
        }
    }
    Ok(())
}

fn file_name(bytes: &[u8]) -> String {
    format!("perch-{}.toml", hexadecimal::of(&Sha256::digest(bytes)[..8]))
}

/// Writes a file whole or not at all, and to the disk itself.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let context = || format!("{} can't be written", path.display());
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).with_context(context)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(context)?;
    std::fs::rename(&beside, path).with_context(context)?;
    let directory = path.parent().map(File::open).transpose().with_context(context)?;
    directory.map_or(Ok(()), |directory| directory.sync_all()).with_context(context)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn good(version: &str, text: &str) -> LastGood {
        let blessed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        LastGood { version: Version(version.to_owned()), bytes: text.as_bytes().into(), blessed }
    }

    #[test]
    fn what_was_blessed_last_is_found_again_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let load = |source| load(directory.path(), source).unwrap();
        assert!(load("s3://b/k").is_none());
        save(directory.path(), "s3://b/k", &good("v1", "one")).unwrap();
        save(directory.path(), "s3://b/k", &good("v2", "two")).unwrap();
        let found = load("s3://b/k").unwrap();
        assert_eq!((found.version.0.as_str(), &*found.bytes), ("v2", &b"two"[..]));
        assert_eq!(found.blessed, good("", "").blessed);
        assert!(load("s3://b/other").is_none(), "another source's is of no use");
        assert_eq!(std::fs::read_dir(directory.path().join(DIRECTORY)).unwrap().count(), 2);
    }

    #[test]
    fn a_crash_while_it_is_written_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), "s3://b/k", &good("v1", "one")).unwrap();
        // The new text is there, and not named yet.
        write(&directory.path().join(DIRECTORY).join(file_name(b"two")), b"two").unwrap();
        assert_eq!(load(directory.path(), "s3://b/k").unwrap().unwrap().version.0, "v1");
    }

    #[test]
    fn a_text_that_somebody_changed_is_not_served() {
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), "s3://b/k", &good("v1", "one")).unwrap();
        std::fs::write(directory.path().join(DIRECTORY).join(file_name(b"one")), "two").unwrap();
        let error = load(directory.path(), "s3://b/k").unwrap_err().to_string();
        assert!(error.ends_with("was changed since perch wrote it"), "{error}");
        std::fs::write(directory.path().join(DIRECTORY).join(NAME), "{").unwrap();
        assert!(load(directory.path(), "s3://b/k").unwrap_err().to_string().ends_with("is not what perch wrote"));
    }
}
