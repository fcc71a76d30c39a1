//! One static file that needs nothing of the host: no loader, no library, no certificates, no name service modules.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::support::authority::Authority;
use super::support::aws::{Cloud, REGION};
use super::support::child;
use super::support::exchange::exchange;
use super::support::namespace::{has, lack, unshare};
use super::support::perch::{binary, free_port, wait};

/// Of the release binary, in bytes.
const SIZE_LIMIT: u64 = 20 << 20;

/// The release binary where there is one, which `PERCH_RELEASE` may name; else the one under test, linked alike.
pub fn release() -> PathBuf {
    let beside = || binary().ancestors().nth(2).map(|target| target.join("release/perch"));
    let named = std::env::var_os("PERCH_RELEASE").map(PathBuf::from);
    named.or_else(beside).filter(|path| path.exists()).unwrap_or_else(|| binary().to_owned())
}

/// What an ELF file asks of a loader: the kinds of its program headers, and the tags of its dynamic section.
///
/// Source: elf(5).
fn loaded(bytes: &[u8]) -> (Vec<u32>, Vec<u64>) {
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01", "64 bits, little-endian");
    let half = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let offset = |at: usize| usize::try_from(long(at)).unwrap();
    let (first, size, count) = (offset(0x20), half(0x36), half(0x38));
    let mut kinds = Vec::new();
    let mut tags = Vec::new();
    for header in (0..count).map(|number| first + number * size) {
        let kind = u32::from_le_bytes(bytes[header..header + 4].try_into().unwrap());
        kinds.push(kind);
        if kind == PT_DYNAMIC {
            let (begin, length) = (offset(header + 0x08), offset(header + 0x20));
            tags.extend((begin..begin + length).step_by(16).map(long).take_while(|tag| *tag != 0));
        }
    }
    (kinds, tags)
}

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;

#[test]
fn it_asks_for_no_loader_and_no_library() {
    let path = release();
    let bytes = std::fs::read(&path).unwrap();
    let (kinds, tags) = loaded(&bytes);
    assert!(!kinds.contains(&PT_INTERP), "{} has an interpreter", path.display());
    assert!(!tags.contains(&DT_NEEDED), "{} needs a library", path.display());
    // The test would not notice if it could not read: this binary is no static one, or is, but not both.
    assert!(kinds.contains(&1), "{kinds:?}");
    if path == binary() {
        lack("there is no release binary to weigh");
    } else {
        assert!(bytes.len() as u64 <= SIZE_LIMIT, "{} has {} bytes", path.display(), bytes.len());
    }
}

/// Where the stand-ins are by name. moto takes the first word of most names for a bucket's, but not of these.
const DOMAIN: &str = "perch.svc.cluster.local";

/// Answers every question about an address with this machine's own, as a resolver on port 53 does.
fn resolver() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            // RFC 1035: a header of 12 bytes, the name as labels, type and class.
            let name = question[12..length].iter().position(|byte| *byte == 0).unwrap() + 13;
            let is_address = question[name..name + 2] == [0, 1];
            let mut answer = question[..name + 4].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
            if is_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
}

