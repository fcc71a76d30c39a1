//! Which certificates perch trusts: the public roots compiled in, and `SSL_CERT_FILE` where it is set.
//!
//! Nothing of the host is needed for TLS, and nothing is parsed before the first connection asks for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// Names a file with further certificates to trust, in PEM, as OpenSSL and the AWS command line read it.
const EXTRA: &str = "SSL_CERT_FILE";

/// `SSL_CERT_FILE` can't be used.
#[derive(Debug, Error)]
pub enum TrustError {
    #[error("SSL_CERT_FILE names {}, which can't be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("SSL_CERT_FILE names {}, whose certificate number {number} is broken: {reason}", path.display())]
    Broken { path: PathBuf, number: usize, reason: String },
    #[error("SSL_CERT_FILE names {}, which holds no certificate in PEM form", path.display())]
    Empty { path: PathBuf },
}

/// Makes ring the process's provider, for libraries that take the default one (twilight-gateway).
pub fn install_default_provider() {
    // An error says that there is one already, which was installed here: no other is compiled in.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// A TLS client's settings with perch's trust; the roots behind them are parsed once and shared.
///
/// # Errors
/// [`TrustError`] when `SSL_CERT_FILE` is of no use.
///
/// # Panics
/// Never: ring supports the protocol versions that rustls takes by default.
pub fn client_config() -> Result<rustls::ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3");
    Ok(builder.with_root_certificates(roots()?).with_no_client_auth())
}

/// The trusted certificates as one PEM text, for a library that wants them in that form.
///
/// # Errors
/// [`TrustError`] when `SSL_CERT_FILE` is of no use.
pub fn pem() -> Result<String, TrustError> {
    Ok(text(&extra(std::env::var_os(EXTRA))?))
}

fn text(extra: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in TLS_SERVER_ROOT_CERTS.iter().chain(extra) {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        text.push_str(&aws_smithy_types::base64::encode(certificate));
        text.push_str("\n-----END CERTIFICATE-----\n");
    }
    text
}

fn roots() -> Result<Arc<RootCertStore>, TrustError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(TLS_SERVER_ROOT_CERTS.iter().cloned());
    roots.add_parsable_certificates(extra(std::env::var_os(EXTRA))?);
    // A failure is not kept: the file may be mended while perch runs.
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

/// The certificates in `SSL_CERT_FILE`, each of them usable, without those that are compiled in: the variable often
/// names a copy of the same public roots.
fn extra(variable: Option<OsString>) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let Some(path) = variable.filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(Vec::new());
    };
    let text = std::fs::read(&path).map_err(|source| TrustError::Unreadable { path: path.clone(), source })?;
    let mut certificates = Vec::new();
    let mut empty = true;
    for (index, certificate) in CertificateDer::pem_slice_iter(&text).enumerate() {
        let number = index + 1;
        let certificate = certificate.map_err(|error| broken(&path, number, &error))?;
        empty = false;
        if TLS_SERVER_ROOT_CERTS.contains(&certificate) {
            continue;
        }
        RootCertStore::empty().add(certificate.clone()).map_err(|error| broken(&path, number, &error))?;
        certificates.push(certificate);
    }
    if empty { Err(TrustError::Empty { path }) } else { Ok(certificates) }
}

fn broken(path: &Path, number: usize, error: &dyn std::fmt::Display) -> TrustError {
    TrustError::Broken { path: path.to_owned(), number, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<usize, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        extra(Some(file.path().into()))
            .map(|certificates| certificates.len())
            .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "FILE"))
    }

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(["stand-in.test".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn every_compiled_in_root_is_usable() {
        let mut roots = RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(TLS_SERVER_ROOT_CERTS.iter().cloned());
        assert_eq!(unusable, 0);
        assert!(roots.len() > 100, "{} roots", roots.len());
    }

    #[test]
    fn the_pem_text_holds_the_same_roots() {
        let text = text(&[]);
        let read: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(read, TLS_SERVER_ROOT_CERTS);
    }

    #[test]
    fn a_private_ca_is_added_and_a_public_one_is_there_already() {
        assert_eq!(read(format!("# ours\n{}{}", certificate(), certificate()).as_bytes()), Ok(2));
        assert_eq!(read(text(&[]).as_bytes()), Ok(0));
        assert_eq!(extra(None).unwrap().len(), 0);
        assert_eq!(extra(Some(OsString::new())).unwrap().len(), 0);
    }

    #[test]
    fn a_file_that_is_no_use_is_one_clear_error() {
        assert_eq!(read(b"").unwrap_err(), "SSL_CERT_FILE names FILE, which holds no certificate in PEM form");
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let problem = read(format!("{}{text}", certificate()).as_bytes()).unwrap_err();
        assert!(problem.starts_with("SSL_CERT_FILE names FILE, whose certificate number 2 is broken: "), "{problem}");
        let problem = extra(Some("/nowhere/ca.pem".into())).unwrap_err().to_string();
        assert_eq!(
            problem,
            "SSL_CERT_FILE names /nowhere/ca.pem, which can't be read: No such file or directory (os error 2)"
        );
    }
}
