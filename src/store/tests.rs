use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::owner::NAME;
use super::{Attempt, FILE, Key, Pace, Saved, SessionOwner, Standing, Store, Verdict};
use crate::service::Board;

const BOT: u64 = 1_100_000_000_000_000_010;
const OWNER: SessionOwner = SessionOwner { bot: BOT, intents: 4_609, shard: 0, shards: 1, token_mark: u64::MAX };
const PACE: Pace = Pace { session: Duration::from_millis(5), check: Duration::from_millis(20) };

fn key(message: u64) -> Key {
    Key { bot: BOT, message }
}

fn attempt(reply: u64) -> Attempt {
    Attempt { channel: 1_100_000_000_000_000_100, parts: 2, reply }
}

fn session(sequence: u64) -> Saved {
    Saved {
        id: "a".to_owned(),
        sequence,
        resume_url: "wss://gateway".to_owned(),
        application: 7,
        guilds: vec![8, u64::MAX],
    }
}

fn open(directory: &Path) -> (Store, Arc<Board>) {
    let (store, board) = (Store::new(), Arc::new(Board::default()));
    store.open(directory.to_owned(), Arc::clone(&board), PACE);
    (store, board)
}

/// Waits until `status` says that the database is kept `kept`.
async fn kept(board: &Board, kept: &str) {
    let start = Instant::now();
    while board.details().get(NAME).is_none_or(|details| details["kept"] != kept) {
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", board.details());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn what_was_begun_is_known_to_the_next_process_and_settled_there() {
    let directory = TempDir::new().unwrap();
    {
        let (store, _) = open(directory.path());
        let ledger = store.ledger();
        assert_eq!(ledger.find(key(1)).await, None);
        for message in 1..=3 {
            ledger.begin(key(message), attempt(message)).await;
        }
        ledger.settle(key(1), Verdict::Done);
        ledger.settle(key(2), Verdict::Refused);
        assert_eq!(ledger.find(key(2)).await, Some(Standing::Settled));
        // Dropped, as in a crash: nothing is closed.
    }
    let (store, _) = open(directory.path());
    let ledger = store.ledger();
    assert_eq!(ledger.find(key(1)).await, Some(Standing::Settled));
    assert_eq!(ledger.find(key(2)).await, Some(Standing::Settled));
    assert_eq!(ledger.find(key(3)).await, Some(Standing::Sending(attempt(3))));
    assert_eq!(ledger.find(Key { bot: 1, message: 3 }).await, None);
    assert_eq!(ledger.unsettled(BOT).await, [(3, attempt(3))]);
    ledger.settle(key(3), Verdict::Lost);
    assert_eq!(ledger.unsettled(BOT).await, []);
}

#[tokio::test]
async fn a_session_is_resumed_only_by_whom_it_belongs_to() {
    let directory = TempDir::new().unwrap();
    let (store, _) = open(directory.path());
    for sequence in 1..=1_000 {
        store.sessions().save(OWNER, Some(session(sequence)));
    }
    store.close();
    let (store, _) = open(directory.path());
    assert_eq!(store.sessions().find(OWNER).await, Some(session(1_000)));
    for other in [
        SessionOwner { bot: 1, ..OWNER },
        SessionOwner { intents: 1, ..OWNER },
        SessionOwner { shards: 2, ..OWNER },
        SessionOwner { token_mark: 1, ..OWNER },
    ] {
        assert_eq!(store.sessions().find(other).await, None);
    }
    store.sessions().save(OWNER, None);
    store.close();
    let (store, _) = open(directory.path());
    assert_eq!(store.sessions().find(OWNER).await, None);
}

#[tokio::test]
async fn identifies_are_counted_over_processes() {
    let directory = TempDir::new().unwrap();
    let (store, _) = open(directory.path());
    assert_eq!(store.identifies().last(BOT).await, None);
    store.identifies().spend(BOT, 7.5).await;
    drop(store);
    let (store, _) = open(directory.path());
    let last = store.identifies().last(BOT).await.unwrap();
    assert!((last.spent - 7.5).abs() < 1e-9 && last.ago < Duration::from_secs(10), "{last:?}");
}

#[tokio::test]
async fn nobody_else_may_read_it() {
    let directory = TempDir::new().unwrap();
    let (store, _) = open(directory.path());
    store.ledger().begin(key(1), attempt(1)).await;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn a_newer_database_is_left_alone_and_said_in_one_line() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&path).unwrap();
    let (store, board) = open(directory.path());
    store.ledger().begin(key(1), attempt(1)).await;
    assert_eq!(store.ledger().find(key(1)).await, Some(Standing::Sending(attempt(1))));
    let reason = board.services()[NAME].reason.clone();
    assert_eq!(
        reason,
        format!(
            "perch goes on without memory, as {} can't be used: it was written by a newer perch (it has version 99, and \
             this perch knows 5); run that one, or move the file away",
            path.display()
        )
    );
    store.close();
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_another_one_begun() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE);
    // One of before makes way: what people said is in it, and no deletion reaches it.
    for number in 1..=2 {
        std::fs::write(&path, format!("{number} is no database, and long enough to be looked at as one").repeat(20))
            .unwrap();
        let (store, board) = open(directory.path());
        store.ledger().begin(key(1), attempt(1)).await;
        kept(&board, "on disk").await;
        assert!(!board.services().contains_key(NAME));
        let aside: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains("perch.db.damaged-"))
            .collect();
        let [aside] = &aside[..] else { panic!("{aside:?}") };
        assert!(std::fs::read_to_string(aside).unwrap().starts_with(&number.to_string()));
        store.close();
    }
    let (store, _) = open(directory.path());
    assert_eq!(store.ledger().unsettled(BOT).await.len(), 1);
}

