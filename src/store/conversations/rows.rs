//! Writing conversations down, and finding them again.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::chat::PersonId;
use crate::chat::history::{
    Attachment, Conversation, ConversationId, Cursor, Exchange, Person, Record, State, Summary, title,
};
use crate::store::{signed, unsigned};

/// Of a conversation, so many exchanges at most are looked through for a key: it marks what was sent a moment ago.
const RECENT: u32 = 200;

const ANSWERING: i64 = 0;
const DONE: i64 = 1;
const STOPPED: i64 = 2;
const FAILED: i64 = 3;
const LONG: i64 = 4;

pub fn blob(id: ConversationId) -> [u8; 16] {
    id.0.to_be_bytes()
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<ConversationId> {
    row.get(column).map(|bytes: [u8; 16]| ConversationId(u128::from_be_bytes(bytes)))
}

pub fn put(db: &Connection, record: &Record) -> rusqlite::Result<()> {
    let Some(conversation) = number(db, &record.person, record.id)? else {
        let sql = "SELECT 1 FROM conversation WHERE id = ?1";
        if db.prepare(sql)?.exists([blob(record.id)])? {
            // Somebody else's, or erased.
            return Ok(());
        }
        let person = met(db, &record.person, record.updated)?;
        let sql = "INSERT INTO conversation (id, person, key, updated, fleeting) VALUES (?1, ?2, ?3, ?4, ?5)";
        let row = params![blob(record.id), person, record.key.as_deref(), signed(record.updated), record.fleeting];
        db.execute(sql, row)?;
        return put_exchanges(db, db.last_insert_rowid(), &record.exchanges);
    };
    met(db, &record.person, record.updated)?;
    let sql = "UPDATE conversation SET updated = max(updated, ?2), fleeting = min(fleeting, ?3) WHERE number = ?1";
    db.execute(sql, params![conversation, signed(record.updated), record.fleeting])?;
    put_exchanges(db, conversation, &record.exchanges)
}

/// Takes down that a person was heard of, and returns their number.
fn met(db: &Connection, person: &PersonId, updated: u64) -> rusqlite::Result<i64> {
    let sql = "INSERT INTO person (name, updated) VALUES (?1, ?2)
               ON CONFLICT (name) DO UPDATE SET updated = max(updated, excluded.updated) RETURNING number";
    db.query_row(sql, params![person.as_str(), signed(updated)], |row| row.get(0))
}

fn put_exchanges(db: &Connection, conversation: i64, exchanges: &[Exchange]) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO exchange
                   (conversation, number, key, state, answered, padding, attachments, question, answer)
               VALUES (?1, ?2, ?3, ?4, ?5, zeroblob(?6), ?7, ?8, ?9)";
    let mut statement = db.prepare(sql)?;
    for exchange in exchanges {
        let state = match exchange.state {
            State::Answering => ANSWERING,
            State::Done => DONE,
            State::Stopped => STOPPED,
            State::Failed => FAILED,
            State::Long => LONG,
        };
        let attachments = (!exchange.attachments.is_empty())
            .then(|| serde_json::to_string(&*exchange.attachments).unwrap_or_default());
        let text = exchange.question.len() + exchange.answer.len() + attachments.as_ref().map_or(0, String::len);
        statement.execute(params![
            conversation,
            signed(exchange.number),
            exchange.key.as_deref(),
            state,
            signed(exchange.answered),
            i64::try_from(padding(text)).unwrap_or(0),
            attachments,
            exchange.question,
            exchange.answer
        ])?;
    }
    Ok(())
}

