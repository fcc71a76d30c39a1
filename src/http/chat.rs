//! `POST /api/chat`: one message in, one reply out, whole or piece by piece.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use utoipa::ToSchema;

use super::content;
use super::problem::Problem;
use super::router::App;
use super::visit::Visit;
use crate::chat::files::File;
use crate::chat::history::{self, Asked, Asker, Asking, Attachment, ConversationId, Unasked, Which};
use crate::chat::{Aside, Ask, Deltas, Ending};
use crate::json;
use crate::limits::Bill;
use crate::service::Live;

mod bodies;
pub(super) mod stream;
pub(super) mod upload;

pub(super) use bodies::{BODIES, Flood};
pub use upload::ROOM;

use bodies::Held;

/// How much of a body that is too large is read and thrown away, in bytes: a client that is still sending would meet a
/// reset connection in place of the answer.
const DISCARDED: u64 = 16 << 20;
/// For the rest of a body that is refused: its sender may read nothing until it has sent it all.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a body may take to come, and how long still once perch drains.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const LAST_BODY: Duration = Duration::from_secs(3);

/// By which a client marks a request that it may have to send again
/// (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest of these, in characters.
const LONGEST_KEY: usize = 64;

/// How much is made room for before a body comes that says how long it is, in bytes. A longer one grows.
const AHEAD: u64 = 1 << 20;

#[derive(Deserialize, ToSchema)]
struct Question {
    /// What to answer. It may be empty in a form with files.
    message: String,
    /// Which conversation to continue; without it, a new one begins.
    conversation: Option<String>,
    #[serde(skip)]
    files: Vec<File>,
}

/// A question with files, as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it is read part by part, and stands here for the API's description")]
struct Form {
    message: String,
    conversation: Option<String>,
    /// pdf, png, jpg, jpeg or gif, up to 5 MiB each.
    #[schema(max_items = 4, value_type = Vec<String>, format = Binary)]
    file: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Reply)]
struct Whole {
    reply: String,
    #[schema(value_type = String)]
    conversation: ConversationId,
    /// `length`: the answer may not be longer, and there would be more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish: Option<&'static str>,
}

impl Whole {
    /// The answer to a request that came with `headers`: an answer has many of them, and there is room in these.
    fn answer(&self, mut headers: HeaderMap) -> Response {
        headers.clear();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let text = serde_json::to_vec(self).expect("these are strings");
        let mut response = Response::new(Body::from(text));
        *response.headers_mut() = headers;
        response
    }
}

/// Answers with the responder of the configuration that is live when the request comes: whole, or as a stream of
/// server-sent events where the client asks for that.
#[utoipa::path(
    post,
    path = "/api/chat",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "A request that repeats it gets the answer of the first, and begins no second conversation"),
        ("Accept" = Option<String>, Header, description = "`text/event-stream` for the answer as it comes")
    ),
    request_body(content(
        (Question = "application/json"),
        (Form = "multipart/form-data")
    )),
    responses((
        status = 200,
        description = "The answer, whole; or as the events `start`, `delta`, `done` and `error`",
        content((Whole = "application/json"), (String = "text/event-stream"))
    ))
)]
pub async fn chat(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (live, limit) = {
        let live = app.live.borrow();
        (Arc::clone(&live), live.config.http.as_ref().map_or(0, |http| http.max_body))
    };
    let (head, body) = request.into_parts();
    let visit = Visit::of(&head.extensions)?;
    let client = live.config.limits.client(visit.client.address);
    let question = if content::is(&head.headers, "multipart/form-data") {
        // In a box, as every question would have room for it otherwise.
        Box::pin(upload::read(&app, &head.headers, body, client, limit, &live.config)).await?
    } else {
        if !content::is(&head.headers, "application/json") {
            let detail =
                "send the message with `Content-Type: application/json`, or with files as `multipart/form-data`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let (bytes, _held) = read(&app, &head.headers, body, client, limit).await?;
        json::object(&bytes).map_err(|error| {
            let detail = format!("the body is not {{\"message\": \"…\", \"conversation\": \"…\"?}}: {error}");
            Problem::new(StatusCode::BAD_REQUEST, detail)
        })?
    };
    if question.message.trim().is_empty() && question.files.is_empty() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "`message` is empty"));
    }
    let asker = Asker { client, ..visit.asker()? };
    let which = which(question.conversation.as_deref())?;
    let Question { message, files, .. } = question;
    let text: Arc<str> = message.into();
    let attachments: Arc<[_]> =
        if files.is_empty() { Arc::default() } else { files.iter().map(Attachment::from).collect() };
    let question = history::Question { text: Arc::clone(&text), attachments, key: key(&head.headers)? };
    let address = visit.client.address;
    let bill = Bill::open(&app.limits, &live.config, Some(address), asker.person.clone(), text.len())?;
    let found = app.history.ask(&asker, which, question, live.config.chat.history()).await;
    let found = found.map_err(unasked)?;
    let stream = wants_stream(&head.headers);
    match found {
        Asked::Before { conversation, answer, ending, .. } if !stream => {
            Ok(Whole { reply: answer, conversation, finish: ending.finish() }.answer(head.headers))
        }
        Asked::Before { conversation, message, answer, ending } => {
            let answer = Answer { text: answer, ending };
            Ok(stream::again(conversation, message, answer, live, visit.id))
        }
        Asked::Now(asking) => {
            let exchange = Exchange { app: Arc::clone(&app), live, asking, message: text, files, bill };
            if stream {
                return stream::answer(Arc::new(exchange), visit.id);
            }
            let answer = exchange.answer(Deltas::unwanted()).await.inspect_err(|_| exchange.asking.failed())?;
            let (conversation, finish) = (exchange.asking.conversation(), answer.ending.finish());
            Ok(Whole { reply: answer.text, conversation, finish }.answer(head.headers))
        }
    }
}

