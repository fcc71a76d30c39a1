//! Certificates from an ACME server: ordered, renewed, kept, and what happens where that fails.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::authority::Authority;
use crate::support::exchange::exchange;
use crate::support::pebble::Pebble;
use crate::support::perch::{Perch, Start, free_port, wait};

mod meddled;

/// A perch that orders its certificate from a pebble.
struct Host {
    pebble: Pebble,
    http: u16,
    https: u16,
}

impl Host {
    /// Nothing of it is started.
    fn new() -> Host {
        let (http, https) = (free_port(), free_port());
        Host { pebble: Pebble::new(http, https), http, https }
    }

    fn configuration(&self, domains: &[&str], challenge: &str) -> String {
        let (http, https, directory) = (self.http, self.https, self.pebble.directory_url());
        format!(
            "[http]\nlisten = \"127.0.0.1:{http}\"\n[http.tls]\nlisten = \"127.0.0.1:{https}\"\n[http.tls.acme]\n\
             directory = \"{directory}\"\ndomains = {domains:?}\nchallenge = \"{challenge}\"\nemail = \
             \"admin@example.org\"\n[reload]\npoll = \"1s\"\nbake = \"0s\"\n"
        )
    }

    fn start(&self, domains: &[&str], challenge: &str) -> Perch {
        Start::with_text(&self.configuration(domains, challenge)).env([self.pebble.trust()]).ready()
    }

    /// What `GET /health` at HTTPS as `name` is answered, trusting what signs at the pebble.
    fn get(&self, name: &str) -> String {
        let root = tempfile::NamedTempFile::new().unwrap();
        self.pebble.write_root(root.path());
        self.get_trusting(root.path(), name)
    }

