//! One process ends, by itself or by force, and another takes over what it left.

use std::sync::Arc;
use std::time::Duration;

use super::stage::{BOT_ID, Says, Stage, mention, simulator_options};
use crate::service::State;
use crate::sim::{DEFAULT_TOKEN, Fault, Order};
use crate::store::Store;

fn post() -> String {
    "POST /channels/".to_owned()
}

#[tokio::test]
async fn a_new_process_resumes_the_session_and_answers_what_it_missed() {
    let mut stage = Stage::new().await;
    for number in 0..3 {
        stage.say(mention(&format!("before {number}")));
    }
    stage.hears("general", &["before 0", "before 1", "before 2"]).await;
    stage.kill().await;
    stage.say(mention("meanwhile"));
    stage.start();
    stage.hears("general", &["before 0", "before 1", "before 2", "meanwhile"]).await;
    stage.state(State::Running).await;
    assert_eq!(stage.sessions(), (1, 1, 0));
    assert_eq!(stage.simulator.counters().nonce_deduplicated, 0);
}

#[tokio::test]
async fn after_a_resume_status_says_where_the_bot_is_and_how_to_invite_it() {
    let mut stage = Stage::new().await;
    stage.shows("guilds", 1).await;
    stage.kill().await;
    stage.start();
    stage.shows("resumes", 1).await;
    stage.shows("session", true).await;
    let details = stage.board.details().remove("discord").unwrap();
    assert_eq!((&details["guilds"], details["invite"].is_string()), (&1.into(), true), "{details}");
    assert_eq!(stage.sessions(), (1, 1, 0));
}

#[tokio::test]
async fn what_comes_again_is_not_answered_again() {
    let mut stage = Stage::new().await;
    stage.say(mention("one"));
    stage.say(mention("two"));
    stage.hears("general", &["one", "two"]).await;
    stage.shows("replies", 2).await;
    // As if everything since READY had been lost in the crash.
    let session = stage.discord.store.session().unwrap();
    stage.discord.store.open(crate::discord::session::Session { sequence: 1, ..session });
    stage.kill().await;
    stage.start();
    stage.say(mention("three"));
    stage.hears("general", &["one", "two", "three"]).await;
    assert_eq!(stage.said("general").len(), 3);
    let counters = stage.simulator.counters();
    assert!(counters.replayed >= 4, "{}", counters.replayed);
    assert_eq!(counters.nonce_deduplicated, 0);
}

/// Kills perch when Discord has said the answer and perch has not heard so.
async fn said_and_not_heard(resumable: bool) {
    let mut stage = Stage::new().await;
    stage.simulator.fault(Fault::RestCut { route: Some(post()) });
    stage.say(mention("hello"));
    stage.counted(|counters| counters.messages_created == 1).await;
    stage.kill().await;
    stage.simulator.clear_faults();
    let tries = stage.simulator.counters().nonce_deduplicated;
    if !resumable {
        stage.simulator.expire_sessions();
    }
    stage.start();
    stage.say(mention("after"));
    if resumable {
        stage.hears("general", &["hello", "after"]).await;
    } else {
        stage.state(State::Running).await;
    }
    stage.settled().await;
    assert_eq!(stage.said("general")[0], "hello");
    assert_eq!(stage.said("general").iter().filter(|said| *said == "hello").count(), 1);
    assert_eq!(stage.simulator.counters().nonce_deduplicated, tries, "it was looked up, not tried");
}

#[tokio::test]
async fn an_answer_that_was_said_and_not_heard_of_is_found() {
    said_and_not_heard(true).await;
}

#[tokio::test]
async fn an_answer_that_was_said_is_found_without_the_session_too() {
    said_and_not_heard(false).await;
}

