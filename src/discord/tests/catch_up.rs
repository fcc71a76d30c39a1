//! What was said while there was no session, when the old one can't be resumed.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;

use super::stage::{Slow, Stage, mention, secs, simulator_options};
use crate::config::discord::CatchUp;
use crate::service::State;
use crate::sim::{self, Fault, Say, Scope, Settings};

const GENERAL: &str = "GET /channels/1100000000000000100/messages";
const RANDOM: &str = "GET /channels/1100000000000000101/messages";
const NEW_TOKEN: &str = "MTEwMDAwMDAwMDAwMDAwMDAxMA.perch.another-token-opens-nothing";

async fn channel(stage: &Stage, name: &str, kind: &str) {
    stage.control("POST", "channels", &json!({ "name": name, "kind": kind })).await;
}

/// Every channel that holds messages in one way or another.
const EVERYWHERE: [&str; 7] =
    ["general", "random", "nest box", "A wren in the hedge", "talk", "news", "a new sighting"];

#[tokio::test]
async fn what_was_said_while_the_session_was_lost_is_answered_once_and_in_order() {
    let mut stage = Stage::new().await;
    channel(&stage, "talk", "voice").await;
    channel(&stage, "news", "announcement").await;
    stage.say(mention("before"));
    stage.hears("general", &["before"]).await;
    stage.shows("replies", 1).await;
    stage.lose().await;
    let thread = json!({ "name": "a new sighting", "kind": "thread", "parent": "field-notes" });
    stage.control("POST", "channels", &thread).await;
    for place in EVERYWHERE {
        for text in ["one", "two", "three"] {
            stage.say(mention(text).in_channel(place));
            stage.say(Say::new("not for the bot").in_channel(place));
        }
    }
    stage.say(Say { bot: true, ..mention("from a bot") });
    stage.start();
    stage.hears("general", &["before", "one", "two", "three"]).await;
    for place in &EVERYWHERE[1..] {
        stage.hears(place, &["one", "two", "three"]).await;
    }
    stage.say(mention("after"));
    stage.hears("general", &["before", "one", "two", "three", "after"]).await;
    stage.shows("replies", 22).await;
    assert_eq!(stage.said("random").len(), 3);
    assert_eq!(stage.sessions(), (2, 1, 0));
    assert_eq!(stage.simulator.counters().nonce_deduplicated, 0);
}

#[tokio::test]
async fn without_the_state_directory_only_what_nobody_answered_is_answered() {
    let mut stage = Stage::new().await;
    for text in ["one", "two"] {
        stage.say(mention(text));
    }
    stage.say(mention("alone").in_channel("random"));
    stage.hears("general", &["one", "two"]).await;
    stage.hears("random", &["alone"]).await;
    stage.forget().await;
    stage.say(mention("three"));
    stage.start();
    stage.hears("general", &["one", "two", "three"]).await;
    stage.say(mention("after"));
    stage.hears("general", &["one", "two", "three", "after"]).await;
    assert_eq!(stage.said("random"), ["alone"]);
    assert_eq!(stage.simulator.counters().nonce_deduplicated, 0);
}

#[tokio::test]
async fn only_channels_with_something_new_are_read() {
    let mut stage = Stage::new().await;
    for number in 0..60 {
        let name = format!("room {number}");
        channel(&stage, &name, "text").await;
        stage.say(Say::new("nothing for the bot").in_channel(name));
    }
    stage.say(mention("hello"));
    stage.hears("general", &["hello"]).await;
    stage.shows("replies", 1).await;
    stage.lose().await;
    stage.say(mention("missed").in_channel("room 7"));
    stage.say(Say::new("nothing for the bot").in_channel("room 8"));
    let before = stage.simulator.counters().rest_requests;
    stage.start();
    stage.hears("room 7", &["missed"]).await;
    stage.shows("replies", 1).await;
    // The gateway's address, two channels, one answer.
    stage.counted(|counters| counters.rest_requests - before == 4).await;
    stage.say(mention("after"));
    stage.hears("general", &["hello", "after"]).await;
    assert_eq!(stage.simulator.counters().rest_requests - before, 5);
}

