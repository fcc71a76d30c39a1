//! Clients that are many, slow, or send without end: others are served meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::perch_with;
use crate::support::perch::{PATIENCE, wait};
use crate::support::{chat, raw};

/// A client that waits for longer than this takes the service for broken.
const SLOWEST: Duration = Duration::from_secs(1);
/// Between two bytes of a client that dawdles.
const TRICKLE: Duration = Duration::from_millis(200);

/// Begins to send a body of `length` bytes, of which the last is still to come.
fn nearly(port: u16, length: usize) -> TcpStream {
    let mut stream = raw::connect(port);
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let text = format!("{{\"message\": \"{}\"}}", "x".repeat(length - 15));
    stream.write_all(&text.as_bytes()[..length - 1]).unwrap();
    stream
}

fn finish(mut stream: TcpStream) -> Vec<u16> {
    drop(stream.write_all(b"}"));
    raw::statuses(&raw::read_to_end(&mut stream))
}

#[test]
fn one_clients_large_bodies_leave_room_for_those_of_others() {
    let (perch, port) = perch_with("max_body = \"8MiB\"\n[limits.address]\nrequests_per_minute = 1000");
    let before = perch.memory();
    let mut held: Vec<TcpStream> = (0..2).map(|_| nearly(port, 8 << 20)).collect();
    wait("two bodies", || (perch.memory() > before + (15 << 20)).then_some(()));
    // The third one is too much for this client, whatever room there is.
    assert_eq!(finish(nearly(port, 8 << 20)), [503]);
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), format!("{{\"message\": \"{}\"}}", "y".repeat(8_000_000))).unwrap();
    let others = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "30", "--interface", "127.0.0.2", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(["-H", "Content-Type: application/json", "--data-binary", &format!("@{}", body.path().display())])
        .arg(format!("http://127.0.0.1:{port}/api/chat"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&others.stdout), "200", "{others:?}");
    assert_eq!(chat::ask(port, "and little is always heard"), "and little is always heard");
    assert_eq!(finish(held.pop().unwrap()), [200]);
    assert_eq!(finish(nearly(port, 7 << 20)), [200], "its share is its own again");
}

#[test]
fn memory_comes_back_after_two_hundred_large_bodies() {
    let (perch, port) = perch_with("");
    raw::times(port, 50);
    let round = |kept: u64| {
        let before = perch.memory();
        let crowd: Vec<TcpStream> = (0..200).map(|_| nearly(port, 64 << 10)).collect();
        let most = wait("all that is on its way", || Some(perch.memory()).filter(|now| *now > before + (11 << 20)));
        // A body, and what its connection reads into.
        assert!(most < before + (40 << 20), "{most} bytes, {before} before");
        assert!(crowd.into_iter().map(finish).all(|statuses| statuses == [200]));
        wait("memory as before", || (perch.memory() < before + kept).then_some(()));
    };
    // Of 25 MiB and more the database's cache and the allocator keep some 7; of the next ones nothing is added to it.
    round(12 << 20);
    std::thread::sleep(Duration::from_secs(1));
    round(4 << 20);
}

#[test]
fn a_reader_who_takes_nothing_of_an_answer_is_let_go_after_a_minute() {
    let (perch, port) = perch_with("max_body = \"16MiB\"");
    let sockets = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", perch.pid())).unwrap().filter_map(|entry| {
            std::fs::read_link(entry.ok()?.path()).ok().filter(|to| to.to_string_lossy().starts_with("socket:"))
        });
        open.count()
    };
    let before = sockets();
    // More than the buffers of both ends hold.
    let mut stream = nearly(port, 15 << 20);
    stream.write_all(b"}").unwrap();
    let begun = Instant::now();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    while sockets() > before {
        assert!(begun.elapsed() < Duration::from_secs(90), "still there after {:?}", begun.elapsed());
        std::thread::sleep(TRICKLE);
    }
    assert!(begun.elapsed() > Duration::from_secs(50), "let go after {:?}", begun.elapsed());
    assert_eq!(chat::ask(port, "hello"), "hello");
}

