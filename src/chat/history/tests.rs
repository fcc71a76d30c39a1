use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;

use super::*;
use crate::chat::Speaker;
use crate::store::Store;

fn history() -> Arc<History> {
    History::new(Arc::new(Store::in_memory().conversations()))
}

fn guest(name: &str) -> Asker {
    Asker { person: PersonId::key(name), newcomer: false, client: None }
}

fn stranger(name: &str) -> Asker {
    Asker { person: PersonId::visitor(name), newcomer: true, client: None }
}

fn question(text: &str, key: Option<&str>) -> Question {
    Question { text: text.into(), attachments: [].into(), key: key.map(Into::into) }
}

async fn begin(history: &Arc<History>, asker: &Asker, which: Which, text: &str, key: Option<&str>) -> Asking {
    match history.ask(asker, which, question(text, key), 10).await.unwrap() {
        Asked::Now(asking) => asking,
        Asked::Before { answer, .. } => panic!("{text} was answered before: {answer}"),
    }
}

/// Asks and answers.
async fn talk(history: &Arc<History>, asker: &Asker, which: Which, text: &str) -> ConversationId {
    let asking = begin(history, asker, which, text, None).await;
    asking.done(&format!("{text}, indeed"));
    asking.conversation()
}

fn said(asking: &Asking) -> Vec<String> {
    let said = |turn: &Turn| format!("{}{}", if turn.by == Speaker::Person { "> " } else { "" }, turn.text);
    asking.earlier().iter().map(said).collect()
}

/// Question, answer and state of each exchange.
async fn read(history: &History, asker: &Asker, id: ConversationId) -> Vec<(String, String, State)> {
    let conversation = history.conversation(&asker.person, id).await.unwrap().expect("the conversation");
    conversation.exchanges.into_iter().map(|e| (e.question.to_string(), e.answer, e.state)).collect()
}

fn row(question: &str, answer: &str, state: State) -> (String, String, State) {
    (question.to_owned(), answer.to_owned(), state)
}

#[tokio::test]
async fn the_last_turns_are_known_and_begin_with_the_person() {
    let history = history();
    let ann = guest("ann");
    let id = talk(&history, &ann, Which::New, "one").await;
    for text in ["two", "three"] {
        assert_eq!(talk(&history, &ann, Which::Existing(id), text).await, id);
    }
    talk(&history, &ann, Which::New, "elsewhere").await;
    let last = question("four", None);
    let Asked::Now(asking) = history.ask(&ann, Which::Existing(id), last, 5).await.unwrap() else { panic!() };
    assert_eq!(said(&asking), ["> two", "two, indeed", "> three", "three, indeed"]);
    let Asked::Now(asking) = history.ask(&ann, Which::Existing(id), question("five", None), 0).await.unwrap() else {
        panic!()
    };
    assert_eq!(said(&asking), [""; 0]);
}

#[tokio::test]
async fn a_conversation_is_its_persons_alone() {
    let history = history();
    let (ann, bob) = (guest("ann"), guest("bob"));
    let id = talk(&history, &ann, Which::New, "secret").await;
    for nobody in [&bob, &stranger("ann")] {
        assert!(history.ask(nobody, Which::Existing(id), question("and?", None), 9).await.is_err());
        assert!(history.ask(nobody, Which::Own(id), question("and?", None), 9).await.is_err());
        assert_eq!(history.conversation(&nobody.person, id).await, Ok(None));
        assert_eq!(history.exchanges(&nobody.person, id, 0).await, Ok(Vec::new()));
        assert_eq!(history.list(&nobody.person, None, 9).await, Ok((Vec::new(), false)));
        assert_eq!(history.erase(&nobody.person, Some(id)).await, Ok(false));
    }
    assert_eq!(read(&history, &ann, id).await, [row("secret", "secret, indeed", State::Done)]);
    let unknown = Which::Existing(ConversationId::random());
    assert!(history.ask(&ann, unknown, question("and?", None), 9).await.is_err());
}

