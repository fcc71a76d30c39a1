use std::time::{Duration, Instant};

use super::stage::{Stage, mention, secs, simulator_options};
use crate::service::State;
use crate::sim::{self, Fault, Order, RateLimits, Scope, When};

/// Breaks the connection of a bot at work with `fault`, says something meanwhile, and waits for its answer.
async fn broken_by(fault: Fault) -> Stage {
    let stage = Stage::new().await;
    stage.say(mention("before"));
    stage.hears("general", &["before"]).await;
    stage.simulator.fault(fault);
    stage.say(mention("meanwhile"));
    stage.hears("general", &["before", "meanwhile"]).await;
    stage.state(State::Running).await;
    stage.say(mention("after"));
    stage.hears("general", &["before", "meanwhile", "after"]).await;
    stage
}

#[tokio::test]
async fn a_cut_connection_is_resumed_and_what_was_missed_is_answered_once() {
    let stage = broken_by(Fault::Cut { when: When::Now }).await;
    assert_eq!(stage.sessions(), (1, 1, 0));
    stage.shows("identifies", 1).await;
    stage.shows("resumes", 1).await;
}

#[tokio::test]
async fn op_7_is_followed_by_a_resume() {
    let stage = broken_by(Fault::Reconnect { when: When::Now }).await;
    assert_eq!(stage.sessions(), (1, 1, 0));
}

#[tokio::test]
async fn op_9_true_is_followed_by_a_resume() {
    let stage = broken_by(Fault::InvalidSession { resumable: true, when: When::Now }).await;
    assert_eq!(stage.sessions(), (1, 1, 0));
}

#[tokio::test]
async fn a_close_that_can_be_resumed_is() {
    let stage = broken_by(Fault::Close { code: 4000, reason: String::new(), when: When::Now }).await;
    assert_eq!(stage.sessions(), (1, 1, 0));
}

#[tokio::test]
async fn op_9_false_is_followed_by_an_identify_not_too_soon() {
    let stage = Stage::new().await;
    stage.simulator.fault(Fault::InvalidSession { resumable: false, when: When::Now });
    stage.counted(|counters| counters.identifies == 2).await;
    stage.state(State::Running).await;
    stage.say(mention("after"));
    stage.hears("general", &["after"]).await;
    assert_eq!(stage.sessions(), (2, 0, 0));
}

#[tokio::test]
async fn a_session_that_ended_meanwhile_is_begun_anew() {
    let stage = Stage::new().await;
    stage.simulator.expire_sessions();
    stage.simulator.fault(Fault::Cut { when: When::Now });
    stage.counted(|counters| counters.identifies == 2).await;
    stage.state(State::Running).await;
    assert_eq!(stage.sessions(), (2, 1, 0));
}

#[tokio::test]
async fn a_gateway_that_hears_no_heartbeat_is_left_and_resumed() {
    let options = sim::Options { heartbeat_interval: Duration::from_millis(200), ..simulator_options() };
    let stage = Stage::with(options).await;
    stage.counted(|counters| counters.heartbeats > 1).await;
    stage.simulator.fault(Fault::NoAck {});
    stage.counted(|counters| counters.resumes == 1).await;
    stage.simulator.clear_faults();
    stage.state(State::Running).await;
    stage.say(mention("after"));
    stage.hears("general", &["after"]).await;
    assert_eq!(stage.simulator.counters().identifies, 1);
}

#[tokio::test]
async fn a_ready_that_never_comes_is_not_waited_for_forever() {
    let stage = Stage::starting(simulator_options(), |simulator| {
        simulator.fault(Fault::NoReady {}.times(1));
    })
    .await;
    let health = stage.state(State::Recovering).await;
    assert_eq!(health.reason, "the gateway did not begin the session");
    stage.state(State::Running).await;
    assert_eq!(stage.sessions(), (2, 0, 0));
}

#[tokio::test]
async fn a_hello_that_never_comes_is_not_waited_for_forever() {
    let stage = Stage::starting(simulator_options(), |simulator| {
        simulator.fault(Fault::NoHello {}.times(1));
    })
    .await;
    let health = stage.state(State::Recovering).await;
    assert_eq!(health.reason, "the gateway did not say hello in time");
    stage.state(State::Running).await;
    assert_eq!(stage.sessions(), (1, 0, 0));
}

#[tokio::test]
async fn a_gateway_address_that_is_not_told_is_asked_for_again() {
    let route = Some("GET /gateway/bot".to_owned());
    let stage = Stage::starting(simulator_options(), |simulator| {
        let fault = Fault::Rest { route, status: 502, retry_after: None, scope: Scope::User };
        simulator.fault(fault.times(2));
    })
    .await;
    let health = stage.state(State::Recovering).await;
    assert_eq!(health.reason, "can't ask Discord where its gateway is: Discord answered 502 Bad Gateway");
    stage.state(State::Running).await;
    assert_eq!(stage.sessions(), (1, 0, 0));
}

