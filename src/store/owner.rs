//! The one thread that has the database open.
//!
//! It does whatever waits in one transaction, so that under load many answers share one write to the disk, and only
//! such a transaction waits for the disk that holds something durable. In write-ahead mode `synchronous = NORMAL`
//! survives the process's crash without waiting; `FULL` survives the machine's, with all that was written before.

use std::fs::{DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde_json::json;
use tokio::sync::oneshot;

use super::file::{self, Direction, Unusable};
use super::{FILE, Job, Order, conversations, ledger, seen, sessions};
use crate::service::Board;

/// Whose lines these are in the journal and in `status`.
pub const NAME: &str = "store";
/// How much work one transaction takes. A batch of this size takes some milliseconds.
const BATCH: usize = 512;
/// How often the ledger is pruned.
const PRUNE_PACE: Duration = Duration::from_hours(1);
/// How often it is looked whether there is too much of them, where something was written.
const SIZE_PACE: Duration = Duration::from_secs(1);

/// How often the owner does what nobody asks it for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a change of the session may wait for others, and be lost in a crash.
    pub session: Duration,
    /// Between two looks whether the file is (again) what it should be.
    pub check: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { session: Duration::from_millis(500), check: Duration::from_secs(10) }
    }
}

pub(super) struct Owner {
    /// The database's path, unless it is meant to be in memory.
    path: Option<PathBuf>,
    board: Option<Arc<Board>>,
    pace: Pace,
    slots: (sessions::Slot, seen::Slot),
    conversations: Arc<conversations::Shared>,
    db: Option<Connection>,
    /// The open file; `None` while the database is in memory.
    on_disk: Option<Identity>,
    /// Whether transactions wait for the disk at the moment.
    full: Option<bool>,
    /// Somebody was told that the file can't be used.
    told: bool,
    session_due: Option<Instant>,
    check_due: Instant,
    prune_due: Instant,
    /// When conversations are to be pruned; and whether there are more than there may be.
    conversations_due: Instant,
    above: bool,
    /// When it is to be looked how large the database is.
    size_due: Option<Instant>,
    /// Those who wait until what was removed is gone from the files.
    scrubs: Vec<oneshot::Sender<()>>,
    /// It could not be done at once.
    scrub_due: bool,
}

/// By which a file is known again: device and inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl From<Metadata> for Identity {
    fn from(metadata: Metadata) -> Identity {
        Identity(metadata.dev(), metadata.ino())
    }
}

impl Owner {
    pub fn new(
        directory: Option<PathBuf>,
        board: Option<Arc<Board>>,
        pace: Pace,
        slots: (sessions::Slot, seen::Slot),
        conversations: Arc<conversations::Shared>,
    ) -> Owner {
        let now = Instant::now();
        Owner {
            path: directory.map(|directory| directory.join(FILE)),
            board,
            pace,
            slots,
            conversations,
            db: None,
            on_disk: None,
            full: None,
            told: false,
            session_due: None,
            check_due: now + pace.check,
            prune_due: now,
            conversations_due: now,
            above: false,
            size_due: None,
            scrubs: Vec::new(),
            scrub_due: false,
        }
    }

