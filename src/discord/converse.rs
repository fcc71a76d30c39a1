//! Answering one message by the chat's responder: the bot types while it thinks, and what is long comes in messages as they
//! are full.
//!
//! No answer can be made again word by word. So the ledger has its line before the first message of an answer leaves, and
//! how many there are, with a mark of all of it, before the last. A process that dies in between leaves a question without
//! an answer, which is asked anew; an answer that is whole in the history, which is gone on with where it stopped; or else
//! half an answer, and then the next process says that it was interrupted rather than begin another.
//!
//! What others asked is answered at the same time, so that every message of an answer is a reply to its question: by that
//! people know them apart, and the next process does.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::account::Account;
use super::answer::{Outcome, failed, mark, say};
use super::attached::Brought;
use super::channels::OPEN_QUESTIONS;
use super::event::Incoming;
use super::pieces::Pieces;
use super::rest::RestError;
use super::talk::Talk;
use super::{attached, mention};
use crate::chat::files::File;
use crate::chat::history::{Asked, Asking, Attachment, Question};
use crate::chat::{Aside, Ask, Deltas, Ending, Failure, Why};
use crate::limits::Bill;
use crate::service::Live;
use crate::store::{Attempt, Key, Ledger};

/// For one answer from the question to the end; the responder's own time-outs are shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(11);
/// Discord shows for ten seconds that somebody types.
///
/// Source: Channel Resource, "Trigger Typing Indicator".
const TYPING: Duration = Duration::from_secs(8);
/// How many pieces of an answer may wait to be put together.
const DELTAS: usize = 32;
/// More messages than this are no answer but a flood; what says so is at the end of the last.
const LONGEST: usize = 10;

/// Said to who says nothing but the bot's name.
const HINT: &str = "Say something after my name, and I will answer.";
const TOO_LONG: &str = "(There is more to it, but this is as much as I say at once.)";
const CUT_OFF: &str = "(I may not say more than this at once. Ask me to go on for the rest.)";
const INTERRUPTED: &str = "(I was interrupted here. Ask again to hear all of it.)";

/// What it takes to answer one message.
pub struct Conversing<'a> {
    pub message: &'a Incoming,
    pub live: &'a Live,
    pub account: &'a Account,
    pub ledger: &'a Ledger,
    pub talk: &'a Talk,
    /// Whoever asks has too many open questions for another one.
    pub excess: bool,
}

/// A message of an answer; the last one knows the whole.
struct Part {
    text: String,
    whole: Option<Whole>,
}

/// By which an answer is known to be all there.
#[derive(Clone, Copy)]
struct Whole {
    parts: usize,
    reply: u64,
}