#[tokio::test]
async fn at_a_place_everybody_is_heard_and_what_they_said_stays_theirs() {
    let store = Store::in_memory();
    let [ann, bob] = ["ann", "bob"].map(guest);
    let [anns, bobs] = [1, 2].map(|own| ConversationId::beside(7, own));
    let elsewhere = ConversationId::beside(8, 1);
    {
        let history = History::new(Arc::new(store.conversations()));
        talk(&history, &ann, Which::Shared(anns), "one").await;
        talk(&history, &bob, Which::Shared(bobs), "two").await;
        talk(&history, &ann, Which::Shared(elsewhere), "elsewhere").await;
        talk(&history, &ann, Which::Shared(anns), "three").await;
    }
    // Another process knows of it, too.
    let history = History::new(Arc::new(store.conversations()));
    let asking = begin(&history, &bob, Which::Shared(bobs), "four", None).await;
    assert_eq!(said(&asking), ["> one", "one, indeed", "> two", "two, indeed", "> three", "three, indeed"]);
    asking.done("four, indeed");
    assert_eq!(read(&history, &ann, anns).await.len(), 2);
    assert_eq!(history.erase(&ann.person, None).await, Ok(true));
    let asking = begin(&history, &bob, Which::Shared(bobs), "five", None).await;
    assert_eq!(said(&asking), ["> two", "two, indeed", "> four", "four, indeed"]);
    drop(asking);
    let history = History::new(Arc::new(store.conversations()));
    let asking = begin(&history, &ann, Which::Shared(anns), "six", None).await;
    assert_eq!(said(&asking), ["> two", "two, indeed", "> four", "four, indeed"]);
}

#[tokio::test]
async fn an_answer_is_whole_stopped_or_failed() {
    let history = history();
    let ann = guest("ann");
    let id = talk(&history, &ann, Which::New, "one").await;
    let stopped = begin(&history, &ann, Which::Existing(id), "two", None).await;
    stopped.say("Well, ");
    stopped.say("I");
    assert_eq!(read(&history, &ann, id).await[1], row("two", "Well, I", State::Answering));
    drop(stopped);
    let failed = begin(&history, &ann, Which::Existing(id), "three", None).await;
    failed.say("As ");
    failed.failed();
    drop(failed);
    let nothing = begin(&history, &ann, Which::Existing(id), "four", None).await;
    drop(nothing);
    assert_eq!(
        read(&history, &ann, id).await,
        [
            row("one", "one, indeed", State::Done),
            row("two", "Well, I", State::Stopped),
            row("three", "As ", State::Failed),
            row("four", "", State::Stopped)
        ]
    );
    // What they have read is what was said; what failed was not.
    let asking = begin(&history, &ann, Which::Existing(id), "five", None).await;
    assert_eq!(said(&asking), ["> one", "one, indeed", "> two", "Well, I"]);
}

#[tokio::test]
async fn a_question_with_a_key_stands_once() {
    let history = history();
    let ann = guest("ann");
    let first = begin(&history, &ann, Which::New, "one", Some("a")).await;
    let id = first.conversation();
    first.say("It");
    // Sent again while it is being answered: the first is given up.
    let second = begin(&history, &ann, Which::New, "one", Some("a")).await;
    assert_eq!((second.conversation(), second.message()), (id, first.message()));
    first.given_up().await;
    first.say(" was");
    first.done("It was said too late");
    second.failed();
    let third = begin(&history, &ann, Which::Existing(id), "one", Some("a")).await;
    assert_eq!(said(&third), [""; 0]);
    third.done("It is one");
    for which in [Which::New, Which::Existing(id)] {
        match history.ask(&ann, which, question("one", Some("a")), 9).await.unwrap() {
            Asked::Before { conversation, message, answer, .. } => {
                assert_eq!((conversation, message, answer.as_str()), (id, third.message(), "It is one"));
            }
            Asked::Now(_) => panic!("it was answered"),
        }
    }
    assert_eq!(read(&history, &ann, id).await, [row("one", "It is one", State::Done)]);
    // Another question is told so, and changes nothing.
    for which in [Which::New, Which::Existing(id)] {
        let another = history.ask(&ann, which, question("two", Some("a")), 9).await;
        assert!(matches!(another, Err(Unasked::AnotherQuestion)));
    }
    assert_eq!(read(&history, &ann, id).await, [row("one", "It is one", State::Done)]);
    // A key is one person's, and belongs to the conversation.
    let other = begin(&history, &guest("bob"), Which::New, "one", Some("a")).await;
    assert_ne!(other.conversation(), id);
    let next = begin(&history, &ann, Which::Existing(id), "two", Some("b")).await;
    assert_eq!(next.conversation(), id);
    assert_ne!(begin(&history, &ann, Which::New, "two", Some("b")).await.conversation(), id);
}

