//! How much one client may have, and what they hear when it is enough.

use std::net::TcpStream;

use serde_json::{Value, json};

use super::support::chat::{Guest, Stream};
use super::support::exchange::{Response, exchange};
use super::support::perch::{Perch, Start, free_port, wait};
use super::support::raw;
use super::support::socket::Person;
use super::support::upstream::{Fault, MODEL, Then, Upstream, piece};

/// perch on `port` with these lines as well; its own host is a client like any other.
fn config(port: u16, http: &str, limits: &str) -> String {
    format!("[http]\nlisten = \"127.0.0.1:{port}\"\n{http}\n[limits]\nexempt = []\n{limits}\n")
}

/// Asks for an answer with these headers, as somebody new.
#[track_caller]
fn ask(port: u16, headers: &[(&str, &str)]) -> Response {
    let mut sent = vec![("Content-Type", "application/json")];
    sent.extend_from_slice(headers);
    exchange("POST", &format!("http://127.0.0.1:{port}/api/chat"), &sent, br#"{"message": "hello"}"#)
}

/// Gives perch another configuration, which must be applied.
#[track_caller]
fn reload(perch: &Perch, text: &str) {
    std::fs::write(perch.config_path(), text).unwrap();
    let said = perch.verb(&["reload"]);
    assert_eq!(said.status.code(), Some(0), "{said:?}{}", perch.log_text());
}

#[test]
fn whoever_asks_too_fast_is_told_when_to_come_again_and_then_let_in() {
    let port = free_port();
    let limits = "[limits.address]\nrequests_per_minute = 60\nburst = 3\ntokens_per_day = \"off\"";
    let perch = Start::with_text(&config(port, "", limits)).ready();
    for left in ["2", "1", "0"] {
        let answer = ask(port, &[]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("RateLimit"), Some(&*format!("\"address\";r={left};t=1, \"person\";r=59;t=1")));
    }
    let refused = ask(port, &[]);
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(refused.header("RateLimit"), Some("\"address\";r=0;t=1"));
    insta::assert_snapshot!(refused.header("RateLimit-Policy").unwrap(), @r#""address";q=60;w=60;perch-burst=3, "page";q=3000;w=60;perch-burst=1500, "person";q=120;w=60;perch-burst=60, "person-tokens";q=1000000;qu="tokens";w=86400"#);
    let problem: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(problem["detail"], "too many requests come from your address; try again in 1 second");
    assert_eq!(problem["request_id"].as_str(), refused.header("X-Request-Id"));
    // A load balancer is not turned away, and the page and its files are another matter.
    for path in ["health", "ready", ""] {
        assert_eq!(exchange("GET", &format!("http://127.0.0.1:{port}/{path}"), &[], b"").status, 200);
    }
    assert_eq!(exchange("GET", &format!("http://127.0.0.1:{port}/api/conversations"), &[], b"").status, 429);
    wait("the time that was asked for", || (ask(port, &[]).status == 200).then_some(()));
    assert_eq!(perch.messages("WARN"), [] as [&str; 0], "it is no fault of perch's");
}

#[test]
fn a_program_on_the_host_itself_is_told_of_the_limits_that_hold_for_it_alone() {
    let port = free_port();
    let _perch = Start::with_text(&format!("[http]\nlisten = \"127.0.0.1:{port}\"\n")).ready();
    let answer = ask(port, &[]);
    assert_eq!(answer.header("RateLimit-Policy"), Some("\"person-tokens\";q=1000000;qu=\"tokens\";w=86400"));
}

#[test]
fn people_at_one_address_do_not_pay_for_one_another() {
    let port = free_port();
    let limits =
        "[limits.person]\nrequests_per_minute = 4\nburst = 4\n[limits.address]\nrequests_per_minute = 20\nburst = 20";
    let _perch = Start::with_text(&config(port, "", limits)).ready();
    let (hasty, calm) = (Guest::new(port), Guest::new(port));
    let message = json!({ "message": "hello" });
    let statuses: Vec<u16> = (0..30).map(|_| hasty.say(&message).status).collect();
    // The first made somebody of them.
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 4, "{statuses:?}");
    assert_eq!(calm.say(&message).status, 200);
    let refused = hasty.say(&message);
    assert_eq!(refused.header("RateLimit").map(|value| value.starts_with("\"person\";r=0;t=")), Some(true));
    let problem: Value = serde_json::from_slice(&refused.body).unwrap();
    assert!(problem["detail"].as_str().unwrap().starts_with("you ask too fast; try again in 1"), "{problem}");
}

#[test]
fn behind_a_trusted_proxy_every_client_has_their_own_and_nobody_can_be_another() {
    let port = free_port();
    let limits = "[limits.address]\nrequests_per_minute = 2\nburst = 2";
    let text = config(port, "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]", limits);
    let perch = Start::with_text(&text).ready();
    let from = |forwarded: &str| ask(port, &[("X-Forwarded-For", forwarded)]).status;
    assert_eq!([from("198.51.100.1"), from("198.51.100.1"), from("198.51.100.1")], [200, 200, 429]);
    assert_eq!(from("198.51.100.2"), 200);
    // What stands to the left is what the client wrote.
    assert_eq!(from("203.0.113.5, 198.51.100.1"), 429);
    assert_eq!(from("203.0.113.6, 198.51.100.1, 10.0.0.3"), 429);
    assert_eq!(ask(port, &[("Forwarded", "for=203.0.113.7, for=198.51.100.1")]).status, 429);
    // An IPv6 network is one client.
    assert_eq!(from("2001:db8:1:1::1"), 200);
    assert_eq!([from("[2001:db8:1:1::2]:80"), from("2001:db8:1:1:ffff::3")], [200, 429]);
    assert_eq!(from("2001:db8:1:2::1"), 200);
    // Not trusted any more: everything is the proxy's own, and somebody is told why.
    reload(&perch, &config(port, "", limits));
    assert_eq!([from("198.51.100.3"), from("198.51.100.4"), from("198.51.100.5")], [200, 200, 429]);
    insta::assert_snapshot!(perch.messages("WARN").join("\n"), @r#"127.0.0.1 forwards requests of others, and http.trusted_proxies does not name it: all who come by way of it are one client to the limits, and where limits.exempt names it, as it does this machine by default, there are none for them; if it is a proxy of yours, write trusted_proxies = ["127.0.0.1"]"#);
}

#[test]
fn limits_that_change_count_what_was_used_before() {
    let port = free_port();
    let with =
        |burst: u32| config(port, "", &format!("[limits.address]\nrequests_per_minute = {burst}\nburst = {burst}"));
    let perch = Start::with_text(&with(20)).ready();
    for _ in 0..5 {
        assert_eq!(ask(port, &[]).status, 200);
    }
    reload(&perch, &with(6));
    assert_eq!([ask(port, &[]).status, ask(port, &[]).status], [200, 429], "5 of 6 were used");
    reload(&perch, &with(100));
    let left = ask(port, &[]);
    assert_eq!(left.status, 200, "94 of 100 are left");
    assert!(left.header("RateLimit").unwrap().starts_with("\"address\";r=9"), "{:?}", left.header("RateLimit"));
    let steps = perch.status()["changes"][0]["steps"].clone();
    assert_eq!(steps, json!(["limits.address.requests_per_minute: 6 a minute, 6 at once → 100 a minute, 100 at once"]));
}

/// perch with a model behind it, under these limits.
fn with_model(upstream: &Upstream, port: u16, limits: &str) -> Perch {
    let model = format!("[chat]\nbackend = \"openai\"\nbase_url = \"{}\"\nmodel = \"{MODEL}\"\n", upstream.url());
    let perch = Start::with_text(&(config(port, "", limits) + &model)).ready();
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    perch
}

#[test]
fn an_answer_costs_the_tokens_that_the_api_says_and_who_owes_them_waits() {
    let (upstream, port) = (Upstream::start(), free_port());
    let _perch = with_model(&upstream, port, "[limits.person]\ntokens_per_day = 86_400");
    let guest = Guest::new(port);
    let answer = json!({ "choices": [{ "message": { "content": "hm" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 7, "total_tokens": 90_000 } });
    upstream.fault(Fault::Refuse(200, "", answer));
    let message = json!({ "message": "hello" });
    assert_eq!(guest.say(&message).status, 200, "it is charged when it is known");
    let refused = guest.say(&message);
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.header("Retry-After"), Some("3601"));
    assert_eq!(refused.header("RateLimit"), Some("\"person-tokens\";r=0;t=3601"));
    let problem: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(problem["detail"], "you have had as many answers as you may have for now; try again in 61 minutes");
    // Reading costs nothing, and neither does somebody else's debt.
    assert_eq!(guest.request("GET", "/api/conversations", &[], b"").status, 200);
    assert_eq!(Guest::new(port).say(&message).status, 200);
    assert_eq!(upstream.asked().len(), 2);
}

#[test]
fn an_answer_that_somebody_stopped_is_charged_by_its_length() {
    let (upstream, port) = (Upstream::start(), free_port());
    let _perch = with_model(&upstream, port, "[limits.address]\ntokens_per_day = 500");
    upstream.fault(Fault::Stream(piece(&"word ".repeat(800)), Then::Hang));
    let mut stream = Stream::open(port, &json!({ "message": "go on" }));
    stream.delta();
    drop(stream);
    upstream.wait_left(0);
    // Until then it counts as under way.
    let charged = |answer: &Response| answer.status == 429 && answer.header("Retry-After") != Some("5");
    let refused = wait("the charge", || Some(ask(port, &[])).filter(charged));
    // Of about 1,000, 500 are owed: a day, and not more.
    let wait: u32 = refused.header("Retry-After").unwrap().parse().unwrap();
    assert!((86_000..=86_400).contains(&wait), "{wait}");
    assert!(refused.text().contains("try again in 24 hours"), "{}", refused.text());
    assert!(refused.text().contains("your address has had as many answers"), "{}", refused.text());
}

#[test]
fn questions_that_come_all_at_once_do_not_cost_more_than_there_is() {
    let (upstream, port) = (Upstream::start(), free_port());
    let _perch = with_model(&upstream, port, "[limits.address]\ntokens_per_day = 500");
    let mut person = Person::connect(port);
    upstream.fault(Fault::Stream(piece("Well"), Then::Hang));
    for number in 0..4 {
        person.send(&json!({ "type": "ask", "text": "how are you?", "ref": number }));
    }
    let (mut told, mut refused) = (Vec::new(), Vec::new());
    while told.len() + refused.len() < 4 {
        let frame = person.frame();
        match frame["type"].as_str() {
            Some("delta") => told.push(frame["ref"].clone()),
            _ => refused.push(frame["problem"].clone()),
        }
    }
    assert_eq!(told, [0]);
    for problem in refused {
        assert_eq!(problem["status"], 429);
        let sentence =
            "answers that are being made may take all that your address may have for now; try again in 5 seconds";
        assert_eq!(problem["detail"], sentence);
    }
    // Another way in is none.
    let other = ask(port, &[]);
    assert_eq!((other.status, other.header("Retry-After")), (429, Some("5")), "{}", other.text());
    assert_eq!(upstream.asked().len(), 1);
    // It cost next to nothing.
    person.send(&json!({ "type": "stop", "ref": 0 }));
    wait("what was put by to be free", || (ask(port, &[]).status == 200).then_some(()));
}

#[test]
fn limits_that_are_turned_off_and_on_again_know_who_used_what() {
    let (upstream, port) = (Upstream::start(), free_port());
    let model = format!("[chat]\nbackend = \"openai\"\nbase_url = \"{}\"\nmodel = \"{MODEL}\"\n", upstream.url());
    let with = |limits: &str| config(port, "", limits) + &model;
    let on = "[limits.address]\nrequests_per_minute = 5\nburst = 5\ntokens_per_day = 10_000";
    let perch = Start::with_text(&with(on)).ready();
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    let answer = json!({ "choices": [{ "message": { "content": "hm" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 7, "total_tokens": 12_000 } });
    upstream.fault(Fault::Refuse(200, "", answer));
    assert_eq!(ask(port, &[]).status, 200);
    assert_eq!(ask(port, &[]).header("RateLimit").map(|value| value.starts_with("\"address-tokens\";r=0")), Some(true));
    reload(&perch, &with("[limits.address]\nrequests_per_minute = \"off\"\ntokens_per_day = \"off\""));
    for _ in 0..20 {
        assert_eq!(ask(port, &[]).status, 200);
    }
    reload(&perch, &with("[limits.address]\nrequests_per_minute = 5\nburst = 5\ntokens_per_day = \"off\""));
    assert_eq!(ask(port, &[]).header("RateLimit").map(|value| value.starts_with("\"address\";r=0")), Some(true));
    reload(&perch, &with("[limits.address]\nrequests_per_minute = \"off\"\ntokens_per_day = 10_000"));
    let refused = ask(port, &[]);
    let wait: u32 = refused.header("Retry-After").unwrap().parse().unwrap();
    assert!((17_000..19_000).contains(&wait), "{wait}");
}

#[test]
fn the_total_is_for_everybody() {
    let port = free_port();
    let text = config(port, "", "[limits.total]\nrequests_per_minute = 2\nburst = 2");
    let _perch = Start::with_text(&text).ready();
    assert_eq!([ask(port, &[]).status, ask(port, &[]).status], [200, 200]);
    let refused = ask(port, &[]);
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("RateLimit"), Some("\"total\";r=0;t=30"));
    assert!(
        refused.text().contains("too many people ask at the moment; try again in 30 seconds"),
        "{}",
        refused.text()
    );
}

#[test]
fn a_client_has_so_many_connections_at_once() {
    let port = free_port();
    let _perch = Start::with_text(&config(port, "", "[limits.address]\nconnections = 3")).ready();
    let mut open: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let request = b"GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n";
    wait("them to be counted", || raw::send(port, request).is_empty().then_some(()));
    open.pop();
    wait("room for one more", || (raw::statuses(&raw::send(port, request)) == [200]).then_some(()));
}
