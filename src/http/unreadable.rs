//! What is said of bytes that are no request. The parsers of hyper and h2 answer them by themselves, with a bare status, and
//! have no hook for what every answer of perch says: on its way out, their answer gives way to one of perch's.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub mod http1;
pub mod http2;

/// A connection on which answers give way to others.
pub struct Reworded<T, W> {
    stream: T,
    wording: W,
    instead: Option<Instead>,
}

/// Finds the answers that are not perch's own in what is written to a connection.
pub trait Wording {
    /// What becomes of `bytes`, which are written next. An answer that gives way is counted here.
    fn next(&self, bytes: &[u8]) -> Next;

    /// `bytes` have left, as they are or not.
    fn left(&mut self, bytes: &[u8]);

    /// All has left that there was.
    fn flushed(&mut self) {}
}

/// What becomes of the next bytes.
pub enum Next {
    /// So many of them leave as they are, before anything else is said; they are not none.
    As(usize),
    Instead(Instead),
}

/// What is written in place of an answer.
pub struct Instead {
    pub rest: Bytes,
    /// How many bytes that answer has.
    pub of: usize,
}

impl<T, W> Reworded<T, W> {
    pub fn new(stream: T, wording: W) -> Self {
        Reworded { stream, wording, instead: None }
    }
}

impl<T: AsyncWrite + Unpin, W: Wording> Reworded<T, W> {
    /// Writes what is left of what is said instead.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while let Some(Instead { rest, .. }) = self.instead.as_mut().filter(|instead| !instead.rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => drop(rest.split_to(written)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes `bytes`, or something else: who wrote them hears that they were taken when all of that has been.
    /// `more` takes them with what follows, where all of them leave as they are.
    fn poll_reworded(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        more: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<Result<usize, Error>>,
    ) -> Poll<Result<usize, Error>> {
        if self.instead.is_none() {
            match self.wording.next(bytes) {
                Next::As(all) if all >= bytes.len() => return more(Pin::new(&mut self.stream), context),
                Next::As(some) => return Pin::new(&mut self.stream).poll_write(context, &bytes[..some]),
                Next::Instead(instead) => self.instead = Some(instead),
            }
        }
        self.poll_rest(context).map_ok(|()| self.instead.take().map_or(0, |instead| instead.of))
    }
}

impl<T: AsyncRead + Unpin, W: Unpin> AsyncRead for Reworded<T, W> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin, W: Wording + Unpin> AsyncWrite for Reworded<T, W> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        let this = self.get_mut();
        let written = ready!(this.poll_reworded(context, bytes, |stream, context| stream.poll_write(context, bytes)))?;
        this.wording.left(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    /// All is flushed once it is written.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        ready!(this.poll_rest(context))?;
        this.wording.flushed();
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        ready!(this.poll_rest(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// An answer of theirs is in the first slice.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let this = self.get_mut();
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        let written =
            ready!(this.poll_reworded(context, first, |stream, context| stream.poll_write_vectored(context, slices)))?;
        let mut rest = written;
        for slice in slices {
            let of_it = rest.min(slice.len());
            this.wording.left(&slice[..of_it]);
            rest -= of_it;
        }
        Poll::Ready(Ok(written))
    }
}
