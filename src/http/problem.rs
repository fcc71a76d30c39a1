//! Errors as clients see them: `application/problem+json` (RFC 9457), or as OpenAI writes them where its clients ask;
//! opaque where the fault is ours.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::completions::error;
use super::request_id::RequestId;
use super::router::App;
use crate::chat::{Failure, LONGEST_WAIT, Why, whole_seconds};
use crate::config::Environment;
use crate::limits::Refusal;
use crate::service::Live;

/// When to come again while the chat is not ready: a key that is there by then is taken at once, or within a few minutes.
const NOT_READY: Duration = Duration::from_secs(10);

/// What went wrong (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Document<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    /// A sentence for people.
    detail: &'a str,
    /// Under which the operator finds the cause in the journal.
    request_id: String,
    /// After how many seconds it is worth trying again, where that is known: what `Retry-After` says, for those who can't
    /// see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// What really happened, where the configuration says `environment = "development"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

impl<'a> Document<'a> {
    /// What a client may read of any problem, in the answer to request `id`.
    pub(super) fn new(status: StatusCode, detail: &'a str, id: RequestId) -> Document<'a> {
        Document {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail,
            request_id: id.to_string(),
            retry_after: None,
            cause: None,
        }
    }
}

/// An answer that says what went wrong. [`super::front`] has its body written, as only that knows the request's id.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// What really happened, for the journal.
    cause: Option<Cause>,
    retry_after: Option<Duration>,
    /// What else a client of OpenAI's is told.
    about: Option<Box<About>>,
}

#[derive(Clone, Debug, Default)]
struct About {
    /// Which part of the request it is about.
    param: Option<String>,
    /// A word for programs.
    code: Option<&'static str>,
}

/// How a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Rfc9457,
    OpenAi,
}

impl Dialect {
    /// That of what is asked for at `path`.
    #[must_use]
    pub fn of(path: &str) -> Dialect {
        if path.starts_with("/v1/") { Dialect::OpenAi } else { Dialect::Rfc9457 }
    }

    pub(super) fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Dialect::Rfc9457 => "application/problem+json",
            Dialect::OpenAi => "application/json",
        })
    }
}

#[derive(Clone, Debug)]
struct Cause {
    text: Arc<str>,
    /// A fault of perch's own, and not of what it depends on.
    ours: bool,
}

impl Problem {
    /// A problem whose `detail` the client may read.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem { status, detail: detail.into(), cause: None, retry_after: None, about: None }
    }

    /// The same, about this part of a request to an API of OpenAI's.
    #[must_use]
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.about.get_or_insert_default().param = Some(param.into());
        self
    }

    /// The same with this status and this word, by which a client of OpenAI's knows it.
    #[must_use]
    pub fn known_as(mut self, status: StatusCode, code: &'static str) -> Self {
        self.about.get_or_insert_default().code = Some(code);
        Problem { status, ..self }
    }

    /// The same, with when to come again.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Problem { retry_after: Some(wait), ..self }
    }

    /// A fault of ours: the client learns the request's id, and the journal the cause.
    pub fn internal(cause: &anyhow::Error) -> Self {
        let detail = "perch could not answer this; the operator finds the cause in the journal under the request id";
        let cause = Some(Cause { text: format!("{cause:#}").into(), ours: true });
        Problem { cause, ..Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail) }
    }

    /// The problem as a document, for request `id`. Logs the cause, if there is one.
    pub(super) fn tell(&self, id: RequestId, live: &Live) -> Value {
        self.tell_in(Dialect::Rfc9457, id, live)
    }

    /// The same as this client understands it.
    pub(super) fn tell_in(&self, dialect: Dialect, id: RequestId, live: &Live) -> Value {
        let cause = self.log(id, live);
        match dialect {
            Dialect::Rfc9457 => json!(Document {
                retry_after: self.retry_after.map(whole_seconds),
                cause,
                ..Document::new(self.status, &self.detail, id)
            }),
            Dialect::OpenAi => {
                let (param, code) = match self.about.as_deref() {
                    Some(About { param, code }) => (param.as_deref(), *code),
                    None => (None, None),
                };
                json!(error::Document::new(self.status, &self.detail, param, code, cause))
            }
        }
    }

    /// Logs the cause, if there is one, and returns what the client may know of it.
    fn log(&self, id: RequestId, live: &Live) -> Option<&str> {
        let Cause { text, ours } = self.cause.as_ref()?;
        let config_version = &live.version;
        if *ours {
            tracing::error!(
                service = super::NAME, request_id = %id, config_version = %config_version, "request {id} failed: {text}"
            );
        } else {
            tracing::warn!(
                service = super::NAME, request_id = %id, config_version = %config_version, "request {id} failed: {text}"
            );
        }
        (live.config.environment == Environment::Development).then_some(&**text)
    }

    /// Makes it the answer to request `id`.
    pub(super) fn render(self, id: RequestId, dialect: Dialect, app: &App, response: &mut Response<Body>) {
        let live = Arc::clone(&app.live.borrow());
        let body = self.tell_in(dialect, id, &live);
        *response.body_mut() = Body::from(body.to_string());
        *response.status_mut() = self.status;
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(header::CONTENT_TYPE, dialect.media_type());
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let (status, retry_after) = match failure.why {
            Why::Broken => return Problem::internal(&failure.into()),
            Why::NotReady => (StatusCode::SERVICE_UNAVAILABLE, Some(NOT_READY)),
            Why::Busy { retry_after } => {
                (StatusCode::SERVICE_UNAVAILABLE, retry_after.map(|wait| wait.min(LONGEST_WAIT)))
            }
            Why::Declined | Why::Exhausted | Why::Unreadable => (StatusCode::UNPROCESSABLE_ENTITY, None),
            Why::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Why::TimedOut => (StatusCode::GATEWAY_TIMEOUT, None),
            Why::Refused(_) | Why::Unavailable | Why::CutShort | Why::Nonsense => (StatusCode::BAD_GATEWAY, None),
        };
        let cause = Cause { text: failure.to_string().into(), ours: false };
        Problem { cause: Some(cause), retry_after, ..Problem::new(status, failure.why.sentence()) }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let retry_after = Some(Duration::from_secs(refusal.retry_after_seconds()));
        Problem { retry_after, ..Problem::new(StatusCode::TOO_MANY_REQUESTS, refusal.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

pub async fn not_found(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}

pub async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}

pub async fn not_here() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "perch is not configured to serve this address")
}
