//! People at the chat endpoint: one who asks once, and a crowd that never stops.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::exchange::{Response, exchange};
use super::perch::PATIENCE;

/// A client of the crowd takes a longer silence for a failure.
const SILENCE: Duration = Duration::from_secs(20);
/// One that keeps its connection gets itself a new one after so many questions.
const QUESTIONS: u32 = 200;
/// No more failures than this are kept of one client: the first ones tell the story.
const FAILURES: usize = 5;

/// Posts one message to the chat endpoint at this port of 127.0.0.1.
#[track_caller]
pub fn post(port: u16, message: &str) -> Response {
    let body = json!({ "message": message }).to_string();
    let url = format!("http://127.0.0.1:{port}/api/chat");
    exchange("POST", &url, &[("Content-Type", "application/json")], body.as_bytes())
}

/// Posts one message and returns the reply.
#[track_caller]
pub fn ask(port: u16, message: &str) -> String {
    let response = post(port, message);
    assert_eq!(response.status, 200, "{}", response.text());
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    answer["reply"].as_str().expect("a reply").to_owned()
}

/// Somebody with a browser: what perch gave them to be known by is sent again.
pub struct Guest {
    port: u16,
    cookie: Mutex<Option<String>>,
}

impl Guest {
    /// Somebody new at this port of 127.0.0.1.
    pub fn new(port: u16) -> Self {
        Guest { port, cookie: Mutex::default() }
    }

    /// What they are known by, as a `Cookie` header has it.
    pub fn cookie(&self) -> Option<String> {
        self.cookie.lock().unwrap().clone()
    }

    fn keep(&self, set_cookie: Option<&str>) {
        if let Some(set) = set_cookie {
            let pair = set.split(';').next().unwrap_or_default();
            *self.cookie.lock().unwrap() = Some(pair.to_owned());
        }
    }

    /// One request, with these headers beside their own.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let cookie = self.cookie();
        let mut sent = headers.to_vec();
        sent.extend(cookie.as_deref().map(|cookie| ("Cookie", cookie)));
        let answer = exchange(method, &format!("http://127.0.0.1:{}{path}", self.port), &sent, body);
        self.keep(answer.header("Set-Cookie"));
        answer
    }

    /// Posts this body to the chat endpoint.
    #[track_caller]
    pub fn say(&self, body: &Value) -> Response {
        self.request("POST", "/api/chat", &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// Posts this body, and reads the answer as it comes.
    #[track_caller]
    pub fn stream(&self, body: &Value) -> Stream {
        self.stream_with("", body)
    }

    /// The same with these header lines, each with its end.
    #[track_caller]
    pub fn stream_with(&self, lines: &str, body: &Value) -> Stream {
        let cookie = self.cookie().map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
        let stream = Stream::send(self.port, &format!("{lines}{cookie}"), body);
        let set = stream.head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        self.keep(set);
        stream
    }
}

/// An answer that comes as server-sent events.
pub struct Stream {
    reader: BufReader<TcpStream>,
    pub status: u16,
    /// In lower case.
    pub head: String,
    /// The data of the event that it began with.
    pub start: Value,
}

impl Stream {
    /// Posts this body and reads the answer's head.
    #[track_caller]
    pub fn open(port: u16, body: &Value) -> Self {
        Self::send(port, "", body)
    }

    #[track_caller]
    fn send(port: u16, lines: &str, body: &Value) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST /api/chat HTTP/1.1\r\nHost: perch\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n\
             {lines}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "the connection ended in the head: {head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Stream { reader, status, head: head.to_ascii_lowercase(), start: Value::Null }
    }

    /// The next event's name and data; `None` at the end. Comments are passed over, and `start` is kept aside.
    #[track_caller]
    pub fn event(&mut self) -> Option<(String, Value)> {
        loop {
            // perch writes each event as one chunk.
            let mut size = String::new();
            self.reader.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            self.reader.read_exact(&mut chunk).unwrap();
            let text = String::from_utf8(chunk).unwrap();
            if size == 0 {
                return None;
            }
            if let Some((name, data)) = text.trim().strip_prefix("event: ").and_then(|text| text.split_once("\ndata: "))
            {
                let data: Value = serde_json::from_str(data).unwrap();
                if name == "start" {
                    self.start = data;
                    continue;
                }
                return Some((name.to_owned(), data));
            }
            assert!(text.starts_with(':'), "neither an event nor a comment: {text}");
        }
    }

    /// The text of the next event, which is a piece of the answer.
    #[track_caller]
    pub fn delta(&mut self) -> String {
        let (name, data) = self.event().expect("a piece of the answer");
        assert_eq!(name, "delta", "{data}");
        data["text"].as_str().unwrap().to_owned()
    }

    /// Reads to the end: the text, and the last event.
    #[track_caller]
    pub fn rest(mut self) -> (String, String, Value) {
        let mut text = String::new();
        loop {
            let (name, data) = self.event().expect("an event that says how it ended");
            if name != "delta" {
                assert!(self.event().is_none(), "more after {name}");
                return (text, name, data);
            }
            text.push_str(data["text"].as_str().unwrap());
        }
    }
}

