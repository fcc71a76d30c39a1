//! Which sites may use perch from a browser: its own, and those that `http.origins` lists.
//!
//! A write that another site sends is refused, whatever the browser sends along (cross-site request forgery), and so is
//! a socket that it opens. Reading is for the browser to refuse: only a listed site is told that it may.

use std::convert::Infallible;
use std::future::ready;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request};
use axum::response::IntoResponse;
use futures_util::FutureExt;
use tower::{Layer, Service, service_fn};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::csrf::{CsrfLayer, ProtectionError};

use super::front::Turned;
use super::problem::Problem;
use super::router::App;
use crate::service::Live;

/// How long a browser may take a site for allowed, or not, without asking again.
const PREFLIGHT_AGE: Duration = Duration::from_mins(10);

/// What a script of a listed site may send beside what any form may; what is not perch's own comes from OpenAI's client for
/// JavaScript (<https://github.com/openai/openai-node>), and says on what it runs.
const REQUEST_HEADERS: [HeaderName; 12] = [
    header::CONTENT_TYPE,
    header::AUTHORIZATION,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-stainless-arch"),
    HeaderName::from_static("x-stainless-helper-method"),
    HeaderName::from_static("x-stainless-lang"),
    HeaderName::from_static("x-stainless-os"),
    HeaderName::from_static("x-stainless-package-version"),
    HeaderName::from_static("x-stainless-retry-count"),
    HeaderName::from_static("x-stainless-runtime"),
    HeaderName::from_static("x-stainless-runtime-version"),
    HeaderName::from_static("x-stainless-timeout"),
];
/// What it may read beside what any script may.
const ANSWER_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("x-request-id"),
    header::RETRY_AFTER,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
];

/// Who is behind a request, as browsers say (<https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>).
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How an origin begins whose page came without TLS, where anybody on the way may have written it.
const UNENCRYPTED: &[u8] = b"http://";

const REFUSED: &str = "this came from another site, which the operator of perch has not allowed (http.origins)";

/// Whether a WebSocket may be opened by who sent these headers: a program, perch's own page, or a listed site. Browsers
/// send cookies along with the handshake and let any site open one, and they always send `Origin` (RFC 6455, sections
/// 4.1 and 10.2). Whether they came `encrypted` says which page is perch's own.
#[must_use]
pub fn origin_allowed(headers: &HeaderMap, encrypted: bool, live: &Live) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return !from_elsewhere(headers),
        (Some(origin), None) => origin.as_bytes(),
        (Some(_), Some(_)) => return false,
    };
    if listed(origin, live) {
        return true;
    }
    own(origin, headers, encrypted) && !from_elsewhere(headers)
}

/// The origin of a handshake that was let in because the configuration lists it.
pub fn other_site(headers: &HeaderMap, encrypted: bool) -> Option<&[u8]> {
    let origin = headers.get(header::ORIGIN)?.as_bytes();
    (!own(origin, headers, encrypted) || from_elsewhere(headers)).then_some(origin)
}

/// Whether it is that of the page which perch serves under this name.
fn own(origin: &[u8], headers: &HeaderMap, encrypted: bool) -> bool {
    let authority = [UNENCRYPTED, b"https://"].into_iter().find_map(|scheme| origin.strip_prefix(scheme));
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    !forgeable(origin, encrypted) && authority.is_some_and(|authority| Some(authority) == host)
}

/// Whether it is the origin of a page that came without TLS, asked by who comes `encrypted`: the scheme is a part of who
/// somebody is (RFC 6454, section 4). Without TLS here a proxy may have taken it off and not said so, and either is perch's own.
fn forgeable(origin: &[u8], encrypted: bool) -> bool {
    encrypted && origin.starts_with(UNENCRYPTED)
}

/// Whether the browser says that another site is behind it.
fn from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get(SITE).map(HeaderValue::as_bytes);
    !matches!(site, None | Some(b"" | b"same-origin" | b"none"))
}