    fn get_trusting(&self, root: &Path, name: &str) -> String {
        let (resolve, url) =
            (format!("{name}:{}:127.0.0.1", self.https), format!("https://{name}:{}/health", self.https));
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "--fail",
            "--max-time",
            "20",
            "--cacert",
            root.to_str().unwrap(),
            "--resolve",
            &resolve,
            &url,
        ]);
        String::from_utf8(command.stdin(Stdio::null()).output().unwrap().stdout).unwrap()
    }

    /// The status that the page without TLS is answered with.
    fn plain(&self) -> String {
        let url = format!("http://127.0.0.1:{}/", self.http);
        let output = Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Waits until there is a certificate for these names.
#[track_caller]
fn wait_certificate(perch: &Perch, names: &[&str]) -> Value {
    let status = perch.wait_status("a certificate", |status| status["http"]["tls"]["names"] == json!(names));
    status["http"]["tls"].clone()
}

/// The file in the state directory that ends like this, below `acme/`.
fn kept(perch: &Perch, ending: &str) -> PathBuf {
    let mut found = Vec::new();
    for server in std::fs::read_dir(perch.directory().join("state/acme")).unwrap() {
        let files = std::fs::read_dir(server.unwrap().path()).unwrap().map(|file| file.unwrap().path());
        found.extend(files.filter(|file| file.to_str().is_some_and(|file| file.ends_with(ending))));
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Ends it, does what is to be done meanwhile, and starts it again in the same directories.
fn restarted(mut perch: Perch, meanwhile: impl FnOnce()) -> Perch {
    assert!(perch.stop().success(), "{}", perch.log_text());
    let start = perch.again();
    meanwhile();
    start.ready()
}

/// What Prometheus reads.
fn metrics(perch: &Perch) -> String {
    let socket = perch.runtime_dir().join("admin.sock");
    let arguments = ["-sS", "--unix-socket", socket.to_str().unwrap(), "http://perch/metrics"];
    String::from_utf8(Command::new("curl").args(arguments).output().unwrap().stdout).unwrap()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The first certificate, and a restart while the server is away.
fn ordered_once(challenge: &str) {
    let mut host = Host::new();
    host.pebble.start();
    let names = ["chat.test", "talk.test", "www.chat.test"];
    let mut perch = host.start(&names, challenge);
    let tls = wait_certificate(&perch, &names);
    for name in names {
        assert_eq!(host.get(name), "ok\n", "{name}: {}", perch.log_text());
    }
    assert_eq!(host.plain(), "308");
    // A pebble's certificate runs for five years.
    let (until, next) = (tls["not_after"].as_u64().unwrap(), tls["next"].as_u64().unwrap());
    let life = until - seconds(SystemTime::now());
    let share = (next - seconds(SystemTime::now())) * 100 / life;
    assert!((66..71).contains(&share), "renewed after {share} % of its life");
    assert!(tls["issuer"].as_str().unwrap().starts_with("Pebble Intermediate CA"), "{tls}");
    let shown = String::from_utf8(perch.verb(&["status"]).stdout).unwrap();
    assert!(shown.contains("certificate for chat.test, talk.test, www.chat.test by Pebble Intermediate CA"), "{shown}");
    assert!(shown.contains("the next is ordered 20"), "{shown}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for ending in ["account.json", ".pem"] {
        assert_eq!(mode(&kept(&perch, ending)), 0o600);
    }
    assert_eq!(mode(&perch.directory().join("state/acme")), 0o700);
    // What was shown to the server is not shown any more, and nothing of it is in the log.
    assert!(!perch.log_text().contains("PRIVATE KEY"));

    // A restart orders nothing: with the server away, HTTPS is there at once.
    let root = perch.directory().join("root.pem");
    host.pebble.write_root(&root);
    host.pebble.stop();
    let orders = host.pebble.orders();
    perch = restarted(perch, || ());
    assert_eq!(host.get_trusting(&root, "chat.test"), "ok\n");
    assert_eq!(perch.status()["http"]["tls"]["next"], tls["next"]);
    assert_eq!((host.pebble.orders(), orders), (1, 1));
    assert_eq!(perch.messages("WARN"), Vec::<String>::new());
}

#[test]
fn a_certificate_for_several_names_is_ordered_once_with_tls_alpn_01() {
    ordered_once("tls-alpn-01");
}

#[test]
fn a_certificate_for_several_names_is_ordered_once_with_http_01() {
    ordered_once("http-01");
}

#[test]
fn a_certificate_is_renewed_while_it_is_served() {
    let mut host = Host::new();
    host.pebble.start();
    let perch = host.start(&["chat.test"], "tls-alpn-01");
    wait_certificate(&perch, &["chat.test"]);
    // As it will be one day: two thirds of its life are over in a few seconds. And the server was set up anew meanwhile,
    // and knows no account.
    let file = kept(&perch, ".pem");
    let perch = restarted(perch, || {
        let old = Authority::new();
        let since = SystemTime::now() - Duration::from_secs(55);
        let (cert, key) = old.issue_for(&["chat.test"], since, Duration::from_secs(90));
        std::fs::write(&file, key + &cert).unwrap();
        std::fs::write(file.with_file_name("old.pem.txt"), old.pem()).unwrap();
        host.pebble.stop();
        host.pebble.start();
    });
    assert_eq!(host.get_trusting(&file.with_file_name("old.pem.txt"), "chat.test"), "ok\n");
    assert_eq!(host.pebble.orders(), 1);
    perch.wait_status("the new one", |status| {
        status["http"]["tls"]["issuer"].as_str().is_some_and(|issuer| issuer.starts_with("Pebble"))
    });
    assert_eq!((host.get("chat.test"), host.pebble.orders()), ("ok\n".to_owned(), 2));
    assert_eq!(perch.messages("WARN"), Vec::<String>::new());
}

#[test]
fn another_list_of_names_is_ordered_while_the_old_certificate_is_served() {
    let mut host = Host::new();
    host.pebble.start();
    let perch = host.start(&["chat.test"], "tls-alpn-01");
    wait_certificate(&perch, &["chat.test"]);
    let root = perch.directory().join("root.pem");
    host.pebble.write_root(&root);
    host.pebble.stop();
    std::fs::write(perch.config_path(), host.configuration(&["talk.test", "chat.test"], "http-01")).unwrap();
    assert!(perch.verb(&["reload"]).status.success());
    let trouble = |status: &Value| status["http"]["tls"]["trouble"].is_string();
    perch.wait_status("a server that is away", trouble);
    assert_eq!(host.get_trusting(&root, "chat.test"), "ok\n");
    // Also by a process that begins with that.
    let perch = restarted(perch, || ());
    assert_eq!(host.get_trusting(&root, "chat.test"), "ok\n");
    host.pebble.start();
    wait_certificate(&perch, &["talk.test", "chat.test"]);
    assert_eq!((host.get("talk.test"), host.get("chat.test")), ("ok\n".to_owned(), "ok\n".to_owned()));
}

#[test]
fn a_name_that_leads_elsewhere_leaves_http_serving_and_is_tried_within_the_limits() {
    let mut host = Host::new();
    host.pebble.start();
    // Nobody is there.
    host.pebble.lead("chat.test", "127.0.0.127");
    let perch = host.start(&["chat.test"], "http-01");
    let status = perch.wait_status("a failure", |status| status["http"]["tls"]["trouble"].is_string());
    assert_eq!((status["services"]["http"]["state"].as_str(), &*host.plain()), (Some("running"), "200"));
    let left = status["http"]["tls"]["next"].as_u64().unwrap() - seconds(SystemTime::now());
    assert!((50..=67).contains(&left), "{left} s");
    let warnings = perch.messages("WARN");
    let expected = format!(
        "no certificate for chat.test could be had from {}, which is tried again, and HTTP is served meanwhile: the server \
         could not see that the names lead here (chat.test: ",
        host.pebble.directory_url()
    );
    assert!(warnings.len() == 1 && warnings[0].starts_with(&expected), "{warnings:#?}");
    assert!(warnings[0].ends_with("see that port 80 of each name leads to http.listen"), "{warnings:#?}");
    let shown = String::from_utf8(perch.verb(&["status"]).stdout).unwrap();
    assert!(
        shown.contains(&format!("no certificate yet from {}; HTTP is served", host.pebble.directory_url())),
        "{shown}"
    );
    assert!(
        shown.contains("no certificate could be had: the server could not see") && shown.contains("; tried again 20")
    );
    // Neither a restart nor somebody in a hurry is a way around the wait.
    let perch = restarted(perch, || ());
    assert!(perch.verb(&["reload"]).status.success());
    perch.wait_status("the same failure", |status| status["http"]["tls"]["trouble"].is_string());
    assert_eq!(host.pebble.orders(), 1);
    // A day of failures later, the name leads here.
    host.pebble.lead("chat.test", "127.0.0.1");
    let tries = perch.directory().join("state/acme");
    let perch = restarted(perch, || {
        let server = std::fs::read_dir(tries).unwrap().next().unwrap().unwrap().path();
        let files = std::fs::read_dir(server).unwrap().map(|file| file.unwrap().path());
        let file = files.into_iter().find(|file| file.to_str().unwrap().contains("chat.test-")).unwrap();
        let mut tries: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(tries["failures"], 1);
        tries["failures"] = json!(5);
        tries["last"] = json!(seconds(SystemTime::now()) - 1_000);
        tries["wait"] = json!(86_400);
        std::fs::write(&file, tries.to_string()).unwrap();
    });
    let next = perch.status()["http"]["tls"]["next"].as_u64().unwrap();
    assert!(next > seconds(SystemTime::now()) + 80_000, "{next}");
    // Whoever mended it does not want to wait for tomorrow, and the last try is long ago.
    assert!(perch.verb(&["reload"]).status.success());
    wait_certificate(&perch, &["chat.test"]);
    assert_eq!((host.get("chat.test"), &*host.plain(), host.pebble.orders()), ("ok\n".to_owned(), "308", 2));
}

#[test]
fn a_server_that_is_away_leaves_http_serving_and_is_asked_again() {
    let mut host = Host::new();
    let perch = host.start(&["chat.test"], "tls-alpn-01");
    let status = perch.wait_status("a failure", |status| status["http"]["tls"]["trouble"].is_string());
    assert_eq!((status["services"]["http"]["state"].as_str(), &*host.plain()), (Some("running"), "200"));
    assert_eq!(status["changes"][0]["outcome"], "applied");
    let warnings = perch.messages("WARN");
    assert!(warnings.len() == 1 && warnings[0].contains("can't be asked: Connection refused"), "{warnings:#?}");
    // Meanwhile TLS can't be spoken, and who tries is told so at once.
    assert_eq!(host.get_trusting(Path::new("/dev/null"), "chat.test"), "");
    host.pebble.start();
    wait_certificate(&perch, &["chat.test"]);
    assert_eq!((host.get("chat.test"), &*host.plain()), ("ok\n".to_owned(), "308"));
    assert_eq!(perch.messages("WARN").len(), 1);
}

#[test]
fn a_server_that_says_when_to_come_again_is_obeyed() {
    let host = Host::new();
    let authority = Authority::new();
    let (cert, key) = authority.issue("127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/dir", listener.local_addr().unwrap());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let (cert, key) = (pem(&cert), rustls_pki_types::pem::PemObject::from_pem_slice(key.as_bytes()).unwrap());
    let config = Arc::new(config.with_single_cert(cert, key).unwrap());
    // One answer is all that it may be asked for.
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(config).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        let mut request = [0; 1_024];
        let read = stream.read(&mut request).unwrap();
        let body = r#"{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "come back later"}"#;
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7200\r\nContent-Type: application/problem+json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let start = Start::with_text(
        &host.configuration(&["chat.test"], "tls-alpn-01").replace(&host.pebble.directory_url(), &url),
    );
    let trust = start.directory().join("trust.pem");
    std::fs::write(&trust, authority.pem()).unwrap();
    let perch = start.env([("SSL_CERT_FILE".to_owned(), trust.to_str().unwrap().to_owned())]).ready();
    let status = perch.wait_status("a failure", |status| status["http"]["tls"]["trouble"].is_string());
    let left = status["http"]["tls"]["next"].as_u64().unwrap() - seconds(SystemTime::now());
    assert!((7_150..=7_201).contains(&left), "{left} s: {status:#}");
    assert!(server.join().unwrap().starts_with("GET /dir HTTP/1.1\r\n"));
}

fn pem(text: &str) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::unwrap).collect()
}

#[test]
fn where_nothing_can_be_written_the_certificate_is_kept_in_memory() {
    let mut host = Host::new();
    host.pebble.start();
    let start = Start::with_text(&host.configuration(&["chat.test"], "tls-alpn-01")).env([host.pebble.trust()]);
    // A file where the directory would be is in the way of root as well.
    std::fs::create_dir(start.directory().join("state")).unwrap();
    std::fs::write(start.directory().join("state/acme"), "").unwrap();
    let perch = start.ready();
    wait_certificate(&perch, &["chat.test"]);
    assert_eq!(host.get("chat.test"), "ok\n");
    let warnings = perch.messages("WARN");
    let expected = "what belongs to the certificate is kept in memory alone until it can be written, and a restart orders it \
                    anew: ";
    assert!(warnings.len() == 1 && warnings[0].starts_with(expected), "{warnings:#?}");
}

#[test]
fn of_several_names_the_one_that_leads_elsewhere_is_named() {
    let mut host = Host::new();
    host.pebble.start();
    host.pebble.lead("lost.test", "127.0.0.127");
    let perch = host.start(&["chat.test", "lost.test", "talk.test"], "http-01");
    let status = perch.wait_status("a failure", |status| status["http"]["tls"]["trouble"].is_string());
    let trouble = status["http"]["tls"]["trouble"].as_str().unwrap();
    assert!(trouble.contains("names lead here (lost.test: ") && !trouble.contains("chat.test: "), "{trouble}");
    let shown = String::from_utf8(perch.verb(&["status"]).stdout).unwrap();
    assert!(shown.contains("; failed 20") && shown.contains("; tried again 20"), "{shown}");
    let metrics = metrics(&perch);
    assert!(metrics.contains("\nperch_certificate_order_failures 1\n"), "{metrics}");
    assert!(!metrics.contains("perch_certificate_expiry_seconds"), "{metrics}");
}

#[test]
fn a_damaged_account_and_a_damaged_certificate_cost_one_warning_each_and_nothing_is_lost() {
    let mut host = Host::new();
    host.pebble.start();
    let mut perch = host.start(&["chat.test"], "tls-alpn-01");
    wait_certificate(&perch, &["chat.test"]);
    let metrics = metrics(&perch);
    assert!(metrics.contains("\nperch_certificate_expiry_seconds ") && metrics.contains("_order_failures 0\n"));
    let file = kept(&perch, ".pem");
    let account = file.with_file_name("account.json");
    let mut key: Value = serde_json::from_slice(&std::fs::read(&account).unwrap()).unwrap();
    // Text that is no key, and no text at all.
    key["credentials"]["key_pkcs8"] = json!("AAAA");
    for (number, damage) in [key.to_string(), "{\"cut".to_owned()].into_iter().enumerate() {
        perch = restarted(perch, || {
            let whole = std::fs::read(&file).unwrap();
            std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
            std::fs::write(&account, &damage).unwrap();
        });
        wait_certificate(&perch, &["chat.test"]);
        assert_eq!(host.get("chat.test"), "ok\n");
        let warnings = perch.messages("WARN");
        let about = |what: &str| warnings.iter().filter(|text| text.contains(what)).count();
        assert_eq!((about("a certificate in the state directory is damaged"), about("the account's key at")), (1, 1));
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        let names = std::fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        let aside = names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("account-until-"));
        let aside: Vec<_> = aside.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        assert!(aside.contains(&damage) && aside.len() == number + 1, "{aside:?}");
    }
}

#[test]
fn files_give_way_to_acme_and_come_back_while_connections_stay_open() {
    let mut host = Host::new();
    host.pebble.start();
    let authority = Authority::new();
    let (cert, key) = authority.issue("chat.test");
    let ordered = host.configuration(&["chat.test"], "tls-alpn-01");
    let start = Start::with_text("");
    let path = |name: &str| start.directory().join(name).to_str().unwrap().to_owned();
    let (from, rest) = ordered.split_once("[http.tls.acme]\n").unwrap();
    let rest = &rest[rest.find("[reload]").unwrap()..];
    let written = format!("{from}cert = \"{}\"\nkey = \"{}\"\n{rest}", path("cert.pem"), path("key.pem"));
    for (name, text) in
        [("cert.pem", &cert), ("key.pem", &key), ("root.pem", &authority.pem()), ("perch.toml", &written)]
    {
        std::fs::write(path(name), text).unwrap();
    }
    let own_root = PathBuf::from(path("root.pem"));
    let perch = start.env([host.pebble.trust()]).ready();
    wait("the files' own", || (host.get_trusting(&own_root, "chat.test") == "ok\n").then_some(()));
    let mut open = Vec::new();
    let connect = |roots: &str| {
        let mut trusted = rustls::RootCertStore::empty();
        for root in pem(roots) {
            trusted.add(root).unwrap();
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let name = rustls_pki_types::ServerName::try_from("chat.test").unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        rustls::StreamOwned::new(connection, std::net::TcpStream::connect(("127.0.0.1", host.https)).unwrap())
    };
    let answers = |stream: &mut rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>| {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: chat.test\r\n\r\n").unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        // The rest of it, which is short.
        assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
    };
    open.push(connect(&authority.pem()));
    open.iter_mut().for_each(answers);
    std::fs::write(perch.config_path(), &ordered).unwrap();
    assert!(perch.verb(&["reload"]).status.success());
    perch.wait_status("the ordered one", |status| {
        status["http"]["tls"]["issuer"].as_str().is_some_and(|issuer| issuer.starts_with("Pebble"))
    });
    assert_eq!(host.get("chat.test"), "ok\n");
    let root = tempfile::NamedTempFile::new().unwrap();
    host.pebble.write_root(root.path());
    open.push(connect(&std::fs::read_to_string(root.path()).unwrap()));
    open.iter_mut().for_each(answers);
    std::fs::write(perch.config_path(), &written).unwrap();
    assert!(perch.verb(&["reload"]).status.success());
    wait("the files' own", || (host.get_trusting(&own_root, "chat.test") == "ok\n").then_some(()));
    open.iter_mut().for_each(answers);
    let status = perch.wait_status("nothing more to come", |status| status["http"]["tls"]["next"].is_null());
    assert!(status["http"]["tls"]["trouble"].is_null(), "{status:#}");
    assert_eq!((perch.messages("WARN"), host.pebble.orders()), (Vec::<String>::new(), 1));
}
