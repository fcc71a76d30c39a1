//! What people said: whose it is, what outlives perch, how it is looked at and deleted, and how a broken disk costs nobody
//! an answer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::chat::{self, Crowd, Guest};
use super::support::exchange::Response;
use super::support::namespace::Mounts;
use super::support::perch::{Perch, Start, free_port, wait};
use super::support::upstream::{Fault, MODEL, Then, Upstream, piece};

/// A configuration that lets everybody ask as fast as they like.
fn config(port: u16, lines: &str) -> String {
    format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[limits.person]\nrequests_per_minute = \"off\"\ntokens_per_day = \"off\"\n{lines}\n"
    )
}

/// perch that echoes, with these lines in its configuration as well.
fn perch(lines: &str) -> (Start, u16) {
    let port = free_port();
    (Start::with_text(&config(port, lines)), port)
}

fn parsed(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

/// Says something, and returns the conversation.
#[track_caller]
fn say(guest: &Guest, message: &str, conversation: Option<&str>) -> String {
    let answer = guest.say(&json!({ "message": message, "conversation": conversation }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    parsed(&answer)["conversation"].as_str().unwrap().to_owned()
}

fn get(guest: &Guest, path: &str) -> Response {
    guest.request("GET", path, &[], b"")
}

fn read(guest: &Guest, conversation: &str) -> Value {
    let answer = get(guest, &format!("/api/conversations/{conversation}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    parsed(&answer)
}

/// What was said in a conversation: who, what, and how it ended.
fn said(guest: &Guest, conversation: &str) -> Vec<String> {
    let shown = |message: &Value| {
        let state = message["state"].as_str().map(|state| format!(" ({state})")).unwrap_or_default();
        format!("{}: {}{state}", message["from"].as_str().unwrap(), message["text"].as_str().unwrap())
    };
    read(guest, conversation)["messages"].as_array().unwrap().iter().map(shown).collect()
}

/// The titles of somebody's conversations.
fn listed(guest: &Guest) -> Vec<String> {
    let answer = get(guest, "/api/conversations");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let list = parsed(&answer);
    let titles = list["conversations"].as_array().unwrap().iter();
    titles.map(|entry| entry["title"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn whoever_comes_is_known_again_by_a_cookie() {
    let (start, port) = perch("");
    let _perch = start.ready();
    let first = chat::post(port, "hello");
    let cookie = first.header("Set-Cookie").unwrap();
    let (value, rest) = cookie.split_once(';').unwrap();
    assert_eq!(rest, " Path=/; HttpOnly; SameSite=Lax; Max-Age=34560000");
    assert_eq!(value.len(), "perch=".len() + 32);
    assert_ne!(chat::post(port, "hello").header("Set-Cookie"), Some(cookie), "nobody gets another's");
    // The page gives one, too, and no cache that others share keeps it. Whoever has one keeps it.
    let guest = Guest::new(port);
    let page = get(&guest, "/");
    assert_eq!(page.header("Cache-Control"), Some("private, no-cache"));
    let own = guest.cookie().unwrap();
    assert_eq!(get(&guest, "/").header("Set-Cookie"), None);
    assert_eq!(guest.say(&json!({ "message": "hello" })).header("Set-Cookie"), None);
    assert_eq!(guest.cookie().unwrap(), own);
    // What is none of perch's is none.
    let forged = [("Cookie", "perch=1; perch=../../etc/passwd")];
    let answer = chat_with(port, &forged);
    assert!(answer.header("Set-Cookie").is_some());
    assert_eq!(get(&Guest::new(port), "/health").header("Set-Cookie"), None);
}

fn chat_with(port: u16, headers: &[(&str, &str)]) -> Response {
    let mut all = vec![("Content-Type", "application/json")];
    all.extend(headers);
    Guest::new(port).request("POST", "/api/chat", &all, br#"{"message": "hello"}"#)
}

#[test]
fn a_conversation_is_nobody_elses() {
    let (start, port) = perch("");
    let perch = start.ready();
    let (ann, bob) = (Guest::new(port), Guest::new(port));
    let conversation = say(&ann, "what only ann knows", None);
    say(&bob, "what only bob knows", None);
    let nobody = Guest::new(port);
    for guest in [&bob, &nobody] {
        for id in [&*conversation, "0123456789abcdef0123456789abcdef", "1", "../x", "%27"] {
            let paths = [("GET", format!("/api/conversations/{id}")), ("DELETE", format!("/api/conversations/{id}"))];
            for (method, path) in paths {
                let answer = guest.request(method, &path, &[], b"");
                assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
                assert!(!answer.text().contains("ann"), "{}", answer.text());
            }
            let answer = guest.say(&json!({ "message": "and?", "conversation": id }));
            assert_eq!(answer.status, 404, "{}", answer.text());
        }
        assert!(!get(guest, "/api/export").text().contains("ann knows"));
        assert!(!get(guest, "/api/conversations").text().contains(&conversation));
        assert_eq!(guest.request("DELETE", "/api/conversations", &[], b"").status, 204);
    }
    assert_eq!(said(&ann, &conversation), ["you: what only ann knows", "perch: what only ann knows"]);
    assert_eq!(listed(&bob), [""; 0], "bob deleted his own");
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

#[test]
fn what_was_said_is_listed_read_exported_and_deleted() {
    let (start, port) = perch("");
    let _perch = start.ready();
    let guest = Guest::new(port);
    let first = say(&guest, "the first\nthing", None);
    let second = say(&guest, "the second", None);
    // What was said within one millisecond is in no order.
    std::thread::sleep(Duration::from_millis(2));
    say(&guest, "and on", Some(&first));
    let list = get(&guest, "/api/conversations");
    assert_eq!(list.header("Cache-Control"), Some("no-store"));
    let list = parsed(&list);
    let entry = |index: usize| &list["conversations"][index];
    assert_eq!(
        (&entry(0)["id"], &entry(0)["title"], &entry(0)["messages"]),
        (&json!(first), &json!("the first thing"), &json!(4))
    );
    assert_eq!((&entry(1)["id"], &entry(1)["messages"]), (&json!(second), &json!(2)));
    assert!(list["next"].is_null(), "{list}");
    let moment = entry(0)["updated"].as_str().unwrap();
    assert!(moment.len() == 24 && moment.ends_with('Z') && moment.starts_with("20"), "{moment}");
    let conversation = read(&guest, &first);
    assert_eq!(conversation["title"], "the first thing");
    let messages = conversation["messages"].as_array().unwrap();
    let ids: Vec<u64> = messages.iter().map(|message| message["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted() && ids.len() == 4, "{ids:?}");
    assert_eq!(
        said(&guest, &first),
        ["you: the first\nthing", "perch: the first\nthing", "you: and on", "perch: and on"]
    );
    let export = get(&guest, "/api/export");
    assert_eq!(export.header("Content-Disposition"), Some("attachment; filename=\"perch-export.json\""));
    let text = export.text();
    // The stand-in for a client does not read chunks.
    for part in ["\"person\":\"visitor:", "the first\\nthing", "the second", "and on"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(guest.request("DELETE", &format!("/api/conversations/{first}"), &[], b"").status, 204);
    assert_eq!(guest.request("DELETE", &format!("/api/conversations/{first}"), &[], b"").status, 404);
    assert_eq!(get(&guest, &format!("/api/conversations/{first}")).status, 404);
    assert_eq!(listed(&guest), ["the second"]);
    assert_eq!(guest.request("DELETE", "/api/conversations", &[], b"").status, 204);
    assert_eq!(listed(&guest), [""; 0]);
    assert_eq!(get(&guest, "/api/conversations?after=nonsense").status, 400);
}

#[test]
fn thousands_of_conversations_are_listed_page_by_page() {
    let (start, port) = perch("");
    let _perch = start.ready();
    let guest = Guest::new(port);
    get(&guest, "/");
    for number in 0..2_100 {
        say(&guest, &number.to_string(), None);
    }
    let begun = Instant::now();
    let (mut path, mut titles) = ("/api/conversations".to_owned(), Vec::new());
    loop {
        let page = parsed(&get(&guest, &path));
        let entries = page["conversations"].as_array().unwrap();
        assert!(entries.len() <= 50);
        titles.extend(entries.iter().map(|entry| entry["title"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/conversations?after={next}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let mut numbers: Vec<u32> = titles.iter().map(|title| title.parse().unwrap()).collect();
    // Those of one millisecond are in any order.
    assert!(numbers.windows(2).all(|pair| pair[1] < pair[0] + 10), "the latest first");
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..2_100), "each once");
    assert!(get(&guest, "/api/export").text().contains("\"title\":\"0\""));
}

#[test]
fn a_restart_forgets_nothing_and_a_kill_neither() {
    let (start, port) = perch("");
    let mut perch = start.ready();
    let guest = Guest::new(port);
    let conversation = say(&guest, "one", None);
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    let perch = perch.again().ready();
    say(&guest, "two", Some(&conversation));
    // It is written down in a moment, and a reply does not wait for that.
    let database = perch.directory().join("state/perch.db-wal");
    wait("the message on the disk", || contains(&database, b"two").then_some(()));
    let perch = perch.again().ready();
    assert_eq!(said(&guest, &conversation), ["you: one", "perch: one", "you: two", "perch: two"]);
    assert_eq!(listed(&guest), ["one"]);
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

fn contains(path: &Path, text: &[u8]) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text)
}

/// perch with a model behind it.
struct Stage {
    upstream: Upstream,
    perch: Perch,
    port: u16,
}

impl Stage {
    fn new() -> Stage {
        Stage::with("")
    }

    /// With these lines in the configuration as well.
    fn with(lines: &str) -> Stage {
        let upstream = Upstream::start();
        let url = upstream.url();
        let (start, port) =
            perch(&format!("[chat]\nbackend = \"openai\"\nbase_url = \"{url}\"\nmodel = \"{MODEL}\"\n{lines}"));
        let perch = ready(start);
        Stage { upstream, perch, port }
    }
}

fn ready(start: Start) -> Perch {
    let perch = start.ready();
    perch.wait_status("the chat", |status| status["services"]["chat"]["state"] == "running");
    perch
}

#[test]
fn an_answer_that_is_stopped_fails_or_is_cut_off_by_a_kill_shows_as_that() {
    let Stage { upstream, perch, port } = Stage::new();
    let guest = Guest::new(port);
    upstream.fault(Fault::Stream(piece("Well, "), Then::Hang));
    let mut stream = guest.stream(&json!({ "message": "one" }));
    assert_eq!(stream.delta(), "Well, ");
    let conversation = stream.start["conversation"].as_str().unwrap().to_owned();
    let answering = read(&guest, &conversation);
    assert_eq!(answering["messages"][1]["id"], stream.start["message"], "{answering}");
    assert_eq!(answering["messages"][1]["state"], "answering");
    drop(stream);
    wait("the answer to be given up", || {
        (said(&guest, &conversation) == ["you: one", "perch: Well,  (stopped)"]).then_some(())
    });
    upstream.fault(Fault::Stream(piece("As "), Then::Cut));
    let (text, name, _) = guest.stream(&json!({ "message": "two", "conversation": conversation })).rest();
    assert_eq!((&*text, &*name), ("As ", "error"));
    let refused = Fault::Refuse(401, "", json!({ "error": { "message": "no" } }));
    upstream.fault(refused);
    let whole = guest.say(&json!({ "message": "three", "conversation": conversation }));
    assert_eq!(whole.status, 502);
    upstream.fault(Fault::Stream(piece("Once "), Then::Hang));
    let key = "Idempotency-Key: four-1\r\n";
    let question = json!({ "message": "four", "conversation": conversation });
    let mut stream = guest.stream_with(key, &question);
    assert_eq!(stream.delta(), "Once ");
    let database = perch.directory().join("state/perch.db-wal");
    wait("what was said on the disk", || contains(&database, b"Once ").then_some(()));
    let perch = ready(perch.again());
    drop(stream);
    let known =
        ["you: one", "perch: Well,  (stopped)", "you: two", "perch: As  (failed)", "you: three", "perch:  (failed)"];
    let mut all = known.to_vec();
    all.extend(["you: four", "perch: Once  (stopped)"]);
    assert_eq!(said(&guest, &conversation), all);
    assert_eq!(read(&guest, &conversation)["messages"][6]["key"], "four-1");
    // Sent again it is answered, in its place.
    let (text, name, done) = guest.stream_with(key, &question).rest();
    assert_eq!((&*text, &*name, done["conversation"].as_str()), ("You said: four", "done", Some(&*conversation)));
    let mut all = known.to_vec();
    all.extend(["you: four", "perch: You said: four"]);
    assert_eq!(said(&guest, &conversation), all);
    // And once more it is the same answer, which nobody makes.
    let asked = upstream.asked().len();
    let (again, _, _) = guest.stream_with(key, &question).rest();
    assert_eq!((again, upstream.asked().len()), (text, asked));
    assert_eq!(said(&guest, &conversation), all);
    drop(perch);
}

#[test]
fn a_message_that_is_sent_again_is_answered_once() {
    let Stage { upstream, port, perch: _perch } = Stage::new();
    let guest = Guest::new(port);
    get(&guest, "/");
    // Sent again while it is being answered.
    upstream.fault(Fault::Stream(piece("Well, "), Then::Hang));
    let key = "Idempotency-Key: A_key-1\r\n";
    let question = json!({ "message": "one" });
    let mut first = guest.stream_with(key, &question);
    assert_eq!(first.delta(), "Well, ");
    let (text, name, done) = guest.stream_with(key, &question).rest();
    assert_eq!((&*text, &*name), ("You said: one", "done"));
    assert_eq!(done["conversation"], first.start["conversation"]);
    upstream.wait_left(0);
    let (_, name, problem) = first.rest();
    assert_eq!((&*name, &problem["status"]), ("error", &json!(409)));
    let conversation = done["conversation"].as_str().unwrap();
    assert_eq!(said(&guest, conversation), ["you: one", "perch: You said: one"]);
    // The whole of it.
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "A_key-1")];
    let again = guest.request("POST", "/api/chat", &headers, br#"{"message": "one"}"#);
    assert_eq!(parsed(&again), json!({ "reply": "You said: one", "conversation": conversation }));
    assert_eq!(upstream.asked().len(), 2);
    // Another message has no answer of its own with it, and is not given this one.
    let another = guest.request("POST", "/api/chat", &headers, br#"{"message": "two"}"#);
    assert_eq!(another.status, 422, "{}", another.text());
    assert!(another.text().contains("send each with one of its own"), "{}", another.text());
    // The same key of somebody else is another one.
    let other = Guest::new(port);
    get(&other, "/");
    let theirs = other.request("POST", "/api/chat", &headers, br#"{"message": "mine"}"#);
    assert_eq!(parsed(&theirs)["reply"], "You said: mine");
    let longest = "x".repeat(65);
    for nonsense in ["", "a b", "ü", &longest] {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", nonsense)];
        let refused = guest.request("POST", "/api/chat", &headers, br#"{"message": "one"}"#);
        assert_eq!(refused.status, 400, "{nonsense}: {}", refused.text());
    }
}

#[test]
fn an_answer_in_flight_is_finished_and_kept_when_perch_is_told_to_end() {
    let Stage { upstream, mut perch, port } = Stage::new();
    let guest = Guest::new(port);
    upstream.fault(Fault::Stream(piece("Well, ") + &piece("well") + "data: [DONE]\n\n", Then::Hang));
    let mut stream = guest.stream(&json!({ "message": "one" }));
    assert_eq!(stream.delta(), "Well, ");
    perch.signal("TERM");
    let conversation = stream.start["conversation"].as_str().unwrap().to_owned();
    let (text, name, _) = stream.rest();
    assert_eq!((&*text, &*name), ("well", "done"));
    assert_eq!(perch.wait().code(), Some(0), "{}", perch.log_text());
    let _perch = ready(perch.again());
    assert_eq!(said(&guest, &conversation), ["you: one", "perch: Well, well"]);
}

#[test]
fn whoever_is_answered_when_the_drain_is_over_is_told_so_and_finds_what_was_said() {
    let Stage { upstream, mut perch, port } = Stage::with("[run]\ndrain = \"1s\"\n");
    let guest = Guest::new(port);
    get(&guest, "/");
    upstream.fault(Fault::Stream(piece("Well, "), Then::Hang));
    let key = "Idempotency-Key: one-1\r\n";
    let question = json!({ "message": "one" });
    let mut stream = guest.stream_with(key, &question);
    assert_eq!(stream.delta(), "Well, ");
    let conversation = stream.start["conversation"].as_str().unwrap().to_owned();
    // Somebody else waits for a whole answer.
    upstream.fault(Fault::Silence);
    let patient = std::thread::spawn(move || chat::post(port, "two"));
    wait("both questions", || (upstream.asked().len() == 2).then_some(()));
    perch.signal("TERM");
    let (text, name, problem) = stream.rest();
    assert_eq!((&*text, &*name, &problem["status"]), ("", "error", &json!(503)));
    assert_eq!(problem["detail"], "perch is restarting; try again in a moment");
    let whole = patient.join().unwrap();
    assert_eq!((whole.status, &parsed(&whole)["detail"]), (503, &problem["detail"]));
    assert_eq!(perch.wait().code(), Some(0), "{}", perch.log_text());
    let said_by_it = "answers cut off by the drain's deadline of 1 s: 2; what was said of them is kept";
    assert_eq!(perch.messages("WARN"), [said_by_it]);
    let _perch = ready(perch.again());
    assert_eq!(said(&guest, &conversation), ["you: one", "perch: Well,  (stopped)"]);
    let (text, name, _) = guest.stream_with(key, &question).rest();
    assert_eq!((&*text, &*name), ("You said: one", "done"));
    assert_eq!(said(&guest, &conversation), ["you: one", "perch: You said: one"]);
}

#[test]
fn a_database_that_is_damaged_while_people_talk_costs_no_answer() {
    let (start, port) = perch("");
    let perch = start.ready();
    let guest = Guest::new(port);
    let conversation = say(&guest, "one", None);
    for number in 0..200 {
        say(&guest, &format!("{number} {}", "x".repeat(2_000)), None);
    }
    let crowd = Crowd::strolling(port);
    let database = perch.directory().join("state/perch.db");
    let damaged = std::fs::read(&database).unwrap().len();
    // These two, and not what takes their place.
    let open = |path: &Path| File::options().write(true).open(path).unwrap();
    let (file, log) = (open(&database), open(&perch.directory().join("state/perch.db-wal")));
    wait("the damage to be noticed", || {
        // The log is emptied now and then, and what is in the file is read and written then.
        file.write_all_at(&vec![0xA5; damaged.max(1 << 20)], 0).unwrap();
        log.set_len(0).unwrap();
        log.write_all_at(&[0xA5; 4_096], 0).unwrap();
        say(&guest, "on and on", Some(&conversation));
        get(&guest, "/api/conversations?after=1-00000000000000000000000000000000");
        perch.messages("WARN").iter().any(|message| message.contains("was damaged")).then_some(())
    });
    crowd.wait_answers(50);
    crowd.end();
    // What was at hand is known, and goes on; it is written into the new file.
    say(&guest, "two", Some(&conversation));
    assert!(said(&guest, &conversation).contains(&"you: one".to_owned()));
    let mut perch = perch;
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    let perch = perch.again().ready();
    assert!(said(&guest, &conversation).contains(&"you: one".to_owned()), "{}", perch.log_text());
}

#[test]
fn a_locked_database_holds_up_no_answer() {
    let (start, port) = perch("");
    let perch = start.ready();
    let guest = Guest::new(port);
    let conversation = say(&guest, "one", None);
    let lock = rusqlite::Connection::open(perch.directory().join("state/perch.db")).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let begun = Instant::now();
    for number in 0..20 {
        say(&guest, &number.to_string(), Some(&conversation));
        say(&guest, &number.to_string(), None);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(said(&guest, &conversation).len(), 42);
    lock.execute_batch("ROLLBACK").unwrap();
    perch.wait_status("its memory", |status| status["store"]["kept"] == "on disk");
    wait("all of it in the list", || (listed(&guest).len() == 21).then_some(()));
}

#[test]
fn a_full_disk_costs_no_answer_and_what_was_said_then_is_kept_after_it() {
    let Some(mounts) = Mounts::new() else { return };
    let (start, port) = perch("");
    let state = start.directory().join("state");
    std::fs::create_dir(&state).unwrap();
    mounts.run(&["mount", "-t", "tmpfs", "-o", "size=4M,mode=0700", "state", state.to_str().unwrap()]);
    let perch = start.through(mounts.inside()).ready();
    let guest = Guest::new(port);
    let conversation = say(&guest, "before", None);
    let long = "x".repeat(50_000);
    // A great deal is said, until it does not fit.
    wait("the disk to be full", || {
        for number in 0..20 {
            say(&guest, &format!("{number} {long}"), None);
        }
        perch.status()["services"]["store"]["reason"].as_str().map(str::to_owned)
    });
    assert_eq!(perch.messages("WARN").len(), 1, "{}", perch.log_text());
    assert!(perch.messages("WARN")[0].contains("the disk is full"), "{}", perch.log_text());
    say(&guest, "meanwhile", Some(&conversation));
    assert_eq!(said(&guest, &conversation)[2], "you: meanwhile");
    mounts.run(&["mount", "-o", "remount,size=256M", state.to_str().unwrap()]);
    perch.wait_status("its memory", |status| status["store"]["kept"] == "on disk");
    say(&guest, "after", Some(&conversation));
    let mut perch = perch;
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    let _perch = perch.again().ready();
    let known = ["you: before", "perch: before", "you: meanwhile", "perch: meanwhile", "you: after", "perch: after"];
    assert_eq!(said(&guest, &conversation), known);
}

#[test]
fn conversations_are_kept_for_as_long_and_as_much_as_the_configuration_says() {
    let (start, port) = perch("[store]\nkeep = \"forever\"\n");
    let perch = start.ready();
    let guest = Guest::new(port);
    let old = say(&guest, "the old one", None);
    let database = perch.directory().join("state/perch.db-wal");
    wait("it on the disk", || contains(&database, b"the old one").then_some(()));
    assert_eq!(listed(&guest), ["the old one"]);
    let reload = |store: &str| {
        std::fs::write(perch.config_path(), config(port, &format!("[store]\n{store}"))).unwrap();
        let said = perch.verb(&["reload"]);
        assert_eq!(said.status.code(), Some(0), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    };
    let steps = reload("keep = \"1s\"\nmax_size = \"1MiB\"");
    assert!(steps.contains("store.keep: forever → 1s") && steps.contains("store.max_size: 512MiB → 1MiB"), "{steps}");
    wait("the old one to be forgotten", || {
        (get(&guest, &format!("/api/conversations/{old}")).status == 404).then_some(())
    });
    let files = [perch.directory().join("state/perch.db"), database];
    wait("it gone from the disk", || files.iter().all(|file| !contains(file, b"the old one")).then_some(()));
    reload("max_size = \"1MiB\"");
    let long = "x".repeat(20_000);
    for number in 0..300 {
        say(&guest, &format!("{number} {long}"), None);
    }
    wait("the old ones to make room", || {
        let titles = listed(&guest);
        // Those of one millisecond are in any order.
        (titles.len() < 40 && titles.iter().any(|title| title.starts_with("299 "))).then_some(())
    });
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

#[test]
fn the_operator_sees_who_has_conversations_and_deletes_them_from_the_disk() {
    let (start, port) = perch("");
    let perch = start.ready();
    let nothing = perch.verb(&["people"]);
    assert_eq!(String::from_utf8_lossy(&nothing.stdout), "nothing is kept of anybody\n");
    let (ann, bob) = (Guest::new(port), Guest::new(port));
    for number in 0..30 {
        say(&ann, &format!("fingerprint {number}"), None);
    }
    say(&bob, "landmark", None);
    let people = || -> Value { serde_json::from_slice(&perch.verb(&["people", "--json"]).stdout).unwrap() };
    let both = wait("both of them", || Some(people()).filter(|people| people["all"] == 2));
    let found = both["people"].as_array().unwrap().iter().find(|person| person["conversations"] == 30).unwrap();
    let person = found["person"].as_str().unwrap();
    assert!(person.starts_with("visitor:") && !person.contains(&ann.cookie().unwrap()[6..]), "{person}");
    let shown = String::from_utf8(perch.verb(&["people"]).stdout).unwrap();
    assert!(shown.starts_with("last heard of         conversations  person\n20"), "{shown}");
    assert!(shown.contains(&format!("Z             30  {person}\n")), "{shown}");
    let export = perch.verb(&["people", "export", person]);
    let export: Value = serde_json::from_slice(&export.stdout).unwrap();
    assert_eq!(export["person"], person);
    assert_eq!(export["conversations"].as_array().unwrap().len(), 30);
    assert_eq!(export["conversations"][29]["messages"][1]["text"], "fingerprint 0");
    let state = perch.directory().join("state");
    let on_disk = |text: &str| {
        let files = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file() && contains(path, text.as_bytes())).count()
    };
    assert!(on_disk("fingerprint") > 0);
    // Which daemon is meant may be said before the verb, and after it.
    for elsewhere in [
        ["people", "--runtime-dir", "/nowhere", "delete", person],
        ["people", "delete", person, "--runtime-dir", "/nowhere"],
    ] {
        assert_eq!(perch.verb(&elsewhere).status.code(), Some(3));
    }
    let json = perch.verb(&["people", "--json", "delete", person]);
    assert_eq!((json.status.code(), people()["all"].as_u64()), (Some(2), Some(2)), "{json:?}");
    let deleted = perch.verb(&["people", "delete", person]);
    assert_eq!(deleted.status.code(), Some(0), "{deleted:?}");
    assert_eq!(String::from_utf8_lossy(&deleted.stdout), format!("✓ nothing is kept of {person} any more\n"));
    assert_eq!((on_disk("fingerprint"), listed(&ann).len()), (0, 0));
    assert_eq!(listed(&bob), ["landmark"]);
    for verb in ["export", "delete"] {
        let again = perch.verb(&["people", verb, person]);
        assert_eq!(again.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&again.stderr), "perch: nothing is kept of this person\n");
    }
}
