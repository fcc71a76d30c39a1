//! What a connection goes through: changes of the certificate, a drain, sockets of systemd.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::client::TlsStream;

use super::{Host, configuration};
use crate::support::authority::Authority;
use crate::support::perch::{PATIENCE, Start, free_port, wait};

/// A client's settings that trust `authority` and speak `protocol`.
pub fn client(authority: &Authority, protocol: &str) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

async fn connect(port: u16, config: &Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("chat.test").unwrap();
    tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

fn question(port: u16, text: &str) -> Request<Body> {
    let body = serde_json::json!({ "message": text }).to_string();
    let request = Request::post(format!("https://chat.test:{port}/api/chat"));
    request.header("host", "chat.test").header("content-type", "application/json").body(Body::from(body)).unwrap()
}

async fn reply(answer: hyper::Response<hyper::body::Incoming>) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["reply"].as_str().unwrap().to_owned()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Asks over one connection until `over`, and counts.
async fn keep_asking_http_1(port: u16, config: Arc<rustls::ClientConfig>, over: Arc<AtomicBool>) -> usize {
    let io = TokioIo::new(connect(port, &config).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        sender.ready().await.unwrap();
        let text = format!("one {count}");
        assert_eq!(reply(sender.send_request(question(port, &text)).await.unwrap()).await, text);
        count += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    driver.abort();
    count
}

async fn keep_asking_http_2(port: u16, config: Arc<rustls::ClientConfig>, over: Arc<AtomicBool>) -> usize {
    let io = TokioIo::new(connect(port, &config).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let ask = async |which: &str| {
            let text = format!("{which} {count}");
            let answer = sender.clone().send_request(question(port, &text)).await.unwrap();
            assert_eq!(reply(answer).await, text);
        };
        tokio::join!(ask("a"), ask("b"), ask("c"));
        count += 3;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    driver.abort();
    count
}

async fn keep_connecting(port: u16, config: Arc<rustls::ClientConfig>, over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let mut stream = connect(port, &config).await.unwrap();
        let ask = b"GET /health HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, ask).await.unwrap();
        let mut answer = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        count += 1;
    }
    count
}

#[test]
fn no_connection_is_lost_while_the_certificate_changes_twenty_times() {
    let host = Host::start();
    let runtime = runtime();
    let over = Arc::new(AtomicBool::new(false));
    let (one, two) = (client(&host.authority, "http/1.1"), client(&host.authority, "h2"));
    let asking = [
        runtime.spawn(keep_asking_http_1(host.https, Arc::clone(&one), Arc::clone(&over))),
        runtime.spawn(keep_asking_http_2(host.https, two, Arc::clone(&over))),
        runtime.spawn(keep_connecting(host.https, one, Arc::clone(&over))),
    ];
    let taken = || host.perch.messages("INFO").iter().filter(|text| text.contains("a new certificate")).count();
    wait("the first", || (taken() == 1).then_some(()));
    for change in 1..=20 {
        host.certify(&["chat.test", &format!("number-{change}.test")]);
        wait("the next", || (taken() == change + 1).then_some(()));
    }
    over.store(true, Ordering::Relaxed);
    let counts = asking.map(|task| runtime.block_on(task).unwrap());
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    let warnings = host.perch.messages("WARN");
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn a_drain_ends_http_2_after_its_answers_and_lets_a_handshake_finish() {
    let mut host = Host::start();
    let (one, two) = (client(&host.authority, "http/1.1"), client(&host.authority, "h2"));
    // One has connected and not said a word yet, as if its packets were slow.
    let mut silent = TcpStream::connect(("127.0.0.1", host.https)).unwrap();
    let runtime = runtime();
    let port = host.https;
    runtime.block_on(async {
        let io = TokioIo::new(connect(port, &two).await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let driver = tokio::spawn(connection);
        // A connection that idles, beside it.
        let idle = TokioIo::new(connect(port, &two).await.unwrap());
        let (_idle, idle) =
            hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), idle).await.unwrap();
        let idle = tokio::spawn(idle);
        // A request whose body comes in two pieces, and the drain between them.
        let (pieces, body) =
            tokio::sync::mpsc::channel::<Result<hyper::body::Frame<axum::body::Bytes>, std::io::Error>>(1);
        let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::unfold(body, async |mut body| {
            body.recv().await.map(|piece| (piece, body))
        })));
        let request = question(port, "").map(|_| body);
        let answer = tokio::spawn(sender.clone().send_request(request));
        pieces.send(Ok(hyper::body::Frame::data("{\"message\":".into()))).await.unwrap();
        // The other two thirds of a round trip: an answer says that what came before it was taken.
        assert_eq!(reply(sender.clone().send_request(question(port, "before")).await.unwrap()).await, "before");
        host.perch.signal("TERM");
        wait("the drain", || host.perch.log_text().contains("draining").then_some(()));
        let late = tokio::task::spawn_blocking(move || {
            let mut connection =
                rustls::ClientConnection::new(one, ServerName::try_from("chat.test").unwrap()).unwrap();
            let mut stream = rustls::Stream::new(&mut connection, &mut silent);
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: chat.test\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let late = late.await.unwrap();
        assert!(late.starts_with("HTTP/1.1 200 OK\r\n") && late.contains("connection: close\r\n"), "{late}");
        pieces.send(Ok(hyper::body::Frame::data("\"after\"}".into()))).await.unwrap();
        drop(pieces);
        assert_eq!(reply(answer.await.unwrap().unwrap()).await, "after");
        // Both were told, and neither was cut.
        tokio::time::timeout(PATIENCE, driver).await.unwrap().unwrap().unwrap();
        tokio::time::timeout(PATIENCE, idle).await.unwrap().unwrap().unwrap();
    });
    assert!(host.perch.wait().success());
}

#[test]
fn sockets_of_systemd_serve_http_and_https() {
    let authority = Authority::new();
    let (http, https) = (free_port(), free_port());
    let start = Start::with_text("");
    let directory = start.directory().to_owned();
    std::fs::write(directory.join("perch.toml"), configuration(&directory, http, https)).unwrap();
    let (cert, key) = authority.issue("chat.test");
    std::fs::write(directory.join("cert.pem"), cert).unwrap();
    std::fs::write(directory.join("key.pem"), key).unwrap();
    // Opened as systemd opens them, and waited in before there is a perch.
    let script = format!(
        "import os, socket, sys\n\
         for number, port in enumerate([{http}, {https}]):\n\
         \x20   opened = socket.create_server(('127.0.0.1', port))\n\
         \x20   os.dup2(opened.fileno(), 10 + number)\n\
         for number in range(2): os.dup2(10 + number, 3 + number)\n\
         os.environ.update(LISTEN_FDS='2', LISTEN_FDNAMES='http:https', LISTEN_PID=str(os.getpid()))\n\
         os.execvp(sys.argv[1], sys.argv[1:])"
    );
    let mut perch = start.through(["python3", "-c", &script]).ready();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", perch.pid())).unwrap().count();
    let before = descriptors();
    let mut stream = wait("HTTPS", || TcpStream::connect(("127.0.0.1", https)).ok());
    let config = client(&authority, "http/1.1");
    let mut connection = rustls::ClientConnection::new(config, ServerName::try_from("chat.test").unwrap()).unwrap();
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    tls.write_all(b"GET /health HTTP/1.0\r\nHost: chat.test\r\n\r\n").unwrap();
    let mut text = String::new();
    tls.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
    // What perch does beside it opens a file for a moment.
    wait("no more files to be open", || (descriptors() <= before + 1).then_some(()));
    let url = format!("http://127.0.0.1:{http}/");
    let code = Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).output().unwrap();
    assert_eq!(String::from_utf8(code.stdout).unwrap(), "308");
    assert_eq!(perch.messages("WARN"), Vec::<String>::new());
    assert!(perch.stop().success());
}
