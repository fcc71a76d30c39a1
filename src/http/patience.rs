//! A connection whose client must not dawdle: a request's head that has begun has to be there soon, however long the
//! connection may be idle before it (slowloris).

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a request's head may take from its first byte to its last. A slow line of today takes a tenth of it.
const HEAD: Duration = Duration::from_secs(10);

/// Waits for a connection's first byte; `false` where it does not come. Until then nothing is held for the connection but
/// its socket. From `leave` on, what is done with it is not for here to decide.
pub async fn begins(stream: &TcpStream, leave: &CancellationToken) -> bool {
    let mut first = [0];
    tokio::select! {
        biased;
        // A new socket passes for readable until somebody has tried.
        came = timeout(HEAD, stream.peek(&mut first)) => came.is_ok(),
        () = leave.cancelled() => true,
    }
}

/// An HTTP/1 connection, watched between requests; `between` says how many there were so far, and nothing while one is
/// being served. It is not for HTTP/2, where bytes come between requests that belong to none.
pub struct Patient<T, B> {
    stream: T,
    between: B,
    requests: usize,
    head: Head,
}

/// What has come of the next request.
enum Head {
    Nothing,
    /// All that there was to read at once; most often that is all of it.
    Something,
    /// The rest is waited for.
    Awaited(Pin<Box<Sleep>>),
}

impl<T, B> Patient<T, B> {
    pub fn new(stream: T, between: B) -> Self {
        Patient { stream, between, requests: 0, head: Head::Nothing }
    }
}

impl<T: AsyncRead + Unpin, B: Fn() -> Option<usize> + Unpin> AsyncRead for Patient<T, B> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        let patient = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut patient.stream).poll_read(context, buffer);
        let Some(requests) = (patient.between)() else {
            // A body may take longer.
            patient.head = Head::Nothing;
            return read;
        };
        // One may begin and end between two looks: its head came.
        if std::mem::replace(&mut patient.requests, requests) != requests {
            patient.head = Head::Nothing;
        }
        match (&read, &mut patient.head) {
            (Poll::Ready(Ok(())), head @ Head::Nothing) if buffer.filled().len() > before => *head = Head::Something,
            (Poll::Pending, head @ Head::Something) => *head = Head::Awaited(Box::pin(sleep(HEAD))),
            _ => {}
        }
        match (read, &mut patient.head) {
            (Poll::Pending, Head::Awaited(end)) => {
                let late = || Error::new(ErrorKind::TimedOut, "the rest of a request's head did not come");
                end.as_mut().poll(context).map(|()| Err(late()))
            }
            (read, _) => read,
        }
    }
}

impl<T: AsyncWrite + Unpin, B: Unpin> AsyncWrite for Patient<T, B> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }
}
