//! What a program asks for, read strictly: what perch would pass over in silence although the answer depends on it is
//! refused, and the refusal names the place.
//!
//! Source: OpenAI API reference, "Create chat completion", request body.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::MODEL;
use crate::chat::files::with_names;
use crate::chat::{Speaker, Turn, Wishes};
use crate::config::chat::Temperature;
use crate::http::problem::Problem;

/// What changes nothing that the client could hold against perch, and is passed over: labels, hints and advice.
const HARMLESS: [&str; 11] = [
    "metadata",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "seed",
    "service_tier",
    "user",
    "verbosity",
];

/// The bounds of `temperature`.
const TEMPERATURE: std::ops::RangeInclusive<f64> = 0.0..=2.0;
/// How many values a body may have: the smallest takes many times its size in memory.
const MOST_VALUES: usize = 100_000;
/// How much of a name that is not known is said again, in characters.
const SHOWN: usize = 80;

/// What somebody asks.
#[derive(Debug, PartialEq)]
pub struct Asked {
    /// What the person said last.
    pub message: String,
    /// What came with it.
    pub files: Vec<Attached>,
    /// What was said before it, and what the program wants of the model.
    pub earlier: Vec<Turn>,
    pub wishes: Wishes,
    pub stream: Option<Stream>,
}

impl Asked {
    /// How much is said, in bytes.
    pub fn length(&self) -> usize {
        self.message.len() + self.earlier.iter().map(|turn| turn.text.len()).sum::<usize>()
    }
}

/// A file that nobody has looked at.
#[derive(Debug, PartialEq)]
pub struct Attached {
    /// Where it stands in the request.
    pub place: String,
    pub name: String,
    pub media_type: String,
    pub content: Vec<u8>,
}

/// That the answer is wanted as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// With what it took, at its end.
    pub usage: bool,
}

/// Reads a request's body.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(body: &[u8]) -> Result<Asked, Problem> {
    if values(body) > MOST_VALUES {
        return Err(bad(format!("the body has more than {MOST_VALUES} values in it")));
    }
    let document = serde_json::from_slice(body).map_err(|error| bad(format!("the body is not JSON: {error}")))?;
    let Value::Object(mut fields) = document else { return Err(bad("the body is not a JSON object")) };
    // To say nothing and to say null are the same.
    fields.retain(|_, value| !value.is_null());
    match fields.remove("model") {
        Some(Value::String(model)) => model_is_here(&model)?,
        Some(_) => return Err(wrong_type("model", "a string")),
        None => return Err(missing("model", &format!("the model is called `{MODEL}`"))),
    }
    let messages = match fields.remove("messages") {
        Some(Value::Array(messages)) => messages,
        Some(_) => return Err(wrong_type("messages", "a list")),
        None => return Err(missing("messages", "they are what is answered")),
    };
    let wishes = Wishes {
        max_tokens: match (count(&mut fields, "max_completion_tokens")?, count(&mut fields, "max_tokens")?) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        },
        temperature: temperature(&mut fields)?,
    };
    let stream = stream(&mut fields)?;
    if let Some(name) = fields.iter().find(|(name, value)| !may_be_ignored(name, value)).map(|(name, _)| name) {
        return Err(not_done(shortened(name)));
    }
    let mut earlier: Vec<Turn> = Vec::with_capacity(messages.len());
    let mut files: Vec<Attached> = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        // Of earlier files the model is told the names, as in a conversation that is kept here.
        let names: Vec<String> = files.drain(..).map(|Attached { name, .. }| name).collect();
        if let Some(before) = earlier.last_mut() {
            before.text = with_names(&before.text, &names);
        }
        earlier.push(turn(message, &format!("messages[{index}]"), &mut files)?);
    }
    let last = earlier.pop().ok_or_else(|| bad("`messages` is empty").about("messages"))?;
    let place = format!("messages[{}]", earlier.len());
    if last.by != Speaker::Person {
        return Err(bad("the last of `messages` is not the user's, and there is nothing to answer").about(place));
    }
    if last.text.trim().is_empty() && files.is_empty() {
        return Err(bad("the last of `messages` is empty").about(place + ".content"));
    }
    Ok(Asked { message: last.text, files, earlier, wishes, stream })
}