    /// Serves until everybody who could ask is gone.
    pub fn run(mut self, orders: &Receiver<Order>) {
        self.open();
        let mut open = true;
        while open {
            let mut jobs = Vec::new();
            match orders.recv_timeout(self.due().saturating_duration_since(Instant::now())) {
                Ok(order) => open = self.take(order, &mut jobs),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
            while open && jobs.len() < BATCH {
                let Ok(order) = orders.try_recv() else { break };
                open = self.take(order, &mut jobs);
            }
            self.commit(jobs, !open);
            self.scrub();
            if open {
                self.keep_house();
            }
        }
    }

    fn due(&self) -> Instant {
        let due = self.prune_due.min(self.conversations_due);
        let due = self.session_due.into_iter().chain(self.size_due).fold(due, Instant::min);
        if self.path.is_some() { due.min(self.check_due) } else { due }
    }

    /// Returns whether there is more to come.
    fn take(&mut self, order: Order, jobs: &mut Vec<Box<dyn Job>>) -> bool {
        match order {
            Order::Work(job) => jobs.push(job),
            Order::Session => self.session_due = Some(Instant::now() + self.pace.session),
            Order::Scrub(reply) => self.scrubs.push(reply),
            Order::Limits => self.conversations_due = Instant::now(),
            Order::Close => return false,
        }
        true
    }

    // ---- work ------------------------------------------------------------------------------------------------

    fn commit(&mut self, mut jobs: Vec<Box<dyn Job>>, last: bool) {
        let session_due = self.session_due.is_some_and(|due| due <= Instant::now());
        let mut pending = (sessions::Pending::new(), seen::Pending::new());
        // It rides along with any other work.
        if last || session_due || (self.session_due.is_some() && !jobs.is_empty()) {
            self.session_due = None;
            pending = (self.slots.0.take(), self.slots.1.take());
        }
        if jobs.is_empty() && pending.0.is_empty() && pending.1.is_empty() {
            return;
        }
        let mut done = self.transaction(&mut jobs, &pending);
        if let (Err(error), true) = (&done, self.on_disk.is_some()) {
            self.lose(&error.to_string(), error.damaged());
            done = self.transaction(&mut jobs, &pending);
        }
        self.size_due = self.size_due.or_else(|| Some(Instant::now() + SIZE_PACE));
        match done {
            Ok(()) => jobs.into_iter().for_each(<dyn Job>::settled),
            // Who waits is told by the reply that is dropped.
            Err(error) => tracing::debug!(service = NAME, "the database took nothing: {error}"),
        }
    }

    fn transaction(
        &mut self,
        jobs: &mut [Box<dyn Job>],
        (sessions, seen): &(sessions::Pending, seen::Pending),
    ) -> Result<(), Unusable> {
        let Some(db) = &self.db else { return Ok(()) };
        let full = jobs.iter().any(|job| job.durable());
        if self.full != Some(full) {
            db.pragma_update(None, "synchronous", if full { "full" } else { "normal" })?;
            self.full = Some(full);
        }
        let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
        for (owner, session) in sessions.values() {
            sessions::write(&transaction, owner, session.as_ref())?;
        }
        seen::write(&transaction, seen)?;
        for job in jobs {
            job.work(&transaction)?;
        }
        Ok(transaction.commit()?)
    }

    // ---- the file --------------------------------------------------------------------------------------------

    fn open(&mut self) {
        let Some(path) = self.path.clone() else {
            self.db = file::memory().ok();
            return;
        };
        match open(&path) {
            Ok((db, identity)) => self.adopt(db, identity),
            Err(error) => self.lose(&error.to_string(), error.damaged()),
        }
    }

    fn adopt(&mut self, db: Connection, identity: Identity) {
        self.db = Some(db);
        self.full = None;
        self.on_disk = Some(identity);
        self.conversations.turn(false);
        if std::mem::take(&mut self.told) {
            tracing::info!(service = NAME, "{FILE} can be used again, and perch remembers what it does");
        }
        if let Some(board) = &self.board {
            board.remark(NAME, None, json!({ "file": self.path, "kept": "on disk" }));
        }
    }

    /// Goes on without the file; with a new one, if what was in it is `damaged`.
    fn lose(&mut self, reason: &str, damaged: bool) {
        let Some(path) = self.path.clone() else { return };
        self.on_disk = None;
        self.full = None;
        if damaged {
            self.db = None;
            match file::move_aside(&path).map_err(Unusable::from).and_then(|aside| Ok((aside, open(&path)?))) {
                Ok((aside, (db, identity))) => {
                    tracing::warn!(
                        service = NAME,
                        "{} was damaged ({reason}): it is kept as {}, and perch begins a new one without what it knew",
                        path.display(),
                        aside.display()
                    );
                    self.adopt(db, identity);
                    return;
                }
                Err(error) => tracing::debug!(service = NAME, "the damaged file can't be replaced: {error}"),
            }
        }
        match file::memory() {
            Ok(memory) => {
                if !damaged && self.db.is_some() {
                    // Reading goes on longer than writing; where it does not, nothing is carried.
                    drop(file::carry(&memory, &path, Direction::FromFile));
                }
                self.db = Some(memory);
            }
            Err(error) => tracing::debug!(service = NAME, "there is no memory for a database either: {error}"),
        }
        self.conversations.turn(true);
        self.check_due = Instant::now() + self.pace.check;
        let words = format!("perch goes on without memory, as {} can't be used: {reason}", path.display());
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(service = NAME, "{words}");
        }
        if let Some(board) = &self.board {
            board.remark(NAME, Some(words), json!({ "file": path, "kept": "in memory" }));
        }
    }

