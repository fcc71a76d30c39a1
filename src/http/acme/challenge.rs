//! What an ACME server is shown to believe that a name leads here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use crate::http::problem::Problem;
use crate::http::router::App;

/// The answers to challenges that are open.
#[derive(Default)]
pub struct Challenges {
    /// Certificates, by the name that they are for.
    certificates: Mutex<BTreeMap<String, Arc<CertifiedKey>>>,
    /// Texts, by their token.
    texts: Mutex<BTreeMap<String, String>>,
}

impl Challenges {
    /// Answers TLS-ALPN-01 for `name` with `digest`, the SHA-256 of the key authorization: in a certificate made for
    /// that alone (RFC 8737, section 3).
    ///
    /// # Errors
    /// When no certificate can be made for such a name.
    pub fn prove_by_tls(&self, name: &str, digest: &[u8]) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let certificate = params.self_signed(&key)?.der().clone();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        // Unchecked: a check would stumble over the very extension that makes it a proof.
        let key = rustls::crypto::ring::default_provider().key_provider.load_private_key(key)?;
        let key = CertifiedKey::new(vec![certificate], key);
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::new(key));
        Ok(())
    }

    /// Answers HTTP-01 for `token` with the key authorization (RFC 8555, section 8.3).
    pub fn prove_by_http(&self, token: &str, authorization: &str) {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), authorization.to_owned());
    }

    /// Answers nothing any more once what is returned is dropped, as it is when an order is given up.
    #[must_use]
    pub fn for_now(&self) -> ForNow<'_> {
        ForNow(self)
    }

    fn clear(&self) {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The certificate for the challenge of `name`.
    pub fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        certificates.get(&name.to_ascii_lowercase()).cloned()
    }

    fn text(&self, token: &str) -> Option<String> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

/// Ends the answers to an order's challenges.
pub struct ForNow<'a>(&'a Challenges);

impl Drop for ForNow<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// `GET /.well-known/acme-challenge/{token}`.
#[utoipa::path(
    get,
    path = "/.well-known/acme-challenge/{token}",
    params(("token" = String, Path)),
    responses((status = 200, description = "The key authorization (RFC 8555)", content_type = "application/octet-stream", body = String))
)]
pub async fn show(State(app): State<App>, Path(token): Path<String>) -> Response {
    match app.certificates.challenges.text(&token) {
        Some(text) => ([(header::CONTENT_TYPE, "application/octet-stream")], text).into_response(),
        None => Problem::new(StatusCode::NOT_FOUND, "no challenge with this token is open").into_response(),
    }
}