impl Conversing<'_> {
    /// Answers a message of which nothing was answered yet.
    pub async fn answer(&self) -> Outcome {
        let text = mention::without(&self.message.content, self.account.user.id);
        if text.trim().is_empty() && self.message.attachments.is_empty() {
            return self.once(HINT).await;
        }
        if self.excess {
            let too_many =
                format!("You have asked {OPEN_QUESTIONS} questions that are not answered yet; ask more when they are.");
            return self.turn_away(self.talk.tells_of_too_many(self.message).then_some(too_many)).await;
        }
        let length = text.len() + attached::pasted(self.message);
        let bill = match self.talk.admit(self.message, length, self.live) {
            Ok(bill) => bill,
            Err(refusal) => {
                let tells = self.talk.tells(self.message, &refusal);
                return self.turn_away(tells.then(|| spoken(&refusal.to_string()))).await;
            }
        };
        let (parts, said) = mpsc::unbounded_channel();
        let think = async {
            // Whoever waits sees that somebody is at it, until there is no more to wait for.
            tokio::select! {
                biased;
                () = self.think(text.trim(), parts, bill) => {}
                () = self.keep_typing() => {}
            }
            Ok(())
        };
        match tokio::try_join!(think, self.speak(said, 0)) {
            Ok(_) => Outcome::Answered,
            Err(error) => self.failed(&error),
        }
    }

    /// Goes on with an answer of which an earlier process said so many messages.
    pub async fn go_on(&self, said: usize, attempt: Attempt) -> Outcome {
        let Some(answer) = self.remembered(attempt).await else { return self.interrupted(said).await };
        let mut pieces = Pieces::default();
        pieces.push(&answer);
        let (parts, rest) = mpsc::unbounded_channel();
        Telling::to(parts).end(pieces, None, &answer);
        match self.speak(rest, said).await {
            Ok(()) => Outcome::Answered,
            Err(error) => self.failed(&error),
        }
    }

    /// The whole answer that was being said, if the history has it.
    async fn remembered(&self, attempt: Attempt) -> Option<String> {
        let text = mention::without(&self.message.content, self.account.user.id);
        match self.ask(text.trim(), &[]).await {
            Some(Asked::Before { answer, .. }) if attempt.parts > 0 && mark(&answer) == attempt.reply => Some(answer),
            _ => None,
        }
    }

    async fn interrupted(&self, said: usize) -> Outcome {
        let (channel_id, message_id) = (self.message.channel_id.get(), self.message.id.get());
        tracing::warn!(
            service = super::NAME,
            channel_id,
            message_id,
            "the answer to message {message_id} was cut short when perch stopped, and can't be given again word by word"
        );
        // Whoever comes after a crash in here finds it said, or says it.
        self.begin(Some(Whole { parts: said + 1, reply: 0 })).await;
        match say(self.message, said, true, INTERRUPTED, self.account).await {
            Ok(()) => Outcome::Lost,
            Err(error) => self.failed(&error),
        }
    }

    /// Gives no answer, and says why, unless that was said.
    async fn turn_away(&self, why: Option<String>) -> Outcome {
        let Some(why) = why else { return Outcome::Limited };
        match self.once(&why).await {
            Outcome::Answered => Outcome::Limited,
            outcome => outcome,
        }
    }

    /// Says this and nothing else.
    async fn once(&self, text: &str) -> Outcome {
        self.begin(Some(Whole { parts: 1, reply: mark(text) })).await;
        match say(self.message, 0, true, text, self.account).await {
            Ok(()) => Outcome::Answered,
            Err(error) => self.failed(&error),
        }
    }

    /// Has the ledger know that something is about to be said.
    async fn begin(&self, whole: Option<Whole>) {
        let key = Key { bot: self.account.user.id.get(), message: self.message.id.get() };
        let parts = whole.map_or(0, |whole| u32::try_from(whole.parts).unwrap_or(u32::MAX));
        let reply = whole.map_or(0, |whole| whole.reply);
        self.ledger.begin(key, Attempt { channel: self.message.channel_id.get(), parts, reply }).await;
    }

    fn failed(&self, error: &RestError) -> Outcome {
        failed(self.message.channel_id, self.message.id, error)
    }

    async fn keep_typing(&self) {
        loop {
            if let Err(error) = self.account.rest.typing(self.message.channel_id).await {
                tracing::debug!(service = super::NAME, "perch can't show that it types: {error}");
            }
            sleep(TYPING).await;
        }
    }

    /// Says the parts as they come, but for the first ones that were `said` already.
    async fn speak(&self, mut parts: mpsc::UnboundedReceiver<Part>, said: usize) -> Result<(), RestError> {
        let mut number = 0;
        while let Some(Part { text, whole }) = parts.recv().await {
            if number >= said {
                if number == 0 || whole.is_some() {
                    self.begin(whole).await;
                }
                say(self.message, number, true, &text, self.account).await?;
            }
            number += 1;
        }
        Ok(())
    }

    /// Has the responder answer, and passes the answer on in parts.
    async fn think(&self, text: &str, parts: mpsc::UnboundedSender<Part>, bill: Arc<Bill>) {
        let mut telling = Telling::to(parts);
        let readable = self.live.config.chat.attachments();
        let Brought { files, pasted, unfit } =
            attached::fetch(self.message, readable, &self.account.rest, self.talk).await;
        let pasted = mention::without(&pasted, self.account.user.id);
        let said: Vec<&str> = [text, pasted.trim()].into_iter().filter(|said| !said.is_empty()).collect();
        let text = &said.join("\n\n");
        let unfit: Vec<String> = unfit.iter().map(|unfit| spoken(&unfit.to_string())).collect();
        if text.is_empty() && files.is_empty() {
            return telling.only(&unfit.join("\n"));
        }
        telling.left_out = unfit.iter().map(|unfit| format!("({unfit})")).collect();
        let asking = match self.ask(text, &files).await {
            Some(Asked::Now(asking)) => asking,
            // It was answered, and nothing of it was said.
            Some(Asked::Before { answer, ending, .. }) => {
                let mut pieces = Pieces::default();
                pieces.push(&answer);
                return telling.end(pieces, note(ending), &answer);
            }
            None => return telling.only(&spoken(&Why::Broken.sentence())),
        };
        let ask = Ask { message: text, earlier: asking.earlier(), files: &files, ..Ask::default() };
        self.listen(ask, &asking, telling, &bill).await;
    }

    /// Puts the question into the conversation.
    async fn ask(&self, text: &str, files: &[File]) -> Option<Asked> {
        let (asker, which) = self.talk.conversation(self.message, self.account).await;
        let question = Question {
            text: text.into(),
            attachments: files.iter().map(Attachment::from).collect(),
            key: Some(self.message.id.to_string().into()),
        };
        let turns = self.live.config.chat.history();
        self.talk.history.ask(&asker, which, question, turns).await.ok()
    }

    async fn listen(&self, ask: Ask<'_>, asking: &Asking, mut telling: Telling, bill: &Arc<Bill>) {
        let (sender, mut deltas) = mpsc::channel(DELTAS);
        let aside = Aside::default();
        let sink = Deltas::to(sender).on(bill).telling(&aside);
        let mut answer = pin!(timeout(ANSWER_TIMEOUT, self.live.responder.answer(ask, sink)));
        let mut heard = Heard::default();
        let ended = loop {
            tokio::select! {
                biased;
                Some(delta) = deltas.recv() => heard.take(&delta, &mut telling),
                answer = answer.as_mut() => break Some(answer),
                // Its conversation was deleted: what was said of it stays, and no more comes.
                () = asking.given_up() => break None,
            }
            if telling.count + 1 == LONGEST && heard.pieces.more_than_one() {
                asking.done(&heard.text);
                return telling.end(heard.pieces, None, &heard.text);
            }
        };
        while let Ok(delta) = deltas.try_recv() {
            heard.take(&delta, &mut telling);
        }
        let late = || Failure::new(Why::TimedOut, format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()));
        let Heard { mut text, mut pieces } = heard;
        match ended.map(|ended| ended.unwrap_or_else(|_| Err(late()))) {
            Some(Ok(answer)) => {
                if text.is_empty() {
                    // It came in no pieces.
                    pieces.push(&answer);
                    text = answer;
                }
                let ending = aside.get().ending;
                asking.ended(&text, ending);
                telling.end(pieces, note(ending), &text);
            }
            Some(Err(failure)) => {
                self.complain(&failure);
                asking.say(&text);
                asking.failed();
                let sentence = spoken(&failure.why.sentence());
                let note = if text.is_empty() { sentence } else { format!("({sentence})") };
                telling.end(pieces, Some(&note), &text);
            }
            None => telling.end(pieces, Some("(This conversation was deleted.)"), &text),
        }
    }

    fn complain(&self, failure: &Failure) {
        let message_id = self.message.id.get();
        tracing::warn!(
            service = super::NAME,
            config_version = %self.live.version,
            message_id,
            "the responder did not answer message {message_id}: {failure}"
        );
    }
}

