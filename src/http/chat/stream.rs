//! An answer as a stream of server-sent events: `start`, `delta` for each piece, then `done`, or `error` with the
//! problem.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Answer, Exchange};
use crate::chat::history::ConversationId;
use crate::chat::{Deltas, Failure, Why};
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::service::Live;
use crate::telemetry::panics;

/// A comment goes out this often while there is nothing to say: proxies take a longer silence for a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How many pieces may wait for a client that reads slowly, before the model has to.
pub const PIECES: usize = 32;

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
        Some(Err(problem)) => {
            exchange.asking.failed();
            return Err(problem);
        }
        Some(Ok(answer)) => Work::Done(Ok(answer)),
        // It ends with the stream, and that with the connection.
        None => Work::Going(AbortOnDropHandle::new(tokio::spawn(panics::SERVICE.scope(crate::http::NAME, work)))),
    };
    Ok(tell(Telling {
        conversation: exchange.asking.conversation(),
        message: exchange.asking.message(),
        live: Arc::clone(&exchange.live),
        exchange: Some(exchange),
        id,
        pieces,
        work: Some(work),
        begun: false,
        silent: true,
    }))
}

/// An answer that was given before.
pub fn again(conversation: ConversationId, message: u64, answer: Answer, live: Arc<Live>, id: RequestId) -> Response {
    let (_, pieces) = mpsc::channel(1);
    let work = Some(Work::Done(Ok(answer)));
    tell(Telling { conversation, message, live, exchange: None, id, pieces, work, begun: false, silent: true })
}

fn tell(telling: Telling) -> Response {
    response(stream::unfold(telling, async |mut telling| Some((telling.next().await?, telling))))
}

/// The response that these events are.
pub fn response(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    ([UNBUFFERED], events).into_response()
}

/// That an answer is there.
#[derive(Serialize)]
struct Done {
    conversation: ConversationId,
    /// `length` where it may not be longer, and there would be more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish: Option<&'static str>,
}

enum Work {
    Going(AbortOnDropHandle<Result<Answer, Problem>>),
    Done(Result<Answer, Problem>),
}

impl Work {
    async fn end(self) -> Result<Answer, Problem> {
        match self {
            Work::Done(result) => result,
            // The panic itself is already in the log, with its place.
            Work::Going(task) => {
                task.await.unwrap_or_else(|_| Err(Failure::new(Why::Broken, "the responder panicked").into()))
            }
        }
    }
}

/// An answer that is being told.
struct Telling {
    conversation: ConversationId,
    message: u64,
    live: Arc<Live>,
    /// What it answers, where it is made now.
    exchange: Option<Arc<Exchange>>,
    id: RequestId,
    pieces: mpsc::Receiver<String>,
    /// `None` once the last event is out.
    work: Option<Work>,
    begun: bool,
    /// Nothing of the answer was told yet.
    silent: bool,
}

impl Telling {
    async fn next(&mut self) -> Option<Event> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some(event("start", &json!({ "conversation": self.conversation, "message": self.message })));
        }
        if let Some(piece) = self.pieces.recv().await {
            return Some(self.delta(&piece));
        }
        match self.work.take()?.end().await {
            // It came in no pieces.
            Ok(answer) if self.silent => {
                let event = self.delta(&answer.text);
                self.work = Some(Work::Done(Ok(answer)));
                Some(event)
            }
            Ok(answer) => {
                Some(event("done", &json!(Done { conversation: self.conversation, finish: answer.ending.finish() })))
            }
            Err(problem) => {
                if let Some(exchange) = &self.exchange {
                    exchange.asking.failed();
                }
                Some(event("error", &problem.tell(self.id, &self.live)))
            }
        }
    }

    fn delta(&mut self, piece: &str) -> Event {
        self.silent = false;
        if let Some(exchange) = &self.exchange {
            exchange.asking.say(piece);
        }
        event("delta", &json!({ "text": piece }))
    }
}

fn event(name: &str, data: &Value) -> Event {
    // As JSON it is on one line.
    Event::default().event(name).data(data.to_string())
}
