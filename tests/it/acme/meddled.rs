//! An ACME server that is not well, takes its time, or wants a certificate back.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use super::*;
use crate::support::gateway::{Asked, Deed, Gateway};

/// A perch whose ACME server is behind a gateway.
fn behind_a_gateway() -> (Host, Gateway) {
    let mut host = Host::new();
    host.pebble.start();
    let gateway = Gateway::before(&host.pebble);
    (host, gateway)
}

fn start(host: &Host, gateway: &Gateway, names: &[&str], challenge: &str) -> Perch {
    let text = host.configuration(names, challenge);
    Start::with_text(&text.replace(&host.pebble.directory_url(), &gateway.directory_url()))
        .env([gateway.trust()])
        .ready()
}

/// Changes what is kept of earlier tries.
fn edit_tries(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut tries: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut tries);
    std::fs::write(file, tries.to_string()).unwrap();
}

/// The file with the tries, among those of one server.
fn tries_of(perch: &Perch, name: &str) -> PathBuf {
    let server = std::fs::read_dir(perch.directory().join("state/acme")).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(server).unwrap().map(|file| file.unwrap().path());
    let mut found = files.filter(|file| {
        let shown = file.file_name().unwrap().to_str().unwrap();
        shown.starts_with(name) && file.extension().is_some_and(|extension| extension == "json")
    });
    found.next().unwrap()
}

