//! How a WebSocket ends: why, and with which words.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, Stream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Socket;
use crate::http::ws::wire::Wire;

/// How long the other side may take to end a connection that perch closes.
pub const CLOSING: Duration = Duration::from_secs(2);
/// How long a client is read from that breaks the protocol, and may still be sending, so that it meets a reason and not
/// a reset connection; and no more than so many bytes.
const DISCARDED: usize = 1 << 20;

/// Why perch ends a connection; nothing where the other side did.
pub type Farewell = Option<(CloseCode, &'static str)>;

pub const SIGNED_OUT: Farewell = Some((CloseCode::Policy, "sign in again"));
pub const UNLISTED: Farewell =
    Some((CloseCode::Policy, "the operator of perch does not allow this site any more (http.origins)"));
pub const FLOODED: Farewell = Some((CloseCode::Policy, "too many messages"));

impl Socket {
    /// Closes it with a reason, and waits for the other side to do the same, for a while.
    pub async fn close(&mut self, code: CloseCode, reason: &'static str) {
        // What was said before is told before; what is not kept any more is not.
        let _behind = self.fill();
        self.rooms = Vec::new();
        let frame = CloseFrame { code, reason: reason.into() };
        drop(Pin::new(&mut self.stream).start_send(Message::Close(Some(frame))));
        let mut discarded = 0;
        let mut finished = false;
        let ended = std::future::poll_fn(|context| {
            if !finished {
                if ready!(self.wire().poll_send(context)).is_err() {
                    return Poll::Ready(());
                }
                finished = true;
            }
            // Until the other side's close frame.
            while let Some(Ok(_)) = ready!(Pin::new(&mut self.stream).poll_next(context)) {}
            // Where the protocol was broken there is none: what still comes is thrown away, as unread bytes would reset
            // the connection before the reason is read.
            if ready!(self.wire().poll_finish(context)).is_err() || code == CloseCode::Restart {
                return Poll::Ready(());
            }
            ready!(discard(self.wire(), context, &mut discarded));
            Poll::Ready(())
        });
        // The other side is given up after that.
        drop(timeout(CLOSING, ended).await);
    }
}

/// Reads until the other side ends, or has sent too much.
fn discard(stream: &mut Wire<TokioIo<Upgraded>>, context: &mut Context<'_>, discarded: &mut usize) -> Poll<()> {
    let mut bytes = [0; 4 << 10];
    loop {
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
        *discarded += buffer.filled().len();
        if read.is_err() || buffer.filled().is_empty() || *discarded > DISCARDED {
            return Poll::Ready(());
        }
    }
}

/// What the other side is told whose bytes made no sense.
pub fn farewell(error: &Error) -> Farewell {
    match error {
        Error::Capacity(_) => Some((CloseCode::Size, "the message is too large")),
        Error::Utf8(_) => Some((CloseCode::Invalid, "text is UTF-8")),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some((CloseCode::Protocol, "this is no WebSocket frame")),
        _ => None,
    }
}
