//! How many IDENTIFYs were sent, counted on the disk before each is.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::moment::Moment;
use super::{Store, signed};

/// How many IDENTIFYs were sent, and when.
#[derive(Clone, Debug)]
pub struct Identifies(pub(super) Store);

/// How a bot's account stood after its last IDENTIFY.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spending {
    /// How many were sent of late, as whoever counts them sees it.
    pub spent: f64,
    /// How long ago that was.
    pub ago: Duration,
}

impl Identifies {
    /// How the account of the bot with the user id `bot` stood after the last IDENTIFY; `None` if it is not known to
    /// have sent any.
    pub async fn last(&self, bot: u64) -> Option<Spending> {
        self.0.ask(false, move |db| last(db, bot)).await.flatten()
    }

    /// Takes down that an IDENTIFY is about to be sent, which makes `spent` of them. It is on the disk when this
    /// returns.
    pub async fn spend(&self, bot: u64, spent: f64) {
        // Without memory it is counted by this process alone.
        self.0.ask(true, move |db| spend(db, bot, spent, Moment::now())).await.unwrap_or_default();
    }
}

fn last(db: &Connection, bot: u64) -> rusqlite::Result<Option<Spending>> {
    let sql = "SELECT spent, boot, uptime_ms, wall_ms FROM identify WHERE user = ?1";
    db.query_row(sql, [signed(bot)], |row| {
        let at = Moment { boot: row.get(1)?, uptime_ms: row.get(2)?, wall_ms: row.get(3)? };
        Ok(Spending { spent: row.get(0)?, ago: Moment::now().since(&at) })
    })
    .optional()
}

fn spend(db: &Connection, bot: u64, spent: f64, at: Moment) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO identify (user, spent, boot, uptime_ms, wall_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.execute(sql, params![signed(bot), spent, at.boot, at.uptime_ms, at.wall_ms])?;
    Ok(())
}

pub(super) fn carry(db: &Connection, from: &str, to: &str) -> rusqlite::Result<()> {
    db.execute_batch(&format!("INSERT OR REPLACE INTO {to}.identify SELECT * FROM {from}.identify"))
}
