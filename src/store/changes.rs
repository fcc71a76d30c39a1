//! What was changed and how it ended, and the fate of the version that is, or was, on trial.

use rusqlite::{Connection, OptionalExtension, params};

use super::moment::Moment;
use super::{Store, signed, unsigned};

pub(super) const TABLES: &str = "
    -- A change is kept as the JSON that `status` shows of it.
    CREATE TABLE change (
        id INTEGER PRIMARY KEY,
        record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE trial (
        source TEXT PRIMARY KEY,
        version TEXT NOT NULL,
        change INTEGER NOT NULL,
        fate INTEGER NOT NULL,
        boot INTEGER NOT NULL,
        reason TEXT NOT NULL
    ) STRICT;
";

/// So many changes are kept: years of a host that is left alone, weeks of one that is worked on.
pub const KEPT: u32 = 1_000;

const BAKING: i64 = 0;
const STOPPED: i64 = 1;
const UNDONE: i64 = 2;
/// A row is never deleted: one that is gone from memory and not from the file would come back.
const OVER: i64 = 3;

/// The history of changes.
#[derive(Clone, Debug)]
pub struct Changes(pub(super) Store);

/// A version of one source that was put on trial, and not blessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    pub version: String,
    /// The change that brought it.
    pub change: u64,
    pub fate: Fate,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was on trial when it was last heard of.
    Baking {
        /// That was in this boot of the machine.
        this_boot: bool,
    },
    /// perch was stopped during the trial, which says nothing of the version.
    Stopped,
    /// It made things unhealthy, as the text says.
    Undone(String),
}

impl Changes {
    /// The number of the last change; 0 if none is known.
    pub async fn last(&self) -> u64 {
        let sql = "SELECT coalesce(max(id), 0) FROM change";
        self.0.ask(false, move |db| db.query_row(sql, [], |row| row.get(0)).map(unsigned)).await.unwrap_or(0)
    }

    /// Takes down the change `id` as `record`, in place of what was said of it before.
    pub fn record(&self, id: u64, record: String) {
        self.0.tell(move |db| {
            db.execute("INSERT OR REPLACE INTO change (id, record) VALUES (?1, ?2)", params![signed(id), record])?;
            let sql = "DELETE FROM change WHERE id <= (SELECT max(id) FROM change) - ?1";
            db.execute(sql, [KEPT])?;
            Ok(())
        });
    }

    /// The newest records, the newest first.
    pub async fn newest(&self, count: u32) -> Vec<String> {
        self.0.ask(false, move |db| newest(db, count)).await.unwrap_or_default()
    }

    /// The version of `source` that was on trial last.
    pub async fn trial(&self, source: String) -> Option<Trial> {
        self.0.ask(false, move |db| trial(db, &source)).await.flatten()
    }

    /// Takes down that `trial` is how the newest version of `source` stands. It is on the disk when this returns.
    pub async fn begin_trial(&self, source: String, trial: Trial) {
        // Without memory a crash during the trial is not known for one.
        self.0.ask(true, move |db| put(db, &source, &trial)).await.unwrap_or_default();
    }

    /// The same, in a moment.
    pub fn put_trial(&self, source: String, trial: Trial) {
        self.0.tell(move |db| put(db, &source, &trial));
    }

    /// Nothing is to be known any more of `version`, if that is the one that is.
    pub fn end_trial(&self, source: String, version: String) {
        let sql = "UPDATE trial SET fate = ?3 WHERE source = ?1 AND version = ?2";
        self.0.tell(move |db| db.execute(sql, params![source, version, OVER]).map(drop));
    }
}

fn newest(db: &Connection, count: u32) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare("SELECT record FROM change ORDER BY id DESC LIMIT ?1")?;
    let rows = statement.query_map([count], |row| row.get(0))?;
    rows.collect()
}

fn trial(db: &Connection, source: &str) -> rusqlite::Result<Option<Trial>> {
    let sql = "SELECT version, change, fate, boot, reason FROM trial WHERE source = ?1 AND fate != ?2";
    db.query_row(sql, params![source, OVER], |row| {
        let fate = match row.get::<_, i64>(2)? {
            UNDONE => Fate::Undone(row.get(4)?),
            STOPPED => Fate::Stopped,
            _ => Fate::Baking { this_boot: row.get::<_, i64>(3)? == Moment::now().boot },
        };
        Ok(Trial { version: row.get(0)?, change: unsigned(row.get(1)?), fate })
    })
    .optional()
}

fn put(db: &Connection, source: &str, trial: &Trial) -> rusqlite::Result<()> {
    let (fate, reason) = match &trial.fate {
        Fate::Baking { .. } => (BAKING, ""),
        Fate::Stopped => (STOPPED, ""),
        Fate::Undone(reason) => (UNDONE, reason.as_str()),
    };
    let sql =
        "INSERT OR REPLACE INTO trial (source, version, change, fate, boot, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let row = params![source, trial.version, signed(trial.change), fate, Moment::now().boot, reason];
    db.execute(sql, row)?;
    Ok(())
}

pub(super) fn carry(db: &Connection, from: &str, to: &str) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "INSERT OR REPLACE INTO {to}.change SELECT * FROM {from}.change;
         INSERT OR REPLACE INTO {to}.trial SELECT * FROM {from}.trial;"
    ))
}
