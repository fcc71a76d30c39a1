//! Those who have conversations: who they are, what is kept of them, and forgetting it.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use crate::chat::PersonId;
use crate::chat::history::{Export, Unavailable, shown};

/// How many are listed, those who were heard of last.
const LISTED: u32 = 1_000;

/// Whom it is about.
#[derive(Deserialize)]
pub struct Whom {
    person: String,
}

pub async fn list(State(admin): State<Admin>) -> Result<impl IntoResponse, Refusal> {
    let (people, all) = admin.history.people(LISTED).await?;
    let people: Vec<_> = people
        .into_iter()
        .map(|found| {
            let (person, conversations) = (found.person.as_str(), found.conversations);
            json!({ "person": person, "conversations": conversations, "updated": shown(found.updated) })
        })
        .collect();
    Ok(Json(json!({ "people": people, "all": all })))
}

pub async fn export(State(admin): State<Admin>, Query(whom): Query<Whom>) -> Result<impl IntoResponse, Refusal> {
    let export = Export::new(&admin.history, PersonId::written(&whom.person)).await?;
    if export.is_empty() {
        return Err(Refusal::NobodyThere);
    }
    Ok(Body::from_stream(export.pieces()))
}

pub async fn delete(State(admin): State<Admin>, Query(whom): Query<Whom>) -> Result<impl IntoResponse, Refusal> {
    let (history, person) = (Arc::clone(&admin.history), PersonId::written(&whom.person));
    // It goes on to its end, whether or not somebody waits for it.
    let erased = tokio::spawn(async move { history.erase(&person, None).await });
    if erased.await.unwrap_or(Err(Unavailable))? {
        Ok(Json(json!({ "deleted": true })))
    } else {
        Err(Refusal::NobodyThere)
    }
}

/// Why it can't be done.
pub enum Refusal {
    NobodyThere,
    NotNow(Unavailable),
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Refusal {
        Refusal::NotNow(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        match self {
            Refusal::NobodyThere => {
                (StatusCode::NOT_FOUND, "nothing is kept of this person".to_owned()).into_response()
            }
            Refusal::NotNow(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        }
    }
}
