//! What a layer around the routes is made of: it looks at a request on its way in, and at the answer on its way out. It
//! makes no allocation of its own.

use std::convert::Infallible;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Request, Response};
use tower::{Layer, Service};

/// What the layers around the routes answer.
pub type Answer = Result<Response<Body>, Infallible>;

/// What is done at the gate.
pub trait Gate {
    /// What is known of the request when its answer is there.
    type Known: Unpin;

    /// Lets a request in, or answers it here.
    fn enter(&self, request: &mut Request<Body>) -> ControlFlow<Response<Body>, Self::Known>;

    /// Finishes the answer to a request that was let in.
    fn leave(_response: &mut Response<Body>, _known: Self::Known) {}
}

/// Puts a gate around what is inside.
#[derive(Clone)]
pub struct Behind<G>(pub G);

impl<G: Clone, S> Layer<S> for Behind<G> {
    type Service = Gated<G, S>;

    fn layer(&self, inner: S) -> Gated<G, S> {
        Gated { gate: self.0.clone(), inner }
    }
}

/// What is inside, with its gate.
#[derive(Clone)]
pub struct Gated<G, S> {
    gate: G,
    inner: S,
}

impl<G, S> Service<Request<Body>> for Gated<G, S>
where
    G: Gate,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Unpin>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Passage<G, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.gate.enter(&mut request) {
            ControlFlow::Continue(known) => Passage::Through { answer: self.inner.call(request), known: Some(known) },
            ControlFlow::Break(answer) => Passage::Turned(Some(answer)),
        }
    }
}

/// A request's way through a gate.
pub enum Passage<G: Gate, F> {
    Through { answer: F, known: Option<G::Known> },
    Turned(Option<Response<Body>>),
}

impl<G: Gate, F: Future<Output = Answer> + Unpin> Future for Passage<G, F> {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        match self.get_mut() {
            Passage::Through { answer, known } => Pin::new(answer).poll(context).map(|answered| {
                let Ok(mut response) = answered;
                if let Some(known) = known.take() {
                    G::leave(&mut response, known);
                }
                Ok(response)
            }),
            Passage::Turned(answer) => {
                Poll::Ready(Ok(answer.take().expect("nobody polls a future again that has ended")))
            }
        }
    }
}
