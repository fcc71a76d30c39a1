//! An answer as OpenAI streams it: unnamed server-sent events with a `chat.completion.chunk` each, and `[DONE]`.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Exchange, MODEL};
use crate::chat::{Deltas, Failure, Why};
use crate::http::chat::stream::{PIECES, response};
use crate::http::problem::{Dialect, Problem};
use crate::telemetry::panics;

/// What stands in the last event.
const DONE: &str = "[DONE]";

/// Begins an answer, with what it took at its end where `usage` is wanted. Nothing is sent before something of the answer is
/// there: what fails until then has a status, by which the client knows what to do.
pub async fn answer(exchange: Exchange, usage: bool) -> Result<Response, Problem> {
    let exchange = Arc::new(exchange);
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let work = {
        let exchange = Arc::clone(&exchange);
        async move { exchange.answer(Deltas::to(sender)).await }
    };
    // It ends with the stream, and that with the connection.
    let work = AbortOnDropHandle::new(tokio::spawn(panics::SERVICE.scope(crate::http::NAME, work)));
    let first = pieces.recv().await;
    let mut telling = Telling { exchange, usage, pieces, work: None, ready: VecDeque::new() };
    telling.chunk(&json!({ "role": "assistant", "content": "" }), None);
    if let Some(piece) = first {
        telling.say(&piece);
        telling.work = Some(work);
    } else {
        // It comes in no pieces.
        let whole = ended(work).await?;
        telling.say(&whole);
        telling.end();
    }
    Ok(response(stream::unfold(telling, async |mut telling| Some((telling.next().await?, telling)))))
}

type Work = AbortOnDropHandle<Result<String, Problem>>;

async fn ended(work: Work) -> Result<String, Problem> {
    // The panic itself is already in the log, with its place.
    work.await.unwrap_or_else(|_| Err(Failure::new(Why::Broken, "the responder panicked").into()))
}

/// An answer that is being told.
struct Telling {
    exchange: Arc<Exchange>,
    usage: bool,
    pieces: mpsc::Receiver<String>,
    /// `None` once it is known how it ended.
    work: Option<Work>,
    /// What is to be sent next.
    ready: VecDeque<Event>,
}

impl Telling {
    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        match self.pieces.recv().await {
            Some(piece) => self.say(&piece),
            None => match ended(self.work.take()?).await {
                Ok(_) => self.end(),
                Err(problem) => {
                    let error = problem.tell_in(Dialect::OpenAi, self.exchange.id, &self.exchange.live);
                    self.ready.push_back(Event::default().data(error.to_string()));
                }
            },
        }
        self.ready.pop_front()
    }

    fn say(&mut self, piece: &str) {
        self.chunk(&json!({ "content": piece }), None);
    }

    fn end(&mut self) {
        let known = self.exchange.aside.get();
        self.chunk(&json!({}), Some(super::finish_reason(known.ending)));
        if self.usage {
            let mut last = self.frame(&json!([]));
            last["usage"] = json!(super::Usage::from(known.usage));
            self.ready.push_back(event(&last));
        }
        self.ready.push_back(Event::default().data(DONE));
    }

    fn chunk(&mut self, delta: &Value, finish_reason: Option<&str>) {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason });
        let mut chunk = self.frame(&json!([choice]));
        if self.usage {
            chunk["usage"] = Value::Null;
        }
        self.ready.push_back(event(&chunk));
    }

    fn frame(&self, choices: &Value) -> Value {
        let Exchange { id, created, .. } = &*self.exchange;
        let id = super::name(*id);
        json!({ "id": id, "object": "chat.completion.chunk", "created": created, "model": MODEL, "choices": choices })
    }
}

fn event(chunk: &Value) -> Event {
    // As JSON it is on one line.
    Event::default().data(chunk.to_string())
}
