//! What can be said of a certificate's files before anybody serves them: `perch check`.

use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use super::certificate::{Certificate, Flaw};
use crate::config::http_tls::Files;
use crate::config::{Mistake, Place};
use crate::telemetry::lines::moment;

/// What was found, each with the key that names the file.
#[derive(Default)]
pub struct Found {
    /// What keeps HTTPS from being served.
    pub mistakes: Vec<Mistake>,
    /// What does not, or may be otherwise where perch runs.
    pub notes: Vec<Mistake>,
}

/// Reads the files as perch does when it starts. `elsewhere`: they may be meant for another machine, as the configuration
/// is not a file of this one.
pub async fn files(files: &Files, elsewhere: bool) -> Found {
    let mut found = Found::default();
    let note = |place: &Place, text| Mistake { place: place.clone(), text };
    let (cert, key) = (opens(&files.cert).await, opens(&files.key).await);
    if elsewhere && [&cert, &key].iter().all(|opens| **opens == Some(ErrorKind::NotFound)) {
        let text = format!(
            "{} and {} are not on this machine, so nobody looked at them; perch needs them where it runs",
            files.cert.display(),
            files.key.display()
        );
        found.notes.push(note(&files.cert_place, text));
        return found;
    }
    // Most often a key is for perch's own user, and whoever checks is another.
    let denied = [(&files.cert, &files.cert_place, cert), (&files.key, &files.key_place, key)];
    let denied: Vec<_> = denied.into_iter().filter(|(.., opens)| *opens == Some(ErrorKind::PermissionDenied)).collect();
    for (path, place, _) in &denied {
        let text = format!(
            "{} may not be read by user {}, who runs this check; run it as perch's own user",
            path.display(),
            rustix::process::geteuid().as_raw()
        );
        let list = if elsewhere { &mut found.notes } else { &mut found.mistakes };
        list.push(note(place, text));
    }
    match Certificate::examine(&files.cert, &files.key).await {
        Ok(certificate) => {
            let (facts, now) = (&certificate.facts, SystemTime::now());
            let refused = if facts.not_after <= now {
                Some("has expired".to_owned())
            } else {
                (facts.not_before > now).then(|| format!("is valid from {} on", moment(facts.not_before)))
            };
            found.notes.extend(refused.map(|why| {
                let text = format!("{} holds a {facts}, which {why}: browsers refuse it", files.cert.display());
                note(&files.cert_place, text)
            }));
        }
        Err(flaws) => {
            for flaw in flaws {
                let (place, text) = match flaw {
                    Flaw::Cert(text) => (&files.cert_place, text),
                    Flaw::Key(text) => (&files.key_place, text),
                };
                if !denied.iter().any(|(_, said, _)| *said == place) {
                    found.mistakes.push(note(place, text));
                }
            }
        }
    }
    found
}

/// Why a file can't be opened, if it can't.
async fn opens(path: &Path) -> Option<ErrorKind> {
    // Looked at only where it is a file: opening a pipe would wait for whoever writes.
    match tokio::fs::metadata(path).await {
        Ok(metadata) if !metadata.is_file() => None,
        Ok(_) => tokio::fs::File::open(path).await.err().map(|error| error.kind()),
        Err(error) => Some(error.kind()),
    }
}
