//! Object streams: objects that stand together in one compressed stream. They are unpacked to be looked at, one at a time,
//! and forgotten.
//!
//! Source: ISO 32000-1, 7.5.7 (object streams), 7.4.4 (FlateDecode).

use std::io::Read;

use flate2::bufread::ZlibDecoder;

use super::lexis::{Lexis, Value};
use super::{Hidden, active};
use crate::chat::files::Flaw;

/// How much one of them may unpack to, in bytes. Programs put a hundred or two of small objects in one.
const LARGEST: usize = 8 << 20;
/// How much all of them may in one document, and how many times the document's size beside a little: dictionaries shrink to
/// a tenth, and a bomb to a thousandth.
const MOST: usize = 32 << 20;
const TIMES: usize = 40;
const LITTLE: usize = 1 << 20;

/// How much a document may still unpack to, in bytes.
pub struct Room(usize);

impl Room {
    pub fn of(document: usize) -> Room {
        Room((LITTLE + TIMES * document).min(MOST))
    }
}

/// Where the stream's word stands behind a dictionary that ends at `end`, if it is a stream's.
pub fn stream(document: &Lexis<'_>, end: usize) -> Result<Option<usize>, Hidden> {
    let at = document.blank(end)?;
    Ok(document.bytes[at..].starts_with(b"stream").then_some(at))
}

/// Whether the stream with this dictionary has objects in it. Not every reader asks for its type.
pub fn has_objects(document: &Lexis<'_>, from: usize, to: usize) -> Result<bool, Hidden> {
    let (mut number, mut first) = (false, false);
    for (name, end) in document.names(from, to) {
        match name.as_bytes() {
            b"N" => number = true,
            b"First" => first = true,
            b"Type" => {
                if let Value::Name(at) = document.value(end)?
                    && document.name(at).0.as_bytes() == b"ObjStm"
                {
                    return Ok(true);
                }
            }
            _ => {}
        }
    }
    Ok(number && first)
}

/// What is in the stream of objects whose dictionary stands between these places and whose word stands at `stream`, and where
/// in there the first object is.
pub fn unpack(
    document: &Lexis<'_>,
    (from, to): (usize, usize),
    stream: usize,
    room: &mut Room,
) -> Result<(Vec<u8>, usize), Flaw> {
    let first = first(document, from, to)?;
    let data = data(document.bytes, stream).ok_or(Hidden)?;
    let limit = LARGEST.min(room.0);
    let tight = || active("is packed so tightly that nobody can look at it");
    let mut content = Vec::new();
    let read = ZlibDecoder::new(data).take(limit as u64 + 1).read_to_end(&mut content);
    read.map_err(|_| Flaw::content("what is packed in it can't be unpacked"))?;
    room.0 = room.0.checked_sub(content.len()).ok_or_else(tight)?;
    if content.len() > limit { Err(tight()) } else { Ok((content, first)) }
}

/// Where the first object stands in a stream of them that is packed as programs do it. What they never write, and readers
/// may take for different things, hides something.
fn first(document: &Lexis<'_>, from: usize, to: usize) -> Result<usize, Hidden> {
    let (mut first, mut filter, mut parameters) = (None, None, None);
    for (name, end) in document.names(from, to) {
        let place = match name.as_bytes() {
            b"First" => &mut first,
            b"Filter" => &mut filter,
            b"DecodeParms" => &mut parameters,
            // What some readers take for the same, and some do not.
            b"F" | b"DP" | b"FFilter" | b"FDecodeParms" => return Err(Hidden),
            _ => continue,
        };
        if place.replace(document.value(end)?).is_some() {
            return Err(Hidden);
        }
    }
    let Some(Value::Integer(first)) = first else { return Err(Hidden) };
    let is_flate = |at| matches!(document.name(at).0.as_bytes(), b"FlateDecode" | b"Fl");
    match filter {
        Some(Value::Name(at)) if is_flate(at) => {}
        Some(Value::Array(at)) => {
            let (inside, end) = (document.value(at + 1)?, document.end(at)?);
            let one = matches!(inside, Value::Name(at) if is_flate(at));
            if !one || document.names(at, end).count() != 1 {
                return Err(Hidden);
            }
        }
        _ => return Err(Hidden),
    }
    match parameters {
        None => {}
        Some(Value::Dictionary(at) | Value::Array(at) | Value::Other(at)) => {
            for (name, end) in document.names(at, document.end(at)?) {
                if name.as_bytes() == b"Predictor" && document.value(end)? != Value::Integer(1) {
                    return Err(Hidden);
                }
            }
        }
        Some(_) => return Err(Hidden),
    }
    usize::try_from(first).map_err(|_| Hidden)
}

/// What follows a stream's word, from the next line on.
fn data(bytes: &[u8], stream: usize) -> Option<&[u8]> {
    let behind = &bytes[stream + b"stream".len()..];
    let spaces = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let behind = &behind[spaces..];
    [&b"\r\n"[..], b"\n", b"\r"].iter().find_map(|line| behind.strip_prefix(*line))
}
