//! What ACME needs from one process to the next, in `acme/` of the state directory: the account's key, certificates with
//! their keys, and when orders were tried. Where it can't be written, the process remembers it alone.
//!
//! ```text
//! acme/acme-v02.api.letsencrypt.org-33c2a9be/account.json
//!                                            chat.example.org-5f0c11d2.pem      key and chain
//!                                            chat.example.org-5f0c11d2.json     tries
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::schedule::Tries;
use crate::config::http_tls::Acme;
use crate::hexadecimal;
use crate::http::tls::certificate::Certificate;

/// How much of a name is part of a file's name, in bytes: it may have 255.
const SHOWN: usize = 100;

/// What is kept. Reading and writing blocks.
#[derive(Default)]
pub struct Kept {
    /// `None` where nothing outlives the process.
    directory: Option<PathBuf>,
    /// Everything that was written, by its path below the directory.
    memory: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    complained: AtomicBool,
}

/// Where things are kept of one server, and of one list of names.
#[derive(Clone)]
pub struct Place {
    server: PathBuf,
    names: PathBuf,
}

impl Place {
    pub fn new(acme: &Acme) -> Place {
        let host = reqwest::Url::parse(&acme.directory).ok().and_then(|url| url.host_str().map(str::to_owned));
        let server = PathBuf::from(called(&host.unwrap_or_default(), &acme.directory));
        // The order of the names makes no other certificate.
        let names: BTreeSet<&str> = acme.domains.iter().map(String::as_str).collect();
        let all = names.into_iter().collect::<Vec<_>>().join(",");
        let names = server.join(called(acme.domains.first().map_or("none", String::as_str), &all));
        Place { server, names }
    }

    fn file(&self, extension: &str) -> PathBuf {
        let mut name = self.names.clone().into_os_string();
        name.push(extension);
        name.into()
    }
}

/// A file's name that says to people what it is about, and is another for everything else.
fn called(shown: &str, whole: &str) -> String {
    let hash = Sha256::digest(whole);
    let shown: String = shown.chars().filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c)).take(SHOWN).collect();
    format!("{shown}-{}", hexadecimal::of(&hash[..4]))
}

impl Kept {
    /// Keeps things in `acme/` of this state directory.
    pub fn in_state(directory: &Path) -> Kept {
        Kept { directory: Some(directory.join("acme")), ..Kept::default() }
    }

    /// The account at the server, as it was written.
    pub fn account(&self, place: &Place) -> Option<Vec<u8>> {
        self.read(&place.server.join("account.json"))
    }

    pub fn keep_account(&self, place: &Place, account: &[u8]) {
        self.write(&place.server.join("account.json"), account);
    }

    /// The certificate for exactly these names.
    pub fn certificate(&self, place: &Place) -> Option<Arc<Certificate>> {
        self.parse(&place.file(".pem"))
    }

    /// The key comes first: who reads the file from its beginning sees at once what it is.
    pub fn keep_certificate(&self, place: &Place, key: &str, chain: &str) {
        self.write(&place.file(".pem"), format!("{key}{chain}").as_bytes());
    }

    /// The certificate of this server that is for the most of `names`, and for one of them at least: it is better than
    /// none while one for all of them is on order.
    pub fn closest(&self, place: &Place, names: &[String]) -> Option<Arc<Certificate>> {
        let directory = self.directory.as_ref()?.join(&place.server);
        let files =
            std::fs::read_dir(directory).ok()?.filter_map(|entry| Some(place.server.join(entry.ok()?.file_name())));
        let pem = files.filter(|file| file.extension().is_some_and(|extension| extension == "pem"));
        let fits =
            |certificate: &Arc<Certificate>| certificate.facts.names.iter().filter(|name| names.contains(name)).count();
        let now = std::time::SystemTime::now();
        let usable = pem.filter_map(|file| self.parse(&file)).filter(|certificate| certificate.facts.not_after > now);
        usable.filter(|certificate| fits(certificate) > 0).max_by_key(|it| (fits(it), it.facts.not_after))
    }

