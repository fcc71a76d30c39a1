//! Whether a client of HTTP/2 takes what there is for it: hyper asks for the next piece of an answer when the one before has
//! left. In HTTP/1 the kernel watches ([`crate::http::connections`]).

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::busy::Streaming;
use crate::http::NAME;
use crate::telemetry::panics;

/// How long a client of HTTP/2 may take nothing of an answer that has something for it. One whose model is thinking has
/// nothing, and may be quiet for as long as it likes.
const UNTAKEN_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer leaves in pieces of this many bytes, each when there is room for the first byte of it, and its last bytes apart:
/// h2 keeps a piece until the client takes it, also when the answer has ended here.
const PIECE: usize = 16 << 10;
const LAST_PIECE: usize = 1 << 10;

tokio::task_local! {
    /// Of the request of HTTP/2 that a task is about.
    static TAKING: Arc<Taking>;
}

/// Where hyper runs the requests of a connection of HTTP/2.
#[derive(Clone)]
pub struct Tasks(pub TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, request: F) {
        let taking = Arc::new(Taking::default());
        let watched = {
            let taking = Arc::clone(&taking);
            async move {
                tokio::select! {
                    biased;
                    () = request => {}
                    // With the request goes its stream: h2 tells the client that it was reset.
                    () = taking.stalls() => tracing::debug!(service = NAME, "a client takes nothing of its answer"),
                }
            }
        };
        drop(self.0.spawn(panics::SERVICE.scope(NAME, TAKING.scope(taking, watched))));
    }
}

/// What a client takes of one answer.
#[derive(Default)]
pub struct Taking {
    /// Since when a piece has been waiting.
    since: Mutex<Option<Instant>>,
    waits: Notify,
}

impl Taking {
    /// Of the request that this task is about; there is none in HTTP/1.
    pub fn current() -> Option<Arc<Taking>> {
        TAKING.try_with(Arc::clone).ok()
    }

    fn note(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        if since.is_some() {
            self.waits.notify_one();
        }
    }

    /// Completes when a piece has been waiting for too long.
    async fn stalls(&self) {
        loop {
            let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
            match since {
                None => self.waits.notified().await,
                Some(since) if since.elapsed() >= UNTAKEN_TIMEOUT => return,
                Some(since) => sleep_until(since + UNTAKEN_TIMEOUT).await,
            }
        }
    }
}

/// The body of an answer in HTTP/2, in pieces.
pub struct Measured {
    streaming: Streaming,
    /// What is to follow of what came last.
    rest: Bytes,
    taking: Arc<Taking>,
}

impl Measured {
    pub fn body(streaming: Streaming, taking: Arc<Taking>) -> Body {
        Body::new(Measured { streaming, rest: Bytes::new(), taking })
    }
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = match Pin::new(&mut self.streaming).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => {
                    self.taking.note(None);
                    return other;
                }
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        self.taking.note(Some(Instant::now()));
        let length = self.rest.len();
        let piece = if length > LAST_PIECE { PIECE.min(length - LAST_PIECE) } else { length };
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.streaming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.streaming.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole.set_lower(hint.lower() + rest);
        whole
    }
}
