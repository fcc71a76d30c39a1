//! `[http]`: the chat endpoint and its page.

use std::net::SocketAddr;

use toml::de::DeValue;

use super::document::{Entry, Place, Table, quote};
use super::http_tls::Tls;
use super::network::Network;

/// Where it listens unless the configuration says otherwise.
const LISTEN: &str = "0.0.0.0:8080";
/// The body limit unless the configuration says otherwise, and its bounds, in bytes.
const MAX_BODY: u64 = 64 << 10;
const MAX_BODY_BOUNDS: std::ops::RangeInclusive<u64> = 1 << 10..=16 << 20;
/// A list longer than this is a mistake: it is searched for every request of a browser.
const MOST_ORIGINS: usize = 256;

/// The HTTP side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    pub listen: SocketAddr,
    /// Where the configuration names the address.
    pub place: Place,
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// The sites whose scripts may use perch beside its own page, each as browsers write it.
    pub origins: Vec<String>,
    /// Whose word on where a request comes from is taken.
    pub trusted_proxies: Vec<Network>,
    /// HTTPS; then what comes without it is sent there.
    pub tls: Option<Tls>,
}

impl Http {
    pub(super) fn read(mut table: Table<'_>) -> Http {
        let place = table.entry("listen").map_or_else(|| table.place(), |entry| entry.place());
        let listen = listen(&mut table, LISTEN).unwrap_or_else(|| LISTEN.parse().expect("the constant is an address"));
        let max_body = table.size("max_body", MAX_BODY_BOUNDS).unwrap_or(MAX_BODY);
        let origins = origins(&mut table);
        let trusted_proxies = table.networks("trusted_proxies").unwrap_or_default();
        let tls = table.table("tls").and_then(|table| Tls::read(table, listen));
        table.finish();
        Http { listen, place, max_body, origins, trusted_proxies, tls }
    }
}

fn origins(table: &mut Table<'_>) -> Vec<String> {
    const WANTED: &str = "a list of origins such as [\"https://www.example.com\"]";
    let Some(entry) = table.entry("origins") else { return Vec::new() };
    if !matches!(entry.value, DeValue::Array(_)) {
        entry.wrong_type(WANTED);
        return Vec::new();
    }
    let entries = entry.one_or_many();
    if entries.len() > MOST_ORIGINS {
        table.mistake("origins", format!("has more than {MOST_ORIGINS} entries"));
        return Vec::new();
    }
    entries.iter().filter_map(|entry| origin(entry, entry.text(WANTED)?)).collect()
}

/// An origin in the one way in which browsers write it (RFC 6454, section 6.2): it is compared as it is.
fn origin(entry: &Entry<'_>, text: &str) -> Option<String> {
    if text == "*" {
        entry.mistake("`*` would let every site use perch as whoever visits it; name the sites");
        return None;
    }
    let written = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    match written.map(|url| url.origin().ascii_serialization()) {
        Some(origin) if origin == text => Some(origin),
        Some(origin) => {
            entry.mistake(format!("{} is not how browsers write it; write \"{origin}\"", quote(text)));
            None
        }
        None => {
            entry.mistake(format!("{} is no origin such as \"https://www.example.com\"", quote(text)));
            None
        }
    }
}

/// An address to listen at, such as `example`.
pub(super) fn listen(table: &mut Table<'_>, example: &str) -> Option<SocketAddr> {
    let entry = table.entry("listen")?;
    let text = entry.text(&format!("an address such as \"{example}\""))?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            entry.mistake(format!("{} has port 0; name the port to listen on", quote(text)));
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            let other = example.replace("0.0.0.0", "[::]");
            entry.mistake(format!("{} is not an address; write \"{example}\" or \"{other}\"", quote(text)));
            None
        }
    }
}
