//! What goes over a WebSocket: JSON objects with a `type`, one a message.

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Bytes;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::chat::history::ConversationId;
use crate::http::problem::Problem;
use crate::rooms::{RoomName, Said};
use crate::telemetry::lines::rfc3339;

/// The longest text that may be said in a room, in bytes. A question may be as long as over `POST /api/chat`.
const LONGEST_SAID: usize = 8 << 10;
/// The longest `ref`, in bytes as JSON.
const LONGEST_REFERENCE: usize = 128;
/// From here on not every whole number is one of JSON's floating-point numbers, which those are read as that don't fit
/// into 64 bits (RFC 8259, section 6).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What a client calls something it asked for, as JSON: a string or a number.
pub type Reference = Arc<str>;

/// What a client asks for.
#[derive(Debug)]
pub enum Wish {
    Join { room: RoomName, after: Option<u64>, reference: Option<Reference> },
    Say { room: RoomName, text: String, reference: Option<Reference> },
    Leave { room: RoomName, reference: Option<Reference> },
    Ask { text: String, conversation: Option<String>, reference: Option<Reference> },
    Stop { reference: Reference },
}

/// The same as it is written.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Written {
    Join {
        room: String,
        after: Option<u64>,
        #[serde(rename = "ref")]
        reference: Option<Value>,
    },
    Say {
        room: String,
        text: String,
        #[serde(rename = "ref")]
        reference: Option<Value>,
    },
    Leave {
        room: String,
        #[serde(rename = "ref")]
        reference: Option<Value>,
    },
    Ask {
        text: String,
        conversation: Option<String>,
        #[serde(rename = "ref")]
        reference: Option<Value>,
    },
    Stop {
        #[serde(rename = "ref")]
        reference: Option<Value>,
    },
}

/// Why a frame is no wish, and what its client calls it.
pub type Refused = (Problem, Option<Reference>);

impl Wish {
    /// Reads a frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Wish, Refused> {
        let mut written: Written = crate::json::object(text.as_bytes()).map_err(|error| {
            let mut whole: Value = serde_json::from_str(text).unwrap_or_default();
            let detail = format!("this is no frame that perch knows: {error}");
            let called = whole.get_mut("ref").map(Value::take);
            (bad(detail), reference(called).unwrap_or_else(|(_, called)| called))
        })?;
        let called = reference(written.reference().take())?;
        written.check(called.clone()).map_err(|problem| (problem, called))
    }

    /// What its client calls it, where its answer or its error says so.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Wish::Join { reference, .. }
            | Wish::Say { reference, .. }
            | Wish::Leave { reference, .. }
            | Wish::Ask { reference, .. } => reference.as_ref(),
            Wish::Stop { reference } => Some(reference),
        }
    }
}

impl Written {
    fn reference(&mut self) -> &mut Option<Value> {
        match self {
            Written::Join { reference, .. }
            | Written::Say { reference, .. }
            | Written::Leave { reference, .. }
            | Written::Ask { reference, .. }
            | Written::Stop { reference } => reference,
        }
    }

    fn check(self, reference: Option<Reference>) -> Result<Wish, Problem> {
        match self {
            Written::Join { room, after, .. } => Ok(Wish::Join { room: named(&room)?, after, reference }),
            Written::Leave { room, .. } => Ok(Wish::Leave { room: named(&room)?, reference }),
            Written::Say { room, text, .. } => {
                let room = named(&room)?;
                if text.len() > LONGEST_SAID {
                    let detail = format!("a message in a room has at most {} KiB", LONGEST_SAID >> 10);
                    return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
                }
                Ok(Wish::Say { room, text: filled(text)?, reference })
            }
            Written::Ask { text, conversation, .. } => Ok(Wish::Ask { text: filled(text)?, conversation, reference }),
            Written::Stop { .. } => match reference {
                Some(reference) => Ok(Wish::Stop { reference }),
                None => Err(bad("`ref` says which question to stop")),
            },
        }
    }
}