#[tokio::test]
async fn what_is_in_hand_when_the_session_is_lost_is_not_answered_twice() {
    let stage = Stage::new().await;
    let slow = Arc::new(Slow(Semaphore::new(0)));
    stage.respond(slow.clone());
    for text in ["one", "two"] {
        stage.say(mention(text));
    }
    stage.taken().await;
    stage.simulator.fault(Fault::InvalidSession { resumable: false, when: sim::When::Now });
    stage.state(State::Recovering).await;
    stage.say(mention("three"));
    stage.state(State::Running).await;
    stage.say(mention("four"));
    slow.0.add_permits(4);
    stage.hears("general", &["one", "two", "three", "four"]).await;
    stage.shows("replies", 4).await;
    assert_eq!(stage.said("general").len(), 4);
    assert_eq!(stage.simulator.counters().nonce_deduplicated, 0);
}

#[tokio::test]
async fn what_is_said_now_comes_behind_what_was_missed_there_and_is_not_held_up_elsewhere() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    stage.say(mention("missed"));
    stage.simulator.fault(Fault::RestDelay { route: Some(GENERAL.to_owned()), ms: 500 });
    stage.start();
    stage.in_session().await;
    stage.say(mention("now"));
    stage.say(mention("now").in_channel("random"));
    stage.hears("random", &["now"]).await;
    assert!(stage.said("general").is_empty());
    stage.hears("general", &["missed", "now"]).await;
}

#[tokio::test]
async fn what_was_edited_or_deleted_meanwhile_is_taken_as_it_is_now() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    let ids: Vec<_> = ["one", "two", "three"].map(|text| stage.say(mention(text))["id"].clone()).into();
    stage.control("POST", "delete", &json!({ "channel": "general", "message": ids[0] })).await;
    let edited = format!("{} two, corrected", super::stage::BOT);
    stage.control("POST", "edit", &json!({ "channel": "general", "message": ids[1], "content": edited })).await;
    stage.control("POST", "edit", &json!({ "channel": "general", "message": ids[2], "content": "for nobody" })).await;
    // The last message of the channel is one that is not there any more.
    let last = stage.say(mention("four"))["id"].clone();
    stage.control("POST", "delete", &json!({ "channel": "general", "message": last })).await;
    stage.start();
    stage.hears("general", &["two, corrected"]).await;
    stage.say(mention("after"));
    stage.hears("general", &["two, corrected", "after"]).await;
}

#[tokio::test]
async fn a_channel_that_cannot_be_read_any_more_is_left_alone() {
    let mut stage = Stage::new().await;
    channel(&stage, "gone", "text").await;
    channel(&stage, "secret", "text").await;
    channel(&stage, "no history", "text").await;
    stage.lose().await;
    for place in ["general", "random", "nest box", "secret", "no history", "A wren in the hedge"] {
        stage.say(mention("missed").in_channel(place));
    }
    stage.control("PATCH", "channels/secret", &json!({ "view": false })).await;
    stage.control("PATCH", "channels/no%20history", &json!({ "history": false })).await;
    stage.control("DELETE", "channels/gone", &json!({})).await;
    stage.control("PATCH", "channels/A%20wren%20in%20the%20hedge", &json!({ "archived": true })).await;
    for (route_, status) in [(GENERAL, 403), (RANDOM, 404)] {
        let fault = Fault::Rest { route: Some(route_.to_owned()), status, retry_after: None, scope: Scope::User };
        stage.simulator.fault(fault.times(1));
    }
    stage.start();
    stage.hears("nest box", &["missed"]).await;
    for place in ["general", "random"] {
        stage.say(mention("now").in_channel(place));
        stage.hears(place, &["now"]).await;
    }
    assert!(stage.said("secret").is_empty() && stage.said("no history").is_empty());
    stage.state(State::Running).await;
}

#[tokio::test]
async fn no_more_than_the_bounds_allow_is_answered_and_the_newest_of_it() {
    let mut stage = Stage::new().await;
    stage.bound(CatchUp { per_channel: 2, total: 3, ..CatchUp::default() });
    stage.lose().await;
    for place in ["general", "random"] {
        for text in ["one", "two", "three"] {
            stage.say(mention(text).in_channel(place));
        }
    }
    stage.start();
    stage.hears("general", &["two", "three"]).await;
    stage.hears("random", &["three"]).await;
    stage.say(mention("after").in_channel("random"));
    stage.hears("random", &["three", "after"]).await;
    stage.shows("replies", 4).await;
}

