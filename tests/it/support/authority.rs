//! A certificate authority of the test's own.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::aws::unique;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, unique("authority"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, for `SSL_CERT_FILE`.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's certificate and key for `name`, in PEM.
    pub fn issue(&self, name: &str) -> (String, String) {
        let year = Duration::from_hours(365 * 24);
        self.issue_for(&[name], SystemTime::now() - Duration::from_hours(1), year)
    }

    /// A server's certificate for these names, valid for so long from `since` on, and its key, in PEM.
    pub fn issue_for(&self, names: &[&str], since: SystemTime, lifetime: Duration) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = since.into();
        params.not_after = (since + lifetime).into();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}
