//! The database file: how it is opened, what is in it, and what happens to one that is damaged.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use thiserror::Error;

use super::{changes, conversations, identifies, ledger, seen, sessions};

/// Each takes the database one version further; `PRAGMA user_version` counts them. What is here once is never changed.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE bot (
        number INTEGER PRIMARY KEY,
        user INTEGER NOT NULL UNIQUE
    ) STRICT;
    -- A settled row has 0 for its channel, parts and reply: a zero takes no room.
    CREATE TABLE ledger (
        bot INTEGER NOT NULL,
        message INTEGER NOT NULL,
        state INTEGER NOT NULL,
        channel INTEGER NOT NULL,
        parts INTEGER NOT NULL,
        reply INTEGER NOT NULL,
        PRIMARY KEY (bot, message)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX ledger_sending ON ledger (bot, message) WHERE state = 0;
    CREATE TABLE session (
        user INTEGER PRIMARY KEY,
        intents INTEGER NOT NULL,
        shard INTEGER NOT NULL,
        shards INTEGER NOT NULL,
        token_mark INTEGER NOT NULL,
        id TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        resume_url TEXT NOT NULL
    ) STRICT;
    CREATE TABLE identify (
        user INTEGER PRIMARY KEY,
        spent REAL NOT NULL,
        boot INTEGER NOT NULL,
        uptime_ms INTEGER NOT NULL,
        wall_ms INTEGER NOT NULL
    ) STRICT;
",
    changes::TABLES,
    seen::TABLE,
    conversations::TABLES,
    sessions::COLUMNS,
];

/// Somebody who looks at the file with `sqlite3` may hold it for so long.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// What the write-ahead log is cut back to once a flood is over, in bytes.
const LOG_LIMIT: i64 = 4 << 20;

/// Why the file can't be used.
#[derive(Debug, Error)]
pub enum Unusable {
    #[error("{}: {}", said(.0), .0)]
    Sqlite(#[from] rusqlite::Error),
    #[error("{0}")]
    File(#[from] std::io::Error),
    #[error(
        "it was written by a newer perch (it has version {found}, and this perch knows {known}); run that one, or move \
         the file away",
        known = MIGRATIONS.len()
    )]
    Newer { found: i64 },
}

impl Unusable {
    /// Whether what is in the file is no database any more.
    pub fn damaged(&self) -> bool {
        matches!(self, Unusable::Sqlite(error) if matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ))
    }
}

/// What SQLite's code means for whoever has to mend it.
fn said(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "it can't be written",
        Some(ErrorCode::CannotOpen) => "it can't be opened",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "it is damaged",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another process holds it",
        Some(ErrorCode::SystemIoFailure) => "the disk refuses reading or writing",
        _ => "SQLite refuses it",
    }
}

/// Opens the database at `path`, and makes it if it is not there.
pub fn open(path: &Path) -> Result<Connection, Unusable> {
    // SQLite gives its other files the mode of this one.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if usize::try_from(found).is_ok_and(|found| found > MIGRATIONS.len()) {
        return Err(Unusable::Newer { found });
    }
    give_back_pages(&db, found)?;
    // A file system without shared memory keeps its rollback journal, which is slower and as safe.
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    db.pragma_update_and_check(None, "journal_size_limit", LOG_LIMIT, |_| Ok(()))?;
    // What is deleted is overwritten.
    db.pragma_update_and_check(None, "secure_delete", "on", |_| Ok(()))?;
    prepare(&db)?;
    Ok(db)
}

/// Lets the file shrink where much was deleted. That is decided before the first table is made; a database of before it
/// was is rewritten once, and where there is no room for that, it keeps its size.
fn give_back_pages(db: &Connection, version: i64) -> rusqlite::Result<()> {
    const INCREMENTAL: i64 = 2;
    if db.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0))? == INCREMENTAL {
        return Ok(());
    }
    db.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    if version > 0 && db.execute_batch("VACUUM").is_err() {
        tracing::debug!(service = super::owner::NAME, "the database keeps its size");
    }
    Ok(())
}

/// The same tables in memory.
pub fn memory() -> Result<Connection, Unusable> {
    let db = Connection::open_in_memory()?;
    prepare(&db)?;
    Ok(db)
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "temp_store", "memory")?;
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = usize::try_from(found).unwrap_or(0);
    for (version, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        let number = version + 1;
        db.execute_batch(&format!("BEGIN IMMEDIATE; {migration}; PRAGMA user_version = {number}; COMMIT;"))?;
    }
    Ok(())
}

/// Puts into `db` what the database at `path` has, or into that one what `db` has. What the receiver has of its own
/// stays, unless it is the same thing.
pub fn carry(db: &Connection, path: &Path, direction: Direction) -> rusqlite::Result<()> {
    let Some(name) = path.to_str() else { return Ok(()) };
    db.execute("ATTACH DATABASE ?1 AS file", [name])?;
    let (from, to) = match direction {
        Direction::FromFile => ("file", "main"),
        Direction::IntoFile => ("main", "file"),
    };
    let copied = (|| {
        let transaction = db.unchecked_transaction()?;
        ledger::carry(&transaction, from, to)?;
        sessions::carry(&transaction, from, to)?;
        identifies::carry(&transaction, from, to)?;
        changes::carry(&transaction, from, to)?;
        seen::carry(&transaction, from, to)?;
        conversations::carry(&transaction, from, to)?;
        transaction.commit()
    })();
    let detached = db.execute_batch("DETACH DATABASE file");
    copied.and(detached)
}

#[derive(Clone, Copy)]
pub enum Direction {
    FromFile,
    IntoFile,
}

/// Moves a damaged database out of the way, with its log, for whoever wants to look at it. One of before goes: what people
/// said is in it. Returns its new name.
pub fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let before = set_aside(path);
    let mut seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let named = |seconds| with_suffix(path, &format!("{ASIDE}{seconds}"));
    while named(seconds).exists() {
        seconds += 1;
    }
    let aside = named(seconds);
    std::fs::rename(path, &aside)?;
    for log in LOGS {
        match std::fs::rename(with_suffix(path, log), with_suffix(&aside, log)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for older in before {
        if let Err(error) = std::fs::remove_file(&older) {
            tracing::warn!(
                service = super::owner::NAME,
                "{} can't be removed, and people's words are in it: {error}",
                older.display()
            );
        }
    }
    Ok(aside)
}

/// What comes behind a database's name in those of the files beside it (<https://www.sqlite.org/tempfiles.html>).
const LOGS: [&str; 2] = ["-wal", "-shm"];
/// What comes behind the name of a database that was moved out of the way, before the second of that.
const ASIDE: &str = ".damaged-";

/// The files of damaged databases that were moved out of the way. Copies that somebody made have other names.
fn set_aside(path: &Path) -> Vec<PathBuf> {
    let begins = with_suffix(path, ASIDE);
    let ours = |found: &PathBuf| {
        let rest = found.as_os_str().as_encoded_bytes().strip_prefix(begins.as_os_str().as_encoded_bytes());
        let rest = rest.and_then(|rest| str::from_utf8(rest).ok());
        let log = rest.map(|rest| rest.trim_start_matches(|digit: char| digit.is_ascii_digit()));
        log.is_some_and(|log| log.is_empty() || LOGS.contains(&log))
    };
    let entries = path.parent().and_then(|directory| directory.read_dir().ok()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(ours).collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
