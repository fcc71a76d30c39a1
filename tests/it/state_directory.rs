//! The disk fills up, or can't be written any more, while people talk to perch: it goes on, says so, and recovers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perch::sim::{Options, RateLimits};

use super::support::bot::Bot;
use super::support::namespace::Mounts;
use super::support::perch::{Perch, wait};

/// A state directory on a file system of its own, and a bot that remembers there.
struct Host {
    mounts: Mounts,
    state: PathBuf,
    bot: Bot,
    asked: Vec<String>,
}

impl Host {
    fn new() -> Option<Host> {
        let mounts = Mounts::new()?;
        let bot = Bot::with(Options {
            rate_limits: RateLimits { scale: 0, global: 0 },
            // Who can't remember the last IDENTIFY can't keep a distance from it.
            identify_spacing: Duration::ZERO,
            ..Options::default()
        });
        let state = bot.state_dir().to_owned();
        mounts.run(&["mount", "-t", "tmpfs", "-o", "size=8M,mode=0700", "state", state.to_str().unwrap()]);
        Some(Host { mounts, state, bot, asked: Vec::new() })
    }

    fn start(&self) -> Perch {
        let perch = self.bot.perch().through(self.mounts.inside()).ready();
        perch.wait_status("a session", |status| status["discord"]["session"] == true);
        perch
    }

    /// Ten people say something, one after the other, and each is answered once.
    #[track_caller]
    fn talk(&mut self) {
        for _ in 0..10 {
            self.asked.push(self.bot.mention("general", &self.asked.len().to_string()));
            let answers = self.bot.wait_answers("general", self.asked.len());
            let answered: Vec<_> = answers.into_iter().filter_map(|answer| answer.to).collect();
            assert_eq!(answered, self.asked);
        }
    }

    fn remount(&self, how: &str) {
        self.mounts.run(&["mount", "-o", &format!("remount,{how}"), self.state.to_str().unwrap()]);
    }

    /// Talks until perch has noticed that it can't write, and then some more; returns what it says of it.
    fn without_memory(&mut self, perch: &Perch) -> String {
        let reason = wait("the remark", || {
            self.talk();
            perch.status()["services"]["store"]["reason"].as_str().map(str::to_owned)
        });
        self.talk();
        assert_eq!(perch.messages("WARN"), [reason.as_str()]);
        assert_eq!(perch.status()["store"]["kept"], "in memory");
        reason
    }

    /// Waits until perch remembers again, and sees that the next process does, too; there were so many IDENTIFYs by now.
    fn with_memory(&mut self, mut perch: Perch, identifies: u64) {
        perch.wait_status("its memory", |status| status["store"]["kept"] == "on disk");
        self.talk();
        assert!(perch.status()["services"]["store"].is_null());
        assert_eq!(perch.messages("WARN").len(), 1);
        let again = "perch.db can be used again, and perch remembers what it does";
        assert_eq!(perch.messages("INFO").iter().filter(|message| *message == again).count(), 1);
        perch.signal("KILL");
        perch.wait();
        self.talk_while_away();
        let mut perch = self.start();
        self.talk();
        assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
        let counters = self.bot.discord.counters();
        assert_eq!((counters.identifies, counters.nonce_deduplicated), (identifies, 0), "the session went on");
    }

    fn talk_while_away(&mut self) {
        self.asked.push(self.bot.mention("general", "meanwhile"));
    }
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[0; 4_096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_no_answer() {
    let Some(mut host) = Host::new() else { return };
    let perch = host.start();
    host.talk();
    let filler = host.mounts.path(&host.state.join("filler"));
    fill(&filler);
    let reason = host.without_memory(&perch);
    let database = host.state.join("perch.db");
    assert_eq!(
        reason,
        format!(
            "perch goes on without memory, as {} can't be used: the disk is full: database or disk is full",
            database.display()
        )
    );
    std::fs::remove_file(&filler).unwrap();
    host.with_memory(perch, 1);
}

/// A process that ends and comes back while nothing can be written has to begin a new session.
fn started_without_memory(break_disk: impl FnOnce(&Host), mend_disk: impl FnOnce(&Host)) {
    let Some(mut host) = Host::new() else { return };
    let mut perch = host.start();
    host.talk();
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    break_disk(&host);
    let perch = host.start();
    let reason = host.without_memory(&perch);
    assert!(reason.contains("perch.db can't be used: "), "{reason}");
    mend_disk(&host);
    host.with_memory(perch, 2);
}

#[test]
fn perch_starts_on_a_disk_that_is_full() {
    let filler = |host: &Host| host.mounts.path(&host.state.join("filler"));
    started_without_memory(|host| fill(&filler(host)), |host| std::fs::remove_file(filler(host)).unwrap());
}

#[test]
fn perch_starts_on_a_disk_that_is_read_only() {
    started_without_memory(|host| host.remount("ro"), |host| host.remount("rw"));
}

#[test]
fn a_state_directory_that_cannot_be_written_any_more_costs_no_answer() {
    let Some(mut host) = Host::new() else { return };
    let perch = host.start();
    host.talk();
    // A file that is open for writing keeps its file system from becoming read-only, so another one comes over it.
    host.mounts.run(&["mount", "-t", "tmpfs", "-o", "ro", "state", host.state.to_str().unwrap()]);
    let reason = host.without_memory(&perch);
    assert!(reason.contains("perch.db can't be used: Read-only file system"), "{reason}");
    host.remount("rw");
    host.with_memory(perch, 1);
}
