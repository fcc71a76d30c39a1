//! Pebble, the ACME server that Let's Encrypt tests clients with, and the DNS that it asks.

use std::fs::File;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::authority::Authority;
use super::exchange::exchange;
use super::perch::{free_port, wait};

/// It takes nothing that RFC 8555 does not allow, and refuses one nonce in twenty, as the protocol permits.
pub struct Pebble {
    directory: TempDir,
    port: u16,
    management: u16,
    dns: Child,
    dns_control: u16,
    server: Option<Child>,
}

/// Ends with the test.
fn end(child: &mut Child) {
    // Already gone where the test ended it.
    drop(child.kill());
    drop(child.wait());
}

impl Drop for Pebble {
    fn drop(&mut self) {
        end(&mut self.dns);
        self.stop();
    }
}

impl Pebble {
    /// One that looks for challenges at these ports of this machine, where every name leads. It is not started.
    pub fn new(http: u16, https: u16) -> Pebble {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (cert, key) = authority.issue("127.0.0.1");
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("trust.pem"), authority.pem()).unwrap();
        std::fs::write(path("cert.pem"), cert).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        let (port, management, dns_port, dns_control) = (free_port(), free_port(), free_port(), free_port());
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("cert.pem"),
            "privateKey": path("key.pem"),
            "httpPort": http,
            "tlsPort": https,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        std::fs::write(path("dns"), format!("127.0.0.1:{dns_port}")).unwrap();
        let dns = Command::new("pebble-challtestsrv")
            .args(["-dns01", &format!("127.0.0.1:{dns_port}"), "-management", &format!("127.0.0.1:{dns_control}")])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
            .stdin(Stdio::null())
            .stdout(File::create(path("dns.log")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait("DNS", || TcpStream::connect((Ipv4Addr::LOCALHOST, dns_control)).ok());
        Pebble { directory, port, management, dns, dns_control, server: None }
    }

    pub fn start(&mut self) {
        let dns = std::fs::read_to_string(self.path("dns")).unwrap();
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let server = Command::new("pebble")
            .args(["-strict", "-dnsserver", &dns, "-config", self.path("config.json").to_str().unwrap()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        wait("pebble", || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok());
    }

    /// It forgets everything: accounts, orders, and the key that it signs with.
    pub fn stop(&mut self) {
        if let Some(server) = &mut self.server {
            end(server);
        }
        self.server = None;
    }

    pub fn directory_url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What its clients have to trust to talk with it.
    pub fn trust(&self) -> (String, String) {
        ("SSL_CERT_FILE".to_owned(), self.path("trust.pem").to_str().unwrap().to_owned())
    }

    /// Writes what browsers would have to trust to take its certificates.
    pub fn write_root(&self, path: &std::path::Path) {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let output = Command::new("curl").args(["-sSk", "--fail", &url]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::write(path, output.stdout).unwrap();
    }

    /// From now on `name` leads to `address`.
    pub fn lead(&self, name: &str, address: &str) {
        let body = json!({ "host": format!("{name}."), "addresses": [address] }).to_string();
        for step in ["clear-a", "add-a"] {
            let url = format!("http://127.0.0.1:{}/{step}", self.dns_control);
            assert_eq!(exchange("POST", &url, &[], body.as_bytes()).status, 200);
        }
    }

    /// How many orders it was asked for, wrong nonces not counted.
    pub fn orders(&self) -> usize {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("Added order ")).count()
    }
}
