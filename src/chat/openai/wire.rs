//! What goes over the wire.
//!
//! Source: OpenAI API reference, "Create chat completion" and "The chat completion chunk object". Servers that are
//! merely compatible leave fields out and add others, so no more is read than is needed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::{Ask, Speaker};
use crate::config;

/// What stands in the last event of a stream.
pub const DONE: &str = "[DONE]";

/// The body of a request.
#[derive(Serialize)]
pub struct Request<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

impl<'a> Request<'a> {
    /// A request for an answer, as a `stream` or whole.
    pub fn new(config: &'a config::chat::OpenAi, ask: Ask<'a>, stream: bool) -> Self {
        let system = config.system.iter().map(|system| Message { role: "system", content: system });
        let earlier = ask.earlier.iter().map(|turn| Message {
            role: match turn.by {
                Speaker::Person => "user",
                Speaker::Perch => "assistant",
            },
            content: &turn.text,
        });
        let message = std::iter::once(Message { role: "user", content: ask.message });
        // OpenAI's newer models refuse the older name of the limit, and other servers know no other.
        let own = config.base_url == config::chat::OPENAI;
        Request {
            model: &config.model,
            messages: system.chain(earlier).chain(message).collect(),
            stream,
            temperature: config.temperature.map(|temperature| f64::from(temperature.0) / 1_000.0),
            max_tokens: config.max_tokens.filter(|_| !own),
            max_completion_tokens: config.max_tokens.filter(|_| own),
        }
    }
}

/// A piece of an answer, or all of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    /// The model has no more to say.
    pub last: bool,
}

#[derive(Deserialize)]
struct Completion {
    choices: Option<Vec<Choice>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    /// In a stream.
    delta: Option<Said>,
    /// Where it comes whole.
    message: Option<Said>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
    /// What some models say in place of an answer.
    refusal: Option<String>,
}

/// Reads an event's data, or a whole completion.
///
/// # Errors
/// The API's own error, or `None` where it is neither.
pub fn read(data: &[u8]) -> Result<Piece, Option<ApiError>> {
    let completion: Completion = serde_json::from_slice(data).map_err(|_| None)?;
    if let Some(error) = completion.error {
        return Err(Some(ApiError::of(&error)));
    }
    let Some(choice) = completion.choices.into_iter().flatten().next() else { return Ok(Piece::default()) };
    let said = choice.delta.or(choice.message);
    let text = said.and_then(|said| said.content.or(said.refusal)).unwrap_or_default();
    Ok(Piece { text, last: choice.finish_reason.is_some() })
}

/// What an API says of its refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiError {
    pub message: String,
    /// A word for programs; some put a number there.
    pub code: String,
    pub kind: String,
    /// Which part of the request it is about.
    pub param: String,
}

impl ApiError {
    /// Out of the body of an answer.
    pub fn in_body(body: &[u8]) -> ApiError {
        match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(object)) => {
                let error = object.get("error").or(object.get("detail")).cloned();
                ApiError::of(&error.unwrap_or(Value::Object(object)))
            }
            _ => ApiError { message: String::from_utf8_lossy(body).into_owned(), ..ApiError::default() },
        }
    }

    fn of(error: &Value) -> ApiError {
        let text = |key: &str| match &error[key] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let message = match error {
            Value::String(message) => message.clone(),
            _ if error["message"].is_string() => text("message"),
            _ => error.to_string(),
        };
        ApiError { message, code: text("code"), kind: text("type"), param: text("param") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, last: bool) -> Piece {
        Piece { text: text.to_owned(), last }
    }

    #[test]
    fn pieces_are_read_as_different_servers_write_them() {
        for (data, expected) in [
            (
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                piece("", false),
            ),
            (r#"{"choices":[{"delta":{"content":"hé"}}],"usage":null}"#, piece("hé", false)),
            (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, piece("", true)),
            (r#"{"choices":[{"delta":{"content":null,"refusal":"no"}}]}"#, piece("no", false)),
            (r#"{"choices":[],"usage":{"total_tokens":3}}"#, piece("", false)),
            (r#"{"choices":[{"message":{"content":"all"},"finish_reason":"stop"}]}"#, piece("all", true)),
        ] {
            assert_eq!(read(data.as_bytes()), Ok(expected), "{data}");
        }
        for nonsense in ["", "<html>", "[1]", r#"{"choices":"#, r#"{"choices":[{"delta":{"content":7}}]}"#] {
            assert_eq!(read(nonsense.as_bytes()), Err(None), "{nonsense}");
        }
    }

    #[test]
    fn errors_are_read_as_different_servers_write_them() {
        let full =
            br#"{"error":{"message":"no such model","type":"invalid_request_error","param":"model","code":null}}"#;
        let error = ApiError::in_body(full);
        assert_eq!((&*error.message, &*error.param, &*error.code), ("no such model", "model", ""));
        assert_eq!(ApiError::in_body(br#"{"error":"model not found"}"#).message, "model not found");
        assert_eq!(ApiError::in_body(br#"{"detail":"Not Found"}"#).message, "Not Found");
        assert_eq!(ApiError::in_body(br#"{"error":{"code":400,"message":"bad"}}"#).code, "400");
        assert_eq!(ApiError::in_body(b"Bad Gateway").message, "Bad Gateway");
        let in_stream = read(br#"{"error":{"message":"overloaded"}}"#).unwrap_err().unwrap();
        assert_eq!(in_stream.message, "overloaded");
    }
}
