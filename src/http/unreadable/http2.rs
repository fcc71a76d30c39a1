//! What h2 says to a request of HTTP/2 whose head is longer than it takes: 431, and nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use httpdate::fmt_http_date;

use super::{Instead, Next, Wording};
use crate::http::headers::Hardening;
use crate::http::metrics::Requests;
use crate::http::request_id::RequestId;

/// How many bytes stand before what a frame carries (RFC 9113, section 4.1).
const HEAD: usize = 9;
/// The head of an answer that has no body and fits one frame (section 6.2).
const HEADERS: u8 = 0x01;
const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
/// How many bytes a status takes at most, with two changes of the table's size before it (RFC 7541, section 4.2). The head of
/// any answer of perch's is longer: its id alone nearly is.
const STATUS_ALONE: usize = 16;
/// A header whose name stands in no table, and is not to be put into one (RFC 7541, section 6.2.2).
const LITERAL: u8 = 0x00;

/// The answers of a connection, frame by frame.
#[derive(Default)]
pub struct Answers {
    /// What has left of the next frame's head.
    head: Vec<u8>,
    /// How much is still to leave of what the last frame carries.
    payload: usize,
    counts: Option<Arc<Requests>>,
}

impl Answers {
    pub fn new(counts: Option<Arc<Requests>>) -> Self {
        Answers { counts, ..Answers::default() }
    }
}

impl Wording for Answers {
    /// h2 writes the heads of frames whole, and what one carries whole or apart.
    fn next(&self, bytes: &[u8]) -> Next {
        if !self.head.is_empty() {
            return Next::As(bytes.len().min(HEAD - self.head.len()));
        }
        let mut at = self.payload;
        while let Some(frame) = bytes.get(at..).and_then(Frame::read) {
            match frame.status_alone() {
                None => at += HEAD + frame.length,
                Some(_) if at > 0 => return Next::As(at),
                Some(status) => {
                    if let Some(counts) = &self.counts {
                        counts.count_unasked(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
                    }
                    return Next::Instead(reworded(status));
                }
            }
        }
        Next::As(bytes.len())
    }

    fn left(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let carried = self.payload.min(bytes.len());
            self.payload -= carried;
            bytes = &bytes[carried..];
            let (more, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
            bytes = rest;
            self.head.extend_from_slice(more);
            if let Some(frame) = Frame::read(&self.head) {
                self.payload = frame.length;
                self.head.clear();
            }
        }
    }
}

/// A frame, and what follows it.
struct Frame<'a> {
    bytes: &'a [u8],
    length: usize,
}

impl<'a> Frame<'a> {
    fn read(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let &[high, middle, low, ..] = bytes.first_chunk::<HEAD>()?;
        Some(Frame { bytes, length: u32::from_be_bytes([0, high, middle, low]) as usize })
    }

    /// All of the frame, if it is an answer that says a status and nothing else.
    fn status_alone(&self) -> Option<&'a [u8]> {
        let alone = self.bytes[3] == HEADERS && self.bytes[4] == END_STREAM | END_HEADERS && self.length < STATUS_ALONE;
        self.bytes.get(..HEAD + self.length).filter(|_| alone)
    }
}

/// The status of a frame with what every answer of perch's says. A problem written out would have to be counted in the windows
/// of the connection, which h2 does alone.
fn reworded(status: &[u8]) -> Instead {
    let id = RequestId::unasked();
    tracing::debug!(service = crate::http::NAME, request_id = %id, "the head of request {id} is too long");
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::try_from(fmt_http_date(SystemTime::now())).map(|now| (header::DATE, now)));
    id.tell(&mut headers);
    // There is no HTTP/2 without TLS here.
    Hardening::of_anything(true).apply(&mut headers);
    let mut answer = status.to_vec();
    for (name, value) in &headers {
        answer.push(LITERAL);
        text(&mut answer, name.as_str().as_bytes());
        text(&mut answer, value.as_bytes());
    }
    let length = u32::try_from(answer.len() - HEAD).expect("these are a few headers").to_be_bytes();
    answer[..3].copy_from_slice(&length[1..]);
    Instead { rest: Bytes::from(answer), of: status.len() }
}

