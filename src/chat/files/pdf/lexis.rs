//! The words of a PDF: names, strings, dictionaries, one value after another.
//!
//! Source: ISO 32000-1, 7.2 (lexical conventions) and 7.3 (objects).

use std::cell::Cell;

use super::Hidden;

/// The longest name that is looked for, in bytes.
const LONGEST_NAME: usize = 24;
/// How deep values may stand in one another. Readers stop at much the same: their stack is not without end.
const DEEPEST: usize = 256;

/// Bytes that are read as a PDF's, in no more steps than were granted.
pub struct Lexis<'a> {
    pub bytes: &'a [u8],
    /// One for each byte that is looked at.
    steps: Cell<usize>,
}

/// What stands at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    DictionaryBegins,
    DictionaryEnds,
    ArrayBegins,
    ArrayEnds,
    Text,
    Name,
    Integer(u64),
    /// A real number, a keyword, or what is nothing.
    Other,
}

/// What a name stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Dictionary(usize),
    Array(usize),
    Text,
    Name(usize),
    Reference(u64),
    Integer(u64),
    Other(usize),
    Nothing,
}

impl<'a> Lexis<'a> {
    /// Reads each byte a few times at most: what begins in the middle of something else is read once more.
    pub fn new(bytes: &'a [u8]) -> Lexis<'a> {
        Lexis { bytes, steps: Cell::new(8 * bytes.len() + (64 << 10)) }
    }

    fn spend(&self, steps: usize) -> Result<(), Hidden> {
        self.steps.set(self.steps.get().checked_sub(steps).ok_or(Hidden)?);
        Ok(())
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// The first place from `at` that is neither white space nor in a comment.
    pub fn blank(&self, at: usize) -> Result<usize, Hidden> {
        let mut end = at;
        let mut in_comment = false;
        while let Some(byte) = self.byte(end) {
            match byte {
                b'\n' | b'\r' => in_comment = false,
                b'%' => in_comment = true,
                _ if in_comment || is_white(byte) => {}
                _ => break,
            }
            end += 1;
        }
        self.spend(end.saturating_sub(at))?;
        Ok(end)
    }

    /// The name behind the slash at `slash`, with what is written as `#4A` read as what it stands for, and where it ends. A
    /// name that is longer than any that matters is cut.
    pub fn name(&self, slash: usize) -> (Name, usize) {
        let mut name = Name { bytes: [0; LONGEST_NAME], length: 0 };
        let mut at = slash + 1;
        while let Some(byte) = self.byte(at).filter(|byte| is_regular(*byte)) {
            let escaped = (byte == b'#').then(|| hex(self.bytes.get(at + 1..at + 3)?)).flatten();
            let Some(room) = name.bytes.get_mut(name.length) else { break };
            *room = escaped.unwrap_or(byte);
            name.length += 1;
            at += if escaped.is_some() { 3 } else { 1 };
        }
        (name, at)
    }

    /// What begins at `at`, behind white space, and where it ends; `None` at the end of everything.
    fn token(&self, at: usize) -> Result<Option<(Token, usize)>, Hidden> {
        let at = self.blank(at)?;
        let Some(first) = self.byte(at) else { return Ok(None) };
        let two = |token| (token, at + 2);
        let (token, end) = match first {
            b'<' if self.byte(at + 1) == Some(b'<') => two(Token::DictionaryBegins),
            b'>' if self.byte(at + 1) == Some(b'>') => two(Token::DictionaryEnds),
            b'[' => (Token::ArrayBegins, at + 1),
            b']' => (Token::ArrayEnds, at + 1),
            b'<' => {
                (Token::Text, self.bytes[at..].iter().position(|byte| *byte == b'>').map_or(usize::MAX, |l| at + l + 1))
            }
            b'(' => (Token::Text, self.text(at)),
            b'/' => {
                let length = self.bytes[at + 1..].iter().take_while(|byte| is_regular(**byte)).count();
                (Token::Name, at + 1 + length)
            }
            byte if !is_regular(byte) => (Token::Other, at + 1),
            _ => {
                let length = self.bytes[at..].iter().take_while(|byte| is_regular(**byte)).count();
                let word = std::str::from_utf8(&self.bytes[at..at + length.min(20)]).ok();
                let number = word.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
                (number.and_then(|number| number.parse().ok()).map_or(Token::Other, Token::Integer), at + length)
            }
        };
        let end = end.min(self.bytes.len());
        self.spend(end - at)?;
        Ok(Some((token, end)))
    }

    /// Where the string ends that begins at `at`.
    fn text(&self, at: usize) -> usize {
        let mut open = 0_usize;
        let mut escaped = false;
        for (length, byte) in self.bytes[at..].iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'(' => open += 1,
                b')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                return at + length + 1;
            }
        }
        usize::MAX
    }

