//! Forms with files, as browsers send them, and files as cameras make them, as far as anybody looks who does not open them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::exchange::{Response, exchange};

/// What stands between the parts of a form.
pub const BOUNDARY: &str = "----a-boundary-of-this-test";
/// perch takes no longer to refuse the slowest upload.
const SILENCE: Duration = Duration::from_secs(60);

/// A form that grows part by part.
#[derive(Clone, Default)]
pub struct Form(Vec<u8>);

impl Form {
    /// A form with a message.
    pub fn saying(message: &str) -> Form {
        Form::default().field("message", message)
    }

    pub fn field(self, name: &str, text: &str) -> Form {
        self.part(&format!("Content-Disposition: form-data; name=\"{name}\""), text.as_bytes())
    }

    pub fn file(self, name: &str, media_type: &str, content: &[u8]) -> Form {
        let head =
            format!("Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: {media_type}");
        self.part(&head, content)
    }

    /// A part with whatever head.
    pub fn part(mut self, head: &str, content: &[u8]) -> Form {
        self.0.extend_from_slice(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").as_bytes());
        self.0.extend_from_slice(content);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// The whole body.
    pub fn body(mut self) -> Vec<u8> {
        self.0.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        self.0
    }

    #[track_caller]
    pub fn post(self, port: u16) -> Response {
        post(port, &self.body())
    }

    /// Posts it as whoever got this answer before.
    #[track_caller]
    pub fn post_as(self, before: &Response, port: u16) -> Response {
        let cookie = before.header("Set-Cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie");
        let url = format!("http://127.0.0.1:{port}/api/chat");
        exchange("POST", &url, &[("Content-Type", &content_type()), ("Cookie", cookie)], &self.body())
    }

    /// Posts it and returns the status, and the reply or why there is none.
    #[track_caller]
    pub fn told(self, port: u16) -> String {
        told(&self.post(port))
    }
}

pub fn content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// Posts this as a form.
#[track_caller]
pub fn post(port: u16, body: &[u8]) -> Response {
    exchange("POST", &format!("http://127.0.0.1:{port}/api/chat"), &[("Content-Type", &content_type())], body)
}

/// The status, and the reply or why there is none.
#[track_caller]
pub fn told(answer: &Response) -> String {
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()));
    let text = said["reply"].as_str().or(said["detail"].as_str()).unwrap_or_else(|| panic!("{said}"));
    format!("{}: {text}", answer.status)
}

/// A connection over which a form comes at leisure.
pub struct Upload(TcpStream);

impl Upload {
    /// Sends the head of a request with these lines.
    pub fn begin(port: u16, lines: &str) -> Upload {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let kind = content_type();
        let head = format!(
            "POST /api/chat HTTP/1.1\r\nHost: perch\r\nConnection: close\r\nContent-Type: {kind}\r\n{lines}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        Upload(stream)
    }

    /// Begins one that says how long it is going to be.
    pub fn of(port: u16, length: usize) -> Upload {
        Upload::begin(port, &format!("Content-Length: {length}"))
    }

    /// Sends some of it; whoever has had enough is heard by [`answer`](Self::answer).
    pub fn send(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes));
    }

    /// Sends one chunk; the empty one is the last.
    pub fn chunk(&mut self, bytes: &[u8]) {
        self.send(&[format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat());
    }

    /// Ends what is sent, in the middle or not.
    pub fn leave(&self) {
        self.0.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Reads the answer: its status and its body.
    #[track_caller]
    pub fn answer(mut self) -> (u16, String) {
        let mut answer = Vec::new();
        self.0.read_to_end(&mut answer).unwrap_or_else(|error| panic!("no answer: {error}"));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer but {answer:?}"));
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    [&u32::try_from(data.len()).unwrap().to_be_bytes(), &kind[..], data, &[0; 4]].concat()
}

/// A PNG of so many pixels, as its header says, and `length` bytes, as it is.
pub fn png(width: u32, height: u32, length: usize) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 6, 0, 0, 0]].concat();
    let frame = 8 + 25 + 12 + 12;
    // Bytes that no run of zeros stands for, wherever they are kept.
    let pixels: Vec<u8> = (0..length.saturating_sub(frame)).map(|at| at.to_le_bytes()[0] % 251).collect();
    [b"\x89PNG\r\n\x1a\n", &chunk(*b"IHDR", &header)[..], &chunk(*b"IDAT", &pixels), &chunk(*b"IEND", b"")].concat()
}

pub fn jpeg() -> Vec<u8> {
    b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\x00\x0b\x08\0\x10\0\x10\x01\x01\x11\0\
      \xff\xda\x00\x08\x01\x01\0\0\x3f\0pixels\xff\0\xff\xd9"
        .to_vec()
}

pub fn gif() -> Vec<u8> {
    b"GIF89a\x10\0\x10\0\x80\0\0\0\0\0\xff\xff\xff\x2c\0\0\0\0\x10\0\x10\0\0\x02\x03abc\0\x3b".to_vec()
}

/// A PDF with this in its catalog.
pub fn pdf(catalog: &str) -> Vec<u8> {
    format!(
        "%PDF-1.7\n1 0 obj\n<< /Type /Catalog {catalog} >>\nendobj\nxref\n0 0\ntrailer\n<< >>\nstartxref\n9\n%%EOF\n"
    )
    .into_bytes()
}
