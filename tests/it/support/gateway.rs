//! What stands between perch and an ACME server, and may do as it likes with what goes through it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;

use super::authority::Authority;
use super::pebble::Pebble;

/// What was asked.
pub struct Asked {
    pub path: String,
    /// What was signed, where something was; null for a POST-as-GET.
    pub payload: Value,
    head: String,
    body: Vec<u8>,
}

/// What is done with it.
pub enum Deed {
    Pass,
    /// It does not come to the server: this is the answer, its status line and fields first.
    Answer(String),
    /// It comes to the server, and half of the answer is lost.
    Cut,
    /// It comes to the server, and this is made of the answer; the text is more fields of its head.
    Change(Box<dyn FnOnce(&mut Value) + Send>, &'static str),
}

type Mischief = Box<dyn FnMut(&Asked) -> Deed + Send>;

/// A gateway, which the server takes for its own name: all of its addresses lead here.
pub struct Gateway {
    directory: TempDir,
    port: u16,
    mischief: Arc<Mutex<Mischief>>,
}

impl Gateway {
    pub fn before(pebble: &Pebble) -> Gateway {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        std::fs::write(directory.path().join("trust.pem"), authority.pem()).unwrap();
        let (cert, key) = authority.issue("127.0.0.1");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let cert = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(cert, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(PathBuf::from(pebble.trust().1)).unwrap()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mischief: Arc<Mutex<Mischief>> = Arc::new(Mutex::new(Box::new(|_: &Asked| Deed::Pass)));
        let behind = pebble.directory_url().strip_prefix("https://").unwrap().split_once('/').unwrap().0.to_owned();
        let (server, client, own) = (Arc::new(server), Arc::new(client), Arc::clone(&mischief));
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (server, client, own, behind) =
                    (Arc::clone(&server), Arc::clone(&client), Arc::clone(&own), behind.clone());
                // Who breaks off is nobody's trouble.
                std::thread::spawn(move || exchange(socket, server, &client, &own, &behind));
            }
        });
        Gateway { directory, port, mischief }
    }

    pub fn directory_url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// What its clients have to trust to talk with it.
    pub fn trust(&self) -> (String, String) {
        ("SSL_CERT_FILE".to_owned(), self.directory.path().join("trust.pem").to_str().unwrap().to_owned())
    }

    /// From now on this is what it does, one request after the other.
    pub fn meddle(&self, how: impl FnMut(&Asked) -> Deed + Send + 'static) {
        *self.mischief.lock().unwrap() = Box::new(how);
    }
}

/// One request, from a connection that ends with its answer.
fn exchange(
    socket: TcpStream,
    server: Arc<rustls::ServerConfig>,
    client: &Arc<rustls::ClientConfig>,
    mischief: &Mutex<Mischief>,
    behind: &str,
) -> Option<()> {
    let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(server).ok()?, socket);
    let asked = read(&mut stream)?;
    let deed = (mischief.lock().unwrap())(&asked);
    let ask = || {
        let connection =
            rustls::ClientConnection::new(Arc::clone(client), ServerName::try_from("127.0.0.1").unwrap()).ok()?;
        let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(behind).ok()?);
        stream.write_all(asked.head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).ok()?;
        stream.write_all(&asked.body).ok()?;
        let mut answer = Vec::new();
        // Go closes without a goodbye.
        drop(stream.read_to_end(&mut answer));
        (!answer.is_empty()).then_some(answer)
    };
    // On a busy machine a connection may fail, which is not what is tried.
    let ask = || ask().or_else(&ask);
    let answer = match deed {
        Deed::Pass => ask()?,
        Deed::Answer(text) => text.into_bytes(),
        Deed::Cut => {
            let answer = ask()?;
            answer[..answer.len() / 2].to_vec()
        }
        Deed::Change(change, fields) => {
            let answer = String::from_utf8(ask()?).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let Ok(mut value) = serde_json::from_str(body) else { return stream.write_all(answer.as_bytes()).ok() };
            change(&mut value);
            let kept = head.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("content-length"));
            let head: String = kept.map(|line| format!("{line}\r\n")).collect();
            let body = value.to_string();
            format!("{head}{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        }
    };
    stream.write_all(&answer).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}

fn read(stream: &mut impl Read) -> Option<Asked> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4_096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end + 4].to_vec()).ok()?;
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if bytes.len() >= end + 4 + length.unwrap_or(0) {
                let body = bytes.split_off(end + 4);
                let path = head.split(' ').nth(1)?.to_owned();
                let signed: Value = serde_json::from_slice(&body).unwrap_or_default();
                let payload = BASE64_URL_SAFE_NO_PAD.decode(signed["payload"].as_str().unwrap_or_default()).ok()?;
                let payload = serde_json::from_slice(&payload).unwrap_or_default();
                return Some(Asked { path, payload, head, body });
            }
        }
        match stream.read(&mut piece).ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}
