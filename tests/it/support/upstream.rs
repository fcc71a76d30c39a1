//! An OpenAI-compatible API on this machine that knows its keys and models, remembers what it was asked, and goes wrong
//! when it is told to.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::perch::{keep_secret, wait};

/// The model that it has.
pub const MODEL: &str = "parrot-1";
/// How soon a hang notices that its client has left, or the test has ended.
const GLANCE: Duration = Duration::from_millis(10);

/// An API that answers until it is dropped: "You said: " and the last message, word by word.
pub struct Upstream {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    keys: Option<Vec<String>>,
    faults: VecDeque<Fault>,
    models: Option<Fault>,
    asked: Vec<Asked>,
    over: bool,
}

/// A request for an answer.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The `Authorization` header.
    pub authorization: String,
    pub body: Value,
    /// When its client left before the end.
    pub left: Option<Instant>,
}

/// What happens in place of an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with these headers and this body.
    Refuse(u16, &'static str, Value),
    /// Nothing, not even a status.
    Silence,
    /// The connection ends without a byte.
    Leave,
    /// This as the stream, and what comes then.
    Stream(String, Then),
    /// The whole answer, with no stream.
    Whole(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// The stream ends as HTTP says, if in the middle of an answer.
    End,
    /// The connection is cut.
    Cut,
    /// Nothing more comes.
    Hang,
}

/// One event of a stream with a piece of an answer.
pub fn piece(text: &str) -> String {
    let chunk = json!({ "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": { "content": text } }] });
    format!("data: {chunk}\n\n")
}

/// The event that says why there is no more of an answer.
pub fn finish(reason: &str) -> String {
    format!("data: {}\n\n", json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] }))
}

fn completion(text: &str) -> Value {
    json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }] })
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        Self::serve(listener, port)
    }

    fn serve(listener: TcpListener, port: u16) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // Ends with the connection that `drop` makes; threads of connections end at their next glance.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().unwrap().over {
                    break;
                }
                let shared = Arc::clone(&shared);
                // Whoever leaves in the middle is an error to the one who writes, and what the tests are about.
                std::thread::spawn(move || drop(converse(&stream.unwrap(), &shared)));
            }
        });
        Upstream { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The keys taken from now on; before, anybody may ask.
    pub fn take_keys(&self, keys: &[&str]) {
        keys.iter().copied().for_each(keep_secret);
        self.state.lock().unwrap().keys = Some(keys.iter().map(|key| (*key).to_owned()).collect());
    }

    /// Goes wrong so at the next request for an answer that has no fault of its own yet.
    pub fn fault(&self, fault: Fault) {
        self.state.lock().unwrap().faults.push_back(fault);
    }

    /// Goes wrong so whenever it is asked for its models.
    pub fn models_fault(&self, fault: Option<Fault>) {
        self.state.lock().unwrap().models = fault;
    }

    /// Takes no connection any more.
    pub fn close(&self) {
        self.state.lock().unwrap().over = true;
        // It wakes the one who accepts.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        wait("the port to be closed", || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err().then_some(()));
    }

    /// What it was asked to answer, the oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Waits until it was asked so often, and returns the last.
    #[track_caller]
    pub fn wait_asked(&self, count: usize) -> Asked {
        wait("a request for an answer", || self.asked().get(count - 1).cloned())
    }

    /// Waits until the client of the request number `index` has left.
    #[track_caller]
    pub fn wait_left(&self, index: usize) -> Instant {
        wait("the client to leave", || self.asked().get(index)?.left)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.close();
    }
}

/// An address where a connection is never made: as many wait there as may.
pub struct Unreachable {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Unreachable {
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let full = std::iter::from_fn(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok());
        Unreachable { _waiting: full.take(16).collect(), listener }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.listener.local_addr().unwrap())
    }
}

/// One connection, which is closed after its answer.
fn converse(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim_end().is_empty() {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        let mut named = head.iter().filter_map(|line| line.split_once(": "));
        named.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let authorization = header("authorization");
    let (index, fault) = {
        let mut state = state.lock().unwrap();
        let refused = json!({ "error": { "message": format!("Incorrect API key provided: {authorization}.") } });
        let known =
            state.keys.as_ref().is_none_or(|keys| keys.iter().any(|key| authorization == format!("Bearer {key}")));
        let unknown = (!known).then_some(Fault::Refuse(401, "", refused));
        if head[0].starts_with("GET /v1/models ") {
            let list = json!({ "object": "list", "data": [{ "id": MODEL, "object": "model" }] });
            (None, state.models.clone().or(unknown).or(Some(Fault::Refuse(200, "", list))))
        } else if head[0].starts_with("POST /v1/chat/completions ") {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let missing = json!({ "error": { "message": "The model does not exist", "code": "model_not_found" } });
            let missing = (body["model"] != MODEL).then_some(Fault::Refuse(404, "", missing));
            state.asked.push(Asked { authorization, body, left: None });
            let fault = state.faults.pop_front();
            (Some(state.asked.len() - 1), fault.or(unknown).or(missing))
        } else {
            (None, Some(Fault::Refuse(404, "", json!({ "detail": "Not Found" }))))
        }
    };
    match fault {
        Some(Fault::Refuse(status, headers, body)) => respond(stream, status, headers, &body),
        Some(Fault::Whole(text)) => respond(stream, 200, "", &completion(text)),
        Some(Fault::Leave) => Ok(()),
        Some(Fault::Silence) => hang(stream, state, index),
        Some(Fault::Stream(text, then)) => {
            begin_stream(stream)?;
            if !text.is_empty() {
                send(stream, &text)?;
            }
            match then {
                Then::End => send(stream, ""),
                Then::Cut => Ok(()),
                Then::Hang => hang(stream, state, index),
            }
        }
        None => {
            let body = state.lock().unwrap().asked[index.unwrap_or_default()].body.clone();
            let (messages, streamed) = (&body["messages"], body["stream"] == true);
            let said = text(&messages.as_array().unwrap().last().unwrap()["content"]);
            if !streamed {
                return respond(stream, 200, "", &completion(&format!("You said: {said}")));
            }
            begin_stream(stream)?;
            for word in format!("You said: {said}").split_inclusive(' ') {
                send(stream, &piece(word))?;
            }
            send(stream, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")?;
            send(stream, "")
        }
    }
}

/// What is text of a message's content, which may have parts.
fn text(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    content.as_str().map_or_else(|| parts.collect(), str::to_owned)
}

fn respond(mut stream: &TcpStream, status: u16, headers: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\nConnection: \
         close\r\n\r\n{body}"
    )
}

fn begin_stream(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    )
}

/// One chunk; the empty one ends the stream.
fn send(mut stream: &TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
}

/// Waits until the client leaves.
fn hang(mut stream: &TcpStream, state: &Mutex<State>, index: Option<usize>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(GLANCE))?;
    loop {
        match stream.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(count) if count > 0 => {}
            Ok(_) | Err(_) => break,
        }
        if state.lock().unwrap().over {
            return Ok(());
        }
    }
    if let Some(index) = index {
        state.lock().unwrap().asked[index].left = Some(Instant::now());
    }
    Ok(())
}
