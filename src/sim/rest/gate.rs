//! What every request passes before its handler: faults, authorization and rate limits; and what its answer gets.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::errors::ApiError;
use crate::sim::faults::{Fault, Scope};
use crate::sim::rate_limit::{Standing, Verdict};
use crate::sim::server::Cut;
use crate::sim::state::Shared;

/// What a 429 made by a fault asks for when the fault does not say.
const DEFAULT_RETRY_AFTER: f64 = 1.0;

pub async fn pass(
    State(shared): State<Arc<Shared>>,
    Extension(cut): Extension<Cut>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    // Nested routers see the path below /api/v10.
    let path = request.uri().path().to_owned();
    let fault = {
        let mut state = shared.state();
        state.counters.rest_requests += 1;
        state.faults.strike(|fault| fault.means(method.as_str(), &path).then(|| fault.clone()))
    };
    let answer = match &fault {
        Some(Fault::Rest { status, retry_after, scope, .. }) => {
            failure(*status, retry_after.unwrap_or(DEFAULT_RETRY_AFTER), *scope)
        }
        Some(Fault::RestHang { .. }) => {
            // Ends when the client goes away, which drops this, or when the simulator stops.
            shared.shutdown.cancelled().await;
            cut.now();
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        fault => {
            if let Some(Fault::RestDelay { ms, .. }) = fault {
                pause(&shared, *ms).await;
            }
            admit(&shared, method.as_str(), &path, request, next).await
        }
    };
    let answer = match fault {
        Some(Fault::RestLate { ms, .. }) => {
            pause(&shared, ms).await;
            answer
        }
        Some(Fault::RestCut { .. }) => cut_in_the_middle(answer).await,
        Some(Fault::RestGarbage { .. }) => garbage(),
        _ => answer,
    };
    note(&shared, method.as_str(), &path, answer.status());
    answer
}

async fn pause(shared: &Shared, ms: u64) {
    tokio::select! {
        () = shared.shutdown.cancelled() => {}
        () = tokio::time::sleep(Duration::from_millis(ms)) => {}
    }
}

async fn admit(shared: &Shared, method: &str, path: &str, request: Request, next: Next) -> Response {
    // "This endpoint does not require authentication." Source: Gateway, "Get Gateway".
    let open = path == "/gateway";
    let verdict = {
        let mut state = shared.state();
        let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        // REST wants the prefix. Source: API reference, "Authentication".
        let known = authorization.is_some_and(|value| value.starts_with("Bot ") && state.accepts(value));
        if !open && !known {
            drop(state);
            return ApiError::unauthorized().into_response();
        }
        state.limits.check(method, path, Instant::now())
    };
    match verdict {
        Verdict::GlobalSpent(wait) => limited(wait.as_secs_f64(), Scope::Global, None),
        Verdict::RouteSpent(standing) => limited(standing.reset_after.as_secs_f64(), Scope::User, Some(&standing)),
        Verdict::Allowed(standing) => {
            let mut answer = next.run(request).await;
            if let Some(standing) = standing {
                show(answer.headers_mut(), &standing);
            }
            answer
        }
    }
}

fn note(shared: &Shared, method: &str, path: &str, status: StatusCode) {
    let mut state = shared.state();
    if status == StatusCode::TOO_MANY_REQUESTS {
        state.counters.rate_limited += 1;
    }
    if matches!(status.as_u16(), 401 | 403 | 429) {
        state.counters.invalid_requests += 1;
    }
    state.happened("rest", json!({ "method": method, "path": path, "status": status.as_u16() }));
}

/// An error that Discord, or the proxy before it, would send.
fn failure(status: u16, retry_after: f64, scope: Scope) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match status {
        StatusCode::TOO_MANY_REQUESTS => limited(retry_after, scope, None),
        StatusCode::UNAUTHORIZED => ApiError::unauthorized().into_response(),
        StatusCode::FORBIDDEN => ApiError::missing_access().into_response(),
        // These come from the proxy, which does not speak JSON.
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            let reason = status.canonical_reason().unwrap_or_default();
            let page = format!("<html><head><title>{0} {reason}</title></head></html>\n", status.as_u16());
            (status, [(CONTENT_TYPE, "text/html")], page).into_response()
        }
        _ => ApiError::status(status).into_response(),
    }
}

/// Source: Rate Limits, "Exceeding A Rate Limit".
fn limited(retry_after: f64, scope: Scope, standing: Option<&Standing>) -> Response {
    let message = match scope {
        Scope::Shared => "The resource is being rate limited.",
        Scope::User | Scope::Global => "You are being rate limited.",
    };
    let retry_after = (retry_after * 1000.0).ceil() / 1000.0;
    let global = scope == Scope::Global;
    let body = json!({ "message": message, "retry_after": retry_after, "global": global });
    let mut answer = (StatusCode::TOO_MANY_REQUESTS, Json(body)).into_response();
    let headers = answer.headers_mut();
    if let Some(standing) = standing {
        show(headers, standing);
    }
    put(headers, RETRY_AFTER, &retry_after.ceil().to_string());
    if global {
        put(headers, HeaderName::from_static("x-ratelimit-global"), "true");
    }
    let scope = match scope {
        Scope::User => "user",
        Scope::Global => "global",
        Scope::Shared => "shared",
    };
    put(headers, HeaderName::from_static("x-ratelimit-scope"), scope);
    answer
}

/// Source: Rate Limits, "Header Format".
fn show(headers: &mut HeaderMap, standing: &Standing) {
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let reset_after = u64::try_from(standing.reset_after.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    put(headers, HeaderName::from_static("x-ratelimit-limit"), &standing.limit.to_string());
    put(headers, HeaderName::from_static("x-ratelimit-remaining"), &standing.remaining.to_string());
    put(headers, HeaderName::from_static("x-ratelimit-reset"), &seconds(standing.reset_at_ms));
    put(headers, HeaderName::from_static("x-ratelimit-reset-after"), &seconds(reset_after));
    put(headers, HeaderName::from_static("x-ratelimit-bucket"), &standing.bucket);
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The answer announced whole and half sent: the error at its middle makes hyper drop the connection.
async fn cut_in_the_middle(answer: Response) -> Response {
    let (mut parts, body) = answer.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    // An answer without a body is given one to be cut in.
    let bytes = if bytes.len() < 2 { Bytes::from_static(b"{ }") } else { bytes };
    if parts.status == StatusCode::NO_CONTENT {
        parts.status = StatusCode::OK;
    }
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let half = bytes.slice(..bytes.len() / 2);
    let error = std::io::Error::other("cut in the middle, as told");
    let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(half), Err(error)]);
    Response::from_parts(parts, Body::from_stream(stream))
}

fn garbage() -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, "application/json")], "{\"id\": \"12").into_response()
}

/// A request's JSON body.
///
/// # Errors
/// 50109 when it is not JSON.
pub fn json_body(body: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::invalid_json())
}
