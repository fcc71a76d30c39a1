//! Certificates ordered from an ACME server (RFC 8555), Let's Encrypt for one, and renewed while they are served.
//!
//! ```text
//!   renewal (when the server wants it) ┐
//!   schedule (when) ◄──────────────────┘
//!     └──► order (the conversation) ──► kept (on disk) ──► served
//!            └─ challenge (what the server is shown)
//! ```
//!
//! Nothing waits for it: without a certificate HTTP is served, and with an old one HTTPS.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::CertificateIdentifier;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

pub mod challenge;
mod client;
pub mod kept;
mod order;
mod renewal;
mod schedule;

use crate::config::http_tls::Acme;
use crate::http::tls::certificate::Certificate;
use crate::http::tls::expiry::Expiry;
use crate::http::tls::{Certificates, Standing};
use crate::telemetry::lines::moment;
use client::ComeAgain;
use kept::{Kept, Place};
use order::{Failure, Issued};
use schedule::{Kind, Tries, seconds};

/// How long a whole order may take.
const ORDER_TIMEOUT: Duration = Duration::from_mins(5);
/// A renewal that is so much sooner than a certificate's life asks for is worth a line.
const EARLY: Duration = Duration::from_hours(24);
/// Words of so many characters are tokens: they have 128 random bits at least (RFC 8555, section 8.1).
const TOKEN: usize = 22;
/// How often the clock is looked at, as it may be set at any time, and the machine may sleep.
const CLOCK_PACE: Duration = Duration::from_mins(1);

/// Serves what is kept, and orders what is not, for as long as it is polled.
pub async fn keep(acme: Acme, certificates: Arc<Certificates>, kept: Arc<Kept>) {
    let mut keeping = Keeping {
        place: Place::new(&acme),
        acme,
        certificates,
        kept,
        certificate: None,
        tries: Tries::default(),
        said: None,
    };
    keeping.recall().await;
    let mut expiry = Expiry::default();
    loop {
        let now = SystemTime::now();
        keeping.tries.mend(now);
        let due = keeping.due(now);
        keeping.stand(due);
        let remedy = match &keeping.tries.error {
            Some(error) => format!("its renewal fails: {error}"),
            None => "it is being renewed".to_owned(),
        };
        expiry.look(keeping.certificates.served(), &remedy);
        keeping.write_what_is_not().await;
        let Ok(left) = due.duration_since(now) else {
            keeping.order().await;
            continue;
        };
        if left.is_zero() {
            keeping.order().await;
            continue;
        }
        if keeping.asks(now) {
            keeping.ask().await;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(CLOCK_PACE)) => {}
            () = keeping.certificates.asked.notified() => keeping.tries.hurry(SystemTime::now()),
        }
    }
}

/// What a failure says but for the tokens in it, which are new each time: what was said once is not said again.
fn untold(text: &str) -> String {
    let piece = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
    text.split(piece).filter(|word| word.len() < TOKEN).collect::<Vec<_>>().join(" ")
}

struct Keeping {
    acme: Acme,
    place: Place,
    certificates: Arc<Certificates>,
    kept: Arc<Kept>,
    /// The one for exactly the names that are asked for.
    certificate: Option<Arc<Certificate>>,
    tries: Tries,
    /// What the journal heard of a failure.
    said: Option<String>,
}

impl Keeping {
    /// Takes up what an earlier process had.
    async fn recall(&mut self) {
        let (kept, place, names) = (Arc::clone(&self.kept), self.place.clone(), self.acme.domains.clone());
        let read = spawn_blocking(move || {
            let own = kept.certificate(&place);
            let other = if own.is_none() { kept.closest(&place, &names) } else { None };
            (own, other, kept.tries(&place))
        });
        // It can fail only where the process ends.
        let Ok((own, other, tries)) = read.await else { return };
        self.tries = tries;
        self.certificate = own;
        // One that is served already is better than one for fewer names.
        let other = other.filter(|_| self.certificates.served().is_none());
        if let Some(certificate) = self.certificate.as_ref().or(other.as_ref()) {
            self.certificates.serve(certificate);
        }
    }

    /// When the next is to be ordered.
    fn due(&self, now: SystemTime) -> SystemTime {
        schedule::due(self.certificate.as_ref().map(|it| &it.facts), self.jitter(), &self.tries, now)
    }

