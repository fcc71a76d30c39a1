//! What is said of bytes that are no request. hyper's parser answers them by itself, with a bare status, and has no hook for
//! what every answer of perch says: on its way out, its answer gives way to one of perch's.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::headers::Hardening;
use super::problem::{Dialect, Document};
use super::request_id::RequestId;

/// An HTTP/1 connection on which hyper's own answers are reworded; `between` says how many requests there were so far, and
/// nothing while one is being served, or once it is upgraded.
pub struct Reworded<T, B> {
    stream: T,
    encrypted: bool,
    between: B,
    /// How many requests there were when the last of their answers had left, and nothing once more was written. hyper answers
    /// by itself only then, so nothing else gives way: no answer of perch's, no rest of one, no piece of a body.
    settled: Option<usize>,
    instead: Option<Instead>,
}

/// What is written in place of an answer of hyper's.
struct Instead {
    rest: Bytes,
    /// How many bytes hyper's answer has.
    of: usize,
}

impl<T, B: Fn() -> Option<usize>> Reworded<T, B> {
    /// Rewords on `stream`, which is `encrypted` or not.
    pub fn new(stream: T, encrypted: bool, between: B) -> Self {
        let settled = between();
        Reworded { stream, encrypted, between, settled, instead: None }
    }

    /// What to write in place of `bytes`, if they are an answer of hyper's own.
    fn reword(&self, bytes: &[u8]) -> Option<Instead> {
        let settled = self.settled?;
        let bare = Bare::read(bytes)?;
        // A request that began since then is one that perch answers.
        ((self.between)() == Some(settled)).then(|| Instead { rest: bare.reworded(self.encrypted), of: bytes.len() })
    }
}

impl<T: AsyncWrite + Unpin, B: Fn() -> Option<usize>> Reworded<T, B> {
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

    /// Writes something else than `bytes`, if they are an answer of hyper's own: it hears that they were taken when all of
    /// that has been.
    fn poll_instead(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<Result<usize, Error>>> {
        if self.instead.is_none() {
            self.instead = self.reword(bytes);
        }
        let of = self.instead.as_ref()?.of;
        Some(self.poll_rest(context).map_ok(|()| {
            self.instead = None;
            of
        }))
    }

    /// Once something is written, what comes next may be the rest of it.
    fn wrote<W>(&mut self, written: Poll<W>) -> Poll<W> {
        if written.is_ready() {
            self.settled = None;
        }
        written
    }
}

impl<T: AsyncRead + Unpin, B: Unpin> AsyncRead for Reworded<T, B> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin, B: Fn() -> Option<usize> + Unpin> AsyncWrite for Reworded<T, B> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        let this = self.get_mut();
        let written = match this.poll_instead(context, bytes) {
            Some(said) => said,
            None => Pin::new(&mut this.stream).poll_write(context, bytes),
        };
        this.wrote(written)
    }

    /// hyper flushes when it has written all that it had.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        ready!(this.poll_rest(context))?;
        this.settled = (this.between)();
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

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let this = self.get_mut();
        // An answer without a body is one slice.
        let only = if let [only] = slices { only } else { &[][..] };
        let written = match this.poll_instead(context, only) {
            Some(said) => said,
            None => Pin::new(&mut this.stream).poll_write_vectored(context, slices),
        };
        this.wrote(written)
    }
}

/// An answer that says a status and what HTTP itself needs, and nothing else. None of perch's does: each has the headers
/// of [`Hardening`].
struct Bare<'a> {
    /// Its first line.
    line: &'a str,
    status: StatusCode,
    date: HeaderValue,
}

