use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use crate::chat::PersonId;
use crate::chat::history::{Archive, Attachment, ConversationId, Cursor, Exchange, Record, State, Unavailable, now};
use crate::service::Board;
use crate::store::file::MIGRATIONS;
use crate::store::{Conversations, FILE, Pace, Store};

const PACE: Pace = Pace { session: Duration::from_millis(5), check: Duration::from_millis(20) };

fn open(directory: &Path) -> (Store, Conversations) {
    let store = Store::new();
    store.open(directory.to_owned(), Arc::new(Board::default()), PACE);
    let conversations = store.conversations();
    (store, conversations)
}

fn person(name: &str) -> PersonId {
    PersonId::key(name)
}

fn exchange(number: u64, question: &str, answer: &str) -> Exchange {
    let attachments = [Attachment { name: "a.png".to_owned(), kind: "image/png".to_owned(), size: 7 }];
    Exchange {
        number,
        key: Some(format!("key-{number}").into()),
        question: question.into(),
        attachments: attachments.into(),
        answer: answer.to_owned(),
        answered: number + 1,
        state: State::Done,
    }
}

/// A conversation of one exchange, which began at `number`.
fn record(name: &str, id: u128, number: u64, question: &str) -> Record {
    Record {
        id: ConversationId(id),
        person: person(name),
        key: Some(format!("key-{number}").into()),
        updated: number,
        fleeting: false,
        exchanges: vec![exchange(number, question, "yes")],
    }
}

/// Writes it down, once there is room for it to wait.
async fn put(conversations: &Conversations, record: Record) {
    while !conversations.put(record.clone()) {
        tokio::task::yield_now().await;
    }
}

