//! From one database to another.

use rusqlite::{Connection, OptionalExtension};

/// How much of all that is kept goes along when the file becomes unusable, or another one takes its place: so many
/// conversations, the latest, and so many bytes of text.
const CARRIED: (u32, i64) = (5_000, 16 << 20);

/// Copies the latest conversations, as far as they have room. Each database numbers people and conversations by itself;
/// a conversation that is there as somebody else's stays as it is.
pub fn carry(db: &Connection, from: &str, to: &str) -> rusqlite::Result<()> {
    let (conversations, mut room) = CARRIED;
    let mut latest = db.prepare(&format!(
        "SELECT number, (SELECT coalesce(sum(octet_length(question) + octet_length(answer) + 4096), 0)
                         FROM {from}.exchange WHERE conversation = {from}.conversation.number)
         FROM {from}.conversation WHERE person != 0 ORDER BY updated DESC LIMIT ?1"
    ))?;
    let latest = latest.query_map([conversations], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let latest = latest.collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    let mut person = db.prepare(&format!(
        "INSERT INTO {to}.person (name, updated) SELECT name, {from}.person.updated FROM {from}.person
         WHERE number = (SELECT person FROM {from}.conversation WHERE number = ?1)
         ON CONFLICT (name) DO UPDATE SET updated = max(updated, excluded.updated)"
    ))?;
    let mut conversation = db.prepare(&format!(
        "INSERT INTO {to}.conversation (id, person, key, updated, fleeting)
         SELECT id, new.number, key, old.updated, fleeting
         FROM {from}.conversation old JOIN {from}.person own ON own.number = old.person
             JOIN {to}.person new ON new.name = own.name
         WHERE old.number = ?1
         ON CONFLICT (id) DO UPDATE SET updated = max(updated, excluded.updated),
             fleeting = min(fleeting, excluded.fleeting) WHERE person = excluded.person
         RETURNING number"
    ))?;
    let mut exchanges = db.prepare(&format!(
        "INSERT OR REPLACE INTO {to}.exchange
             (conversation, number, key, state, answered, padding, attachments, question, answer)
         SELECT ?2, number, key, state, answered, padding, attachments, question, answer
         FROM {from}.exchange WHERE conversation = ?1"
    ))?;
    for (number, bytes) in latest {
        if bytes > room {
            continue;
        }
        room -= bytes;
        person.execute([number])?;
        let new: Option<i64> = conversation.query_row([number], |row| row.get(0)).optional()?;
        if let Some(new) = new {
            exchanges.execute([number, new])?;
        }
    }
    Ok(())
}