    /// What came of orders for these names.
    pub fn tries(&self, place: &Place) -> Tries {
        let bytes = self.read(&place.file(".json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    pub fn keep_tries(&self, place: &Place, tries: &Tries) {
        self.write(&place.file(".json"), serde_json::to_string(tries).unwrap_or_default().as_bytes());
    }

    fn parse(&self, file: &Path) -> Option<Arc<Certificate>> {
        let bytes = self.read(file)?;
        match Certificate::new(&bytes, &bytes) {
            Ok(certificate) => Some(Arc::new(certificate)),
            Err(flaw) => {
                tracing::warn!(
                    service = crate::http::NAME,
                    "a certificate in the state directory is damaged and left alone: {} {flaw}",
                    file.display()
                );
                None
            }
        }
    }

    fn read(&self, file: &Path) -> Option<Vec<u8>> {
        if let Some(bytes) = self.memory.lock().unwrap_or_else(PoisonError::into_inner).get(file) {
            return Some(bytes.clone());
        }
        let path = self.directory.as_ref()?.join(file);
        match std::fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    self.complain(&format!("{} can't be read: {error}", path.display()));
                }
                None
            }
        }
    }

    fn write(&self, file: &Path, bytes: &[u8]) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned(), bytes.to_vec());
        let Some(directory) = &self.directory else { return };
        let path = directory.join(file);
        match write(&path, bytes) {
            Ok(()) => self.complained.store(false, Ordering::Relaxed),
            Err(error) => self.complain(&format!("{} can't be written: {error}", path.display())),
        }
    }

    /// Says once that a restart is going to cost an order.
    fn complain(&self, what: &str) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                service = crate::http::NAME,
                "what belongs to the certificate is kept in memory alone, and a restart orders it anew: {what}"
            );
        }
    }
}

/// Puts a whole file in place of the old one, or nothing: 0600, in directories of 0700.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // One that a crash left behind may be anything.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::http_tls::{Challenge, LETS_ENCRYPT};

    fn acme(directory: &str, domains: &[&str]) -> Acme {
        let domains = domains.iter().map(|name| (*name).to_owned()).collect();
        Acme { directory: directory.to_owned(), domains, email: None, challenge: Challenge::Http01 }
    }

    #[test]
    fn what_is_kept_outlives_the_process_and_is_for_perch_alone() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::new(&acme(LETS_ENCRYPT, &["b.test", "a.test"]));
        let tries = Tries { failures: 2, last: 7, wait: 9, error: Some("no".to_owned()) };
        {
            let kept = Kept::in_state(state.path());
            kept.keep_account(&place, b"{}");
            kept.keep_tries(&place, &tries);
            kept.keep_tries(&place, &tries);
        }
        let kept = Kept::in_state(state.path());
        assert_eq!(kept.account(&place).as_deref(), Some(&b"{}"[..]));
        assert_eq!(kept.tries(&place), tries);
        // The same names in another order are the same certificate; other names, and another server, are not.
        assert_eq!(kept.tries(&Place::new(&acme(LETS_ENCRYPT, &["b.test", "a.test"]))), tries);
        assert_eq!(kept.tries(&Place::new(&acme(LETS_ENCRYPT, &["b.test"]))), Tries::default());
        assert_eq!(kept.account(&Place::new(&acme("https://other.test/directory", &["b.test", "a.test"]))), None);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let server = std::fs::read_dir(state.path().join("acme")).unwrap().next().unwrap().unwrap().path();
        assert_eq!((mode(&state.path().join("acme")), mode(&server)), (0o700, 0o700));
        let files: Vec<_> = std::fs::read_dir(&server).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 2, "{files:?}");
        assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
    }

    #[test]
    fn without_a_disk_the_process_remembers() {
        let place = Place::new(&acme(LETS_ENCRYPT, &["a.test"]));
        let file = tempfile::NamedTempFile::new().unwrap();
        for kept in [Kept::default(), Kept::in_state(file.path())] {
            kept.keep_account(&place, b"{}");
            assert_eq!(kept.account(&place).as_deref(), Some(&b"{}"[..]));
        }
    }

    #[test]
    fn a_long_name_fits_into_a_file_name() {
        let long = format!("{0}.{0}.{0}.test", "a".repeat(63));
        assert!(Place::new(&acme(LETS_ENCRYPT, &[&long])).file(".json").file_name().unwrap().len() < 130);
    }
}
