//! What a channel's history shows of the messages that were answered.

use serde::Deserialize;
use serde_json::Value;

use super::event::{MessageId, UserId};

/// "max number of messages to return (1-100)". Source: Message Resource, "Get Channel Messages".
pub const PAGE: usize = 100;

/// A message of a channel's history.
#[derive(Deserialize)]
pub struct Past {
    pub id: MessageId,
    pub author: Author,
    message_reference: Option<Reference>,
    #[serde(default)]
    nonce: Value,
}

#[derive(Deserialize)]
pub struct Author {
    pub id: UserId,
}

#[derive(Deserialize)]
struct Reference {
    message_id: Option<MessageId>,
}

impl Past {
    /// The message it is a reply to.
    pub fn replies_to(&self) -> Option<MessageId> {
        self.message_reference.as_ref()?.message_id
    }

    /// The message that its nonce says it is part of an answer to.
    pub fn is_part_for(&self) -> Option<MessageId> {
        let (id, _) = self.nonce.as_str()?.split_once('-')?;
        id.parse::<u64>().ok().filter(|id| *id > 0).map(MessageId::new)
    }
}

/// The messages of a page, the oldest first; Discord lists the newest first. One that can't be read is left out.
pub fn sorted(values: Vec<Value>) -> Vec<(Past, Value)> {
    let read = |value| Past::deserialize(&value).ok().map(|past| (past, value));
    let mut page: Vec<_> = values.into_iter().filter_map(read).collect();
    page.sort_by_key(|(past, _)| past.id);
    page
}
