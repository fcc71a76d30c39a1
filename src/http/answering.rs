//! The future of a layer that adds something to an answer: it makes no allocation of its own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::Response;

/// What the layers around the routes answer.
pub type Answer = Result<Response<Body>, Infallible>;

/// Waits for the answer of what is inside, unless there is one already, and finishes it with what was known before.
pub enum Answering<F, K> {
    Inside { answer: F, known: Option<K>, finish: fn(&mut Response<Body>, K) },
    Here(Option<Response<Body>>),
}

impl<F, K> Answering<F, K> {
    pub fn inside(answer: F, known: K, finish: fn(&mut Response<Body>, K)) -> Self {
        Answering::Inside { answer, known: Some(known), finish }
    }

    pub fn here(answer: Response<Body>) -> Self {
        Answering::Here(Some(answer))
    }
}

impl<F: Future<Output = Answer> + Unpin, K: Unpin> Future for Answering<F, K> {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        match self.get_mut() {
            Answering::Inside { answer, known, finish } => Pin::new(answer).poll(context).map(|answered| {
                let Ok(mut response) = answered;
                if let Some(known) = known.take() {
                    finish(&mut response, known);
                }
                Ok(response)
            }),
            Answering::Here(answer) => {
                Poll::Ready(Ok(answer.take().expect("nobody polls a future again that has ended")))
            }
        }
    }
}
