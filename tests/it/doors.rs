//! perch on the open internet: what browsers are told, and what other sites may do.

use std::io::{Read, Write};

use super::support::exchange::{Response, exchange, parse_all};
use super::support::perch::{Perch, Start, free_port};
use super::support::raw;
use super::support::socket::Person;

use serde_json::json;

mod floods;
mod requests;

fn perch_with(http: &str) -> (Perch, u16) {
    let port = free_port();
    (Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n{http}\n")).ready(), port)
}

#[track_caller]
fn request(port: u16, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    exchange(method, &format!("http://127.0.0.1:{port}{path}"), headers, b"")
}

/// What every answer tells a browser.
#[track_caller]
fn assert_hardened(answer: &Response, what: &str) {
    assert_hardened_anywhere(answer, what);
    // To say so without TLS means nothing (RFC 6797, section 7.2).
    assert_eq!(answer.header("Strict-Transport-Security"), None, "{what}");
}

/// What it tells one whatever it came over.
#[track_caller]
pub fn assert_hardened_anywhere(answer: &Response, what: &str) {
    let policy = answer.header("Content-Security-Policy").unwrap_or_else(|| panic!("no policy on {what}"));
    assert!(policy.contains("default-src 'none'"), "{what}: {policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{what}: {policy}");
    assert!(!policy.contains("unsafe"), "{what}: {policy}");
    for (name, value) in [
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{what}");
    }
    assert!(answer.header("Permissions-Policy").is_some_and(|value| value.contains("camera=()")), "{what}");
}

/// The answer that is all of `answers`.
#[track_caller]
fn only(answers: &str) -> Response {
    let mut answers = parse_all(answers.as_bytes());
    let answer = answers.pop().expect("an answer");
    assert!(answers.is_empty(), "{answers:?}");
    answer
}

#[test]
fn every_answer_is_hardened_errors_too() {
    let (_perch, port) = perch_with("max_body = \"1KiB\"");
    let json = ("Content-Type", "application/json");
    let long = "x".repeat(9 << 10);
    for (method, path, headers, status) in [
        ("GET", "/", &[][..], 200),
        ("GET", "/health", &[], 200),
        ("GET", "/nothing", &[], 404),
        ("GET", "/assets/0/nothing", &[], 404),
        ("PUT", "/health", &[], 405),
        ("POST", "/api/chat", &[], 415),
        ("POST", "/api/chat", &[json], 400),
        ("POST", "/api/chat", &[json, ("Origin", "https://elsewhere.example")], 403),
        ("GET", &format!("/{long}"), &[], 414),
        ("GET", "/api/conversations", &[], 200),
        ("GET", "/api/conversations/nobodys", &[], 404),
    ] {
        let answer = request(port, method, path, headers);
        let what = format!("{method} {path:.40}");
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_hardened(&answer, &what);
        if path.starts_with("/api/") {
            assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{what}");
        }
    }
    let large = exchange("POST", &format!("http://127.0.0.1:{port}/api/chat"), &[json], &vec![b' '; 2_048]);
    assert_eq!(large.status, 413);
    assert_hardened(&large, "a body that is too large");
}

#[test]
fn what_answers_in_place_of_a_configuration_is_hardened() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let other = free_port();
    let text = format!("[http]\nlisten = \"127.0.0.1:{other}\"\n");
    let _perch = Start::with_text(&text).socket(&socket).ready();
    let answer = request(port, "GET", "/", &[]);
    assert_eq!(answer.status, 503);
    assert_hardened(&answer, "the answer on a socket that nobody asked for");
    assert_hardened(&only(&raw::send(port, b"nonsense\r\n\r\n")), "what is said there of what is no request");
}

