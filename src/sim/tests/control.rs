//! The control interface as a test in any language uses it, over HTTP; and TLS.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::simulator;
use super::socket::Socket;
use crate::sim::{DEFAULT_TOKEN, Options, Say, Simulator};

async fn ask(simulator: &Simulator, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = Client::new().request(method, format!("{}{path}", simulator.control_url()));
    if let Some(body) = body {
        request = request.header("Content-Type", "application/json").body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_conversation_is_driven_from_outside() {
    let simulator = simulator().await;
    let ask = |method, path, body| ask(&simulator, method, path, body);
    let (status, said) = ask(Method::POST, "/sim/say", Some(json!({ "content": "hi <@&1100000000000000002>" }))).await;
    assert_eq!((status, said["author"]["username"].as_str()), (200, Some("ada")));
    let body = json!({ "content": "re", "person": "Grace", "reply_to": said["id"], "mention_reply": false });
    let (_, reply) = ask(Method::POST, "/sim/say", Some(body)).await;
    assert_eq!((&reply["type"], &reply["pinged"]), (&json!(19), &json!([])));

    let after = format!("/sim/messages?channel=general&after={}", said["id"].as_str().unwrap());
    let (_, messages) = ask(Method::GET, &after, None).await;
    assert_eq!(messages, json!([reply]));

    let edit = json!({ "channel": "general", "message": said["id"], "content": "edited" });
    assert_eq!(ask(Method::POST, "/sim/edit", Some(edit)).await.1["content"], "edited");
    let delete = json!({ "channel": "general", "message": said["id"] });
    assert_eq!(ask(Method::POST, "/sim/delete", Some(delete)).await.0, 204);
    let (_, messages) = ask(Method::GET, "/sim/messages", None).await;
    assert_eq!(messages[0]["referenced_message"], Value::Null);
    simulator.stop().await;
}

#[tokio::test]
async fn channels_come_change_and_go() {
    let simulator = simulator().await;
    let mut socket = Socket::identified(&simulator).await;
    for _ in ["READY", "GUILD_CREATE"] {
        socket.hear_op(0).await;
    }
    let ask = |method, path, body| ask(&simulator, method, path, body);
    let (status, made) = ask(Method::POST, "/sim/channels", Some(json!({ "name": "owls", "send": false }))).await;
    assert_eq!((status, &made["send"]), (201, &json!(false)));
    assert_eq!(socket.hear_op(0).await["t"], "CHANNEL_CREATE");
    let thread = json!({ "name": "barn", "kind": "thread", "parent": "owls" });
    ask(Method::POST, "/sim/channels", Some(thread)).await;
    assert_eq!(socket.hear_op(0).await["t"], "THREAD_CREATE");
    ask(Method::PATCH, "/sim/channels/owls", Some(json!({ "send": true }))).await;
    assert_eq!(socket.hear_op(0).await["t"], "CHANNEL_UPDATE");
    assert_eq!(ask(Method::DELETE, "/sim/channels/owls", None).await.0, 204);
    assert_eq!(socket.hear_op(0).await["t"], "THREAD_DELETE");
    assert_eq!(socket.hear_op(0).await["t"], "CHANNEL_DELETE");
    simulator.stop().await;
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let simulator = simulator().await;
    for (path, body, status, reason) in [
        ("/sim/say", json!({ "content": "hi", "channel": "nowhere" }), 404, "no channel is called \"nowhere\""),
        ("/sim/say", json!({ "content": "hi", "person": "nobody" }), 404, "no person is called \"nobody\""),
        ("/sim/say", json!({ "content": " " }), 400, "content is empty"),
        ("/sim/say", json!({ "content": "x".repeat(2001) }), 400, "2001 characters"),
        ("/sim/say", json!({ "content": "hi", "chanel": "general" }), 422, "unknown field `chanel`"),
        ("/sim/say", json!({ "content": "hi", "channel": "field-notes" }), 400, "it is a forum"),
        ("/sim/faults", json!({ "fault": "flood" }), 400, "unknown variant `flood`"),
        ("/sim/channels", json!({ "name": "x", "kind": "thread" }), 400, "a thread needs a parent"),
    ] {
        let (answered, problem) = ask(&simulator, Method::POST, path, Some(body)).await;
        let told = problem["error"].as_str().unwrap_or_default();
        assert!(answered == status && told.contains(reason), "{path}: {answered} {problem}");
    }
    let plain = Client::new().post(format!("{}/sim/say", simulator.control_url())).body("{\"content\":\"hi\"}");
    assert_eq!(plain.send().await.unwrap().status(), 415);
    simulator.stop().await;
}

#[tokio::test]
async fn no_token_is_in_the_state() {
    let simulator = simulator().await;
    let mut socket = Socket::identified(&simulator).await;
    socket.hear_op(0).await;
    assert!(!simulator.state().to_string().contains(DEFAULT_TOKEN));
    simulator.stop().await;
}

#[tokio::test]
async fn the_page_runs_under_a_strict_policy() {
    let simulator = simulator().await;
    let page = reqwest::get(simulator.control_url()).await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let page = page.text().await.unwrap();
    assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick="));
    for asset in page.split('"').filter(|part| part.starts_with("/sim/assets/")) {
        let answer = reqwest::get(format!("{}{asset}", simulator.control_url())).await.unwrap();
        assert_eq!(answer.status(), 200, "{asset}");
    }
    simulator.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_those_who_listen() {
    let simulator = simulator().await;
    let events = reqwest::get(format!("{}/sim/events", simulator.control_url())).await.unwrap();
    let socket = Socket::identified(&simulator).await;
    simulator.say(Say::new("last words")).unwrap();
    tokio::time::timeout(Duration::from_secs(5), simulator.stop()).await.expect("it stops");
    assert!(events.text().await.unwrap().contains("last words"));
    drop(socket);
}

#[tokio::test]
async fn rest_is_served_over_tls_as_discord_com() {
    let made = rcgen::generate_simple_self_signed(["discord.com".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let options = Options { tls: Some(Arc::new(tls)), ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let trust = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client =
        Client::builder().use_preconfigured_tls(trust).resolve("discord.com", simulator.address()).build().unwrap();
    let address = format!("https://discord.com:{}/api/v10/gateway/bot", simulator.address().port());
    let answer = client.get(address).header("Authorization", format!("Bot {DEFAULT_TOKEN}")).send().await.unwrap();
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(answer["url"], format!("ws://{}/gateway", simulator.shared.plain));
    Socket::open(&simulator).await;
    simulator.stop().await;
}