#[tokio::test]
async fn what_another_process_left_unfinished_was_stopped_and_is_answered_in_place() {
    let store = Store::in_memory();
    let ann = guest("ann");
    let id = {
        let history = History::new(Arc::new(store.conversations()));
        let id = talk(&history, &ann, Which::New, "one").await;
        let asking = begin(&history, &ann, Which::Existing(id), "two", Some("k")).await;
        talk(&history, &ann, Which::Existing(id), "three").await;
        std::mem::forget(asking);
        id
    };
    let history = History::new(Arc::new(store.conversations()));
    let left = [
        row("one", "one, indeed", State::Done),
        row("two", "", State::Stopped),
        row("three", "three, indeed", State::Done),
    ];
    assert_eq!(read(&history, &ann, id).await, left);
    let again = begin(&history, &ann, Which::Existing(id), "two", Some("k")).await;
    assert_eq!(said(&again), ["> one", "one, indeed"]);
    again.done("two it is");
    assert_eq!(read(&history, &ann, id).await[1], row("two", "two it is", State::Done));
    let history = History::new(Arc::new(store.conversations()));
    assert_eq!(read(&history, &ann, id).await[1], row("two", "two it is", State::Done));
}

#[tokio::test]
async fn what_was_said_outlives_a_kill_and_what_is_tried_after_it() {
    let store = Store::in_memory();
    let ann = guest("ann");
    let id = {
        let history = History::new(Arc::new(store.conversations()));
        let asking = begin(&history, &ann, Which::New, "one", Some("k")).await;
        asking.say("Well, ");
        asking.note();
        asking.say("I can't be known");
        let id = asking.conversation();
        std::mem::forget(asking);
        id
    };
    let history = History::new(Arc::new(store.conversations()));
    assert_eq!(read(&history, &ann, id).await, [row("one", "Well, ", State::Stopped)]);
    // Asked anew it is answered in place. What was said before makes way once there is more.
    for end in [State::Stopped, State::Failed] {
        let again = begin(&history, &ann, Which::New, "one", Some("k")).await;
        assert_eq!(again.conversation(), id);
        assert_eq!(read(&history, &ann, id).await, [row("one", "Well, ", State::Answering)]);
        if end == State::Failed {
            again.failed();
        }
        drop(again);
        assert_eq!(read(&history, &ann, id).await, [row("one", "Well, ", end)]);
    }
    let again = begin(&history, &ann, Which::New, "one", Some("k")).await;
    again.say("It ");
    again.cut_off();
    again.say("is");
    again.failed();
    assert_eq!(read(&history, &ann, id).await, [row("one", "It is", State::Stopped)]);
}

