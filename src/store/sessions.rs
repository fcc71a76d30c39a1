//! The gateway session of each bot, as far as its events were dealt with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension, params};

use super::{Order, Store, lock, signed, unsigned};

/// The gateway sessions to resume.
#[derive(Clone)]
pub struct Sessions(pub(super) Store);

/// Whom a session belongs to: it can be resumed by nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The bot's user id.
    pub bot: u64,
    pub intents: u64,
    pub shard: u32,
    pub shards: u32,
    /// A hash that tells one token, and where it is used, from another.
    pub token_mark: u64,
}

/// What [`file`](super::file) adds to its table.
pub(super) const COLUMNS: &str = "
    ALTER TABLE session ADD COLUMN application INTEGER NOT NULL DEFAULT 0;
    -- Each takes eight bytes.
    ALTER TABLE session ADD COLUMN guilds BLOB NOT NULL DEFAULT x'';
";

/// What RESUME needs, and what is not told again after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub id: String,
    pub sequence: u64,
    pub resume_url: String,
    /// 0 where it was not told.
    pub application: u64,
    /// Those that the bot is in.
    pub guilds: Vec<u64>,
}

/// The newest state of each bot's session, until it is written.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Pending>>);

/// By the bot's user id.
pub(super) type Pending = BTreeMap<u64, (Owner, Option<Saved>)>;

impl Slot {
    pub fn take(&self) -> Pending {
        std::mem::take(&mut lock(&self.0))
    }
}

impl Sessions {
    /// The session of `owner`, if it left one.
    pub async fn find(&self, owner: Owner) -> Option<Saved> {
        self.0.ask(false, move |db| find(db, owner)).await.flatten()
    }

    /// Saves where the session is, or that there is none any more. It is written in a moment, and only the newest state
    /// of it: what a crash loses of it, Discord sends again.
    pub fn save(&self, owner: Owner, session: Option<Saved>) {
        let first = {
            let mut pending = lock(&self.0.0.session.0);
            let first = pending.is_empty();
            pending.insert(owner.bot, (owner, session));
            first
        };
        if first {
            // Closed: then it was saved for the last time.
            drop(self.0.0.orders.send(Order::Session));
        }
    }
}

fn find(db: &Connection, owner: Owner) -> rusqlite::Result<Option<Saved>> {
    let sql = "SELECT id, sequence, resume_url, application, guilds FROM session
               WHERE user = ?1 AND intents = ?2 AND shard = ?3 AND shards = ?4 AND token_mark = ?5";
    let owner = params![signed(owner.bot), signed(owner.intents), owner.shard, owner.shards, signed(owner.token_mark)];
    db.query_row(sql, owner, |row| {
        let guilds: Vec<u8> = row.get(4)?;
        let guilds = guilds.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
        Ok(Saved {
            id: row.get(0)?,
            sequence: unsigned(row.get(1)?),
            resume_url: row.get(2)?,
            application: unsigned(row.get(3)?),
            guilds: guilds.collect(),
        })
    })
    .optional()
}

pub(super) fn write(db: &Connection, owner: &Owner, session: Option<&Saved>) -> rusqlite::Result<()> {
    let user = signed(owner.bot);
    let Some(session) = session else {
        db.execute("DELETE FROM session WHERE user = ?1", [user])?;
        return Ok(());
    };
    let sql = "INSERT OR REPLACE INTO session
               (user, intents, shard, shards, token_mark, id, sequence, resume_url, application, guilds)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let guilds: Vec<u8> = session.guilds.iter().flat_map(|guild| guild.to_be_bytes()).collect();
    let row = params![
        user,
        signed(owner.intents),
        owner.shard,
        owner.shards,
        signed(owner.token_mark),
        session.id,
        signed(session.sequence),
        session.resume_url,
        signed(session.application),
        guilds
    ];
    db.execute(sql, row)?;
    Ok(())
}

pub(super) fn carry(db: &Connection, from: &str, to: &str) -> rusqlite::Result<()> {
    db.execute_batch(&format!("INSERT OR REPLACE INTO {to}.session SELECT * FROM {from}.session"))
}
