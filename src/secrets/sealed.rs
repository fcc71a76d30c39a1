//! Secrets in sealed memory: a memfd (memfd_create(2)) that nobody can change any more, to be handed from one process
//! to the next. Like any memory it is not on a disk, unless the host swaps.
//!
//! A SHA-256 of all that follows, the header's length in 4 bytes (little-endian), the header in JSON, and the values one
//! after the other.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Secret;
use crate::config::secret::SecretPlace;
use crate::systemd::SECRETS;

/// What the next process must understand, too.
const FORMAT: u32 = 1;
/// No configuration has this much in secrets, in bytes: Secrets Manager holds 64 KiB in each.
const SIZE_LIMIT: u64 = 1024 * 1024;
const DIGEST: usize = 32;
const LENGTH: usize = 4;
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// One secret with where it comes from.
#[derive(Clone, Debug)]
pub struct Entry {
    pub places: Vec<SecretPlace>,
    pub secret: Secret,
    /// When this value was fetched first.
    pub fetched: SystemTime,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    secrets: Vec<Described>,
}

/// All of an entry but its value.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    places: Vec<SecretPlace>,
    version: Option<String>,
    /// Seconds since 1970.
    fetched: u64,
    /// The value's, in bytes.
    length: usize,
}

/// Writes `entries` into new memory and seals it.
///
/// # Errors
/// When the kernel has no such memory, or they are too large for any reader.
pub fn seal(entries: &[Entry]) -> std::io::Result<OwnedFd> {
    let described = |entry: &Entry| Described {
        places: entry.places.clone(),
        version: entry.secret.version.clone(),
        fetched: entry.fetched.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        length: entry.secret.value.expose_secret().len(),
    };
    let header = serde_json::to_vec(&Header { format: FORMAT, secrets: entries.iter().map(described).collect() })?;
    let values: usize = entries.iter().map(|entry| entry.secret.value.expose_secret().len()).sum();
    let size = DIGEST + LENGTH + header.len() + values;
    let too_large = || std::io::Error::other(format!("they are larger than {} KiB", SIZE_LIMIT / 1024));
    if size as u64 > SIZE_LIMIT {
        return Err(too_large());
    }
    // All at once, as a buffer that grows leaves copies of itself behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    bytes.extend_from_slice(&[0; DIGEST]);
    bytes.extend_from_slice(&u32::try_from(header.len()).map_err(|_| too_large())?.to_le_bytes());
    bytes.extend_from_slice(&header);
    for entry in entries {
        bytes.extend_from_slice(entry.secret.value.expose_secret().as_bytes());
    }
    let digest = Sha256::digest(&bytes[DIGEST..]);
    bytes[..DIGEST].copy_from_slice(&digest);
    let mut memory = File::from(memory()?);
    memory.write_all(&bytes)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory.into())
}

/// New memory for this user alone.
fn memory() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create(SECRETS, flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know that it can't be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(SECRETS, flags),
        memory => memory,
    }?;
    rustix::fs::fchmod(&memory, Mode::RUSR | Mode::WUSR)?;
    Ok(memory)
}

/// Reads what [`seal`] wrote, if nobody can have changed it.
///
/// # Errors
/// Why it is not to be trusted, in words that repeat nothing of it.
pub fn open(memory: OwnedFd) -> Result<Vec<Entry>, String> {
    let unreadable = |error: std::io::Error| format!("it can't be read: {error}");
    let seals = rustix::fs::fcntl_get_seals(&memory).map_err(|_| "it is no memory that can be sealed".to_owned())?;
    if !seals.contains(SEALS) {
        return Err("it is not sealed".to_owned());
    }
    let memory = File::from(memory);
    let metadata = memory.metadata().map_err(unreadable)?;
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(format!("it belongs to user {}, and perch runs as user {user}", metadata.uid()));
    }
    if metadata.len() > SIZE_LIMIT {
        return Err(format!("it is larger than {} KiB", SIZE_LIMIT / 1024));
    }
    let size = usize::try_from(metadata.len()).map_err(|_| "it is too large".to_owned())?;
    let mut bytes = Zeroizing::new(vec![0; size]);
    memory.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
    read(&bytes).ok_or_else(|| "it is not what perch wrote, or another version of perch wrote it".to_owned())
}

