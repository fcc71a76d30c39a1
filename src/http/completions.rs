//! `POST /v1/chat/completions` and `GET /v1/models`: perch as clients of OpenAI's know an API, whatever answers behind it.
//!
//! What it says and understands is OpenAI's API reference: "Create chat completion" and "Streaming"
//! (<https://platform.openai.com/docs/api-reference/chat>), "Models" and "Error codes". Nothing of it becomes a
//! conversation: the client sends what was said along, and nothing is kept.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::chat::upload;
use super::content;
use super::problem::Problem;
use super::request_id::RequestId;
use super::router::App;
use super::visit::Visit;
use crate::chat::files::{Announced, File, MOST, Reason, Share, Unfit};
use crate::chat::{self, Aside, Ask, Deltas, Ending, Failure, Particulars, Why};
use crate::limits::Bill;
use crate::service::Live;

pub mod error;
mod request;
mod stream;

use request::{Asked, Attached};

/// What clients call the model, whichever the configuration names: they need not change with it.
const MODEL: &str = "perch";
/// When that model came to be, in seconds since 1970, as clients want to know of every model: 2026-01-01.
const MODEL_CREATED: u64 = 1_767_225_600;

/// How large a request with files may be, in bytes: two of the largest in base64, and what is said.
const WITH_FILES: u64 = 16 << 20;

/// What a program asks; other names of OpenAI's are refused where an answer that pays no heed to them would not be what was
/// asked for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it is read name by name, and stands here for the API's description")]
struct CompletionRequest {
    /// `perch`
    model: String,
    /// The last is the user's. The configuration's system prompt comes before them.
    messages: Vec<Message>,
    /// Server-sent events with a `chat.completion.chunk` each, and `[DONE]`.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// The configuration's `max_tokens` is the most.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    /// The older name of the same.
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    /// The configuration's `temperature` is the most.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
}

#[derive(ToSchema)]
#[schema(as = CompletionMessage)]
#[expect(dead_code, reason = "as above")]
struct Message {
    /// system, developer, user or assistant
    role: String,
    /// A string, or a list of parts: `text`, and with the last message `image_url` and `file` as `data:` URIs.
    #[schema(value_type = Value)]
    content: Value,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "as above")]
struct StreamOptions {
    /// What it took, in a last chunk.
    include_usage: Option<bool>,
}

#[derive(Serialize, ToSchema)]
struct Completion {
    id: String,
    /// `chat.completion`
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    /// `perch`
    model: &'static str,
    /// One.
    choices: [Choice; 1],
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CompletionChoice)]
struct Choice {
    index: u32,
    message: Answer,
    logprobs: Option<bool>,
    /// `stop`, `length` or `content_filter`
    finish_reason: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CompletionAnswer)]
struct Answer {
    /// `assistant`
    role: &'static str,
    content: String,
    refusal: Option<String>,
}

/// In the model's tokens, as far as its API says, else a quarter of the bytes; the echo takes none.
#[derive(Serialize, ToSchema)]
#[schema(as = CompletionUsage)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl From<chat::Usage> for Usage {
    fn from(usage: chat::Usage) -> Usage {
        let chat::Usage { question, answer, total } = usage;
        Usage { prompt_tokens: question, completion_tokens: answer, total_tokens: total }
    }
}

#[derive(Serialize, ToSchema)]
struct Models {
    /// `list`
    object: &'static str,
    data: [Model; 1],
}

#[derive(Serialize, ToSchema)]
struct Model {
    id: &'static str,
    /// `model`
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    owned_by: &'static str,
}

const THE_MODEL: Model = Model { id: MODEL, object: "model", created: MODEL_CREATED, owned_by: MODEL };

/// One question and all that it takes to answer it.
struct Exchange {
    app: App,
    live: Arc<Live>,
    asked: Asked,
    files: Vec<File>,
    bill: Arc<Bill>,
    aside: Aside,
    id: RequestId,
    /// Seconds since 1970.
    created: u64,
}

impl Exchange {
    async fn answer(&self, deltas: Deltas) -> Result<String, Problem> {
        let Asked { message, earlier, wishes, .. } = &self.asked;
        let ask = Ask { message, earlier, files: &self.files, wishes: *wishes };
        let deltas = deltas.on(&self.bill).telling(&self.aside);
        tokio::select! {
            biased;
            answer = self.live.responder.answer(ask, deltas) => answer.map_err(refusal),
            () = self.app.last_call.cancelled() => Err(super::chat::restarting()),
        }
    }
}

