//! The outermost layer: gives each request an id, writes problems with it, and logs what went wrong once.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, Response};
use tower::{Layer, Service};

use super::metrics::Route;
use super::problem::Problem;
use super::router::App;

/// The header that carries the id to the client.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Ties an answer to its lines in the journal. It is perch's own: one that a client sends is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Ids that don't repeat within a process, and hardly between two: a random start, then one by one.
struct Ids(AtomicU64);

impl Ids {
    fn next(&self) -> RequestId {
        RequestId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Clone)]
pub struct RequestIdLayer {
    app: App,
    ids: Arc<Ids>,
}

impl RequestIdLayer {
    pub fn new(app: App) -> Self {
        RequestIdLayer { app, ids: Arc::new(Ids(AtomicU64::new(fastrand::u64(..)))) }
    }
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = RequestIdService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestIdService { inner, layer: self.clone() }
    }
}

#[derive(Clone)]
pub struct RequestIdService<S> {
    inner: S,
    layer: RequestIdLayer,
}

impl<S, B, R> Service<Request<B>> for RequestIdService<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    R: axum::body::HttpBody<Data = axum::body::Bytes> + Send + 'static,
    R::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = self.layer.ids.next();
        let route = Route::of(request.uri().path());
        // For a handler that tells of a problem once its answer has begun.
        request.extensions_mut().insert(id);
        let answer = self.inner.call(request);
        let app = Arc::clone(&self.layer.app);
        let started = Instant::now();
        Box::pin(async move {
            let Ok(mut response) = answer.await;
            let status = response.status();
            let problem = response.extensions_mut().remove::<Problem>().or_else(|| {
                // A layer below answered with nothing but a status: a time-out.
                (status.is_server_error() && response.body().is_end_stream())
                    .then(|| Problem::new(status, "the answer took too long"))
            });
            let mut response = match problem {
                None => response.map(Body::new),
                Some(problem) => problem.render(id, &app, response.headers_mut()),
            };
            let headers = response.headers_mut();
            if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
                headers.insert(HEADER, value);
            }
            app.requests.count(route, status, started.elapsed());
            Ok(response)
        })
    }
}