/// That `model` is the one there is.
///
/// # Errors
/// It is not, and the client hears which is.
pub fn model_is_here(model: &str) -> Result<(), Problem> {
    if model == MODEL {
        return Ok(());
    }
    let detail = format!("there is no model `{}` here, only `{MODEL}`", shortened(model));
    Err(Problem::new(StatusCode::NOT_FOUND, detail).known_as(StatusCode::NOT_FOUND, "model_not_found").about("model"))
}

fn turn(message: Value, place: &str, files: &mut Vec<Attached>) -> Result<Turn, Problem> {
    let Value::Object(mut message) = message else { return Err(wrong_type(place, "an object")) };
    message.retain(|_, value| !value.is_null());
    let by = match message.get("role") {
        Some(Value::String(role)) => match &**role {
            "user" => Speaker::Person,
            "assistant" => Speaker::Perch,
            "system" | "developer" => Speaker::Program,
            "tool" | "function" => {
                let detail = format!("`{place}` is the result of a tool, and perch calls none");
                return Err(bad(detail).about(format!("{place}.role")));
            }
            _ => {
                let detail = format!("`{place}.role` is none of system, developer, user and assistant");
                return Err(bad(detail).about(format!("{place}.role")));
            }
        },
        Some(_) => return Err(wrong_type(&format!("{place}.role"), "a string")),
        None => return Err(missing(&format!("{place}.role"), "it says whose words they are")),
    };
    for name in ["tool_calls", "function_call", "audio"] {
        if message.get(name).is_some_and(|value| !is_empty(value)) {
            return Err(not_done(&format!("{place}.{name}")));
        }
    }
    let place = format!("{place}.content");
    let text = match (message.remove("content"), message.remove("refusal")) {
        (Some(Value::String(text)), _) => text,
        (Some(Value::Array(parts)), _) => text_of(parts, by, &place, files)?,
        (Some(_), _) => return Err(wrong_type(&place, "a string or a list of parts")),
        // What perch would not answer was said too.
        (None, Some(Value::String(refusal))) if by == Speaker::Perch => refusal,
        (None, _) => return Err(missing(&place, "it is what is said")),
    };
    Ok(Turn { by, text })
}

/// The text in a message's parts, each on a line of its own; what is a file goes to `files`.
fn text_of(parts: Vec<Value>, by: Speaker, place: &str, files: &mut Vec<Attached>) -> Result<String, Problem> {
    let mut texts = Vec::with_capacity(parts.len());
    for (index, mut part) in parts.into_iter().enumerate() {
        let place = format!("{place}[{index}]");
        let name = match part["type"].as_str() {
            Some("text") => "text",
            Some("refusal") if by == Speaker::Perch => "refusal",
            Some("image_url") if by == Speaker::Person => {
                files.push(attached(&part["image_url"]["url"], None, place + ".image_url.url")?);
                continue;
            }
            Some("file") if by == Speaker::Person => {
                let name = part["file"]["filename"].as_str().map(str::to_owned);
                files.push(attached(&part["file"]["file_data"], name, place + ".file.file_data")?);
                continue;
            }
            Some(_) => {
                let detail = format!("`{place}` is nothing that perch takes: that is text, and the user's files");
                return Err(bad(detail).about(place));
            }
            None => return Err(missing(&format!("{place}.type"), "it says what the part is")),
        };
        match part[name].take() {
            Value::String(text) => texts.push(text),
            _ => return Err(wrong_type(&format!("{place}.{name}"), "a string")),
        }
    }
    Ok(texts.join("\n"))
}

/// A file in a `data:` URI (RFC 2397). One without a name is called after its type.
fn attached(uri: &Value, name: Option<String>, place: String) -> Result<Attached, Problem> {
    let split = uri.as_str().and_then(|uri| uri.strip_prefix("data:")?.split_once(','));
    let Some((media_type, data)) = split.and_then(|(head, data)| Some((head.strip_suffix(";base64")?, data))) else {
        let detail = format!("`{place}` is no `data:` URI in base64, and perch fetches nothing from elsewhere");
        return Err(bad(detail).about(place));
    };
    let Ok(content) = STANDARD.decode(data) else {
        return Err(bad(format!("`{place}` is no base64")).about(place));
    };
    let subtype = media_type.split(';').next().and_then(|essence| essence.split('/').nth(1)).unwrap_or_default();
    let name = name.unwrap_or_else(|| format!("image.{subtype}"));
    Ok(Attached { place, name, media_type: media_type.to_owned(), content })
}

