//! The body of a request: JSON, and in between the base64 of files, which is made while it is sent. However large they are,
//! no more is held of it than a piece.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use crate::chat::files::Content;

/// How much of a file is turned into base64 at once, in bytes. It is divisible by three, so that the pieces fit together.
const PIECE: usize = 24 << 10;

/// What is to be sent. A copy is cheap.
#[derive(Clone, Default)]
pub struct Outgoing {
    parts: VecDeque<Part>,
}

#[derive(Clone)]
enum Part {
    Json(Bytes),
    /// What is left of a file from here.
    File(Arc<Content>, usize),
}

impl Outgoing {
    /// Nothing but JSON.
    pub fn json(json: Vec<u8>) -> Outgoing {
        Outgoing { parts: VecDeque::from([Part::Json(json.into())]) }
    }

    /// Adds JSON, and behind it a file.
    pub fn push(&mut self, json: Vec<u8>, file: Arc<Content>) {
        self.parts.push_back(Part::Json(json.into()));
        self.parts.push_back(Part::File(file, 0));
    }

    /// Adds the last of the JSON.
    pub fn end(&mut self, json: Vec<u8>) {
        self.parts.push_back(Part::Json(json.into()));
    }

    /// The same for the client that sends it. What is nothing but JSON is sent as it is.
    pub fn body(&self) -> reqwest::Body {
        match (self.parts.front(), self.parts.len()) {
            (Some(Part::Json(json)), 1) => json.clone().into(),
            _ => reqwest::Body::wrap(self.clone()),
        }
    }

    /// How much of it is left, in bytes.
    fn left(&self) -> u64 {
        let left = |part: &Part| match part {
            Part::Json(json) => json.len(),
            Part::File(file, from) => (file.bytes().len() - from).div_ceil(3) * 4,
        };
        self.parts.iter().map(left).sum::<usize>() as u64
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.parts.pop_front() {
            None => return Poll::Ready(None),
            Some(Part::Json(json)) => json,
            Some(Part::File(file, from)) => {
                let to = file.bytes().len().min(from + PIECE);
                let piece = aws_smithy_types::base64::encode(&file.bytes()[from..to]);
                if to < file.bytes().len() {
                    self.parts.push_front(Part::File(file, to));
                }
                piece.into()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}
