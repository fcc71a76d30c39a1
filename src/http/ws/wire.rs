//! The connection under a WebSocket: what is read goes through, what is written waits in a row of shared pieces.
//!
//! The protocol's library writes each frame into a buffer of the connection's own, and keeps that. Frames that go to a
//! thousand people are made once here, and each connection holds a count of them while they are on their way. Control
//! frames, which the library makes, join the same row, so nothing comes between the pieces of a frame.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many pieces leave with one call to the kernel.
const AT_ONCE: usize = 32;
/// A row that has grown longer than this is made small again once it is empty.
const ROW: usize = 8;

pub struct Wire<S> {
    stream: S,
    row: VecDeque<Bytes>,
    bytes: usize,
    /// How many bytes were read since this was last set to zero.
    pub unfinished: usize,
}

impl<S> Wire<S> {
    pub fn new(stream: S) -> Self {
        Wire { stream, row: VecDeque::new(), bytes: 0, unfinished: 0 }
    }

    /// Puts a whole frame at the end of the row.
    pub fn queue(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.row.push_back(frame);
    }

    /// How much waits in the row, in bytes.
    pub fn waiting(&self) -> usize {
        self.bytes
    }

    fn sent(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(first) = self.row.front_mut() {
            if bytes < first.len() {
                drop(first.split_to(bytes));
                return;
            }
            bytes -= first.len();
            self.row.pop_front();
        }
        if self.row.capacity() > ROW {
            self.row = VecDeque::new();
        }
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    /// Sends what waits; ready when nothing does any more.
    pub fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.row.front() {
            let stream = Pin::new(&mut self.stream);
            let sent = if self.row.len() == 1 {
                ready!(stream.poll_write(context, first))?
            } else {
                let mut pieces = [IoSlice::new(&[]); AT_ONCE];
                for (piece, bytes) in pieces.iter_mut().zip(&self.row) {
                    *piece = IoSlice::new(bytes);
                }
                let count = self.row.len().min(AT_ONCE);
                ready!(stream.poll_write_vectored(context, &pieces[..count]))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent(sent);
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Says to the other side that nothing more comes.
    pub fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.unfinished += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<S: Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.queue(Bytes::copy_from_slice(bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    /// Whoever owns the row sends it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
