//! What a connection has in flight: when it may end, and whether there is more of a request than was read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How many requests a connection has in flight.
pub struct Busy {
    /// Cancelled when the connection is to end with what it has.
    pub leave: CancellationToken,
    requests: AtomicUsize,
    /// How many there were in all.
    begun: AtomicUsize,
    /// There is more of the last request than was read.
    unread: AtomicBool,
    /// What comes now is no request.
    upgraded: AtomicBool,
    changed: Notify,
}

impl Busy {
    pub fn new(leave: CancellationToken) -> Self {
        Busy {
            leave,
            requests: AtomicUsize::default(),
            begun: AtomicUsize::default(),
            unread: AtomicBool::default(),
            upgraded: AtomicBool::default(),
            changed: Notify::new(),
        }
    }

    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub fn end(&self) {
        self.requests.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// What comes from now on is no request.
    pub fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    /// How many requests there were, where what comes is the head of the next; to be asked of HTTP/1.
    pub fn between(&self) -> Option<usize> {
        let past_the_head = self.requests.load(Ordering::Acquire) > 0 || self.upgraded.load(Ordering::Acquire);
        (!past_the_head).then(|| self.begun.load(Ordering::Acquire))
    }

    /// Whether what comes is no request any more.
    pub fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Acquire)
    }

    /// Whether there is more of the last request than was read; to be asked of HTTP/1.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Completes while there are any, or while there are none.
    async fn until(&self, any: bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if (self.requests.load(Ordering::Acquire) > 0) == any {
                return;
            }
            changed.await;
        }
    }

    pub async fn some(&self) {
        self.until(true).await;
    }

    /// Completes when there was none for this long.
    pub async fn none_for(&self, long: Duration) {
        loop {
            self.until(false).await;
            tokio::select! {
                () = self.some() => {}
                () = sleep(long) => return,
            }
        }
    }
}

/// Marks the end of a request when it is dropped.
pub struct Done(pub Arc<Busy>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The body of an answer that is still being made.
pub struct Streaming {
    pub body: Body,
    pub _done: Done,
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request in HTTP/1, of which it is known whether it was read to its end.
pub struct Read {
    body: Incoming,
    busy: Arc<Busy>,
}

impl Read {
    pub fn body(body: Incoming, busy: &Arc<Busy>) -> Body {
        let unread = !body.is_end_stream();
        busy.unread.store(unread, Ordering::Release);
        if unread { Body::new(Read { body, busy: Arc::clone(busy) }) } else { Body::empty() }
    }
}

impl HttpBody for Read {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.busy.unread.store(false, Ordering::Release);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
