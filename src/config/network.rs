//! Ranges of addresses, as `trusted_proxies` and `exempt` list them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use toml::de::DeValue;

use super::document::{Table, quote};

/// A list longer than this is a mistake: it is searched for every request.
const MOST_NETWORKS: usize = 256;

/// All addresses that begin with the same bits (CIDR, RFC 4632 and RFC 4291 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The bits after the prefix are zero.
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// `10.0.0.0/8`, `2001:db8::/32`, or a single address. `None` for what is no range, or names one of its addresses
    /// in place of its first.
    #[must_use]
    pub fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().ok()?;
        let longest = if first.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= longest)?
            }
            Some(_) => return None,
        };
        (masked(first, prefix) == first).then_some(Network { first, prefix })
    }

    /// Whether `address` is in it. An IPv4 address that came over an IPv6 socket is taken for what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.prefix) == self.first
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// The first address of the range of this `prefix` that `address` is in.
#[must_use]
pub fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// A list of ranges as a step of a plan shows it.
pub(super) fn show(networks: &[Network]) -> String {
    if networks.is_empty() {
        return "none".to_owned();
    }
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Table<'_> {
    /// A list of ranges of addresses.
    pub(super) fn networks(&mut self, key: &'static str) -> Option<Vec<Network>> {
        const WANTED: &str = "a list of addresses and ranges such as [\"10.0.0.0/8\", \"2001:db8::1\"]";
        let entry = self.entry(key)?;
        if !matches!(entry.value, DeValue::Array(_)) {
            entry.wrong_type(WANTED);
            return None;
        }
        let entries = entry.one_or_many();
        if entries.len() > MOST_NETWORKS {
            self.mistake(key, format!("has more than {MOST_NETWORKS} entries; name larger ranges"));
            return None;
        }
        let mut networks = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(text) = entry.text(WANTED) else { continue };
            match Network::parse(text) {
                Some(network) => networks.push(network),
                None => entry.mistake(wrong(text)),
            }
        }
        Some(networks)
    }
}

/// What is wrong with `text`, which is no range.
fn wrong(text: &str) -> String {
    let first = text.split_once('/').and_then(|(address, prefix)| {
        let (address, prefix) = (address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
        Network::parse(&format!("{}/{prefix}", masked(address, prefix)))
    });
    match first {
        Some(network) => format!("{} has bits set after its prefix; write \"{network}\"", quote(text)),
        None => format!("{} is no address and no range such as \"10.0.0.0/8\"", quote(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_addresses_that_begin_like_it() {
        let within = |network: &str, address: &str| {
            Network::parse(network).expect("a range").contains(address.parse().expect("an address"))
        };
        assert!(within("10.0.0.0/8", "10.255.0.1"));
        assert!(!within("10.0.0.0/8", "11.0.0.0"));
        assert!(within("10.1.2.3", "10.1.2.3"));
        assert!(!within("10.1.2.3", "10.1.2.4"));
        assert!(within("0.0.0.0/0", "203.0.113.9"));
        assert!(!within("0.0.0.0/0", "::1"));
        assert!(within("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(within("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!within("2001:db8::/33", "2001:db8:8000::1"));
        assert!(within("::/0", "2001:db8::1"));
    }

    #[test]
    fn what_is_no_range_is_none() {
        for text in ["", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/8 ", "::/129"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
        for text in ["10.0.0.1/8", "2001:db8::1/64", "10.0.0", "localhost", "*", "010.0.0.1", "10.0.0.0/8/8"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
