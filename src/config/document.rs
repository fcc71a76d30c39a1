//! The document as written: TOML with the place of every key and value, and a reader that notes each mistake and
//! goes on.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where in the document something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Counted from 1; 0 where the mistake is about the whole document.
    pub line: usize,
    /// The key path, `http.listen`; empty at the top.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.key.as_str()) {
            (0, "") => f.write_str("the configuration"),
            (0, key) => f.write_str(key),
            (line, "") => write!(f, "line {line}"),
            (line, key) => write!(f, "line {line}, {key}"),
        }
    }
}

/// One thing that is wrong in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mistake {
    #[serde(flatten)]
    pub place: Place,
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Everything that is wrong in a document, in the order of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Mistakes(pub Vec<Mistake>);

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

/// At most this many mistakes are reported of one document; noise has thousands.
const MISTAKE_LIMIT: usize = 50;
/// At most this much of a document's own text is repeated in a mistake, in characters.
const QUOTE_LIMIT: usize = 60;

/// A document that is TOML.
pub struct Document<'a> {
    lines: Lines,
    table: Spanned<DeTable<'a>>,
    syntax: Vec<Mistake>,
}

impl<'a> Document<'a> {
    /// Parses the bytes as far as they can be parsed; what is no TOML is kept as mistakes for [`Document::read`].
    ///
    /// # Errors
    /// When the bytes are empty or not text at all.
    pub fn parse(bytes: &'a [u8]) -> Result<Document<'a>, Mistakes> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = Lines::of(bytes).at(error.valid_up_to());
            Mistakes(vec![Mistake {
                place: Place { line, key: String::new() },
                text: format!("byte {} is not UTF-8; save the document as UTF-8", error.valid_up_to() + 1),
            }])
        })?;
        if text.trim().is_empty() {
            return Err(Mistakes(vec![Mistake { place: Place::default(), text: "is empty".to_owned() }]));
        }
        let lines = Lines::of(bytes);
        let (table, errors) = DeTable::parse_recoverable(text);
        let syntax = errors
            .iter()
            .take(MISTAKE_LIMIT)
            .map(|error| {
                let at = error.span().map_or(0, |span| span.start);
                let place = Place { line: lines.at(at), key: String::new() };
                Mistake { place, text: format!("is not TOML: {}", error.message()) }
            })
            .collect();
        Ok(Document { lines, table, syntax })
    }

    /// Reads it with `read`, which notes mistakes in the tables it is given.
    ///
    /// # Errors
    /// Every mistake, of syntax and of meaning, in the order of lines.
    pub fn read<T>(self, read: impl FnOnce(Table<'_>) -> T) -> Result<T, Mistakes> {
        let broken: BTreeSet<usize> = self.syntax.iter().map(|mistake| mistake.place.line).collect();
        let notes = Notes { lines: self.lines, mistakes: RefCell::new(self.syntax) };
        let value = read(Table::new(&notes, String::new(), 0..0, self.table.get_ref()));
        let mut mistakes = notes.mistakes.take();
        // What a broken line swallowed is neither wrong nor missing; only what can still be read is worth a word. Below
        // a broken table header, nobody knows whose keys these are.
        mistakes.retain(|mistake| {
            let Place { line, key } = &mistake.place;
            broken.is_empty()
                || (*line > 0
                    && (key.is_empty() || !broken.contains(line) && !broken.contains(&notes.lines.header_above(*line))))
        });
        if mistakes.is_empty() {
            return Ok(value);
        }
        mistakes.sort();
        mistakes.dedup();
        mistakes.truncate(MISTAKE_LIMIT);
        Err(Mistakes(mistakes))
    }
}

struct Notes {
    lines: Lines,
    mistakes: RefCell<Vec<Mistake>>,
}

/// Where lines and table headers begin.
struct Lines {
    /// The offset of each line's first byte.
    starts: Vec<usize>,
    /// The numbers of the lines that look like a table's header, counted from 1.
    headers: Vec<usize>,
}

impl Lines {
    fn of(text: &[u8]) -> Lines {
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(offset, _)| offset + 1);
        let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let first = |start: usize| text.get(start..)?.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
        let header = |start: &usize| first(*start) == Some(&b'[');
        let headers =
            starts.iter().enumerate().filter(|(_, start)| header(start)).map(|(index, _)| index + 1).collect();
        Lines { starts, headers }
    }

    /// The line of the byte at `offset`, counted from 1.
    fn at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// The line of the table header that `line` stands under; 0 at the top.
    fn header_above(&self, line: usize) -> usize {
        let above = self.headers.partition_point(|header| *header <= line);
        above.checked_sub(1).and_then(|index| self.headers.get(index)).copied().unwrap_or(0)
    }
}

/// A part of the document's own text, short enough and harmless for a message.
pub(super) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTE_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(QUOTE_LIMIT).is_some() {
        quoted.push('…');
    }
    format!("`{quoted}`")
}

/// Reads one table: each getter takes one key, notes a mistake if its value will not do, and returns what is good.
/// [`Table::finish`] notes the keys that nobody asked for.
pub struct Table<'a> {
    notes: &'a Notes,
    path: String,
    span: Range<usize>,
    entries: &'a DeTable<'a>,
    asked: BTreeSet<&'static str>,
}

