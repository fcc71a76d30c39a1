//! TLS in perch itself: which certificate is served, and how a connection comes to speak TLS.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

pub mod certificate;
pub mod examine;
pub mod expiry;
pub mod files;
pub mod handshake;
pub mod keeper;
pub mod redirect;

use super::acme::challenge::Challenges;
use crate::service::option_unix_seconds;
use certificate::Certificate;

/// What a client asks for that wants HTTP/2 and HTTP/1 (RFC 7301, RFC 9113 section 3.2), the better one first.
pub const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";
/// What an ACME server asks for that wants to see the certificate made for its challenge (RFC 8737, section 3).
pub const ACME: &[u8] = b"acme-tls/1";

/// The certificate that is served at the moment. It outlives the connections, the listeners and the configurations.
#[derive(Default)]
pub struct Certificates {
    served: ArcSwapOption<Certificate>,
    /// What ACME servers are shown meanwhile.
    pub challenges: Challenges,
    /// Somebody asked for a look at everything (`perch reload`).
    pub asked: Notify,
    standing: watch::Sender<Standing>,
}

/// How it goes with the certificate, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// Why there is no newer one.
    pub trouble: Option<String>,
    /// Seconds since 1970 at which the next is ordered, or tried to be.
    #[serde(serialize_with = "option_unix_seconds")]
    pub next: Option<SystemTime>,
    /// How many orders in a row failed, and when the last one did, in seconds since 1970.
    pub failures: u32,
    #[serde(serialize_with = "option_unix_seconds")]
    pub last: Option<SystemTime>,
}

impl Certificates {
    /// What is served; `None` before there is a certificate, and without HTTPS.
    pub fn served(&self) -> Option<Arc<Certificate>> {
        self.served.load_full()
    }

    /// Whether whoever comes without TLS can be sent to where it is.
    pub fn are_served(&self) -> bool {
        self.served.load().is_some()
    }

    /// From now on `certificate` is what new connections get. Those that are open stay as they are.
    pub fn serve(&self, certificate: &Arc<Certificate>) {
        if self.served.load().as_ref().is_some_and(|served| served.is(certificate)) {
            return;
        }
        self.served.store(Some(Arc::clone(certificate)));
        tracing::info!(service = super::NAME, "a new certificate is served: {}", certificate.facts);
        // Whoever shows it looks again.
        self.standing.send_modify(|_| ());
    }

    /// HTTPS is off.
    pub fn clear(&self) {
        if self.served.swap(None).is_some() {
            self.stand(Standing::default());
        }
    }

    /// Says how it goes.
    pub fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|known| {
            let new = *known != standing;
            *known = standing;
            new
        });
    }

    /// Hears of each change.
    pub fn changes(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// What `status` shows.
    pub fn show(&self, from: &str) -> Value {
        let standing = self.standing.borrow().clone();
        let mut shown = json!({ "from": from, "trouble": standing.trouble });
        if let Some(certificate) = self.served() {
            let facts = &certificate.facts;
            let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            shown["names"] = json!(facts.names);
            shown["issuer"] = json!(facts.issuer);
            shown["not_after"] = json!(seconds(facts.not_after));
        }
        let mut told = json!(standing);
        if standing.next.is_some() {
            shown["next"] = told["next"].take();
        }
        if standing.failures > 0 {
            (shown["failures"], shown["last_failure"]) = (told["failures"].take(), told["last"].take());
        }
        shown
    }

    /// What TLS is spoken with, for as long as the process lives.
    pub fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("ring supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.alpn_protocols = [HTTP_2, HTTP_1, ACME].map(<[u8]>::to_vec).to_vec();
        // A client keeps what it takes to come back, sealed with keys that change every few hours: whoever comes often
        // costs no memory here. Without randomness there are no keys, and each comes anew.
        if let Ok(ticketer) = rustls::crypto::ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Arc::new(config)
    }
}

/// Finds the certificate for a connection, whatever name it asks for: there is one, and clients check.
struct Resolver(Arc<Certificates>);

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == ACME)) {
            return self.0.challenges.certificate(hello.server_name()?);
        }
        self.0.served.load().as_deref().map(|certificate| Arc::clone(&certificate.key))
    }
}