#[test]
fn a_certificate_is_replaced_when_its_server_wants_that_and_at_once_when_it_was_revoked() {
    let (host, gateway) = behind_a_gateway();
    let now = seconds(SystemTime::now());
    let window = Arc::new(Mutex::new((now + 1_000_000, now + 1_003_600)));
    let (asked, ordered) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (own_window, own_asked, own_ordered) = (Arc::clone(&window), Arc::clone(&asked), Arc::clone(&ordered));
    let base = gateway.directory_url().replace("/dir", "/renewal");
    gateway.meddle(move |request| match request.path.as_str() {
        "/dir" => {
            let base = base.clone();
            Deed::Change(Box::new(move |directory| directory["renewalInfo"] = json!(base)), "")
        }
        "/order-plz" => {
            own_ordered.lock().unwrap().push(request.payload.clone());
            let replaces = request.payload["replaces"].clone();
            let reflect = move |order: &mut Value| {
                if replaces.is_string() && order["finalize"].is_string() {
                    order["replaces"] = replaces;
                }
            };
            Deed::Change(Box::new(reflect), "")
        }
        path if path.starts_with("/renewal/") => {
            own_asked.lock().unwrap().push(path.strip_prefix("/renewal/").unwrap().to_owned());
            let (from, until) = *own_window.lock().unwrap();
            let time = |at: u64| DateTime::from_secs(at.cast_signed()).fmt(Format::DateTime).unwrap();
            let body = json!({
                "suggestedWindow": { "start": time(from), "end": time(until) },
                "explanationURL": "https://acme.test/why",
            });
            let body = body.to_string();
            Deed::Answer(format!(
                "HTTP/1.1 200 OK\r\nRetry-After: 21600\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
        }
        _ => Deed::Pass,
    });
    let perch = start(&host, &gateway, &["chat.test"], "tls-alpn-01");
    wait_certificate(&perch, &["chat.test"]);
    let next = |status: &Value| status["http"]["tls"]["next"].as_u64().unwrap_or_default();
    let chosen = next(&perch.wait_status("the window", |status| (1..now + 2_000_000).contains(&next(status))));
    assert!((now + 1_000_000..=now + 1_003_600).contains(&chosen), "{chosen}");
    assert_eq!(host.pebble.orders(), 1);
    let said = perch.messages("INFO").into_iter().find(|text| text.contains("before its time")).unwrap();
    assert!(said.contains("for chat.test is replaced before its time, at 20"), "{said}");
    assert!(said.ends_with("wants it (https://acme.test/why)"), "{said}");
    // A restart keeps to what was said, and to when to ask again.
    let perch = restarted(perch, || ());
    assert_eq!((next(&perch.status()), asked.lock().unwrap().len()), (chosen, 1));
    // Later it is revoked.
    let file = tries_of(&perch, "chat.test");
    let perch = restarted(perch, || {
        *window.lock().unwrap() = (now - 7_200, now - 3_600);
        edit_tries(&file, |tries| tries["suggestion"]["again"] = json!(0));
    });
    perch.wait_status("another certificate, asked about", |_| {
        let asked = asked.lock().unwrap();
        asked.len() == 3 && asked[1] == asked[0] && asked[2] != asked[0]
    });
    let ordered = ordered.lock().unwrap().clone();
    let replaced = ordered.iter().filter(|order| order["replaces"] == json!(asked.lock().unwrap()[0])).count();
    assert!(replaced >= 1 && host.pebble.orders() == 2, "{ordered:?}");
    assert_eq!(host.get("chat.test"), "ok\n");
    // A server that wants each of them back at once is not obeyed for ever.
    let status = perch.wait_status("patience", |status| next(status) > now + 33 * 3_600);
    assert!(next(&status) < now + 36 * 3_600, "{status:#}");
    assert_eq!((host.pebble.orders(), perch.messages("WARN")), (2, Vec::<String>::new()));
}

#[test]
fn an_order_that_stays_in_processing_is_asked_for_again_and_not_made_anew() {
    let (host, gateway) = behind_a_gateway();
    gateway.meddle(|request| {
        let slow = |order: &mut Value| {
            if order["status"] == "valid" {
                order["status"] = json!("processing");
                order.as_object_mut().unwrap().remove("certificate");
            }
        };
        match request.path.as_str() {
            path if path.starts_with("/finalize-order/") => Deed::Change(Box::new(slow), ""),
            path if path.starts_with("/my-order/") => Deed::Change(Box::new(slow), "Retry-After: 200\r\n"),
            _ => Deed::Pass,
        }
    });
    let perch = start(&host, &gateway, &["chat.test"], "http-01");
    let status = perch.wait_status("a failure", |status| status["http"]["tls"]["trouble"].is_string());
    let left = status["http"]["tls"]["next"].as_u64().unwrap() - seconds(SystemTime::now());
    assert!((190..=201).contains(&left), "{left} s: {status:#}");
    assert!(status["http"]["tls"]["trouble"].as_str().unwrap().contains("the server takes too long"), "{status:#}");
    let order = kept(&perch, ".order");
    assert_eq!(std::fs::metadata(&order).unwrap().permissions().mode() & 0o777, 0o600);
    let file = tries_of(&perch, "chat.test");
    gateway.meddle(|_| Deed::Pass);
    let perch = restarted(perch, || edit_tries(&file, |tries| tries["wait"] = json!(0)));
    wait_certificate(&perch, &["chat.test"]);
    assert_eq!((host.get("chat.test"), host.pebble.orders()), ("ok\n".to_owned(), 1));
    assert!(!order.exists());
}

#[test]
fn a_server_that_is_not_well_is_asked_again_within_seconds() {
    let (host, gateway) = behind_a_gateway();
    let page = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_owned();
    let inside = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/problem+json\r\nContent-Length: \
                  77\r\n\r\n{\"type\":\"urn:ietf:params:acme:error:serverInternal\",\"detail\":\"disk is full\"}  ";
    let nonsense = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>";
    let ill: [(&str, &str, &dyn Fn() -> Deed); 5] = [
        ("/dir", "/dir answers 502 Bad Gateway", &|| Deed::Answer(page.clone())),
        ("/dir", "the server answered something else than ACME", &|| Deed::Answer(nonsense.to_owned())),
        ("/sign-me-up", "there is no account: disk is full", &|| Deed::Answer(inside.to_owned())),
        ("/order-plz", "/order-plz can't be asked: ", &|| Deed::Answer(String::new())),
        ("/certZ", "the certificate was not issued: ", &|| Deed::Cut),
    ];
    let mut perch = None;
    for (path, expected, deed) in ill {
        // One answer for all that is asked there.
        let (sender, receiver) = channel();
        for _ in 0..20 {
            sender.send(deed()).unwrap();
        }
        gateway.meddle(move |request: &Asked| {
            if request.path.starts_with(path) { receiver.try_recv().unwrap_or(Deed::Pass) } else { Deed::Pass }
        });
        let running = match perch.take() {
            None => start(&host, &gateway, &["chat.test"], "http-01"),
            Some(perch) => {
                let file = tries_of(&perch, "chat.test");
                restarted(perch, || std::fs::remove_file(file).unwrap())
            }
        };
        let status = running.wait_status("a failure", |status| status["http"]["tls"]["trouble"].is_string());
        let tls = &status["http"]["tls"];
        assert!(tls["trouble"].as_str().unwrap().contains(expected), "{path}: {expected}: {tls:#}");
        let left = tls["next"].as_u64().unwrap().saturating_sub(seconds(SystemTime::now()));
        assert!(left <= 7, "{path}: {left} s: {tls:#}");
        assert_eq!((tls["failures"].as_u64(), host.plain()), (Some(1), "200".to_owned()));
        perch = Some(running);
    }
    // It is well again.
    let perch = perch.unwrap();
    gateway.meddle(|_| Deed::Pass);
    wait_certificate(&perch, &["chat.test"]);
    assert_eq!((host.get("chat.test"), host.pebble.orders()), ("ok\n".to_owned(), 1));
}

#[test]
fn nonces_that_the_server_forgot_cost_no_order_and_no_wait() {
    let (host, gateway) = behind_a_gateway();
    let stale = |nonce: u32| {
        let problem = r#"{"type":"urn:ietf:params:acme:error:badNonce","detail":"unknown nonce","status":400}"#;
        let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n";
        format!("{head}Replay-Nonce: nonce{nonce}\r\nContent-Length: {}\r\n\r\n{problem}", problem.len())
    };
    // As often in a row as the library itself tries. No more: the server knows none of these nonces either.
    let mut asked = std::collections::HashMap::new();
    gateway.meddle(move |request: &Asked| {
        let path = request.path.split('/').nth(1).unwrap_or_default().to_owned();
        let times: &mut u32 = asked.entry(path.clone()).or_default();
        *times += 1;
        let signed = ["order-plz", "certZ"].contains(&&*path);
        if signed && *times <= 3 { Deed::Answer(stale(*times)) } else { Deed::Pass }
    });
    let perch = start(&host, &gateway, &["chat.test"], "http-01");
    wait_certificate(&perch, &["chat.test"]);
    assert_eq!((host.get("chat.test"), host.pebble.orders()), ("ok\n".to_owned(), 1));
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

#[test]
fn a_challenge_is_not_answered_any_more_once_its_order_is_given_up() {
    let (host, gateway) = behind_a_gateway();
    let (token, tokens) = channel();
    let (release, released) = channel::<()>();
    gateway.meddle(move |request| match request.path.as_str() {
        path if path.starts_with("/authZ/") => {
            let token = token.clone();
            let tell = move |authorization: &mut Value| {
                let all = authorization["challenges"].as_array().unwrap();
                let one = all.iter().find(|challenge| challenge["type"] == "http-01").unwrap();
                token.send(one["token"].as_str().unwrap().to_owned()).unwrap();
            };
            Deed::Change(Box::new(tell), "")
        }
        path if path.starts_with("/chalZ/") => {
            // Ends when the test does.
            assert!(released.recv().is_err());
            Deed::Answer(String::new())
        }
        _ => Deed::Pass,
    });
    let perch = start(&host, &gateway, &["chat.test"], "http-01");
    let token = tokens.recv_timeout(crate::support::perch::PATIENCE).unwrap();
    let ask = |token: &str| {
        let url = format!("http://127.0.0.1:{}/.well-known/acme-challenge/{token}", host.http);
        exchange("GET", &url, &[], b"")
    };
    let shown = wait("an answer", || Some(ask(&token)).filter(|answer| answer.status == 200));
    assert!(shown.text().starts_with(&format!("{token}.")), "{shown:?}");
    // Nobody else is told anything.
    for odd in ["", "x", "..", "../health", "%2e%2e%2fhealth", "%00", "%ff", &token[1..], &format!("{token}/")] {
        assert_eq!(ask(odd).status / 100, 4, "{odd}");
    }
    let text = format!("[http]\nlisten = \"127.0.0.1:{}\"\n[reload]\npoll = \"1s\"\nbake = \"0s\"\n", host.http);
    std::fs::write(perch.config_path(), text).unwrap();
    assert!(perch.verb(&["reload"]).status.success());
    wait("the end of it", || (ask(&token).status == 404).then_some(()));
    drop(release);
}
