//! The bot answering by a model: what people in Discord see of it, whatever becomes of the model and of perch.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use perch::sim::{DEFAULT_TOKEN, Fault as Trouble, File, FileTrouble, Say};
use serde_json::{Value, json};

use super::support::bot::{Bot, ID};
use super::support::perch::{Perch, Start, wait};
use super::support::upload::png;
use super::support::upstream::{Fault, MODEL, Then, Upstream, piece};

/// A bot with a model behind it.
struct Stage {
    bot: Bot,
    upstream: Upstream,
}

impl Stage {
    fn new() -> Stage {
        Stage { bot: Bot::new(), upstream: Upstream::start() }
    }

    fn config(&self, lines: &str) -> String {
        let bot = self.bot.config().replace("[discord]", "[discord]\nrespond = \"chat\"");
        let url = self.upstream.url();
        format!("{bot}[chat]\nbackend = \"openai\"\nbase_url = \"{url}\"\nmodel = \"{MODEL}\"\n{lines}\n")
    }

    /// perch in the same state directory as before.
    fn start(&self, lines: &str) -> Perch {
        let state = self.bot.state_dir().to_str().unwrap().to_owned();
        let variables = [("TOKEN".to_owned(), DEFAULT_TOKEN.to_owned()), ("STATE_DIRECTORY".to_owned(), state)];
        let perch = Start::with_text(&self.config(lines)).env(variables).ready();
        perch.wait_status("a session", |status| status["discord"]["session"] == true);
        perch
    }

    #[track_caller]
    fn texts(&self, count: usize) -> Vec<String> {
        self.bot.wait_answers("general", count).into_iter().map(|answer| answer.text).collect()
    }
}