#[tokio::test]
async fn a_mention_behind_many_other_messages_is_found() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    stage.say(mention("missed"));
    for _ in 0..250 {
        stage.say(Say::new("not for the bot"));
    }
    stage.start();
    stage.hears("general", &["missed"]).await;
}

#[tokio::test]
async fn what_is_too_old_is_left() {
    const MAX_AGE: Duration = Duration::from_secs(3);
    let mut stage = Stage::new().await;
    stage.bound(CatchUp { max_age: MAX_AGE, ..CatchUp::default() });
    let available = |available| Settings { guild_available: Some(available), ..Settings::default() };
    stage.lose().await;
    stage.simulator.change(available(false)).unwrap();
    stage.start();
    stage.in_session().await;
    for place in ["general", "random"] {
        stage.say(mention("old").in_channel(place));
    }
    tokio::time::sleep(MAX_AGE).await;
    stage.say(mention("new"));
    stage.simulator.change(available(true)).unwrap();
    stage.hears("general", &["new"]).await;
    stage.say(mention("now").in_channel("random"));
    stage.hears("random", &["now"]).await;
    stage.shows("replies", 2).await;
}

#[tokio::test]
async fn nothing_is_looked_for_when_it_is_turned_off() {
    let mut stage = Stage::new().await;
    stage.bound(CatchUp { max_age: secs(0), ..CatchUp::default() });
    stage.lose().await;
    stage.say(mention("missed"));
    stage.start();
    stage.in_session().await;
    stage.say(mention("after"));
    stage.hears("general", &["after"]).await;
}

#[tokio::test]
async fn a_catch_up_that_is_killed_goes_on_in_the_next_process() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    for text in ["one", "two"] {
        stage.say(mention(text));
    }
    stage.simulator.fault(Fault::RestHang { route: Some("GET /channels/".to_owned()) });
    stage.start();
    stage.in_session().await;
    stage.say(mention("three"));
    stage.taken().await;
    stage.kill().await;
    stage.simulator.clear_faults();
    stage.start();
    stage.hears("general", &["one", "two", "three"]).await;
    stage.shows("replies", 3).await;
    assert_eq!(stage.said("general").len(), 3);
    assert_eq!(stage.sessions(), (2, 2, 0));
}

#[tokio::test]
async fn a_catch_up_that_is_stopped_goes_on_in_the_next_process_in_the_same_order() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    let texts = ["one", "two", "three"];
    for text in texts {
        stage.say(mention(text));
    }
    let slow = Arc::new(Slow(Semaphore::new(1)));
    stage.respond(slow.clone());
    stage.start();
    stage.hears("general", &["one"]).await;
    stage.say(mention("four"));
    slow.0.add_permits(1);
    stage.stop().await;
    let before = stage.said("general").len();
    assert!(before < 3, "it does not wait for what it can go on with");
    stage.replace();
    slow.0.add_permits(9);
    stage.start();
    stage.hears("general", &["one", "two", "three", "four"]).await;
    stage.say(mention("five"));
    stage.hears("general", &["one", "two", "three", "four", "five"]).await;
    assert_eq!(stage.simulator.counters().nonce_deduplicated, 0);
}

#[tokio::test]
async fn discord_in_trouble_is_asked_again() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    stage.say(mention("missed"));
    let fault = Fault::Rest { route: Some(GENERAL.to_owned()), status: 502, retry_after: None, scope: Scope::User };
    stage.simulator.fault(fault.times(1));
    stage.start();
    stage.hears("general", &["missed"]).await;
}

#[tokio::test]
async fn discord_in_trouble_for_long_is_given_up_until_the_next_session() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    stage.say(mention("missed"));
    let fault = Fault::Rest { route: Some(GENERAL.to_owned()), status: 502, retry_after: None, scope: Scope::User };
    stage.simulator.fault(fault);
    stage.start();
    stage.in_session().await;
    stage.say(mention("now"));
    stage.hears("general", &["now"]).await;
    stage.simulator.clear_faults();
    stage.lose().await;
    stage.start();
    stage.hears("general", &["now", "missed"]).await;
    stage.shows("replies", 1).await;
}

#[tokio::test]
async fn a_guild_that_comes_late_is_looked_at_when_it_comes() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    stage.simulator.change(Settings { guild_available: Some(false), ..Settings::default() }).unwrap();
    stage.say(mention("missed"));
    stage.start();
    stage.in_session().await;
    stage.say(Say::new("direct").in_channel("dm"));
    stage.shows("replies", 1).await;
    assert!(stage.said("general").is_empty());
    stage.simulator.change(Settings { guild_available: Some(true), ..Settings::default() }).unwrap();
    stage.hears("general", &["missed"]).await;
    stage.shows("guilds", 1).await;
}