/// The conversation that a request names.
pub(super) fn which(conversation: Option<&str>) -> Result<Which, Problem> {
    let Some(id) = conversation else { return Ok(Which::New) };
    id.parse().map(Which::Existing).map_err(|_| no_such_conversation())
}

pub(super) fn no_such_conversation() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such conversation; leave it out to begin one")
}

pub(super) fn unasked(why: Unasked) -> Problem {
    match why {
        Unasked::NoSuchConversation => no_such_conversation(),
        Unasked::AnotherQuestion => {
            let detail = "another message came with this `Idempotency-Key` before; send each with one of its own";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
    }
}

/// What is told to whoever is being answered when perch has to end.
pub(super) fn restarting() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "perch is restarting; try again in a moment")
}

/// The key that the client marks the request with.
fn key(headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let plain = |key: &&str| {
        (1..=LONGEST_KEY).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let Some(key) = value.to_str().ok().filter(plain) else {
        let detail = format!("`Idempotency-Key` is not 1 to {LONGEST_KEY} of A-Z a-z 0-9 - _");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    };
    Ok(Some(key.into()))
}

/// One message and all that it takes to answer it.
pub(super) struct Exchange {
    pub(super) app: App,
    pub(super) live: Arc<Live>,
    pub(super) asking: Asking,
    pub(super) message: Arc<str>,
    pub(super) files: Vec<File>,
    pub(super) bill: Arc<Bill>,
}

/// All that was answered, and why there is no more.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) ending: Ending,
}

impl Exchange {
    /// Answers it.
    pub(super) async fn answer(&self, deltas: Deltas) -> Result<Answer, Problem> {
        let aside = Aside::default();
        let deltas = deltas.on(&self.bill).telling(&aside);
        let ask = Ask { message: &self.message, earlier: self.asking.earlier(), files: &self.files, ..Ask::default() };
        let text = tokio::select! {
            biased;
            answer = self.live.responder.answer(ask, deltas) => answer?,
            () = self.asking.given_up() => {
                let detail = "this message was sent again and is answered there, or its conversation was deleted";
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            }
            () = self.app.last_call.cancelled() => {
                self.asking.cut_off();
                return Err(restarting());
            }
            never = self.asking.note_down() => match never {},
        };
        let ending = aside.get().ending;
        self.asking.ended(&text, ending);
        Ok(Answer { text, ending })
    }
}

/// Whether the client names server-sent events among what it accepts.
fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut essences =
        accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or_default());
    essences.any(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Reads a body of at most `limit` bytes, which are counted for `client` as long as the second is there.
pub(super) async fn read<'a>(
    app: &'a App,
    headers: &HeaderMap,
    mut body: Body,
    client: Option<IpAddr>,
    limit: u64,
) -> Result<(Vec<u8>, Held<'a>), Problem> {
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request is larger than {limit} bytes"));
    let announced = content::length(headers);
    let patient = headers.contains_key(header::EXPECT);
    if announced.is_some_and(|length| length > limit && (patient || length > limit + DISCARDED)) {
        return Err(too_large());
    }
    // What does not grow is not copied, and leaves no holes behind. Nothing is taken of it before it is written to.
    let ahead = announced.unwrap_or(0).min(limit).min(AHEAD);
    let mut bytes = Vec::with_capacity(usize::try_from(ahead).unwrap_or(0));
    let mut received: u64 = 0;
    let (mut held, mut full) = (Some(Held::new(app, client)), None);
    // Once it is known that it is not taken.
    let mut refused: Option<Instant> = None;
    let deadline = Instant::now() + BODY_TIMEOUT.max(upload::patience(limit));
    let frames = async {
        loop {
            let next = match refused {
                Some(since) => timeout_at(since + DISCARD_TIMEOUT, body.frame()).await.unwrap_or_default(),
                None => body.frame().await,
            };
            let Some(frame) = next else { break };
            let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the request's body ended early"))?;
            let Ok(data) = frame.into_data() else { continue };
            received += data.len() as u64;
            if received > limit + DISCARDED {
                break;
            }
            if received > limit {
                refused.get_or_insert_with(Instant::now);
                continue;
            }
            match held.as_mut().map(|held| held.grow(data.len())) {
                Some(Ok(())) => bytes.extend_from_slice(&data),
                // What still comes is thrown away, as its sender may read nothing before.
                Some(Err(problem)) => {
                    (bytes, held) = (Vec::new(), None);
                    full = Some(problem);
                    refused = Some(Instant::now());
                }
                None => {}
            }
        }
        full.map_or(Ok(()), Err)
    };
    let too_slow = || Problem::new(StatusCode::REQUEST_TIMEOUT, "the request's body took too long to come");
    tokio::select! {
        biased;
        result = frames => result?,
        () = sleep_until(deadline) => return Err(too_slow()),
        // Whoever is that slow shall not keep a restart waiting.
        () = async { app.stop.cancelled().await; sleep(LAST_BODY).await } => return Err(too_slow()),
    }
    if received > limit {
        return Err(too_large());
    }
    Ok((bytes, held.unwrap_or_else(|| Held::new(app, client))))
}
