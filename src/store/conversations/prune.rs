//! Removing conversations: what is erased, what is too old, and what is too much.

use rusqlite::{Connection, OptionalExtension, params};

use super::Shared;
use super::rows::blob;
use crate::chat::PersonId;
use crate::chat::history::ConversationId;
use crate::store::{signed, unsigned};

/// So many conversations at most are given up in one go, and so much text and so many exchanges removed, as others wait
/// for the same thread. Where there is too much, it is one, and another for each of so many bytes that there are.
const GIVEN_UP: u32 = 32;
const GIVEN_UP_EACH: u64 = 16 << 20;
const REMOVED: (i64, u32) = (1 << 20, 200);
/// Pages that nothing uses are given back to the file system when there are so many of them, or more than a share of the
/// room; and so many in one go.
const FREE_PAGES: u64 = 1_024;
const FREE_SHARE: u64 = 16;
const GIVEN_BACK: u32 = 256;

/// Takes conversations from the person they belong to. Nobody finds them any more; they are removed step by step.
pub fn give_up_of(db: &Connection, person: &PersonId, id: Option<ConversationId>) -> rusqlite::Result<bool> {
    let sql = "SELECT number FROM person WHERE name = ?1";
    let Some(person) = db.query_row(sql, [person.as_str()], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(false);
    };
    let given_up = match id {
        Some(id) => {
            let sql = "UPDATE conversation SET person = 0, key = NULL WHERE person = ?1 AND id = ?2";
            db.execute(sql, params![person, blob(id)])?
        }
        None => db.execute("UPDATE conversation SET person = 0, key = NULL WHERE person = ?1", [person])?,
    };
    forget_if_alone(db, person)?;
    Ok(given_up > 0)
}

/// Forgets a person who has no conversation.
fn forget_if_alone(db: &Connection, person: i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM person WHERE number = ?1 AND NOT EXISTS (SELECT 1 FROM conversation WHERE person = ?1)";
    db.execute(sql, [person])?;
    Ok(())
}

/// Removes some of what belongs to nobody, and returns whether there is more.
pub fn sweep(db: &Connection) -> rusqlite::Result<bool> {
    let (mut bytes, mut rows) = REMOVED;
    let mut statement = db.prepare("SELECT number FROM conversation WHERE person = 0 LIMIT ?1")?;
    let given_up = statement.query_map([GIVEN_UP], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    let all = given_up.len() < GIVEN_UP as usize;
    let sql = "SELECT rowid, octet_length(question) + octet_length(answer) FROM exchange WHERE conversation = ?1
               ORDER BY number LIMIT ?2";
    let mut exchanges = db.prepare(sql)?;
    let mut remove = db.prepare("DELETE FROM exchange WHERE rowid = ?1")?;
    for conversation in given_up {
        let oldest = exchanges.query_map(params![conversation, rows + 1], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for exchange in oldest.collect::<rusqlite::Result<Vec<(i64, i64)>>>()? {
            if rows == 0 || bytes < 0 {
                return Ok(true);
            }
            remove.execute([exchange.0])?;
            bytes -= exchange.1;
            rows -= 1;
        }
        db.execute("DELETE FROM conversation WHERE number = ?1", [conversation])?;
    }
    Ok(!all)
}

/// Forgets some of what is too old or too much, and returns whether there may be more. Those who came once without a
/// cookie go before the others where there is too much.
pub fn prune(db: &Connection, shared: &Shared, on_disk: bool, above: &mut bool) -> rusqlite::Result<bool> {
    if sweep(db)? {
        return Ok(true);
    }
    let horizon = signed(shared.horizon());
    let mut given_up = 0;
    for fleeting in [true, false] {
        given_up += give_up_oldest(db, fleeting, horizon, GIVEN_UP)?;
    }
    let pages = Pages::of(db)?;
    let (used, room) = (pages.used * pages.size, pages.room(shared.room(on_disk)));
    // Once it is too much, somewhat more is removed, so that this is not to be done at every message.
    *above = used > if *above { room - room / 32 } else { room };
    if *above && given_up == 0 {
        let most = u32::try_from(1 + used / GIVEN_UP_EACH).unwrap_or(GIVEN_UP).min(GIVEN_UP);
        given_up = give_up_oldest(db, true, i64::MAX, most)?;
        if given_up == 0 {
            given_up = give_up_oldest(db, false, i64::MAX, most)?;
        }
    }
    if given_up > 0 {
        return Ok(true);
    }
    if on_disk && pages.free > pages.spare(shared.room(on_disk)) {
        db.execute_batch(&format!("PRAGMA incremental_vacuum({GIVEN_BACK})"))?;
        // An older database knows no giving back.
        return Ok(Pages::of(db)?.free < pages.free);
    }
    Ok(false)
}

/// Whether the database takes more than it may.
pub fn too_much(db: &Connection, shared: &Shared, on_disk: bool) -> rusqlite::Result<bool> {
    let (pages, room) = (Pages::of(db)?, shared.room(on_disk));
    Ok(pages.used * pages.size > pages.room(room) || (on_disk && pages.free > pages.spare(room)))
}

/// Gives up the oldest conversations from before `horizon`, `most` of them, and returns how many.
fn give_up_oldest(db: &Connection, fleeting: bool, horizon: i64, most: u32) -> rusqlite::Result<usize> {
    let sql = "SELECT number, person FROM conversation WHERE fleeting = ?1 AND updated < ?2 AND person != 0
               ORDER BY updated LIMIT ?3";
    let mut statement = db.prepare(sql)?;
    let oldest = statement.query_map(params![fleeting, horizon, most], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let oldest = oldest.collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    for (conversation, person) in &oldest {
        db.execute("UPDATE conversation SET person = 0, key = NULL WHERE number = ?1", [conversation])?;
        forget_if_alone(db, *person)?;
    }
    Ok(oldest.len())
}

/// What a database takes.
pub struct Pages {
    pub used: u64,
    pub free: u64,
    /// Of a page, in bytes.
    pub size: u64,
}

impl Pages {
    pub fn of(db: &Connection) -> rusqlite::Result<Pages> {
        let asked = |pragma| db.pragma_query_value(None, pragma, |row| row.get(0)).map(unsigned);
        let (all, free) = (asked("page_count")?, asked("freelist_count")?);
        Ok(Pages { used: all.saturating_sub(free), free, size: asked("page_size")? })
    }

    /// How many free pages may stay where the database may take `room` bytes.
    fn spare(&self, room: u64) -> u64 {
        FREE_PAGES.min(room / self.size / FREE_SHARE)
    }

    /// How many of these bytes may be in use, so that all of it stays within `room`.
    fn room(&self, room: u64) -> u64 {
        room - self.spare(room) * self.size
    }
}
