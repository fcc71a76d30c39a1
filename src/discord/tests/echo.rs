use std::sync::Arc;

use serde_json::json;
use tokio::sync::Semaphore;

use super::stage::{BOT, Broken, Says, Slow, Stage, mention};
use crate::sim::Say;

#[tokio::test]
async fn a_mention_is_said_back_and_pings_only_its_author() {
    let stage = Stage::new().await;
    let asked = stage.say(Say::new(format!("hello <@1100000000000000012> {BOT} @everyone <@&5>")));
    stage.hears("general", &["hello <@1100000000000000012> @everyone <@&5>"]).await;
    let reply = &stage.by_bot("general")[0];
    assert_eq!(reply["message_reference"]["message_id"], asked["id"]);
    assert_eq!(reply["pinged"], json!(["1100000000000000011"]));
    stage.shows("replies", 1).await;
    stage.shows("guilds", 1).await;
    assert_eq!(stage.sessions(), (1, 0, 0));
}

#[tokio::test]
async fn who_is_not_a_person_gets_no_answer() {
    let stage = Stage::new().await;
    stage.say(Say { bot: true, ..mention("from a bot") });
    stage.say(Say { webhook: true, ..mention("from a webhook") });
    stage.say(Say::new("@everyone hello"));
    stage.say(Say::new(format!("in code: `{BOT}`")));
    stage.say(mention("from a person"));
    stage.hears("general", &["from a person"]).await;
}

#[tokio::test]
async fn a_mention_alone_gets_a_hint() {
    let stage = Stage::new().await;
    stage.say(mention(""));
    stage.hears("general", &["Say something after my name and I will repeat it."]).await;
}

#[tokio::test]
async fn a_reply_that_pings_the_bot_is_answered_and_a_silent_one_is_not() {
    let stage = Stage::new().await;
    stage.say(mention("first"));
    stage.hears("general", &["first"]).await;
    let mut reply = Say::new("indeed");
    reply.reply_to = serde_json::from_value(stage.by_bot("general")[0]["id"].clone()).unwrap();
    stage.say(Say { mention_reply: Some(false), ..reply.clone() });
    stage.say(reply);
    stage.hears("general", &["first", "indeed"]).await;
}

#[tokio::test]
async fn direct_messages_need_no_mention() {
    let stage = Stage::new().await;
    stage.say(Say::new("hello").in_channel("dm"));
    stage.hears(&stage.direct(), &["hello"]).await;
}

#[tokio::test]
async fn four_thousand_characters_come_back_in_order_in_two_messages() {
    let stage = Stage::new().await;
    let lines = |sign: &str| format!("{}\n", sign.repeat(99)).repeat(20).trim().to_owned();
    let (first, second) = (lines("a"), lines("👍"));
    stage.respond(Arc::new(Says(format!("{first}\n{second}"))));
    stage.say(mention("tell me more"));
    stage.hears("general", &[&first, &second]).await;
    let said = stage.by_bot("general");
    assert_eq!((&said[0]["pinged"], &said[1]["pinged"]), (&json!(["1100000000000000011"]), &json!([])));
}

#[tokio::test]
async fn where_it_may_not_write_it_says_nothing_and_goes_on() {
    let stage = Stage::new().await;
    stage.say(mention("hello").in_channel("announcements"));
    stage.shows("refused", 1).await;
    stage.say(mention("hello"));
    stage.hears("general", &["hello"]).await;
    assert_eq!(stage.simulator.counters().rest_requests, 4);
}

#[tokio::test]
async fn a_deleted_question_is_not_answered() {
    let stage = Stage::new().await;
    let slow = Arc::new(Slow(Semaphore::new(0)));
    stage.respond(slow.clone());
    let asked = stage.say(mention("never mind"));
    let body = json!({"channel": "general", "message": asked["id"]}).to_string();
    let delete = reqwest::Client::new().post(format!("{}/sim/delete", stage.simulator.control_url()));
    delete.header("content-type", "application/json").body(body).send().await.unwrap().error_for_status().unwrap();
    slow.0.add_permits(1);
    stage.shows("refused", 1).await;
    assert!(stage.said("general").is_empty());
}

#[tokio::test]
async fn a_responder_that_fails_is_apologized_for() {
    let stage = Stage::new().await;
    stage.respond(Arc::new(Broken));
    stage.say(mention("hello"));
    stage.hears("general", &["Something went wrong, and I could not answer that. Please try again in a while."]).await;
}

#[tokio::test]
async fn a_slow_channel_holds_up_no_other_and_keeps_its_order() {
    let stage = Stage::new().await;
    let general = stage.simulator.messages("general");
    assert!(general.is_empty());
    let route = "POST /channels/1100000000000000100/".to_owned();
    stage.simulator.fault(crate::sim::Fault::RestDelay { route: Some(route), ms: 100 });
    let texts = ["1", "2", "3", "4", "5"];
    for text in texts {
        stage.say(mention(text));
    }
    stage.say(mention("quick").in_channel("announcements"));
    stage.shows("refused", 1).await;
    assert!(stage.said("general").len() < 2);
    stage.hears("general", &texts).await;
}

#[tokio::test]
async fn a_flood_in_one_channel_is_cut_off_and_reaches_no_other() {
    let stage = Stage::new().await;
    stage.respond(Arc::new(Slow(Semaphore::new(0))));
    // One is at work, a thousand wait.
    for number in 0..1_003 {
        stage.say(mention(&number.to_string()));
    }
    stage.shows("lost", 2).await;
    stage.say(mention("").in_channel("announcements"));
    stage.shows("refused", 1).await;
}
