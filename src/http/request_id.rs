//! Each request has an id; problems are written with it, and what went wrong is logged with it once.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::metrics::Route;
use super::problem::{Dialect, Problem};
use super::router::App;
use crate::hexadecimal;

/// The header that carries the id to the client.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// How an id is written.
const DIGITS: usize = 16;

/// Ties an answer to its lines in the journal. It is perch's own: one that a client sends is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    /// For an answer to what is no request.
    pub fn unasked() -> RequestId {
        RequestId(fastrand::u64(..))
    }

    /// Says it to the client.
    pub fn tell(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(self.write(&mut [0; DIGITS])) {
            headers.insert(HEADER, value);
        }
    }

    fn write(self, room: &mut [u8; DIGITS]) -> &str {
        hexadecimal::write(&self.0.to_be_bytes(), room)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.write(&mut [0; DIGITS]))
    }
}

/// Ids that don't repeat within a process, and hardly between two: a random start, then one by one.
pub struct Ids(AtomicU64);

impl Default for Ids {
    fn default() -> Self {
        Ids(AtomicU64::new(fastrand::u64(..)))
    }
}

/// A request that is being answered.
pub struct Asked {
    pub id: RequestId,
    route: Route,
    dialect: Dialect,
    started: Instant,
}

impl Asked {
    pub fn new(ids: &Ids, path: &str) -> Asked {
        let id = RequestId(ids.0.fetch_add(1, Ordering::Relaxed));
        Asked { id, route: Route::of(path), dialect: Dialect::of(path), started: Instant::now() }
    }

    /// Finishes the answer.
    pub fn finish(self, response: &mut Response<Body>, app: &App) {
        let Asked { id, route, dialect, started } = self;
        let status = response.status();
        let problem = response.extensions_mut().remove::<Problem>().or_else(|| {
            // A layer below answered with nothing but a status: a time-out.
            (status.is_server_error() && response.body().is_end_stream())
                .then(|| Problem::new(status, "the answer took too long"))
        });
        if let Some(problem) = problem {
            problem.render(id, dialect, app, response);
        }
        id.tell(response.headers_mut());
        app.requests.count(route, status, started.elapsed());
    }
}