async fn titles(conversations: &Conversations, name: &str) -> Vec<String> {
    let list = conversations.list(&person(name), None, 10_000).await.unwrap();
    list.into_iter().map(|summary| summary.title).collect()
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_was_said_is_known_to_the_next_process_and_to_nobody_else() {
    let directory = TempDir::new().unwrap();
    let id = ConversationId(7);
    {
        let (_store, conversations) = open(directory.path());
        assert!(conversations.put(record("ann", 7, 100, "one")));
        let mut unfinished =
            Record { updated: 200, exchanges: vec![exchange(200, "two", "")], ..record("ann", 7, 100, "") };
        unfinished.exchanges[0].state = State::Answering;
        assert!(conversations.put(unfinished.clone()));
        unfinished.exchanges[0] = exchange(200, "two", "done");
        assert!(conversations.put(unfinished));
        // It is hers, whoever knows its id.
        assert!(conversations.put(record("bob", 7, 300, "mine")));
        assert_eq!(conversations.last(&person("ann"), id, 1 << 20).await.unwrap().unwrap().exchanges.len(), 2);
        // Dropped, as in a crash: nothing is closed.
    }
    let (_store, conversations) = open(directory.path());
    let (ann, bob) = (person("ann"), person("bob"));
    let kept = conversations.last(&ann, id, 1 << 20).await.unwrap().unwrap();
    assert_eq!((kept.title.as_str(), kept.omitted), ("one", 0));
    assert_eq!(kept.exchanges, [exchange(100, "one", "yes"), exchange(200, "two", "done")]);
    let last = conversations.last(&ann, id, 1).await.unwrap().unwrap();
    assert_eq!((last.exchanges, last.omitted), (vec![exchange(200, "two", "done")], 1));
    assert_eq!(conversations.next(&ann, id, 0, 1).await.unwrap(), [exchange(100, "one", "yes")]);
    assert_eq!(conversations.next(&ann, id, 100, 1 << 20).await.unwrap(), [exchange(200, "two", "done")]);
    assert_eq!(conversations.asked(&ann, id, "key-200").await.unwrap(), Some(exchange(200, "two", "done")));
    assert_eq!(conversations.asked(&ann, id, "key-300").await.unwrap(), None);
    assert_eq!(conversations.begun(&ann, "key-100").await.unwrap(), Some(id));
    let summaries = conversations.list(&ann, None, 50).await.unwrap();
    assert_eq!((summaries.len(), summaries[0].updated, summaries[0].messages), (1, 200, 4));
    // Nothing of it for anybody else.
    assert_eq!(conversations.last(&bob, id, 1).await, Ok(None));
    assert_eq!(conversations.next(&bob, id, 0, 1).await, Ok(Vec::new()));
    assert_eq!(conversations.asked(&bob, id, "key-200").await, Ok(None));
    assert_eq!(conversations.begun(&bob, "key-100").await, Ok(None));
    assert_eq!(conversations.list(&bob, None, 50).await, Ok(Vec::new()));
    assert_eq!(conversations.erase(&bob, Some(id)).await, Ok(false));
    assert_eq!(conversations.erase(&bob, None).await, Ok(false));
    let (people, all) = conversations.people(10).await.unwrap();
    assert_eq!((people.len(), all), (1, 1));
    assert_eq!((people[0].person.as_str(), people[0].conversations, people[0].updated), ("key:ann", 1, 200));
}

#[tokio::test]
async fn a_long_list_is_read_page_by_page() {
    let directory = TempDir::new().unwrap();
    let (_store, conversations) = open(directory.path());
    for number in 0..1_000 {
        // Ten of them at the same moment.
        put(&conversations, record("ann", number, 1 + u64::try_from(number).unwrap() / 10, &number.to_string())).await;
    }
    let (mut after, mut seen): (Option<Cursor>, Vec<u128>) = (None, Vec::new());
    loop {
        let page = conversations.list(&person("ann"), after, 64).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.cursor());
        seen.extend(page.iter().map(|summary| summary.id.0));
    }
    assert_eq!(seen, (0..1_000).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_erased_is_nowhere_in_the_files() {
    let directory = TempDir::new().unwrap();
    let (_store, conversations) = open(directory.path());
    for number in 0..300 {
        let (own, other) = (format!("fingerprint {number} "), format!("landmark {number} "));
        let longest = 137 * usize::try_from(number).unwrap() % 9_000;
        let own = own.repeat(1 + longest / own.len());
        put(&conversations, record("ann", number, 1 + u64::try_from(number).unwrap(), &own)).await;
        put(&conversations, record("bob", 1_000 + number, 1 + u64::try_from(number).unwrap(), &other)).await;
    }
    assert_eq!(titles(&conversations, "ann").await.len(), 300);
    let found = |text: &str| {
        let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| find(&std::fs::read(path).unwrap(), text.as_bytes())).count()
    };
    assert!(found("fingerprint") > 0);
    assert_eq!(conversations.erase(&person("ann"), Some(ConversationId(17))).await, Ok(true));
    assert_eq!(found("fingerprint 17 "), 0);
    assert_eq!(conversations.erase(&person("ann"), None).await, Ok(true));
    assert_eq!(found("fingerprint"), 0);
    assert!(found("landmark 17 ") > 0);
    assert_eq!(titles(&conversations, "ann").await, [""; 0]);
    assert_eq!(titles(&conversations, "bob").await.len(), 300);
}

fn find(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[tokio::test]
async fn old_conversations_are_forgotten() {
    let directory = TempDir::new().unwrap();
    let (store, conversations) = open(directory.path());
    let hour = 3_600_000;
    for (id, age) in [(1, 1), (2, 30), (3, 100)] {
        assert!(conversations.put(record("ann", id, now() - age * hour, &format!("{age} hours ago"))));
    }
    assert!(conversations.put(record("bob", 4, now() - 50 * hour, "long ago")));
    store.retain(None, u64::MAX);
    assert_eq!(titles(&conversations, "ann").await, ["1 hours ago", "30 hours ago", "100 hours ago"]);
    store.retain(Some(Duration::from_hours(48)), u64::MAX);
    until("the old one to go", async || titles(&conversations, "ann").await == ["1 hours ago", "30 hours ago"]).await;
    until("who has nothing to go", async || conversations.people(10).await.unwrap().1 == 1).await;
    store.retain(Some(Duration::from_hours(2)), u64::MAX);
    until("another to go", async || titles(&conversations, "ann").await == ["1 hours ago"]).await;
}

#[tokio::test]
async fn the_database_grows_to_its_limit_and_no_further() {
    const LIMIT: u64 = 4 << 20;
    let directory = TempDir::new().unwrap();
    let (store, conversations) = open(directory.path());
    store.retain(None, LIMIT);
    let long = "x".repeat(20_000);
    let size = || std::fs::metadata(directory.path().join(FILE)).unwrap().len();
    let mut largest = 0;
    for number in 0..2_000_u64 {
        let mut record = record("ann", number.into(), 1_000 + number, &format!("{number} {long}"));
        // One in a while is of somebody who came once: those go first, however new they are.
        record.fleeting = number % 10 == 0;
        put(&conversations, record).await;
        if number % 100 == 99 {
            // Whatever waits is written then.
            conversations.people(1).await.unwrap();
            until("the limit to be kept", async || used(&store).await <= LIMIT).await;
            largest = largest.max(size());
        }
    }
    assert!(largest < LIMIT + (6 << 20), "{largest}");
    let titles = titles(&conversations, "ann").await;
    assert!(titles.len() > 100, "{}", titles.len());
    assert!(titles[0].starts_with("1999 "), "the newest is there");
    assert!(!titles.iter().any(|title| title.starts_with("1000 ")), "and the oldest not");
    // A lower limit makes the file smaller.
    store.retain(None, 1 << 20);
    until("the file to shrink", async || {
        store.scrub().await.unwrap();
        size() < (1 << 20) + (5 << 20)
    })
    .await;
}

#[tokio::test]
async fn the_smallest_limit_is_what_the_file_takes() {
    // The least that the configuration takes.
    const LIMIT: u64 = 1 << 20;
    let directory = TempDir::new().unwrap();
    let (store, conversations) = open(directory.path());
    let size = async || {
        // With it goes what is in the log alone.
        store.scrub().await.unwrap();
        std::fs::metadata(directory.path().join(FILE)).unwrap().len()
    };
    let long = "x".repeat(10_000);
    for number in 0..1_000_u64 {
        put(&conversations, record("ann", number.into(), 1_000 + number, &format!("{number} {long}"))).await;
    }
    conversations.people(1).await.unwrap();
    assert!(size().await > 10 * LIMIT);
    store.retain(None, LIMIT);
    until("the file to shrink", async || size().await <= LIMIT).await;
    // And so it stays, whatever is said.
    for number in 1_000..1_400_u64 {
        put(&conversations, record("ann", number.into(), 1_000 + number, &format!("{number} {long}"))).await;
        if number % 50 == 49 {
            conversations.people(1).await.unwrap();
            until("the limit to be kept", async || size().await <= LIMIT).await;
        }
    }
    let titles = titles(&conversations, "ann").await;
    assert!(titles.len() > 30 && titles[0].starts_with("1399 "), "{}", titles.len());
}

async fn used(store: &Store) -> u64 {
    let pages = store.ask(false, super::prune::Pages::of).await.unwrap();
    pages.used * pages.size
}

#[tokio::test]
async fn a_database_of_before_there_were_conversations_is_taken_over() {
    let directory = TempDir::new().unwrap();
    {
        let db = Connection::open(directory.path().join(FILE)).unwrap();
        db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())).unwrap();
        for migration in &MIGRATIONS[..3] {
            db.execute_batch(migration).unwrap();
        }
        db.pragma_update(None, "user_version", 3).unwrap();
        db.execute_batch("INSERT INTO bot (user) VALUES (5); INSERT INTO ledger VALUES (1, 9, 1, 0, 0, 0)").unwrap();
    }
    let (store, conversations) = open(directory.path());
    let key = crate::store::Key { bot: 5, message: 9 };
    assert_eq!(store.ledger().find(key).await, Some(crate::store::Standing::Settled));
    assert!(conversations.complete());
    assert!(conversations.put(record("ann", 1, 1, "hello")));
    assert_eq!(titles(&conversations, "ann").await, ["hello"]);
    let pragma =
        |name: &'static str| store.ask(false, move |db| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
    assert_eq!((pragma("user_version").await, pragma("auto_vacuum").await), (Some(5), Some(2)));
}

