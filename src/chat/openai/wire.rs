//! What goes over the wire.
//!
//! Source: OpenAI API reference, "Create chat completion" (with its text, image and file content parts) and "The chat
//! completion chunk object". Servers that are merely compatible leave fields out and add others, so no more is read than is
//! needed.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outgoing::Outgoing;
use crate::chat::files::File;
use crate::chat::{Ask, Speaker, Usage};
use crate::config;

/// What stands in the last event of a stream.
pub const DONE: &str = "[DONE]";

/// The body of a request, with as much of the last message as is text.
#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    /// The last field, so that files can be put behind the last message.
    messages: Vec<Message<'a>>,
}

/// What a stream shall have beside the answer.
#[derive(Serialize)]
struct StreamOptions {
    /// How many tokens it took, in its last event.
    include_usage: bool,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<TextPart<'a>>),
}

#[derive(Serialize)]
struct TextPart<'a> {
    r#type: &'static str,
    text: &'a str,
}

/// How a request ends whose last message has parts.
const END: &[u8] = b"]}]}";

/// A request for an answer, as a `stream` or whole.
///
/// # Errors
/// It can't be written, or a file's content was let go already.
pub fn request(config: &config::chat::OpenAi, ask: Ask<'_>, stream: bool) -> anyhow::Result<Outgoing> {
    let system = config.system.iter().map(|system| Message { role: "system", content: Content::Text(system) });
    let earlier = ask.earlier.iter().map(|turn| Message {
        role: match turn.by {
            Speaker::Person => "user",
            Speaker::Perch => "assistant",
            Speaker::Program => "system",
        },
        content: Content::Text(&turn.text),
    });
    let content = if ask.files.is_empty() {
        Content::Text(ask.message)
    } else {
        // Some refuse an empty part.
        let text = (!ask.message.trim().is_empty()).then_some(TextPart { r#type: "text", text: ask.message });
        Content::Parts(text.into_iter().collect())
    };
    let message = std::iter::once(Message { role: "user", content });
    // OpenAI's newer models refuse the older name of the limit, and other servers know no other.
    let own = config.base_url == config::chat::OPENAI;
    let temperature = at_most(ask.wishes.temperature, config.temperature);
    let max_tokens = at_most(ask.wishes.max_tokens, config.max_tokens);
    let request = Request {
        model: &config.model,
        stream,
        // Some servers refuse a field that they don't know; many tell it unasked.
        stream_options: (own && stream).then_some(StreamOptions { include_usage: true }),
        temperature: temperature.map(|temperature| f64::from(temperature.0) / 1_000.0),
        max_tokens: max_tokens.filter(|_| !own),
        max_completion_tokens: max_tokens.filter(|_| own),
        messages: system.chain(earlier).chain(message).collect(),
    };
    let mut json = serde_json::to_vec(&request)?;
    if ask.files.is_empty() {
        return Ok(Outgoing::json(json));
    }
    json.truncate(json.len() - END.len());
    let mut body = Outgoing::default();
    for file in ask.files {
        let content = file.content().context("a file was let go before it was sent")?;
        let separator = if json.ends_with(b"[") { "" } else { "," };
        json.extend_from_slice(separator.as_bytes());
        let (before, behind) = around(file)?;
        json.extend_from_slice(&before);
        body.push(std::mem::replace(&mut json, behind), content);
    }
    json.extend_from_slice(END);
    body.end(json);
    Ok(body)
}

/// What is wished, as far as that is within the bound.
pub fn at_most<T: Ord>(wish: Option<T>, bound: Option<T>) -> Option<T> {
    match (wish, bound) {
        (Some(wish), Some(bound)) => Some(wish.min(bound)),
        (wish, bound) => wish.or(bound),
    }
}

/// A file's content part, up to the base64 of its content and from there.
fn around(file: &File) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let data = format!("data:{};base64,", file.kind);
    Ok(if file.kind.is_image() {
        (format!("{{\"type\":\"image_url\",\"image_url\":{{\"url\":\"{data}").into_bytes(), b"\"}}".to_vec())
    } else {
        let name = serde_json::to_string(&file.name)?;
        let before = format!("{{\"type\":\"file\",\"file\":{{\"filename\":{name},\"file_data\":\"{data}");
        (before.into_bytes(), b"\"}}".to_vec())
    })
}

/// A piece of an answer, or all of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    /// The model wrote something that is not for people: what it thinks, or a call of a tool.
    pub aside: bool,
    /// It is the last: why there is no more.
    pub finish: Option<Finish>,
    /// What question and answer took so far, where the API says it.
    pub usage: Option<Usage>,
}

