//! A certificate with its key, checked, and what people want to know of it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use yasna::models::ObjectIdentifier;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, Tag, TagClass};

use crate::telemetry::lines::moment;

/// A file with a chain or a key is a few KiB; what is larger is another file.
const LARGEST_FILE: u64 = 1 << 20;

/// A certificate that can be served.
pub struct Certificate {
    /// The chain, the own certificate first, with the key.
    pub key: Arc<CertifiedKey>,
    pub facts: Facts,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The DNS names and addresses that it is for.
    pub names: Vec<String>,
    /// Who issued it: the common name, or the organization.
    pub issuer: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Which of the two files will not do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    Cert(String),
    Key(String),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Flaw::Cert(text) | Flaw::Key(text)) = self;
        f.write_str(text)
    }
}

impl Certificate {
    /// Reads the two files.
    ///
    /// # Errors
    /// The first thing in them that will not do.
    pub async fn read(cert: &Path, key: &Path) -> Result<Certificate, Flaw> {
        Certificate::examine(cert, key).await.map_err(|mut flaws| flaws.swap_remove(0))
    }

    /// Reads the two files to the end of what can be said of them.
    ///
    /// # Errors
    /// Everything that will not do: one thing of each file at most, and one at least.
    pub async fn examine(cert: &Path, key: &Path) -> Result<Certificate, Vec<Flaw>> {
        let (chain, secret) = (read(cert).await, read(key).await);
        let named = |path: &Path, text: String| format!("{} {text}", path.display());
        let chain = chain.and_then(|bytes| parse_chain(&bytes).map_err(|text| named(cert, text))).map_err(Flaw::Cert);
        let secret = secret.and_then(|bytes| parse_key(&bytes).map_err(|text| named(key, text))).map_err(Flaw::Key);
        match (chain, secret) {
            (Ok(chain), Ok(secret)) => Certificate::of(chain, secret).map_err(|flaw| match flaw {
                Flaw::Cert(text) => vec![Flaw::Cert(named(cert, text))],
                Flaw::Key(text) => vec![Flaw::Key(named(key, text))],
            }),
            (chain, secret) => Err(chain.err().into_iter().chain(secret.err()).collect()),
        }
    }

    /// Checks a chain and a key, both in PEM: what is wrong is said as the end of a sentence.
    ///
    /// # Errors
    /// The first thing in them that will not do.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Certificate, Flaw> {
        Certificate::of(parse_chain(chain).map_err(Flaw::Cert)?, parse_key(key).map_err(Flaw::Key)?)
    }

    fn of((certificates, facts): Chain, key: PrivateKeyDer<'static>) -> Result<Certificate, Flaw> {
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(certificates, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                Flaw::Key("is not the key of the first certificate in the chain".to_owned())
            }
            rustls::Error::InvalidCertificate(why) => {
                Flaw::Cert(format!("holds a certificate that can't be used: {why}"))
            }
            _ => Flaw::Key(
                "holds a key that can't be used; RSA from 2,048 bits, ECDSA P-256 and P-384, and Ed25519 can"
                    .to_owned(),
            ),
        })?;
        Ok(Certificate { key: Arc::new(key), facts })
    }

    /// Whether it is the same certificate.
    pub fn is(&self, other: &Certificate) -> bool {
        self.key.cert == other.key.cert
    }
}

/// A chain, and what its first certificate says.
type Chain = (Vec<CertificateDer<'static>>, Facts);

fn parse_chain(chain: &[u8]) -> Result<Chain, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let certificates = certificates.map_err(|error| format!("is broken PEM: {error}"))?;
    let Some(first) = certificates.first() else {
        return Err("holds no certificate in PEM form".to_owned());
    };
    let facts = Facts::read(first)
        .map_err(|error| format!("holds a certificate that can't be understood: {:?}", error.kind()))?;
    if let Some(broken) = certificates.iter().position(|certificate| Facts::read(certificate).is_err()) {
        return Err(format!("holds a chain whose certificate number {} is broken", broken + 1));
    }
    Ok((certificates, facts))
}

