//! What ACME needs from one process to the next, in `acme/` of the state directory: the account's key, certificates with
//! their keys, and when orders were tried. Where it can't be written, the process remembers it alone.
//!
//! ```text
//! acme/acme-v02.api.letsencrypt.org-33c2a9be/account.json
//!                                            chat.example.org-5f0c11d2.pem      key and chain
//!                                            chat.example.org-5f0c11d2.json     tries
//!                                            chat.example.org-5f0c11d2.order    one under way, and its key
//! ```
//!
//! Of certificates for other names, or from other servers, the newest is kept for whoever goes back. An account's key is
//! never deleted: one that can't be used any more gets another name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::schedule::{MOST_PATIENCE, Tries, seconds};
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
    /// What of it is not on disk.
    unwritten: Mutex<BTreeSet<PathBuf>>,
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
        self.read(&place.server.join("account.json")).filter(|account| !account.is_empty())
    }

    pub fn keep_account(&self, place: &Place, account: &[u8]) {
        self.write(&place.server.join("account.json"), account);
    }

    /// Puts the account aside before another one takes its place: under the name that is returned, if there was one.
    pub fn set_account_aside(&self, place: &Place) -> Option<PathBuf> {
        let file = place.server.join("account.json");
        // Also where it has to stay where it is, it is not used any more.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(file.clone(), Vec::new());
        let path = self.directory.as_ref()?.join(&file);
        let aside = path.with_file_name(format!("account-until-{}.json", seconds(SystemTime::now())));
        match std::fs::rename(&path, &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                self.complain(&format!("{} can't be renamed: {error}", path.display()));
                None
            }
        }
    }

    /// An order that was made and not ended.
    pub fn order(&self, place: &Place) -> Option<Vec<u8>> {
        self.read(&place.file(".order"))
    }

    pub fn keep_order(&self, place: &Place, order: &[u8]) {
        self.write(&place.file(".order"), order);
    }

    /// It has ended.
    pub fn forget_order(&self, place: &Place) {
        self.delete(&place.file(".order"));
    }

    /// The certificate for exactly these names.
    pub fn certificate(&self, place: &Place) -> Option<Arc<Certificate>> {
        self.parse(&place.file(".pem"))
    }

    /// The key comes first: who reads the file from its beginning sees at once what it is.
    pub fn keep_certificate(&self, place: &Place, key: &str, chain: &str) {
        self.write(&place.file(".pem"), format!("{key}{chain}").as_bytes());
    }

    /// The certificate of this server that is for the most of `names`, and for one of them at least, other than the one at
    /// `place`: it is better than none while one for all of them is on order.
    pub fn closest(&self, place: &Place, names: &[String]) -> Option<Arc<Certificate>> {
        let directory = self.directory.as_ref()?.join(&place.server);
        let files =
            std::fs::read_dir(directory).ok()?.filter_map(|entry| Some(place.server.join(entry.ok()?.file_name())));
        let own = place.file(".pem");
        let pem = files.filter(|file| file.extension().is_some_and(|extension| extension == "pem") && *file != own);
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

    /// Tries again to write what could not be written.
    pub fn write_what_is_not(&self) {
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for file in unwritten {
            let bytes = self.memory.lock().unwrap_or_else(PoisonError::into_inner).get(&file).cloned();
            if let Some(bytes) = bytes {
                self.write(&file, &bytes);
            }
        }
    }

    /// Deletes what belongs to other lists of names, and other servers: certificates but for the newest, and what came of
    /// orders so long ago that no limit counts it. Only what was written here is touched.
    pub fn prune(&self, place: &Place) {
        let Some(directory) = &self.directory else { return };
        let below = |directory: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(directory).into_iter().flatten();
            entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
        };
        let servers = below(directory);
        let others = servers.iter().flat_map(|server| below(server)).filter_map(|path| {
            let age = SystemTime::now().duration_since(std::fs::metadata(&path).ok()?.modified().ok()?);
            let file = path.strip_prefix(directory).ok()?.to_owned();
            (file.with_extension("") != place.names).then_some((age.unwrap_or_default(), file))
        });
        let named = |file: &Path, extension: &str| {
            // `called`, and what it is.
            let stem = file.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.rsplit_once('-'));
            file.extension().is_some_and(|own| own == extension)
                && stem.is_some_and(|(_, hash)| hash.len() == 8 && hash.chars().all(|c| c.is_ascii_hexdigit()))
        };
        let (mut certificates, rest): (Vec<_>, Vec<_>) = others.partition(|(_, file)| named(file, "pem"));
        certificates.sort();
        let old =
            |(age, file): &(Duration, PathBuf)| *age > MOST_PATIENCE && (named(file, "json") || named(file, "order"));
        for (_, file) in certificates.iter().skip(1).chain(rest.iter().filter(|one| old(one))) {
            self.delete(file);
        }
    }

    fn delete(&self, file: &Path) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(file);
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).remove(file);
        let Some(directory) = &self.directory else { return };
        let path = directory.join(file);
        match std::fs::remove_file(&path) {
            // Where nothing can be written, that was said.
            Err(error) if error.kind() != ErrorKind::NotFound && !self.complained.load(Ordering::Relaxed) => {
                tracing::warn!(
                    service = crate::http::NAME,
                    "{} is not needed any more and can't be deleted: {error}",
                    path.display()
                );
            }
            _ => {}
        }
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
            Ok(()) => {
                let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
                unwritten.remove(file);
                // A disk that is nearly full takes some of it.
                if unwritten.is_empty() {
                    self.complained.store(false, Ordering::Relaxed);
                }
            }
            Err(error) => {
                self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned());
                self.complain(&format!("{} can't be written: {error}", path.display()));
            }
        }
    }

    /// Says once that a restart is going to cost an order.
    fn complain(&self, what: &str) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                service = crate::http::NAME,
                "what belongs to the certificate is kept in memory alone until it can be written, and a restart orders it \
                 anew: {what}"
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
        let tries = Tries { failures: 2, last: 7, wait: 9, error: Some("no".to_owned()), ..Tries::default() };
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
    fn certificates_for_other_names_are_kept_but_for_the_newest_and_accounts_always() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::in_state(state.path());
        let week_ago = SystemTime::now() - Duration::from_hours(8 * 24);
        let mut made = Vec::new();
        for (number, name) in ["a.test", "b.test", "c.test", "now.test"].into_iter().enumerate() {
            for directory in [LETS_ENCRYPT, "https://other.test/directory"] {
                let place = Place::new(&acme(directory, &[name]));
                kept.keep_account(&place, b"{}");
                kept.keep_certificate(&place, "key", "chain");
                kept.keep_tries(&place, &Tries::default());
                for extension in [".pem", ".json"] {
                    let file = File::open(state.path().join("acme").join(place.file(extension))).unwrap();
                    file.set_modified(week_ago + Duration::from_hours(number as u64)).unwrap();
                }
                made.push(place);
            }
        }
        let strange = state.path().join("acme/notes.pem");
        std::fs::write(state.path().join("acme").join(&made[0].server).join("mine.pem"), "").unwrap();
        std::fs::write(&strange, "").unwrap();
        let now = &made[6];
        let aside = kept.set_account_aside(now).unwrap();
        kept.prune(now);
        let left: Vec<bool> = made.iter().map(|place| kept.read(&place.file(".pem")).is_some()).collect();
        // Those of the other server are no less worth than those of this one.
        assert_eq!(left, [false, false, false, false, false, false, true, true]);
        assert!(kept.read(&now.file(".json")).is_some() && kept.read(&made[2].file(".json")).is_none());
        assert!(aside.exists() && strange.exists() && kept.account(&made[1]).is_some());
        assert!(state.path().join("acme").join(&made[0].server).join("mine.pem").exists());
    }

    #[test]
    fn what_found_no_room_is_written_once_there_is_some() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::new(&acme(LETS_ENCRYPT, &["a.test"]));
        let kept = Kept::in_state(state.path());
        let in_the_way = state.path().join("acme");
        std::fs::write(&in_the_way, "").unwrap();
        kept.keep_certificate(&place, "key", "chain");
        std::fs::remove_file(&in_the_way).unwrap();
        kept.write_what_is_not();
        assert_eq!(std::fs::read(in_the_way.join(place.file(".pem"))).unwrap(), b"keychain");
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
