//! perch is stopped and killed again and again while people talk to it: nothing is lost, and nothing is said twice.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use perch::sim::{Fault, Say};

use super::support::perch::PATIENCE;
use super::support::site::{BOT, Site};

/// How often it is stopped, and how often it is killed; this variable says otherwise.
const ROUNDS: u32 = 8;
const ROUNDS_VARIABLE: &str = "PERCH_TEST_RESTARTS";
/// Between two mentions.
const PACE: Duration = Duration::from_millis(50);
const CHANNELS: [&str; 4] = ["general", "one", "two", "three"];
const SIGTERM: i32 = 15;

/// What people do all the while, until they are told to stop.
struct Crowd {
    over: Arc<AtomicBool>,
    /// The messages said in each channel.
    asked: Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>,
    /// From when to when each HTTP request took that got no answer, and why it did not.
    failed: Arc<Mutex<Vec<(Instant, Instant, String)>>>,
    served: Arc<Mutex<u64>>,
}

impl Crowd {
    fn talk(&self, site: &Site) {
        let mut said = 0;
        while !self.over.load(Ordering::Relaxed) {
            let channel = CHANNELS[said % CHANNELS.len()];
            let say = Say::new(format!("<@{BOT}> {said}")).in_channel(channel);
            let message = site.simulator.say(say).unwrap();
            let id = message["id"].as_str().unwrap().to_owned();
            self.asked.lock().unwrap().entry(channel).or_default().push(id);
            said += 1;
            sleep(PACE);
        }
    }

    fn ask(&self, address: SocketAddr) {
        while !self.over.load(Ordering::Relaxed) {
            let from = Instant::now();
            match request(address) {
                Ok(()) => *self.served.lock().unwrap() += 1,
                Err(what) => self.failed.lock().unwrap().push((from, Instant::now(), what)),
            }
        }
    }
}

/// One request on a connection of its own.
fn request(address: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).map_err(|error| format!("connecting: {error}"))?;
    let body = r#"{"message":"hello"}"#;
    let text = format!(
        "POST /api/chat HTTP/1.1\r\nHost: perch\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    stream.write_all(text.as_bytes()).map_err(|error| format!("writing: {error}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| format!("reading: {error}"))?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("answered {answer:?}")) }
}

#[test]
#[expect(clippy::print_stdout, reason = "a long run says what it has shown, to whoever asks with --nocapture")]
fn stopped_and_killed_while_people_talk_perch_loses_nothing_and_says_nothing_twice() {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |text| text.parse().unwrap());
    let site = Site::new();
    for name in &CHANNELS[1..] {
        site.add_channel(name);
    }
    let mut perch = site.start();
    site.wait_session();
    let crowd = Crowd { over: Arc::default(), asked: Arc::default(), failed: Arc::default(), served: Arc::default() };
    let mut kills = Vec::new();
    // How often a nonce had been met again when perch was last stopped, if that was no sudden end.
    let mut met_when_stopped = None;
    std::thread::scope(|scope| {
        scope.spawn(|| crowd.talk(&site));
        scope.spawn(|| crowd.ask(site.address()));
        for round in 0..2 * rounds {
            site.simulator.clear_faults();
            site.simulator.fault(slow(round));
            // Anywhere between the first moments of a process and its steady state.
            sleep(Duration::from_millis(fastrand::u64(50..1_000)));
            if round % 2 == 0 {
                perch.signal("TERM");
                let ended = perch.wait();
                // Before its first instructions are through, a signal ends a process by itself.
                assert!(ended.code() == Some(0) || ended.signal() == Some(SIGTERM), "{ended}: {}", site.log());
                met_when_stopped = ended.code().map(|_| site.simulator.counters().nonce_deduplicated);
            } else {
                let met = site.simulator.counters().nonce_deduplicated;
                assert!(
                    met_when_stopped.is_none_or(|before| before == met),
                    "after a stop, an answer was tried that had been said: {}",
                    site.log()
                );
                let from = Instant::now();
                perch.signal("KILL");
                perch.wait();
                kills.push((from, Instant::now()));
            }
            perch = site.start();
        }
        sleep(Duration::from_secs(1));
        crowd.over.store(true, Ordering::Relaxed);
    });

    let asked = crowd.asked.lock().unwrap().clone();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && asked.iter().any(|(channel, ids)| site.answered(channel).len() < ids.len()) {
        sleep(Duration::from_millis(20));
    }
    perch.signal("TERM");
    assert_eq!(perch.wait().code(), Some(0), "{}", site.log());
    for (channel, ids) in &asked {
        let answered = site.answered(channel);
        assert_eq!(&answered, ids, "in #{channel}: {} asked, {} answered", ids.len(), answered.len());
    }
    let counters = site.simulator.counters();
    let number: usize = asked.values().map(Vec::len).sum();
    let served = *crowd.served.lock().unwrap();
    println!(
        "{rounds} stops and {rounds} kills: {number} mentions answered once; {served} requests answered, {} ended by a \
         kill; {} IDENTIFY, {} RESUMEs, {} events replayed, {} nonces met again",
        crowd.failed.lock().unwrap().len(),
        counters.identifies,
        counters.resumes,
        counters.replayed,
        counters.nonce_deduplicated
    );
    assert_eq!((counters.identifies, counters.violation_count), (1, 0), "{:?}", counters.violations);
    // What Discord was working on while perch was killed, and nothing else.
    let in_hand = u64::from(rounds) * CHANNELS.len() as u64;
    assert!(counters.nonce_deduplicated <= in_hand, "{}", counters.nonce_deduplicated);
    for (from, to, what) in crowd.failed.lock().unwrap().iter() {
        let killed = kills.iter().any(|(began, ended)| from <= ended && began <= to);
        assert!(killed && !what.starts_with("connecting"), "a request failed: {what}");
    }
    assert!(served > 100, "{served}");
}

/// Discord takes a while, by turns before it says an answer and after, so that it often has one in hand when perch is
/// killed.
fn slow(round: u32) -> Fault {
    let route = Some("POST /channels/".to_owned());
    if (round / 2).is_multiple_of(2) { Fault::RestDelay { route, ms: 40 } } else { Fault::RestLate { route, ms: 40 } }
}
