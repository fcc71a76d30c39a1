//! `GET /api/openapi.json`: what the API is, for programs. It is made of what stands with the handlers and their types.

use std::sync::OnceLock;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, PathItem, Ref, RefOr};
use utoipa::{Modify, OpenApi};

use super::acme::challenge;
use super::problem::Dialect;
use super::router::is_api;
use super::{chat, completions, conversations, health, page, problem, ws};

/// Under this name the document speaks of the key or the token.
const SCHEME: &str = "sign-in";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "perch",
        description = "A chat over HTTP. Where the configuration has an `[auth]` table, everything under `/api` and `/v1` asks \
                       for a key or a token; without one, a cookie tells people apart. What is under `/v1` speaks as \
                       OpenAI's API does."
    ),
    paths(
        challenge::show,
        page::index,
        page::asset,
        health::health,
        health::ready,
        chat::chat,
        conversations::list,
        conversations::read,
        conversations::delete,
        conversations::delete_all,
        conversations::export,
        completions::complete,
        completions::models,
        completions::model,
        ws::open,
        openapi,
    ),
    components(schemas(problem::Document, completions::error::Document)),
    modifiers(&Common)
)]
struct Api;

/// What is true of every route, and of an API's.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key (`perch_…`), or a token of the issuer that the configuration names"));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(SCHEME, SecurityScheme::Http(bearer.build()));
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item) {
                operation.responses.responses.insert("default".to_owned(), RefOr::T(refusal(Dialect::of(path))));
                if is_api(path) {
                    let nobody = SecurityRequirement::default();
                    let somebody = SecurityRequirement::new(SCHEME, Vec::<String>::new());
                    operation.security = Some(vec![nobody, somebody]);
                }
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut utoipa::openapi::path::Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.delete].into_iter().flatten()
}

/// What any request may be answered with in place of what it asks for.
fn refusal(dialect: Dialect) -> Response {
    let (schema, kind) = match dialect {
        Dialect::Rfc9457 => ("Problem", "application/problem+json"),
        Dialect::OpenAi => ("OpenAiError", "application/json"),
    };
    ResponseBuilder::new()
        .description("Why it is not done; 429 and 503 say with `Retry-After` when to come again")
        .content(kind, Content::new(Some(Ref::from_schema_name(schema))))
        .build()
}

/// The document, as JSON.
#[must_use]
pub fn document() -> &'static str {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    DOCUMENT.get_or_init(|| Api::openapi().to_pretty_json().unwrap_or_default())
}

/// This document.
#[utoipa::path(
    get,
    path = "/api/openapi.json",
    responses((status = 200, description = "The OpenAPI document", content_type = "application/json", body = Object))
)]
pub async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::metrics::ROUTES;
    use super::*;

    /// Path and method of every route, as the router has them, a line each.
    fn routed() -> BTreeSet<(String, &'static str)> {
        let mut routes = BTreeSet::new();
        for line in include_str!("router.rs").lines() {
            let Some((_, rest)) = line.split_once(".route(\"") else { continue };
            let (path, handlers) = rest.split_once('"').unwrap();
            let taken = ["get", "post", "put", "delete"].into_iter().filter(|method| {
                handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}("))
            });
            routes.extend(taken.map(|method| (path.to_owned(), method)));
        }
        routes
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_str(document()).unwrap();
        let mut documented = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys();
            let methods =
                methods.filter_map(|method| ["get", "post", "put", "delete"].into_iter().find(|own| own == method));
            documented.extend(methods.map(|method| (path.clone(), method)));
        }
        assert_eq!(documented, routed());
        assert!(routed().len() > 9, "{:?}", routed());
    }

    #[test]
    fn every_route_is_counted_by_its_name() {
        let counted: BTreeSet<String> = ROUTES.iter().map(|route| (*route).to_owned()).collect();
        assert_eq!(counted, routed().into_iter().map(|(path, _)| path).collect());
    }
}
