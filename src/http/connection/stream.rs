//! The bytes of a connection, with TLS or without, and its place among the others.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::limits::Seat;

/// The bytes of a connection. It keeps its place among all connections for as long as somebody holds it: also as a
/// WebSocket.
pub struct Stream {
    bytes: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    _place: Place,
}

/// One place among all connections, and one among those of its client.
pub struct Place {
    pub _permit: Option<OwnedSemaphorePermit>,
    pub _seat: Seat,
}

impl Stream {
    pub fn plain(stream: TcpStream, place: Place) -> Stream {
        Stream { bytes: Either::Left(stream), _place: place }
    }

    pub fn encrypted(stream: TlsStream<TcpStream>, place: Place) -> Stream {
        Stream { bytes: Either::Right(Box::new(stream)), _place: place }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }
}