    /// Where the value ends that begins at `at`. What closes nothing is passed over, as readers do.
    pub fn end(&self, at: usize) -> Result<usize, Hidden> {
        let mut open = Vec::new();
        let mut at = at;
        while let Some((token, end)) = self.token(at)? {
            at = end;
            match (token, open.last()) {
                (Token::DictionaryBegins | Token::ArrayBegins, _) if open.len() == DEEPEST => return Err(Hidden),
                (Token::DictionaryBegins, _) => open.push(Token::DictionaryEnds),
                (Token::ArrayBegins, _) => open.push(Token::ArrayEnds),
                (token, Some(last)) if token == *last => drop(open.pop()),
                _ => {}
            }
            if open.is_empty() {
                break;
            }
        }
        Ok(at)
    }

    /// What stands at `at`, behind white space.
    pub fn value(&self, at: usize) -> Result<Value, Hidden> {
        let at = self.blank(at)?;
        // Words like these are short; the token is only taken where its length is bounded or counted.
        Ok(match self.byte(at) {
            None => Value::Nothing,
            Some(b'<') if self.byte(at + 1) == Some(b'<') => Value::Dictionary(at),
            Some(b'<' | b'(') => Value::Text,
            Some(b'[') => Value::Array(at),
            Some(b'/') => Value::Name(at),
            Some(byte) if byte.is_ascii_digit() => match self.integer(at)? {
                None => Value::Other(at),
                Some((number, end)) => match self.integer(end)? {
                    Some((_, end)) if self.token(end)?.is_some_and(|(_, over)| self.is_reference(end, over)) => {
                        Value::Reference(number)
                    }
                    _ => Value::Integer(number),
                },
            },
            Some(_) => Value::Other(at),
        })
    }

    fn is_reference(&self, from: usize, to: usize) -> bool {
        self.bytes[from..to].ends_with(b"R") && to.checked_sub(2).is_none_or(|before| !is_regular(self.bytes[before]))
    }

    /// A whole number at `at`, behind white space, and where it ends.
    pub fn integer(&self, at: usize) -> Result<Option<(u64, usize)>, Hidden> {
        let at = self.blank(at)?;
        if !self.byte(at).is_some_and(|byte| byte.is_ascii_digit()) {
            return Ok(None);
        }
        Ok(match self.token(at)? {
            Some((Token::Integer(number), end)) => Some((number, end)),
            _ => None,
        })
    }

    /// Every name between two places, each with where it ends. It does not matter what it stands in: nobody can hide one in
    /// a string that somebody else reads as none.
    pub fn names(&self, from: usize, to: usize) -> impl Iterator<Item = (Name, usize)> + '_ {
        let to = to.min(self.bytes.len());
        let slashes = (from..to).filter(|at| self.bytes[*at] == b'/');
        slashes.map(|slash| self.name(slash))
    }
}

/// A name of no more than [`LONGEST_NAME`] bytes.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; LONGEST_NAME],
    length: usize,
}

impl Name {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Source: ISO 32000-1, 7.2.2, table 1.
pub fn is_white(byte: u8) -> bool {
    matches!(byte, b'\0' | b'\t' | b'\n' | 0x0c | b'\r' | b' ')
}

/// Source: ISO 32000-1, 7.2.2, "Character set".
fn is_regular(byte: u8) -> bool {
    !is_white(byte) && !matches!(byte, b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b'/' | b'%')
}

fn hex(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
