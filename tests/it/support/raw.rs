//! HTTP as bytes: what no client would send, and all that comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::perch::PATIENCE;

/// A connection to this port of 127.0.0.1, on which nobody waits for ever.
#[track_caller]
pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `bytes` to this port of 127.0.0.1 and reads until the connection is closed.
///
/// # Panics
/// When it is not closed for long.
#[track_caller]
pub fn send(port: u16, bytes: &[u8]) -> String {
    let mut stream = connect(port);
    // perch may have closed it before all of it is out.
    drop(stream.write_all(bytes));
    read_to_end(&mut stream)
}

/// All that still comes on this connection.
#[track_caller]
pub fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // What was sent and not read ends a connection so.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&answer)),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The statuses of all answers in `answers`.
pub fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse().ok());
    heads.collect()
}

/// How long each of `count` requests for `/health` took, each over a connection of its own.
pub fn times(port: u16, count: usize) -> Vec<Duration> {
    let ask = |_| {
        let begun = std::time::Instant::now();
        let answer = send(port, b"GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n");
        assert_eq!(statuses(&answer), [200], "{answer}");
        begun.elapsed()
    };
    let mut times: Vec<Duration> = (0..count).map(ask).collect();
    times.sort_unstable();
    times
}
