use std::sync::Arc;

use tokio::sync::Semaphore;

use super::stage::{Broken, PATIENCE, PanicsAt, Slow, Stage, mention};
use crate::service::State;
use crate::sim::DEFAULT_TOKEN;

#[tokio::test]
async fn a_new_state_with_the_same_token_leaves_the_connection_alone() {
    let stage = Stage::new().await;
    for _ in 0..20 {
        stage.reload(DEFAULT_TOKEN).await.unwrap();
    }
    stage.respond(Arc::new(Broken));
    stage.say(mention("hello"));
    stage.counted(|counters| counters.messages_created == 1).await;
    assert!(stage.said("general")[0].starts_with("Something went wrong"));
    assert_eq!(stage.sessions(), (1, 0, 0));
    assert_eq!(stage.simulator.counters().connections, 1);
}

#[tokio::test]
async fn stopping_ends_what_is_in_flight_and_leaves_the_session_to_be_resumed() {
    let mut stage = Stage::new().await;
    let slow = Arc::new(Slow(Semaphore::new(0)));
    stage.respond(slow.clone());
    stage.say(mention("in flight"));
    let permits = tokio::spawn({
        let board = Arc::clone(&stage.board);
        async move {
            while board.services().get("discord").is_none_or(|health| health.state != State::Draining) {
                tokio::task::yield_now().await;
            }
            slow.0.add_permits(9);
        }
    });
    stage.taken().await;
    stage.stop().await;
    permits.await.unwrap();
    assert_eq!(stage.said("general"), ["in flight"]);
    assert_eq!(stage.state(State::Stopped).await.reason, "");
    let left = |state: &serde_json::Value| (state["gateway"]["connections"] == serde_json::json!([])).then_some(());
    assert!(stage.simulator.until(PATIENCE, left).await.is_some());

    stage.say(mention("while it was down"));
    stage.start();
    stage.hears("general", &["in flight", "while it was down"]).await;
    assert_eq!(stage.sessions(), (1, 1, 0));
}

#[tokio::test]
async fn a_panic_costs_its_message_and_nothing_else() {
    let mut stage = Stage::new().await;
    stage.respond(Arc::new(PanicsAt("boom")));
    stage.say(mention("before"));
    stage.hears("general", &["before"]).await;
    stage.say(mention("boom"));
    assert!(stage.fell().await.is_panic());
    stage.say(mention("after"));
    stage.start();
    stage.hears("general", &["before", "after"]).await;
    assert_eq!(stage.sessions(), (1, 1, 0));
}

#[tokio::test]
async fn held_back_it_says_why_and_connects_once_it_may() {
    let stage = Stage::new().await;
    stage.hold(State::Waiting, "no place has the secret");
    assert_eq!(stage.state(State::Waiting).await.reason, "no place has the secret");
    stage.reload(DEFAULT_TOKEN).await.unwrap();
    stage.state(State::Running).await;
    assert_eq!(stage.sessions(), (1, 1, 0));
}