/// An answer as far as it came.
#[derive(Default)]
struct Heard {
    text: String,
    pieces: Pieces,
}

impl Heard {
    fn take(&mut self, delta: &str, telling: &mut Telling) {
        self.text.push_str(delta);
        self.pieces.push(delta);
        // The last waits for what is behind it.
        while telling.count + 1 < LONGEST
            && let Some(piece) = self.pieces.full()
        {
            telling.part(piece, None);
        }
    }
}

/// Hands the parts of an answer to whoever says them.
struct Telling {
    parts: mpsc::UnboundedSender<Part>,
    count: usize,
    /// What of the question nobody reads, and why: it is told at the end.
    left_out: Vec<String>,
}

impl Telling {
    fn to(parts: mpsc::UnboundedSender<Part>) -> Telling {
        Telling { parts, count: 0, left_out: Vec::new() }
    }

    fn part(&mut self, text: String, whole: Option<Whole>) {
        self.count += 1;
        // Whoever says them is gone when Discord takes no more.
        drop(self.parts.send(Part { text, whole }));
    }

    /// The last parts of `answer`, and behind them a note.
    fn end(mut self, pieces: Pieces, note: Option<&str>, answer: &str) {
        let with = |note: Option<&str>| {
            let lines: Vec<&str> = note.into_iter().chain(self.left_out.iter().map(String::as_str)).collect();
            lines.join("\n")
        };
        let nonsense = spoken(&Why::Nonsense.sentence());
        let nothing = self.count == 0 && pieces.clone().end(None).is_empty();
        let note = with(note.or_else(|| nothing.then_some(&nonsense)));
        let mut rest = pieces.clone().end((!note.is_empty()).then_some(&note));
        let room = LONGEST - self.count;
        if rest.len() > room {
            rest = pieces.end_within(room, &with(Some(TOO_LONG)));
        }
        let whole = Whole { parts: self.count + rest.len(), reply: mark(answer) };
        let last = rest.pop();
        for text in rest {
            self.part(text, None);
        }
        if let Some(text) = last {
            self.part(text, Some(whole));
        }
    }

    /// This and nothing else.
    fn only(self, text: &str) {
        self.end(Pieces::default(), Some(text), text);
    }
}

/// What is said behind an answer that ended so.
fn note(ending: Ending) -> Option<&'static str> {
    (ending == Ending::Long).then_some(CUT_OFF)
}

/// A sentence that stands alone.
fn spoken(sentence: &str) -> String {
    let mut characters = sentence.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(characters).chain(['.']).collect()
}
