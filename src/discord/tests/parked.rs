use super::stage::{Stage, mention, simulator_options};
use crate::service::{Cause, State};
use crate::sim::{DEFAULT_TOKEN, Fault, Scope, Settings, When};

const OTHER_TOKEN: &str = "MTEwMDAwMDAwMDAwMDAwMDAxMA.other.simulator-token-opens-nothing";

fn tokens(tokens: &[&str]) -> Settings {
    Settings { tokens: Some(tokens.iter().map(|&token| token.to_owned()).collect()), ..Settings::default() }
}

const RESET_IT: &str = "reset it on the Bot page of the application in https://discord.com/developers/applications and \
                        store the new one in secret `bot` (key `TOKEN`)";

#[tokio::test]
async fn a_token_that_is_reset_parks_discord_until_a_new_one_comes() {
    let stage = Stage::new().await;
    stage.simulator.change(tokens(&[OTHER_TOKEN])).unwrap();
    let health = stage.state(State::Parked).await;
    assert_eq!(health.reason, format!("Discord refused the bot token (gateway close code 4004); {RESET_IT}"));

    let problems = stage.reload(DEFAULT_TOKEN).await.unwrap_err();
    assert_eq!(problems[0].cause, Cause::Refused);
    assert_eq!(problems[0].text, format!("Discord refused the bot token (401: Unauthorized); {RESET_IT}"));
    assert_eq!(stage.simulator.counters().connections, 1);

    stage.reload(OTHER_TOKEN).await.unwrap();
    stage.state(State::Running).await;
    stage.say(mention("hello"));
    stage.hears("general", &["hello"]).await;
    assert_eq!(stage.simulator.counters().identifies, 2);
}

#[tokio::test]
async fn refused_intents_park_discord_until_a_reload() {
    let stage = Stage::starting(simulator_options(), |simulator| {
        let fault = Fault::Close { code: 4014, reason: String::new(), when: When::Identify };
        simulator.fault(fault.times(1));
    })
    .await;
    let health = stage.state(State::Parked).await;
    assert_eq!(
        health.reason,
        "Discord does not grant the intents perch asks for (gateway close code 4014; discord.intents: none); turn them on \
         in https://discord.com/developers/applications → the application → Bot → Privileged Gateway Intents and run \
         `perch reload`, or take them out of the configuration"
    );
    stage.reload(DEFAULT_TOKEN).await.unwrap();
    stage.state(State::Running).await;
    assert_eq!(stage.sessions(), (2, 0, 0));
}

#[tokio::test]
async fn a_token_refused_over_rest_parks_discord() {
    let stage = Stage::new().await;
    let route = Some("POST /channels/".to_owned());
    stage.simulator.fault(Fault::Rest { route, status: 401, retry_after: None, scope: Scope::User }.times(1));
    stage.say(mention("hello"));
    let health = stage.state(State::Parked).await;
    assert!(health.reason.ends_with(RESET_IT), "{}", health.reason);
    stage.reload(DEFAULT_TOKEN).await.unwrap();
    stage.state(State::Running).await;
    assert_eq!(stage.sessions().0, 1);
}

#[tokio::test]
async fn the_last_identifies_of_a_day_are_kept() {
    let stage = Stage::starting(simulator_options(), |simulator| {
        simulator.change(Settings { session_starts_remaining: Some(40), ..Settings::default() }).unwrap();
    })
    .await;
    let health = stage.state(State::Waiting).await;
    assert!(health.reason.starts_with("only 40 of today's IDENTIFYs are left; perch keeps them and connects in "));
    stage.shows("identify_remaining", 40).await;
    assert_eq!(stage.simulator.counters().connections, 0);

    stage.reload(DEFAULT_TOKEN).await.unwrap();
    stage.state(State::Running).await;
    stage.shows("identify_remaining", 39).await;
}

#[tokio::test]
async fn discord_in_trouble_refuses_a_new_token_and_not_a_proven_one() {
    let stage = Stage::new().await;
    let route = Some("GET /users/@me".to_owned());
    stage.simulator.fault(Fault::Rest { route, status: 503, retry_after: None, scope: Scope::User });
    let problems = stage.reload(OTHER_TOKEN).await.unwrap_err();
    assert_eq!(problems[0].cause, Cause::Unavailable);
    assert_eq!(
        problems[0].text,
        "can't try the token, as Discord can't be asked: Discord answered 503 Service Unavailable"
    );
    stage.reload(DEFAULT_TOKEN).await.unwrap();
    stage.say(mention("hello"));
    stage.hears("general", &["hello"]).await;
    assert_eq!(stage.sessions(), (1, 0, 0));
}
