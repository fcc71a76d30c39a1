//! What perch remembers from one process to the next: `perch.db`, an SQLite database in the state directory.
//!
//! Losing it costs memory, never function. Where the file can't be used (a full disk, a read-only directory, damage),
//! the same tables are kept in memory, that is said once, and the file is tried again until it takes everything back.
//!
//! ```text
//!   Ledger, Sessions, LastSeen, ──► Store ──► owner (one thread, one transaction for all that waits) ──► file
//!   Identifies, Changes,                                                                             └──► memory
//!   Conversations
//! ```
//!
//! The rest of perch sees [`Ledger`], [`Sessions`], [`LastSeen`], [`Identifies`], [`Changes`] and [`Conversations`]; SQL
//! stays in here.

use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::service::Board;

mod changes;
mod conversations;
mod file;
mod identifies;
mod ledger;
mod moment;
mod owner;
mod seen;
mod sessions;
#[cfg(test)]
mod tests;

pub use changes::{Changes, Fate, KEPT as CHANGES_KEPT, Trial};
pub use conversations::Conversations;
pub use identifies::{Identifies, Spending};
pub use ledger::{Attempt, Key, Ledger, Standing, Verdict};
pub use owner::{NAME, Pace};
pub use seen::{LastSeen, Seen};
pub use sessions::{Owner as SessionOwner, Saved, Sessions};

/// The database's name in the state directory.
pub const FILE: &str = "perch.db";
/// What a disk that hangs may hold up: whoever waits goes on as if nothing were remembered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The database. Clones are one.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    orders: Sender<Order>,
    /// Taken by the owner when it begins.
    waiting: Mutex<Option<Receiver<Order>>>,
    /// What the gateway said last is worth one write, however often it changes between two.
    session: sessions::Slot,
    /// Likewise how far each channel was read.
    seen: seen::Slot,
    conversations: Arc<conversations::Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the owner is told.
enum Order {
    Work(Box<dyn Job>),
    /// The slot of the session is filled, or that of what was seen.
    Session,
    /// What was removed shall be gone from the files as well.
    Scrub(oneshot::Sender<()>),
    /// Other limits hold for conversations.
    Limits,
    Close,
}

/// Work on the database. It may be done twice: in a transaction that fails, and then in memory.
trait Job: Send {
    /// It has to outlive the machine's crash, and not only the process's.
    fn durable(&self) -> bool;
    fn work(&mut self, db: &Connection) -> rusqlite::Result<()>;
    /// The transaction it was in is committed.
    fn settled(self: Box<Self>);
}

struct Task<T, W> {
    durable: bool,
    work: W,
    result: Option<T>,
    reply: Option<oneshot::Sender<T>>,
}

impl<T: Send, W: FnMut(&Connection) -> rusqlite::Result<T> + Send> Job for Task<T, W> {
    fn durable(&self) -> bool {
        self.durable
    }

    fn work(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.work)(db)?);
        Ok(())
    }

    fn settled(self: Box<Self>) {
        if let (Some(result), Some(reply)) = (self.result, self.reply) {
            // Whoever asked may have gone.
            drop(reply.send(result));
        }
    }
}

impl Store {
    /// A store that keeps everyone waiting until it is opened.
    #[must_use]
    pub fn new() -> Store {
        let (orders, waiting) = channel();
        let inner = Inner {
            orders,
            waiting: Mutex::new(Some(waiting)),
            session: sessions::Slot::default(),
            seen: seen::Slot::default(),
            conversations: Arc::default(),
            thread: Mutex::new(None),
        };
        Store(Arc::new(inner))
    }

    /// A store that forgets with the process.
    #[must_use]
    pub fn in_memory() -> Store {
        let store = Store::new();
        store.begin(None, None, Pace::default());
        store
    }

    /// Begins with the database in `directory`, which this process holds alone. How the store is goes to `board`.
    pub fn open(&self, directory: PathBuf, board: Arc<Board>, pace: Pace) {
        self.begin(Some(directory), Some(board), pace);
    }

    fn begin(&self, directory: Option<PathBuf>, board: Option<Arc<Board>>, pace: Pace) {
        let Some(orders) = lock(&self.0.waiting).take() else { return };
        // The thread holds nothing that keeps the sender alive: it ends when every clone is gone.
        let slots = (self.0.session.clone(), self.0.seen.clone());
        let conversations = Arc::clone(&self.0.conversations);
        let owner = move || owner::Owner::new(directory, board, pace, slots, conversations).run(&orders);
        match std::thread::Builder::new().name("store".to_owned()).spawn(owner) {
            Ok(thread) => *lock(&self.0.thread) = Some(thread),
            Err(error) => {
                tracing::warn!(service = owner::NAME, "perch goes on without memory: its thread can't start: {error}");
            }
        }
    }

    /// Writes what is left, and ends. What is asked of it later finds nothing.
    pub fn close(&self) {
        let ended = self.0.orders.send(Order::Close).is_err();
        let thread = lock(&self.0.thread).take();
        if let (Some(thread), false) = (thread, ended) {
            // A panic of the owner was logged where it happened.
            drop(thread.join());
        }
    }

    /// Who answered what.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger(self.clone())
    }

    /// The gateway sessions to resume.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        Sessions(self.clone())
    }

    /// How far each channel was read.
    #[must_use]
    pub fn last_seen(&self) -> LastSeen {
        LastSeen(self.clone())
    }

    /// How many IDENTIFYs were sent, and when.
    #[must_use]
    pub fn identifies(&self) -> Identifies {
        Identifies(self.clone())
    }

    /// What was changed.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes(self.clone())
    }

    /// What people said, and what they were answered.
    #[must_use]
    pub fn conversations(&self) -> Conversations {
        Conversations(self.clone())
    }

    /// From now on conversations are kept for so long after they were last continued (`None`: for ever), and the
    /// database may take so many bytes.
    pub fn retain(&self, keep: Option<Duration>, max_size: u64) {
        self.0.conversations.retain(keep, max_size);
        // Closed: then nothing is kept any more.
        drop(self.0.orders.send(Order::Limits));
    }

    /// Sees to it that nothing is left in the files of what was removed before. `None` as in [`Store::ask`].
    async fn scrub(&self) -> Option<()> {
        let (reply, answer) = oneshot::channel();
        drop(self.0.orders.send(Order::Scrub(reply)));
        timeout(ANSWER_TIMEOUT, answer).await.ok()?.ok()
    }

    /// Does `work` after everything that was asked before, and returns once it is committed; on the disk itself, if
    /// `durable`. `None` when the store is closed or the disk hangs.
    async fn ask<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.order(durable, Some(reply), work);
        timeout(ANSWER_TIMEOUT, answer).await.ok()?.ok()
    }

    /// Does `work` after everything that was asked before. Nobody waits for it.
    fn tell(&self, mut work: impl FnMut(&Connection) -> rusqlite::Result<()> + Send + 'static) {
        self.order(false, None, move |db| work(db));
    }

    fn order<T: Send + 'static>(
        &self,
        durable: bool,
        reply: Option<oneshot::Sender<T>>,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) {
        // Closed: the reply is dropped with the task, which is the answer.
        drop(self.0.orders.send(Order::Work(Box::new(Task { durable, work, result: None, reply }))));
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Snowflakes and hashes as SQLite has integers: 64 bits with a sign.
fn signed(number: u64) -> i64 {
    number.cast_signed()
}

fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}
