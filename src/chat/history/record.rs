//! What is kept of a conversation.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Question;
use crate::chat::files::{File, Size};
use crate::chat::{Ending, PersonId};
use crate::hexadecimal;
use crate::telemetry::lines::rfc3339;

/// The longest title, in characters.
const TITLE: usize = 80;
/// A word of so many characters is cut where it has no room.
const LONG_WORD: usize = 20;

/// Names a conversation: 128 random bits. Whoever does not know it does not guess it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId(pub u128);

impl ConversationId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        ConversationId(crate::random::bits())
    }

    /// One of those that belong to the same `place`.
    #[must_use]
    pub fn beside(place: u64, own: u64) -> Self {
        ConversationId(u128::from(place) << 64 | u128::from(own))
    }

    /// All that belong to the same place.
    #[must_use]
    pub fn place(self) -> RangeInclusive<ConversationId> {
        let own = u128::from(u64::MAX);
        ConversationId(self.0 & !own)..=ConversationId(self.0 | own)
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(hexadecimal::write(&self.0.to_be_bytes(), &mut [0; 32]))
    }
}

impl Serialize for ConversationId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What was given is no id of a conversation.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnId;

impl FromStr for ConversationId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let plain = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !plain {
            return Err(NotAnId);
        }
        u128::from_str_radix(text, 16).map(ConversationId).map_err(|_| NotAnId)
    }
}

/// A question and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Milliseconds since 1970 at which it was asked, or one more than the number of the one before it: within a
    /// conversation no two are the same, and they grow, whatever was forgotten meanwhile.
    pub number: u64,
    /// By which whoever asked knows it again.
    pub key: Option<Arc<str>>,
    pub question: Arc<str>,
    pub attachments: Arc<[Attachment]>,
    /// What was said so far.
    pub answer: String,
    /// Milliseconds since 1970 at which the answer ended; when it was asked, until then.
    pub answered: u64,
    pub state: State,
}

/// How an answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Answering,
    Done,
    /// It is done, as it may not be longer: there would be more to say.
    Long,
    /// It was given up: by the person, or by perch's end.
    Stopped,
    Failed,
}

impl State {
    /// How an answer stands that ended so.
    #[must_use]
    pub fn of(ending: Ending) -> State {
        match ending {
            Ending::Long => State::Long,
            Ending::Said | Ending::Withheld => State::Done,
        }
    }

    /// Why it ended, of an answer that was given.
    #[must_use]
    pub fn ending(self) -> Option<Ending> {
        match self {
            State::Done => Some(Ending::Said),
            State::Long => Some(Ending::Long),
            State::Answering | State::Stopped | State::Failed => None,
        }
    }
}

/// What came with a question; its content is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attachment {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// In bytes.
    pub size: u64,
}

impl From<&File> for Attachment {
    fn from(file: &File) -> Attachment {
        Attachment { name: file.name.clone(), kind: file.kind.media_type().to_owned(), size: file.size as u64 }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.kind, Size(self.size))
    }
}

/// A question or an answer, as people and other programs read it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Message<'a> {
    /// Grows within a conversation.
    pub id: u64,
    pub from: &'static str,
    pub text: &'a str,
    pub at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// `length`: the answer may not be longer, and there would be more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<Attachment>)]
    pub attachments: &'a [Attachment],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
}

impl Exchange {
    /// The id of the answer.
    #[must_use]
    pub fn answer_id(number: u64) -> u64 {
        2 * number + 1
    }

    /// Whether this is what was asked.
    pub(super) fn asks(&self, question: &Question) -> bool {
        self.question == question.text && self.attachments == question.attachments
    }

    /// The question and the answer.
    #[must_use]
    pub fn messages(&self) -> [Message<'_>; 2] {
        let state = match self.state {
            State::Done | State::Long => None,
            State::Answering => Some("answering"),
            State::Stopped => Some("stopped"),
            State::Failed => Some("failed"),
        };
        [
            Message {
                id: 2 * self.number,
                from: "you",
                text: &self.question,
                at: shown(self.number),
                state: None,
                finish: None,
                attachments: &self.attachments,
                key: self.key.as_deref(),
            },
            Message {
                id: Exchange::answer_id(self.number),
                from: "perch",
                text: &self.answer,
                at: shown(self.answered),
                state,
                finish: self.state.ending().and_then(Ending::finish),
                attachments: &[],
                key: None,
            },
        ]
    }

