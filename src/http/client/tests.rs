use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

/// The network of the proxies that are trusted, and the one that all requests come by.
const PROXIES: [&str; 2] = ["10.0.0.0/8", "2001:db8:aaaa::/48"];
const PROXY: &str = "10.0.0.1";
/// Who is not named.
const NOBODY: &str = "0.0.0.0";

/// Who the client is to a request from `peer` with these header lines.
fn seen_from(peer: &str, lines: &[(&'static str, &str)]) -> String {
    let trusted = PROXIES.map(|network| Network::parse(network).expect("a network"));
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a header's value"));
    }
    let peer: IpAddr = peer.parse().expect("an address");
    if trusts(&trusted, peer) { client(peer, &headers, &trusted).to_string() } else { peer.to_string() }
}

fn seen(lines: &[(&'static str, &str)]) -> String {
    seen_from(PROXY, lines)
}

#[test]
fn nobody_but_a_trusted_proxy_is_believed() {
    let forged = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")];
    for peer in ["203.0.113.9", "192.168.1.1", "127.0.0.1", "2001:db8::1"] {
        assert_eq!(seen_from(peer, &forged), peer);
    }
    assert_eq!(seen_from(PROXY, &forged), "198.51.100.1");
    assert_eq!(seen_from("2001:db8:aaaa::1", &forged), "198.51.100.1");
}

#[test]
fn the_nearest_address_that_is_no_proxy_is_the_client() {
    for (value, client) in [
        ("198.51.100.1", "198.51.100.1"),
        // What the client sent stands to the left of what the proxy saw.
        ("1.1.1.1, 198.51.100.1", "198.51.100.1"),
        ("1.1.1.1,198.51.100.1,10.0.0.7", "198.51.100.1"),
        ("10.0.0.7, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.7, 10.0.0.8", "10.0.0.7"),
        (" \t198.51.100.1\t ", "198.51.100.1"),
        ("198.51.100.1:4711", "198.51.100.1"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.7, ::ffff:198.51.100.1, ::ffff:10.0.0.8", "198.51.100.1"),
    ] {
        assert_eq!(seen(&[("x-forwarded-for", value)]), client, "{value}");
    }
}

#[test]
fn what_cannot_be_read_ends_the_way_back() {
    for value in
        ["", ",", "unknown", "_hidden", "198.51.100.1.2", "198.51.100.1:99999", "fe80::1%eth0", "\"1.1.1.1\"", "0x7f.1"]
    {
        assert_eq!(seen(&[("x-forwarded-for", value)]), NOBODY, "{value}");
        assert_eq!(seen(&[("x-forwarded-for", &format!("198.51.100.1, {value}, 10.0.0.9"))]), NOBODY, "{value}");
    }
    assert_eq!(seen(&[("x-forwarded-for", "\u{e9}, 10.0.0.9")]), NOBODY);
}

#[test]
fn several_lines_are_one_list() {
    let lines = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "198.51.100.1, 10.0.0.3"),
        ("x-forwarded-for", "10.0.0.2"),
    ];
    assert_eq!(seen(&lines), "198.51.100.1");
    let lines =
        [("forwarded", "for=1.1.1.1"), ("forwarded", "for=198.51.100.1, for=10.0.0.3"), ("forwarded", "for=10.0.0.2")];
    assert_eq!(seen(&lines), "198.51.100.1");
}

#[test]
fn the_standard_field_is_read_as_it_is_written() {
    for (value, client) in [
        ("for=198.51.100.1", "198.51.100.1"),
        ("For=\"198.51.100.1:4711\"", "198.51.100.1"),
        ("for=\"[2001:db8::7]\"", "2001:db8::7"),
        ("for=\"[2001:db8::7]:4711\";by=10.0.0.1; proto=https ;host=\"a,b;c\"", "2001:db8::7"),
        ("for=1.1.1.1, proto=http;FOR=\"198\\.51.100.1\"", "198.51.100.1"),
        (" , for=198.51.100.1 , ", "198.51.100.1"),
        // Obfuscated (RFC 7239, section 6.3).
        ("for=198.51.100.1, for=_hidden, for=10.0.0.5", NOBODY),
        ("for=198.51.100.1, for=unknown", NOBODY),
        ("for=198.51.100.1, by=10.0.0.5", NOBODY),
        ("for=198.51.100.1, for=\"_port:_x\"", NOBODY),
        ("", NOBODY),
    ] {
        assert_eq!(seen(&[("forwarded", value)]), client, "{value}");
    }
}

#[test]
fn a_client_that_writes_nonsense_is_one_of_those_who_are_unknown_and_nobody_else() {
    for forged in [
        "for=\"1.1.1.1",
        "for=1.1.1.1;x=\"",
        "for=1.1.1.1;for=2.2.2.2",
        "for=2001:db8::1",
        "=",
        "for",
        "for =1.1.1.1",
        "for= 1.1.1.1",
        "for=\"1.1.1.1\"x",
        "for=1.1.1.1 by=2",
        "\u{e9}",
        "for=\"\\",
    ] {
        let value = format!("{forged}, for=198.51.100.1");
        assert_eq!(seen(&[("forwarded", &value)]), NOBODY, "{forged}");
        let value = format!("{forged}, for=\"[2001:db8::9]:80\"");
        assert_eq!(seen(&[("forwarded", &value)]), NOBODY, "{forged}");
    }
}

#[test]
fn where_the_two_fields_disagree_neither_is_believed() {
    let agree = [("x-forwarded-for", "1.1.1.1, 198.51.100.1"), ("forwarded", "for=198.51.100.1")];
    assert_eq!(seen(&agree), "198.51.100.1");
    let forged = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=1.1.1.1")];
    assert_eq!(seen(&forged), NOBODY);
    assert_eq!(seen(&[("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=\"")]), NOBODY);
    assert_eq!(seen(&[]), PROXY);
}

#[test]
fn a_trusted_proxy_says_whether_its_client_came_encrypted() {
    let http = Http {
        trusted_proxies: PROXIES.iter().filter_map(|network| Network::parse(network)).collect(),
        ..crate::config::Config::load(b"[http]").expect("a configuration").http.expect("an [http] table")
    };
    let encrypted = |peer: &str, name: &'static str, value: &'static str| {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().expect("a value"))]);
        let peer = SocketAddr::new(peer.parse().expect("an address"), 4711);
        Client::of(Arrival { peer, encrypted: false }, &headers, Some(&http)).encrypted
    };
    assert!(encrypted(PROXY, "x-forwarded-proto", "https"));
    assert!(encrypted(PROXY, "x-forwarded-proto", "HTTPS, http"));
    assert!(encrypted(PROXY, "forwarded", "for=198.51.100.1;proto=https, for=10.0.0.7;proto=http"));
    assert!(!encrypted(PROXY, "x-forwarded-proto", "http"));
    assert!(!encrypted(PROXY, "forwarded", "proto=http"));
    assert!(!encrypted("203.0.113.9", "x-forwarded-proto", "https"));
    assert!(!encrypted("203.0.113.9", "forwarded", "proto=https"));
}