/// How many bytes to put before so many bytes of text in a row of exchanges, so that no text is in a page that holds
/// other rows.
///
/// What `secure_delete` overwrites is a row that is deleted, and not the copies that SQLite leaves behind when it moves
/// rows between pages. What does not fit into a page goes to pages of its own, which are never copied, and overwritten
/// when they are given up. Of a row of `P` bytes that has such pages, `489 + (P - 489) % 4092` stay in the shared page, or
/// 489 where that is more than 4061 (<https://www.sqlite.org/fileformat.html>, section 1.6, with pages of 4,096 bytes):
/// these are to be padding, and so as few of them as can be.
fn padding(text: usize) -> usize {
    const PAGE: usize = 4_092;
    const SHARED: usize = 489;
    // The other columns and the header of the row take between so many bytes; see `TABLES`.
    const LEAST: usize = 12;
    const MOST: usize = 120;
    let least = SHARED + MOST - 2 * LEAST;
    let wanted = (SHARED + PAGE * (1 + text / PAGE) - LEAST - text) % PAGE;
    if wanted >= least { wanted } else { wanted + PAGE }
}

/// The number of a person's conversation.
fn number(db: &Connection, person: &PersonId, id: ConversationId) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT conversation.number FROM conversation JOIN person ON person.number = person
               WHERE id = ?1 AND name = ?2";
    db.query_row(sql, params![blob(id), person.as_str()], |row| row.get(0)).optional()
}

/// How its first message begins, and what is attached to it.
const BEGINNING: &str = "(SELECT substr(question, 1, 500) FROM exchange WHERE conversation = conversation.number
                          ORDER BY number LIMIT 1),
                         (SELECT attachments FROM exchange WHERE conversation = conversation.number
                          ORDER BY number LIMIT 1)";

/// The title of a conversation with this [`BEGINNING`].
fn titled(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let question: Option<String> = row.get(column)?;
    Ok(title(&question.unwrap_or_default(), &attachments(row, column + 1)?))
}

