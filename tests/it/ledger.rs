//! perch is killed at the worst moments of an answer: nobody hears it twice.

use perch::sim::{Fault, Order, Say};

use super::support::bot::{Answer, Bot};
use super::support::perch::{Perch, wait};

/// What an answer is sent with.
const SAYING: &str = "POST /channels/";

/// Discord says the answer at once, and perch does not live to hear of it.
fn unheard() -> Fault {
    Fault::RestLate { route: Some(SAYING.to_owned()), ms: 3_600_000 }
}

/// Discord never gets the answer.
fn unsaid() -> Fault {
    Fault::RestHang { route: Some(SAYING.to_owned()) }
}

/// perch with a session.
fn connected(bot: &Bot) -> Perch {
    let perch = bot.perch().ready();
    perch.wait_status("a session", |status| status["discord"]["session"] == true);
    perch
}

fn kill(mut perch: Perch) {
    perch.signal("KILL");
    perch.wait();
}

/// Lets the next process finish what the last one left, and ends it.
fn settle(bot: &Bot) -> Perch {
    bot.discord.simulator().clear_faults();
    let mut perch = connected(bot);
    // Whatever was left comes before this one.
    let last = bot.mention("random", "the last");
    wait("the last answer", || {
        bot.answers("random").iter().any(|answer| answer.to.as_ref() == Some(&last)).then_some(())
    });
    assert_eq!(perch.stop().code(), Some(0), "{}", perch.log_text());
    assert_eq!(bot.unsettled(), []);
    assert_eq!(bot.discord.counters().nonce_deduplicated, 0, "it was looked up, not tried");
    perch
}

fn reply(to: &str, text: &str) -> Answer {
    Answer { to: Some(to.to_owned()), text: text.to_owned() }
}

#[test]
fn killed_between_the_row_and_the_sending_perch_answers_once() {
    let bot = Bot::new();
    let perch = connected(&bot);
    bot.discord.simulator().fault(unsaid());
    let before = bot.discord.counters().rest_requests;
    let asked = bot.mention("general", "hello");
    wait("the answer on its way", || (bot.discord.counters().rest_requests > before).then_some(()));
    kill(perch);
    // What is on its way is on the disk already.
    let begun = bot.unsettled();
    assert_eq!(begun.iter().map(|(message, _)| message.to_string()).collect::<Vec<_>>().as_slice(), &[asked.as_str()]);
    settle(&bot);
    assert_eq!(bot.answers("general"), [reply(&asked, "hello")]);
}

#[test]
fn killed_when_the_answer_was_said_and_not_heard_of_perch_does_not_say_it_again() {
    let bot = Bot::new();
    let perch = connected(&bot);
    bot.discord.simulator().fault(unheard());
    let asked = bot.mention("general", "hello");
    bot.wait_answers("general", 1);
    kill(perch);
    assert_eq!(bot.unsettled().len(), 1);
    settle(&bot);
    assert_eq!(bot.answers("general"), [reply(&asked, "hello")]);
}

#[test]
fn where_the_history_cannot_be_read_perch_answers_without_a_reply() {
    let bot = Bot::new();
    bot.add_channel("no-history", false);
    let _perch = connected(&bot);
    bot.mention("no-history", "hello");
    assert_eq!(bot.wait_answers("no-history", 1), [Answer { to: None, text: "hello".to_owned() }]);
}

/// Kills perch in a channel where it can neither reply nor look, and returns what it said there once all is settled.
fn killed_without_history(fault: Fault, said: usize) -> Vec<Answer> {
    let bot = Bot::new();
    bot.add_channel("no-history", false);
    let perch = connected(&bot);
    // The first try is the reply, which is refused.
    bot.discord.simulator().fault(Order { fault, times: None, after: 1 });
    let before = bot.discord.counters().rest_requests;
    let asked = bot.mention("no-history", "hello");
    wait("the second try", || (bot.discord.counters().rest_requests > before + 1).then_some(()));
    bot.wait_answers("no-history", said);
    kill(perch);
    let perch = settle(&bot);
    let left =
        format!("message {asked} may have been answered before perch stopped; it can't be found any more, and is left");
    assert!(perch.messages("WARN").contains(&left), "{:?}", perch.messages("WARN"));
    bot.answers("no-history")
}

#[test]
fn where_the_history_cannot_be_read_a_crash_costs_an_answer_and_doubles_none() {
    assert_eq!(killed_without_history(unheard(), 1).len(), 1);
    assert_eq!(killed_without_history(unsaid(), 0).len(), 0);
}

/// Kills perch when so many others have spoken between the question and the answer, and settles.
fn after_so_much_talk(others: usize, fault: Fault) -> (Vec<Answer>, Answer, Perch) {
    let bot = Bot::new();
    let perch = connected(&bot);
    let simulator = bot.discord.simulator();
    simulator.fault(Fault::Rest {
        route: Some(SAYING.to_owned()),
        status: 500,
        retry_after: None,
        scope: perch::sim::Scope::User,
    });
    let before = bot.discord.counters().rest_requests;
    let asked = bot.mention("general", "hello");
    wait("the first try", || (bot.discord.counters().rest_requests > before).then_some(()));
    for number in 0..others {
        simulator.say(Say::new(number.to_string()).by("grace")).unwrap();
    }
    let said = usize::from(matches!(fault, Fault::RestLate { .. }));
    let before = bot.discord.counters().rest_requests;
    simulator.clear_faults();
    simulator.fault(fault);
    wait("another try", || (bot.discord.counters().rest_requests > before).then_some(()));
    bot.wait_answers("general", said);
    kill(perch);
    let perch = settle(&bot);
    (bot.answers("general"), reply(&asked, "hello"), perch)
}

#[test]
fn an_answer_further_down_than_one_page_is_found() {
    let (answers, expected, _) = after_so_much_talk(250, unheard());
    assert_eq!(answers, [expected]);
}

#[test]
fn an_answer_that_no_page_has_is_given() {
    let (answers, expected, _) = after_so_much_talk(250, unsaid());
    assert_eq!(answers, [expected]);
}

#[test]
fn an_answer_that_may_be_further_down_than_perch_looks_is_not_given_again() {
    let (answers, expected, perch) = after_so_much_talk(1_100, unheard());
    assert_eq!(answers, [expected]);
    let left = |message: &String| message.contains("it can't be found any more, and is left");
    assert_eq!(perch.messages("WARN").iter().filter(|message| left(message)).count(), 1);
}