#[test]
fn other_sites_write_nothing() {
    let (perch, port) = perch_with("");
    let url = format!("http://127.0.0.1:{port}/api/chat");
    let own = format!("http://127.0.0.1:{port}");
    let write = |headers: &[(&str, &str)]| {
        let mut sent = vec![("Content-Type", "application/json")];
        sent.extend_from_slice(headers);
        exchange("POST", &url, &sent, br#"{"message": "hello"}"#)
    };
    assert_eq!(write(&[]).status, 200, "a program, not a browser");
    assert_eq!(write(&[("Sec-Fetch-Site", "same-origin"), ("Origin", &own)]).status, 200);
    assert_eq!(write(&[("Sec-Fetch-Site", "none")]).status, 200);
    assert_eq!(write(&[("Origin", &own)]).status, 200, "an old browser");
    for headers in [
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "https://elsewhere.example")][..],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", "https://sub.example")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "anything")],
        &[("Origin", "https://elsewhere.example")],
        &[("Origin", "null")],
        &[("Origin", "")],
        &[("Origin", "http://127.0.0.1")],
    ] {
        let answer = write(headers);
        if headers == [("Origin", "")] {
            assert_eq!(answer.status, 200, "no browser sends an empty one, and it says nothing");
            continue;
        }
        assert_eq!(answer.status, 403, "{headers:?}");
        assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
        assert!(answer.text().contains("this came from another site"), "{}", answer.text());
        assert_eq!(answer.header("Access-Control-Allow-Origin"), None);
    }
    assert_eq!(request(port, "DELETE", "/api/conversations", &[("Origin", "https://elsewhere.example")]).status, 403);
    // Listed, from one moment to the next; and not listed any more.
    let text = std::fs::read_to_string(perch.config_path()).unwrap();
    std::fs::write(perch.config_path(), format!("{text}origins = [\"https://www.example.com\"]\n")).unwrap();
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0), "{}", perch.log_text());
    let listed = ("Origin", "https://www.example.com");
    let answer = write(&[listed, ("Sec-Fetch-Site", "cross-site")]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("https://www.example.com"));
    assert_eq!(answer.header("Access-Control-Allow-Credentials"), Some("true"));
    assert!(answer.header("Vary").unwrap().contains("origin"), "{:?}", answer.header("Vary"));
    let asked =
        [listed, ("Access-Control-Request-Method", "DELETE"), ("Access-Control-Request-Headers", "content-type")];
    let preflight = request(port, "OPTIONS", "/api/conversations", &asked);
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("Access-Control-Allow-Origin"), Some("https://www.example.com"));
    assert_eq!(preflight.header("Access-Control-Allow-Methods"), Some("GET,POST,DELETE"));
    let allowed = preflight.header("Access-Control-Allow-Headers").unwrap();
    // What else there is comes from OpenAI's client.
    let own = allowed.split(',').filter(|name| !name.starts_with("x-stainless-"));
    assert_eq!(own.collect::<Vec<_>>(), ["content-type", "authorization", "idempotency-key"]);
    assert_hardened(&preflight, "a preflight");
    for origin in ["https://www.example.com.elsewhere.example", "http://www.example.com", "https://example.com", "null"]
    {
        assert_eq!(write(&[("Origin", origin)]).status, 403, "{origin}");
        let preflight =
            request(port, "OPTIONS", "/api/chat", &[("Origin", origin), ("Access-Control-Request-Method", "POST")]);
        assert_eq!(preflight.header("Access-Control-Allow-Origin"), None, "{origin}");
    }
    std::fs::write(perch.config_path(), text).unwrap();
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0), "{}", perch.log_text());
    assert_eq!(write(&[listed]).status, 403);
}

#[test]
fn other_sites_open_no_socket() {
    let (_perch, port) = perch_with("origins = [\"https://www.example.com\"]");
    let own = format!("http://127.0.0.1:{port}");
    let handshake = |origin: &str| {
        let key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        let mut stream = raw::connect(port);
        write!(stream, "GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{key}\r\n{origin}\r\n").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        String::from_utf8_lossy(&head[9..]).into_owned()
    };
    for origin in ["https://elsewhere.example", "null", "http://127.0.0.1", "https://www.example.com:444"] {
        assert_eq!(handshake(&format!("Origin: {origin}\r\n")), "403", "{origin}");
    }
    assert_eq!(handshake(&format!("Origin: {own}\r\nOrigin: https://elsewhere.example\r\n")), "403");
    assert_eq!(handshake("Sec-Fetch-Site: cross-site\r\n"), "403");
    for allowed in [String::new(), format!("Origin: {own}\r\n"), "Origin: https://www.example.com\r\n".to_owned()] {
        assert_ne!(handshake(&allowed), "403", "{allowed}");
    }
}

#[test]
fn a_page_that_came_without_tls_is_another_site_to_who_came_with_it() {
    let (perch, port) = perch_with("trusted_proxies = [\"127.0.0.1\"]");
    let url = format!("http://127.0.0.1:{port}/api/chat");
    let (plain, secure) = (format!("http://127.0.0.1:{port}"), format!("https://127.0.0.1:{port}"));
    // How the proxy says that it took TLS off.
    let encrypted = ("X-Forwarded-Proto", "https");
    let write = |headers: &[(&str, &str)]| {
        let sent = [&[("Content-Type", "application/json")], headers].concat();
        exchange("POST", &url, &sent, br#"{"message": "hello"}"#).status
    };
    let open = |origin: &str| {
        let person = Person::try_connect(port, &["X-Forwarded-Proto: https", &format!("Origin: {origin}")]);
        (person.next(), person)
    };
    for site in [&[][..], &[("Sec-Fetch-Site", "same-site")], &[("Sec-Fetch-Site", "same-origin")]] {
        assert_eq!(write(&[&[encrypted, ("Origin", &plain)], site].concat()), 403, "{site:?}");
    }
    assert_eq!(write(&[encrypted, ("Origin", &secure)]), 200);
    assert_eq!(write(&[("Origin", &plain)]), 200, "a proxy that says nothing of TLS, or none at all");
    assert_eq!(write(&[("Origin", &secure)]), 200, "the same");
    assert_eq!(
        request(port, "GET", "/api/conversations", &[encrypted, ("Origin", &plain)]).status,
        200,
        "it only reads"
    );
    assert_eq!(open(&plain).0, json!(["refused", 403]));
    assert_eq!(open(&secure).0, json!(["open"]));
    // It may be listed as any other is, and be taken off the list.
    let text = std::fs::read_to_string(perch.config_path()).unwrap();
    std::fs::write(perch.config_path(), format!("{text}origins = [\"{plain}\"]\n")).unwrap();
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0), "{}", perch.log_text());
    assert_eq!(write(&[encrypted, ("Origin", &plain)]), 200);
    let (answer, listed) = open(&plain);
    assert_eq!(answer, json!(["open"]));
    std::fs::write(perch.config_path(), text).unwrap();
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0), "{}", perch.log_text());
    assert_eq!(listed.closed(), 1008);
    assert_eq!(write(&[encrypted, ("Origin", &plain)]), 403);
}
