//! The configuration as a file on this host.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{Found, Look, SIZE_LIMIT, Source, SourceError, Version};
use crate::hexadecimal;

/// A file costs nothing to look at, and an edit shall be seen within a second.
const PACE: Duration = Duration::from_millis(400);
/// A file that was written this shortly ago may still be being written: it is waited for, so many times.
const SETTLE: Duration = Duration::from_millis(250);
const SETTLE_TRIES: u32 = 3;

/// A file's path, and what it looked like when it was last read.
pub struct ConfigFile {
    path: PathBuf,
    seen: Mutex<Option<(Stamp, Version)>>,
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    /// Seconds and nanoseconds; unlike the time of modification, nobody can set it back.
    changed: (i64, i64),
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Stamp {
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

impl Stamp {
    /// How long ago it was written, unless that lies in the future.
    fn age(&self) -> Option<Duration> {
        self.modified.and_then(|at| at.elapsed().ok())
    }
}

impl ConfigFile {
    pub fn new(path: &Path) -> Self {
        ConfigFile { path: path.to_owned(), seen: Mutex::new(None) }
    }

    async fn metadata(&self) -> Result<std::fs::Metadata, SourceError> {
        tokio::fs::metadata(&self.path).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> SourceError {
        let path = self.path.display();
        match error.kind() {
            ErrorKind::NotFound => SourceError::Absent(format!("{path} does not exist")),
            ErrorKind::PermissionDenied => {
                SourceError::Unavailable(format!("{path} can't be read: permission denied; see its mode and owner"))
            }
            _ => SourceError::Unavailable(format!("{path} can't be read: {error}")),
        }
    }

    /// The version whose bytes were read when the file last looked like `stamp`.
    fn version_at(&self, stamp: Stamp) -> Option<Version> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().filter(|(at, _)| *at == stamp).map(|(_, version)| version.clone())
    }
}

#[async_trait]
impl Source for ConfigFile {
    async fn look(&self, known: Option<&Version>) -> Result<Look, SourceError> {
        let mut metadata = self.metadata().await?;
        let mut stamp = Stamp::of(&metadata);
        if known.is_some() && self.version_at(stamp).as_ref() == known {
            return Ok(Look::Unchanged);
        }
        let path = self.path.display();
        if metadata.is_dir() {
            return Err(SourceError::Unavailable(format!("{path} is a directory; name the configuration file in it")));
        }
        if !metadata.is_file() {
            return Err(SourceError::Unavailable(format!("{path} is not a regular file")));
        }
        if known.is_some() {
            // Whoever writes it may not be done. Whoever writes it all the time is not waited for.
            for _ in 0..SETTLE_TRIES {
                let Some(age) = stamp.age().filter(|age| *age < SETTLE) else { break };
                tokio::time::sleep(SETTLE.saturating_sub(age)).await;
                metadata = self.metadata().await?;
                stamp = Stamp::of(&metadata);
            }
        }
        let file = tokio::fs::File::open(&self.path).await.map_err(|error| self.failed(&error))?;
        let mut bytes = Vec::new();
        file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes).await.map_err(|error| self.failed(&error))?;
        let fresh = stamp.age().is_some_and(|age| age < SETTLE);
        let digest = Sha256::digest(&bytes);
        let version = Version(hexadecimal::of(&digest[..6]));
        if bytes.len() as u64 > SIZE_LIMIT {
            let text = format!("{path} is larger than {} KiB, which no configuration needs", SIZE_LIMIT / 1024);
            return Err(SourceError::Unusable { version, text });
        }
        // The file system's clock is coarse: what was written a moment ago may be written again and look the same.
        let seen = (!fresh).then(|| (stamp, version.clone()));
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        if known == Some(&version) {
            return Ok(Look::Unchanged);
        }
        Ok(Look::Found(Found { version, bytes }))
    }

    fn pace(&self, poll: Duration) -> Duration {
        poll.min(PACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_edit_within_a_tick_of_the_clock_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("perch.toml");
        let modified = SystemTime::now();
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        };
        let source = ConfigFile::new(&path);
        write("one");
        let Ok(Look::Found(one)) = source.look(None).await else { panic!("it is there") };
        write("two");
        let Ok(Look::Found(two)) = source.look(Some(&one.version)).await else { panic!("it is another") };
        assert_eq!((&*one.bytes, &*two.bytes), (&b"one"[..], &b"two"[..]));
        assert!(matches!(source.look(Some(&two.version)).await, Ok(Look::Unchanged)));
    }

    #[tokio::test]
    async fn a_file_that_is_still_being_written_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("perch.toml");
        std::fs::write(&path, "whole").unwrap();
        let source = ConfigFile::new(&path);
        let Ok(Look::Found(whole)) = source.look(None).await else { panic!("at first it is taken as it is") };
        std::fs::write(&path, "ha").unwrap();
        let (look, ()) = tokio::join!(source.look(Some(&whole.version)), async {
            tokio::time::sleep(SETTLE / 2).await;
            std::fs::write(&path, "half and half").unwrap();
        });
        let Ok(Look::Found(found)) = look else { panic!("it was written") };
        assert_eq!(found.bytes, b"half and half");
    }
}
