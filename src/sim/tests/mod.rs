//! The simulator against the libraries perch uses: serenity's REST client and models, twilight's gateway.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use serenity::all::{Http, HttpBuilder};
use serenity::builder::{CreateAllowedMentions, CreateMessage};
use serenity::http::MessagePagination::{After, Around, Before};
use serenity::model::channel::{Message, MessageReference};
use serenity::model::guild::Guild;
use serenity::model::id::{ChannelId, MessageId};
use tokio::sync::oneshot;
use twilight_gateway::queue::Queue;
use twilight_gateway::{CloseFrame, ConfigBuilder, Intents, Message as Frame, Session, ShardId};

mod control;
mod gateway;
mod socket;

use super::{DEFAULT_TOKEN, Fault, Options, Order, RateLimits, Say, Settings, Simulator, When};

/// How long a test waits for what should come at once.
const PATIENCE: Duration = Duration::from_secs(5);

const INTENTS: Intents = Intents::GUILDS.union(Intents::GUILD_MESSAGES).union(Intents::DIRECT_MESSAGES);

async fn simulator() -> Simulator {
    let options = Options {
        identify_spacing: Duration::ZERO,
        rate_limits: RateLimits { scale: 100, global: 0 },
        ..Options::default()
    };
    Simulator::start(options).await.unwrap()
}

fn order(value: Value) -> Order {
    Order::parse(value).unwrap()
}

fn http(simulator: &Simulator) -> Http {
    HttpBuilder::new(DEFAULT_TOKEN).proxy(simulator.url()).ratelimiter_disabled(true).build()
}

/// Lets every IDENTIFY through at once, as these simulators do.
struct Impatient;

impl Queue for Impatient {
    fn enqueue(&self, _: u32) -> oneshot::Receiver<()> {
        let (turn, wait) = oneshot::channel();
        turn.send(()).expect("the receiver is still here");
        wait
    }
}

type Shard = twilight_gateway::Shard<Impatient>;

fn config(intents: Intents) -> ConfigBuilder<Impatient> {
    ConfigBuilder::new(DEFAULT_TOKEN.to_owned(), intents).queue(Impatient)
}

async fn shard(simulator: &Simulator, config: ConfigBuilder<Impatient>) -> Shard {
    let url = http(simulator).get_bot_gateway().await.unwrap().url;
    Shard::with_config(ShardId::ONE, config.proxy_url(url).build())
}

/// The next event of a name, or the code of a close that comes before it.
async fn next(shard: &mut Shard, name: &str) -> Result<Value, u16> {
    let wanted = async {
        loop {
            match shard.next().await {
                Some(Ok(Frame::Text(text))) => {
                    let payload: Value = serde_json::from_str(&text).unwrap();
                    if payload["t"] == name {
                        return Ok(payload["d"].clone());
                    }
                }
                Some(Ok(Frame::Close(frame))) => return Err(frame.map_or(0, |frame| frame.code)),
                Some(Err(_)) => {}
                None => return Err(0),
            }
        }
    };
    tokio::time::timeout(PATIENCE, wanted).await.unwrap_or_else(|_| panic!("no {name}"))
}

/// The next event of a name, past the closes that a reconnect takes.
async fn past_closes(shard: &mut Shard, name: &str) -> Value {
    loop {
        if let Ok(event) = next(shard, name).await {
            return event;
        }
    }
}

/// Until the close we asked for comes back; asking further would connect anew.
async fn closed(shard: &mut Shard) {
    let close = async { while !matches!(shard.next().await, Some(Ok(Frame::Close(_))) | None) {} };
    tokio::time::timeout(PATIENCE, close).await.expect("the close comes back");
}

async fn messages_of(http: &Http, channel: u64) -> Vec<Message> {
    http.get_messages(ChannelId::new(channel), None, None).await.unwrap()
}

const GENERAL: u64 = 1_100_000_000_000_000_100;