proptest! {
    /// Whatever a client sends, the address that a trusted proxy adds to it is taken.
    #[test]
    fn no_client_can_write_itself_another_address(forged in "[ -~]{0,60}", more in "[ -~]{0,60}") {
        let value = format!("{forged}, 198.51.100.1");
        prop_assert_eq!(seen(&[("x-forwarded-for", &value)]), "198.51.100.1");
        let lines = [("x-forwarded-for", forged.as_str()), ("x-forwarded-for", &more), ("x-forwarded-for", "198.51.100.1")];
        prop_assert_eq!(seen(&lines), "198.51.100.1");
        // Or none: what is no list can hide what comes after it.
        let value = format!("{forged}, for=198.51.100.1");
        let client = seen(&[("forwarded", &value)]);
        prop_assert!(client == "198.51.100.1" || client == NOBODY, "{}", client);
        let client = seen(&[("forwarded", &format!("{forged}, for=\"[2001:db8::9]:80\";proto=https"))]);
        prop_assert!(client == "2001:db8::9" || client == NOBODY, "{}", client);
    }

    /// Every address is read back, however it is written.
    #[test]
    fn every_address_is_read(bits in any::<u128>(), port in any::<u16>()) {
        let address = Ipv6Addr::from_bits(bits);
        let known = IpAddr::V6(address).to_canonical();
        prop_assert_eq!(node(&address.to_string()), Some(known));
        prop_assert_eq!(node(&format!("[{address}]")), Some(known));
        prop_assert_eq!(node(&format!("[{address}]:{port}")), Some(known));
        let address = Ipv4Addr::from_bits(u32::try_from(bits >> 96).expect("32 bits"));
        prop_assert_eq!(node(&address.to_string()), Some(address.into()));
        prop_assert_eq!(node(&format!("{address}:{port}")), Some(address.into()));
    }
}