/// Whether anybody listens at this port of 127.0.0.1.
pub fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Between two questions of a client that is in no hurry.
const STROLL: Duration = Duration::from_millis(10);

/// Clients that post for as long as they are let, half of them over a connection that is kept, half over a new one
/// each time.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Crowd {
    /// `size` clients of the endpoint at this port of 127.0.0.1, who make no pause.
    pub fn rushing(port: u16, size: u32) -> Self {
        Self::start(port, size, Duration::ZERO)
    }

    /// Two clients who leave the machine to others.
    pub fn strolling(port: u16) -> Self {
        Self::start(port, 2, STROLL)
    }

    fn start(port: u16, size: u32, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let clients = (0..size)
            .map(|number| {
                let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
                std::thread::spawn(move || Client { port, number, pause, stop, answers }.keep_asking())
            })
            .collect();
        Crowd { stop, answers, clients }
    }

    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Waits until `count` more questions are answered.
    #[track_caller]
    pub fn wait_answers(&self, count: u64) {
        let (until, deadline) = (self.answers() + count, Instant::now() + PATIENCE);
        while self.answers() < until {
            assert!(Instant::now() < deadline, "{} of {until} answers", self.answers());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends everybody home and asserts that every question of theirs was answered.
    #[track_caller]
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert!(failures.is_empty(), "{} answers, and: {failures:#?}", self.answers.load(Ordering::Relaxed));
        assert!(self.answers.load(Ordering::Relaxed) > 0, "nobody asked anything");
    }
}

struct Client {
    port: u16,
    number: u32,
    pause: Duration,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
}

impl Client {
    fn sent_home(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Asks until it is sent home, and returns what went wrong.
    fn keep_asking(&self) -> Vec<String> {
        let questions = if self.number.is_multiple_of(2) { QUESTIONS } else { 1 };
        let mut failures = Vec::new();
        while !self.sent_home() && failures.len() < FAILURES {
            if let Err(error) = self.converse(questions) {
                failures.push(format!("client {}: {error}", self.number));
            }
        }
        failures
    }

    /// Asks this often over one connection.
    fn converse(&self, questions: u32) -> Result<(), std::io::Error> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        for question in 1..=questions {
            let message = format!("{} asks {question}", self.number);
            let body = json!({ "message": message }).to_string();
            let keep = if question < questions { "keep-alive" } else { "close" };
            let head = format!(
                "POST /api/chat HTTP/1.1\r\nHost: perch\r\nConnection: {keep}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes())?;
            let answer = read_answer(&mut reader)?;
            if answer["reply"] != message.as_str() {
                return Err(std::io::Error::other(format!("{message:?} was answered with {answer}")));
            }
            self.answers.fetch_add(1, Ordering::Relaxed);
            if self.sent_home() {
                break;
            }
            if !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
        }
        Ok(())
    }
}

fn read_answer(reader: &mut BufReader<TcpStream>) -> Result<Value, std::io::Error> {
    let mut status = String::new();
    reader.read_line(&mut status)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other(format!("the connection ended in the middle of an answer: {status:?}")));
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(std::io::Error::other(format!("{status:?}: {}", String::from_utf8_lossy(&body))));
    }
    serde_json::from_slice(&body).map_err(std::io::Error::other)
}