#[test]
fn chunks_are_counted_as_they_come() {
    let (_perch, port) = perch_with("max_body = \"1KiB\"");
    let mut stream = raw::connect(port);
    let head = "POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    // One chunk that says it is 4 GiB, of which as much is sent as perch takes.
    stream.write_all(b"ffffffff\r\n").unwrap();
    let block = vec![b' '; 1 << 20];
    for _ in 0..64 {
        if stream.write_all(&block).is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// Sends a client home who asks while `attack` goes on for as long as it is let, and asserts that others are served.
#[track_caller]
fn assert_others_are_served(port: u16, attack: impl Fn(&AtomicBool) + Sync) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| attack(&over));
        let times = raw::times(port, 200);
        over.store(true, Ordering::Relaxed);
        let slow = times[times.len() * 99 / 100];
        assert!(slow < SLOWEST, "p99 {slow:?}, worst {:?}", times.last());
    });
}

#[test]
fn heads_that_trickle_in_end_after_ten_seconds_and_others_are_served() {
    let (_perch, port) = perch_with("");
    // One whose head never ends, on a connection that was good before.
    let mut slow = raw::connect(port);
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: perch\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    let begun = Instant::now();
    slow.write_all(b"GET /health HTTP/1.1\r\nX: ").unwrap();
    let silent = raw::connect(port);
    assert_others_are_served(port, |over| {
        let mut crowd: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        while !over.load(Ordering::Relaxed) {
            for stream in &mut crowd {
                drop(stream.write_all(b"a"));
            }
            std::thread::sleep(TRICKLE);
        }
    });
    // A byte now and then does not help.
    let mut trickle = slow.try_clone().unwrap();
    let over = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && trickle.write_all(b"a").is_ok() {
                std::thread::sleep(TRICKLE);
            }
        });
        raw::read_to_end(&mut slow);
        over.store(true, Ordering::Relaxed);
        begun.elapsed()
    });
    assert!((Duration::from_secs(9)..Duration::from_secs(16)).contains(&ended), "{ended:?}");
    // And one that says nothing at all is no different.
    let mut silent = silent;
    assert_eq!(raw::read_to_end(&mut silent), "");
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out_and_cost_little() {
    // Both ends are files of a process, and the test's own limit may be lower than perch's.
    let files = perch::os::raise_file_limit();
    let count = usize::try_from(files).unwrap().saturating_sub(1_000).min(10_000);
    let (perch, port) = perch_with("");
    raw::times(port, 50);
    let before = perch.memory();
    let request = b"GET /health HTTP/1.1\r\nHost: perch\r\n\r\n";
    let crowd: Vec<TcpStream> = (0..count)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            // Half of them asked something once.
            if number % 2 == 0 {
                stream.write_all(request).unwrap();
            }
            stream
        })
        .collect();
    assert_others_are_served(port, |_| {});
    let each = perch.memory().saturating_sub(before) / count as u64;
    assert!(each < 16 << 10, "{each} bytes a connection, {count} connections");
    drop(crowd);
}

#[test]
fn a_flood_of_headers_keeps_nobody_out() {
    let (perch, port) = perch_with("");
    raw::times(port, 50);
    let before = perch.memory();
    let flood = format!("GET /health HTTP/1.1\r\nHost: perch\r\n{}", "a: b\r\n".repeat(20_000));
    assert_others_are_served(port, |over| {
        while !over.load(Ordering::Relaxed) {
            let mut crowd: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
            for stream in &mut crowd {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                drop(stream.write_all(flood.as_bytes()));
            }
            for stream in &mut crowd {
                raw::read_to_end(stream);
            }
        }
    });
    let after = wait("memory as before", || Some(perch.memory()).filter(|after| *after < before + (24 << 20)));
    assert!(after < before + (24 << 20));
}
