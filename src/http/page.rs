//! The chat page, compiled in.

use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;

use super::problem::Problem;

/// Nothing from elsewhere, nothing inline: <https://www.w3.org/TR/CSP3/>.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src \
                      'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    // The page and its parts belong together: a browser asks again rather than mix two versions.
    (header::CACHE_CONTROL, "no-cache"),
];

pub async fn index() -> impl IntoResponse {
    (HEADERS, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("page/index.html"))
}

pub async fn asset(Path(name): Path<String>) -> Result<impl IntoResponse, Problem> {
    let (kind, text) = match name.as_str() {
        "chat.css" => ("text/css; charset=utf-8", include_str!("page/chat.css")),
        "chat.js" => ("text/javascript; charset=utf-8", include_str!("page/chat.js")),
        "perch.svg" => ("image/svg+xml", include_str!("page/perch.svg")),
        _ => return Err(Problem::new(StatusCode::NOT_FOUND, "there is no such file")),
    };
    Ok((HEADERS, [(header::CONTENT_TYPE, kind)], text))
}
