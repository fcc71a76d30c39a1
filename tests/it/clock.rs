//! Somebody sets the machine's clock an hour ahead, and an hour back, while perch runs and between its processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use perch::sim::{Fault, Options, RateLimits};
use tempfile::TempDir;

use super::support::bot::Bot;
use super::support::chat::Crowd;
use super::support::namespace::{has, skip};
use super::support::perch::{Perch, wait};

const HOUR: i64 = 3_600;
/// So that a few come under each setting of the clock.
const HEARTBEAT: Duration = Duration::from_millis(500);
const WATCHDOG: Duration = Duration::from_millis(400);

/// A clock that the processes under it see, and nobody else.
struct Clock {
    directory: TempDir,
}

impl Clock {
    /// `None`, with a line that says so, where a process can't be shown a wrong clock.
    fn new() -> Option<Clock> {
        if !has("cc") {
            return None;
        }
        let clock = Clock { directory: TempDir::new().unwrap() };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/wrong_clock.c");
        let output =
            Command::new("cc").args(["-Wall", "-Wextra", "-o"]).arg(clock.program()).arg(source).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        clock.set(HOUR);
        let shown = Command::new(clock.program()).arg(clock.offset()).args(["date", "+%s"]).output().unwrap();
        if !shown.status.success() {
            skip(&format!("no process can be traced here: {}", String::from_utf8_lossy(&shown.stderr).trim()));
            return None;
        }
        let shown: i64 = String::from_utf8(shown.stdout).unwrap().trim().parse().unwrap();
        assert!((shown - now() - HOUR).abs() < 60, "{shown}");
        Some(clock)
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("wrong_clock")
    }

    fn offset(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// So many seconds ahead of the right time.
    fn set(&self, seconds: i64) {
        std::fs::write(self.offset(), seconds.to_string()).unwrap();
    }

    /// perch under this clock, with a session.
    fn start(&self, bot: &Bot) -> Perch {
        let before = [self.program(), self.offset()].map(|path| path.to_str().unwrap().to_owned());
        let watchdog = ("WATCHDOG_USEC".to_owned(), WATCHDOG.as_micros().to_string());
        let perch = bot.perch().through(before).env([watchdog]).ready();
        perch.wait_status("a session", |status| status["discord"]["session"] == true);
        perch
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// People who talk in #general, and what they are owed.
#[derive(Default)]
struct Talk(Vec<String>);

impl Talk {
    fn say(&mut self, bot: &Bot) {
        self.0.push(bot.mention("general", &self.0.len().to_string()));
    }

    #[track_caller]
    fn answered(&self, bot: &Bot) {
        let answers = bot.wait_answers("general", self.0.len());
        assert_eq!(answers.into_iter().filter_map(|answer| answer.to).collect::<Vec<_>>(), self.0);
    }
}

fn pings(perch: &Perch) -> usize {
    perch.notified().iter().filter(|text| text.trim_end() == "WATCHDOG=1").count()
}

/// Lives through some heartbeats, watchdog pings and messages.
#[track_caller]
fn live_on(bot: &Bot, perch: &Perch, talk: &mut Talk) {
    let (heartbeats, pings_before) = (bot.discord.counters().heartbeats, pings(perch));
    wait("a few heartbeats and pings", || {
        talk.say(bot);
        talk.answered(bot);
        (bot.discord.counters().heartbeats >= heartbeats + 3 && pings(perch) >= pings_before + 5).then_some(())
    });
}

#[test]
fn a_clock_that_jumps_an_hour_both_ways_disturbs_nothing() {
    let Some(clock) = Clock::new() else { return };
    let limits = RateLimits { scale: 0, global: 0 };
    let bot = Bot::with(Options { heartbeat_interval: HEARTBEAT, rate_limits: limits, ..Options::default() });
    let mut talk = Talk::default();
    clock.set(0);
    let mut perch = clock.start(&bot);
    let crowd = Crowd::strolling(bot.port);
    for (round, offset) in [0, HOUR, -HOUR, 0].into_iter().enumerate() {
        clock.set(offset);
        let lines = perch.log().len();
        live_on(&bot, &perch, &mut talk);
        crowd.wait_answers(20);
        assert_eq!(perch.log().len(), lines, "{offset}: {}", perch.log_text());
        // It looks for changes, and its clock is as wrong as it should be.
        std::fs::write(perch.config_path(), format!("{}max_body = \"{}KiB\"\n", bot.config(), 65 + round)).unwrap();
        let step = format!("→ {}", (65 + round) * 1_024);
        let status = perch.wait_status("the edit", |status| {
            status["changes"][0]["steps"][0].as_str().is_some_and(|said| said.ends_with(&step))
        });
        let applied = status["changes"][0]["at"].as_i64().unwrap();
        assert!((applied - now() - offset).abs() < 60, "{applied}");
        assert_eq!(status["services"]["discord"]["state"], "running");
    }
    crowd.end();
    let counters = bot.discord.counters();
    assert_eq!((counters.identifies, counters.resumes, counters.connections), (1, 0, 1));

    // Set while it is away, for a moment or with an answer under way, and while it drains.
    for (before, after) in [(0, HOUR), (HOUR, -HOUR), (-HOUR, HOUR), (HOUR, 0)] {
        clock.set(before);
        live_on(&bot, &perch, &mut talk);
        talk.say(&bot);
        clock.set(after);
        // By this process, or where it had not heard of it, by the next.
        assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
        talk.say(&bot);
        perch = clock.start(&bot);
        talk.answered(&bot);

        clock.set(before);
        bot.discord.simulator().fault(Fault::RestHang { route: Some("POST /channels/".to_owned()) });
        let requests = bot.discord.counters().rest_requests;
        talk.say(&bot);
        wait("an answer under way", || (bot.discord.counters().rest_requests > requests).then_some(()));
        perch.signal("KILL");
        perch.wait();
        bot.discord.simulator().clear_faults();
        clock.set(after);
        perch = clock.start(&bot);
        talk.answered(&bot);
    }
    assert_eq!(perch.messages("WARN"), [""; 0]);
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    let counters = bot.discord.counters();
    assert_eq!((counters.identifies, counters.violation_count), (1, 0), "{:?}", counters.violations);
    assert_eq!(counters.nonce_deduplicated, 0);
    assert_eq!(bot.unsettled(), []);
}
