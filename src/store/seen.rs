//! How far each channel was read: the message up to which everything that was for the bot is dealt with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, params};

use super::ledger::oldest_kept;
use super::{Order, Store, lock, signed, unsigned};

/// What [`file`](super::file) makes of it.
pub(super) const TABLE: &str = "
    CREATE TABLE seen (
        user INTEGER NOT NULL,
        channel INTEGER NOT NULL,
        message INTEGER NOT NULL,
        direct INTEGER NOT NULL,
        PRIMARY KEY (user, channel)
    ) STRICT, WITHOUT ROWID;
";

/// So many rows a bot at most, the newest: more channels than a bot of one connection has in a week.
const KEEP_ROWS: i64 = 100_000;

/// How far each channel was read.
#[derive(Clone)]
pub struct LastSeen(pub(super) Store);

/// How far one channel was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Every message up to this one is dealt with.
    pub message: u64,
    /// It is a conversation with one person.
    pub direct: bool,
}

/// What changed since it was last written, by the bot's user id and the channel.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Pending>>);

pub(super) type Pending = BTreeMap<(u64, u64), Seen>;

impl Slot {
    pub fn take(&self) -> Pending {
        std::mem::take(&mut lock(&self.0))
    }
}

impl LastSeen {
    /// How far the channels of the bot with the user id `bot` were read.
    pub async fn all(&self, bot: u64) -> Vec<(u64, Seen)> {
        self.0.ask(false, move |db| all(db, bot)).await.unwrap_or_default()
    }

    /// Saves how far `channel` was read. It is written in a moment, along with the session: what a crash loses of it is
    /// read once more.
    pub fn save(&self, bot: u64, channel: u64, seen: Seen) {
        let first = {
            let mut pending = lock(&self.0.0.seen.0);
            let first = pending.is_empty();
            pending.insert((bot, channel), seen);
            first
        };
        if first {
            // Closed: then it was saved for the last time.
            drop(self.0.0.orders.send(Order::Session));
        }
    }
}

fn all(db: &Connection, bot: u64) -> rusqlite::Result<Vec<(u64, Seen)>> {
    let mut statement = db.prepare("SELECT channel, message, direct FROM seen WHERE user = ?1")?;
    let rows = statement.query_map([signed(bot)], |row| {
        Ok((unsigned(row.get(0)?), Seen { message: unsigned(row.get(1)?), direct: row.get(2)? }))
    })?;
    rows.collect()
}

pub(super) fn write(db: &Connection, pending: &Pending) -> rusqlite::Result<()> {
    if pending.is_empty() {
        return Ok(());
    }
    let sql = "INSERT OR REPLACE INTO seen (user, channel, message, direct) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = db.prepare(sql)?;
    for ((bot, channel), seen) in pending {
        statement.execute(params![signed(*bot), signed(*channel), signed(seen.message), seen.direct])?;
    }
    Ok(())
}

/// Forgets what is older than anything that is looked for, and what is too much.
pub(super) fn prune(db: &Connection) -> rusqlite::Result<()> {
    let newest: Option<i64> = db.query_row("SELECT max(message) FROM seen", [], |row| row.get(0))?;
    db.execute("DELETE FROM seen WHERE message < ?1", [oldest_kept(newest.unwrap_or(0))])?;
    let sql = "DELETE FROM seen WHERE (user, channel) IN
               (SELECT user, channel FROM seen ORDER BY message DESC LIMIT -1 OFFSET ?1)";
    db.execute(sql, [KEEP_ROWS])?;
    Ok(())
}

pub(super) fn carry(db: &Connection, from: &str, to: &str) -> rusqlite::Result<()> {
    db.execute_batch(&format!("INSERT OR REPLACE INTO {to}.seen SELECT * FROM {from}.seen"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ledger::SNOWFLAKE_MS;

    const BOT: u64 = 1;

    #[tokio::test]
    async fn the_newest_state_of_each_channel_is_written_and_found() {
        let store = Store::in_memory();
        let seen = store.last_seen();
        for message in 1..=3 {
            seen.save(BOT, 10, Seen { message, direct: false });
        }
        seen.save(BOT, 11, Seen { message: 5, direct: true });
        seen.save(2, 10, Seen { message: 9, direct: false });
        let expected = [(10, Seen { message: 3, direct: false }), (11, Seen { message: 5, direct: true })];
        assert_eq!(seen.all(BOT).await, expected);
    }

    #[test]
    fn what_is_older_than_a_week_is_forgotten() {
        let db = super::super::file::memory().unwrap();
        let hour = 3_600_000_u64 << SNOWFLAKE_MS;
        let at = |hours: u64| Seen { message: 1_000 * hour + hours * hour, direct: false };
        let rows = [0, 1, 7 * 24, 7 * 24 + 1].map(|hours| ((BOT, hours), at(hours)));
        write(&db, &Pending::from(rows)).unwrap();
        prune(&db).unwrap();
        let left: Vec<u64> = all(&db, BOT).unwrap().into_iter().map(|(channel, _)| channel).collect();
        assert_eq!(left, [1, 168, 169]);
    }
}
