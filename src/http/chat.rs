//! `POST /api/chat`: one message in, one reply out, whole or piece by piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::request_id::RequestId;
use super::router::App;
use crate::chat::{Ask, Deltas, Failure};
use crate::service::Live;

mod stream;

/// How much of a body that is too large is read and thrown away, in bytes: a client that is still sending would meet a
/// reset connection in place of the answer.
const DISCARDED: u64 = 16 << 20;

/// How long a body may take to come, and how long still once perch drains.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const LAST_BODY: Duration = Duration::from_secs(3);

/// How much of all bodies together is held while they come, in bytes: a host has 1 GiB of memory.
const BODIES: usize = 64 << 20;

/// One request's share of what all bodies together may hold, given back when it ends.
struct Held<'a> {
    app: &'a App,
    bytes: usize,
}

impl Held<'_> {
    fn grow(&mut self, by: usize) -> Result<(), Problem> {
        self.bytes += by;
        if self.app.bodies.fetch_add(by, Ordering::Relaxed) + by > BODIES {
            let detail = "too many large requests are coming in at the moment; try again shortly";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.app.bodies.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Deserialize)]
struct Question {
    message: String,
    conversation: Option<String>,
}

#[derive(Serialize)]
struct Reply {
    reply: String,
    conversation: String,
}

/// Answers with the responder of the configuration that is live when the request comes: whole, or as a stream of
/// server-sent events where the client asks for that.
pub async fn chat(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (live, limit) = {
        let live = app.live.borrow();
        (Arc::clone(&live), live.config.http.as_ref().map_or(0, |http| http.max_body))
    };
    require_json(request.headers())?;
    let (head, body) = request.into_parts();
    let question = read(&app, &head.headers, body, limit).await?;
    if question.message.trim().is_empty() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "`message` is empty"));
    }
    let conversation = match question.conversation {
        None => app.conversations.begin(),
        Some(id) if app.conversations.knows(&id) => id,
        Some(_) => {
            return Err(Problem::new(
                StatusCode::NOT_FOUND,
                "there is no such conversation; leave it out to begin one",
            ));
        }
    };
    let exchange = Exchange { app, live, conversation, message: question.message, remembered: AtomicBool::new(false) };
    if !wants_stream(&head.headers) {
        let reply = exchange.answer(Deltas::unwanted()).await?;
        return Ok(Json(Reply { reply, conversation: exchange.conversation }).into_response());
    }
    let id = head.extensions.get::<RequestId>().copied().context("a request without an id");
    let id = id.map_err(|error| Problem::internal(&error))?;
    stream::answer(Arc::new(exchange), id)
}

/// One message and all that it takes to answer it.
struct Exchange {
    app: App,
    live: Arc<Live>,
    conversation: String,
    message: String,
    /// What was said is in the memory.
    remembered: AtomicBool,
}

impl Exchange {
    /// Answers it, and remembers what was said where the responder wants to know.
    async fn answer(&self, deltas: Deltas) -> Result<String, Failure> {
        let earlier = self.app.memory.recent(&self.conversation, self.live.config.chat.history());
        let ask = Ask { message: &self.message, earlier: &earlier };
        let answer = self.live.responder.answer(ask, deltas).await?;
        self.remember(&answer);
        Ok(answer)
    }

    fn remember(&self, answer: &str) {
        if self.remembered.swap(true, Ordering::Relaxed) {
            return;
        }
        self.app.memory.add(&self.conversation, self.live.config.chat.history(), &self.message, answer);
    }
}

/// Whether the client names server-sent events among what it accepts.
fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut essences =
        accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or_default());
    essences.any(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the message with `Content-Type: application/json`"))
}

/// Reads a body of at most `limit` bytes.
async fn read(app: &App, headers: &HeaderMap, mut body: Body, limit: u64) -> Result<Question, Problem> {
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request is larger than {limit} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let patient = headers.contains_key(header::EXPECT);
    if announced.is_some_and(|length| length > limit && (patient || length > limit + DISCARDED)) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut received: u64 = 0;
    let mut held = Held { app, bytes: 0 };
    let deadline = tokio::time::Instant::now() + BODY_TIMEOUT;
    let frames = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the request's body ended early"))?;
            let Ok(data) = frame.into_data() else { continue };
            received += data.len() as u64;
            if received <= limit {
                held.grow(data.len())?;
                bytes.extend_from_slice(&data);
            } else if received > limit + DISCARDED {
                break;
            }
        }
        Ok::<(), Problem>(())
    };
    let too_slow = || Problem::new(StatusCode::REQUEST_TIMEOUT, "the request's body took too long to come");
    tokio::select! {
        biased;
        result = frames => result?,
        () = tokio::time::sleep_until(deadline) => return Err(too_slow()),
        // Whoever is that slow shall not keep a restart waiting.
        () = async { app.stop.cancelled().await; tokio::time::sleep(LAST_BODY).await } => return Err(too_slow()),
    }
    if received > limit {
        return Err(too_large());
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let detail = format!("the body is not {{\"message\": \"…\", \"conversation\": \"…\"?}}: {error}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}