fn named(room: &str) -> Result<RoomName, Problem> {
    RoomName::new(room).map_err(bad)
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn filled(text: String) -> Result<String, Problem> {
    if text.trim().is_empty() { Err(bad("`text` is empty")) } else { Ok(text) }
}

/// What a client calls something. Where it may not be called so, the error calls it so once more, if that can be said.
fn reference(value: Option<Value>) -> Result<Option<Reference>, Refused> {
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) if number.as_f64().is_some_and(|value| number.is_f64() && value.abs() >= EXACT) => {
            return Err((bad("`ref` is a number that would not come back as it is; make it a string"), None));
        }
        Some(value @ (Value::String(_) | Value::Number(_))) => value.to_string(),
        Some(_) => return Err((bad("`ref` is a string or a number"), None)),
    };
    if text.len() > LONGEST_REFERENCE {
        return Err((bad(format!("`ref` has at most {LONGEST_REFERENCE} bytes")), Some(text.into())));
    }
    Ok(Some(text.into()))
}

/// A message in a room, as everybody in it is sent it.
pub fn message(room: &RoomName, id: u64, from: &str, text: &str, at: SystemTime) -> Bytes {
    #[derive(Serialize)]
    struct Message<'a> {
        r#type: &'static str,
        room: &'a str,
        id: u64,
        from: &'a str,
        text: &'a str,
        at: String,
    }
    let message = Message { r#type: "message", room: room.as_str(), id, from, text, at: rfc3339(at) };
    whole(&serde_json::to_string(&message).expect("strings and a number are always JSON"))
}

/// The same for its author, with what they call it.
pub fn own(said: &Said) -> Bytes {
    match &said.reference {
        None => said.frame.clone(),
        Some(reference) => whole(&referenced(said, reference)),
    }
}

fn referenced(said: &Said, reference: &str) -> String {
    let text = text(&said.frame);
    format!("{},\"ref\":{reference}}}", text.strip_suffix('}').unwrap_or(text))
}

/// What who joins a room is told. `own` says which messages are theirs.
pub fn joined(
    room: &RoomName,
    members: usize,
    history: &[Said],
    incomplete: bool,
    own: impl Fn(&Said) -> bool,
) -> Bytes {
    let size: usize = history.iter().map(|said| said.frame.len() + 64).sum();
    let mut json = String::with_capacity(size + 256);
    let head = json!({ "type": "joined", "room": room.as_str(), "members": members }).to_string();
    json.push_str(head.strip_suffix('}').unwrap_or(&head));
    if incomplete {
        json.push_str(",\"incomplete\":true");
    }
    json.push_str(",\"history\":[");
    for (index, said) in history.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        match &said.reference {
            Some(reference) if own(said) => json.push_str(&referenced(said, reference)),
            _ => json.push_str(text(&said.frame)),
        }
    }
    json.push_str("]}");
    whole(&json)
}

pub fn members(room: &RoomName, members: usize) -> Bytes {
    whole(&json!({ "type": "members", "room": room.as_str(), "members": members }).to_string())
}

pub fn delta(reference: Option<&Reference>, text: &str) -> Bytes {
    tell("delta", reference, &[("text", text.into())])
}

pub fn done(
    reference: Option<&Reference>,
    conversation: Option<ConversationId>,
    finish: Option<&'static str>,
) -> Bytes {
    let mut told = vec![("conversation", conversation.map(|id| id.to_string()).into())];
    told.extend(finish.map(|finish| ("finish", finish.into())));
    tell("done", reference, &told)
}

pub fn error(reference: Option<&Reference>, problem: Value) -> Bytes {
    tell("error", reference, &[("problem", problem)])
}

fn tell(kind: &str, reference: Option<&Reference>, told: &[(&str, Value)]) -> Bytes {
    let mut json = format!("{{\"type\":\"{kind}\"");
    if let Some(reference) = reference {
        let _infallible = write!(json, ",\"ref\":{reference}");
    }
    for (key, value) in told {
        let _infallible = write!(json, ",\"{key}\":{value}");
    }
    json.push('}');
    whole(&json)
}

/// A text message in one frame, as RFC 6455, section 5.2 has it. What a server sends is not masked.
fn whole(text: &str) -> Bytes {
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    let length = text.len() as u64;
    let mut frame = Vec::with_capacity(header.len(length) + text.len());
    header.format(length, &mut frame).expect("a vector takes every byte");
    frame.extend_from_slice(text.as_bytes());
    Bytes::from(frame)
}

/// The text of such a frame.
fn text(frame: &[u8]) -> &str {
    let header = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    std::str::from_utf8(frame.get(header..).unwrap_or_default()).unwrap_or_default()
}
