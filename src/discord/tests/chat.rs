//! The bot answering as the chat does.

use std::sync::Arc;

use serde_json::json;

use super::stage::{BOT, Broken, Heard, Says, Stage, Writes, mention};
use crate::chat::files::tests::a_png;
use crate::chat::{PersonId, Why};
use crate::service::{Blame, State};
use crate::sim::{Fault, File, Order, Say};

/// Messages of a model whose answers are streamed in large pieces.
fn long(sign: &str) -> String {
    sign.repeat(1_500)
}

fn post() -> String {
    "POST /channels/".to_owned()
}

/// What was said in general, shortened to the first sign and the length of each.
fn shapes(stage: &Stage) -> Vec<String> {
    let said = stage.said("general");
    said.iter().map(|text| format!("{}{}", text.chars().next().unwrap(), text.chars().count())).collect()
}

#[tokio::test]
async fn it_types_while_the_model_thinks_and_changing_to_it_costs_no_session() {
    let stage = Stage::new().await;
    stage.say(mention("hello"));
    stage.hears("general", &["hello"]).await;
    assert_eq!(stage.simulator.counters().typings, 0);
    let writes = Writes::slowly(["Well, ", "hello."], 0);
    stage.converse(writes.clone(), "");
    let asked = stage.say(mention("hello again"));
    stage.counted(|counters| counters.typings == 1).await;
    assert_eq!(stage.said("general").len(), 1);
    writes.permits.add_permits(2);
    stage.hears("general", &["hello", "Well, hello."]).await;
    let answer = &stage.by_bot("general")[1];
    assert_eq!(answer["message_reference"]["message_id"], asked["id"]);
    assert_eq!(answer["pinged"], json!(["1100000000000000011"]));
    stage.shows("replies", 2).await;
    assert_eq!(stage.sessions(), (1, 0, 0));
    // And back again.
    stage.respond(Arc::new(Says("as ever".to_owned())));
    stage.say(mention("hello"));
    stage.hears("general", &["hello", "Well, hello.", "as ever"]).await;
    assert_eq!(stage.sessions(), (1, 0, 0));
}

#[tokio::test]
async fn who_says_nothing_but_its_name_is_told_what_to_do() {
    let stage = Stage::new().await;
    let writes = Writes::at_once(["never"]);
    stage.converse(writes.clone(), "");
    stage.say(mention(""));
    stage.hears("general", &["Say something after my name, and I will answer."]).await;
    assert_eq!(writes.asked(), []);
}