/// What is wrong is about a key's form, and says nothing of what is in it.
fn parse_key(key: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => {
            "holds no private key in PEM form that is not encrypted (PKCS #8, PKCS #1 or SEC 1)".to_owned()
        }
        _ => "is broken PEM".to_owned(),
    })
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let said = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{shown} does not exist"),
        std::io::ErrorKind::PermissionDenied => {
            format!("{shown} may not be read by the user that perch runs as; allow it")
        }
        _ => format!("{shown} can't be read: {error}"),
    };
    let metadata = tokio::fs::metadata(path).await.map_err(said)?;
    // A pipe or a device might never end.
    if !metadata.is_file() || metadata.len() > LARGEST_FILE {
        return Err(format!("{shown} is no file of up to 1 MiB"));
    }
    tokio::fs::read(path).await.map_err(said)
}

impl Facts {
    /// Reads a certificate (RFC 5280, section 4.1).
    fn read(certificate: &CertificateDer<'_>) -> ASN1Result<Facts> {
        yasna::parse_der(certificate, |reader| {
            reader.read_sequence(|reader| {
                let facts = reader.next().read_sequence(|reader| {
                    // Version, serial number, signature.
                    reader.read_optional(|reader| reader.read_tagged(Tag::context(0), skip))?;
                    reader.next().read_der()?;
                    reader.next().read_der()?;
                    let issuer = reader.next().read_der()?;
                    let (not_before, not_after) =
                        reader.next().read_sequence(|reader| Ok((time(reader.next())?, time(reader.next())?)))?;
                    let subject = reader.next().read_der()?;
                    // The public key, and two ids that nobody uses.
                    reader.next().read_der()?;
                    reader.read_optional(|reader| reader.read_tagged_implicit(Tag::context(1), skip_bits))?;
                    reader.read_optional(|reader| reader.read_tagged_implicit(Tag::context(2), skip_bits))?;
                    let names =
                        reader.read_optional(|reader| reader.read_tagged(Tag::context(3), alternative_names))?;
                    let names = names.filter(|names| !names.is_empty());
                    let names = names.unwrap_or_else(|| attribute(&subject, COMMON_NAME).into_iter().collect());
                    let issuer = attribute(&issuer, COMMON_NAME).or_else(|| attribute(&issuer, ORGANIZATION));
                    let issuer = issuer.unwrap_or_else(|| "an issuer without a name".to_owned());
                    Ok(Facts { names, issuer, not_before, not_after })
                })?;
                // Algorithm and signature: whoever connects checks them.
                reader.next().read_der()?;
                reader.next().read_der()?;
                Ok(facts)
            })
        })
    }

    /// How long it is valid in all.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = if self.names.is_empty() { "no name".to_owned() } else { self.names.join(", ") };
        write!(f, "certificate for {names} (by {}, until {})", self.issuer, moment(self.not_after))
    }
}

/// Attributes of a name (RFC 5280, appendix A.1) and the extension with the alternative names (section 4.2.1.6).
const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];

