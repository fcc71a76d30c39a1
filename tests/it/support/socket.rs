//! People at a WebSocket: with a client that somebody else wrote, and, where it matters what bytes go over the line, with
//! none.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use super::perch::PATIENCE;

/// The client, and the environment that it runs in.
const CLIENT: &str = "tests/support/websocket_client.py";
const PACKAGE: &str = "websockets==15.0.1";

/// Somebody with the Python library `websockets`. They go away when this is dropped, without a word.
pub struct Person {
    child: Child,
    input: ChildStdin,
    heard: mpsc::Receiver<Value>,
}

impl Person {
    /// Connects to `/api/ws` at this port of 127.0.0.1.
    #[track_caller]
    pub fn connect(port: u16) -> Person {
        let person = Person::try_connect(port, &[]);
        assert_eq!(person.next(), json!(["open"]));
        person
    }

    /// Connects over TLS to this name and port at 127.0.0.1, trusting the authority in this file.
    #[track_caller]
    pub fn connect_tls(name: &str, port: u16, authority: &Path) -> Person {
        let person = Person::spawn(&format!("wss://{name}:{port}/api/ws"), &[], Some(authority));
        assert_eq!(person.next(), json!(["open"]));
        person
    }

    /// The same as [`Person::connect`] with headers; what comes of it is what they hear first.
    pub fn try_connect(port: u16, headers: &[&str]) -> Person {
        Person::spawn(&format!("ws://127.0.0.1:{port}/api/ws"), headers, None)
    }

    fn spawn(url: &str, headers: &[&str], authority: Option<&Path>) -> Person {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let environment = root.join("target/venv-websocket");
        let mut install = Command::new(root.join("tests/venv"));
        let output = install.arg(PACKAGE).env("PERCH_VENV", environment).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "tests/venv: {}", output.status);
        let python = Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("python3");
        let mut client = Command::new(python);
        client.arg(root.join(CLIENT)).arg(url).args(headers);
        client.envs(authority.map(|authority| ("SSL_CERT_FILE", authority)));
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, heard) = mpsc::channel();
        // Ends with the client.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let said = serde_json::from_str(&line).unwrap();
                if sender.send(said).is_err() {
                    break;
                }
            }
        });
        Person { child, input, heard }
    }

    /// Has the client do something: see there.
    pub fn act(&mut self, act: &Value) {
        writeln!(self.input, "{act}").unwrap();
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Value) {
        self.act(&json!(["send", frame.to_string()]));
    }

    /// What the client says next.
    #[track_caller]
    pub fn next(&self) -> Value {
        self.heard.recv_timeout(PATIENCE).expect("something is heard in time")
    }

    /// The next frame.
    #[track_caller]
    pub fn frame(&self) -> Value {
        let said = self.next();
        assert_eq!(said[0], "message", "{said}");
        serde_json::from_str(said[1].as_str().unwrap()).unwrap()
    }

    /// The next frame of this type; how many are in a room may be told in between.
    #[track_caller]
    pub fn frame_of(&self, kind: &str) -> Value {
        loop {
            let frame = self.frame();
            if frame["type"] == kind {
                return frame;
            }
            assert_eq!(frame["type"], "members", "{frame}");
        }
    }

    /// Joins a room.
    #[track_caller]
    pub fn join(&mut self, room: &str, after: Option<u64>) -> Value {
        self.send(&json!({ "type": "join", "room": room, "after": after }));
        self.frame_of("joined")
    }

    /// Says something in a room, and waits until it is said.
    #[track_caller]
    pub fn say(&mut self, room: &str, text: &str) -> Value {
        self.send(&json!({ "type": "say", "room": room, "text": text, "ref": "own" }));
        let message = self.frame_of("message");
        assert_eq!((&message["text"], &message["ref"]), (&json!(text), &json!("own")), "{message}");
        message
    }

    /// Waits until the connection is closed, whatever is said before; the code.
    #[track_caller]
    pub fn closed(&self) -> u64 {
        self.farewell().0
    }

    /// The same with the reason.
    #[track_caller]
    pub fn farewell(&self) -> (u64, String) {
        loop {
            let said = self.next();
            if said[0] == "closed" {
                return (said[1].as_u64().unwrap(), said[2].as_str().unwrap().to_owned());
            }
        }
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // Gone already where it was closed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The opcodes of RFC 6455, section 5.2.
pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
const PONG: u8 = 10;

/// A WebSocket byte by byte.
pub struct Line {
    pub stream: TcpStream,
}

impl Line {
    #[track_caller]
    pub fn open(port: u16) -> Line {
        Line::over(TcpStream::connect(("127.0.0.1", port)).unwrap(), port)
    }

    /// Shakes hands over a connection.
    #[track_caller]
    pub fn over(mut stream: TcpStream, port: u16) -> Line {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let request = format!(
            "GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        // The answer to this key in RFC 6455, section 1.3.
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        Line { stream }
    }

    /// Sends one frame with this first byte, masked as a client's has to be.
    pub fn send(&mut self, first: u8, payload: &[u8]) {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length @ 126..65_536 => {
                frame.push(0x80 | 0x7e);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).unwrap();
    }

    pub fn send_frame(&mut self, frame: &Value) {
        self.send(0x80 | TEXT, frame.to_string().as_bytes());
    }

    /// The next frame's opcode and payload; nothing when the connection has ended.
    #[track_caller]
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("reading a frame: {error}"),
        }
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length).unwrap();
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.stream.read_exact(&mut length).unwrap();
                u64::from_be_bytes(length)
            }
            length => u64::from(length),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).unwrap();
        Some((head[0] & 15, payload))
    }

    /// The next text frame of this type. Pings are answered.
    #[track_caller]
    pub fn frame_of(&mut self, kind: &str) -> Value {
        loop {
            let (opcode, payload) = self.next().expect("a frame");
            if opcode == PING {
                self.send(0x80 | PONG, &payload);
                continue;
            }
            assert_eq!(opcode, TEXT, "{}", String::from_utf8_lossy(&payload));
            let frame: Value = serde_json::from_slice(&payload).unwrap();
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Waits until it is closed; the code.
    #[track_caller]
    pub fn closed(&mut self) -> u16 {
        loop {
            let (opcode, payload) = self.next().expect("a close frame");
            if opcode == CLOSE {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}
