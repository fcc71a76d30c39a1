//! Which messages were answered, so that none is answered twice.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, signed, unsigned};

/// A week: a message can come again in a replay (minutes) or when missed ones are looked for (a day), and a host may be
/// off over a long weekend.
const KEEP_MS: i64 = 7 * 24 * 3_600_000;
/// More than a message a second for that week, and small: see the test that measures it.
const KEEP_ROWS: i64 = 1_000_000;
/// So many rows at most are deleted in one go, as others wait for the same thread.
const PRUNE_STEP: i64 = 5_000;
/// How much of it goes to memory when the file becomes unusable.
const CARRIED: i64 = 20_000;

/// Source: API Reference, "Snowflakes": milliseconds are above the lowest 22 bits.
pub(super) const SNOWFLAKE_MS: u32 = 22;

const SENDING: i64 = 0;

/// Who answered what.
#[derive(Clone)]
pub struct Ledger(pub(super) Store);

/// A message as one bot sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The bot's user id.
    pub bot: u64,
    pub message: u64,
}

/// What is about to be sent in answer to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub channel: u64,
    /// How many messages the answer takes.
    pub parts: u32,
    /// A hash of the answer, by which it is known again.
    pub reply: u64,
}

/// How a message stands that is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Some of it may have been sent.
    Sending(Attempt),
    /// There is nothing more to do about it.
    Settled,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// Discord will not have it.
    Refused,
    /// It was given up.
    Lost,
}

impl Ledger {
    /// How the message stands; `None` if it is not known.
    pub async fn find(&self, key: Key) -> Option<Standing> {
        self.0.ask(false, move |db| find(db, key)).await.flatten()
    }

    /// Takes down that `attempt` is about to be sent. It is on the disk when this returns.
    pub async fn begin(&self, key: Key, attempt: Attempt) {
        let Attempt { channel, parts, reply } = attempt;
        let row = (SENDING, signed(channel), parts, signed(reply));
        // Without memory the answer is given all the same.
        self.0.ask(true, move |db| put(db, key, row)).await.unwrap_or_default();
    }

    /// Takes down how it ended, in a moment.
    pub fn settle(&self, key: Key, verdict: Verdict) {
        let state = match verdict {
            Verdict::Done => 1,
            Verdict::Refused => 2,
            Verdict::Lost => 3,
        };
        self.0.tell(move |db| put(db, key, (state, 0, 0, 0)));
    }

    /// What a bot's earlier life began to send and did not settle, the oldest first.
    pub async fn unsettled(&self, bot: u64) -> Vec<(u64, Attempt)> {
        self.0.ask(false, move |db| unsettled(db, bot)).await.unwrap_or_default()
    }
}

fn find(db: &Connection, key: Key) -> rusqlite::Result<Option<Standing>> {
    let sql = "SELECT state, channel, parts, reply FROM ledger
               WHERE bot = (SELECT number FROM bot WHERE user = ?1) AND message = ?2";
    db.query_row(sql, [signed(key.bot), signed(key.message)], |row| {
        let attempt = Attempt { channel: unsigned(row.get(1)?), parts: row.get(2)?, reply: unsigned(row.get(3)?) };
        Ok(if row.get::<_, i64>(0)? == SENDING { Standing::Sending(attempt) } else { Standing::Settled })
    })
    .optional()
}

fn put(db: &Connection, key: Key, row: (i64, i64, u32, i64)) -> rusqlite::Result<()> {
    db.execute("INSERT OR IGNORE INTO bot (user) VALUES (?1)", [signed(key.bot)])?;
    let sql = "INSERT OR REPLACE INTO ledger (bot, message, state, channel, parts, reply)
               SELECT number, ?2, ?3, ?4, ?5, ?6 FROM bot WHERE user = ?1";
    db.execute(sql, params![signed(key.bot), signed(key.message), row.0, row.1, row.2, row.3])?;
    Ok(())
}

fn unsettled(db: &Connection, bot: u64) -> rusqlite::Result<Vec<(u64, Attempt)>> {
    let sql = "SELECT message, channel, parts, reply FROM ledger
               WHERE state = 0 AND bot = (SELECT number FROM bot WHERE user = ?1) ORDER BY message";
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([signed(bot)], |row| {
        let attempt = Attempt { channel: unsigned(row.get(1)?), parts: row.get(2)?, reply: unsigned(row.get(3)?) };
        Ok((unsigned(row.get(0)?), attempt))
    })?;
    rows.collect()
}

/// Forgets some of what is too old or too much, and returns whether there may be more. Age is counted back from the
/// newest message, so that it does not depend on this machine's clock.
pub(super) fn prune(db: &Connection) -> rusqlite::Result<bool> {
    let mut statement = db.prepare("SELECT number FROM bot")?;
    let bots = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut deleted = 0;
    for bot in bots {
        let sql = "SELECT max(message), count(*) FROM ledger WHERE bot = ?1";
        let (newest, rows) =
            db.query_row(sql, [bot], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, i64>(1)?)))?;
        let oldest = oldest_kept(newest.unwrap_or(0));
        let surplus = (rows - KEEP_ROWS).clamp(0, PRUNE_STEP);
        // The oldest come first in the table: so many of them, as far as they are too old, or too many.
        let sql = "DELETE FROM ledger WHERE bot = ?1 AND message IN
                   (SELECT message FROM ledger WHERE bot = ?1 AND message < ?2 ORDER BY message LIMIT ?3)";
        deleted += db.execute(sql, [bot, oldest, PRUNE_STEP])?;
        if surplus > 0 {
            deleted += db.execute(sql, [bot, i64::MAX, surplus])?;
        }
    }
    Ok(deleted > 0)
}

/// The oldest message that is still remembered when `newest` is.
pub(super) fn oldest_kept(newest: i64) -> i64 {
    newest.saturating_sub(KEEP_MS << SNOWFLAKE_MS)
}

/// Copies the newest rows. Each database numbers its bots by itself.
pub(super) fn carry(db: &Connection, from: &str, to: &str) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "INSERT OR IGNORE INTO {to}.bot (user) SELECT user FROM {from}.bot;
         INSERT OR REPLACE INTO {to}.ledger (bot, message, state, channel, parts, reply)
         SELECT new.number, message, state, channel, parts, reply
         FROM {from}.ledger JOIN {from}.bot old ON old.number = bot JOIN {to}.bot new ON new.user = old.user
         ORDER BY message DESC LIMIT {CARRIED};"
    ))
}