#[tokio::test]
async fn of_an_answer_under_way_one_write_waits_and_a_short_one_needs_none() {
    let archive = Arc::new(Odd { slow: true, ..Odd::default() });
    let history = History::new(Arc::clone(&archive) as Arc<dyn Archive>);
    let written = || -> Vec<String> {
        let records = std::mem::take(&mut *archive.written.lock().unwrap());
        records.into_iter().flat_map(|record| record.exchanges).map(|exchange| exchange.answer).collect()
    };
    let asking = begin(&history, &guest("ann"), Which::New, "one", None).await;
    assert_eq!(written(), [""], "the question");
    asking.say("Well, ");
    assert!(asking.note_down().now_or_never().is_none());
    assert_eq!(written(), [""; 0], "its first second is not over");
    asking.note();
    assert_eq!(written(), ["Well, "]);
    asking.say("well");
    asking.note();
    assert_eq!(written(), [""; 0], "the first one waits");
    archive.waiting.lock().unwrap().clear();
    asking.note();
    assert_eq!(written(), ["Well, well"]);
    archive.waiting.lock().unwrap().clear();
    asking.note();
    assert_eq!(written(), [""; 0], "there is nothing new");
    archive.refuses.store(true, Ordering::Relaxed);
    asking.say(".");
    asking.note();
    archive.refuses.store(false, Ordering::Relaxed);
    asking.note();
    assert_eq!(written(), ["Well, well."]);
    history.erase(&PersonId::key("ann"), None).await.unwrap();
    archive.waiting.lock().unwrap().clear();
    asking.say("..");
    asking.note();
    assert_eq!(written(), [""; 0], "it was deleted");
}

#[tokio::test]
async fn what_is_erased_stays_so_although_an_answer_was_under_way() {
    let history = history();
    let ann = guest("ann");
    let id = talk(&history, &ann, Which::New, "one").await;
    let kept = talk(&history, &ann, Which::New, "kept").await;
    let asking = begin(&history, &ann, Which::Existing(id), "two", None).await;
    assert_eq!(history.erase(&ann.person, Some(id)).await, Ok(true));
    asking.given_up().await;
    asking.say("Well");
    asking.done("Well");
    assert_eq!(history.conversation(&ann.person, id).await, Ok(None));
    let (list, more) = history.list(&ann.person, None, 9).await.unwrap();
    assert_eq!((list.len(), list[0].id, more), (1, kept, false));
    assert_eq!(history.erase(&ann.person, None).await, Ok(true));
    assert_eq!(history.list(&ann.person, None, 9).await, Ok((Vec::new(), false)));
}

#[tokio::test]
async fn a_conversation_longer_than_what_is_at_hand_is_read_whole() {
    let history = history();
    let ann = guest("ann");
    let long = "x".repeat(20 << 10);
    let id = talk(&history, &ann, Which::New, "0").await;
    for number in 1..40 {
        talk(&history, &ann, Which::Existing(id), &format!("{number} {long}")).await;
    }
    let all = history.conversation(&ann.person, id).await.unwrap().unwrap();
    assert_eq!((all.exchanges.len(), all.omitted, all.title.as_str()), (40, 0, "0"));
    assert!(all.exchanges.is_sorted_by_key(|exchange| exchange.number));
    let asking = begin(&history, &ann, Which::Existing(id), "last", None).await;
    assert!(said(&asking)[9].starts_with("39 "));
    let all = history.conversation(&ann.person, id).await.unwrap().unwrap();
    assert_eq!(all.exchanges[40].state, State::Answering);
}

/// An archive that is slow, or has no room, or counts what it is told.
#[derive(Default)]
struct Odd {
    hangs: bool,
    refuses: AtomicBool,
    taken: AtomicUsize,
    written: Mutex<Vec<Record>>,
    /// What it was told to note waits.
    slow: bool,
    waiting: Mutex<Vec<Arc<()>>>,
}

impl Odd {
    async fn answer<T>(&self, answer: T) -> Result<T, Unavailable> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(answer)
    }
}