#[tokio::test]
async fn a_long_answer_comes_message_by_message_as_they_are_full() {
    let stage = Stage::new().await;
    let writes = Writes::slowly([long("a"), long("b"), long("c")], 1);
    stage.converse(writes.clone(), "");
    stage.say(mention("tell me more"));
    stage.counted(|counters| counters.typings >= 1).await;
    assert_eq!(stage.said("general").len(), 0);
    writes.permits.add_permits(1);
    stage.counted(|counters| counters.messages_created == 1).await;
    writes.permits.add_permits(1);
    stage.shows("replies", 1).await;
    assert_eq!(shapes(&stage), ["a1996", "b1996", "c508"]);
    assert_eq!(stage.said("general").concat(), [long("a"), long("b"), long("c")].concat());
    let pings: Vec<_> = stage.by_bot("general").iter().map(|message| message["pinged"].clone()).collect();
    assert_eq!(pings, [json!(["1100000000000000011"]), json!([]), json!([])]);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off_after_ten_messages() {
    for writes in [Writes::at_once(vec![long("x"); 100]), Writes::at_once([long("x").repeat(100)])] {
        let stage = Stage::new().await;
        stage.converse(writes, "");
        stage.say(mention("tell me everything"));
        stage.shows("replies", 1).await;
        let said = stage.said("general");
        assert_eq!(said.len(), 10);
        let (text, note) = said[9].split_once("\n\n").unwrap();
        assert_eq!(note, "(There is more to it, but this is as much as I say at once.)");
        assert!(said[8].len() == 1_996 && text.len() > 1_900, "{} and {}", said[8].len(), text.len());
        assert_eq!(stage.sessions().2, 0);
    }
}

#[tokio::test]
async fn everybody_has_a_conversation_in_every_channel_and_a_thread_is_one_for_all() {
    let stage = Stage::new().await;
    let writes = Writes::at_once(["indeed"]);
    stage.converse(writes.clone(), "history = 4");
    let mut answers = 0;
    for (person, channel, text) in [
        ("ada", "general", "one"),
        ("ada", "general", "two"),
        ("grace", "general", "three"),
        ("ada", "random", "four"),
        ("ada", "nest box", "five"),
        ("grace", "nest box", "six"),
        ("ada", "dm", "seven"),
        ("ada", "dm", "eight"),
    ] {
        stage.say(mention(text).by(person).in_channel(channel));
        answers += 1;
        stage.shows("replies", answers).await;
    }
    let asked: Vec<_> = writes.asked().into_iter().map(|heard| (heard.message, heard.earlier)).collect();
    let heard = |text: &str, earlier: &[&str]| {
        let earlier = earlier.iter().flat_map(|text| [(*text).to_owned(), "indeed".to_owned()]).collect::<Vec<_>>();
        (text.to_owned(), earlier)
    };
    let expected = [
        heard("one", &[]),
        heard("two", &["one"]),
        heard("three", &[]),
        heard("four", &[]),
        heard("five", &[]),
        heard("six", &["five"]),
        heard("seven", &[]),
        heard("eight", &["seven"]),
    ];
    assert_eq!(asked, expected);
    // Wherever they said it, it is theirs.
    let history = &stage.discord.talk.history;
    let (people, _) = history.people(9).await.unwrap();
    let mut people: Vec<_> = people.into_iter().map(|found| (found.person, found.conversations)).collect();
    people.sort();
    let [ada, grace] = [11, 12].map(|last| PersonId::discord(1_100_000_000_000_000_000 + last));
    assert_eq!(people, [(ada.clone(), 4), (grace, 2)]);
    assert_eq!(history.erase(&ada, None).await, Ok(true));
    stage.say(mention("nine").by("grace").in_channel("nest box"));
    stage.shows("replies", answers + 1).await;
    assert_eq!(writes.asked().pop().unwrap().earlier, ["six", "indeed"]);
}

#[tokio::test]
async fn who_asks_too_fast_is_told_once_and_others_are_answered() {
    let stage = Stage::new().await;
    let writes = Writes::at_once(["indeed"]);
    stage.converse(writes.clone(), "[limits.person]\nrequests_per_minute = 2\nburst = 2");
    for number in 1..=5 {
        stage.say(mention(&number.to_string()));
    }
    stage.shows("limited", 3).await;
    stage.say(mention("mine").by("grace"));
    stage.hears("general", &["indeed", "indeed", "You ask too fast; try again in 30 seconds.", "indeed"]).await;
    let asked: Vec<_> = writes.asked().into_iter().map(|heard| heard.message).collect();
    assert_eq!(asked, ["1", "2", "mine"]);
    // And wherever else they ask.
    for _ in 0..2 {
        stage.say(Say::new("hello?").in_channel("dm"));
    }
    stage.shows("limited", 5).await;
    assert_eq!(stage.said(&stage.direct()), ["You ask too fast; try again in 30 seconds."]);
}

#[tokio::test]
async fn what_is_attached_goes_to_the_model() {
    let stage = Stage::new().await;
    let writes = Writes::at_once(["a cat"]);
    stage.converse(writes.clone(), "history = 4\nattachments = [\"images\", \"pdf\"]");
    let picture = a_png(640, 480);
    stage.say(Say::new(BOT).with("cat.png", "image/png", picture.clone()));
    stage.hears("general", &["a cat"]).await;
    stage.say(mention("and?"));
    stage.hears("general", &["a cat", "a cat"]).await;
    let size = picture.len();
    let expected = [
        Heard {
            message: String::new(),
            earlier: vec![],
            files: vec![format!("cat.png (image/png, {size} B): Some({size} bytes)")],
        },
        Heard {
            message: "and?".to_owned(),
            earlier: vec![format!("[cat.png (image/png, {size} B)]"), "a cat".to_owned()],
            files: vec![],
        },
    ];
    assert_eq!(writes.asked(), expected);
    assert_eq!(stage.discord.talk.room.taken(), 0);
}

#[tokio::test]
async fn what_is_attached_and_not_taken_is_told_and_the_model_not_asked() {
    let stage = Stage::new().await;
    let writes = Writes::at_once(["never"]);
    stage.converse(writes.clone(), "attachments = \"images\"");
    let large = File {
        name: "large.png".to_owned(),
        content_type: Some("image/png".to_owned()),
        content: Some(vec![0; 2_000]),
        size: Some(6 << 20),
        trouble: None,
    };
    let lies = File { name: "lies.png".to_owned(), size: Some(1_000), ..large.clone() };
    let gone = File { name: "gone.png".to_owned(), content: None, size: Some(10), ..large.clone() };
    let says = [
        mention("").with("cat.exe", "application/octet-stream", b"MZ".to_vec()),
        mention("").with("cat.png", "image/png", b"<html>".to_vec()),
        mention("").with("cat.png", "image/jpeg", a_png(2, 2)),
        mention("").with("bomb.png", "image/png", a_png(50_000, 50_000)),
        mention("").with("cat.pdf", "application/pdf", b"%PDF-1.7".to_vec()),
        Say { attachments: vec![large], ..mention("") },
        Say { attachments: vec![lies], ..mention("") },
        Say { attachments: vec![gone], ..mention("") },
        mention("").with("message.txt", "text/plain", vec![b'x'; (64 << 10) + 1]),
        mention("").with("message.txt", "text/plain; charset=utf-8", b"\xff".to_vec()).with("a.exe", "", vec![0]),
    ];
    let count = says.len();
    for say in says {
        drop(stage.say(say));
    }
    stage.shows("replies", count).await;
    insta::assert_snapshot!(stage.said("general").join("\n"), @"
    `cat.exe` is none of pdf, png, jpg, jpeg and gif by its name.
    `cat.png` is no PNG: it does not begin like one.
    `cat.png` is image/png by its name, and declared as `image/jpeg`.
    `bomb.png` has 50000 × 50000 pixels; 8000 a side and 40 million in all are the most.
    `cat.pdf`: this model can't read PDFs.
    `large.png` is larger than 5 MiB.
    `lies.png` is larger than Discord says.
    `gone.png` can't be fetched from Discord at the moment; try again in a while.
    `message.txt` is larger than 64 KiB.
    `a.exe` is none of pdf, png, jpg, jpeg and gif by its name.
    `message.txt` is no text in UTF-8.
    ");
    assert_eq!(writes.asked(), []);
    let refused: Vec<_> = stage.discord.talk.refused.counts().filter(|(_, count)| *count > 0).collect();
    assert_eq!(refused.iter().map(|(_, count)| count).sum::<u64>(), count as u64 + 1, "{refused:?}");
    assert_eq!((stage.simulator.counters().files_fetched, stage.discord.talk.room.taken()), (5, 0));
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_the_rest_is_answered() {
    let stage = Stage::new().await;
    let writes = Writes::at_once(["indeed"]);
    stage.converse(writes.clone(), "history = 0\nattachments = \"images\"");
    let cat = || a_png(2, 2);
    let many = (1..=5).fold(mention("all of it"), |say, number| say.with(&format!("{number}.png"), "image/png", cat()));
    let says = [
        mention("look").with("voice-message.ogg", "audio/ogg", vec![1]).with("cat.png", "image/png", cat()),
        mention("look").with("cat.pdf", "application/pdf", b"%PDF-1.7".to_vec()).with("cat.exe", "", vec![1]),
        many,
        // What Discord's client makes of a message that is too long.
        mention("read:").with("message.txt", "text/plain; charset=utf-8", format!("so\n{BOT} long ").into()),
        Say::new("").in_channel("dm").with("message.txt", "text/plain; charset=utf-8", "a long story".into()),
    ];
    for (number, say) in says.into_iter().enumerate() {
        stage.say(say);
        stage.shows("replies", number + 1).await;
    }
    insta::assert_snapshot!(stage.said("general").join("\n---\n"), @"
    indeed

    (`voice-message.ogg` is none of pdf, png, jpg, jpeg and gif by its name.)
    ---
    indeed

    (`cat.pdf`: this model can't read PDFs.)
    (`cat.exe` is none of pdf, png, jpg, jpeg and gif by its name.)
    ---
    indeed

    (`5.png` is left out: a message takes 4 files at most.)
    ---
    indeed
    ");
    let asked: Vec<_> = writes.asked().into_iter().map(|heard| (heard.message, heard.files.len())).collect();
    let expected = [("look", 1), ("look", 0), ("all of it", 4), ("read:\n\nso\nlong", 0), ("a long story", 0)];
    assert_eq!(asked, expected.map(|(message, files)| (message.to_owned(), files)));
    assert_eq!((stage.said(&stage.direct()), stage.discord.talk.room.taken()), (vec!["indeed".to_owned()], 0));
}

#[tokio::test]
async fn a_failure_is_told_in_a_sentence() {
    let stage = Stage::new().await;
    stage.converse(Arc::new(Broken), "");
    stage.say(mention("one"));
    stage.shows("replies", 1).await;
    stage.converse(Writes::failing([""; 0], Why::Busy { retry_after: Some(super::stage::secs(42)) }), "");
    stage.say(mention("two"));
    stage.shows("replies", 2).await;
    stage.converse(Writes::failing(["Well, ", "```rust\nfn main"], Why::CutShort), "");
    stage.say(mention("three"));
    stage.shows("replies", 3).await;
    stage.converse(Writes::failing([""; 0], Why::Refused(Blame::Credential)), "");
    stage.say(mention("four"));
    stage.shows("replies", 4).await;
    let said = [
        "The chat failed.",
        "The chat has too much to do at the moment; try again in 42 s.",
        "Well, ```rust\nfn main\n```\n\n(The answer broke off; try again.)",
        "The chat is not set up right, and can't answer until its operator mends it.",
    ];
    assert_eq!(stage.said("general"), said);
}

#[tokio::test]
async fn nobody_waits_for_what_another_asked_and_everybody_is_answered_in_order() {
    let stage = Stage::new().await;
    let writes = Writes::slowly(["indeed"], 0);
    stage.converse(writes.clone(), "");
    stage.say(mention("one"));
    stage.say(mention("two"));
    stage.counted(|counters| counters.typings >= 1).await;
    stage.converse(Writes::at_once(["at once"]), "");
    stage.say(mention("three").in_channel("random"));
    stage.hears("random", &["at once"]).await;
    stage.say(mention("mine").by("grace"));
    stage.hears("general", &["at once"]).await;
    for person in ["ada", "grace"] {
        stage.say(mention("ours").by(person).in_channel("nest box"));
    }
    stage.hears("nest box", &["at once", "at once"]).await;
    writes.permits.add_permits(1);
    // Order is kept, and who comes next has the responder of the newest state.
    stage.hears("general", &["at once", "indeed", "at once"]).await;
}

#[tokio::test]
async fn who_asks_on_and_on_is_told_that_it_is_enough_and_asks_again_later() {
    let stage = Stage::new().await;
    let writes = Writes::slowly(["indeed"], 0);
    stage.converse(writes.clone(), "");
    for number in 1..=12 {
        stage.say(mention(&number.to_string()));
    }
    stage.say(mention("13").in_channel("random"));
    stage.shows("limited", 3).await;
    let enough = "You have asked 10 questions that are not answered yet; ask more when they are.";
    assert_eq!((stage.said("general"), stage.said("random")), (vec![enough.to_owned()], vec![enough.to_owned()]));
    stage.say(mention("mine").by("grace"));
    writes.permits.add_permits(11);
    stage.shows("replies", 11).await;
    writes.permits.add_permits(1);
    stage.say(mention("again"));
    stage.shows("replies", 12).await;
    let mut asked: Vec<_> = writes.asked().into_iter().map(|heard| heard.message).collect();
    asked.retain(|message| message != "mine");
    assert_eq!(asked, ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "again"]);
}

#[tokio::test]
async fn killed_while_two_are_answered_each_gets_the_rest_of_their_own() {
    let mut stage = Stage::new().await;
    let [adas, graces] = [(), ()].map(|()| Writes::slowly([long("a"), long("b"), long("c")], 2));
    stage.converse(adas.clone(), "");
    let ada = stage.say(mention("tell me more"));
    stage.counted(|counters| counters.messages_created == 1).await;
    stage.converse(graces.clone(), "");
    let grace = stage.say(mention("and me").by("grace"));
    stage.counted(|counters| counters.messages_created == 2).await;
    stage.simulator.fault(Order {
        fault: Fault::RestHang { route: Some(format!("{}1100000000000000100/messages", post())) },
        times: None,
        after: 1,
    });
    adas.permits.add_permits(1);
    stage.unsettled(|attempt| attempt.parts == 3).await;
    stage.kill_but_for_the_history().await;
    stage.simulator.clear_faults();
    stage.converse(Writes::at_once(["something else"]), "");
    stage.start();
    stage.shows("lost", 1).await;
    stage.settled().await;
    let to = |question: &serde_json::Value| -> Vec<String> {
        let said = stage.by_bot("general").into_iter();
        let said = said.filter(|message| message["message_reference"]["message_id"] == question["id"]);
        said.map(|message| message["content"].as_str().unwrap().chars().take(4).collect()).collect()
    };
    assert_eq!(
        (to(&ada), to(&grace)),
        (vec!["aaaa".into(), "bbbb".into(), "cccc".into()], vec!["aaaa".into(), "(I w".into()])
    );
    assert_eq!(stage.said("general").len(), 5);
}

#[tokio::test]
async fn a_stop_waits_for_an_answer_under_way() {
    let mut stage = Stage::new().await;
    let writes = Writes::slowly(["Well, ", "indeed."], 1);
    stage.converse(writes.clone(), "");
    stage.say(mention("one"));
    stage.counted(|counters| counters.typings >= 1).await;
    let board = Arc::clone(&stage.board);
    let drains = tokio::spawn(async move {
        while board.services()["discord"].state != State::Draining {
            board.changed().await;
        }
        writes.permits.add_permits(1);
    });
    stage.stop().await;
    drains.await.unwrap();
    stage.hears("general", &["Well, indeed."]).await;
}

#[tokio::test]
async fn killed_while_the_model_thinks_it_is_asked_anew() {
    let mut stage = Stage::new().await;
    stage.converse(Writes::slowly(["never said"], 0), "");
    stage.say(mention("hello"));
    stage.counted(|counters| counters.typings >= 1).await;
    stage.kill().await;
    stage.converse(Writes::at_once(["hello yourself"]), "");
    stage.start();
    stage.hears("general", &["hello yourself"]).await;
    stage.settled().await;
}

/// Kills perch in the middle of a long answer, of which one message was said.
async fn killed_between_two() -> Stage {
    let mut stage = Stage::new().await;
    stage.converse(Writes::slowly([long("a"), long("b"), long("c")], 2), "");
    stage.say(mention("tell me more"));
    stage.counted(|counters| counters.messages_created == 1).await;
    stage.kill().await;
    stage
}

#[tokio::test]
async fn killed_in_the_middle_it_says_so_and_begins_no_other_answer() {
    let mut stage = killed_between_two().await;
    let writes = Writes::at_once(["something else"]);
    stage.converse(writes.clone(), "");
    stage.start();
    stage.shows("lost", 1).await;
    stage.settled().await;
    let said = stage.said("general");
    assert_eq!(said[1..], ["(I was interrupted here. Ask again to hear all of it.)"]);
    assert_eq!((said[0].len(), writes.asked()), (1_996, vec![]));
    // And once.
    stage.kill().await;
    stage.start();
    stage.say(mention("again"));
    stage.shows("replies", 1).await;
    assert_eq!(stage.said("general")[2..], ["something else"]);
}

#[tokio::test]
async fn killed_while_it_says_that_it_was_interrupted_it_says_so_once() {
    let mut stage = killed_between_two().await;
    stage.converse(Writes::at_once(["something else"]), "");
    stage.simulator.fault(Fault::RestLate { route: Some(post()), ms: 3_600_000 });
    stage.start();
    stage.counted(|counters| counters.messages_created == 2).await;
    stage.kill().await;
    stage.simulator.clear_faults();
    stage.start();
    stage.settled().await;
    assert_eq!(stage.said("general").len(), 2);
    assert_eq!(stage.simulator.counters().nonce_deduplicated, 0, "it was looked up, not tried");
}

#[tokio::test]
async fn an_answer_that_the_history_has_is_gone_on_with_word_by_word() {
    let mut stage = Stage::new().await;
    stage.converse(Writes::at_once([long("a"), long("b"), long("c")]), "");
    stage.simulator.fault(Order {
        fault: Fault::RestHang { route: Some(format!("{}1100000000000000100/messages", post())) },
        times: None,
        after: 2,
    });
    stage.say(mention("tell me more"));
    stage.counted(|counters| counters.messages_created == 2).await;
    stage.unsettled(|attempt| attempt.parts == 3).await;
    stage.kill_but_for_the_history().await;
    stage.simulator.clear_faults();
    let writes = Writes::at_once(["something else"]);
    stage.converse(writes.clone(), "");
    stage.start();
    stage.shows("replies", 1).await;
    assert_eq!(shapes(&stage), ["a1996", "b1996", "c508"]);
    assert_eq!(stage.said("general").concat(), [long("a"), long("b"), long("c")].concat());
    assert_eq!(writes.asked(), []);
}

#[tokio::test]
async fn an_answer_that_was_said_and_not_heard_of_is_not_given_again() {
    let mut stage = Stage::new().await;
    stage.converse(Writes::at_once(["once"]), "");
    stage.simulator.fault(Fault::RestCut { route: Some(format!("{}1100000000000000100/messages", post())) });
    stage.say(mention("hello"));
    stage.counted(|counters| counters.messages_created == 1).await;
    stage.kill().await;
    stage.simulator.clear_faults();
    let writes = Writes::at_once(["twice"]);
    stage.converse(writes.clone(), "");
    stage.start();
    stage.say(mention("after"));
    stage.hears("general", &["once", "twice"]).await;
    assert_eq!(writes.asked().len(), 1);
}

#[tokio::test]
async fn a_question_that_is_deleted_stops_the_model_and_those_that_wait_are_asked_as_they_are_now() {
    let stage = Stage::new().await;
    let writes = Writes::slowly([long("a"), long("b")], 0);
    stage.converse(writes.clone(), "");
    let ids: Vec<_> = (1..=6).map(|number| stage.say(mention(&format!("number {number}")))["id"].clone()).collect();
    stage.counted(|counters| counters.typings >= 1).await;
    let delete = async |messages: serde_json::Value| {
        stage.control("POST", "delete", &json!({ "channel": "general", "message": messages })).await;
    };
    let edit = async |message: &serde_json::Value, content: String| {
        stage.control("POST", "edit", &json!({ "channel": "general", "message": message, "content": content })).await;
    };
    delete(ids[1].clone()).await;
    edit(&ids[2], format!("{BOT} another one")).await;
    delete(json!([ids[3], ids[4]])).await;
    edit(&ids[5], "not for you".to_owned()).await;
    // Only now the first: those behind it wait for it.
    writes.permits.add_permits(1);
    delete(ids[0].clone()).await;
    stage.shows("refused", 2).await;
    writes.permits.add_permits(2);
    stage.shows("refused", 5).await;
    stage.shows("replies", 1).await;
    let asked: Vec<_> = writes.asked().into_iter().map(|heard| heard.message).collect();
    assert_eq!(
        (asked, shapes(&stage)),
        (vec!["number 1".into(), "another one".into()], vec!["a1996".into(), "b1004".into()])
    );
}

#[tokio::test]
async fn a_channel_that_is_deleted_stops_the_model() {
    let stage = Stage::new().await;
    let writes = Writes::slowly(["never"], 0);
    stage.converse(writes.clone(), "");
    for (number, channel) in ["random", "nest box"].into_iter().enumerate() {
        stage.say(mention("hello?").in_channel(channel));
        stage.say(mention("anybody?").in_channel(channel));
        // The bot types again where the first takes long.
        stage.counted(|_| writes.asked().len() > number).await;
        stage.control("DELETE", &format!("channels/{}", channel.replace(' ', "%20")), &json!({})).await;
        stage.shows("refused", 2 * (number + 1)).await;
    }
    assert_eq!(writes.asked().len(), 2);
}
