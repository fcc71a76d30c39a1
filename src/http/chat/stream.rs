//! An answer as a stream of server-sent events: `delta` for each piece, then `done`, or `error` with the problem.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Exchange;
use crate::chat::{Deltas, Failure, Why};
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::telemetry::panics;

/// A comment goes out this often while there is nothing to say: proxies take a longer silence for a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How many pieces may wait for a client that reads slowly, before the model has to.
const PIECES: usize = 32;

/// nginx passes the pieces on as they come when it sees this.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Begins an answer. What fails at once is an ordinary problem; later the stream tells of it.
pub fn answer(exchange: Arc<Exchange>, id: RequestId) -> Result<Response, Problem> {
    let (sender, pieces) = mpsc::channel(PIECES);
    let mut work = {
        let exchange = Arc::clone(&exchange);
        Box::pin(async move { exchange.answer(Deltas::to(sender)).await })
    };
    let work = match work.as_mut().now_or_never() {
        Some(Err(failure)) => return Err(failure.into()),
        Some(Ok(answer)) => Work::Done(Ok(answer)),
        // It ends with the stream, and that with the connection.
        None => Work::Going(AbortOnDropHandle::new(tokio::spawn(panics::SERVICE.scope(crate::http::NAME, work)))),
    };
    let telling = Telling { exchange, id, pieces, work: Some(work), said: String::new() };
    let events = stream::unfold(telling, async |mut telling| {
        let event = telling.next().await?;
        Some((Ok::<_, Infallible>(event), telling))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([UNBUFFERED], events).into_response())
}

enum Work {
    Going(AbortOnDropHandle<Result<String, Failure>>),
    Done(Result<String, Failure>),
}

impl Work {
    async fn end(self) -> Result<String, Failure> {
        match self {
            Work::Done(result) => result,
            // The panic itself is already in the log, with its place.
            Work::Going(task) => {
                task.await.unwrap_or_else(|_| Err(Failure::new(Why::Broken, "the responder panicked")))
            }
        }
    }
}

/// An answer that is being told.
struct Telling {
    exchange: Arc<Exchange>,
    id: RequestId,
    pieces: mpsc::Receiver<String>,
    /// `None` once the last event is out.
    work: Option<Work>,
    said: String,
}

impl Telling {
    async fn next(&mut self) -> Option<Event> {
        if let Some(piece) = self.pieces.recv().await {
            return Some(self.delta(&piece));
        }
        match self.work.take()?.end().await {
            // It came in no pieces.
            Ok(answer) if self.said.is_empty() => {
                let event = self.delta(&answer);
                self.work = Some(Work::Done(Ok(answer)));
                Some(event)
            }
            Ok(_) => Some(event("done", &json!({ "conversation": self.exchange.conversation }))),
            Err(failure) => Some(event("error", &Problem::from(failure).tell(self.id, &self.exchange.live))),
        }
    }

    fn delta(&mut self, piece: &str) -> Event {
        self.said.push_str(piece);
        event("delta", &json!({ "text": piece }))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // The person stopped it: what they have read is what was said.
        if self.work.is_some() && !self.said.is_empty() {
            self.exchange.remember(&self.said);
        }
    }
}

fn event(name: &str, data: &Value) -> Event {
    // As JSON it is on one line.
    Event::default().event(name).data(data.to_string())
}