#[tokio::test]
async fn what_waits_for_a_slow_disk_is_bounded() {
    // Nobody has opened it: everything waits.
    let store = Store::new();
    let conversations = store.conversations();
    let long = "x".repeat(1 << 20);
    let taken = (0..100).filter(|id| conversations.put(record("ann", *id, 1, &long))).count();
    assert!((2..=4).contains(&taken), "{taken}");
    let directory = TempDir::new().unwrap();
    store.open(directory.path().to_owned(), Arc::new(Board::default()), PACE);
    until("what waited to be written", async || titles(&conversations, "ann").await.len() == taken).await;
    assert!(conversations.put(record("ann", 1_000, 1, &long)));
    until("the next to be written", async || titles(&conversations, "ann").await.len() == taken + 1).await;
}

#[tokio::test]
async fn without_the_file_new_conversations_are_known_and_old_ones_in_doubt() {
    let directory = TempDir::new().unwrap();
    // Where the file belongs is a directory; unlike a mode, that stops root too.
    let path = directory.path().join(FILE);
    std::fs::create_dir(&path).unwrap();
    let (_store, conversations) = open(directory.path());
    assert!(conversations.put(record("ann", 1, now(), "hello")));
    assert_eq!(titles(&conversations, "ann").await, ["hello"]);
    assert!(!conversations.complete());
    let epoch = conversations.epoch();
    // What is in the file can't be removed from it now.
    assert!(conversations.put(record("bob", 2, now(), "hello")));
    assert_eq!(conversations.erase(&person("bob"), None).await, Err(Unavailable));
    std::fs::remove_dir(&path).unwrap();
    until("the file", async || conversations.complete()).await;
    assert_ne!(conversations.epoch(), epoch);
    assert_eq!(titles(&conversations, "ann").await, ["hello"]);
}

#[tokio::test]
async fn of_a_large_database_little_goes_to_memory() {
    let directory = TempDir::new().unwrap();
    let (store, conversations) = open(directory.path());
    let long = "x".repeat(100_000);
    for number in 0..400_u64 {
        put(&conversations, record("ann", number.into(), 1_000 + number, &format!("{number} {long}"))).await;
    }
    assert_eq!(titles(&conversations, "ann").await.len(), 400);
    // The file may not grow any more; the limit belongs to the connection, so that opening it again is the cure.
    store.tell(|db| db.pragma_update(None, "max_page_count", 1));
    let mut number = 400;
    while conversations.complete() {
        number += 1;
        conversations.put(record("ann", number.into(), 1_000 + number, &format!("{number} {long}")));
        drop(conversations.people(1).await);
    }
    let used = used(&store).await;
    assert!((10 << 20..32 << 20).contains(&used), "{used}");
    let kept = titles(&conversations, "ann").await;
    assert!(kept.len() > 100 && kept.len() < 250, "{}", kept.len());
    until("the file", async || conversations.complete()).await;
    assert!(titles(&conversations, "ann").await.len() > 399);
}