/// One value and where it stands.
pub(super) struct Entry<'a> {
    notes: &'a Notes,
    pub path: String,
    span: Range<usize>,
    pub value: &'a DeValue<'a>,
}

impl<'a> Entry<'a> {
    pub fn place(&self) -> Place {
        Place { line: self.notes.lines.at(self.span.start), key: self.path.clone() }
    }

    pub fn mistake(&self, text: impl Into<String>) {
        note(self.notes, self.place(), text);
    }

    /// What was found in place of `wanted`.
    pub fn wrong_type(&self, wanted: &str) {
        self.mistake(format!("must be {wanted}, not {}", kind(self.value)));
    }

    pub fn text(&self, wanted: &str) -> Option<&'a str> {
        let DeValue::String(text) = self.value else {
            self.wrong_type(wanted);
            return None;
        };
        Some(text)
    }

    /// Whether it is a string, for values that may not be repeated in a message.
    pub fn text_is_written(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    pub fn into_table(self, wanted: &str) -> Option<Table<'a>> {
        let DeValue::Table(entries) = self.value else {
            self.wrong_type(wanted);
            return None;
        };
        Some(Table::new(self.notes, self.path, self.span, entries))
    }

    /// The entries of a list, or the one entry that stands alone.
    pub fn one_or_many(self) -> Vec<Entry<'a>> {
        let DeValue::Array(items) = self.value else { return vec![self] };
        items
            .iter()
            .enumerate()
            .map(|(index, item)| Entry {
                notes: self.notes,
                path: format!("{}[{index}]", self.path),
                span: item.span(),
                value: item.get_ref(),
            })
            .collect()
    }
}

fn note(notes: &Notes, place: Place, text: impl Into<String>) {
    notes.mistakes.borrow_mut().push(Mistake { place, text: text.into() });
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl<'a> Table<'a> {
    fn new(notes: &'a Notes, path: String, span: Range<usize>, entries: &'a DeTable<'a>) -> Self {
        Table { notes, path, span, entries, asked: BTreeSet::new() }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Whether the key is written, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name.get_ref() == key)
    }

    pub(super) fn place(&self) -> Place {
        let line = if self.path.is_empty() { 0 } else { self.notes.lines.at(self.span.start) };
        Place { line, key: self.path.clone() }
    }

    pub(super) fn entry(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.asked.insert(key);
        let (_, value) = self.entries.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Entry { notes: self.notes, path: self.path_of(key), span: value.span(), value: value.get_ref() })
    }

    /// An entry that must be there.
    pub(super) fn required(&mut self, key: &'static str, hint: &str) -> Option<Entry<'a>> {
        let entry = self.entry(key);
        if entry.is_none() {
            let place = Place { key: self.path_of(key), ..self.place() };
            note(self.notes, place, format!("is missing; {hint}"));
        }
        entry
    }

    /// A table below this one.
    pub fn table(&mut self, key: &'static str) -> Option<Table<'a>> {
        let mut table = self.entry(key)?.into_table("a table")?;
        if let Some((name, _)) = self.entries.iter().find(|(name, _)| name.get_ref() == key) {
            table.span = name.span();
        }
        Some(table)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let entry = self.entry(key)?;
        let words = || choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let text = entry.text(&format!("one of {}", words()))?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            entry.mistake(format!("{} is not one of {}", quote(text), words()));
        }
        found
    }

    /// A mistake about `key`, or about the table itself when `key` is empty.
    pub fn mistake(&mut self, key: &'static str, text: impl Into<String>) {
        let place = if key.is_empty() {
            self.place()
        } else {
            self.entry(key).map_or_else(|| self.place(), |entry| entry.place())
        };
        note(self.notes, place, text);
    }

    /// Notes every key that was not asked for.
    pub fn finish(self) {
        for (name, _) in self.entries {
            let key: &str = name.get_ref();
            if self.asked.contains(key) {
                continue;
            }
            let place = Place { line: self.notes.lines.at(name.span().start), key: self.path_of(&short(key)) };
            let near = self.asked.iter().map(|known| (distance(known, key), *known)).min();
            let text = match near {
                Some((steps, known)) if steps <= 2 => format!("is an unknown key; did you mean `{known}`?"),
                _ if self.asked.is_empty() => "is an unknown key".to_owned(),
                _ => {
                    let known: Vec<&str> = self.asked.iter().copied().collect();
                    format!("is an unknown key; known here: {}", known.join(", "))
                }
            };
            note(self.notes, place, text);
        }
    }
}

/// A key fit for a message.
fn short(key: &str) -> String {
    let quoted = quote(key);
    quoted.trim_matches('`').to_owned()
}

/// How many letters to change, add or leave out to make `a` of `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(QUOTE_LIMIT).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, to) in b.iter().enumerate() {
            let above = row[j + 1];
            let best = (diagonal + usize::from(from != *to)).min(above + 1).min(left + 1);
            row[j] = left;
            diagonal = above;
            left = best;
        }
        if let Some(last) = row.last_mut() {
            *last = left;
        }
    }
    row.last().copied().unwrap_or(0)
}