#[tokio::test]
async fn damage_in_the_middle_is_noticed_when_it_is_met() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE);
    {
        let (store, _) = open(directory.path());
        for message in 1..=2_000 {
            store.ledger().settle(key(message), Verdict::Done);
        }
        store.close();
    }
    let mut bytes = std::fs::read(&path).unwrap();
    let pages = bytes.len();
    bytes[4_096 * 3..pages].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let (store, board) = open(directory.path());
    for message in 1..=2_000 {
        store.ledger().begin(key(message), attempt(message)).await;
    }
    kept(&board, "on disk").await;
    assert!(std::fs::read_dir(directory.path()).unwrap().count() > 1);
    assert_eq!(store.ledger().find(key(2_000)).await, Some(Standing::Sending(attempt(2_000))));
}

#[tokio::test]
async fn a_full_disk_costs_nothing_that_was_known_and_is_recovered_from() {
    let directory = TempDir::new().unwrap();
    let (store, board) = open(directory.path());
    store.ledger().begin(key(1), attempt(1)).await;
    // The file may not grow any more; the limit belongs to the connection, so that opening it again is the cure.
    store.tell(|db| db.pragma_update(None, "max_page_count", 1));
    let mut message = 1;
    while !board.services().contains_key(NAME) {
        message += 1;
        store.ledger().begin(key(message), attempt(message)).await;
        assert!(message < 2_000);
    }
    assert!(board.services()[NAME].reason.contains("the disk is full"), "{:?}", board.services());
    assert_eq!(store.ledger().unsettled(BOT).await.len() as u64, message);
    kept(&board, "on disk").await;
    assert!(!board.services().contains_key(NAME));
    store.close();
    let (store, _) = open(directory.path());
    assert_eq!(store.ledger().unsettled(BOT).await.len() as u64, message);
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_tried_again() {
    let directory = TempDir::new().unwrap();
    // Where the file belongs is a directory; unlike a mode, that stops root too.
    let path = directory.path().join(FILE);
    std::fs::create_dir(&path).unwrap();
    let (store, board) = open(directory.path());
    store.ledger().begin(key(1), attempt(1)).await;
    store.sessions().save(OWNER, Some(session(5)));
    store.identifies().spend(BOT, 3.0).await;
    kept(&board, "in memory").await;
    std::fs::remove_dir(&path).unwrap();
    kept(&board, "on disk").await;
    store.close();
    let (store, _) = open(directory.path());
    assert_eq!(store.ledger().unsettled(BOT).await, [(1, attempt(1))]);
    assert_eq!(store.sessions().find(OWNER).await, Some(session(5)));
    assert!(store.identifies().last(BOT).await.is_some());
}

#[tokio::test]
async fn a_directory_deleted_under_it_is_filled_again() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("state");
    let (store, board) = open(&directory);
    store.ledger().begin(key(1), attempt(1)).await;
    kept(&board, "on disk").await;
    std::fs::remove_dir_all(&directory).unwrap();
    let start = Instant::now();
    while !directory.join(FILE).exists() {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    store.ledger().begin(key(2), attempt(2)).await;
    store.close();
    let (store, _) = open(&directory);
    assert_eq!(store.ledger().unsettled(BOT).await.len(), 2);
}

#[test]
fn old_rows_and_too_many_are_forgotten_in_small_steps() {
    let db = super::file::memory().unwrap();
    db.execute_batch("INSERT INTO bot (user) VALUES (1)").unwrap();
    let day: u64 = (24 * 3_600_000) << 22;
    let put = |message: u64| {
        let row = (1, super::signed(message));
        db.execute("INSERT INTO ledger VALUES (?1, ?2, 1, 0, 0, 0)", row).unwrap();
    };
    for message in [day, 2 * day, 10 * day, 11 * day] {
        put(message);
    }
    assert!(super::ledger::prune(&db).unwrap());
    assert!(!super::ledger::prune(&db).unwrap());
    assert_eq!(db.query_row("SELECT count(*) FROM ledger", [], |row| row.get::<_, i64>(0)).unwrap(), 2);
}

/// Every row goes the way of a message: begun, then settled.
#[test]
#[expect(clippy::print_stdout, reason = "it measures, for whoever asks with --nocapture")]
fn a_million_answered_messages_stay_small() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE);
    let db = super::file::open(&path).unwrap();
    db.execute_batch("INSERT INTO bot (user) VALUES (1)").unwrap();
    let start = Instant::now();
    let rows: u64 = 1_000_000;
    for chunk in 0..rows / 500 {
        let transaction = db.unchecked_transaction().unwrap();
        let mut begin = transaction.prepare("INSERT OR REPLACE INTO ledger VALUES (1, ?1, ?2, ?3, ?4, ?5)").unwrap();
        for number in chunk * 500..(chunk + 1) * 500 {
            let message = super::signed((1 << 60) + number * 7_919_000);
            begin.execute((message, 0, super::signed(BOT), 1, i64::MAX)).unwrap();
            begin.execute((message, 1, 0, 0, 0)).unwrap();
        }
        drop(begin);
        transaction.commit().unwrap();
    }
    let took = start.elapsed();
    db.pragma_update_and_check(None, "wal_checkpoint", "truncate", |_| Ok(())).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    println!("{rows} rows: {size} bytes, {} a row; written in {took:?}", size / rows);
    assert!(size < 32 << 20, "{size}");
    let start = Instant::now();
    assert!(!super::ledger::prune(&db).unwrap());
    println!("looking for what to prune: {:?}", start.elapsed());
}

/// Answers that come one after the other each wait for the disk once; those that come together wait together.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "it measures, for whoever asks with --nocapture")]
async fn rows_that_come_together_share_one_wait_for_the_disk() {
    const ROWS: u64 = 200;
    let directory = TempDir::new().unwrap();
    let (store, _) = open(directory.path());
    let ledger = store.ledger();
    ledger.begin(key(1), attempt(1)).await;
    let start = Instant::now();
    for message in 2..ROWS {
        ledger.begin(key(message), attempt(1)).await;
    }
    let one_by_one = start.elapsed();
    let start = Instant::now();
    let together = (2..ROWS).map(|message| ledger.begin(key(ROWS + message), attempt(1)));
    futures_util::future::join_all(together).await;
    println!("{ROWS} rows: {one_by_one:?} one by one, {:?} together", start.elapsed());
    assert_eq!(ledger.unsettled(BOT).await.len() as u64, 2 * ROWS - 3);
}