#[tokio::test]
async fn a_bot_hears_its_mention_and_replies() {
    let simulator = simulator().await;
    let http = http(&simulator);
    let me = http.get_current_user().await.unwrap();
    let mut shard = shard(&simulator, config(INTENTS)).await;

    let ready = next(&mut shard, "READY").await.unwrap();
    assert_eq!(ready["user"]["id"], json!(me.id));
    let guild: Guild = serde_json::from_value(next(&mut shard, "GUILD_CREATE").await.unwrap()).unwrap();
    assert_eq!((guild.name.as_str(), guild.channels.len(), guild.threads.len()), ("Birdhouse", 5, 2));

    simulator.say(Say::new(format!("<@{}> hello `<@12>`", me.id))).unwrap();
    let heard: Message = serde_json::from_value(next(&mut shard, "MESSAGE_CREATE").await.unwrap()).unwrap();
    assert!(heard.mentions_user_id(me.id));
    assert_eq!(heard.content, format!("<@{}> hello `<@12>`", me.id));

    let reply = CreateMessage::new()
        .content("hello <@1100000000000000012> @everyone")
        .reference_message(MessageReference::from((heard.channel_id, heard.id)).fail_if_not_exists(false))
        .allowed_mentions(CreateAllowedMentions::new().replied_user(true));
    let sent = http.send_message(heard.channel_id, Vec::new(), &reply).await.unwrap();
    assert_eq!(sent.referenced_message.as_ref().map(|it| it.id), Some(heard.id));
    let said = simulator.messages("general");
    assert_eq!(said[1]["pinged"], json!(["1100000000000000011"]));
    assert_eq!(said[1]["mention_everyone"], false);
    assert_eq!(simulator.counters().pings, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn a_session_goes_on_in_another_process() {
    let simulator = simulator().await;
    let mut first = shard(&simulator, config(INTENTS)).await;
    next(&mut first, "GUILD_CREATE").await.unwrap();
    first.close(CloseFrame::RESUME);
    closed(&mut first).await;
    let session = first.session().cloned().unwrap();
    let resume_url = first.resume_url().unwrap().to_owned();
    drop(first);

    for text in ["one", "two", "three"] {
        simulator.say(Say::new(text).in_channel("dm")).unwrap();
    }
    let config = config(INTENTS).session(session).resume_url(resume_url);
    let mut second = shard(&simulator, config).await;
    for text in ["one", "two", "three"] {
        assert_eq!(next(&mut second, "MESSAGE_CREATE").await.unwrap()["content"], text);
    }
    next(&mut second, "RESUMED").await.unwrap();
    let counters = simulator.counters();
    assert_eq!((counters.identifies, counters.resumed, counters.replayed), (1, 1, 3));
    assert_eq!(counters.resumes_at_first_address, 0);
    simulator.stop().await;
}

#[tokio::test]
async fn a_close_with_1000_ends_the_session() {
    let simulator = simulator().await;
    let mut first = shard(&simulator, config(INTENTS)).await;
    next(&mut first, "READY").await.unwrap();
    let session = first.session().cloned().unwrap();
    let resume_url = first.resume_url().unwrap().to_owned();
    first.close(CloseFrame::NORMAL);
    closed(&mut first).await;
    let left = simulator.until(PATIENCE, |state| (state["gateway"]["sessions"] == json!([])).then_some(())).await;
    assert!(left.is_some());

    let mut second = shard(&simulator, config(INTENTS).session(session).resume_url(resume_url)).await;
    past_closes(&mut second, "READY").await;
    assert_eq!(simulator.counters().resumed, 0);
    simulator.stop().await;
}

#[tokio::test]
async fn a_cut_connection_is_resumed() {
    let simulator = simulator().await;
    let mut shard = shard(&simulator, config(INTENTS)).await;
    next(&mut shard, "READY").await.unwrap();
    simulator.fault(Fault::Cut { when: When::Now });
    simulator.say(Say::new("while you were away").in_channel("dm")).unwrap();
    assert_eq!(past_closes(&mut shard, "MESSAGE_CREATE").await["content"], "while you were away");
    past_closes(&mut shard, "RESUMED").await;
    assert_eq!(simulator.counters().identifies, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn op_7_and_op_9_are_followed() {
    let simulator = simulator().await;
    let mut shard = shard(&simulator, config(INTENTS)).await;
    next(&mut shard, "READY").await.unwrap();
    simulator.fault(Fault::Reconnect { when: When::Now });
    past_closes(&mut shard, "RESUMED").await;
    simulator.fault(Fault::InvalidSession { resumable: false, when: When::Now });
    past_closes(&mut shard, "READY").await;
    let counters = simulator.counters();
    assert_eq!((counters.identifies, counters.resumed), (2, 1));
    simulator.stop().await;
}

#[tokio::test]
async fn refusals_close_with_discords_codes() {
    let simulator = simulator().await;
    let mut privileged = shard(&simulator, config(INTENTS | Intents::MESSAGE_CONTENT)).await;
    assert_eq!(next(&mut privileged, "READY").await, Err(4014));
    simulator.change(Settings { tokens: Some(Vec::new()), ..Settings::default() }).unwrap();
    let config = config(INTENTS).proxy_url(format!("ws://{}/gateway", simulator.address())).build();
    let mut revoked = Shard::with_config(ShardId::ONE, config);
    assert_eq!(next(&mut revoked, "READY").await, Err(4004));
    assert!(http(&simulator).get_current_user().await.is_err());
    simulator.stop().await;
}

#[tokio::test]
async fn a_session_that_was_never_is_invalid() {
    let simulator = simulator().await;
    let resume_url = format!("ws://{}/gateway/resume", simulator.address());
    let session = Session::new(7, "nobody's".to_owned());
    let mut shard = shard(&simulator, config(INTENTS).session(session).resume_url(resume_url)).await;
    past_closes(&mut shard, "READY").await;
    let counters = simulator.counters();
    assert_eq!((counters.resumes, counters.resumed, counters.identifies), (1, 0, 1));
    simulator.stop().await;
}

#[tokio::test]
async fn text_is_hidden_from_those_it_is_not_for() {
    let simulator = simulator().await;
    let mut shard = shard(&simulator, config(INTENTS)).await;
    next(&mut shard, "READY").await.unwrap();
    simulator.say(Say::new("not for you")).unwrap();
    simulator.say(Say::new("nor this").in_channel("keepers-only")).unwrap();
    simulator.say(Say::new("for you").in_channel("dm")).unwrap();
    assert_eq!(next(&mut shard, "MESSAGE_CREATE").await.unwrap()["content"], "");
    let direct: Message = serde_json::from_value(next(&mut shard, "MESSAGE_CREATE").await.unwrap()).unwrap();
    assert_eq!((direct.content.as_str(), direct.guild_id), ("for you", None));
    simulator.stop().await;
}

/// Answers are checked as serenity shows them to perch: status, code and, for 50035, where and why.
#[tokio::test]
async fn messages_are_refused_as_discord_refuses_them() {
    let simulator = simulator().await;
    let http = http(&simulator);
    let refusal = |channel: u64, body: Value| {
        let http = &http;
        async move {
            let error = http.send_message(ChannelId::new(channel), Vec::new(), &body).await.unwrap_err();
            let serenity::Error::Http(serenity::http::HttpError::UnsuccessfulRequest(answer)) = error else { panic!() };
            let why: Vec<_> = answer.error.errors.iter().map(|it| format!("{} {}", it.path, it.code)).collect();
            (answer.status_code.as_u16(), answer.error.code, why.join(", "))
        }
    };
    let refused = |status, code, why: &str| (status, code, why.to_owned());
    let hi = json!({ "content": "hi" });
    let (announcements, hidden, forum, hermit) = (GENERAL + 2, GENERAL + 3, GENERAL + 4, GENERAL + 101);
    assert_eq!(refusal(1, hi.clone()).await, refused(404, 10_003, ""));
    assert_eq!(refusal(hidden, hi.clone()).await, refused(403, 50_001, ""));
    assert_eq!(refusal(announcements, hi.clone()).await, refused(403, 50_013, ""));
    assert_eq!(refusal(forum, hi.clone()).await, refused(400, 50_008, ""));
    assert_eq!(refusal(hermit, hi).await, refused(403, 50_007, ""));
    assert_eq!(refusal(GENERAL, json!({ "content": " \n" })).await, refused(400, 50_006, ""));
    let long = json!({ "content": "🐦".repeat(2001) });
    assert_eq!(refusal(GENERAL, long).await, refused(400, 50_035, "content BASE_TYPE_MAX_LENGTH"));
    let nonce = json!({ "content": "hi", "nonce": "12345678901234567890123456" });
    assert_eq!(refusal(GENERAL, nonce).await, refused(400, 50_035, "nonce BASE_TYPE_MAX_LENGTH"));
    let reply = json!({ "content": "hi", "message_reference": { "message_id": "1" } });
    let why = "message_reference MESSAGE_REFERENCE_UNKNOWN_MESSAGE";
    assert_eq!(refusal(GENERAL, reply).await, refused(400, 50_035, why));
    assert_eq!(simulator.counters().violation_count, 1);

    let fine = json!({ "content": "🐦".repeat(2000), "message_reference": { "message_id": "1", "fail_if_not_exists": false } });
    let sent = http.send_message(ChannelId::new(GENERAL), Vec::new(), &fine).await.unwrap();
    assert!(sent.message_reference.is_none());
    simulator.stop().await;
}

#[tokio::test]
async fn a_nonce_is_answered_with_its_first_message() {
    let simulator = simulator().await;
    let http = http(&simulator);
    let body = json!({ "content": "once", "nonce": "1-0", "enforce_nonce": true });
    let first = http.send_message(ChannelId::new(GENERAL), Vec::new(), &body).await.unwrap();
    let second = http.send_message(ChannelId::new(GENERAL), Vec::new(), &body).await.unwrap();
    assert_eq!(first.id, second.id);
    assert_eq!(messages_of(&http, GENERAL).await.len(), 1);
    assert_eq!(simulator.counters().nonce_deduplicated, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn history_is_paged_both_ways() {
    let simulator = simulator().await;
    let http = http(&simulator);
    let mut ids = Vec::new();
    for number in 0..5 {
        let said = simulator.say(Say::new(number.to_string())).unwrap();
        ids.push(MessageId::new(said["id"].as_str().unwrap().parse().unwrap()));
    }
    let page = async |pagination| {
        let page = http.get_messages(ChannelId::new(GENERAL), Some(pagination), Some(2)).await.unwrap();
        page.into_iter().map(|message| message.content).collect::<Vec<_>>()
    };
    assert_eq!(page(After(ids[1])).await, ["", ""], "what others say to others is not the bot's to read");
    let intents = Some(vec!["message_content".to_owned()]);
    simulator.change(Settings { privileged_intents: intents, ..Settings::default() }).unwrap();
    assert_eq!(page(After(ids[1])).await, ["3", "2"]);
    assert_eq!(page(Before(ids[2])).await, ["1", "0"]);
    assert_eq!(page(Around(ids[2])).await, ["2", "1"]);
    simulator.stop().await;
}

#[tokio::test]
async fn a_mention_is_read_without_the_intent_and_a_hidden_channel_shows_nothing() {
    let simulator = simulator().await;
    let http = http(&simulator);
    let me = http.get_current_user().await.unwrap();
    simulator.say(Say::new(format!("<@{}> hello", me.id))).unwrap();
    assert_eq!(messages_of(&http, GENERAL).await[0].content, format!("<@{}> hello", me.id));
    simulator.say(Say::new("psst").in_channel("keepers-only")).unwrap();
    let mut shard = shard(&simulator, config(INTENTS)).await;
    let guild = next(&mut shard, "GUILD_CREATE").await.unwrap();
    let channel = |id: &str| guild["channels"].as_array().unwrap().iter().find(|it| it["id"] == id).unwrap();
    let hidden = channel("1100000000000000103");
    assert_eq!((&hidden["name"], &hidden["flags"]), (&json!("___hidden___"), &json!(1 << 17)));
    assert_eq!((&hidden["last_message_id"], &hidden["topic"]), (&Value::Null, &Value::Null));
    // The last message of a forum is a thread.
    assert_eq!(channel("1100000000000000104")["last_message_id"], "1100000000000000105");
    let listed = http.get_channels(1_100_000_000_000_000_001.into()).await.unwrap();
    assert!(listed.iter().all(|channel| channel.id != ChannelId::new(1_100_000_000_000_000_103)));
    simulator.stop().await;
}

#[tokio::test]
async fn an_outage_takes_the_guild_away_and_brings_it_back() {
    let simulator = simulator().await;
    let available = |available| Settings { guild_available: Some(available), ..Settings::default() };
    simulator.change(available(false)).unwrap();
    let mut shard = shard(&simulator, config(INTENTS)).await;
    assert_eq!(next(&mut shard, "GUILD_DELETE").await.unwrap()["unavailable"], true);
    simulator.say(Say::new("nobody hears it")).unwrap();
    simulator.change(available(true)).unwrap();
    let guild = next(&mut shard, "GUILD_CREATE").await.unwrap();
    assert!(guild["channels"][0]["last_message_id"].is_string());
    simulator.say(Say::new("again")).unwrap();
    assert_eq!(next(&mut shard, "MESSAGE_CREATE").await.unwrap()["id"], simulator.messages("general")[1]["id"]);
    simulator.stop().await;
}

#[tokio::test]
async fn limits_answer_429_with_the_documented_headers() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let client = reqwest::Client::new();
    let url = format!("{}/api/v10/channels/{GENERAL}/messages", simulator.url());
    let post = || {
        client
            .post(&url)
            .header("Authorization", format!("Bot {DEFAULT_TOKEN}"))
            .header("Content-Type", "application/json")
    };
    for left in (0..5).rev() {
        let answer = post().body("{\"content\":\"hi\"}").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-ratelimit-remaining"], left.to_string());
    }
    let answer = post().body("{\"content\":\"hi\"}").send().await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["x-ratelimit-scope"], "user");
    assert_eq!(answer.headers()["retry-after"], "5");
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(body["global"], false);
    assert!((4.0..=5.0).contains(&body["retry_after"].as_f64().unwrap()));
    assert_eq!(simulator.counters().rate_limited, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn rest_breaks_as_told() {
    let simulator = simulator().await;
    let http = http(&simulator);
    simulator.fault(order(json!({ "fault": "rest", "route": "GET /gateway/bot", "status": 502, "times": 1 })));
    assert!(http.get_bot_gateway().await.is_err());
    assert!(http.get_bot_gateway().await.is_ok());
    for fault in ["rest_cut", "rest_garbage"] {
        simulator.fault(order(json!({ "fault": fault, "times": 1 })));
        assert!(http.get_current_user().await.is_err());
    }
    simulator.fault(order(json!({ "fault": "rest_hang" })));
    let hung = tokio::time::timeout(Duration::from_millis(50), http.get_current_user()).await;
    assert!(hung.is_err());
    simulator.clear_faults();
    assert!(http.get_current_user().await.is_ok());
    simulator.stop().await;
}
