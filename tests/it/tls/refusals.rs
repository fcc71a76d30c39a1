//! Requests of HTTP/2 that are refused before all of them came.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Host;
use super::hostile::{HEADERS, HEALTH, RST_STREAM, frame, raw};

/// Kinds of frames, and their flags (RFC 9113, section 6).
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;
/// A setting, and the window that every connection begins with (RFC 9113, section 6.9.2).
const INITIAL_WINDOW_SIZE: u16 = 4;
const FIRST_WINDOW: u32 = 65_535;
/// `POST https://…/nope` in HPACK, without an end.
const NOPE: &[u8] = b"\x83\x87\x04\x05/nope\x01\x09chat.test";
/// How an answer with these statuses begins in HPACK.
const OK: u8 = 0x88;
const NOT_FOUND: u8 = 0x8d;
/// How much perch reads of a body that it refused, and for how long.
const REST: usize = 256 << 10;
const REST_TIMEOUT: Duration = Duration::from_secs(3);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A client of HTTP/2, frame by frame.
struct Client {
    bytes: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    /// How much the connection takes, and the one stream that sends more than a little.
    connection: u32,
    stream: u32,
}

impl Client {
    fn connect(host: &Host) -> Client {
        Client { bytes: raw(host), connection: FIRST_WINDOW, stream: FIRST_WINDOW }
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes.write_all(&frame(kind, flags, stream, payload)).unwrap();
    }

    /// The next frame. What it says of windows is taken note of.
    #[track_caller]
    fn next(&mut self) -> Frame {
        let mut head = [0; 9];
        self.bytes.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.bytes.read_exact(&mut payload).unwrap();
        let (kind, flags, stream) = (head[3], head[4], u32::from_be_bytes(head[5..].try_into().unwrap()));
        match kind {
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks(6).filter(|setting| setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes()) {
                    self.stream = u32::from_be_bytes(setting[2..].try_into().unwrap());
                }
                self.send(SETTINGS, ACK, 0, b"");
            }
            WINDOW_UPDATE => {
                let window = if stream == 0 { &mut self.connection } else { &mut self.stream };
                *window += u32::from_be_bytes(payload[..].try_into().unwrap());
            }
            _ => {}
        }
        Frame { kind, flags, stream, payload }
    }

    /// The status and the text of the answer on `stream`, and the streams that were reset before it was whole.
    #[track_caller]
    fn answer(&mut self, stream: u32) -> (u8, String, Vec<u32>) {
        let (mut status, mut text, mut reset) = (0, Vec::new(), Vec::new());
        loop {
            let frame = self.next();
            match frame.kind {
                RST_STREAM => reset.push(frame.stream),
                HEADERS if frame.stream == stream => status = frame.payload[0],
                DATA if frame.stream == stream => text.extend(frame.payload),
                _ => continue,
            }
            if frame.stream == stream && frame.kind != RST_STREAM && frame.flags & END_STREAM != 0 {
                return (status, String::from_utf8(text).unwrap(), reset);
            }
        }
    }

    /// Asks for what is there. Nothing was reset until then.
    #[track_caller]
    fn healthy(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, HEALTH);
        let (status, text, reset) = self.answer(stream);
        assert_eq!((status, text.as_str()), (OK, "ok\n"));
        assert!(reset.is_empty(), "reset: {reset:?}");
    }

    /// Is refused for a request that goes on.
    #[track_caller]
    fn refused(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, NOPE);
        let (status, text, reset) = self.answer(stream);
        assert_eq!(status, NOT_FOUND);
        assert!(reset.is_empty(), "reset: {reset:?}");
        assert!(text.starts_with('{') && text.ends_with('}'), "{text}");
    }

    /// Sends on `stream` what is let in until it is reset: how much that was, and the error.
    #[track_caller]
    fn flood(&mut self, stream: u32) -> (usize, u32) {
        const PIECE: u16 = 16_384;
        let mut sent = 0;
        loop {
            while self.connection.min(self.stream) >= PIECE.into() {
                self.send(DATA, 0, stream, &[b' '; PIECE as usize]);
                (self.connection, self.stream) = (self.connection - u32::from(PIECE), self.stream - u32::from(PIECE));
                sent += usize::from(PIECE);
            }
            let frame = self.next();
            if (frame.kind, frame.stream) == (RST_STREAM, stream) {
                return (sent, u32::from_be_bytes(frame.payload.try_into().unwrap()));
            }
        }
    }

    /// Waits for the reset of `stream`; its error.
    #[track_caller]
    fn reset(&mut self, stream: u32) -> u32 {
        loop {
            let frame = self.next();
            if (frame.kind, frame.stream) == (RST_STREAM, stream) {
                return u32::from_be_bytes(frame.payload.try_into().unwrap());
            }
        }
    }
}

#[test]
fn a_request_that_is_refused_before_its_body_came_may_end_in_peace() {
    let host = Host::start();
    let mut client = Client::connect(&host);
    client.refused(1);
    // What perch says is in order: a reset would come before the next answer.
    client.healthy(3);
    client.send(DATA, 0, 1, br#"{"message":"#);
    client.healthy(5);
    client.send(DATA, END_STREAM, 1, br#""x"}"#);
    client.healthy(7);
    // And all at once, as curl does it.
    for stream in (9..49).step_by(2) {
        let head = frame(HEADERS, END_HEADERS, stream, NOPE);
        let body = frame(DATA, END_STREAM, stream, br#"{"message":"x"}"#);
        client.bytes.write_all(&[head, body].concat()).unwrap();
        let (status, _, reset) = client.answer(stream);
        assert_eq!(status, NOT_FOUND);
        assert!(reset.is_empty(), "reset: {reset:?}");
    }
    client.healthy(49);
}

#[test]
fn a_refused_body_that_is_long_or_never_ends_is_reset_and_others_are_served() {
    let host = Host::start();
    let mut client = Client::connect(&host);
    client.refused(1);
    let (sent, error) = client.flood(1);
    assert_eq!(error, 0, "NO_ERROR");
    // As much as fits into a window may be on its way.
    assert!((REST..2 * REST).contains(&sent), "{sent}");
    // One that never ends, and others beside it.
    let begun = Instant::now();
    client.refused(3);
    client.healthy(5);
    assert_eq!(client.reset(3), 0);
    assert!(begun.elapsed() >= REST_TIMEOUT, "{:?}", begun.elapsed());
    client.healthy(7);
    assert_eq!(host.get("chat.test", "/health"), "ok\n");
}
