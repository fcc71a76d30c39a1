//! Errors as clients see them: `application/problem+json` (RFC 9457), opaque where the fault is ours.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use serde_json::json;

use super::request_id::RequestId;
use super::router::App;
use crate::config::Environment;

/// An answer that says what went wrong. The outermost layer writes its body, as only that knows the request's id.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// What really happened, for the journal.
    cause: Option<Arc<anyhow::Error>>,
}

impl Problem {
    /// A problem whose `detail` the client may read.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem { status, detail: detail.into(), cause: None }
    }

    /// A fault of ours: the client learns the request's id, and the journal the cause.
    pub fn internal(cause: anyhow::Error) -> Self {
        Problem {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            detail: "perch could not answer this; the operator finds the cause in the journal under the request id"
                .to_owned(),
            cause: Some(Arc::new(cause)),
        }
    }

    /// The answer for request `id`. Logs the cause, if there is one.
    pub(super) fn render(self, id: RequestId, app: &App, headers: &mut HeaderMap) -> Response<Body> {
        let live = Arc::clone(&app.live.borrow());
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "request_id": id.to_string(),
        });
        if let Some(cause) = self.cause {
            tracing::error!(
                service = super::NAME,
                request_id = %id,
                config_version = %live.version,
                "request {id} failed: {cause:#}"
            );
            if live.config.environment == Environment::Development {
                body["cause"] = json!(format!("{cause:#}"));
            }
        }
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        std::mem::swap(response.headers_mut(), headers);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
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
