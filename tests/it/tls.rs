//! HTTPS with a certificate in files, asked by the clients that people use.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::metrics::page;
use crate::support::authority::Authority;
use crate::support::aws::Cloud;
use crate::support::perch::{Perch, Start, clean_command, free_port, perch, wait};

use serde_json::json;

mod connections;
mod hostile;
mod refusals;

/// A perch with HTTP and HTTPS, and the authority that its certificates are by.
pub struct Host {
    pub authority: Authority,
    pub http: u16,
    pub https: u16,
    pub perch: Perch,
}

/// The configuration for these ports with the certificate in `cert.pem` and `key.pem` of `directory`.
fn configuration(directory: &std::path::Path, http: u16, https: u16) -> String {
    format!(
        "[http]\nlisten = \"127.0.0.1:{http}\"\n[http.tls]\nlisten = \"127.0.0.1:{https}\"\ncert = \"{0}/cert.pem\"\nkey = \
         \"{0}/key.pem\"\n[reload]\npoll = \"1s\"\nbake = \"0s\"\n",
        directory.display()
    )
}

impl Host {
    pub fn start() -> Host {
        let authority = Authority::new();
        let (http, https) = (free_port(), free_port());
        let start = Start::with_text("");
        let directory = start.directory().to_owned();
        std::fs::write(directory.join("perch.toml"), configuration(&directory, http, https)).unwrap();
        std::fs::write(directory.join("authority.pem"), authority.pem()).unwrap();
        let (cert, key) = authority.issue("chat.test");
        std::fs::write(directory.join("cert.pem"), cert).unwrap();
        std::fs::write(directory.join("key.pem"), key).unwrap();
        Host { authority, http, https, perch: start.ready() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.perch.directory().join(name)
    }

    /// Puts a certificate for these names in place, as certbot does: each file replaced whole, one after the other.
    pub fn certify(&self, names: &[&str]) {
        let (cert, key) =
            self.authority.issue_for(names, SystemTime::now() - Duration::from_secs(60), Duration::from_hours(2_000));
        for (name, text) in [("cert.pem", cert), ("key.pem", key)] {
            std::fs::write(self.path("new"), text).unwrap();
            std::fs::rename(self.path("new"), self.path(name)).unwrap();
        }
    }

    /// `curl` at HTTPS as `name`, trusting the authority and nobody else.
    pub fn curl(&self, name: &str, arguments: &[&str]) -> Output {
        let resolve = format!("{name}:{}:127.0.0.1", self.https);
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--cacert", self.path("authority.pem").to_str().unwrap()]);
        command.args(["--resolve", &resolve]).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What `GET path` at HTTPS as `name` is answered; the empty text where it fails.
    pub fn get(&self, name: &str, path: &str) -> String {
        let output = self.curl(name, &["--fail", &format!("https://{name}:{}{path}", self.https)]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until who asks for `name` is served with a certificate for it.
    #[track_caller]
    pub fn wait_served(&self, name: &str) {
        wait(&format!("a certificate for {name}"), || (self.get(name, "/health") == "ok\n").then_some(()));
    }

    fn s_client(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", self.https), "-servername", "chat.test"])
            .args(["-verify_return_error", "-CAfile", self.path("authority.pem").to_str().unwrap()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_what_is_older_is_not() {
    let host = Host::start();
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let (through, text) = host.s_client(&[version]);
        assert!(through && text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains(&format!("New, {name}, Cipher is ")), "{text}");
    }
    // The client is talked into what it would not do by itself.
    for version in ["-tls1", "-tls1_1"] {
        let (through, text) = host.s_client(&[version, "-cipher", "ALL@SECLEVEL=0"]);
        assert!(
            !through && text.contains("SSL alert number") && text.contains("Cipher is (NONE)"),
            "{version}: {text}"
        );
    }
    let (through, text) = host.s_client(&["-tls1_2", "-cipher", "AES128-SHA:AES128-GCM-SHA256:@SECLEVEL=0"]);
    assert!(!through && text.contains("alert handshake failure"), "without forward secrecy: {text}");
}

#[test]
fn http_2_is_spoken_with_whoever_can() {
    let host = Host::start();
    let url = format!("https://chat.test:{}/api/chat", host.https);
    let ask = |version: &str| {
        let json = ["-H", "Content-Type: application/json", "-d", r#"{"message": "hello"}"#];
        let output = host.curl("chat.test", &[&[version, "-w", " %{http_version}", &url], &json[..]].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (first, second) = (ask("--http2"), ask("--http1.1"));
    assert!(first.starts_with(r#"{"reply":"hello""#) && first.ends_with(" 2"), "{first}");
    assert!(second.starts_with(r#"{"reply":"hello""#) && second.ends_with(" 1.1"), "{second}");
}

#[test]
fn a_head_that_is_too_long_is_refused_with_the_headers_of_all_answers() {
    let host = Host::start();
    let url = format!("https://chat.test:{}/health", host.https);
    // curl's own library sends no longer ones in HTTP/2.
    for (version, lengths) in [
        ("--http1.1", &[20 << 10, 33 << 10, 37 << 10, 110_000][..]),
        ("--http2", &[20 << 10, 33 << 10, 37 << 10, 60_000]),
    ] {
        for length in lengths.iter().copied() {
            let header = format!("a: {}", "b".repeat(length));
            let output = host.curl("chat.test", &["-i", version, "-H", &header, &url]);
            let answer = String::from_utf8_lossy(&output.stdout).to_lowercase();
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert_eq!(status, if length > 32 << 10 { "431" } else { "200" }, "{version} {length}: {answer}");
            for header in [
                "content-security-policy: default-src 'none'",
                "strict-transport-security: max-age=31536000",
                "x-content-type-options: nosniff",
                "x-frame-options: deny",
                "referrer-policy: no-referrer",
                "permissions-policy: accelerometer=()",
                "x-request-id: ",
                "date: ",
            ] {
                assert!(answer.contains(header), "{version} {length}: {header} in {answer}");
            }
        }
    }
    // Whether it asked for anything or not.
    let page = page(&host.perch);
    let refused = page.lines().filter(|line| line.starts_with("perch_http_requests_total") && line.contains("4xx"));
    let counts = refused.filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
    assert_eq!(counts.sum::<u32>(), 6, "{page}");
}

#[test]
fn a_page_at_http_of_the_same_host_writes_nothing_over_https() {
    let host = Host::start();
    let ask = |version: &str, scheme: &str| {
        let url = format!("https://chat.test:{}/api/chat", host.https);
        let origin = format!("Origin: {scheme}://chat.test:{}", host.https);
        let json = ["-H", "Content-Type: application/json", "-d", r#"{"message": "hello"}"#];
        let shown = ["-o", "/dev/null", "-w", "%{http_code}", "-H", &origin, &url];
        let output = host.curl("chat.test", &[&[version], &json[..], &shown].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for version in ["--http1.1", "--http2"] {
        assert_eq!((ask(version, "http"), ask(version, "https")), ("403".to_owned(), "200".to_owned()), "{version}");
    }
}

#[test]
fn http_sends_to_https_and_answers_load_balancers() {
    let host = Host::start();
    let plain = |arguments: &[&str], path: &str| {
        let url = format!("http://127.0.0.1:{}{path}", host.http);
        let output = Command::new("curl").args(["-sSi", "--path-as-is"]).args(arguments).arg(&url).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).replace(&host.https.to_string(), "PORT");
        let kept = |line: &&str| line.starts_with("HTTP/") || line.to_lowercase().starts_with("location");
        text.lines().filter(kept).collect::<Vec<_>>().join(", ")
    };
    let moved = |location: &str| format!("HTTP/1.1 308 Permanent Redirect, location: https://{location}");
    assert_eq!(plain(&["-H", "Host: chat.test"], "/a/b?c=d"), moved("chat.test:PORT/a/b?c=d"));
    assert_eq!(plain(&["-H", "Host: chat.test:80", "-d", "x"], "/api/chat"), moved("chat.test:PORT/api/chat"));
    assert_eq!(plain(&["-H", "Host: [::1]:8080"], "/"), moved("[::1]:PORT/"));
    assert_eq!(
        plain(&["-H", "Host: chat.test"], "//evil.test/%0d%0aX:%20y"),
        moved("chat.test:PORT//evil.test/%0d%0aX:%20y")
    );
    // Whatever stands in the request's first line, nobody is sent to where the host does not say.
    assert_eq!(
        plain(&["-H", "Host: chat.test", "-X", "OPTIONS", "--request-target", "*"], "/"),
        moved("chat.test:PORT/")
    );
    let absolute =
        |host: &str| plain(&["-H", &format!("Host: {host}"), "--request-target", "http://chat.test?a=/b"], "/");
    assert_eq!(absolute("chat.test"), moved("chat.test:PORT/?a=/b"));
    assert_eq!(absolute("evil.test"), "HTTP/1.1 400 Bad Request");
    assert_eq!(plain(&["-H", "Host: chat.test."], "/"), moved("chat.test.:PORT/"));
    for host in
        ["chat.test:80:90", "chat.test/evil.test", "chat.test\\.evil.test", "a b", "[::1", "chat.test, evil.test"]
    {
        assert_eq!(plain(&["-H", &format!("Host: {host}")], "/"), "HTTP/1.1 400 Bad Request", "{host}");
    }
    let mut two = std::net::TcpStream::connect(("127.0.0.1", host.http)).unwrap();
    two.write_all(b"GET / HTTP/1.1\r\nHost: chat.test\r\nHost: evil.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    two.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert_eq!(plain(&["-0", "-H", "Host:"], "/"), "HTTP/1.0 400 Bad Request");
    assert_eq!(plain(&["-H", "Host: chat.test@evil.test"], "/"), "HTTP/1.1 400 Bad Request");
    assert_eq!(plain(&[], "/health"), "HTTP/1.1 200 OK");
    assert_eq!(plain(&[], "/ready"), "HTTP/1.1 200 OK");
    // A browser is told to come by HTTPS alone where it came by it.
    let url = format!("https://chat.test:{}/nothing", host.https);
    let answer = String::from_utf8(host.curl("chat.test", &["-i", "--http1.1", &url]).stdout).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 404") && answer.contains("strict-transport-security: max-age=31536000\r\n"),
        "{answer}"
    );
    let unencrypted =
        Command::new("curl").args(["-si", &format!("http://127.0.0.1:{}/health", host.http)]).output().unwrap();
    assert!(!String::from_utf8_lossy(&unencrypted.stdout).contains("strict-transport-security"));
}

#[test]
fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
    let host = Host::start();
    host.wait_served("chat.test");
    host.certify(&["chat.test", "new.test"]);
    host.wait_served("new.test");
    // The second file never comes: what was served is served on, and one line says so.
    let (cert, key) = host.authority.issue("late.test");
    std::fs::write(host.path("cert.pem"), cert).unwrap();
    let warned = || {
        let warnings = host.perch.messages("WARN");
        warnings.into_iter().filter(|warning| warning.contains("certificate")).collect::<Vec<_>>()
    };
    wait("a warning", || (!warned().is_empty()).then_some(()));
    let expected = format!(
        "the certificate's files changed and will not do, so the old one stays: {} is not the key of the first certificate \
         in the chain",
        host.path("key.pem").display()
    );
    assert_eq!(warned(), [expected.as_str()]);
    assert_eq!(host.get("new.test", "/health"), "ok\n");
    let shown = String::from_utf8(host.perch.verb(&["status"]).stdout).unwrap();
    assert!(shown.contains("certificate for chat.test, new.test by authority"), "{shown}");
    assert!(shown.contains("the files will not do: "), "{shown}");
    // A change of the configuration is not held up by it.
    let text = std::fs::read_to_string(host.perch.config_path()).unwrap();
    std::fs::write(host.perch.config_path(), text + "[log]\nlevel = \"debug\"\n").unwrap();
    assert!(host.perch.verb(&["reload"]).status.success());
    std::fs::write(host.path("key.pem"), key).unwrap();
    host.wait_served("late.test");
    assert_eq!(warned(), [expected.as_str()]);
    let taken = host.perch.messages("INFO").into_iter().filter(|info| info.contains("a new certificate is served"));
    assert_eq!(taken.count(), 3);
}

#[test]
fn a_certificate_that_will_not_do_refuses_the_version_and_says_why() {
    let host = Host::start();
    let refused = |cert: &str, key: &str| {
        let directory = host.perch.directory().to_str().unwrap().to_owned();
        let text = configuration(host.perch.directory(), host.http, host.https);
        let text = text.replace("cert.pem\"", &format!("{cert}\"")).replace("key.pem\"", &format!("{key}\""));
        std::fs::write(host.perch.config_path(), text).unwrap();
        let output = host.perch.verb(&["reload"]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap().replace(&directory, "DIR");
        text.lines().filter(|line| line.contains("http.tls")).map(str::trim).collect::<Vec<_>>().join("\n")
    };
    std::fs::write(host.path("other.pem"), host.authority.issue("chat.test").1).unwrap();
    std::fs::write(host.path("empty.pem"), "").unwrap();
    insta::assert_snapshot!(refused("gone.pem", "key.pem"), @"line 5, http.tls.cert: DIR/gone.pem does not exist");
    insta::assert_snapshot!(refused("cert.pem", "other.pem"), @"line 6, http.tls.key: DIR/other.pem is not the key of the first certificate in the chain");
    insta::assert_snapshot!(refused("empty.pem", "key.pem"), @"line 5, http.tls.cert: DIR/empty.pem holds no certificate in PEM form");
    insta::assert_snapshot!(refused("cert.pem", "cert.pem"), @"line 6, http.tls.key: DIR/cert.pem holds no private key in PEM form that is not encrypted (PKCS #8, PKCS #1 or SEC 1)");
    insta::assert_snapshot!(refused(".", "key.pem"), @"line 5, http.tls.cert: DIR/. is no file of up to 1 MiB");
    assert_eq!(host.get("chat.test", "/health"), "ok\n");
}

#[test]
fn https_comes_and_goes_with_a_reload() {
    let host = Host::start();
    let text = std::fs::read_to_string(host.perch.config_path()).unwrap().replace("\"0s\"", "\"1s\"");
    let plain = format!("[http]\nlisten = \"127.0.0.1:{}\"\n[reload]\npoll = \"1s\"\nbake = \"0s\"\n", host.http);
    std::fs::write(host.perch.config_path(), &plain).unwrap();
    let output = host.perch.verb(&["reload"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("[http.tls]: on → off (rebinds)"), "{said}");
    // The page is at HTTP again, and nobody listens for TLS.
    let page = || {
        let url = format!("http://127.0.0.1:{}/", host.http);
        let output = Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(page(), "200");
    wait("the port to be free", || TcpListener::bind(("127.0.0.1", host.https)).ok());
    std::fs::write(host.perch.config_path(), &text).unwrap();
    assert!(host.perch.verb(&["reload"]).status.success());
    host.wait_served("chat.test");
    assert_eq!(page(), "308");
    // perch asks itself, over TLS as well, before it calls the version good.
    let status = host.perch.wait_status("a verdict", |status| status["config"]["state"] != "baking");
    assert_eq!((&status["config"]["state"], &status["changes"][0]["outcome"]), (&json!("live"), &json!("applied")));
    // What is HTTP can't become HTTPS in one step, as one socket can't be both.
    let swapped = text.replace(&host.http.to_string(), "PORT").replace(&host.https.to_string(), &host.http.to_string());
    std::fs::write(host.perch.config_path(), swapped.replace("PORT", &host.https.to_string())).unwrap();
    let output = host.perch.verb(&["reload"]);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!output.status.success() && said.contains("is where perch answers HTTPS now; go by way of"), "{said}");
}

#[test]
fn a_host_whose_certificate_is_not_there_yet_starts_and_takes_it_when_it_comes() {
    let authority = Authority::new();
    let (http, https) = (free_port(), free_port());
    let start = Start::with_text("");
    let directory = start.directory().to_owned();
    let text = configuration(&directory, http, https).replace("poll = \"1s\"", "poll = \"1s\"\nsecrets = \"10s\"");
    std::fs::write(directory.join("perch.toml"), text).unwrap();
    let mut perch = start.start();
    let status = perch.wait_status("a service that waits", |status| status["services"]["http"]["state"] == "waiting");
    let reason = status["services"]["http"]["reason"].as_str().unwrap();
    assert!(reason.contains("http.tls.cert: ") && reason.ends_with("cert.pem does not exist"), "{reason}");
    let (cert, key) = authority.issue("chat.test");
    std::fs::write(directory.join("key.pem"), key).unwrap();
    std::fs::write(directory.join("cert.pem"), cert).unwrap();
    assert!(perch.verb(&["reload"]).status.success());
    perch.wait_status("a service that runs", |status| status["services"]["http"]["state"] == "running");
    perch.wait_notified("READY=1");
}

#[test]
fn somebody_hears_of_a_certificate_that_expires_or_has() {
    let host = Host::start();
    let put = |left: u64| {
        // Of a life of 1,000 seconds, so many are left.
        let since = SystemTime::now() - Duration::from_secs(1_000 - left);
        let (cert, key) = host.authority.issue_for(&["chat.test"], since, Duration::from_secs(1_000));
        std::fs::write(host.path("cert.pem"), cert).unwrap();
        std::fs::write(host.path("key.pem"), key).unwrap();
    };
    let errors = |count: usize| {
        wait("an error", || Some(host.perch.messages("ERROR")).filter(|errors| errors.len() == count)).pop().unwrap()
    };
    put(60);
    let error = errors(1);
    assert!(error.starts_with("the certificate for chat.test (by authority"), "{error}");
    let remedy = format!("; write a newer one to {}", host.path("cert.pem").display());
    assert!(error.contains(") expires in ") && error.ends_with(&remedy), "{error}");
    put(0);
    let error = errors(2);
    assert!(error.starts_with("browsers refuse the certificate for chat.test (by authority"), "{error}");
    assert!(error.contains(", as it has expired; ") && error.ends_with(&remedy), "{error}");
}

#[test]
fn check_says_what_a_start_would_say_of_the_certificates_files() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let shown_directory = directory.path().to_str().unwrap().to_owned();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("perch.toml"), configuration(directory.path(), 8080, 8443)).unwrap();
    let check = |arguments: &[&str]| {
        let output = perch(&[&["check", path("perch.toml").to_str().unwrap()], arguments].concat());
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap().replace(&shown_directory, "DIR");
        let version: String = text
            .split_once("version")
            .map_or("", |(_, rest)| rest)
            .chars()
            .skip_while(|c| !c.is_ascii_hexdigit())
            .take_while(char::is_ascii_hexdigit)
            .collect();
        format!("{}exit {}", text.replace(&version, "V"), output.status.code().unwrap())
    };
    insta::assert_snapshot!(check(&[]), @r"
    ✗ DIR/perch.toml (version V) has 2 mistakes:
      line 5, http.tls.cert: DIR/cert.pem does not exist
      line 6, http.tls.key: DIR/key.pem does not exist
    exit 78
    ");
    let (cert, key) = authority.issue("chat.test");
    std::fs::write(path("cert.pem"), &cert).unwrap();
    std::fs::write(path("key.pem"), authority.issue("chat.test").1).unwrap();
    insta::assert_snapshot!(check(&[]), @r"
    ✗ DIR/perch.toml (version V) has 1 mistake:
      line 6, http.tls.key: DIR/key.pem is not the key of the first certificate in the chain
    exit 78
    ");
    std::fs::write(path("cert.pem"), "hello").unwrap();
    std::fs::write(path("key.pem"), &key[..key.len() / 2]).unwrap();
    insta::assert_snapshot!(check(&[]), @r"
    ✗ DIR/perch.toml (version V) has 2 mistakes:
      line 5, http.tls.cert: DIR/cert.pem holds no certificate in PEM form
      line 6, http.tls.key: DIR/key.pem is broken PEM
    exit 78
    ");
    std::fs::write(path("cert.pem"), &cert).unwrap();
    std::fs::write(path("key.pem"), &key).unwrap();
    insta::assert_snapshot!(check(&[]), @r"
    ✓ DIR/perch.toml (version V) is good
    exit 0
    ");
    // It would be served, and nobody would take it.
    let now = SystemTime::now();
    let day = Duration::from_hours(24);
    let dated = |since, why: &str| {
        let (cert, key) = authority.issue_for(&["chat.test"], since, day);
        std::fs::write(path("cert.pem"), cert).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        let text = check(&[]);
        assert!(text.starts_with("✓ DIR/perch.toml (version V) is good, with 1 note:\n  line 5, http.tls.cert: DIR/cert.pem holds a certificate for chat.test (by authority"), "{text}");
        assert!(text.contains(why) && text.ends_with(": browsers refuse it\nexit 0"), "{text}");
    };
    dated(now - 2 * day, "), which has expired");
    dated(now + day, "), which is valid from 20");
    let json: serde_json::Value = serde_json::from_str(check(&["--json"]).strip_suffix("exit 0").unwrap()).unwrap();
    assert_eq!((&json["valid"], &json["notes"][0]["key"]), (&json!(true), &json!("http.tls.cert")));
    assert!(!check(&["--json"]).contains(key.lines().nth(1).unwrap()));
}

#[test]
fn check_of_a_configuration_in_s3_notes_that_the_certificate_is_on_another_machine() {
    let cloud = Cloud::start();
    let bucket = cloud.create_bucket(true);
    let directory = tempfile::tempdir().unwrap();
    cloud.put_object(&bucket, "perch.toml", configuration(directory.path(), 8080, 8443));
    let uri = format!("s3://{bucket}/perch.toml");
    let check = || {
        let output = clean_command().args(["check", &uri]).envs(cloud.env()).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let text = text.replace(directory.path().to_str().unwrap(), "DIR");
        let lines = text.lines().filter(|line| line.contains("http.tls")).collect::<Vec<_>>().join("\n");
        format!("{lines}\nexit {}", output.status.code().unwrap())
    };
    insta::assert_snapshot!(check(), @r"
      line 5, http.tls.cert: DIR/cert.pem and DIR/key.pem are not on this machine, so nobody looked at them; perch needs them where it runs
    exit 0
    ");
    // Here is where it runs: one of them is there.
    std::fs::write(directory.path().join("cert.pem"), Authority::new().issue("chat.test").0).unwrap();
    insta::assert_snapshot!(check(), @r"
      line 6, http.tls.key: DIR/key.pem does not exist
    exit 78
    ");
}
