//! What a load balancer sees of a perch that ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::chat;
use super::support::exchange::{Response, exchange};
use super::support::perch::{Start, free_port, wait};

fn ready(port: u16) -> Response {
    exchange("GET", &format!("http://127.0.0.1:{port}/ready"), &[], b"")
}

#[test]
fn for_as_long_as_a_balancer_needs_to_notice_everybody_is_served() {
    let port = free_port();
    let config = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n\n[run]\nunready = \"2s\"\n");
    let mut perch = Start::with_text(&config).ready();
    assert_eq!(ready(port).status, 200);
    perch.signal("TERM");
    let told = Instant::now();
    let answer = wait("/ready to say so", || Some(ready(port)).filter(|answer| answer.status == 503));
    assert_eq!(
        serde_json::from_slice::<Value>(&answer.body).unwrap(),
        json!({ "ready": false, "reason": "perch was told to end" })
    );
    assert_eq!(chat::ask(port, "still there?"), "still there?");
    let answer = chat::post(port, "and gone soon?");
    assert_eq!(answer.header("Connection"), Some("close"), "whoever keeps a connection goes elsewhere with the next");
    assert_eq!(exchange("GET", &format!("http://127.0.0.1:{port}/health"), &[], b"").status, 200);
    assert_eq!(perch.status()["config"]["state"], "draining");
    assert_eq!(perch.wait().code(), Some(0));
    assert!(told.elapsed() >= Duration::from_secs(2), "it ended after {:?}", told.elapsed());
}

#[test]
fn a_second_signal_does_not_wait_for_the_balancer() {
    let port = free_port();
    let config = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n\n[run]\nunready = \"60s\"\n");
    let mut perch = Start::with_text(&config).ready();
    perch.signal("TERM");
    wait("/ready to say so", || (ready(port).status == 503).then_some(()));
    assert_eq!(perch.stop().code(), Some(143));
}

#[test]
fn a_connection_that_ends_with_a_refusal_says_so_before_it_does() {
    let port = free_port();
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n\n[limits]\nexempt = []\n[limits.address]\nrequests_per_minute = 2\nburst = 2\n"
    );
    let _perch = Start::with_text(&config).ready();
    let question = r#"{"message": "hi"}"#;
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        question.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut answer = || {
        let lines = answers.by_ref().lines().map(Result::unwrap);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        answers.read_exact(&mut vec![0; length]).unwrap();
        head
    };
    for _ in 0..2 {
        stream.write_all(format!("{head}{question}").as_bytes()).unwrap();
        let head = answer();
        assert!(head[0].contains(" 200 ") && !head.contains(&"connection: close".to_owned()), "{head:?}");
    }
    // A balancer sends the head as soon as it has it, and learns that what follows has no place any more.
    stream.write_all(head.as_bytes()).unwrap();
    let head = answer();
    assert!(head[0].contains(" 429 ") && head.contains(&"connection: close".to_owned()), "{head:?}");
    assert_eq!(answers.read(&mut [0]).unwrap(), 0);
}
