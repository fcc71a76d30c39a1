//! Questions that are being answered over a WebSocket.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Visitor;
use super::frame::Reference;
use crate::chat::history::{Asked, Asker, ConversationId, Question};
use crate::chat::{Deltas, Ending, Failure, Why};
use crate::http::chat::{Exchange, unasked, which};
use crate::http::problem::Problem;
use crate::http::router::App;
use crate::limits::{Bill, Refusal, Who};
use crate::service::Live;
use crate::telemetry::panics;

/// How many pieces may wait for a client that reads slowly, before the model has to.
const PIECES: usize = 32;

/// A question whose answer is on its way. Dropping it ends the request to the model.
pub struct Ask {
    pub reference: Option<Reference>,
    /// Where it belongs, once that is known.
    pub conversation: Option<ConversationId>,
    told: mpsc::Receiver<Told>,
    _work: AbortOnDropHandle<()>,
}

/// What is told of an answer next.
pub enum Told {
    /// It belongs to this conversation.
    Begun(ConversationId),
    Delta(String),
    Done(Ending),
    Failed(Problem),
}

impl Ask {
    /// Has `text` answered, in a conversation of the visitor's or a new one.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn begin(
        app: App,
        visitor: Visitor,
        text: String,
        conversation: Option<String>,
        reference: Option<Reference>,
    ) -> Result<Ask, Refusal> {
        let live = Arc::clone(&app.live.borrow());
        let (address, person) = (Some(visitor.address), &visitor.asker.person);
        app.limits.admit(&live.config.limits, Who { address, person })?;
        let bill = Bill::open(&app.limits, &live.config, address, person.clone(), text.len())?;
        let (sender, told) = mpsc::channel(PIECES);
        let work = async move {
            let asker = &visitor.asker;
            let end = match answer(&app, live, asker, bill, text.into(), conversation.as_deref(), &sender).await {
                Ok(ending) => Told::Done(ending),
                Err(problem) => Told::Failed(problem),
            };
            // Nobody listens any more where the socket is gone.
            drop(sender.send(end).await);
        };
        let work = AbortOnDropHandle::new(tokio::spawn(panics::SERVICE.scope(crate::http::NAME, work)));
        Ok(Ask { reference, conversation: None, told, _work: work })
    }

    /// What comes next; after [`Told::Done`] or [`Told::Failed`] nothing does.
    pub fn poll_told(&mut self, context: &mut Context<'_>) -> Poll<Told> {
        // The panic itself is already in the log, with its place.
        let panicked = || Told::Failed(Failure::new(Why::Broken, "the responder panicked").into());
        self.told.poll_recv(context).map(|told| told.unwrap_or_else(panicked))
    }
}

async fn answer(
    app: &App,
    live: Arc<Live>,
    asker: &Asker,
    bill: Arc<Bill>,
    text: Arc<str>,
    conversation: Option<&str>,
    told: &mpsc::Sender<Told>,
) -> Result<Ending, Problem> {
    let question = Question { text: Arc::clone(&text), attachments: [].into(), key: None };
    let found = app.history.ask(asker, which(conversation)?, question, live.config.chat.history()).await;
    let asking = match found.map_err(unasked)? {
        Asked::Now(asking) => asking,
        Asked::Before { conversation, answer, ending, .. } => {
            drop(told.send(Told::Begun(conversation)).await);
            drop(told.send(Told::Delta(answer)).await);
            return Ok(ending);
        }
    };
    drop(told.send(Told::Begun(asking.conversation())).await);
    let exchange = Exchange { app: Arc::clone(app), live, asking, message: text, files: Vec::new(), bill };
    let (sender, mut pieces) = mpsc::channel::<String>(1);
    let mut silent = true;
    let pass_on = async {
        while let Some(piece) = pieces.recv().await {
            silent = false;
            exchange.asking.say(&piece);
            drop(told.send(Told::Delta(piece)).await);
        }
    };
    let (answer, ()) = tokio::join!(exchange.answer(Deltas::to(sender)), pass_on);
    match answer {
        Ok(answer) => {
            if silent {
                // It came in no pieces.
                drop(told.send(Told::Delta(answer.text)).await);
            }
            Ok(answer.ending)
        }
        Err(problem) => {
            exchange.asking.failed();
            Err(problem)
        }
    }
}
