//! `POST /api/chat`: one message in, one reply out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::router::App;

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
pub struct Reply {
    reply: String,
    conversation: String,
}

/// Answers with the responder of the configuration that is live when the request comes.
pub async fn chat(State(app): State<App>, request: Request) -> Result<Json<Reply>, Problem> {
    let (responder, limit) = {
        let live = app.live.borrow();
        (Arc::clone(&live.responder), live.config.http.as_ref().map_or(0, |http| http.max_body))
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
    let reply = responder.reply(&question.message).await.map_err(Problem::internal)?;
    Ok(Json(Reply { reply, conversation }))
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
        Ok(())
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
