//! The page a person talks to the bot on.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY};
use axum::http::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use axum::response::IntoResponse;

/// Nothing inline and nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn serve(kind: &'static str, body: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 6] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, body)
}

pub async fn index() -> impl IntoResponse {
    serve("text/html; charset=utf-8", include_str!("../page/index.html"))
}

pub async fn style() -> impl IntoResponse {
    serve("text/css; charset=utf-8", include_str!("../page/style.css"))
}

pub async fn app() -> impl IntoResponse {
    serve("text/javascript; charset=utf-8", include_str!("../page/app.js"))
}

pub async fn text() -> impl IntoResponse {
    serve("text/javascript; charset=utf-8", include_str!("../page/text.js"))
}

pub async fn composer() -> impl IntoResponse {
    serve("text/javascript; charset=utf-8", include_str!("../page/composer.js"))
}

pub async fn stream() -> impl IntoResponse {
    serve("text/javascript; charset=utf-8", include_str!("../page/stream.js"))
}

pub async fn panel() -> impl IntoResponse {
    serve("text/javascript; charset=utf-8", include_str!("../page/panel.js"))
}

pub async fn icon() -> impl IntoResponse {
    serve("image/svg+xml", include_str!("../page/icon.svg"))
}
