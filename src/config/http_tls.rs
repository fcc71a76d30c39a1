//! `[http.tls]`: HTTPS, with a certificate from files or from an ACME server.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustls_pki_types::DnsName;

use super::document::{Entry, Place, Table, quote};
use super::http::listen;

/// Where it listens unless the configuration says otherwise: where browsers look, and `perch-https.socket` opens.
const LISTEN: &str = "0.0.0.0:443";
/// Where certificates are ordered unless the configuration says otherwise
/// (<https://letsencrypt.org/docs/acme-protocol-updates/>).
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// So many names fit into one certificate of Let's Encrypt's (<https://letsencrypt.org/docs/rate-limits/>).
const MOST_DOMAINS: usize = 100;
/// The longest path that Linux opens, PATH_MAX in limits.h, in bytes.
const LONGEST_PATH: usize = 4_095;
/// The longest address that mail goes to, in bytes (RFC 5321, section 4.5.3.1.3, without its brackets).
const LONGEST_EMAIL: usize = 254;

/// HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub listen: SocketAddr,
    /// Where the configuration names the address.
    pub place: Place,
    pub certificate: Certificate,
}

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    Files(Files),
    Acme(Acme),
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Certificate::Files(files) => write!(f, "{}", files.cert.display()),
            Certificate::Acme(acme) => f.write_str(&acme.directory),
        }
    }
}

impl Certificate {
    /// Whether both come from the same place, wherever the configuration says so.
    #[must_use]
    pub fn comes_from(&self, other: &Certificate) -> bool {
        match (self, other) {
            (Certificate::Files(own), Certificate::Files(other)) => (&own.cert, &own.key) == (&other.cert, &other.key),
            (own, other) => own == other,
        }
    }
}

/// Files that somebody else writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate with its chain, in PEM.
    pub cert: PathBuf,
    pub cert_place: Place,
    /// Its key, in PEM.
    pub key: PathBuf,
    pub key_place: Place,
}

/// An ACME server (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The address of its directory.
    pub directory: String,
    /// The names to certify, in small letters, as they are written.
    pub domains: Vec<String>,
    /// Where the server may write to.
    pub email: Option<String>,
    pub challenge: Challenge,
}

/// How the server is shown that the names lead here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By a certificate made for it, on port 443 (RFC 8737).
    TlsAlpn01,
    /// By a file, on port 80 (RFC 8555, section 8.3).
    Http01,
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Challenge::TlsAlpn01 => "tls-alpn-01",
            Challenge::Http01 => "http-01",
        })
    }
}

impl Tls {
    /// Reads the table; `plain` is where HTTP without TLS listens.
    pub(super) fn read(mut table: Table<'_>, plain: SocketAddr) -> Option<Tls> {
        let place = table.entry("listen").map_or_else(|| table.place(), |entry| entry.place());
        let listen = listen(&mut table, LISTEN).unwrap_or_else(|| LISTEN.parse().expect("the constant is an address"));
        if overlap(listen, plain) {
            let text = format!("{listen} and http.listen {plain} overlap; HTTP and HTTPS need a port each");
            if table.has("listen") { table.mistake("listen", text) } else { table.mistake("", text) }
        }
        let certificate = certificate(&mut table);
        table.finish();
        Some(Tls { listen, place, certificate: certificate? })
    }
}

fn certificate(table: &mut Table<'_>) -> Option<Certificate> {
    let files = table.has("cert") || table.has("key");
    if table.has("acme") {
        if files {
            let text = "excludes `cert` and `key`: a certificate is either ordered by ACME or read from files";
            table.mistake("acme", text);
            // Asked for, so that they are no unknown keys as well.
            drop((table.entry("cert"), table.entry("key")));
        }
        return table.table("acme").and_then(Acme::read).map(Certificate::Acme);
    }
    if !files {
        table.mistake("", "names no certificate; write `cert` and `key`, or a table [http.tls.acme] that orders one");
        return None;
    }
    let mut file = |key, hint| {
        let place = table.required(key, hint)?.place();
        table.line(key, "the path of a file", LONGEST_PATH).map(|path| (PathBuf::from(path), place))
    };
    let cert = file("cert", "name the file with the certificate and its chain, in PEM");
    let key = file("key", "name the file with the certificate's key, in PEM");
    let ((cert, cert_place), (key, key_place)) = (cert?, key?);
    Some(Certificate::Files(Files { cert, cert_place, key, key_place }))
}

/// Whether nobody could listen at both addresses.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

impl Acme {
    fn read(mut table: Table<'_>) -> Option<Acme> {
        let directory = match table.address("directory", LETS_ENCRYPT) {
            Some(address) if !address.starts_with("https://") => {
                table.mistake("directory", "must be an https address: ACME is spoken over nothing else");
                None
            }
            None if table.has("directory") => None,
            address => Some(address.unwrap_or_else(|| LETS_ENCRYPT.to_owned())),
        };
        let domains = domains(&mut table);
        let email = table.line("email", "an address such as \"admin@example.org\"", LONGEST_EMAIL);
        if let Some(email) = &email
            && (email.split('@').count() != 2 || email.starts_with('@') || email.ends_with('@') || email.contains(' '))
        {
            table.mistake("email", format!("{} is no address that mail goes to", quote(email)));
        }
        let challenges = [("tls-alpn-01", Challenge::TlsAlpn01), ("http-01", Challenge::Http01)];
        let challenge = table.choice("challenge", &challenges).unwrap_or(Challenge::TlsAlpn01);
        table.finish();
        Some(Acme { directory: directory?, domains, email, challenge })
    }
}

fn domains(table: &mut Table<'_>) -> Vec<String> {
    let hint = "name what the certificate is for, such as [\"chat.example.org\"]";
    let Some(entry) = table.required("domains", hint) else { return Vec::new() };
    let place_of_all = Entry::place(&entry);
    let entries = entry.one_or_many();
    if entries.is_empty() || entries.len() > MOST_DOMAINS {
        table.mistake("domains", format!("must hold 1 to {MOST_DOMAINS} names"));
    }
    let mut names = Vec::new();
    for entry in entries {
        let Some(text) = entry.text("a name such as \"chat.example.org\"") else { continue };
        let name = text.to_ascii_lowercase();
        if let Some(flaw) = flaw(&name) {
            entry.mistake(format!("{} {flaw}", quote(text)));
        } else if names.contains(&name) {
            entry.mistake(format!("{} is written twice in {}", quote(text), place_of_all.key));
        } else {
            names.push(name);
        }
    }
    names
}

/// Why no certificate can be ordered for `name`.
fn flaw(name: &str) -> Option<&'static str> {
    if name.starts_with("*.") {
        return Some("is a wildcard, which only a challenge by DNS can prove; write each name");
    }
    if !name.is_ascii() {
        return Some("has letters beyond ASCII; write it as DNS has it, with \"xn--\"");
    }
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    if address || DnsName::try_from(name).is_err() || name.ends_with('.') || name.contains('_') {
        return Some("is not a name such as \"chat.example.org\"");
    }
    None
}