/// Answers the last of the messages, with all that was said before it: nothing is kept here.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    request_body(content((CompletionRequest = "application/json"))),
    responses((
        status = 200,
        description = "The answer, whole; or as events",
        content((Completion = "application/json"), (String = "text/event-stream"))
    ))
)]
pub async fn complete(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let live = Arc::clone(&app.live.borrow());
    let limit = live.config.http.as_ref().map_or(0, |http| http.max_body);
    let (head, body) = request.into_parts();
    if !content::is(&head.headers, "application/json") {
        let detail = "send the request with `Content-Type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let visit = Visit::of(&head.extensions)?;
    let (person, address) = (visit.asker()?.person, visit.client.address);
    let client = live.config.limits.client(address);
    let length = content::length(&head.headers);
    let readable = live.config.chat.attachments();
    let large = length.filter(|length| (readable.images || readable.pdf) && (limit + 1..=WITH_FILES).contains(length));
    let (bytes, counted) = super::chat::read(&app, &head.headers, body, client, large.unwrap_or(limit)).await?;
    let mut asked = request::read(&bytes)?;
    drop(bytes);
    if asked.length() as u64 > limit {
        let detail = format!("what is said is larger than {limit} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let attached = std::mem::take(&mut asked.files);
    let files = if attached.is_empty() {
        Vec::new()
    } else {
        let size = attached.iter().map(|file| file.content.len().next_multiple_of(1 << 10) as u64).sum();
        files(&app, &live, attached, upload::share(&app, client, size).await?).await?
    };
    // Until here they were counted as what came.
    drop(counted);
    let stream = asked.stream;
    let said = asked.length();
    let exchange = Exchange {
        bill: Bill::open(&app.limits, &live.config, Some(address), person, said)?,
        app,
        live,
        asked,
        files,
        aside: Aside::default(),
        id: visit.id,
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    };
    if let Some(request::Stream { usage }) = stream {
        return stream::answer(exchange, usage).await;
    }
    let content = exchange.answer(Deltas::unwanted()).await?;
    let Particulars { ending, usage } = exchange.aside.get();
    let message = Answer { role: "assistant", content, refusal: None };
    let choice = Choice { index: 0, message, logprobs: None, finish_reason: finish_reason(ending) };
    let completion = Completion {
        id: name(exchange.id),
        object: "chat.completion",
        created: exchange.created,
        model: MODEL,
        choices: [choice],
        usage: usage.into(),
    };
    Ok(Json(completion).into_response())
}

/// The files of a request, looked at as every upload is.
async fn files(app: &App, live: &Live, attached: Vec<Attached>, mut room: Share) -> Result<Vec<File>, Problem> {
    let readable = live.config.chat.attachments();
    let mut files = Vec::with_capacity(attached.len());
    for (index, Attached { place, name, media_type, content }) in attached.into_iter().enumerate() {
        let looked = async {
            let announced = Announced::new(&name, Some(&media_type))?;
            announced.readable(readable)?;
            if index == MOST {
                return Err(Unfit::new(Reason::Count, format!("a message takes {MOST} files at most")));
            }
            match room.part(content.len()) {
                Some(share) => announced.with(content, share).await,
                None => Err(announced.too_large()),
            }
        };
        files.push(looked.await.map_err(|unfit| {
            app.requests.uploads.count(unfit.reason);
            Problem::new(StatusCode::BAD_REQUEST, unfit.to_string()).about(place)
        })?);
    }
    Ok(files)
}

/// The one model there is.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, description = "A list of one", body = Models)))]
pub async fn models() -> impl IntoResponse {
    Json(Models { object: "list", data: [THE_MODEL] })
}

/// That model, by its name.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    params(("model" = String, Path, description = "`perch`")),
    responses((status = 200, description = "The model", body = Model))
)]
pub async fn model(Path(model): Path<String>) -> Result<Response, Problem> {
    request::model_is_here(&model)?;
    Ok(Json(THE_MODEL).into_response())
}

/// An answer's id: the request's, so that it leads to the journal.
fn name(id: RequestId) -> String {
    format!("chatcmpl-{id}")
}

fn finish_reason(ending: Ending) -> &'static str {
    match ending {
        Ending::Said => "stop",
        Ending::Long => "length",
        Ending::Withheld => "content_filter",
    }
}

/// Why there is no answer. What is about the request itself is 400, which clients do not send again.
fn refusal(failure: Failure) -> Problem {
    let why = failure.why;
    let problem = Problem::from(failure);
    match why {
        Why::TooLong => problem.known_as(StatusCode::BAD_REQUEST, "context_length_exceeded").about("messages"),
        Why::Declined => problem.known_as(StatusCode::BAD_REQUEST, "declined"),
        Why::Unreadable => problem.known_as(StatusCode::BAD_REQUEST, "unreadable").about("messages"),
        _ => problem,
    }
}
