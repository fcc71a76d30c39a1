//! `POST /api/chat`: one message in, one reply out.

use std::sync::Arc;

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
    let question = read(request.into_body(), limit).await?;
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
async fn read(mut body: Body, limit: u64) -> Result<Question, Problem> {
    let mut bytes = Vec::new();
    let mut received: u64 = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the request's body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        received += data.len() as u64;
        if received <= limit {
            bytes.extend_from_slice(&data);
        } else if received > limit + DISCARDED {
            break;
        }
    }
    if received > limit {
        let detail = format!("the request is larger than {limit} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let detail = format!("the body is not {{\"message\": \"…\", \"conversation\": \"…\"?}}: {error}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}
