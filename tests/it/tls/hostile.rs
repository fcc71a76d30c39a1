//! Who means ill: silence in the handshake, and floods of HTTP/2. Others are served all the while.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;

use super::Host;
use super::connections::client;
use crate::doors::assert_hardened_anywhere;
use crate::support::exchange::parse_all;
use crate::support::perch::{PATIENCE, wait};
use crate::support::upstream::{Fault, MODEL, Upstream};

/// What every client of HTTP/2 begins with, and a SETTINGS frame without settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Kinds of frames, and codes of errors (RFC 9113, sections 6 and 7).
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// `GET https://…/health` in HPACK: `:method`, `:scheme` from the static table, `:path` and `:authority` as they are.
pub const HEALTH: &[u8] = b"\x82\x87\x04\x07/health\x01\x09chat.test";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection that speaks this protocol byte by byte.
fn connected(host: &Host, protocol: &str) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", host.https)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from("chat.test").unwrap();
    let connection = rustls::ClientConnection::new(client(&host.authority, protocol), name).unwrap();
    rustls::StreamOwned::new(connection, socket)
}

/// The same for HTTP/2.
pub fn raw(host: &Host) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let mut stream = connected(host, "h2");
    stream.write_all(PREFACE).unwrap();
    stream
}

/// The error of the GOAWAY that the other side ends with; `None` where it just closes.
fn goaway(mut stream: impl Read) -> Option<u32> {
    let mut code = None;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).is_err() {
            break;
        }
        if head[3] == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    code
}

#[test]
fn who_says_nothing_in_the_handshake_costs_little_and_is_let_go() {
    let host = Host::start();
    let resident = || {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", host.perch.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()
    };
    assert_eq!(host.get("chat.test", "/health"), "ok\n");
    let before = resident();
    let begun = Instant::now();
    let mut silent: Vec<_> = (0..400).map(|_| TcpStream::connect(("127.0.0.1", host.https)).unwrap()).collect();
    // Some begin, and never go on.
    for stream in &mut silent[..100] {
        stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
    }
    for _ in 0..3 {
        assert_eq!(host.get("chat.test", "/health"), "ok\n");
    }
    let each = (resident() - before) / 400;
    // An unoptimized build needs more than others do.
    assert!(each < 16, "{each} KiB each");
    // They are let go after ten seconds.
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Closed, or reset where it had said something.
        let gone =
            stream.read(&mut [0; 64]).map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true);
        assert!(gone, "still open after {:?}", begun.elapsed());
    }
    assert!(begun.elapsed() > Duration::from_secs(9), "let go after {:?}", begun.elapsed());
    assert_eq!(host.get("chat.test", "/health"), "ok\n");
    assert_eq!(host.perch.messages("WARN"), Vec::<String>::new());
}