    /// From the certificate itself: the same after a restart, another for each host.
    fn jitter(&self) -> f64 {
        let Some(certificate) = &self.certificate else { return 0.0 };
        let hash = Sha256::digest(&certificate.key.cert[0]);
        f64::from(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])) / f64::from(u32::MAX)
    }

    fn stand(&self, due: SystemTime) {
        let trouble = self.tries.error.as_ref().map(|error| format!("no certificate could be had: {error}"));
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(self.tries.last);
        let last = (self.tries.failures > 0).then_some(last);
        self.certificates.stand(Standing { trouble, next: Some(due), failures: self.tries.failures, last });
    }

    /// How the server knows the certificate.
    fn id(&self) -> Option<CertificateIdentifier<'static>> {
        renewal::id(self.certificate.as_ref()?.key.cert.first()?)
    }

    /// Whether the server is to be asked when it wants the certificate replaced.
    fn asks(&self, now: SystemTime) -> bool {
        let known = &self.tries.suggestion;
        self.id().is_some_and(|id| known.of != id.to_string() || known.again <= seconds(now))
    }

    /// Asks it.
    async fn ask(&mut self) {
        let Some(id) = self.id() else { return };
        let before = self.tries.suggestion.clone();
        let now = SystemTime::now();
        let next = renewal::ask(&self.acme.directory, id.to_string(), before.clone(), now).await;
        let own = self.certificate.as_ref().map(|it| schedule::own(&it.facts, self.jitter()));
        let early = |due: SystemTime| own.is_some_and(|own| due + EARLY < own);
        let window = next.window;
        let was_early = early(self.due(now));
        let why = next.why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        self.tries.suggestion = next;
        let due = self.due(SystemTime::now());
        if window.is_some() && window != before.window && early(due) && !was_early {
            tracing::info!(
                service = crate::http::NAME,
                "the certificate for {} is replaced before its time, at {}, as {} wants it{why}",
                self.acme.domains.join(", "),
                moment(due.max(now)),
                self.acme.directory
            );
        }
        self.keep(&self.tries).await;
    }

    /// What found no room on the disk may find some now.
    async fn write_what_is_not(&self) {
        let kept = Arc::clone(&self.kept);
        drop(spawn_blocking(move || kept.write_what_is_not()).await);
    }

    /// Orders one now, and takes down what comes of it.
    async fn order(&mut self) {
        // A process that dies of it, again and again, makes no more orders than one that lives.
        let mut dying = self.tries.clone();
        dying.failed(Kind::Refused, "perch ended in the middle of an order".to_owned(), None, SystemTime::now(), 0.0);
        self.keep(&dying).await;
        let come_again = ComeAgain::default();
        let replaces = self.id();
        let own = self.certificate.as_ref().map(|it| schedule::own(&it.facts, self.jitter()));
        let ordered = order::order(&self.acme, &self.place, &self.kept, &self.certificates, &come_again, replaces);
        let result = match tokio::time::timeout(ORDER_TIMEOUT, ordered).await {
            Ok(Ok(issued)) => self.take(issued).await,
            Ok(Err(failure)) => Err(failure),
            Err(_) => {
                let text = format!("the order took more than {} min", ORDER_TIMEOUT.as_secs() / 60);
                Err(Failure::refused(text))
            }
        };
        match result {
            Ok(certificate) => {
                let now = SystemTime::now();
                self.tries.succeeded(now, own);
                self.said = None;
                // Whoever sees the new one also sees when the next is due.
                self.stand(self.due(now));
                self.certificates.serve(&certificate);
            }
            Err(Failure { kind, text, .. }) => {
                let until = come_again.take();
                self.tries.failed(kind, text.clone(), until, SystemTime::now(), fastrand::f64());
                let told = untold(&text);
                if self.said.as_ref() != Some(&told) {
                    let meanwhile = match self.certificates.served() {
                        Some(served) => format!("the {} is served meanwhile", served.facts),
                        None => "HTTP is served meanwhile".to_owned(),
                    };
                    tracing::warn!(
                        service = crate::http::NAME,
                        "no certificate for {} could be had from {}, which is tried again, and {meanwhile}: {text}",
                        self.acme.domains.join(", "),
                        self.acme.directory
                    );
                    self.said = Some(told);
                }
            }
        }
        self.keep(&self.tries).await;
    }

    /// Has the next process know of these tries.
    async fn keep(&self, tries: &Tries) {
        let (kept, place, tries) = (Arc::clone(&self.kept), self.place.clone(), tries.clone());
        drop(spawn_blocking(move || kept.keep_tries(&place, &tries)).await);
    }

    /// Keeps what was issued.
    async fn take(&mut self, issued: Issued) -> Result<Arc<Certificate>, Failure> {
        let Issued { chain, key } = issued;
        let certificate = Certificate::new(chain.as_bytes(), key.as_bytes()).map_err(|flaw| {
            self.kept.forget_order(&self.place);
            Failure::refused(format!("the server's certificate can't be served: it {flaw}"))
        })?;
        let certificate = Arc::new(certificate);
        let (kept, place) = (Arc::clone(&self.kept), self.place.clone());
        let keep = move || {
            kept.keep_certificate(&place, &key, &chain);
            kept.forget_order(&place);
            kept.prune(&place);
        };
        drop(spawn_blocking(keep).await);
        let facts = certificate.facts.clone();
        self.certificate = Some(Arc::clone(&certificate));
        let now = SystemTime::now();
        if facts.not_before > now || facts.not_after <= now {
            self.certificates.serve(&certificate);
            let text =
                format!("the {facts} was issued just now and is not valid by the clock of this host; set the clock");
            return Err(Failure::new(Kind::Clock, text));
        }
        Ok(certificate)
    }
}
