//! perch on the open internet: what browsers are told, what other sites may do, and what comes of requests that no client
//! would send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::exchange::{Response, exchange, parse_all};
use super::support::perch::{PATIENCE, Perch, Start, free_port, wait};
use super::support::socket::Person;
use super::support::{chat, raw};

use serde_json::json;

/// A client that waits for longer than this takes the service for broken.
const SLOWEST: Duration = Duration::from_secs(1);
/// Between two bytes of a client that dawdles.
const TRICKLE: Duration = Duration::from_millis(200);

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
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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

/// A second request that must not be answered.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: perch\r\n\r\n";

#[test]
fn a_request_that_two_servers_may_read_differently_is_refused_or_the_last_one() {
    let (_perch, port) = perch_with("");
    let head = "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let question = r#"{"message": "hi"}"#;
    let whole = format!("{:x}\r\n{question}\r\n0\r\n\r\n", question.len());
    let length = question.len();
    // What is sent, and what all of it is answered with.
    let shapes: &[(&str, String, &[u16])] = &[
        ("both lengths", format!("{head}Content-Length: 4\r\n{chunked}\r\n{whole}{SMUGGLED}"), &[200]),
        ("both, the other way round", format!("{head}{chunked}Content-Length: 4\r\n\r\n{whole}{SMUGGLED}"), &[200]),
        (
            "two lengths",
            format!("{head}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{question}{SMUGGLED}"),
            &[400],
        ),
        ("a list of lengths", format!("{head}Content-Length: {length}, 0\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("a signed length", format!("{head}Content-Length: +{length}\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("a negative length", format!("{head}Content-Length: -1\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("a length with a space in it", format!("{head}Content-Length: 1 7\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("a hexadecimal length", format!("{head}Content-Length: 0x11\r\n\r\n{question}{SMUGGLED}"), &[400]),
        (
            "a length beyond 64 bits",
            format!("{head}Content-Length: 18446744073709551633\r\n\r\n{question}{SMUGGLED}"),
            &[400],
        ),
        ("no length", format!("{head}Content-Length:\r\n\r\n{question}{SMUGGLED}"), &[400]),
        ("an unknown coding", format!("{head}Transfer-Encoding: xchunked\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("a coding that hides", format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("two codings in one line", format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n{whole}{SMUGGLED}"), &[501]),
        (
            "two codings in two lines",
            format!("{head}Transfer-Encoding: identity\r\n{chunked}\r\n{whole}{SMUGGLED}"),
            &[501],
        ),
        ("the coding twice", format!("{head}{chunked}{chunked}\r\n{whole}{SMUGGLED}"), &[501]),
        ("an empty coding", format!("{head}Transfer-Encoding:\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        (
            "a vertical tab before the coding",
            format!("{head}Transfer-Encoding: \u{b}chunked\r\n\r\n{whole}{SMUGGLED}"),
            &[400],
        ),
        ("a space before the colon", format!("{head}Transfer-Encoding : chunked\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("a line that goes on", format!("{head}X: y\r\n Transfer-Encoding: chunked\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("a carriage return alone", format!("{head}X: y\rTransfer-Encoding: chunked\r\n\r\n{whole}{SMUGGLED}"), &[400]),
        ("a null in a value", format!("{head}X: y\0z\r\n\r\n{SMUGGLED}"), &[400]),
        (
            "HTTP/1.0 with a coding",
            format!("POST /api/chat HTTP/1.0\r\nHost: perch\r\n{chunked}\r\n{whole}{SMUGGLED}"),
            &[400],
        ),
        ("no host", format!("GET /health HTTP/1.1\r\n\r\n{SMUGGLED}"), &[400]),
        ("two hosts", format!("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{SMUGGLED}"), &[400]),
        (
            "a chunk beyond 64 bits",
            format!("{head}{chunked}\r\n10000000000000011\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        ("a chunk of a negative size", format!("{head}{chunked}\r\n-1\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"), &[400]),
        (
            "a chunk of no hexadecimal size",
            format!("{head}{chunked}\r\n0x11\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        (
            "a chunk that is longer than it says",
            format!("{head}{chunked}\r\n4\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        (
            "a line feed that ends a chunk's size",
            format!("{head}{chunked}\r\n11\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        (
            "a line feed in an extension",
            format!("{head}{chunked}\r\n11;a\nb\r\n{question}\r\n0\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        ("an extension without end", format!("{head}{chunked}\r\n11;{}\r\n", "a".repeat(20_000)), &[400]),
        ("trailers without end", format!("{head}{chunked}\r\n0\r\n{}", "a: b\r\n".repeat(20_000)), &[400]),
        ("HTTP/0.9", "GET /health\r\n".to_owned(), &[400]),
        ("the beginning of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[]),
    ];
    for (name, bytes, expected) in shapes {
        let answers = raw::send(port, bytes.as_bytes());
        assert_eq!(raw::statuses(&answers), *expected, "{name}: {answers}");
        assert_all_hardened(&answers, name);
    }
    // What is whole and plain goes on, and what is in a body is no request.
    let body = format!(
        "GET /api/conversations HTTP/1.1\r\nHost: perch\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
        SMUGGLED.len()
    );
    let last = "GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n";
    let answers = raw::send(port, format!("{body}{last}").as_bytes());
    assert_eq!(raw::statuses(&answers), [200, 200], "{answers}");
    let extended = format!("{head}{chunked}\r\n11;name=\"value\"\r\n{question}\r\n0\r\nTrailer: yes\r\n\r\n{last}");
    assert_eq!(raw::statuses(&raw::send(port, extended.as_bytes())), [200, 200]);
    // A line feed ends a line as well (RFC 9112, section 2.2), and it ends nothing else.
    let bare = format!("GET /health HTTP/1.1\nHost: perch\nContent-Length: {}\n\n{SMUGGLED}{last}", SMUGGLED.len());
    assert_eq!(raw::statuses(&raw::send(port, bare.as_bytes())), [200, 200]);
    assert_eq!(chat::ask(port, "still here"), "still here");
}

#[track_caller]
fn assert_all_hardened(answers: &str, what: &str) {
    for answer in parse_all(answers.as_bytes()) {
        assert_hardened(&answer, what);
    }
}

/// The answer that is all of `answers`.
#[track_caller]
fn only(answers: &str) -> Response {
    let mut answers = parse_all(answers.as_bytes());
    let answer = answers.pop().expect("an answer");
    assert!(answers.is_empty(), "{answers:?}");
    answer
}

/// Is this what is said of bytes that are no request?
#[track_caller]
fn assert_refused(answer: &Response, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_hardened(answer, what);
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.header("Connection"), Some("close"), "{what}");
    assert!(answer.header("Date").is_some_and(|date| date.ends_with(" GMT")), "{what}");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], status, "{what}: {problem}");
    assert_eq!(problem["request_id"].as_str(), answer.header("X-Request-Id"), "{what}: {problem}");
}

#[test]
fn what_is_no_request_is_refused_as_everything_else_is_wherever_it_comes() {
    let (_perch, port) = perch_with("");
    let good = "GET /health HTTP/1.1\r\nHost: perch\r\n\r\n";
    let question = r#"{"message": "hi"}"#;
    let asked = format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{question}",
        question.len()
    );
    let head = "GET /health HTTP/1.1\r\nHost: perch\r\n";
    for (what, bytes, status) in [
        ("a null in a header", format!("{head}X: y\0z\r\n\r\n"), 400),
        ("a null in its name", format!("{head}X\0: y\r\n\r\n"), 400),
        ("nonsense", "nonsense\r\n\r\n".to_owned(), 400),
        ("the beginning of TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".to_owned(), 400),
        ("an address that is none", "GET http://[ HTTP/1.1\r\nHost: perch\r\n\r\n".to_owned(), 400),
        ("a version of its own", "GET /health HTTP/7.3\r\nHost: perch\r\n\r\n".to_owned(), 400),
        ("no version", "GET /health\r\n\r\n".to_owned(), 400),
        ("a length that is none", format!("{head}Content-Length: many\r\n\r\n"), 400),
        ("HEAD with one", "HEAD / HTTP/1.1\r\nHost: perch\r\nContent-Length: many\r\n\r\n".to_owned(), 400),
        ("a hundred headers and one", format!("{head}{}\r\n", "a: b\r\n".repeat(100)), 431),
        ("33 KiB in one header", format!("{head}a: {}\r\n\r\n", "b".repeat(33 << 10)), 431),
    ] {
        assert_refused(&only(&raw::send(port, bytes.as_bytes())), status, what);
        // After others over the same connection, one after the other or all at once.
        let mut kept = TcpStream::connect(("127.0.0.1", port)).unwrap();
        kept.set_read_timeout(Some(PATIENCE)).unwrap();
        kept.write_all(good.as_bytes()).unwrap();
        let mut first = Vec::new();
        while !first.ends_with(b"ok\n") {
            let mut byte = [0];
            kept.read_exact(&mut byte).unwrap();
            first.push(byte[0]);
        }
        kept.write_all(bytes.as_bytes()).unwrap();
        assert_refused(&only(&raw::read_to_end(&mut kept)), status, what);
        let answers = parse_all(raw::send(port, format!("{good}{asked}{good}{bytes}").as_bytes()).as_bytes());
        let [before @ .., last] = &answers[..] else { panic!("nothing") };
        let before: Vec<(u16, String)> = before.iter().map(|answer| (answer.status, answer.text())).collect();
        let [first, reply, second] = &before[..] else { panic!("{what}: {before:?}") };
        assert_eq!([first, second].map(|(status, text)| (*status, text.as_str())), [(200, "ok\n"); 2], "{what}");
        assert!(reply.0 == 200 && reply.1.contains(r#""reply":"hi""#), "{what}: {reply:?}");
        assert_refused(last, status, what);
    }
    let old = "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let answers = parse_all(raw::send(port, format!("{old}nonsense\r\n\r\n").as_bytes()).as_bytes());
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 400]);
    assert_refused(&answers[1], 400, "what follows a request of HTTP/1.0");
    let detail = |bytes: &str| {
        let problem: serde_json::Value =
            serde_json::from_slice(&only(&raw::send(port, bytes.as_bytes())).body).unwrap();
        format!("{}: {}", problem["title"].as_str().unwrap(), problem["detail"].as_str().unwrap())
    };
    insta::assert_snapshot!(detail("nonsense\r\n\r\n"), @"Bad Request: this is no request of HTTP/1.1: look at its first line, for characters that no header may have, and at `Content-Length` and `Transfer-Encoding`");
    insta::assert_snapshot!(detail(&format!("{head}{}\r\n", "a: b\r\n".repeat(100))), @"Request Header Fields Too Large: the request's head is longer than 32 KiB, or has more than 100 headers: send less of it");
}

#[test]
fn heads_that_are_too_large_are_refused_before_they_are_whole() {
    let (_perch, port) = perch_with("");
    let head = "GET /health HTTP/1.1\r\nHost: perch\r\n";
    for (name, bytes, status) in [
        ("many headers", format!("{head}{}\r\n", "a: b\r\n".repeat(101)), 431),
        ("a long header", format!("{head}a: {}\r\n\r\n", "b".repeat(80 << 10)), 431),
        ("headers without end", format!("{head}{}", "a: b\r\n".repeat(200_000)), 431),
        (
            "a long address",
            format!("GET /{} HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n", "a".repeat(8 << 10)),
            414,
        ),
        ("an address without end", format!("GET /{}", "a".repeat(1 << 20)), 431),
    ] {
        let answers = raw::send(port, bytes.as_bytes());
        assert_eq!(raw::statuses(&answers), [status], "{name}: {answers}");
        assert_all_hardened(&answers, name);
    }
    let much = format!("{head}{}Connection: close\r\n\r\n", format!("a: {}\r\n", "b".repeat(300)).repeat(90));
    assert_eq!(raw::statuses(&raw::send(port, much.as_bytes())), [200], "27 KiB in 93 headers are fine");
}

#[test]
fn one_header_of_forty_thousand_bytes_in_one_send_is_refused() {
    let (_perch, port) = perch_with("");
    for length in [33 << 10, 40_000, 60_000] {
        let head =
            format!("GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\na: {}\r\n\r\n", "b".repeat(length));
        let answers = raw::send(port, head.as_bytes());
        assert_eq!(raw::statuses(&answers), [431], "{length}: {answers}");
        assert_hardened(&only(&answers), "its answer");
    }
    let head = format!("GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\na: {}\r\n\r\n", "b".repeat(32_600));
    assert_eq!(raw::statuses(&raw::send(port, head.as_bytes())), [200], "all but 32 KiB");
}

#[test]
fn a_list_in_place_of_the_message_object_is_told_like_other_wrong_json() {
    let (_perch, port) = perch_with("");
    let url = format!("http://127.0.0.1:{port}/api/chat");
    let mut told = Vec::new();
    for body in [r#"["hello", null]"#, " [\"hello\"]", "\"hello\"", "null", "7", "", r#"{"message": ["hello"]}"#] {
        let answer = exchange("POST", &url, &[("Content-Type", "application/json")], body.as_bytes());
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_hardened(&answer, body);
        told.push(format!("{body} → {}: {}", answer.status, problem["detail"].as_str().unwrap()));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    ["hello", null] → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
     ["hello"] → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
    "hello" → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
    null → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
    7 → 400: the body is not {"message": "…", "conversation": "…"?}: it is no object
     → 400: the body is not {"message": "…", "conversation": "…"?}: EOF while parsing a value at line 1 column 0
    {"message": ["hello"]} → 400: the body is not {"message": "…", "conversation": "…"?}: invalid type: sequence, expected a string at line 1 column 12
    "#);
}

#[test]
fn a_host_that_is_none_or_is_not_that_of_the_address_is_refused() {
    let (_perch, port) = perch_with("");
    let get = |address: &str, host: &str| {
        let head = format!("GET {address} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw::send(port, head.as_bytes());
        assert!(answer.to_ascii_lowercase().contains("\r\nx-frame-options: deny\r\n"), "{answer}");
        raw::statuses(&answer)
    };
    for host in ["perch", "perch:8080", "PERCH.example.", "[::1]:8080", "127.0.0.1", ""] {
        assert_eq!(get("/health", host), [200], "{host:?}");
    }
    for host in ["a b", "a/b", "../..", "[::1", "user@perch", "ü", "perch:80:80", "a\"b"] {
        assert_eq!(get("/health", host), [400], "{host:?}");
    }
    assert_eq!(get("http://perch/health", "perch"), [200], "a proxy asks so");
    assert_eq!(get("http://PERCH:80/health", "perch"), [200]);
    assert_eq!(get("http://elsewhere.example/health", "perch"), [400]);
    assert_eq!(get("https://elsewhere.example:1/health", "perch"), [400]);
}

#[test]
fn odd_methods_targets_and_bodies_are_answered_and_hardened_and_others_are_served() {
    let (_perch, port) = perch_with("");
    let rest = "Host: perch\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let question = r#"{"message": "hi"}"#;
    let chunked = format!("POST /api/chat HTTP/1.1\r\n{rest}Transfer-Encoding: chunked\r\n\r\n");
    for (bytes, status) in [
        (format!("HEAD / HTTP/1.1\r\n{rest}\r\n"), 200),
        (format!("HEAD /api/chat HTTP/1.1\r\n{rest}\r\n"), 405),
        (format!("TRACE / HTTP/1.1\r\n{rest}\r\n"), 405),
        (format!("ODD /health HTTP/1.1\r\n{rest}\r\n"), 405),
        (format!("OPTIONS * HTTP/1.1\r\n{rest}\r\n"), 404),
        (format!("CONNECT perch:443 HTTP/1.1\r\n{rest}\r\n"), 404),
        (format!("GET /assets/../../etc/passwd HTTP/1.1\r\n{rest}\r\n"), 404),
        (format!("GET /assets/%00/%2e%2e%2f HTTP/1.1\r\n{rest}\r\n"), 404),
        (format!("POST /api/chat HTTP/1.1\r\n{rest}Content-Length: 60000\r\n\r\n{{\"a\":{}", "[".repeat(59_995)), 400),
        (format!("{chunked}11;a=\"x\r\ny\"\r\n{question}\r\n0\r\n\r\n"), 400),
        (
            format!("{chunked}{}11\r\n{question}\r\n0\r\n\r\n", format!("1;{}\r\n \r\n", "a".repeat(40)).repeat(2_000)),
            400,
        ),
        (format!("{chunked}11\r\n{question}XX0\r\n\r\n"), 400),
        (format!("{chunked}11\r\n{question}\r\n0\r\nContent-Length: 99\r\nHost: elsewhere\r\n\r\n"), 200),
    ] {
        let answers = raw::send(port, bytes.as_bytes());
        assert_eq!(raw::statuses(&answers), [status], "{bytes:.80}: {answers}");
        let head = answers.to_ascii_lowercase();
        for header in ["content-security-policy: ", "x-content-type-options: nosniff", "x-frame-options: deny"] {
            assert!(head.contains(header), "{header} on {bytes:.80}");
        }
    }
    // Who waits to be asked for a body is asked, and its answer is as others are.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("POST /api/chat HTTP/1.1\r\n{rest}Expect: 100-continue\r\nContent-Length: 17\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(question.as_bytes()).unwrap();
    assert_eq!(raw::statuses(&raw::read_to_end(&mut stream)), [200]);
    assert_eq!(chat::ask(port, "hello"), "hello");
}

/// Begins to send a body of `length` bytes, of which the last is still to come.
fn nearly(port: u16, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let text = format!("{{\"message\": \"{}\"}}", "x".repeat(length - 15));
    stream.write_all(&text.as_bytes()[..length - 1]).unwrap();
    stream
}

fn finish(mut stream: TcpStream) -> Vec<u16> {
    drop(stream.write_all(b"}"));
    raw::statuses(&raw::read_to_end(&mut stream))
}

#[test]
fn one_clients_large_bodies_leave_room_for_those_of_others() {
    let (perch, port) = perch_with("max_body = \"8MiB\"\n[limits.address]\nrequests_per_minute = 1000");
    let before = perch.memory();
    let mut held: Vec<TcpStream> = (0..2).map(|_| nearly(port, 8 << 20)).collect();
    wait("two bodies", || (perch.memory() > before + (15 << 20)).then_some(()));
    // The third one is too much for this client, whatever room there is.
    assert_eq!(finish(nearly(port, 8 << 20)), [503]);
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), format!("{{\"message\": \"{}\"}}", "y".repeat(8_000_000))).unwrap();
    let others = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "30", "--interface", "127.0.0.2", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(["-H", "Content-Type: application/json", "--data-binary", &format!("@{}", body.path().display())])
        .arg(format!("http://127.0.0.1:{port}/api/chat"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&others.stdout), "200", "{others:?}");
    assert_eq!(chat::ask(port, "and little is always heard"), "and little is always heard");
    assert_eq!(finish(held.pop().unwrap()), [200]);
    assert_eq!(finish(nearly(port, 7 << 20)), [200], "its share is its own again");
}

#[test]
fn memory_comes_back_after_two_hundred_large_bodies() {
    let (perch, port) = perch_with("");
    raw::times(port, 50);
    let round = |kept: u64| {
        let before = perch.memory();
        let crowd: Vec<TcpStream> = (0..200).map(|_| nearly(port, 64 << 10)).collect();
        let most = wait("all that is on its way", || Some(perch.memory()).filter(|now| *now > before + (11 << 20)));
        // A body, and what its connection reads into.
        assert!(most < before + (40 << 20), "{most} bytes, {before} before");
        assert!(crowd.into_iter().map(finish).all(|statuses| statuses == [200]));
        wait("memory as before", || (perch.memory() < before + kept).then_some(()));
    };
    // Of 25 MiB and more the database's cache and the allocator keep some 7; of the next ones nothing is added to it.
    round(12 << 20);
    std::thread::sleep(Duration::from_secs(1));
    round(4 << 20);
}

#[test]
fn a_reader_who_takes_nothing_of_an_answer_is_let_go_after_a_minute() {
    let (perch, port) = perch_with("max_body = \"16MiB\"");
    let sockets = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", perch.pid())).unwrap().filter_map(|entry| {
            std::fs::read_link(entry.ok()?.path()).ok().filter(|to| to.to_string_lossy().starts_with("socket:"))
        });
        open.count()
    };
    let before = sockets();
    // More than the buffers of both ends hold.
    let mut stream = nearly(port, 15 << 20);
    stream.write_all(b"}").unwrap();
    let begun = Instant::now();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    while sockets() > before {
        assert!(begun.elapsed() < Duration::from_secs(90), "still there after {:?}", begun.elapsed());
        std::thread::sleep(TRICKLE);
    }
    assert!(begun.elapsed() > Duration::from_secs(50), "let go after {:?}", begun.elapsed());
    assert_eq!(chat::ask(port, "hello"), "hello");
}

#[test]
fn chunks_are_counted_as_they_come() {
    let (_perch, port) = perch_with("max_body = \"1KiB\"");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    // One chunk that says it is 4 GiB, of which as much is sent as perch takes.
    stream.write_all(b"ffffffff\r\n").unwrap();
    let block = vec![b' '; 1 << 20];
    for _ in 0..64 {
        if stream.write_all(&block).is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// Sends a client home who asks while `attack` goes on for as long as it is let, and asserts that others are served.
#[track_caller]
fn assert_others_are_served(port: u16, attack: impl Fn(&AtomicBool) + Sync) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| attack(&over));
        let times = raw::times(port, 200);
        over.store(true, Ordering::Relaxed);
        let slow = times[times.len() * 99 / 100];
        assert!(slow < SLOWEST, "p99 {slow:?}, worst {:?}", times.last());
    });
}

#[test]
fn heads_that_trickle_in_end_after_ten_seconds_and_others_are_served() {
    let (_perch, port) = perch_with("");
    // One whose head never ends, on a connection that was good before.
    let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: perch\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    let begun = Instant::now();
    slow.write_all(b"GET /health HTTP/1.1\r\nX: ").unwrap();
    let silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_others_are_served(port, |over| {
        let mut crowd: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        while !over.load(Ordering::Relaxed) {
            for stream in &mut crowd {
                drop(stream.write_all(b"a"));
            }
            std::thread::sleep(TRICKLE);
        }
    });
    // A byte now and then does not help.
    let mut trickle = slow.try_clone().unwrap();
    let over = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && trickle.write_all(b"a").is_ok() {
                std::thread::sleep(TRICKLE);
            }
        });
        raw::read_to_end(&mut slow);
        over.store(true, Ordering::Relaxed);
        begun.elapsed()
    });
    assert!((Duration::from_secs(9)..Duration::from_secs(16)).contains(&ended), "{ended:?}");
    // And one that says nothing at all is no different.
    let mut silent = silent;
    assert_eq!(raw::read_to_end(&mut silent), "");
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out_and_cost_little() {
    // Both ends are files of a process, and the test's own limit may be lower than perch's.
    let files = perch::os::raise_file_limit();
    let count = usize::try_from(files).unwrap().saturating_sub(1_000).min(10_000);
    let (perch, port) = perch_with("");
    raw::times(port, 50);
    let before = perch.memory();
    let request = b"GET /health HTTP/1.1\r\nHost: perch\r\n\r\n";
    let crowd: Vec<TcpStream> = (0..count)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            // Half of them asked something once.
            if number % 2 == 0 {
                stream.write_all(request).unwrap();
            }
            stream
        })
        .collect();
    assert_others_are_served(port, |_| {});
    let each = perch.memory().saturating_sub(before) / count as u64;
    assert!(each < 16 << 10, "{each} bytes a connection, {count} connections");
    drop(crowd);
}

#[test]
fn a_flood_of_headers_keeps_nobody_out() {
    let (perch, port) = perch_with("");
    raw::times(port, 50);
    let before = perch.memory();
    let flood = format!("GET /health HTTP/1.1\r\nHost: perch\r\n{}", "a: b\r\n".repeat(20_000));
    assert_others_are_served(port, |over| {
        while !over.load(Ordering::Relaxed) {
            let mut crowd: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
            for stream in &mut crowd {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                drop(stream.write_all(flood.as_bytes()));
            }
            for stream in &mut crowd {
                raw::read_to_end(stream);
            }
        }
    });
    let after = wait("memory as before", || Some(perch.memory()).filter(|after| *after < before + (24 << 20)));
    assert!(after < before + (24 << 20));
}