fn temperature(fields: &mut Map<String, Value>) -> Result<Option<Temperature>, Problem> {
    let Some(value) = fields.remove("temperature") else { return Ok(None) };
    let wished = value.as_f64().filter(|wished| TEMPERATURE.contains(wished));
    let wished = wished.ok_or_else(|| wrong_type("temperature", "a number from 0 to 2"))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 2,000")]
    Ok(Some(Temperature((wished * 1_000.0).round() as u32)))
}

fn count(fields: &mut Map<String, Value>, name: &'static str) -> Result<Option<u32>, Problem> {
    let Some(value) = fields.remove(name) else { return Ok(None) };
    let wished = value.as_u64().filter(|wished| *wished > 0).ok_or_else(|| wrong_type(name, "a number of tokens"))?;
    Ok(Some(u32::try_from(wished).unwrap_or(u32::MAX)))
}

fn stream(fields: &mut Map<String, Value>) -> Result<Option<Stream>, Problem> {
    let flag = |value: Option<Value>, place: &str| match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(wrong_type(place, "true or false")),
    };
    let streamed = flag(fields.remove("stream"), "stream")?;
    let usage = match fields.remove("stream_options") {
        None => false,
        Some(_) if !streamed => {
            return Err(bad("`stream_options` is for an answer that is streamed").about("stream_options"));
        }
        Some(Value::Object(mut options)) => flag(options.remove("include_usage"), "stream_options.include_usage")?,
        Some(_) => return Err(wrong_type("stream_options", "an object")),
    };
    Ok(streamed.then_some(Stream { usage }))
}

/// Whether an answer that pays no heed to a field is what was asked for.
fn may_be_ignored(name: &str, value: &Value) -> bool {
    match name {
        _ if HARMLESS.contains(&name) => true,
        "n" | "top_p" => value.as_f64() == Some(1.0),
        "frequency_penalty" | "presence_penalty" | "top_logprobs" => value.as_f64() == Some(0.0),
        "logprobs" | "store" => *value == Value::Bool(false),
        "functions" | "logit_bias" | "stop" | "tools" => is_empty(value),
        "function_call" | "tool_choice" => value == "none" || value == "auto",
        "modalities" => value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == "text")),
        "response_format" => value["type"] == "text",
        _ => false,
    }
}

/// How many values there may be in what is perhaps JSON.
fn values(body: &[u8]) -> usize {
    let (mut commas, mut text, mut escaped) = (0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = text,
            b'"' => text = !text,
            b',' if !text => commas += 1,
            _ => {}
        }
    }
    commas + 1
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

fn shortened(name: &str) -> &str {
    name.char_indices().nth(SHOWN).map_or(name, |(end, _)| &name[..end])
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn missing(place: &str, why: &str) -> Problem {
    let detail = format!("`{place}` is missing: {why}");
    bad(detail).about(place).known_as(StatusCode::BAD_REQUEST, "missing_required_parameter")
}

fn wrong_type(place: &str, wanted: &str) -> Problem {
    bad(format!("`{place}` is not {wanted}")).about(place).known_as(StatusCode::BAD_REQUEST, "invalid_value")
}

fn not_done(place: &str) -> Problem {
    let detail = format!("perch does not do `{place}`; leave it out, or at its default");
    bad(detail).about(place).known_as(StatusCode::BAD_REQUEST, "unsupported_parameter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts() {
        for (body, count) in
            [("1", 1), (r#"{"a": [1, 2], "b": "c, d"}"#, 3), (r#"["\\", ",\",", 3]"#, 3), (r#"["a\\\\",2]"#, 2)]
        {
            assert_eq!(values(body.as_bytes()), count, "{body}");
        }
        let flood = format!("[{}0]", "0,".repeat(MOST_VALUES));
        assert!(read(flood.as_bytes()).is_err());
    }

    #[test]
    fn a_long_name_is_shortened_between_characters() {
        assert_eq!(shortened("perch"), "perch");
        assert_eq!(shortened(&"é".repeat(200)), "é".repeat(SHOWN));
    }
}