/// Why a model ended its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// There was no more to say.
    Said,
    /// It was as long as it may be, or as there was room for.
    Long,
    /// The rest is nothing that the API lets out.
    Withheld,
    /// The model called a tool in place of an answer, though it was offered none.
    Tool,
    /// The server gave it up.
    Broke,
}

impl Finish {
    /// Reads a `finish_reason`. Until there is one it is null, and with some servers empty.
    ///
    /// Source: OpenAI API reference, "The chat completion object" (`stop`, `length`, `content_filter`, `tool_calls`, and
    /// `function_call`, which is older); Mistral's has `model_length` and `error` beside them, DeepSeek's
    /// `insufficient_system_resource`, vLLM's `abort`. Other words (`eos`, `end_turn`) are for an end like any other.
    fn of(reason: &str) -> Option<Finish> {
        Some(match reason {
            "" | "null" => return None,
            "length" | "model_length" => Finish::Long,
            "content_filter" => Finish::Withheld,
            "tool_calls" | "function_call" => Finish::Tool,
            "abort" | "error" | "insufficient_system_resource" => Finish::Broke,
            _ => Finish::Said,
        })
    }
}

/// What came in place of a piece of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// The API says why there is no answer.
    Error(ApiError),
    /// Something else. This is what it looks like, without a word of what it says: that may be somebody's private answer.
    Nonsense(String),
}

#[derive(Deserialize)]
struct Completion {
    choices: Option<Vec<Choice>>,
    usage: Option<Value>,
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
    content: Option<Text>,
    /// What some models say in place of an answer.
    refusal: Option<String>,
    /// What a model thinks, as DeepSeek, vLLM and llama.cpp call it, and as OpenRouter and Ollama do.
    reasoning_content: Option<Value>,
    reasoning: Option<Value>,
    tool_calls: Option<Value>,
}

/// What is said: text, or as Mistral's models that think say it, a list with text in it
/// (<https://github.com/spring-projects/spring-ai/issues/5019> shows one).
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Whole(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: Option<String>,
    text: Option<String>,
}

impl Said {
    /// Whether there is anything that is not for people.
    fn has_aside(&self) -> bool {
        let thinks = match &self.content {
            Some(Text::Parts(parts)) => !parts.is_empty(),
            _ => false,
        };
        let others = [&self.reasoning_content, &self.reasoning, &self.tool_calls];
        thinks || others.into_iter().flatten().any(|value| !value.is_null() && value.as_str() != Some(""))
    }
}