impl<'a> Bare<'a> {
    fn read(bytes: &'a [u8]) -> Option<Bare<'a>> {
        // `HTTP/1.1 400 Bad Request`, and most answers are none of these.
        if bytes.get(9) != Some(&b'4') {
            return None;
        }
        let mut lines = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?.split("\r\n");
        let line = lines.next()?;
        let status = line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let mut date = None;
        for line in lines {
            match line.split_once(": ")? {
                ("connection", "close") | ("content-length", "0") => {}
                ("date", said) => date = HeaderValue::from_str(said).ok(),
                _ => return None,
            }
        }
        Some(Bare { line, status, date: date? })
    }

    /// What is wrong, and what to do. These are all that hyper says.
    fn detail(&self) -> &'static str {
        match self.status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                "the request's head is longer than 32 KiB, or has more than 100 headers: send less of it"
            }
            StatusCode::URI_TOO_LONG => "the address is longer than 8 KiB: send what it says in the body",
            _ => {
                "this is no request of HTTP/1.1: look at its first line, for characters that no header may have, and at \
                 `Content-Length` and `Transfer-Encoding`"
            }
        }
    }

    /// The same status as perch says it.
    fn reworded(self, encrypted: bool) -> Bytes {
        let id = RequestId::unasked();
        let body = json!(Document::new(self.status, self.detail(), id)).to_string();
        tracing::debug!(service = super::NAME, request_id = %id, "what came as request {id} is none: {}", self.status);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, Dialect::Rfc9457.media_type());
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::DATE, self.date);
        id.tell(&mut headers);
        Hardening::of_anything(encrypted).apply(&mut headers);
        let mut answer = Vec::with_capacity(2 << 10);
        answer.extend_from_slice(self.line.as_bytes());
        for (name, value) in &headers {
            for part in [b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()] {
                answer.extend_from_slice(part);
            }
        }
        answer.extend_from_slice(b"\r\n\r\n");
        answer.extend_from_slice(body.as_bytes());
        answer.into()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::{FutureExt, poll};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
                        date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";

    fn assert_reworded(answer: &str) {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(lines[0], "HTTP/1.1 400 Bad Request");
        for line in [
            "connection: close",
            "content-type: application/problem+json",
            &format!("content-length: {}", body.len()),
            "date: Sun, 06 Nov 1994 08:49:37 GMT",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert_eq!(lines.iter().filter(|other| **other == line).count(), 1, "{line} in {head}");
        }
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], 400);
        assert!(head.contains(&format!("x-request-id: {}", problem["request_id"].as_str().unwrap())), "{answer}");
    }

    #[tokio::test]
    async fn who_takes_a_few_bytes_at_a_time_gets_all_of_it() {
        for vectored in [false, true] {
            let (mut client, server) = duplex(7);
            let mut reworded = Reworded::new(server, false, || Some(0));
            let mut answer = String::new();
            let write = async {
                let taken = if vectored {
                    reworded.write_vectored(&[IoSlice::new(BARE.as_bytes())]).await
                } else {
                    reworded.write(BARE.as_bytes()).await
                };
                assert_eq!(taken.unwrap(), BARE.len(), "as many as hyper wrote");
                reworded.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(client.read_to_string(&mut answer), write);
            read.unwrap();
            assert_reworded(&answer);
        }
    }

    #[tokio::test]
    async fn a_flush_and_an_end_wait_for_all_of_it() {
        let (mut client, server) = duplex(7);
        let mut reworded = Reworded::new(server, false, || Some(0));
        assert!(poll!(Box::pin(reworded.write(BARE.as_bytes()))).is_pending());
        assert!(poll!(Box::pin(reworded.flush())).is_pending());
        assert!(reworded.shutdown().now_or_never().is_none());
        let mut answer = String::new();
        let end = async {
            reworded.flush().await.unwrap();
            let taken = reworded.write(BARE.as_bytes()).await.unwrap();
            assert_eq!(taken, BARE.len(), "it has been said, and is not said again");
            reworded.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(client.read_to_string(&mut answer), end);
        read.unwrap();
        assert_reworded(&answer);
    }

    #[tokio::test]
    async fn what_follows_an_answer_that_left_is_reworded_and_the_answer_is_not() {
        let good = "HTTP/1.1 404 Not Found\r\nx-content-type-options: nosniff\r\ncontent-length: 2\r\n\r\nno";
        let (mut client, server) = duplex(4096);
        let requests = Cell::new(Some(0));
        let mut reworded = Reworded::new(server, false, || requests.get());
        requests.set(Some(1));
        reworded.write_all(good.as_bytes()).await.unwrap();
        reworded.flush().await.unwrap();
        reworded.write_all(BARE.as_bytes()).await.unwrap();
        reworded.shutdown().await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        assert_reworded(answers.strip_prefix(good).unwrap());
    }

    #[tokio::test]
    async fn nothing_that_perch_says_is_reworded() {
        /// What was written of an answer before, how many requests there were when that had left, and how many now.
        type Before = (&'static str, Option<Option<usize>>, Option<usize>);
        let left_alone: [(&str, &[Before]); 5] = [
            ("a request is being answered", &[("", None, None)]),
            ("one began since", &[("", Some(Some(1)), Some(2))]),
            ("the rest of an answer", &[("HTTP/1.1 200 OK\r\ncontent-length: 118\r\n\r\n", None, Some(0))]),
            ("the last of a stream", &[("HTTP/1.0 200 OK\r\n\r\n", Some(None), Some(0))]),
            ("what a WebSocket says", &[("HTTP/1.1 101 Switching Protocols\r\n\r\n", Some(None), None)]),
        ];
        for (what, before) in left_alone {
            let (mut client, server) = duplex(4096);
            let requests = Cell::new(Some(0));
            let mut reworded = Reworded::new(server, false, || requests.get());
            let mut expected = String::new();
            for (bytes, left, now) in before {
                reworded.write_all(bytes.as_bytes()).await.unwrap();
                expected.push_str(bytes);
                if let Some(left) = left {
                    requests.set(*left);
                    reworded.flush().await.unwrap();
                }
                requests.set(*now);
            }
            reworded.write_all(BARE.as_bytes()).await.unwrap();
            drop(reworded);
            let mut came = String::new();
            client.read_to_string(&mut came).await.unwrap();
            assert_eq!(came, expected + BARE, "{what}");
        }
        for answer in [
            BARE.replace("400", "200"),
            BARE.replace("connection: close", "x-content-type-options: nosniff"),
            BARE.replace("content-length: 0", "content-length: 7"),
            format!("{BARE}body"),
            format!("{BARE}{BARE}"),
            format!("event: 4{BARE}"),
        ] {
            assert!(Bare::read(answer.as_bytes()).is_none(), "{answer}");
        }
    }
}