/// Writes a text as it is (RFC 7541, section 5.2), after its length in seven bits and, where those are full, more
/// (section 5.1).
fn text(block: &mut Vec<u8>, text: &[u8]) {
    const FULL: u8 = 0x7f;
    match u8::try_from(text.len()) {
        Ok(length) if length < FULL => block.push(length),
        _ => {
            block.push(FULL);
            let mut rest = text.len() - usize::from(FULL);
            while rest >= 0x80 {
                block.push(rest.to_le_bytes()[0] | 0x80);
                rest >>= 7;
            }
            block.push(rest.to_le_bytes()[0]);
        }
    }
    block.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::http::unreadable::Reworded;

    /// `:status: 431` as a literal, whose name is the eighth of the static table.
    const TOO_LONG: &[u8] = b"\0\0\x05\x01\x05\0\0\0\x03\x48\x03431";
    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 5], payload].concat()
    }

    /// What comes of bytes that are written in these pieces to somebody who takes a few at a time.
    async fn written(pieces: &[&[u8]], taken: usize, vectored: bool) -> Vec<u8> {
        let (mut client, server) = duplex(taken);
        let mut reworded = Reworded::new(server, Answers::default());
        let mut came = Vec::new();
        let write = async {
            for piece in pieces {
                let mut piece = *piece;
                while !piece.is_empty() {
                    let (first, second) = piece.split_at(piece.len().min(40));
                    let slices = [IoSlice::new(&[]), IoSlice::new(first), IoSlice::new(second)];
                    let some = if vectored {
                        reworded.write_vectored(&slices).await.unwrap()
                    } else {
                        reworded.write(piece).await.unwrap()
                    };
                    assert!(some > 0);
                    piece = &piece[some..];
                }
            }
            reworded.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(client.read_to_end(&mut came), write);
        read.unwrap();
        came
    }

    #[tokio::test]
    async fn a_status_alone_is_told_with_the_headers_of_all_answers() {
        let data = frame(0, 0, &[TOO_LONG, TOO_LONG].concat());
        let before = [SETTINGS, &data, SETTINGS].concat();
        let all = [&before, TOO_LONG, SETTINGS].concat();
        for (pieces, taken, vectored) in [
            (vec![&all[..]], 4096, false),
            (vec![&all[..]], 7, false),
            (vec![&before[..], &all[before.len()..]], 64, false),
            (vec![&before[..], &all[before.len()..]], 64, true),
            (vec![&before[..20], &before[20..30], &all[30..]], 64, false),
        ] {
            let came = written(&pieces, taken, vectored).await;
            let rest = came.strip_prefix(&before[..]).unwrap().strip_suffix(SETTINGS).unwrap();
            let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
            assert_eq!(length, rest.len() - HEAD);
            assert_eq!(&rest[3..HEAD], &TOO_LONG[3..HEAD], "of the same stream, and its end");
            let said = rest[HEAD..].strip_prefix(&TOO_LONG[HEAD..]).unwrap();
            for line in [
                &b"\0\x16x-content-type-options\x07nosniff"[..],
                b"\0\x19strict-transport-security\x10max-age=31536000",
                // Of 158 bytes: 127 in the first seven bits, and 31.
                b"\0\x12permissions-policy\x7f\x1faccelerometer=()",
                b"\0\x0cx-request-id\x10",
            ] {
                assert!(said.windows(line.len()).any(|part| part == line), "{}", line.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn all_else_leaves_as_it_is() {
        let long = [b"\x48\x03431".as_slice(), &[0x88; STATUS_ALONE]].concat();
        let all = [
            SETTINGS.to_vec(),
            frame(HEADERS, END_STREAM | END_HEADERS, &long),
            frame(HEADERS, END_HEADERS, b"\x48\x03100"),
            frame(0, END_STREAM, TOO_LONG),
            frame(3, 0, b"\0\0\0\x01"),
            frame(0, END_STREAM, &vec![1; 20_000]),
            frame(7, 0, &[0; 8]),
        ]
        .concat();
        for vectored in [false, true] {
            for taken in [5, 100, 40_000] {
                assert_eq!(written(&[&all], taken, vectored).await, all);
            }
        }
    }
}