    /// How much text is in it, in bytes.
    #[must_use]
    pub fn text(&self) -> usize {
        let attached: usize = self.attachments.iter().map(|attachment| attachment.name.len() + 64).sum();
        self.question.len() + self.answer.len() + attached
    }
}

/// A conversation with its newest exchanges, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub title: String,
    /// The oldest first.
    pub exchanges: Vec<Exchange>,
    /// How many older ones there are.
    pub omitted: u64,
}

/// A conversation in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub id: ConversationId,
    pub title: String,
    /// Milliseconds since 1970.
    pub updated: u64,
    pub messages: u64,
}

impl Summary {
    /// Where it is in a list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { updated: self.updated, id: self.id }
    }
}

/// A place in a list of conversations, the latest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub updated: u64,
    pub id: ConversationId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.updated, self.id)
    }
}

impl FromStr for Cursor {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let (updated, id) = text.split_once('-').ok_or(NotAnId)?;
        Ok(Cursor { updated: updated.parse().map_err(|_| NotAnId)?, id: id.parse()? })
    }
}

/// Somebody of whom something is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub person: PersonId,
    pub conversations: u64,
    /// Milliseconds since 1970 at which they, or an answer to them, last said something.
    pub updated: u64,
}

/// The beginning of a conversation's first message, on one line; the names of its files where it has no words.
#[must_use]
pub fn title(question: &str, attachments: &[Attachment]) -> String {
    if question.trim().is_empty() && !attachments.is_empty() {
        let names: Vec<&str> = attachments.iter().map(|attachment| &*attachment.name).collect();
        return title(&names.join(", "), &[]);
    }
    let mut title = String::new();
    let mut length = 0;
    for word in question.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let gap = usize::from(length > 0);
        let characters = word.chars().count();
        if length + gap + characters <= TITLE {
            title.extend(std::iter::repeat_n(' ', gap));
            title.push_str(word);
            length += gap + characters;
            continue;
        }
        // A word that has no room is left out, unless it is a long one: some languages have no gaps.
        let room = (TITLE - 1).saturating_sub(length + gap);
        if characters > LONG_WORD && room > 0 {
            title.extend(std::iter::repeat_n(' ', gap).chain(word.chars().take(room)));
        } else if length == TITLE {
            title.pop();
        }
        title.push('…');
        break;
    }
    title
}

/// Milliseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 as RFC 3339 writes them.
#[must_use]
pub fn shown(milliseconds: u64) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_small_hexadecimal_digits() {
        let id = ConversationId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ConversationId(10).to_string(), format!("{}a", "0".repeat(31)));
        for text in ["", "a", &"A".repeat(32), &"g".repeat(32), &"0".repeat(33), &format!("+{}", "0".repeat(31)), "ünï"]
        {
            assert_eq!(text.parse::<ConversationId>(), Err(NotAnId), "{text}");
        }
    }

    #[test]
    fn a_title_is_a_short_line() {
        let title = |question: &str| title(question, &[]);
        assert_eq!(title(" what\n\tis\u{0}this? "), "what is this?");
        assert_eq!(title(&"x".repeat(80)), "x".repeat(80));
        assert_eq!(title(&"é".repeat(81)), format!("{}…", "é".repeat(79)));
        for length in [77, 78, 79, 80] {
            let title = title(&format!("{} and more words than fit", "x".repeat(length)));
            assert!(title.chars().count() <= 80 && title.ends_with('…'), "{title}");
        }
        assert_eq!(title(&format!("so {}", "字".repeat(200))), format!("so {}…", "字".repeat(76)));
        assert_eq!(title(""), "");
    }

    #[test]
    fn a_message_of_files_alone_has_their_names_for_a_title() {
        let file = |name: &str| Attachment { name: name.to_owned(), kind: "image/png".to_owned(), size: 7 };
        assert_eq!(title(" \n", &[file("two birds.png"), file("b.pdf")]), "two birds.png, b.pdf");
        assert_eq!(title("look", &[file("a.png")]), "look");
        let long = title("", &[file(&"字".repeat(100)), file("b.pdf")]);
        assert_eq!(long, format!("{}…", "字".repeat(79)));
    }

    #[test]
    fn a_place_in_a_list_is_known_again() {
        let cursor = Cursor { updated: 17, id: ConversationId(3) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert_eq!("17".parse::<Cursor>(), Err(NotAnId));
    }
}