#[tokio::test]
async fn a_guild_that_comes_again_while_it_is_read_is_read_again() {
    let mut stage = Stage::new().await;
    stage.lose().await;
    stage.say(mention("one"));
    stage.simulator.fault(Fault::RestDelay { route: Some(GENERAL.to_owned()), ms: 500 }.times(1));
    let before = stage.simulator.counters().rest_requests;
    stage.start();
    stage.counted(|counters| counters.rest_requests - before == 2).await;
    for available in [false, true] {
        stage.simulator.change(Settings { guild_available: Some(available), ..Settings::default() }).unwrap();
    }
    stage.say(mention("two"));
    stage.hears("general", &["one", "two"]).await;
    stage.shows("replies", 2).await;
    assert_eq!(stage.simulator.counters().rest_requests - before, 5);
}

#[tokio::test]
async fn a_known_direct_channel_is_caught_up() {
    let mut stage = Stage::new().await;
    stage.say(Say::new("hello").in_channel("dm"));
    stage.shows("replies", 1).await;
    stage.lose().await;
    stage.say(Say::new("still there?").in_channel("dm"));
    stage.say(Say::new("anybody?").in_channel("dm").by("grace"));
    stage.start();
    stage.hears("1100000000000000200", &["hello", "still there?"]).await;
    stage.shows("replies", 1).await;
}

#[tokio::test]
async fn what_is_said_while_the_token_changes_is_answered_with_the_new_one() {
    let stage = Stage::new().await;
    let tokens = Some(vec![sim::DEFAULT_TOKEN.to_owned(), NEW_TOKEN.to_owned()]);
    stage.simulator.change(Settings { tokens, ..Settings::default() }).unwrap();
    stage.simulator.fault(Fault::RefuseConnections {});
    stage.reload(NEW_TOKEN).await.unwrap();
    stage.counted(|counters| counters.closed_by_client.get(&4000) == Some(&1)).await;
    stage.say(mention("meanwhile"));
    stage.simulator.clear_faults();
    stage.hears("general", &["meanwhile"]).await;
    stage.say(mention("after"));
    stage.hears("general", &["meanwhile", "after"]).await;
}

#[tokio::test]
async fn the_bound_of_requests_is_kept_when_every_channel_has_something_new() {
    let options = sim::Options { rate_limits: sim::RateLimits { scale: 1, global: 50 }, ..simulator_options() };
    let mut stage = Stage::with(options).await;
    for number in 0..30 {
        channel(&stage, &format!("room {number}"), "text").await;
    }
    stage.lose().await;
    for number in 0..30 {
        stage.say(mention("missed").in_channel(format!("room {number}")));
    }
    stage.start();
    for number in 0..30 {
        stage.hears(&format!("room {number}"), &["missed"]).await;
    }
    assert_eq!(stage.simulator.counters().rate_limited, 0);
}

#[tokio::test]
async fn killed_again_and_again_with_its_session_lost_perch_answers_everything_once_and_in_order() {
    const ROOMS: [&str; 3] = ["general", "random", "nest box"];
    let mut stage = Stage::new().await;
    let mut asked = [const { Vec::new() }; ROOMS.len()];
    for round in 0..3 {
        // Somewhere between two sessions, in the middle of a catch-up, or after it.
        for number in 0..fastrand::u32(20..60) {
            let text = format!("{round}.{number}");
            let room = fastrand::usize(..ROOMS.len());
            stage.say(mention(&text).in_channel(ROOMS[room]));
            asked[room].push(text);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..100))).await;
        }
        if round % 2 == 0 {
            stage.lose().await;
        } else {
            stage.kill().await;
        }
        stage.start();
    }
    for (room, texts) in ROOMS.iter().zip(&asked) {
        stage.hears(room, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    stage.settled().await;
    for (room, texts) in ROOMS.iter().zip(&asked) {
        assert_eq!(stage.said(room).len(), texts.len());
    }
    // What Discord was working on when perch was killed, and nothing else.
    assert!(stage.simulator.counters().nonce_deduplicated <= 9);
}