    /// Empties the write-ahead log, which has what is overwritten in the database.
    fn scrub(&mut self) {
        if self.scrubs.is_empty() {
            return;
        }
        self.scrub_due = self.on_disk.is_some() && !self.checkpoint();
        for reply in self.scrubs.drain(..) {
            // Whoever asked may have gone.
            let _gone = reply.send(());
        }
    }

    /// Returns whether everything is in the database itself; somebody who reads it with `sqlite3` may be in the way.
    fn checkpoint(&self) -> bool {
        let Some(db) = &self.db else { return true };
        let done = db.busy_timeout(Duration::ZERO).and_then(|()| {
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).map(|busy| busy == 0)
        });
        // It fails for no connection that is open.
        drop(db.busy_timeout(file::BUSY_TIMEOUT));
        done.unwrap_or(false)
    }

    fn keep_house(&mut self) {
        let now = Instant::now();
        if self.path.is_some() && self.check_due <= now {
            self.check_due = now + self.pace.check;
            self.check();
            self.scrub_due = self.scrub_due && self.on_disk.is_some() && !self.checkpoint();
        }
        if self.prune_due <= now {
            let more = self.tidy(|_, db| {
                seen::prune(db)?;
                ledger::prune(db)
            });
            // What waits comes in between two steps.
            self.prune_due = if more { now } else { now + PRUNE_PACE };
        }
        if self.size_due.is_some_and(|due| due <= now) {
            self.size_due = None;
            let on_disk = self.on_disk.is_some();
            if self.tidy(|owner, db| conversations::too_much(db, &owner.conversations, on_disk)) {
                self.conversations_due = now;
            }
        }
        if self.conversations_due <= now {
            let (mut more, on_disk) = (true, self.on_disk.is_some());
            let changes = |owner: &Owner| owner.db.as_ref().map(Connection::total_changes);
            let before = changes(self);
            while more && now.elapsed() < conversations::PRUNING {
                let mut above = self.above;
                more = self.tidy(|owner, db| conversations::prune(db, &owner.conversations, on_disk, &mut above));
                self.above = above;
            }
            // What is over is to be gone from the log as well.
            self.scrub_due |= changes(self) != before;
            self.conversations_due = if more { now } else { now + self.conversations.pace() };
        }
    }

    /// Does work that nobody asked for, in a transaction of its own. Returns what it does, and false where it fails.
    fn tidy(&mut self, work: impl FnOnce(&Owner, &Connection) -> rusqlite::Result<bool>) -> bool {
        let Some(db) = &self.db else { return false };
        let done = Transaction::new_unchecked(db, TransactionBehavior::Immediate).and_then(|transaction| {
            let more = work(self, &transaction)?;
            transaction.commit()?;
            Ok(more)
        });
        done.map_err(Unusable::from).unwrap_or_else(|error| {
            if self.on_disk.is_some() {
                self.lose(&error.to_string(), error.damaged());
            }
            false
        })
    }

    /// Sees to it that the open file is the one in the state directory, and takes everything there if it is not.
    fn check(&mut self) {
        let Some(path) = self.path.clone() else { return };
        let there = std::fs::metadata(&path).ok().map(Identity::from);
        if self.on_disk.is_some() && self.on_disk == there {
            return;
        }
        let opened = open(&path).and_then(|opened| match &self.db {
            Some(db) => Ok(file::carry(db, &path, Direction::IntoFile).map(|()| opened)?),
            None => Ok(opened),
        });
        match opened {
            Ok((db, identity)) => self.adopt(db, identity),
            Err(error) if error.damaged() || self.on_disk.is_some() => self.lose(&error.to_string(), error.damaged()),
            // Still what was told.
            Err(error) => tracing::debug!(service = NAME, "the database can't be used yet: {error}"),
        }
    }
}

fn open(path: &Path) -> Result<(Connection, Identity), Unusable> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let db = file::open(path)?;
    let identity = std::fs::metadata(path)?.into();
    Ok((db, identity))
}
