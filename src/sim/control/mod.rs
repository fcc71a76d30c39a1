//! What people and tests drive: the page, and a JSON interface to speak, look, and break things.

pub mod channels;
pub mod faults;
pub mod overview;
mod page;
pub mod say;
pub mod settings;

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::state::Shared;

pub fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(page::index))
        .route("/sim/assets/style.css", get(page::style))
        .route("/sim/assets/app.js", get(page::app))
        .route("/sim/assets/icon.svg", get(page::icon))
        .route("/sim/assets/text.js", get(page::text))
        .route("/sim/assets/composer.js", get(page::composer))
        .route("/sim/assets/stream.js", get(page::stream))
        .route("/sim/assets/panel.js", get(page::panel))
        .route("/sim/state", get(overview::show))
        .route("/sim/events", get(overview::events))
        .route("/sim/messages", get(say::messages))
        .route("/sim/say", post(say::post))
        .route("/sim/edit", post(say::edit))
        .route("/sim/delete", post(say::delete))
        .route("/sim/typing", post(say::typing))
        .route("/sim/channels", post(channels::create))
        .route("/sim/channels/{channel}", patch(channels::change).delete(channels::delete))
        .route("/sim/faults", get(faults::list).post(faults::post).delete(faults::clear))
        .route("/sim/faults/{id}", delete(faults::remove))
        .route("/sim/settings", patch(settings::patch))
        .route("/sim/sessions", delete(settings::expire_sessions))
}

/// Why a control request can't be done.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    reason: String,
}

impl Problem {
    pub fn bad(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: reason.into() }
    }

    pub fn missing(what: &str, name: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, reason: format!("no {what} is called {name:?}") }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.reason }))).into_response()
    }
}

/// A JSON body whose mistakes are answered in JSON. A page on another site can't send one without being asked first
/// (CORS), so that it can't drive the simulator of somebody who visits it.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(body) = Json::from_request(request, state)
            .await
            .map_err(|rejection| Problem { status: rejection.status(), reason: rejection.body_text() })?;
        Ok(Self(body))
    }
}