fn time(reader: BERReader<'_, '_>) -> ASN1Result<SystemTime> {
    let seconds = if reader.lookahead_tag()? == yasna::tags::TAG_UTCTIME {
        reader.read_utctime()?.datetime().unix_timestamp()
    } else {
        reader.read_generalized_time()?.datetime().unix_timestamp()
    };
    // What is before 1970 is as good as 1970.
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn skip(reader: BERReader<'_, '_>) -> ASN1Result<()> {
    reader.read_der().map(drop)
}

fn critical(reader: BERReader<'_, '_>) -> ASN1Result<bool> {
    reader.read_bool()
}

fn skip_bits(reader: BERReader<'_, '_>) -> ASN1Result<()> {
    reader.read_bitvec_bytes().map(drop)
}

/// The first attribute of this kind in a distinguished name.
fn attribute(name: &[u8], kind: &[u64]) -> Option<String> {
    let mut found = None;
    let read = yasna::parse_der(name, |reader| {
        reader.read_sequence_of(|reader| {
            reader.read_set_of(|reader| {
                reader.read_sequence(|reader| {
                    let own = reader.next().read_oid()?;
                    let value = reader.next().read_tagged_der()?;
                    if found.is_none() && own == ObjectIdentifier::from_slice(kind) {
                        found = Some(printable(value.value()));
                    }
                    Ok(())
                })
            })
        })
    });
    read.ok().and(found)
}

fn alternative_names(reader: BERReader<'_, '_>) -> ASN1Result<Vec<String>> {
    let mut names = Vec::new();
    reader.read_sequence_of(|reader| {
        reader.read_sequence(|reader| {
            let kind = reader.next().read_oid()?;
            reader.read_optional(critical)?;
            let value = reader.next().read_bytes()?;
            if kind == ObjectIdentifier::from_slice(ALTERNATIVE_NAMES) {
                names = general_names(&value)?;
            }
            Ok(())
        })
    })?;
    Ok(names)
}

fn general_names(value: &[u8]) -> ASN1Result<Vec<String>> {
    let mut names = Vec::new();
    yasna::parse_der(value, |reader| {
        reader.read_sequence_of(|reader| {
            let name = reader.read_tagged_der()?;
            let tag = name.tag();
            if tag.tag_class != TagClass::ContextSpecific {
                return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
            }
            match (tag.tag_number, name.value()) {
                (2, dns) => names.push(printable(dns)),
                (7, address) if address.len() == 4 => {
                    names.push(address.iter().map(ToString::to_string).collect::<Vec<_>>().join("."));
                }
                (7, address) => {
                    if let Ok(address) = <[u8; 16]>::try_from(address) {
                        names.push(std::net::Ipv6Addr::from(address).to_string());
                    }
                }
                _ => {}
            }
            Ok(())
        })
    })?;
    Ok(names)
}

/// Text out of a certificate, harmless for a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).take(253).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn made(names: &[&str]) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(2026, 1, 2);
        params.not_after = date_time_ymd(2055, 4, 2);
        let chain = params.signed_by(&key, &authority).unwrap().pem() + &authority.pem();
        (chain, key.serialize_pem())
    }

    fn flaw(chain: &str, key: &str) -> String {
        match Certificate::new(chain.as_bytes(), key.as_bytes()) {
            Ok(_) => "none".to_owned(),
            Err(Flaw::Cert(text)) => format!("cert {text}"),
            Err(Flaw::Key(text)) => format!("key {text}"),
        }
    }

    #[test]
    fn a_certificate_says_for_whom_it_is_by_whom_and_until_when() {
        let (chain, key) = made(&["chat.example.org", "192.0.2.1", "2001:db8::1"]);
        let certificate = Certificate::new(chain.as_bytes(), key.as_bytes()).unwrap_or_else(|flaw| panic!("{flaw}"));
        assert_eq!(certificate.facts.names, ["chat.example.org", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(
            certificate.facts.to_string(),
            "certificate for chat.example.org, 192.0.2.1, 2001:db8::1 (by Test authority, until 2055-04-02 00:00:00)"
        );
        assert_eq!(moment(certificate.facts.not_before), "2026-01-02 00:00:00");
    }

    #[test]
    fn what_will_not_do_is_told_apart() {
        let (chain, key) = made(&["a.test"]);
        let (_, other) = made(&["a.test"]);
        assert_eq!(flaw(&chain, &key), "none");
        assert_eq!(flaw(&key, &key), "cert holds no certificate in PEM form");
        assert_eq!(flaw("", &key), "cert holds no certificate in PEM form");
        assert_eq!(flaw(&chain, &other), "key is not the key of the first certificate in the chain");
        assert_eq!(
            flaw(&chain, &chain),
            "key holds no private key in PEM form that is not encrypted (PKCS #8, PKCS #1 or SEC 1)"
        );
        let half = |text: &str| text[..text.len() / 3].to_owned();
        assert!(flaw(&half(&chain), &key).starts_with("cert is broken PEM"), "{}", flaw(&half(&chain), &key));
        assert_eq!(flaw(&chain, &half(&key)), "key is broken PEM");
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(flaw(nonsense, &key).starts_with("cert holds a certificate that can't be understood"));
        assert_eq!(
            flaw(&format!("{chain}{nonsense}"), &key),
            "cert holds a chain whose certificate number 3 is broken"
        );
    }

    #[test]
    fn no_byte_of_a_certificate_can_make_reading_it_panic() {
        let (chain, _) = made(&["a.test"]);
        let whole = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        for index in 0..whole.len() {
            for change in [0x00, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[index] = change;
                drop(Facts::read(&CertificateDer::from(bytes)));
            }
            drop(Facts::read(&CertificateDer::from(whole[..index].to_vec())));
        }
    }
}
