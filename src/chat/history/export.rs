//! All that is kept of one person, as one JSON document that is made piece by piece as it is read.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{Stream, stream};

use super::{Exchange, History, PersonId, Summary, Unavailable, now, shown};

/// How many conversations are looked up at once.
const PAGE: u32 = 500;

/// An export that is being made. It is cut off, and so no valid JSON, where the rest can't be read.
pub struct Export {
    history: Arc<History>,
    person: PersonId,
    conversations: VecDeque<Summary>,
    at: Step,
    /// No conversation was written yet.
    first: bool,
}

enum Step {
    Head,
    /// The next conversation.
    Conversation,
    /// The next exchanges of the one at hand, after this one.
    Exchanges(u64),
    End,
}

impl Export {
    /// Looks up what there is.
    ///
    /// # Errors
    /// When not all of it can be read at the moment.
    pub async fn new(history: &Arc<History>, person: PersonId) -> Result<Export, Unavailable> {
        if !history.complete() {
            return Err(Unavailable);
        }
        let mut conversations = VecDeque::new();
        let mut after = None;
        loop {
            let (page, more) = history.list(&person, after, PAGE).await?;
            after = page.last().map(Summary::cursor);
            conversations.extend(page);
            if !more || after.is_none() {
                break;
            }
        }
        Ok(Export { history: Arc::clone(history), person, conversations, at: Step::Head, first: true })
    }

    /// Whether nothing is kept of the person.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conversations.is_empty()
    }

    /// The document.
    pub fn pieces(self) -> impl Stream<Item = Result<String, Unavailable>> + Send {
        stream::unfold(self, async |mut export| {
            let piece = export.next().await?;
            Some((piece, export))
        })
    }

    async fn next(&mut self) -> Option<Result<String, Unavailable>> {
        let text = match self.at {
            Step::Head => {
                self.at = Step::Conversation;
                let (person, at) = (json(self.person.as_str()), json(&shown(now())));
                format!("{{\"person\":{person},\"exported\":{at},\"conversations\":[\n")
            }
            Step::Conversation => match self.conversations.front() {
                None => {
                    self.at = Step::End;
                    "\n]}\n".to_owned()
                }
                Some(Summary { id, title, updated, .. }) => {
                    let comma = if std::mem::replace(&mut self.first, false) { "" } else { ",\n" };
                    self.at = Step::Exchanges(0);
                    let (id, title, updated) = (json(&id.to_string()), json(title), json(&shown(*updated)));
                    format!("{comma}{{\"id\":{id},\"title\":{title},\"updated\":{updated},\"messages\":[")
                }
            },
            Step::Exchanges(after) => {
                let id = self.conversations.front()?.id;
                let exchanges = match self.history.exchanges(&self.person, id, after).await {
                    Ok(exchanges) => exchanges,
                    Err(error) => {
                        self.at = Step::End;
                        return Some(Err(error));
                    }
                };
                match exchanges.last() {
                    None => {
                        self.conversations.pop_front();
                        self.at = Step::Conversation;
                        "]}".to_owned()
                    }
                    Some(last) => {
                        self.at = Step::Exchanges(last.number);
                        let messages = exchanges.iter().flat_map(Exchange::messages);
                        let listed: Vec<String> =
                            messages.filter_map(|message| serde_json::to_string(&message).ok()).collect();
                        let comma = if after == 0 { "" } else { "," };
                        format!("{comma}\n{}", listed.join(",\n"))
                    }
                }
            }
            Step::End => return None,
        };
        Some(Ok(text))
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