#[test]
fn what_is_no_tls_is_let_go_at_once() {
    let host = Host::start();
    let mut stream = TcpStream::connect(("127.0.0.1", host.https)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // An alert, and the end.
    drop(stream.read_to_end(&mut answer));
    assert!(answer.len() < 16, "{answer:?}");
    assert_eq!(host.get("chat.test", "/health"), "ok\n");
}

#[test]
fn what_is_no_request_is_refused_as_everything_else_is_with_tls_and_beside_it() {
    let host = Host::start();
    let good = "GET /health HTTP/1.1\r\nHost: chat.test\r\n\r\n";
    for (what, bad, status) in [
        ("a null in a header", "GET /health HTTP/1.1\r\nHost: chat.test\r\nX: y\0z\r\n\r\n".to_owned(), 400),
        ("nonsense", "nonsense\r\n\r\n".to_owned(), 400),
        ("33 KiB in one header", format!("GET /health HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(33 << 10)), 431),
    ] {
        for before in [0, 2] {
            let mut stream = connected(&host, "http/1.1");
            stream.write_all(format!("{}{bad}", good.repeat(before)).as_bytes()).unwrap();
            let mut came = Vec::new();
            stream.read_to_end(&mut came).unwrap();
            let answers = parse_all(&came);
            let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [vec![200; before], vec![status]].concat(), "{what}");
            for answer in &answers {
                assert_hardened_anywhere(answer, what);
                assert_eq!(answer.header("Strict-Transport-Security"), Some("max-age=31536000"), "{what}");
            }
        }
        // And where others are sent to HTTPS.
        let answers = parse_all(crate::support::raw::send(host.http, bad.as_bytes()).as_bytes());
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [status], "{what}");
        assert_hardened_anywhere(&answers[0], what);
        assert_eq!(answers[0].header("Strict-Transport-Security"), None, "{what}");
    }
}

#[test]
fn requests_that_are_taken_back_at_once_end_the_connection() {
    let host = Host::start();
    let mut stream = raw(&host);
    let mut flood = Vec::new();
    // Together they fit into one record of TLS: with more on its way, what the other side says last could be lost.
    for number in 0..300 {
        flood.extend(frame(HEADERS, 0x5, number * 2 + 1, HEALTH));
        flood.extend(frame(RST_STREAM, 0, number * 2 + 1, &8_u32.to_be_bytes()));
    }
    assert!(flood.len() < 16_384);
    stream.write_all(&flood).unwrap();
    assert_eq!(goaway(stream), Some(ENHANCE_YOUR_CALM));
    assert_eq!(host.get("chat.test", "/health"), "ok\n");
}

#[test]
fn a_head_that_never_ends_ends_the_connection() {
    let host = Host::start();
    let mut stream = raw(&host);
    stream.write_all(&frame(HEADERS, 0x1, 1, HEALTH)).unwrap();
    let line = [b"\x00\x7f\xa1\x3e".as_slice(), &[b'a'; 8_096], b"\x00"].concat();
    let sent = (0..4_096).take_while(|_| stream.write_all(&frame(CONTINUATION, 0, 1, &line)).is_ok()).count();
    // 32 MiB were on their way.
    assert!(sent < 4_096, "all of it was taken");
    wait("others", || (host.get("chat.test", "/health") == "ok\n").then_some(()));
}

#[test]
fn no_more_requests_at_once_are_taken_than_was_said() {
    let host = Host::start();
    let mut stream = raw(&host);
    // Bodies that never come keep each of them open.
    let head = b"\x83\x87\x04\x09/api/chat\x01\x09chat.test\x0f\x10\x10application/json";
    let mut flood = Vec::new();
    for number in 0..150 {
        flood.extend(frame(HEADERS, 0x4, number * 2 + 1, head));
    }
    stream.write_all(&flood).unwrap();
    let (mut refused, mut head) = (0, [0; 9]);
    while refused < 50 {
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).unwrap();
        // REFUSED_STREAM: the client may ask again.
        refused += usize::from(head[3] == RST_STREAM && payload == 7_u32.to_be_bytes());
    }
    assert_eq!(host.get("chat.test", "/health"), "ok\n");
}

#[test]
fn a_head_of_forty_thousand_bytes_is_refused_over_http_2_as_well() {
    let host = Host::start();
    let trust = client(&host.authority, "h2");
    runtime().block_on(async {
        let sender = http_2(&host, &trust, None).await;
        for (length, status) in [(32_000, 200), (33_000, 431), (34_000, 431)] {
            let request = hyper::Request::get(format!("https://chat.test:{}/health", host.https));
            let request = request.header("a", "b".repeat(length)).body(Body::empty()).unwrap();
            let answer = sender.clone().send_request(request).await.unwrap();
            assert_eq!(answer.status(), status, "{length}");
            assert_eq!(answer.headers()["x-frame-options"], "DENY");
            assert!(answer.headers().contains_key("strict-transport-security"));
        }
        let request = hyper::Request::get(format!("https://chat.test:{}/health", host.https));
        let request = request.header("a", "b".repeat(40_000)).body(Body::empty()).unwrap();
        // h2 answers this by itself, if the client sends it at all.
        if let Ok(answer) = sender.clone().send_request(request).await {
            assert_eq!(answer.status(), 431);
        }
    });
    assert_eq!(host.get("chat.test", "/health"), "ok\n");
}

