//! What hyper says to bytes that are no request of HTTP/1.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use super::{Instead, Next, Wording};
use crate::http::headers::Hardening;
use crate::http::metrics::Requests;
use crate::http::problem::{Dialect, Document};
use crate::http::request_id::RequestId;

/// The answers of a connection; `between` says how many requests there were so far, and nothing while one is being served, or
/// once it is upgraded.
pub struct Answers<B> {
    encrypted: bool,
    counts: Option<Arc<Requests>>,
    between: B,
    /// How many requests there were when the last of their answers had left, and nothing once more was written. hyper answers
    /// by itself only then, so nothing else gives way: no answer of perch's, no rest of one, no piece of a body.
    settled: Option<usize>,
}

impl<B: Fn() -> Option<usize>> Answers<B> {
    /// Those of a connection that is `encrypted` or not.
    pub fn new(encrypted: bool, counts: Option<Arc<Requests>>, between: B) -> Self {
        let settled = between();
        Answers { encrypted, counts, between, settled }
    }

    /// What to write in place of `bytes`, if they are an answer of hyper's own.
    fn reword(&self, bytes: &[u8]) -> Option<Instead> {
        let settled = self.settled?;
        let bare = Bare::read(bytes)?;
        // A request that began since then is one that perch answers.
        if (self.between)() != Some(settled) {
            return None;
        }
        if let Some(counts) = &self.counts {
            counts.count_unasked(bare.status);
        }
        Some(Instead { rest: bare.reworded(self.encrypted), of: bytes.len() })
    }
}

impl<B: Fn() -> Option<usize>> Wording for Answers<B> {
    /// An answer without a body is one piece.
    fn next(&self, bytes: &[u8]) -> Next {
        self.reword(bytes).map_or(Next::As(bytes.len()), Next::Instead)
    }

    /// What comes next may be the rest of it.
    fn left(&mut self, _: &[u8]) {
        self.settled = None;
    }

    fn flushed(&mut self) {
        self.settled = (self.between)();
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
        tracing::debug!(service = crate::http::NAME, request_id = %id, "what came as request {id} is none: {}", self.status);
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
    use std::io::IoSlice;

    use futures_util::{FutureExt, poll};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::http::unreadable::Reworded;

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
            let mut reworded = Reworded::new(server, Answers::new(false, None, || Some(0)));
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
        let mut reworded = Reworded::new(server, Answers::new(false, None, || Some(0)));
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
        let mut reworded = Reworded::new(server, Answers::new(false, None, || requests.get()));
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
            let mut reworded = Reworded::new(server, Answers::new(false, None, || requests.get()));
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
