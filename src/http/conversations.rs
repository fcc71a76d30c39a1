//! Conversations as the person they belong to reads, takes along and deletes them.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{Extensions, HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use super::router::App;
use super::visit::Visit;
use crate::chat::history::{
    Conversation, ConversationId, Cursor, Exchange, Export, Message, Summary, Unavailable, shown,
};

/// How many conversations are on a page of the list.
const PAGE: u32 = 50;

/// What belongs to one person is for no cache.
const PRIVATE: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Place {
    /// `next` of the page before.
    after: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct List {
    conversations: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Entry {
    #[schema(value_type = String)]
    id: ConversationId,
    title: String,
    updated: String,
    messages: u64,
}

impl From<Summary> for Entry {
    fn from(summary: Summary) -> Entry {
        let Summary { id, title, updated, messages } = summary;
        Entry { id, title, updated: shown(updated), messages }
    }
}

#[derive(Serialize, ToSchema)]
struct Read<'a> {
    #[schema(value_type = String)]
    id: ConversationId,
    title: &'a str,
    messages: Vec<Message<'a>>,
    /// How many older messages there are, where they are too much for one answer.
    #[serde(skip_serializing_if = "nothing")]
    omitted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn nothing(count: &u64) -> bool {
    *count == 0
}

/// `GET /api/conversations`: the latest first.
#[utoipa::path(get, path = "/api/conversations", params(Place), responses((status = 200, description = "A page of them", body = List)))]
pub async fn list(
    State(app): State<App>,
    Query(place): Query<Place>,
    extensions: Extensions,
) -> Result<impl IntoResponse, Problem> {
    let asker = Visit::of(&extensions)?.asker()?;
    let after = place.after.map(|token| token.parse::<Cursor>()).transpose();
    let after = after.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "`after` is no token of this list"))?;
    let (conversations, more) = if asker.newcomer {
        (Vec::new(), false)
    } else {
        app.history.list(&asker.person, after, PAGE).await.map_err(unavailable)?
    };
    let next = conversations.last().filter(|_| more).map(|last| last.cursor().to_string());
    Ok((PRIVATE, Json(List { conversations: conversations.into_iter().map(Entry::from).collect(), next })))
}

/// `GET /api/conversations/{id}`: what was said in it.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}",
    params(("id" = String, Path)),
    responses((status = 200, description = "What was said", body = Read))
)]
pub async fn read(
    State(app): State<App>,
    Path(id): Path<String>,
    extensions: Extensions,
) -> Result<impl IntoResponse, Problem> {
    let asker = Visit::of(&extensions)?.asker()?;
    let id: ConversationId = id.parse().map_err(|_| no_such_conversation())?;
    if asker.newcomer {
        return Err(no_such_conversation());
    }
    let found = app.history.conversation(&asker.person, id).await.map_err(unavailable)?;
    let Conversation { title, exchanges, omitted } = found.ok_or_else(no_such_conversation)?;
    let messages = exchanges.iter().flat_map(Exchange::messages).collect();
    Ok((PRIVATE, Json(Read { id, title: &title, messages, omitted: 2 * omitted }).into_response()))
}

/// `DELETE /api/conversations/{id}`.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}",
    params(("id" = String, Path)),
    responses((status = 204, description = "It is gone"))
)]
pub async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
    extensions: Extensions,
) -> Result<StatusCode, Problem> {
    let asker = Visit::of(&extensions)?.asker()?;
    let id: ConversationId = id.parse().map_err(|_| no_such_conversation())?;
    if !asker.newcomer && app.history.erase(&asker.person, Some(id)).await.map_err(|Unavailable| undeleted())? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_such_conversation())
    }
}

/// `DELETE /api/conversations`: all of this person's.
#[utoipa::path(delete, path = "/api/conversations", responses((status = 204, description = "They are gone")))]
pub async fn delete_all(State(app): State<App>, extensions: Extensions) -> Result<StatusCode, Problem> {
    let asker = Visit::of(&extensions)?.asker()?;
    if !asker.newcomer {
        app.history.erase(&asker.person, None).await.map_err(|Unavailable| undeleted())?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/export`: all that is kept of this person, as one JSON document.
#[utoipa::path(
    get,
    path = "/api/export",
    responses((status = 200, description = "All that is kept of this person", content_type = "application/json", body = Object))
)]
pub async fn export(State(app): State<App>, extensions: Extensions) -> Result<impl IntoResponse, Problem> {
    let asker = Visit::of(&extensions)?.asker()?;
    let export = Export::new(&app.history, asker.person).await.map_err(unavailable)?;
    let body = Body::from_stream(export.pieces());
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"perch-export.json\""),
    ];
    Ok((PRIVATE, headers, body))
}

fn no_such_conversation() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such conversation")
}

fn unavailable(error: Unavailable) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}; try again in a while"))
}

fn undeleted() -> Problem {
    let detail = "the history can't be changed at the moment: some of it is still there; delete it again in a while";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
}
