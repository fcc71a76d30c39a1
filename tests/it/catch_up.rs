//! perch is away for so long that its session is gone, and finds what was said to it meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use perch::sim::Say;

use super::support::perch::{PATIENCE, wait};
use super::support::site::{BOT, Site};

/// Two text channels, a thread, and a post in a forum.
const CHANNELS: [&str; 4] = ["general", "random", "nest box", "A wren in the hedge"];

/// What was asked in each channel, in its order.
type Asked = BTreeMap<&'static str, Vec<String>>;

fn ask_everywhere(site: &Site, asked: &mut Asked) {
    for number in 0..3 {
        for channel in CHANNELS {
            let say = Say::new(format!("<@{BOT}> {number}")).in_channel(channel);
            let message = site.simulator.say(say).unwrap();
            asked.entry(channel).or_default().push(message["id"].as_str().unwrap().to_owned());
            site.simulator.say(Say::new("nothing for the bot").in_channel(channel)).unwrap();
        }
    }
}

#[track_caller]
fn everything_is_answered_once(site: &Site, asked: &Asked) {
    for (channel, ids) in asked {
        let deadline = Instant::now() + PATIENCE;
        while site.answered(channel).len() < ids.len() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(&site.answered(channel), ids, "in {channel}: {}", site.log());
    }
}

fn logged(site: &Site, words: &str) -> Option<()> {
    site.log().contains(words).then_some(())
}

#[test]
fn what_was_said_while_perch_had_no_session_is_answered_once_with_and_without_its_state_directory() {
    let site = Site::new();
    let mut asked = Asked::new();
    let mut perch = site.start();
    site.wait_session();
    ask_everywhere(&site, &mut asked);
    everything_is_answered_once(&site, &asked);
    perch.signal("TERM");
    assert_eq!(perch.wait().code(), Some(0), "{}", site.log());

    site.simulator.expire_sessions();
    ask_everywhere(&site, &mut asked);
    let mut perch = site.start();
    everything_is_answered_once(&site, &asked);
    wait("the journal's line", || {
        logged(&site, "12 messages said while perch had no session are found in 4 channels, and answered now")
    });
    perch.signal("KILL");
    perch.wait();

    site.simulator.expire_sessions();
    std::fs::remove_dir_all(site.path("state")).unwrap();
    ask_everywhere(&site, &mut asked);
    let mut perch = site.start();
    everything_is_answered_once(&site, &asked);
    ask_everywhere(&site, &mut asked);
    everything_is_answered_once(&site, &asked);
    perch.signal("TERM");
    assert_eq!(perch.wait().code(), Some(0), "{}", site.log());
    assert_eq!(site.simulator.counters().nonce_deduplicated, 0);
}

#[test]
fn what_a_catch_up_leaves_out_is_said_once_with_numbers_and_channels() {
    let site = Site::with("[discord.catch_up]\nper_channel = 2\ntotal = 3\n");
    let mut perch = site.start();
    site.wait_session();
    perch.signal("KILL");
    perch.wait();
    site.simulator.expire_sessions();
    let mut asked = Asked::new();
    ask_everywhere(&site, &mut asked);
    let _perch = site.start();
    let words = "not everything that was said while perch had no session is answered (see discord.catch_up); left out: \
                 all but the newest 2 (per_channel) in 1 channel (1100000000000000100); what is beyond 3 in all (total) in \
                 3 channels (1100000000000000101, 1100000000000000105, 1100000000000000106)";
    wait("the warning", || logged(&site, words));
    let newest = |channel: &str, number: usize| asked[channel][3 - number..].to_vec();
    for (channel, number) in [("general", 2), ("random", 1), ("nest box", 0), ("A wren in the hedge", 0)] {
        assert_eq!(site.answered(channel), newest(channel, number), "in {channel}");
    }
    assert_eq!(site.log().matches("left out").count(), 1);
}
