//! What becomes of a request's body in HTTP/2 that nobody reads to its end.
//!
//! An answer may come before the whole request has, and the stream is then reset without an error (RFC 9113, section 8.1).
//! Some clients take that for a failure and lose the answer, among them the curl 7.88.1 of Debian 12. So the rest is read
//! and thrown away, and the stream ends by itself; only one that goes on for too long is reset.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::STREAM_WINDOW;
use crate::telemetry::panics;

/// How much is read of a body that nobody wants, in bytes with the heads of the frames that they come in. A stream's window may
/// be on its way before the client hears of the answer, and as much again while that and the wider window go to it together:
/// then a client that stops at a refusal, as curl does, has mostly stopped, however long its body was to be.
const REST: usize = 2 * STREAM_WINDOW as usize;
/// How long the rest may take to come: a client that sends it at once needs a round trip.
const REST_TIMEOUT: Duration = Duration::from_secs(3);
/// What a frame has before what it carries, in bytes (RFC 9113, section 4.1). Counted, as there are frames with nothing.
const FRAME_HEAD: usize = 9;

/// The body of a request in HTTP/2. The rest of one that is let go before its end is read among the connection's tasks.
pub struct Emptied {
    /// Until its end was read.
    body: Option<Incoming>,
    tasks: TaskTracker,
}

impl Emptied {
    pub fn body(body: Incoming, tasks: &TaskTracker) -> Body {
        if body.is_end_stream() {
            return Body::empty();
        }
        Body::new(Emptied { body: Some(body), tasks: tasks.clone() })
    }
}

impl HttpBody for Emptied {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Emptied {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        let mut rest = Rest { body, left: REST };
        // Mostly all of it is here, or the client took the request back. After a panic the next one would end the process.
        let here = !std::thread::panicking() && rest.poll(&mut Context::from_waker(Waker::noop())).is_ready();
        let Some(runtime) = Handle::try_current().ok().filter(|_| !here) else { return };
        let reading = async move {
            // Whatever has not come by then is for the reset, with which the stream ends as its last holder lets go.
            drop(timeout(REST_TIMEOUT, std::future::poll_fn(move |context| rest.poll(context))).await);
        };
        drop(self.tasks.spawn_on(panics::SERVICE.scope(crate::http::NAME, reading), &runtime));
    }
}

/// What nobody wants of a body.
struct Rest {
    body: Incoming,
    /// How much more is read, in bytes.
    left: usize,
}

impl Rest {
    /// Reads what is there. Ready when nothing more is to be read: the body is at its end, or too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(Ok(frame)) = ready!(Pin::new(&mut self.body).poll_frame(context)) {
            let length = FRAME_HEAD + frame.data_ref().map_or(0, Bytes::len);
            let Some(left) = self.left.checked_sub(length) else { break };
            self.left = left;
        }
        Poll::Ready(())
    }
}