/// Whether the configuration lists this origin. Browsers write each in one way, and so does the configuration.
pub fn listed(origin: &[u8], live: &Live) -> bool {
    let origins = live.config.http.iter().flat_map(|http| &http.origins);
    origins.into_iter().any(|listed| listed.as_bytes() == origin)
}

/// Looks at where requests come from.
pub struct Origins {
    app: App,
    own: CsrfLayer<fn(ProtectionError) -> Response<Verdict>>,
    others: CorsLayer,
}

/// What the library says of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Own,
    AnotherSites,
}

impl Origins {
    pub fn new(app: App) -> Self {
        let refused: fn(ProtectionError) -> Response<Verdict> = |_| Response::new(Verdict::AnotherSites);
        let known = Arc::clone(&app);
        let allowed = move |origin: &HeaderValue, _: &request::Parts| listed(origin.as_bytes(), &known.live.borrow());
        let others = CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(allowed))
            .allow_credentials(true)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers(REQUEST_HEADERS)
            .expose_headers(ANSWER_HEADERS)
            .max_age(PREFLIGHT_AGE);
        Origins { app, own: CsrfLayer::new().with_rejection_response(refused), others }
    }

    /// Refuses writes that other sites send. Whether the client came `encrypted` says which page is perch's own.
    pub fn check(&self, request: &Request<Body>, encrypted: bool) -> Turned<()> {
        let origin = request.headers().get(header::ORIGIN);
        // Nothing that a browser says of where it comes from: the library lets it in, and so does this without it.
        if origin.is_none() && !request.headers().contains_key(SITE) {
            return ControlFlow::Continue(());
        }
        let live = self.app.live.borrow();
        // To the library a handshake is a read.
        if request.headers().contains_key(header::UPGRADE) && !origin_allowed(request.headers(), encrypted, &live) {
            return refused();
        }
        // What is listed may change, and the library's list may not.
        if origin.is_some_and(|origin| listed(origin.as_bytes(), &live)) {
            return ControlFlow::Continue(());
        }
        // The library compares hosts alone.
        if !request.method().is_safe() && origin.is_some_and(|origin| forgeable(origin.as_bytes(), encrypted)) {
            return refused();
        }
        match self.verdict(request) {
            Some(Verdict::Own) => ControlFlow::Continue(()),
            _ => refused(),
        }
    }

    /// What the library says, which goes by a request's head; and nothing, should it ever wait for something.
    fn verdict(&self, request: &Request<Body>) -> Option<Verdict> {
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        head.headers_mut().clone_from(request.headers());
        let inside = service_fn(|_| ready(Ok::<_, Infallible>(Response::new(Verdict::Own))));
        let Ok(verdict) = self.own.layer(inside).call(head).now_or_never()?;
        Some(verdict.into_body())
    }

    /// Whether there is any site but perch's own.
    pub fn are_listed(&self) -> bool {
        self.app.live.borrow().config.http.as_ref().is_some_and(|http| !http.origins.is_empty())
    }

    /// Tells browsers that scripts of listed sites may use perch
    /// (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
    pub async fn tell<F>(&self, request: Request<Body>, answer: impl FnOnce(Request<Body>) -> F) -> Response<Body>
    where
        F: Future<Output = Response<Body>>,
    {
        let mut answer = Some(answer);
        let inside = service_fn(|request| {
            let answer = answer.take().map(|answer| answer(request));
            async move {
                Ok::<_, Infallible>(match answer {
                    Some(answer) => answer.await,
                    None => Problem::internal(&anyhow::anyhow!("a request was answered twice")).into_response(),
                })
            }
        });
        let Ok(response) = self.others.layer(inside).call(request).await;
        response
    }
}

fn refused() -> Turned<()> {
    ControlFlow::Break(Problem::new(StatusCode::FORBIDDEN, REFUSED).into_response())
}
