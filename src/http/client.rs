//! Who the client is: the other end of the connection, or whom the proxies in between name.
//!
//! Anybody can send `X-Forwarded-For` and `Forwarded` (RFC 7239), so they are read only where the connection comes from
//! a proxy that `http.trusted_proxies` names, and only as far as such proxies wrote them: from the right, up to the
//! first address that is no such proxy's. What is left of it is the client's own word, and is not read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::arrival::Arrival;
use crate::config::http::Http;
use crate::config::network::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whoever came by a trusted proxy that does not say who they are: all of them are one client. Not the proxy itself, as that
/// may be exempt from limits.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: IpAddr,
    /// Their own connection is encrypted: TLS ends in perch, or in a trusted proxy that says so. Then cookies are `Secure`.
    pub encrypted: bool,
}

impl Client {
    /// The one behind the connection that a request came over.
    pub fn of(arrival: Arrival, headers: &HeaderMap, http: Option<&Http>) -> Client {
        let peer = arrival.peer.ip().to_canonical();
        let trusted = http.map_or(&[][..], |http| &http.trusted_proxies);
        if trusts(trusted, peer) {
            let encrypted = arrival.encrypted || came_encrypted(headers);
            return Client { address: client(peer, headers, trusted), encrypted };
        }
        if !is_global(peer) {
            suspect(peer, headers);
        }
        Client { address: peer, encrypted: arrival.encrypted }
    }
}

/// Whether the configuration says that this is a proxy which is believed.
pub fn trusts(trusted: &[Network], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// The client that the trusted proxy `peer` names; it is `peer` where that forwards nothing.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let plain = headers.contains_key(&FORWARDED_FOR).then(|| plain(headers, trusted));
    let standard = headers.contains_key(header::FORWARDED).then(|| standard(headers, trusted));
    let named = match (plain, standard) {
        (None, None) => Some(peer),
        (Some(named), None) | (None, Some(named)) => named,
        // Where two disagree, neither: few proxies write both, and one that writes one hands on what the client wrote into
        // the other.
        (Some(plain), Some(standard)) => plain.filter(|_| plain == standard),
    };
    named.unwrap_or(UNKNOWN)
}

/// As `X-Forwarded-For` has it, where that can be read.
fn plain(headers: &HeaderMap, trusted: &[Network]) -> Option<IpAddr> {
    let lines: Vec<&HeaderValue> = headers.get_all(&FORWARDED_FOR).iter().collect();
    let hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    walk(hops.map(|hop| node(str::from_utf8(hop).ok()?.trim_matches([' ', '\t']))), trusted)
}

/// As `Forwarded` has it, where that can be read.
fn standard(headers: &HeaderMap, trusted: &[Network]) -> Option<IpAddr> {
    let mut hops = Vec::new();
    for line in headers.get_all(header::FORWARDED) {
        // A client can open a quote that swallows what the proxy adds; then nothing in there can be told apart.
        hops.extend(elements(line.to_str().ok()?)?.into_iter().map(|element| node(&element.for_?)));
    }
    walk(hops.into_iter().rev(), trusted)
}

/// Goes from the nearest hop to the first one that is no trusted proxy. Behind a hop that hides (RFC 7239, section 6.3), or
/// can't be read, there may be anybody.
fn walk(hops: impl Iterator<Item = Option<IpAddr>>, trusted: &[Network]) -> Option<IpAddr> {
    let mut nearest = None;
    for hop in hops {
        nearest = Some(hop?);
        if !nearest.is_some_and(|address| trusts(trusted, address)) {
            break;
        }
    }
    nearest
}

/// An address, in whatever way proxies write one: with a port or without, IPv6 in brackets or not.
fn node(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let address: Option<IpAddr> = text.parse().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.or_else(bracketed).map(|address| address.to_canonical())
}

/// One hop of a `Forwarded` field.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    for_: Option<String>,
    proto: Option<String>,
}

/// The hops of one `Forwarded` line (RFC 7239, section 4), or `None` where it is not written as that says.
fn elements(line: &str) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    let mut rest = line;
    loop {
        let mut element = Element::default();
        rest = rest.trim_start_matches([' ', '\t']);
        // A list may have empty elements (RFC 9110, section 5.6.1.2).
        if !rest.is_empty() && !rest.starts_with(',') {
            rest = pairs(rest, &mut element)?;
            elements.push(element);
        }
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None if rest.is_empty() => return Some(elements),
            None => return None,
        }
    }
}

/// Reads the pairs of one hop, and returns what follows.
fn pairs<'a>(mut rest: &'a str, element: &mut Element) -> Option<&'a str> {
    loop {
        let (name, value, next) = pair(rest)?;
        let slot = match name.to_ascii_lowercase().as_str() {
            "for" => Some(&mut element.for_),
            "proto" => Some(&mut element.proto),
            _ => None,
        };
        if let Some(slot) = slot {
            if slot.is_some() {
                return None;
            }
            *slot = Some(value);
        }
        rest = next.trim_start_matches([' ', '\t']);
        match rest.strip_prefix(';') {
            Some(next) => rest = next.trim_start_matches([' ', '\t']),
            None => return Some(rest),
        }
    }
}

/// Reads `name=value`, where the value is a token or a quoted string.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = token(text)?;
    let rest = rest.strip_prefix('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, rest) = token(rest)?;
        return Some((name, value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// Reads a token (RFC 9110, section 5.6.2).
fn token(text: &str) -> Option<(&str, &str)> {
    let ends = |character: char| !character.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(character);
    let (token, rest) = text.split_at(text.find(ends).unwrap_or(text.len()));
    (!token.is_empty()).then_some((token, rest))
}

/// Whether the client came to the first proxy over TLS. Who lies about that gets a cookie that their own browser does
/// not send back.
fn came_encrypted(headers: &HeaderMap) -> bool {
    let https = |scheme: &str| scheme.trim().eq_ignore_ascii_case("https");
    let plain = headers.get(&FORWARDED_PROTO).and_then(|value| value.to_str().ok()?.split(',').next());
    let standard = || {
        let first = elements(headers.get(header::FORWARDED)?.to_str().ok()?)?.into_iter().next()?;
        first.proto
    };
    plain.is_some_and(https) || standard().is_some_and(|scheme| https(&scheme))
}

/// Whether an address may be anybody's on the internet: those of private networks, where proxies live, are not.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !(address.is_private() || address.is_loopback() || address.is_link_local()),
        IpAddr::V6(address) => !(address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()),
    }
}

/// Says once that this looks like a proxy that the configuration does not name.
fn suspect(peer: IpAddr, headers: &HeaderMap) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !(headers.contains_key(&FORWARDED_FOR) || headers.contains_key(header::FORWARDED)) {
        return;
    }
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            service = super::NAME,
            "{peer} forwards requests of others, and http.trusted_proxies does not name it: all who come by way of it \
             are one client to the limits, and where limits.exempt names it, as it does this machine by default, there are \
             none for them; if it is a proxy of yours, write trusted_proxies = [\"{peer}\"]"
        );
    }
}

#[cfg(test)]
mod tests;