/// Kills perch when its answer is on its way, and Discord never gets it.
async fn begun_and_not_said(resumable: bool) {
    let mut stage = Stage::new().await;
    stage.simulator.fault(Fault::RestHang { route: Some(post()) });
    stage.say(mention("hello"));
    stage.sending().await;
    stage.kill().await;
    stage.simulator.clear_faults();
    if !resumable {
        stage.simulator.expire_sessions();
    }
    stage.start();
    stage.hears("general", &["hello"]).await;
    stage.settled().await;
    stage.state(State::Running).await;
    assert_eq!(stage.said("general").len(), 1);
}

#[tokio::test]
async fn an_answer_that_was_not_said_is_said_by_the_next_process() {
    begun_and_not_said(true).await;
}

#[tokio::test]
async fn an_answer_that_was_not_said_is_said_without_the_session_too() {
    begun_and_not_said(false).await;
}

/// Kills perch between the first and the second of three messages that make up an answer.
async fn one_of_three() -> (Stage, [String; 3]) {
    let pieces = ["a", "b", "c"].map(|sign| sign.repeat(2_000));
    let mut stage = Stage::new().await;
    stage.respond(Arc::new(Says(pieces.concat())));
    stage.simulator.fault(Order { fault: Fault::RestHang { route: Some(post()) }, times: None, after: 1 });
    stage.say(mention("tell me more"));
    stage.counted(|counters| counters.messages_created == 1).await;
    stage.kill().await;
    stage.simulator.clear_faults();
    (stage, pieces)
}

#[tokio::test]
async fn only_what_is_missing_of_a_long_answer_is_sent() {
    let (mut stage, [first, second, third]) = one_of_three().await;
    stage.start();
    stage.hears("general", &[&first, &second, &third]).await;
    stage.settled().await;
    assert_eq!(stage.said("general").len(), 3);
    assert_eq!(stage.simulator.counters().nonce_deduplicated, 0);
}

#[tokio::test]
async fn a_long_answer_is_not_gone_on_with_in_other_words() {
    let (mut stage, [first, ..]) = one_of_three().await;
    stage.respond(Arc::new(Says("other words ".repeat(400))));
    stage.start();
    stage.shows("lost", 1).await;
    assert_eq!(stage.said("general"), [first]);
}

#[tokio::test]
async fn an_unfinished_answer_to_a_message_that_is_deleted_is_left() {
    let mut stage = Stage::new().await;
    stage.simulator.fault(Fault::RestHang { route: Some(post()) });
    let asked = stage.say(mention("never mind"));
    stage.sending().await;
    stage.kill().await;
    stage.simulator.clear_faults();
    let body = serde_json::json!({"channel": "general", "message": asked["id"]}).to_string();
    let delete = reqwest::Client::new().post(format!("{}/sim/delete", stage.simulator.control_url()));
    delete.header("content-type", "application/json").body(body).send().await.unwrap().error_for_status().unwrap();
    // Nobody tells the next process that it was deleted.
    stage.simulator.expire_sessions();
    stage.start();
    stage.shows("lost", 1).await;
    assert!(stage.said("general").is_empty());
}

#[tokio::test]
async fn a_process_that_finds_too_many_identifies_waits_and_says_until_when() {
    let memory = Store::in_memory();
    memory.identifies().spend(BOT_ID, 40.0).await;
    let stage = Stage::remembering(memory, simulator_options(), |_| {}).await;
    let health = stage.state(State::Waiting).await;
    assert_eq!(
        health.reason,
        "sessions that don't last have cost many IDENTIFYs of late; perch spaces them and connects in 50 min, or on \
         `perch reload`"
    );
    let due = stage.board.details()["discord"]["next_identify"].as_u64().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let wait = Duration::from_secs(due).saturating_sub(now);
    assert!((Duration::from_mins(48)..=Duration::from_mins(50)).contains(&wait), "{wait:?}");
    assert_eq!(stage.simulator.counters().connections, 0);
    // A person need not wait for it, but for the five seconds that Discord asks for.
    stage.reload(DEFAULT_TOKEN).await.unwrap();
    stage.state(State::Running).await;
    assert_eq!(stage.sessions(), (1, 0, 0));
}
