//! The state directory: made at start, 0700, and held by one daemon at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The directory, held for as long as this value lives.
pub struct StateDir {
    path: PathBuf,
    /// Goes with the process, however that ends. There is none where nobody can write.
    _lock: Option<File>,
}

impl StateDir {
    /// Makes the directory if need be and takes it. A disk that is full, or read-only for the time being, keeps nobody
    /// from starting: that costs memory, which others say.
    ///
    /// # Errors
    /// When it can't be made or perch may not write there, or another perch holds it.
    pub fn open(path: &Path) -> anyhow::Result<StateDir> {
        let shown = path.display();
        let advice = || format!("state directory {shown} can't be used; name a writable one with --state-dir");
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(advice)?;
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path.join("lock"));
        let mut lock = match opened {
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem) => {
                return Ok(StateDir { path: path.to_owned(), _lock: None });
            }
            opened => opened.with_context(advice)?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message: whoever holds the lock wrote its process id.
                drop(lock.read_to_string(&mut pid));
                bail!(
                    "another perch (process {}) runs with the state directory {shown}; end it, or name another \
                     directory with --state-dir",
                    pid.trim()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(advice),
        }
        lock.set_len(0).and_then(|()| lock.rewind()).with_context(advice)?;
        // It holds without its words, too.
        drop(writeln!(lock, "{}", std::process::id()));
        Ok(StateDir { path: path.to_owned(), _lock: Some(lock) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