/// How long an answer waits for who takes nothing of it, as perch has it.
const UNTAKEN: Duration = Duration::from_secs(60);

#[test]
fn an_answer_whose_window_never_opens_is_given_up_and_one_that_waits_for_its_model_is_not() {
    let host = Host::start();
    let upstream = Upstream::start();
    let text = std::fs::read_to_string(host.perch.config_path()).unwrap();
    let chat = format!(
        "[chat]\nbackend = \"openai\"\nbase_url = \"{}\"\nmodel = \"{MODEL}\"\n[chat.timeout]\nfirst_token = \"90s\"\n",
        upstream.url()
    );
    std::fs::write(host.perch.config_path(), text + &chat).unwrap();
    assert_eq!(host.perch.verb(&["reload"]).status.code(), Some(0), "{}", host.perch.log_text());
    let trust = client(&host.authority, "h2");
    let question = |text: &str, accept: &str| {
        let body = serde_json::json!({ "message": text }).to_string();
        let request = hyper::Request::post(format!("https://chat.test:{}/api/chat", host.https));
        let request = request.header("content-type", "application/json").header("accept", accept);
        request.body(Body::from(body)).unwrap()
    };
    runtime().block_on(async {
        // A window of 100 bytes, which opens for who reads; and one that is never open.
        let (small, shut) = (http_2(&host, &trust, Some(100)).await, http_2(&host, &trust, Some(0)).await);
        let long = "word ".repeat(10_000);
        let read = small.clone().send_request(question(&long, "application/json")).await.unwrap();
        assert_eq!(read.into_body().collect().await.unwrap().to_bytes().len(), whole(&long));
        let begun = Instant::now();
        let mut untaken = Vec::new();
        for (sender, accept) in
            [(&small, "application/json"), (&small, "text/event-stream"), (&shut, "text/event-stream")]
        {
            untaken.push(sender.clone().send_request(question(&long, accept)).await.unwrap());
        }
        tokio::task::block_in_place(|| upstream.wait_asked(4));
        upstream.fault(Fault::Silence);
        let mut quiet = small.clone().send_request(question("think", "text/event-stream")).await.unwrap().into_body();
        let mut said = Vec::new();
        while begun.elapsed() < UNTAKEN + Duration::from_secs(10) {
            // Comments keep it alive while there is nothing to say.
            let piece = tokio::time::timeout(PATIENCE, quiet.frame()).await.unwrap().unwrap().unwrap();
            said.extend_from_slice(&piece.into_data().unwrap());
        }
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("event: start\n") && said.ends_with(":\n\n"), "{said}");
        for answer in untaken {
            let taken = answer.into_body().collect().await;
            assert!(taken.is_err(), "{:?}", taken.map(|all| all.to_bytes().len()));
        }
        // The connection is as good as before.
        let read = small.clone().send_request(question("hello", "application/json")).await.unwrap();
        assert_eq!(read.status(), 200);
    });
}

/// How long the answer to `text` is, in bytes.
fn whole(text: &str) -> usize {
    let reply = serde_json::json!({ "reply": format!("You said: {text}"), "conversation": "x".repeat(32) });
    reply.to_string().len()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A connection whose streams take so much before somebody reads.
async fn http_2(
    host: &Host,
    trust: &Arc<rustls::ClientConfig>,
    window: Option<u32>,
) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", host.https)).await.unwrap();
    let name = ServerName::try_from("chat.test").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::clone(trust)).connect(name, stream).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .max_header_list_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    // It ends with the runtime.
    drop(tokio::spawn(connection));
    sender
}