fn read(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (digest, rest) = bytes.split_at_checked(DIGEST)?;
    if Sha256::digest(rest).as_slice() != digest {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<LENGTH>()?;
    let (header, mut values) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    if header.format != FORMAT {
        return None;
    }
    let mut entries = Vec::with_capacity(header.secrets.len());
    for Described { places, version, fetched, length } in header.secrets {
        let (value, rest) = values.split_at_checked(length)?;
        values = rest;
        let value = SecretString::from(std::str::from_utf8(value).ok()?);
        let fetched = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(fetched))?;
        entries.push(Entry { places, secret: Secret { value, version }, fetched });
    }
    values.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let secret = |value, version: Option<&str>| Secret {
            value: SecretString::from(value),
            version: version.map(str::to_owned),
        };
        let fetched = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let manager = SecretPlace::SecretsManager { name: "token".to_owned(), key: Some("KEY".to_owned()) };
        let file = SecretPlace::File("/run/token".into());
        vec![
            Entry { places: vec![manager.clone()], secret: secret("hush-hush", Some("v-1")), fetched },
            Entry { places: vec![file, manager], secret: secret("\"qüiet\"\n", None), fetched },
        ]
    }

    /// Memory with these bytes and these seals.
    fn with(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let mut memory = File::from(memory().unwrap());
        memory.write_all(bytes).unwrap();
        rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
        memory.into()
    }

    fn bytes(memory: OwnedFd) -> Vec<u8> {
        let memory = File::from(memory);
        let mut bytes = vec![0; usize::try_from(memory.metadata().unwrap().len()).unwrap()];
        memory.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn refused(memory: impl Into<OwnedFd>) -> String {
        open(memory.into()).unwrap_err()
    }

    #[test]
    fn what_is_sealed_is_read_again_and_can_not_be_changed() {
        let memory = seal(&entries()).unwrap();
        let name = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory))).unwrap();
        assert!(name.to_str().unwrap().starts_with("/memfd:perch-secrets"), "{name:?}");
        let file = File::from(memory);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        for error in [file.write_all_at(b"x", 0).unwrap_err(), file.set_len(0).unwrap_err()] {
            assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()), "{error}");
        }
        let read = open(file.into()).unwrap();
        assert_eq!(read.len(), 2);
        for (was, is) in entries().iter().zip(&read) {
            assert_eq!((&was.places, &was.secret, was.fetched), (&is.places, &is.secret, is.fetched));
            assert_eq!(was.secret.version, is.secret.version);
        }
        assert!(!format!("{read:?}").contains("hush"), "{read:?}");
    }

    #[test]
    fn what_somebody_else_may_have_written_is_refused() {
        const WRONG: &str = "it is not what perch wrote, or another version of perch wrote it";
        let good = bytes(seal(&entries()).unwrap());
        assert_eq!(refused(with(&good, SealFlags::empty())), "it is not sealed");
        assert_eq!(refused(with(&good, SEALS - SealFlags::WRITE)), "it is not sealed");
        assert_eq!(refused(File::open("/dev/null").unwrap()), "it is no memory that can be sealed");
        assert_eq!(refused(tempfile::tempfile().unwrap()), "it is no memory that can be sealed");
        for (at, length) in [(0, good.len()), (DIGEST, good.len()), (good.len() - 1, good.len()), (0, 0), (0, 35)] {
            let mut bad = good[..length].to_vec();
            if let Some(byte) = bad.get_mut(at) {
                *byte ^= 1;
            }
            assert_eq!(refused(with(&bad, SEALS)), WRONG, "{at}, {length}");
        }
        let size = usize::try_from(SIZE_LIMIT).unwrap();
        assert_eq!(refused(with(&vec![0; size + 1], SEALS)), "it is larger than 1024 KiB");
        // Whole, and yet it says what can't be.
        for header in [
            r#"{"format":2,"secrets":[]}"#,
            r#"{"format":1,"secrets":[],"more":1}"#,
            r#"{"format":1,"secrets":[{"places":[],"version":null,"fetched":0,"length":99}]}"#,
            r#"{"format":1,"secrets":[{"places":[],"version":null,"fetched":18446744073709551615,"length":0}]}"#,
        ] {
            let length = u32::try_from(header.len()).unwrap().to_le_bytes();
            let rest = [&length[..], header.as_bytes()].concat();
            let whole = [Sha256::digest(&rest).as_slice(), &rest].concat();
            assert_eq!(refused(with(&whole, SEALS)), WRONG, "{header}");
        }
    }

    #[test]
    fn what_another_user_left_is_refused() {
        let memory = seal(&entries()).unwrap();
        let other = rustix::fs::Uid::from_raw(12_345);
        if rustix::fs::fchown(&memory, Some(other), None).is_err() {
            // Only root gives things away.
            return;
        }
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(refused(memory), format!("it belongs to user 12345, and perch runs as user {user}"));
    }
}