impl Text {
    /// All that is meant for people; what the model thinks is not.
    fn shown(self) -> String {
        match self {
            Text::Whole(text) => text,
            Text::Parts(parts) => parts
                .into_iter()
                .filter(|part| part.r#type.as_ref().is_none_or(|kind| kind == "text"))
                .filter_map(|part| part.text)
                .collect(),
        }
    }
}

/// Reads an event's data, or a whole completion.
///
/// # Errors
/// It is neither.
pub fn read(data: &[u8]) -> Result<Piece, Unread> {
    let completion: Completion =
        serde_json::from_slice(data).map_err(|error| Unread::Nonsense(described(data, &error)))?;
    if let Some(error) = completion.error {
        return Err(Unread::Error(ApiError::of(&error)));
    }
    let usage = completion.usage.as_ref().and_then(usage);
    let Some(choice) = completion.choices.into_iter().flatten().next() else {
        return Ok(Piece { usage, ..Piece::default() });
    };
    let said = choice.delta.or(choice.message);
    let aside = said.as_ref().is_some_and(Said::has_aside);
    let text = said.and_then(|said| said.content.map(Text::shown).or(said.refusal)).unwrap_or_default();
    let finish = choice.finish_reason.and_then(|reason| Finish::of(&reason));
    Ok(Piece { text, aside, finish, usage })
}

/// What something looks like that is no completion.
fn described(data: &[u8], error: &serde_json::Error) -> String {
    let size = data.len();
    match data.trim_ascii_start().first() {
        None => "nothing".to_owned(),
        Some(b'<') => format!("{size} bytes of HTML or XML"),
        // serde's own words would quote it.
        Some(_) if error.is_data() => {
            format!(
                "{size} bytes of JSON, which is no completion from line {}, column {} on",
                error.line(),
                error.column()
            )
        }
        Some(_) => format!("{size} bytes that are no JSON"),
    }
}

/// What the API says an answer took, where it says at least how much in all.
fn usage(said: &Value) -> Option<Usage> {
    let total = said["total_tokens"].as_u64()?;
    let answer = said["completion_tokens"].as_u64().unwrap_or(0);
    let question = said["prompt_tokens"].as_u64().unwrap_or(total.saturating_sub(answer));
    Some(Usage { question, answer, total })
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

    /// Whether there was more to read than the model can.
    ///
    /// Every server says it its own way. OpenAI: code `context_length_exceeded`. llama.cpp: type
    /// `exceed_context_size_error` (<https://github.com/ggml-org/llama.cpp/pull/15780>, first with the status 500). vLLM:
    /// code 400 and "This model's maximum context length is … tokens" (<https://github.com/vllm-project/vllm/issues/20409>),
    /// later "the model's context length is only … tokens" about the param `input_tokens`
    /// (<https://github.com/harbor-framework/harbor/pull/996>). Ollama, which mostly cuts off the beginning instead:
    /// "the input length exceeds the context length" and no code.
    pub fn is_about_length(&self) -> bool {
        let words = ["context length", "context_length", "context size", "context_size", "context window"];
        let said = [&self.message, &self.code, &self.kind].map(|text| text.to_ascii_lowercase());
        self.param == "input_tokens" || words.iter().any(|word| said.iter().any(|said| said.contains(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, last: bool) -> Piece {
        Piece { text: text.to_owned(), finish: last.then_some(Finish::Said), ..Piece::default() }
    }

    fn took(question: u64, answer: u64, total: u64) -> Piece {
        Piece { usage: Some(Usage { question, answer, total }), ..Piece::default() }
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
            (r#"{"choices":[],"usage":{"total_tokens":3}}"#, took(3, 0, 3)),
            (r#"{"usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3}}"#, took(2, 1, 3)),
            (r#"{"choices":[{"delta":{"content":"a"},"finish_reason":""}]}"#, piece("a", false)),
            (r#"{"choices":[{"delta":{},"finish_reason":"eos"}]}"#, piece("", true)),
            (
                r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"a"},{"type":"text","text":"b"}]}}]}"#,
                Piece { aside: true, ..piece("ab", false) },
            ),
            (
                r#"{"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}"#,
                Piece { aside: true, ..piece("", false) },
            ),
            (r#"{"choices":[{"delta":{"content":"","reasoning_content":"","tool_calls":null}}]}"#, piece("", false)),
            (r#"{"choices":[],"usage":{"total_tokens":"many"}}"#, piece("", false)),
            (r#"{"choices":[{"message":{"content":"all"},"finish_reason":"stop"}]}"#, piece("all", true)),
        ] {
            assert_eq!(read(data.as_bytes()), Ok(expected), "{data}");
        }
        for (word, finish) in [
            ("length", Finish::Long),
            ("model_length", Finish::Long),
            ("content_filter", Finish::Withheld),
            ("tool_calls", Finish::Tool),
            ("insufficient_system_resource", Finish::Broke),
        ] {
            let data = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{word}"}}]}}"#);
            assert_eq!(read(data.as_bytes()), Ok(Piece { finish: Some(finish), ..Piece::default() }));
        }
    }

    #[test]
    fn nonsense_is_described_and_never_quoted() {
        for (nonsense, described) in [
            ("", "nothing"),
            ("<html>", "6 bytes of HTML or XML"),
            ("secret", "6 bytes that are no JSON"),
            (r#"{"choices":"#, "11 bytes that are no JSON"),
            (r#"{"choices":"secret"}"#, "20 bytes of JSON, which is no completion from line 1, column 19 on"),
            (
                r#"{"choices":[{"delta":{"content":7}}]}"#,
                "37 bytes of JSON, which is no completion from line 1, column 34 on",
            ),
        ] {
            assert_eq!(read(nonsense.as_bytes()), Err(Unread::Nonsense(described.to_owned())), "{nonsense}");
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
        let in_stream = ApiError { message: "overloaded".to_owned(), ..ApiError::default() };
        assert_eq!(read(br#"{"error":{"message":"overloaded"}}"#), Err(Unread::Error(in_stream)));
    }
}
