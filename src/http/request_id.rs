//! The outermost layer: gives each request an id, writes problems with it, and logs what went wrong once.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::http::{Extensions, HeaderName, HeaderValue, Request, Response};

use super::gate::Gate;
use super::metrics::Route;
use super::problem::{Dialect, Problem};
use super::router::App;

/// The header that carries the id to the client.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Ties an answer to its lines in the journal. It is perch's own: one that a client sends is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    /// The one that the layer gave a request.
    pub fn of(extensions: &Extensions) -> Result<RequestId, Problem> {
        let id = extensions.get::<RequestId>().copied();
        id.ok_or_else(|| Problem::internal(&anyhow::anyhow!("a request without an id")))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Ids that don't repeat within a process, and hardly between two: a random start, then one by one.
pub struct Ids(AtomicU64);

impl Ids {
    fn next(&self) -> RequestId {
        RequestId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Clone)]
pub struct Numbered {
    app: App,
    ids: Arc<Ids>,
}

impl Numbered {
    pub fn new(app: App) -> Self {
        Numbered { app, ids: Arc::new(Ids(AtomicU64::new(fastrand::u64(..)))) }
    }
}

/// A request that is being answered.
pub struct Asked {
    app: App,
    id: RequestId,
    route: Route,
    dialect: Dialect,
    started: Instant,
}

impl Gate for Numbered {
    type Known = Asked;

    fn enter(&self, request: &mut Request<Body>) -> ControlFlow<Response<Body>, Asked> {
        let id = self.ids.next();
        // For a handler that tells of a problem once its answer has begun.
        request.extensions_mut().insert(id);
        let (route, dialect) = (Route::of(request.uri().path()), Dialect::of(request.uri().path()));
        ControlFlow::Continue(Asked { app: Arc::clone(&self.app), id, route, dialect, started: Instant::now() })
    }

    fn leave(response: &mut Response<Body>, Asked { app, id, route, dialect, started }: Asked) {
        let status = response.status();
        let problem = response.extensions_mut().remove::<Problem>().or_else(|| {
            // A layer below answered with nothing but a status: a time-out.
            (status.is_server_error() && response.body().is_end_stream())
                .then(|| Problem::new(status, "the answer took too long"))
        });
        if let Some(problem) = problem {
            problem.render(id, dialect, &app, response);
        }
        if let Ok(value) = HeaderValue::try_from(id.to_string()) {
            response.headers_mut().insert(HEADER, value);
        }
        app.requests.count(route, status, started.elapsed());
    }
}
