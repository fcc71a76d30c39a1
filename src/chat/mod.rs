//! What perch answers: one responder at a time, [`mod@echo`] or [`openai`], behind one trait.
//!
//! A responder that needs something of the outside is the part of a service of its own ([`service`]), which tries it
//! before it is used and tells how it fares ([`standing`]). What keeps it from answering is a [`Failure`]: a sentence
//! for the person and a cause for the journal.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::config::chat::{Backend, Chat, Temperature};
use crate::limits::{self, Bill};
use crate::service::{Live, Readiness};

mod answers;
mod echo;
mod failure;
pub mod files;
pub mod history;
mod openai;
mod person;
mod service;
mod standing;

pub use answers::Answers;
pub use failure::{Failure, LONGEST_WAIT, Why, whole_seconds};
pub use person::PersonId;
pub use service::Responding;

/// This service's name.
pub const NAME: &str = "chat";

/// Turns what a person wrote into what perch says.
#[async_trait]
pub trait Responder: Send + Sync {
    /// Answers `ask`, and returns the whole answer. Pieces of it go to `deltas` as they come; a responder that has all
    /// of it at once sends none. Whoever drops the future ends the work behind it.
    ///
    /// # Errors
    /// What kept it from answering, or from answering to the end.
    async fn answer(&self, ask: Ask<'_>, deltas: Deltas) -> Result<String, Failure>;

    /// The whole answer to a message that stands alone.
    ///
    /// # Errors
    /// As [`Responder::answer`].
    async fn reply(&self, message: &str) -> Result<String, Failure> {
        self.answer(Ask { message, ..Ask::default() }, Deltas::unwanted()).await
    }
}

/// A message to be answered, with what was said before it in its conversation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    pub message: &'a str,
    /// The oldest first.
    pub earlier: &'a [Turn],
    /// What came with the message, of kinds that the configuration says the responder reads. It may let their content go.
    pub files: &'a [files::File],
    pub wishes: Wishes,
}

/// How somebody wants to be answered; what the configuration says is the most that they get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The longest answer, in the model's tokens.
    pub max_tokens: Option<u32>,
    pub temperature: Option<Temperature>,
}

/// One thing said in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub by: Speaker,
    pub text: String,
}

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    Person,
    Perch,
    /// The program that a person uses: what it wants the model to do, behind what the configuration says.
    Program,
}

/// What is known of an answer beside its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Particulars {
    pub ending: Ending,
    pub usage: Usage,
}

/// Where they are told by who answers, for who asked.
#[derive(Clone, Debug, Default)]
pub struct Aside(Arc<Mutex<Particulars>>);

impl Aside {
    /// What was told so far.
    #[must_use]
    pub fn get(&self) -> Particulars {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// There was no more to say.
    #[default]
    Said,
    /// It was as long as it may be.
    Long,
    /// The rest is nothing that the API lets out.
    Withheld,
}

impl Ending {
    /// The word for it that clients are told, where the answer is not all that there would be to say.
    #[must_use]
    pub fn finish(self) -> Option<&'static str> {
        match self {
            Ending::Long => Some("length"),
            Ending::Said | Ending::Withheld => None,
        }
    }
}

/// What an answer took, in the model's tokens: nothing, where there is no model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub question: u64,
    pub answer: u64,
    /// The API's own sum.
    pub total: u64,
}

impl Usage {
    /// For so many bytes of text, where the API says nothing of it: as [`Bill`] counts them.
    #[must_use]
    pub fn guess(question: usize, answer: usize) -> Usage {
        let [question, answer] = [question, answer].map(|bytes| limits::tokens_of(bytes as u64));
        Usage { question, answer, total: question + answer }
    }
}

/// Where the pieces of an answer go, what they cost, and what else is told of it.
#[derive(Clone)]
pub struct Deltas {
    sender: Option<mpsc::Sender<String>>,
    bill: Option<Arc<Bill>>,
    aside: Option<Aside>,
}

impl Deltas {
    /// To `sender`, as fast as it takes them.
    #[must_use]
    pub fn to(sender: mpsc::Sender<String>) -> Self {
        Deltas { sender: Some(sender), bill: None, aside: None }
    }

    /// Nowhere: the whole answer is enough.
    #[must_use]
    pub fn unwanted() -> Self {
        Deltas { sender: None, bill: None, aside: None }
    }

    /// With what the answer costs put down on `bill`.
    #[must_use]
    pub fn on(self, bill: &Arc<Bill>) -> Self {
        Deltas { bill: Some(Arc::clone(bill)), ..self }
    }

    /// With what else is known of the answer told `aside`, by the time that the answer is there; of one that
    /// the API held back in the middle, by the time that it failed.
    #[must_use]
    pub fn telling(self, aside: &Aside) -> Self {
        Deltas { aside: Some(aside.clone()), ..self }
    }

    /// Writes it there, if anybody wants to know.
    pub fn tell(&self, known: Particulars) {
        if let Some(Aside(particulars)) = &self.aside {
            *particulars.lock().unwrap_or_else(PoisonError::into_inner) = known;
        }
    }

    /// Where the cost is put down, if anywhere. What passes through [`Deltas::send`] is put down by itself.
    #[must_use]
    pub fn bill(&self) -> Option<&Bill> {
        self.bill.as_deref()
    }

    /// Whether anybody wants pieces.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.sender.is_some()
    }

    /// Passes a piece on, and waits until there is room for it.
    pub async fn send(&self, piece: &str) {
        if let Some(bill) = &self.bill {
            bill.text(piece.len());
        }
        if let Some(sender) = &self.sender {
            // Nobody reads any more: the answer is about to be dropped, and its work with it.
            drop(sender.send(piece.to_owned()).await);
        }
    }
}

/// The responder that the configuration asks for, out of what the chat service prepared.
#[must_use]
pub fn responder(chat: &Chat, part: Option<&Readiness>) -> Arc<dyn Responder> {
    match (&chat.backend, part) {
        (Backend::Echo, _) => Arc::new(echo::Echo),
        (Backend::OpenAi(_), Some(Readiness::Ready(part))) => match Arc::clone(part).downcast::<openai::OpenAi>() {
            Ok(openai) => openai,
            Err(_) => Arc::new(NotReady("the chat service prepared something else".to_owned())),
        },
        (Backend::OpenAi(_), Some(Readiness::Held { reason, .. })) => Arc::new(NotReady(reason.clone())),
        (Backend::OpenAi(_), None) => Arc::new(NotReady("the chat service does not run".to_owned())),
    }
}

/// What says back what it is told, whichever backend is chosen: the configured responder where that does it.
#[must_use]
pub fn echo(live: &Live) -> Arc<dyn Responder> {
    match live.config.chat.backend {
        Backend::Echo => Arc::clone(&live.responder),
        Backend::OpenAi(_) => Arc::new(echo::Echo),
    }
}

/// Stands in for a backend that lacks something. The reason is for the journal.
struct NotReady(String);

#[async_trait]
impl Responder for NotReady {
    async fn answer(&self, _: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Err(Failure::new(Why::NotReady, format!("the chat service is not ready: {}", self.0)))
    }
}