#[test]
fn in_an_empty_root_it_starts_resolves_names_and_speaks_tls() {
    // Nothing outlives the namespace of processes: not what the daemon under strace is left with, either.
    let kinds = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let Some(mut words) = unshare(&kinds) else { return };
    if !has("ip") || !has("chroot") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // Everything happens in a network of its own, stand-ins included: there the test may have port 53.
    let test = std::env::current_exe().unwrap();
    words.extend(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh", test.to_str().unwrap()].map(str::to_owned));
    words.extend(child::arguments("static_binary::empty_root").map(str::to_owned));
    let output = Command::new(&words[0])
        .args(&words[1..])
        .env(child::DIRECTORY, directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Killed when the test is over, however that is.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already, where all went well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "part of the test above, in namespaces of its own"]
fn empty_root() {
    let Some(directory) = child::directory() else { return };
    resolver();
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&format!("*.{DOMAIN}"));
    let [certificate_path, key_path] = ["certificate.pem", "key.pem"].map(|name| directory.join(name));
    std::fs::write(&certificate_path, certificate).unwrap();
    std::fs::write(&key_path, key).unwrap();
    let cloud = Cloud::start_with_tls(&certificate_path, &key_path);
    let bucket = cloud.create_bucket(true);
    let (secret, _) = cloud.create_secret("bot", "{\"DISCORD_BOT_TOKEN\": \"nobody's\"}");
    let (port, nobody) = (free_port(), free_port());
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[discord]\napi_url = \"http://127.0.0.1:{nobody}\"\ntoken = {{ secret = \
         \"{secret}\", key = \"DISCORD_BOT_TOKEN\" }}\n"
    );
    let version = cloud.put_object(&bucket, "perch.toml", text);

    let root = directory.join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::copy(release(), root.join("perch")).unwrap();
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    // One name is in the hosts file, the others are the resolver's.
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost metadata.perch.hosts\n").unwrap();
    std::fs::write(root.join("ca.pem"), authority.pem()).unwrap();
    let address = |name: &str, url: &str| {
        let (scheme, rest) = url.split_once("://").unwrap();
        format!("{scheme}://{name}:{}", rest.rsplit_once(':').unwrap().1)
    };
    let trace = directory.join("trace");
    let mut command = if has("strace") {
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-s",
            "256",
            "-e",
            "trace=execve,open,openat,openat2",
            "-o",
            trace.to_str().unwrap(),
            "chroot",
        ]);
        command
    } else {
        Command::new("chroot")
    };
    let daemon = command
        .arg(&root)
        .args(["/perch", "run", "--config", &format!("s3://{bucket}/perch.toml"), "--log", "json"])
        .args(["--state-dir", "/state", "--runtime-dir", "/run"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("AWS_REGION", REGION)
        .env("AWS_ENDPOINT_URL_S3", address(&format!("s3.{DOMAIN}"), &cloud.url()))
        .env("AWS_ENDPOINT_URL_SECRETS_MANAGER", address(&format!("secrets.{DOMAIN}"), &cloud.url()))
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", address("metadata.perch.hosts", &cloud.metadata_url()))
        .env("SSL_CERT_FILE", "/ca.pem")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut daemon = Daemon(daemon);
    wait("the daemon to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
    assert_eq!(exchange("GET", &format!("http://127.0.0.1:{port}/health"), &[], b"").status, 200);
    let asked = cloud.requests();
    assert!(asked.iter().any(|asked| asked.action.ends_with("GetSecretValue")), "{asked:?}");
    assert!(cloud.credentials_handed_out() > 0);
    // Its own verb finds it, in the same empty root.
    let status =
        Command::new("chroot").arg(&root).args(["/perch", "status", "--json", "--runtime-dir", "/run"]).output();
    let status: serde_json::Value = serde_json::from_slice(&status.unwrap().stdout).unwrap();
    assert_eq!(status["config"]["version"], version, "{status:#}");
    let pid = status["perch"]["pid"].as_u64().unwrap().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    wait("its end", || daemon.0.try_wait().unwrap());
    if trace.exists() {
        opened_no_library(&trace);
    }
}

/// What was opened once perch itself ran: chroot and strace are the host's own.
fn opened_no_library(trace: &Path) {
    let text = std::fs::read_to_string(trace).unwrap();
    let own: Vec<&str> = text.lines().skip_while(|line| !line.contains("execve(\"/perch\"")).collect();
    for file in ["/etc/resolv.conf", "/etc/hosts", "/ca.pem"] {
        assert!(own.iter().any(|line| line.contains(file)), "it did not look into {file}:\n{text}");
    }
    let libraries: Vec<_> = own.iter().filter(|line| line.contains(".so")).collect();
    assert!(libraries.is_empty(), "{libraries:#?}");
}
