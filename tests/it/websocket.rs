//! `GET /api/ws` with a client that somebody else wrote: people in rooms, questions, and everything that goes wrong with
//! connections.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::exchange::exchange;
use super::support::perch::{Perch, Start, free_port, wait};
use super::support::socket::{Line, PING, Person, TEXT};
use super::support::upstream::{Fault, MODEL, Then, Upstream, piece};
use super::tls;

/// perch with the echo as its model.
fn start() -> (Perch, u16) {
    let port = free_port();
    let config = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n[chat]\nbackend = \"echo\"\n");
    (Start::with_text(&config).ready(), port)
}

fn say(room: &str, text: &str) -> Value {
    json!({ "type": "say", "room": room, "text": text })
}

/// A counter, as Prometheus gets it.
fn metric(perch: &Perch, name: &str) -> u64 {
    let mut admin = std::os::unix::net::UnixStream::connect(perch.runtime_dir().join("admin.sock")).unwrap();
    admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n").unwrap();
    let text = std::io::read_to_string(admin).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

#[test]
fn people_in_a_room_read_the_same_in_the_same_order() {
    let (_perch, port) = start();
    let room = "日本 ☃";
    let (mut one, mut other) = (Person::connect(port), Person::connect(port));
    assert_eq!(one.join(room, None), json!({ "type": "joined", "room": room, "members": 1, "history": [] }));
    assert_eq!(other.join(room, None)["members"], 2);
    assert_eq!(one.frame(), json!({ "type": "members", "room": room, "members": 2 }));
    let mine = one.say(room, "héllo");
    let mut theirs = other.frame_of("message");
    let name = theirs["from"].as_str().unwrap();
    assert_eq!(name.len(), 8, "{name}");
    // What its author calls it is theirs alone.
    theirs["ref"] = json!("own");
    assert_eq!(theirs, mine);
    let answer = other.say(room, "hi");
    assert!(answer["id"].as_u64() > mine["id"].as_u64() && answer["from"] != mine["from"]);
    assert_eq!(one.frame_of("message")["text"], "hi");
    // Whoever comes later reads it too.
    let mut late = Person::connect(port);
    let joined = late.join(room, None);
    let texts: Vec<&Value> = joined["history"].as_array().unwrap().iter().map(|said| &said["text"]).collect();
    assert_eq!((texts, &joined["members"]), (vec![&json!("héllo"), &json!("hi")], &json!(3)));
    one.send(&json!({ "type": "leave", "room": room }));
    one.send(&say(room, "I am gone"));
    assert_eq!(one.frame_of("error")["problem"]["status"], 409);
    // And hears nothing of it any more.
    other.say(room, "are you?");
    one.send(&say(room, "I am"));
    assert_eq!(one.frame()["type"], "error");
}

#[test]
fn whoever_lost_the_connection_goes_on_without_a_gap_and_without_a_double() {
    let (_perch, port) = start();
    let mut stays = Person::connect(port);
    stays.join("here", None);
    let mut goes = Person::connect(port);
    goes.join("here", None);
    let mut last = 0;
    for number in 0..20 {
        stays.say("here", &number.to_string());
        last = goes.frame_of("message")["id"].as_u64().unwrap();
    }
    // No close frame, nothing.
    drop(goes);
    for number in 20..40 {
        stays.say("here", &number.to_string());
    }
    let mut back = Person::connect(port);
    let joined = back.join("here", Some(last));
    assert_eq!(joined["incomplete"], Value::Null);
    let missed: Vec<&str> =
        joined["history"].as_array().unwrap().iter().map(|said| said["text"].as_str().unwrap()).collect();
    let expected: Vec<String> = (20..40).map(|number| number.to_string()).collect();
    assert_eq!(missed, expected);
    stays.say("here", "on we go");
    assert_eq!(back.frame_of("message")["text"], "on we go");
}

#[test]
fn a_restart_closes_with_1012_and_people_come_back_to_higher_ids() {
    let (mut perch, port) = start();
    let mut person = Person::connect(port);
    person.join("here", None);
    let last = person.say("here", "before")["id"].as_u64().unwrap();
    let others: Vec<Line> = (0..100).map(|_| Line::open(port)).collect();
    let begun = Instant::now();
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(person.closed(), 1012);
    for mut other in others {
        assert_eq!(other.closed(), 1012);
    }
    let _perch = perch.again().ready();
    let mut person = Person::connect(port);
    // Nobody knows any more what was said in between.
    assert_eq!(person.join("here", Some(last))["incomplete"], true);
    assert!(person.say("here", "after")["id"].as_u64().unwrap() > last);
}

#[test]
fn people_over_tls_talk_on_while_the_certificate_changes() {
    let host = tls::Host::start();
    let authority = host.path("authority.pem");
    let mut one = Person::connect_tls("chat.test", host.https, &authority);
    let mut other = Person::connect_tls("chat.test", host.https, &authority);
    one.join("here", None);
    other.join("here", None);
    one.say("here", "before");
    assert_eq!(other.frame_of("message")["text"], "before");
    host.certify(&["new.test"]);
    host.wait_served("new.test");
    // Whoever was there has noticed nothing, and whoever comes now is let in by the new name.
    one.say("here", "after");
    assert_eq!(other.frame_of("message")["text"], "after");
    let mut late = Person::connect_tls("new.test", host.https, &authority);
    let joined = late.join("here", None);
    assert_eq!((&joined["members"], joined["history"].as_array().unwrap().len()), (&json!(3), 2));
    late.say("here", "hello");
    assert_eq!(one.frame_of("message")["text"], "hello");
}

#[test]
fn what_is_no_frame_is_answered_with_an_error_and_the_connection_goes_on() {
    let (_perch, port) = start();
    let mut person = Person::connect(port);
    let long = "x".repeat(9_000);
    for (frame, status, reference) in [
        (r#"{"type":"dance","ref":"a"}"#.to_owned(), 400, json!("a")),
        ("nonsense".to_owned(), 400, Value::Null),
        ("[]".to_owned(), 400, Value::Null),
        (r#"{"type":"join"}"#.to_owned(), 400, Value::Null),
        (r#"{"type":"join","room":"a\nb"}"#.to_owned(), 400, Value::Null),
        (json!({ "type": "join", "room": "x".repeat(65) }).to_string(), 400, Value::Null),
        (r#"{"type":"say","room":"here","text":"hello","ref":7}"#.to_owned(), 409, json!(7)),
        (json!({ "type": "say", "room": "here", "text": long, "ref": "b" }).to_string(), 413, json!("b")),
        (r#"{"type":"say","room":"here","text":" ","ref":"c"}"#.to_owned(), 400, json!("c")),
        (r#"{"type":"ask","text":"","ref":"d"}"#.to_owned(), 400, json!("d")),
        (r#"{"type":"ask","text":"?","ref":["e"]}"#.to_owned(), 400, Value::Null),
        // Whatever is asked for, its error says which it was.
        (r#"{"type":"join","room":" ","ref":"g"}"#.to_owned(), 400, json!("g")),
        (r#"{"type":"join","ref":-1}"#.to_owned(), 400, json!(-1)),
        (r#"{"type":"leave","room":"nowhere","ref":"h"}"#.to_owned(), 409, json!("h")),
        (r#"{"type":"leave","room":"nowhere","ref":1.5}"#.to_owned(), 409, json!(1.5)),
        (json!({ "type": "leave", "room": "here", "ref": long }).to_string(), 400, json!(long)),
        (r#"{"type":"leave","room":"nowhere","ref":18446744073709551615}"#.to_owned(), 409, json!(u64::MAX)),
        // It would come back as another number.
        (r#"{"type":"leave","room":"nowhere","ref":18446744073709551616}"#.to_owned(), 400, Value::Null),
        (r#"{"type":"say","room":"here","text":"?","ref":-9223372036854775809}"#.to_owned(), 400, Value::Null),
        (
            r#"{"type":"ask","text":"?","conversation":"0123456789abcdef0123456789abcdef","ref":"f"}"#.to_owned(),
            404,
            json!("f"),
        ),
    ] {
        person.act(&json!(["send", frame]));
        let error = person.frame();
        assert_eq!(
            (&error["type"], &error["problem"]["status"], &error["ref"]),
            (&json!("error"), &json!(status), &reference),
            "{frame}: {error}"
        );
        assert!(error["problem"]["request_id"].is_string());
    }
    // In pieces it is a frame all the same, and a ping is answered.
    person.act(&json!(["fragments", [r#"{"type":"join","#, r#""room":"he"#, r#"re"}"#]]));
    assert_eq!(person.frame()["type"], "joined");
    person.act(&json!(["ping"]));
    assert_eq!(person.next(), json!(["pong"]));
    for number in 1..16 {
        person.join(&number.to_string(), None);
    }
    person.send(&json!({ "type": "join", "room": "one too many" }));
    assert_eq!(person.frame_of("error")["problem"]["status"], 409);
    person.act(&json!(["close"]));
    assert_eq!(person.closed(), 1000);
}

#[test]
fn whoever_does_not_keep_to_the_protocol_is_told_why_and_closed() {
    let (_perch, port) = start();
    let mut person = Person::connect(port);
    person.act(&json!(["binary", "00ff"]));
    assert_eq!(person.closed(), 1003);
    let mut person = Person::connect(port);
    person.act(&json!(["send", "x".repeat(1 << 20)]));
    assert_eq!(person.closed(), 1009);
    let breaks = |first: u8, payload: &[u8]| {
        let mut line = Line::open(port);
        line.send(first, payload);
        line.closed()
    };
    assert_eq!(breaks(0x80 | TEXT, b"\xff\xfe"), 1007);
    // An opcode that there is not, a reserved bit, a continuation of nothing, a ping in pieces.
    for first in [0x83, 0xc0 | TEXT, 0x80, PING] {
        assert_eq!(breaks(first, b"x"), 1002, "{first:#x}");
    }
    let mut line = Line::open(port);
    line.stream.write_all(&[0x80 | TEXT, 2, b'h', b'i']).unwrap();
    assert_eq!(line.closed(), 1002, "not masked");
}

#[test]
fn pages_of_another_origin_and_what_is_no_handshake_are_refused() {
    let (_perch, port) = start();
    for origin in ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1"] {
        let refused = Person::try_connect(port, &[&format!("Origin: {origin}")]);
        assert_eq!(refused.next(), json!(["refused", 403]), "{origin}");
    }
    let own = Person::try_connect(port, &[&format!("Origin: http://127.0.0.1:{port}")]);
    assert_eq!(own.next(), json!(["open"]));
    let url = format!("http://127.0.0.1:{port}/api/ws");
    assert_eq!(exchange("GET", &url, &[], b"").status, 426);
    assert_eq!(exchange("POST", &url, &[], b"").status, 405);
    let old = [("Upgrade", "websocket"), ("Connection", "upgrade"), ("Sec-WebSocket-Version", "8")];
    // The helper asks for the connection's end as well, in a header of its own.
    let answer = exchange("GET", &url, &old, b"");
    assert_eq!((answer.status, answer.header("Sec-WebSocket-Version")), (426, Some("13")));
}

#[test]
fn a_site_that_is_taken_off_the_list_loses_the_sockets_it_has() {
    let port = free_port();
    let config = |origins: &str| format!("[http]\nlisten = \"127.0.0.1:{port}\"\norigins = [{origins}]\n");
    let perch = Start::with_text(&config("\"https://a.example\", \"https://b.example\"")).ready();
    let page = |origin: &str| {
        let person = Person::try_connect(port, &[&format!("Origin: {origin}")]);
        assert_eq!(person.next(), json!(["open"]), "{origin}");
        person
    };
    let (mut taken, mut listed) = (page("https://a.example"), page("https://b.example"));
    let silent = page("https://a.example");
    let (mut own, mut program) = (page(&format!("http://127.0.0.1:{port}")), Person::connect(port));
    taken.join("here", None);
    for (person, room) in [(&mut listed, "1"), (&mut own, "2"), (&mut program, "3")] {
        person.join(room, None);
    }
    std::fs::write(perch.config_path(), config("\"https://b.example\"")).unwrap();
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0), "{}", perch.log_text());
    taken.send(&say("here", "I am still here"));
    let reason = "the operator of perch does not allow this site any more (http.origins)";
    assert_eq!(taken.farewell(), (1008, reason.to_owned()));
    assert_eq!(Person::try_connect(port, &["Origin: https://a.example"]).next(), json!(["refused", 403]));
    for (person, room) in [(&mut listed, "1"), (&mut own, "2"), (&mut program, "3")] {
        person.say(room, "so am I");
    }
    // Whoever says nothing, the next time that they are looked at.
    assert_eq!(silent.farewell(), (1008, reason.to_owned()));
}

#[test]
fn a_flood_is_answered_with_errors_and_then_closed_while_others_talk_on() {
    let (_perch, port) = start();
    let mut other = Person::connect(port);
    other.join("here", None);
    let mut flood = Person::connect(port);
    flood.join("here", None);
    for number in 0..300 {
        flood.send(&say("here", &number.to_string()));
    }
    let mut refused = 0;
    let code = loop {
        let heard = flood.next();
        if heard[0] == "closed" {
            break heard[1].clone();
        }
        let frame: Value = serde_json::from_str(heard[1].as_str().unwrap()).unwrap();
        if frame["type"] == "error" {
            assert_eq!(frame["problem"]["status"], 429, "{frame}");
            refused += 1;
        }
    };
    assert_eq!(code, 1008);
    assert!(refused >= 50, "{refused}");
    // What is within the limit is said, in its order.
    for number in 0..50 {
        assert_eq!(other.frame_of("message")["text"], number.to_string());
    }
}

/// Somebody who comes by way of a proxy, from this address.
#[track_caller]
fn from(port: u16, address: &str) -> Person {
    let person = Person::try_connect(port, &[&format!("X-Forwarded-For: {address}")]);
    assert_eq!(person.next(), json!(["open"]));
    person
}

#[test]
fn whoever_begins_rooms_without_end_is_told_to_leave_one_and_the_others_begin_theirs() {
    let port = free_port();
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\ntrusted_proxies = [\"127.0.0.1\"]\n[limits.address]\nrooms = 3\n"
    );
    let _perch = Start::with_text(&config).ready();
    // Two connections of one network, and somebody elsewhere.
    let (mut one, mut two) = (from(port, "2001:db8::1"), from(port, "2001:db8::2"));
    let mut other = from(port, "203.0.113.1");
    one.join("1", None);
    one.join("2", None);
    two.join("3", None);
    assert_eq!(two.join("1", None)["members"], 2, "what there is costs nothing");
    two.send(&json!({ "type": "join", "room": "4", "ref": "mine" }));
    let refused = two.frame_of("error");
    assert_eq!((&refused["problem"]["status"], &refused["ref"]), (&json!(429), &json!("mine")));
    assert_eq!(
        refused["problem"]["detail"],
        "your address has begun 3 rooms that there still are, and may have no more at once; leave one of them, or join \
         one that somebody is in"
    );
    for room in ["4", "5", "6", "1"] {
        other.join(room, None);
    }
    // As the sentence says.
    assert_eq!(two.join("4", None)["members"], 2);
    one.send(&json!({ "type": "leave", "room": "2" }));
    one.join("7", None);
}

#[test]
fn whoever_floods_rooms_over_many_connections_is_stopped_and_the_others_talk_on() {
    let port = free_port();
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\ntrusted_proxies = [\"127.0.0.1\"]\n[limits.address]\n\
         messages_per_minute = 10\n"
    );
    let _perch = Start::with_text(&config).ready();
    let (mut one, mut two) = (from(port, "203.0.113.1"), from(port, "203.0.113.1"));
    let mut other = from(port, "203.0.113.2");
    // As many as a connection may be in cost nothing, so that all can come back after a restart.
    for number in 0..16 {
        two.join(&number.to_string(), None);
    }
    one.join("here", None);
    other.join("here", None);
    // It counts as eight.
    one.say("here", &"x".repeat(8_000));
    assert_eq!(other.frame_of("message")["text"].as_str().map(str::len), Some(8_000));
    for (person, room) in [(&mut one, "here"), (&mut two, "0")] {
        person.send(&json!({ "type": "say", "room": room, "text": "more", "ref": 7 }));
        let refused = person.frame_of("error");
        assert_eq!((&refused["ref"], &refused["problem"]["status"]), (&json!(7), &json!(429)));
        let detail = refused["problem"]["detail"].as_str().unwrap();
        assert!(detail.starts_with("too many messages for rooms come from your address; try again in 4"), "{detail}");
    }
    other.say("here", "are they gone?");
    // Having what was said again and again is no way around it.
    two.send(&json!({ "type": "join", "room": "0", "ref": "again" }));
    assert_eq!(two.frame_of("error")["ref"], "again");
    // Who is refused stays where they are.
    let mut third = from(port, "203.0.113.3");
    third.join("0", None);
    third.say("0", "and you?");
    assert_eq!(two.frame_of("message")["text"], "and you?");
}

/// Connects with a receive buffer so small that little is on the way.
fn connect_narrow(port: u16) -> TcpStream {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4_096).unwrap();
    rustix::net::connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    TcpStream::from(socket)
}

#[test]
fn a_slow_reader_is_dropped_and_the_others_get_everything() {
    const TALKERS: usize = 30;
    const EACH: usize = 50;
    let (perch, port) = start();
    let mut slow = Line::over(connect_narrow(port), port);
    let mut quick = Line::open(port);
    for line in [&mut slow, &mut quick] {
        line.send_frame(&json!({ "type": "join", "room": "here" }));
        line.frame_of("joined");
    }
    let text = "x".repeat(8_000);
    for _ in 0..TALKERS {
        // Nobody may say so much: it is somebody else each time.
        let mut talker = Line::open(port);
        talker.send_frame(&json!({ "type": "join", "room": "here" }));
        talker.frame_of("joined");
        for _ in 0..EACH {
            talker.send_frame(&say("here", &text));
            let id = talker.frame_of("message")["id"].clone();
            assert_eq!(quick.frame_of("message")["id"], id);
        }
    }
    wait("the slow reader to be dropped", || (metric(&perch, "perch_websocket_slow_total") == 1).then_some(()));
    wait("the talkers' end to be noticed", || (metric(&perch, "perch_websocket_open") == 1).then_some(()));
}

#[test]
fn two_thousand_at_once_hear_what_is_said() {
    const PEOPLE: usize = 2_000;
    // Both ends of each connection need a descriptor, here and in perch.
    assert!(perch::os::raise_file_limit() > 2 * PEOPLE as u64);
    let (perch, port) = start();
    let mut lines: Vec<Line> = (0..PEOPLE).map(|_| Line::open(port)).collect();
    for line in &mut lines {
        line.send_frame(&json!({ "type": "join", "room": "here" }));
    }
    for line in &mut lines {
        line.frame_of("joined");
    }
    assert_eq!(metric(&perch, "perch_websocket_open"), PEOPLE as u64);
    lines[7].send_frame(&say("here", "hello, all of you"));
    for line in &mut lines {
        assert_eq!(line.frame_of("message")["text"], "hello, all of you");
    }
    drop(lines);
    wait("their end to be noticed", || (metric(&perch, "perch_websocket_open") == 0).then_some(()));
}

#[test]
fn somebody_who_is_silent_is_asked_whether_they_are_there_and_then_dropped() {
    let (perch, port) = start();
    let mut silent = Line::open(port);
    let mut there = Person::connect(port);
    assert_eq!(silent.next(), Some((PING, Vec::new())));
    assert_eq!(silent.next(), None);
    assert_eq!(metric(&perch, "perch_websocket_silent_total"), 1);
    // Whoever has a client that answers notices nothing.
    assert_eq!(there.join("here", None)["members"], 1);
}

/// perch with an upstream behind its chat.
fn with_upstream() -> (Perch, u16, Upstream) {
    let (port, upstream) = (free_port(), Upstream::start());
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[chat]\nbackend = \"openai\"\nbase_url = \"{}\"\nmodel = \"{MODEL}\"\n",
        upstream.url()
    );
    let perch = Start::with_text(&config).ready();
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    (perch, port, upstream)
}

fn ask(text: &str, conversation: &Value, reference: &str) -> Value {
    json!({ "type": "ask", "text": text, "conversation": conversation, "ref": reference })
}

/// The text of an answer, and its conversation.
#[track_caller]
fn answered(person: &Person, reference: &str) -> (String, Value) {
    let mut text = String::new();
    loop {
        let frame = person.frame();
        assert_eq!(frame["ref"], reference, "{frame}");
        match frame["type"].as_str().unwrap() {
            "delta" => text.push_str(frame["text"].as_str().unwrap()),
            "done" => return (text, frame["conversation"].clone()),
            _ => panic!("{frame}"),
        }
    }
}

/// Waits until the last request to the upstream has ended before its time, for at most a second.
#[track_caller]
fn ends_within_a_second(upstream: &Upstream, since: Instant) {
    let left = wait("the request to the model to end", || upstream.asked().last().unwrap().left);
    assert!(left.saturating_duration_since(since) < Duration::from_secs(1));
}

#[test]
fn a_question_is_answered_piece_by_piece_by_the_same_model_and_in_the_same_conversations() {
    let (_perch, port, upstream) = with_upstream();
    let mut person = Person::connect(port);
    person.send(&ask("hello there", &Value::Null, "a"));
    let (text, conversation) = answered(&person, "a");
    assert_eq!(text, "You said: hello there");
    person.send(&ask("and now?", &conversation, "b"));
    assert_eq!(answered(&person, "b"), ("You said: and now?".to_owned(), conversation.clone()));
    let told = upstream.asked().last().unwrap().body["messages"].clone();
    let said: Vec<&Value> = told.as_array().unwrap().iter().map(|turn| &turn["content"]).collect();
    assert_eq!(said, ["hello there", "You said: hello there", "and now?"]);
    // It is nobody else's.
    let mut other = Person::connect(port);
    other.send(&ask("what did they say?", &conversation, "c"));
    let error = other.frame();
    assert_eq!((&error["ref"], &error["problem"]["status"]), (&json!("c"), &json!(404)));
    // What goes wrong is a problem as over HTTP.
    upstream.fault(Fault::Refuse(401, "", json!({})));
    person.send(&ask("and then?", &conversation, "d"));
    assert_eq!(person.frame_of("error")["problem"]["status"], 502);
}

#[test]
fn a_question_that_is_stopped_and_one_whose_asker_goes_away_end_at_the_model_within_a_second() {
    let (_perch, port, upstream) = with_upstream();
    let mut person = Person::connect(port);
    upstream.fault(Fault::Stream(piece("Once upon a time"), Then::Hang));
    person.send(&ask("tell me a story", &Value::Null, "a"));
    assert_eq!(person.frame()["text"], "Once upon a time");
    let stopped = Instant::now();
    person.send(&json!({ "type": "stop", "ref": "a" }));
    let done = person.frame();
    assert_eq!((&done["type"], &done["ref"]), (&json!("done"), &json!("a")));
    ends_within_a_second(&upstream, stopped);
    // What they have read is what was said.
    person.send(&ask("go on", &done["conversation"], "b"));
    answered(&person, "b");
    let told = upstream.asked().last().unwrap().body["messages"][1]["content"].clone();
    assert_eq!(told, "Once upon a time");
    upstream.fault(Fault::Stream(piece("Once"), Then::Hang));
    person.send(&ask("another", &Value::Null, "c"));
    assert_eq!(person.frame()["text"], "Once");
    let gone = Instant::now();
    drop(person);
    ends_within_a_second(&upstream, gone);
}

#[test]
fn so_many_questions_are_answered_at_once_and_no_more() {
    let (_perch, port, upstream) = with_upstream();
    let mut person = Person::connect(port);
    for number in 0..4 {
        upstream.fault(Fault::Stream(piece("Well"), Then::Hang));
        person.send(&ask("?", &Value::Null, &number.to_string()));
        assert_eq!(person.frame()["text"], "Well");
    }
    person.send(&ask("?", &Value::Null, "one too many"));
    let error = person.frame();
    assert_eq!((&error["ref"], &error["problem"]["status"]), (&json!("one too many"), &json!(429)));
    person.send(&json!({ "type": "stop", "ref": "2" }));
    assert_eq!(person.frame()["type"], "done");
    person.send(&ask("once more", &Value::Null, "4"));
    assert_eq!(answered(&person, "4").0, "You said: once more");
}