#[test]
fn a_model_answers_people_in_discord_and_knows_what_was_said() {
    let stage = Stage::new();
    let perch = stage.start("system = \"Be a parrot.\"\nattachments = \"images\"");
    stage.bot.mention("general", "hello");
    assert_eq!(stage.texts(1), ["You said: hello"]);
    let picture = Say::new(format!("<@{ID}> and this?")).with("cat.png", "image/png", png(64, 64, 5_000));
    stage.bot.discord.simulator().say(picture).unwrap();
    assert_eq!(stage.texts(2)[1], "You said: and this?");
    let mut messages = stage.upstream.asked()[1].body["messages"].clone();
    let url = messages[3]["content"][1]["image_url"]["url"].take();
    assert!(url.as_str().unwrap().starts_with("data:image/png;base64,iVBORw0KGgo"), "{url}");
    insta::assert_snapshot!(messages, @r#"[{"content":"Be a parrot.","role":"system"},{"content":"hello","role":"user"},{"content":"You said: hello","role":"assistant"},{"content":[{"text":"and this?","type":"text"},{"image_url":{"url":null},"type":"image_url"}],"role":"user"}]"#);
    let status = perch.wait_status("two replies", |status| status["discord"]["replies"] == 2);
    assert_eq!(status["discord"]["identifies"], 1);
    assert!(stage.bot.discord.counters().typings >= 2);
}

#[test]
fn what_keeps_a_model_from_answering_is_said_in_discord_and_in_the_journal() {
    let stage = Stage::new();
    let perch = stage.start("[chat.timeout]\nfirst_token = \"1s\"\nbetween_tokens = \"1s\"");
    let refuse = |status, headers, message: &str| {
        Fault::Refuse(status, headers, json!({ "error": { "message": message, "type": "error" } }))
    };
    let faults = [
        refuse(429, "Retry-After: 42\r\n", "slow down"),
        refuse(401, "", "no such key"),
        Fault::Silence,
        Fault::Stream(piece("Well, ") + &piece("you see, "), Then::Cut),
        Fault::Stream(piece("So "), Then::Hang),
    ];
    let mut told = Vec::new();
    for (number, fault) in faults.into_iter().enumerate() {
        stage.upstream.fault(fault);
        let asked = stage.bot.mention("general", "hello");
        let said = stage.texts(number + 1).pop().unwrap();
        let warnings = perch.messages("WARN");
        assert_eq!(warnings.len(), number + 1, "{warnings:?}");
        let warning = warnings[number].replace(&asked, "ID").replace(&stage.upstream.host(), "HOST");
        told.push(format!("{said:?}\n{warning}"));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    "The chat has too much to do at the moment; try again in 42 s."
    the responder did not answer message ID: HOST was asked too often (429: error)
    "The chat is not set up right, and can't answer until its operator mends it."
    the responder did not answer message ID: HOST asks for a key (401: error); name one with `api_key`
    "The answer did not come in time; try again."
    the responder did not answer message ID: HOST began no answer within 1 s (chat.timeout.first_token)
    "Well, you see,\n\n(The answer broke off; try again.)"
    the responder did not answer message ID: HOST broke off in the middle of an answer: unexpected EOF during chunk size line
    "So\n\n(The answer did not come in time; try again.)"
    the responder did not answer message ID: HOST paused its answer for 1 s (chat.timeout.between_tokens)
    "#);
    // The model is asked no longer once nobody waits.
    stage.upstream.wait_left(2);
    stage.upstream.wait_left(4);
    stage.bot.mention("general", "better?");
    assert_eq!(stage.texts(6)[5], "You said: better?");
}

#[test]
fn killed_in_the_middle_of_a_streamed_answer_perch_says_so_and_asks_no_more() {
    let stage = Stage::new();
    let mut perch = stage.start("");
    let long = "word ".repeat(500);
    stage.upstream.fault(Fault::Stream(piece(&long), Then::Hang));
    let asked = stage.bot.mention("general", "tell me more");
    // The first message is out, and the model has not done.
    stage.texts(1);
    perch.signal("KILL");
    perch.wait();
    assert_eq!(stage.bot.unsettled().iter().map(|(_, attempt)| attempt.parts).collect::<Vec<_>>(), [0]);
    let perch = stage.start("");
    let answers = stage.bot.wait_answers("general", 2);
    assert_eq!(answers[1].text, "(I was interrupted here. Ask again to hear all of it.)");
    assert_eq!(answers[0].to, Some(asked.clone()));
    let cut = format!(
        "the answer to message {asked} was cut short when perch stopped, and can't be given again word by word"
    );
    assert_eq!(perch.messages("WARN"), [cut]);
    stage.bot.mention("general", "again");
    assert_eq!(stage.texts(3)[2], "You said: again");
    assert_eq!(stage.upstream.asked().len(), 2);
    assert_eq!(stage.bot.discord.counters().nonce_deduplicated, 0);
}

#[test]
fn killed_while_the_model_thinks_the_question_is_put_once_more() {
    let stage = Stage::new();
    let mut perch = stage.start("");
    stage.upstream.fault(Fault::Silence);
    stage.bot.mention("general", "hello");
    stage.upstream.wait_asked(1);
    perch.signal("KILL");
    perch.wait();
    let _perch = stage.start("");
    assert_eq!(stage.texts(1), ["You said: hello"]);
    assert_eq!(stage.upstream.asked().len(), 2);
}

#[test]
fn a_stop_waits_for_an_answer_on_its_way_to_discord() {
    let stage = Stage::new();
    let mut perch = stage.start("");
    let route = Some("POST /channels/".to_owned());
    stage.bot.discord.simulator().fault(Trouble::RestDelay { route, ms: 700 });
    stage.bot.mention("general", "hello");
    stage.upstream.wait_asked(1);
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    assert_eq!(stage.texts(1), ["You said: hello"]);
    assert_eq!(stage.bot.unsettled(), []);
}

#[test]
fn what_was_said_while_perch_was_away_is_answered_by_the_model() {
    let stage = Stage::new();
    let mut perch = stage.start("");
    stage.bot.mention("general", "before");
    stage.texts(1);
    perch.signal("KILL");
    perch.wait();
    stage.bot.mention("general", "meanwhile");
    stage.bot.discord.simulator().expire_sessions();
    let perch = stage.start("");
    assert_eq!(stage.texts(2), ["You said: before", "You said: meanwhile"]);
    assert_eq!(perch.messages("WARN"), [""; 0]);
}

#[test]
fn from_echo_to_chat_and_back_costs_no_session_and_no_message() {
    let stage = Stage::new();
    let perch = stage.start("");
    let chat = stage.config("");
    let echo = chat.replace("respond = \"chat\"", "respond = \"echo\"");
    let mut expected = Vec::new();
    for (number, config) in [&echo, &chat, &echo].into_iter().enumerate() {
        std::fs::write(perch.config_path(), config).unwrap();
        let said = perch.verb(&["reload"]);
        assert_eq!(said.status.code(), Some(0), "{said:?}");
        stage.bot.mention("general", "hello");
        expected.push(if config == &chat { "You said: hello" } else { "hello" });
        assert_eq!(stage.texts(number + 1), expected);
    }
    let shown = String::from_utf8(perch.verb(&["status", "--history"]).stdout).unwrap();
    assert!(shown.contains("discord.respond"), "{shown}");
    assert_eq!((stage.bot.discord.counters().identifies, stage.bot.discord.counters().resumes), (1, 0));
}

#[test]
fn limits_are_those_of_the_configuration_and_change_with_it() {
    let stage = Stage::new();
    let perch = stage.start("[limits.person]\nrequests_per_minute = 1\nburst = 1");
    let first = stage.bot.mention("general", "one");
    for text in ["two", "three", "four"] {
        stage.bot.mention("general", text);
    }
    let status = perch.wait_status("three refusals", |status| status["discord"]["limited"] == 3);
    assert_eq!(status["discord"]["replies"], 1);
    let answers = stage.bot.answers("general");
    assert_eq!((answers.len(), answers[0].to.as_ref()), (2, Some(&first)));
    assert!(answers[1].text.starts_with("You ask too fast; try again in "), "{}", answers[1].text);
    std::fs::write(perch.config_path(), stage.config("[limits.person]\nrequests_per_minute = 1000\nburst = 1000"))
        .unwrap();
    assert_eq!(perch.verb(&["reload"]).status.code(), Some(0));
    stage.bot.mention("general", "five");
    wait("an answer under the new limits", || {
        (stage.texts(2).last().map(String::as_str) == Some("You said: five")).then_some(())
    });
    let asked: Vec<Value> = stage
        .upstream
        .asked()
        .iter()
        .map(|asked| asked.body["messages"].as_array().unwrap().last().unwrap()["content"].clone())
        .collect();
    assert_eq!(asked, ["one", "five"]);
}

/// How long a file may take to come from Discord, as perch has it.
const FILE_TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn a_file_that_hangs_swells_or_leads_elsewhere_is_told_and_the_bot_answers_others() {
    let stage = Stage::new();
    let perch = stage.start("attachments = \"images\"");
    // Where nobody may be sent: what runs beside perch, or the instance's own address.
    let beside = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = format!("http://{}/latest/meta-data/", beside.local_addr().unwrap());
    let picture = png(64, 64, 5_000);
    let file = |name: &str, size: Option<u64>, trouble: Option<FileTrouble>| {
        let (content_type, content) = (Some("image/png".to_owned()), Some(picture.clone()));
        let file = File { name: name.to_owned(), content_type, content, size, trouble };
        Say { attachments: vec![file], ..Say::new(format!("<@{ID}>")) }
    };
    let simulator = stage.bot.discord.simulator();
    // Within a channel everybody has their turn.
    stage.bot.add_channel("slow", true);
    let begun = Instant::now();
    simulator.say(file("hangs.png", None, Some(FileTrouble::Hang)).in_channel("slow")).unwrap();
    simulator.say(file("swells.png", Some(100), None)).unwrap();
    simulator.say(file("elsewhere.png", None, Some(FileTrouble::Redirect(elsewhere)))).unwrap();
    let said = stage.texts(2);
    insta::assert_snapshot!(said.join("\n"), @"
    `swells.png` is larger than Discord says.
    `elsewhere.png` can't be fetched from Discord at the moment; try again in a while.
    ");
    stage.bot.mention("general", "hello");
    assert_eq!(stage.texts(3)[2], "You said: hello");
    assert!(begun.elapsed() < FILE_TIMEOUT, "{:?}: others waited for the one that hangs", begun.elapsed());
    let late = stage.bot.wait_answers("slow", 1).pop().unwrap().text;
    assert_eq!(late, "`hangs.png` can't be fetched from Discord at the moment; try again in a while.");
    assert!(begun.elapsed() >= FILE_TIMEOUT, "{:?}", begun.elapsed());
    beside.set_nonblocking(true).unwrap();
    assert!(beside.accept().is_err(), "perch went where it was sent");
    let mut warnings = perch.messages("WARN");
    for warning in &mut warnings {
        let id: String = warning.chars().filter(char::is_ascii_digit).take(19).collect();
        *warning = warning.replace(&id, "ID");
    }
    insta::assert_snapshot!(warnings.join("\n"), @"
    a file of message ID can't be fetched: 302:  (code 0)
    a file of message ID can't be fetched: Discord did not answer in time: operation timed out
    ");
    assert_eq!(stage.upstream.asked().len(), 1);
    simulator.say(Say { content: format!("<@{ID}> look"), ..file("good.png", None, None) }).unwrap();
    assert_eq!(stage.texts(4)[3], "You said: look");
}