#[async_trait]
impl Archive for Odd {
    fn put(&self, record: Record) -> bool {
        if self.refuses.load(Ordering::Relaxed) {
            return false;
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.written.lock().unwrap().push(record);
        true
    }

    fn pressed(&self) -> bool {
        false
    }

    async fn relieved(&self) {}

    fn note(&self, record: Record) -> Option<Pending> {
        let slow = self.slow.then(|| Arc::new(()));
        let pending = slow.as_ref().map_or_else(Pending::default, Pending::with);
        self.put(record).then(|| {
            self.waiting.lock().unwrap().extend(slow);
            pending
        })
    }

    async fn last(&self, _: &PersonId, _: ConversationId, _: usize) -> Result<Option<Conversation>, Unavailable> {
        self.answer(None).await
    }

    async fn next(&self, _: &PersonId, _: ConversationId, _: u64, _: usize) -> Result<Vec<Exchange>, Unavailable> {
        self.answer(Vec::new()).await
    }

    async fn asked(&self, _: &PersonId, _: ConversationId, _: &str) -> Result<Option<Exchange>, Unavailable> {
        self.answer(None).await
    }

    async fn at_place(&self, _: ConversationId, _: u32) -> Result<Vec<(PersonId, ConversationId)>, Unavailable> {
        self.answer(Vec::new()).await
    }

    async fn begun(&self, _: &PersonId, _: &str) -> Result<Option<ConversationId>, Unavailable> {
        self.answer(None).await
    }

    async fn list(&self, _: &PersonId, _: Option<Cursor>, _: u32) -> Result<Vec<Summary>, Unavailable> {
        self.answer(Vec::new()).await
    }

    async fn erase(&self, _: &PersonId, _: Option<ConversationId>) -> Result<bool, Unavailable> {
        self.answer(false).await
    }

    async fn people(&self, _: u32) -> Result<(Vec<Person>, u64), Unavailable> {
        self.answer((Vec::new(), 0)).await
    }

    fn complete(&self) -> bool {
        !self.hangs
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn horizon(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn a_database_that_hangs_holds_up_no_answer() {
    let history = History::new(Arc::new(Odd { hangs: true, ..Odd::default() }));
    let ann = guest("ann");
    let begun = std::time::Instant::now();
    // Of a conversation that was there before: what was said in it is not known, and the answer given.
    let id = ConversationId::random();
    let asking = begin(&history, &ann, Which::Existing(id), "one", Some("k")).await;
    assert_eq!((asking.conversation(), said(&asking).len()), (id, 0));
    asking.done("yes");
    let asking = begin(&history, &ann, Which::Existing(id), "two", None).await;
    assert_eq!(said(&asking), ["> one", "yes"]);
    drop(asking);
    // Whoever it really belongs to is not kept from it.
    begin(&history, &guest("bob"), Which::Existing(id), "mine", None).await.done("yes");
    begin(&history, &ann, Which::New, "three", Some("l")).await.done("yes");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn of_a_flood_of_strangers_those_who_came_first_are_known_and_few_are_written_down() {
    let archive = Arc::new(Odd::default());
    let history = History::new(Arc::clone(&archive) as Arc<dyn Archive>);
    let begun = now() / 1_000;
    let mut strangers = Vec::new();
    for number in 0..20_000 {
        let stranger = stranger(&format!("{number}"));
        let id = talk(&history, &stranger, Which::New, "hello").await;
        strangers.push((stranger.person, id));
    }
    let seconds = usize::try_from(now() / 1_000 - begun).unwrap() + 1;
    let taken = archive.taken.load(Ordering::Relaxed);
    assert!((200..=200 * seconds).contains(&taken), "{taken} in {seconds} s");
    // Others are known all the same, and written down once they come back with their cookie.
    let (person, id) = strangers.swap_remove(2_000);
    let (summaries, _) = history.list(&person, None, 9).await.unwrap();
    assert_eq!(summaries.iter().map(|summary| summary.id).collect::<Vec<_>>(), [id]);
    archive.written.lock().unwrap().clear();
    let back = Asker { person, newcomer: false, client: None };
    let asking = begin(&history, &back, Which::Existing(id), "again", None).await;
    assert_eq!(said(&asking), ["> hello", "hello, indeed"]);
    let written = archive.written.lock().unwrap().clone();
    assert_eq!((written.len(), written[0].exchanges.len(), written[0].fleeting), (1, 2, false));
    // Those who find no room any more push out nobody.
    let (person, id) = strangers.pop().unwrap();
    let back = Asker { person, newcomer: false, client: None };
    let question = Question { text: "again".into(), attachments: [].into(), key: None };
    assert!(history.ask(&back, Which::Existing(id), question, 9).await.is_err());
    assert_eq!(history.under_way(), 1);
}

#[tokio::test]
async fn who_floods_leaves_room_for_those_who_come_from_elsewhere() {
    let archive = Arc::new(Odd::default());
    let history = History::new(Arc::clone(&archive) as Arc<dyn Archive>);
    let long = "x".repeat(60_000);
    let from =
        |number: usize, last: u8| Asker { client: Some([192, 0, 2, last].into()), ..stranger(&format!("{number}")) };
    for number in 0..500 {
        talk(&history, &from(number, 1), Which::New, &long).await;
    }
    for number in 500..510 {
        let asker = from(number, 2);
        let id = talk(&history, &asker, Which::New, "hello").await;
        let written = archive.written.lock().unwrap().iter().any(|record| record.id == id);
        assert!(written, "{number}");
    }
}

#[tokio::test]
async fn nothing_is_left_out_that_the_database_has_not_taken() {
    let archive = Arc::new(Odd::default());
    let history = History::new(Arc::clone(&archive) as Arc<dyn Archive>);
    let ann = guest("ann");
    let long = "x".repeat(60_000);
    let id = talk(&history, &ann, Which::New, "first").await;
    archive.written.lock().unwrap().clear();
    archive.refuses.store(true, Ordering::Relaxed);
    for number in 0..10 {
        talk(&history, &ann, Which::Existing(id), &format!("{number} {long}")).await;
    }
    for number in 0..200 {
        let other = guest(&format!("other {number}"));
        talk(&history, &other, Which::New, &long).await;
    }
    assert_eq!(read(&history, &ann, id).await.len(), 11);
    archive.refuses.store(false, Ordering::Relaxed);
    let all = loop {
        let written = archive.written.lock().unwrap().clone();
        if written.len() > 100 {
            break written;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let theirs = all.iter().find(|record| record.id == id).expect("hers");
    assert_eq!(theirs.exchanges.len(), 11);
}

#[tokio::test]
async fn what_waits_when_perch_ends_is_written_before_it_does() {
    let archive = Arc::new(Odd::default());
    let history = History::new(Arc::clone(&archive) as Arc<dyn Archive>);
    archive.refuses.store(true, Ordering::Relaxed);
    talk(&history, &guest("ann"), Which::New, "one").await;
    assert!(history.settle().now_or_never().is_none());
    archive.refuses.store(false, Ordering::Relaxed);
    history.settle().now_or_never().expect("there is room");
    assert_eq!(archive.written.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_the_database_had_no_room_for_is_written_later() {
    let archive = Arc::new(Odd::default());
    let history = History::new(Arc::clone(&archive) as Arc<dyn Archive>);
    let ann = guest("ann");
    archive.refuses.store(true, Ordering::Relaxed);
    let id = talk(&history, &ann, Which::New, "one").await;
    talk(&history, &ann, Which::Existing(id), "two").await;
    assert_eq!(history.list(&ann.person, None, 9).await.unwrap().0.len(), 1);
    archive.refuses.store(false, Ordering::Relaxed);
    // Nobody has to say anything for that.
    let written = loop {
        let written = archive.written.lock().unwrap().clone();
        if !written.is_empty() {
            break written;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((written.len(), written[0].exchanges.len()), (1, 2), "all of it");
    assert_eq!(history.list(&ann.person, None, 9).await.unwrap().0.len(), 0, "it is the database's to list");
    talk(&history, &ann, Which::Existing(id), "three").await;
    let written = archive.written.lock().unwrap().clone();
    let counts: Vec<usize> = written.iter().map(|record| record.exchanges.len()).collect();
    assert_eq!(counts, [2, 1, 1], "what is new alone");
}
