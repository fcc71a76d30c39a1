//! One HTTP exchange at a time, for the tests' own errands.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A stand-in on this machine that takes longer is broken.
const TIME_OUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks `url`, which is plain HTTP, and reads the whole answer.
pub fn exchange(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let rest = url.strip_prefix("http://").expect("the stand-ins speak plain HTTP");
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let named = lines.concat();
    let length = body.len();
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{named}Content-Length: {length}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(host).unwrap_or_else(|error| panic!("connecting to {host}: {error}"));
    stream.set_read_timeout(Some(TIME_OUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("reading from {url}: {error}"));
    parse(&answer).unwrap_or_else(|| panic!("{method} {url} answered no HTTP: {}", String::from_utf8_lossy(&answer)))
}

/// The answers that follow one another in `bytes`; what is no answer of a known length comes to an end with a panic.
#[track_caller]
pub fn parse_all(mut bytes: &[u8]) -> Vec<Response> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let whole =
            parse(bytes).and_then(|answer| Some((answer.header("Content-Length")?.parse::<usize>().ok()?, answer)));
        let Some((length, mut answer)) = whole.filter(|(length, answer)| *length <= answer.body.len()) else {
            panic!("no whole answer: {}", String::from_utf8_lossy(bytes));
        };
        bytes = &bytes[bytes.len() - answer.body.len() + length..];
        answer.body.truncate(length);
        answers.push(answer);
    }
    answers
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Some(Response { status, headers, body: answer[end + 4..].to_vec() })
}