#[tokio::test]
async fn an_address_for_resuming_that_is_out_of_reach_is_given_up_for_the_first_one() {
    let stage = Stage::new().await;
    let mut session = stage.discord.store.session().unwrap();
    // Nothing listens there.
    session.resume_url = "ws://127.0.0.1:1".to_owned();
    stage.discord.store.open(session);
    stage.simulator.fault(Fault::Cut { when: When::Now });
    stage.counted(|counters| counters.resumed == 1).await;
    stage.state(State::Running).await;
    assert_eq!(stage.simulator.counters().identifies, 1);
}

#[tokio::test]
async fn a_loop_of_op_7_is_slowed_down() {
    let stage = Stage::new().await;
    let start = Instant::now();
    stage.simulator.fault(Fault::Reconnect { when: When::Resume });
    stage.simulator.fault(Fault::Reconnect { when: When::Now });
    stage.counted(|counters| counters.resumes == 3).await;
    // The waits before the second and the third are a second and two at least.
    assert!(start.elapsed() >= secs(3), "{:?}", start.elapsed());
    assert_eq!(stage.simulator.counters().identifies, 1);
}

#[tokio::test]
async fn an_answer_is_said_once_whatever_becomes_of_the_first_try() {
    let stage = Stage::new().await;
    let route = || Some("POST /channels/".to_owned());
    let rest = |status, scope| Fault::Rest { route: route(), status, retry_after: Some(0.2), scope };
    for (text, fault) in [
        ("502", rest(502, Scope::User)),
        ("429", rest(429, Scope::User)),
        ("429 shared", rest(429, Scope::Shared)),
        ("429 global", rest(429, Scope::Global)),
        ("cut", Fault::RestCut { route: route() }),
        ("garbage", Fault::RestGarbage { route: route() }),
    ] {
        stage.simulator.fault(fault.times(1));
        stage.say(mention(text));
    }
    stage.hears("general", &["502", "429", "429 shared", "429 global", "cut", "garbage"]).await;
    stage.shows("replies", 6).await;
    assert_eq!(stage.said("general").len(), 6);
    assert_eq!(stage.sessions(), (1, 0, 0));
}

fn global_limit() -> Order {
    let route = Some("POST /channels/".to_owned());
    Fault::Rest { route, status: 429, retry_after: Some(1.0), scope: Scope::Global }.times(1)
}

async fn a_global_429_holds_all(stage: Stage) {
    stage.simulator.fault(global_limit());
    stage.say(mention("first"));
    while !stage.discord.last.load().as_ref().unwrap().rest.held() {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    stage.say(mention("second").in_channel("announcements"));
    stage.shows("refused", 1).await;
    assert!(start.elapsed() >= Duration::from_millis(800), "{:?}", start.elapsed());
    stage.hears("general", &["first"]).await;
    assert_eq!(stage.simulator.counters().rate_limited, 1);
}

#[tokio::test]
async fn a_global_429_holds_the_other_channels_back() {
    a_global_429_holds_all(Stage::new().await).await;
}

#[tokio::test]
async fn a_global_429_of_discord_itself_holds_the_other_channels_back() {
    a_global_429_holds_all(Stage::at_discord(simulator_options()).await).await;
}

/// More messages than a channel's bucket holds.
async fn seven_answers(stage: &Stage) {
    let texts: Vec<_> = (0..7).map(|number| number.to_string()).collect();
    for text in &texts {
        stage.say(mention(text));
    }
    stage.hears("general", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn the_429s_of_a_proxy_are_obeyed() {
    let options = sim::Options { rate_limits: RateLimits::default(), ..simulator_options() };
    let stage = Stage::with(options).await;
    seven_answers(&stage).await;
    assert_eq!(stage.simulator.counters().rate_limited, 1);
}

#[tokio::test]
async fn discords_limits_are_kept_without_a_429() {
    let options = sim::Options { rate_limits: RateLimits::default(), ..simulator_options() };
    let stage = Stage::at_discord(options).await;
    seven_answers(&stage).await;
    assert_eq!(stage.simulator.counters().rate_limited, 0);
}

#[tokio::test]
async fn an_answer_that_discord_itself_was_late_with_is_said_once() {
    let stage = Stage::at_discord(simulator_options()).await;
    let route = || Some("POST /channels/".to_owned());
    stage.simulator.fault(Fault::RestCut { route: route() }.times(1));
    let fault = Fault::Rest { route: route(), status: 503, retry_after: None, scope: Scope::User };
    stage.simulator.fault(fault.times(1));
    stage.say(mention("hello"));
    stage.hears("general", &["hello"]).await;
    stage.shows("replies", 1).await;
    assert_eq!(stage.said("general").len(), 1);
}
