//! perch is started again and again while every session that it begins fails: Discord's daily budget lasts, and HTTP
//! does not wait for it.

use std::time::{Duration, Instant, SystemTime};

use perch::sim::{Fault, When};

use super::support::bot::Bot;
use super::support::chat;
use super::support::discord::Discord;
use super::support::perch::Perch;

/// Starts, one after the other without pause.
const RESTARTS: u32 = 40;
/// How long each process lives, so that all of them take a minute: two IDENTIFYs have to be 5 s apart, and no more than
/// ten come as fast as that.
const LIFE: Duration = Duration::from_millis(1_400);
/// From exec to READY. It takes some milliseconds; a machine that is busy with other tests takes longer, and still
/// less than the 5 s which an IDENTIFY may have to wait at least.
const AT_ONCE: Duration = Duration::from_secs(4);
/// Those that come at Discord's own pace: each of ten lets the next one through at once.
const QUICK: u64 = 11;

#[test]
#[expect(clippy::print_stdout, reason = "what was seen, for whoever asks with --nocapture")]
fn in_a_crash_loop_with_sessions_that_fail_identifies_are_spaced_and_http_never_waits() {
    let bot = Bot::new();
    let discord = &bot.discord;
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    for round in 0..RESTARTS {
        fail_sessions(discord, round);
        let exec = Instant::now();
        let mut perch = bot.perch().ready();
        let ready = exec.elapsed();
        assert!(ready < AT_ONCE, "READY came after {ready:?}: {}", perch.log_text());
        slowest = slowest.max(ready);
        assert_eq!(chat::ask(bot.port, "hello"), "hello");
        let end = exec + LIFE;
        while Instant::now() < end {
            if round % 3 == 2 {
                // Only sessions that have begun hear of it.
                discord.simulator().fault(Fault::InvalidSession { resumable: false, when: When::Now });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(chat::ask(bot.port, "still there"), "still there");
        if round % 2 == 0 {
            perch.signal("KILL");
            perch.wait();
        } else {
            assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
        }
    }
    let counters = discord.counters();
    println!(
        "{RESTARTS} starts in {:?}: {} IDENTIFYs, {} RESUMEs; the slowest was READY after {slowest:?}",
        began.elapsed(),
        counters.identifies,
        counters.resumes
    );
    assert!((5..=budget(began)).contains(&counters.identifies), "{}", counters.identifies);
    assert_eq!(counters.violation_count, 0, "{:?}", counters.violations);

    // The loop goes on, and has spent what comes quickly.
    discord.simulator().clear_faults();
    discord.simulator().fault(Fault::NoReady {});
    let perch = spend_the_rest(&bot, began);
    let said = perch.wait_status("the wait", |status| status["services"]["discord"]["state"] == "waiting");
    let reason = said["services"]["discord"]["reason"].as_str().unwrap().to_owned();
    let (before, after) = reason.split_once(" connects in ").expect("it says when");
    assert_eq!(before, "sessions that don't last have cost many IDENTIFYs of late; perch spaces them and");
    assert_eq!(after.split_once(" min, ").map(|(_, rest)| rest), Some("or on `perch reload`"));
    let next = said["discord"]["next_identify"].as_u64().expect("it says when the next one may be");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!((now..now + 300).contains(&next), "{next} is not soon after {now}");
    let shown = perch.verb(&["status"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&reason), "{shown:?}");
    let line = perch.notified().into_iter().rev().find(|text| text.starts_with("STATUS=")).unwrap();
    assert!(line.contains(&reason), "{line}");
    assert_eq!(chat::ask(bot.port, "and still"), "and still");
}

#[test]
fn a_wait_for_the_next_identify_ends_with_perch_reload_as_it_says() {
    let bot = Bot::new();
    bot.spent(40.0);
    let perch = bot.perch().ready();
    let status = perch.wait_status("the wait", |status| status["services"]["discord"]["state"] == "waiting");
    assert_eq!(
        status["services"]["discord"]["reason"],
        "sessions that don't last have cost many IDENTIFYs of late; perch spaces them and connects in 50 min, or on \
         `perch reload`"
    );
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0));
    perch.wait_status("a session", |status| status["discord"]["session"] == true);
    assert_eq!(bot.discord.counters().identifies, 1);
}

/// Whatever session begins from now on fails, in one of the ways there are.
fn fail_sessions(discord: &Discord, round: u32) {
    let simulator = discord.simulator();
    simulator.clear_faults();
    match round % 3 {
        0 => simulator.fault(Fault::NoReady {}),
        1 => simulator.fault(Fault::Close { code: 4000, reason: String::new(), when: When::Identify }),
        // READY comes, and op 9 right behind it.
        _ => None,
    };
    // What an earlier round began can't be resumed.
    simulator.expire_sessions();
}

/// Starts and kills perch until it does not begin a session at once.
fn spend_the_rest(bot: &Bot, began: Instant) -> Perch {
    loop {
        let before = bot.discord.counters().identifies;
        assert!(before <= budget(began), "{before}");
        let perch = bot.perch().ready();
        let status = perch.wait_status("a session or a wait", |status| {
            status["services"]["discord"]["state"] == "waiting" || bot.discord.counters().identifies > before
        });
        if status["services"]["discord"]["state"] == "waiting" {
            return perch;
        }
        perch.signal("KILL");
    }
}

/// How many IDENTIFYs there may be: the quick ones, and one a minute at most on a machine that is so slow.
fn budget(began: Instant) -> u64 {
    QUICK + began.elapsed().as_secs() / 55
}