fn attachments(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<Attachment>> {
    let written: Option<String> = row.get(column)?;
    Ok(written.and_then(|written| serde_json::from_str(&written).ok()).unwrap_or_default())
}

const EXCHANGE: &str = "SELECT number, key, state, answered, attachments, question, answer FROM exchange";

fn exchange(row: &Row<'_>) -> rusqlite::Result<Exchange> {
    Ok(Exchange {
        number: unsigned(row.get(0)?),
        key: row.get(1)?,
        state: match row.get(2)? {
            DONE => State::Done,
            STOPPED => State::Stopped,
            FAILED => State::Failed,
            LONG => State::Long,
            _ => State::Answering,
        },
        answered: unsigned(row.get(3)?),
        attachments: attachments(row, 4)?.into(),
        question: row.get(5)?,
        answer: row.get(6)?,
    })
}

/// As many of the first `rows` as fit into so many bytes, and one at least.
fn fitting(rows: impl Iterator<Item = rusqlite::Result<Exchange>>, bytes: usize) -> rusqlite::Result<Vec<Exchange>> {
    let mut fitting: Vec<Exchange> = Vec::new();
    let mut taken = 0;
    for exchange in rows {
        let exchange = exchange?;
        taken += exchange.text();
        if taken > bytes && !fitting.is_empty() {
            break;
        }
        fitting.push(exchange);
    }
    Ok(fitting)
}

pub fn last(
    db: &Connection,
    person: &PersonId,
    id: ConversationId,
    bytes: usize,
) -> rusqlite::Result<Option<Conversation>> {
    let Some(conversation) = number(db, person, id)? else { return Ok(None) };
    let mut statement = db.prepare(&format!("{EXCHANGE} WHERE conversation = ?1 ORDER BY number DESC"))?;
    let mut exchanges = fitting(statement.query_map([conversation], exchange)?, bytes)?;
    exchanges.reverse();
    let first = exchanges.first().map_or(0, |first| signed(first.number));
    let sql = "SELECT count(*) FROM exchange WHERE conversation = ?1 AND number < ?2";
    let omitted = unsigned(db.query_row(sql, [conversation, first], |row| row.get(0))?);
    let sql = format!("SELECT {BEGINNING} FROM conversation WHERE number = ?1");
    let title = db.query_row(&sql, [conversation], |row| titled(row, 0))?;
    Ok(Some(Conversation { title, exchanges, omitted }))
}

pub fn next(
    db: &Connection,
    person: &PersonId,
    id: ConversationId,
    after: u64,
    bytes: usize,
) -> rusqlite::Result<Vec<Exchange>> {
    let Some(conversation) = number(db, person, id)? else { return Ok(Vec::new()) };
    let mut statement = db.prepare(&format!("{EXCHANGE} WHERE conversation = ?1 AND number > ?2 ORDER BY number"))?;
    fitting(statement.query_map([conversation, signed(after)], exchange)?, bytes)
}

pub fn asked(db: &Connection, person: &PersonId, id: ConversationId, key: &str) -> rusqlite::Result<Option<Exchange>> {
    let Some(conversation) = number(db, person, id)? else { return Ok(None) };
    let sql = format!(
        "{EXCHANGE} WHERE conversation = ?1 AND key = ?2 AND number IN
         (SELECT number FROM exchange WHERE conversation = ?1 ORDER BY number DESC LIMIT {RECENT})"
    );
    db.query_row(&sql, params![conversation, key], exchange).optional()
}

pub fn at_place(
    db: &Connection,
    conversation: ConversationId,
    most: u32,
) -> rusqlite::Result<Vec<(PersonId, ConversationId)>> {
    let sql = "SELECT name, id FROM conversation JOIN person ON person.number = person WHERE id BETWEEN ?1 AND ?2
               ORDER BY conversation.updated DESC LIMIT ?3";
    let (first, last) = conversation.place().into_inner();
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map(params![blob(first), blob(last), most], |row| {
        let name: String = row.get(0)?;
        Ok((PersonId::written(&name), id(row, 1)?))
    })?;
    rows.collect()
}

pub fn begun(db: &Connection, person: &PersonId, key: &str) -> rusqlite::Result<Option<ConversationId>> {
    let sql = "SELECT id FROM conversation JOIN person ON person.number = person WHERE name = ?1 AND key = ?2
               ORDER BY conversation.updated DESC LIMIT 1";
    db.query_row(sql, params![person.as_str(), key], |row| id(row, 0)).optional()
}

pub fn list(db: &Connection, person: &PersonId, after: Option<Cursor>, most: u32) -> rusqlite::Result<Vec<Summary>> {
    let after = after.unwrap_or(Cursor { updated: signed_most(), id: ConversationId(u128::MAX) });
    let mut statement = db.prepare(&format!(
        "SELECT id, {BEGINNING}, updated, (SELECT count(*) FROM exchange WHERE conversation = conversation.number)
         FROM conversation WHERE person = (SELECT number FROM person WHERE name = ?1) AND (updated, id) < (?2, ?3)
         ORDER BY updated DESC, id DESC LIMIT ?4"
    ))?;
    let row = params![person.as_str(), signed(after.updated.min(signed_most())), blob(after.id), most];
    let rows = statement.query_map(row, |row| {
        let messages = 2 * unsigned(row.get(4)?);
        Ok(Summary { id: id(row, 0)?, title: titled(row, 1)?, updated: unsigned(row.get(3)?), messages })
    })?;
    rows.collect()
}

/// The greatest number that SQLite has.
fn signed_most() -> u64 {
    unsigned(i64::MAX)
}

pub fn people(db: &Connection, most: u32) -> rusqlite::Result<(Vec<Person>, u64)> {
    let sql = "SELECT name, updated, (SELECT count(*) FROM conversation WHERE person = person.number)
               FROM person ORDER BY updated DESC, number DESC LIMIT ?1";
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([most], |row| {
        let name: String = row.get(0)?;
        let person = PersonId::written(&name);
        Ok(Person { person, updated: unsigned(row.get(1)?), conversations: unsigned(row.get(2)?) })
    })?;
    let people = rows.collect::<rusqlite::Result<_>>()?;
    let all = db.query_row("SELECT count(*) FROM person", [], |row| row.get(0)).map(unsigned)?;
    Ok((people, all))
}
