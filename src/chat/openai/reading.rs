//! One answer as it comes: whole, or event by event, with a time-out for each piece.

use std::time::Duration;

use hyper::body::Bytes;
use reqwest::{Response, header};
use tokio::time::{Instant, timeout, timeout_at};

use super::OpenAi;
use super::account::reason;
use super::events::Events;
use super::wire::{self, Finish, Piece, Unread};
use crate::chat::{Ask, Deltas, Ending, Failure, NAME, Particulars, Usage, Why};

/// For what an API sends behind the last of an answer: what it took, and that it is done. Some send neither and leave the
/// connection open.
const AFTERTHOUGHT: Duration = Duration::from_secs(1);
/// For what an API sends after its last event: nothing but the end of the stream.
const LAST_BYTES: Duration = Duration::from_millis(50);
/// The longest answer, in bytes; the longest that a model of today writes is a tenth of it.
const LONGEST_ANSWER: usize = 4 << 20;

/// An answer on its way.
pub struct Reading<'a> {
    openai: &'a OpenAi,
    deltas: Deltas,
    /// How much the model had to read, in bytes.
    read: usize,
    /// It was to be short: a model that thinks first may be at the end before it says a word.
    shortened: bool,
    /// What is not believed to be more than this.
    most_tokens: u64,
    text: String,
    /// The model wrote something, if not of the text. Events without a word in them keep a connection alive and are no answer.
    begun: bool,
    /// It did since the deadline was set.
    goes_on: bool,
    /// Why the model has no more to say, once it has not.
    finish: Option<Finish>,
    /// What the API says that it took so far.
    usage: Option<Usage>,
    /// When the next piece has to be there.
    deadline: Instant,
}

impl Reading<'_> {
    /// What comes of `ask`, of which the model had to `read` so many bytes, and whose first piece has to be there by
    /// `deadline`.
    pub fn new<'a>(openai: &'a OpenAi, ask: Ask<'_>, deltas: Deltas, read: usize, deadline: Instant) -> Reading<'a> {
        Reading {
            openai,
            deltas,
            read,
            shortened: ask.wishes.max_tokens.is_some(),
            most_tokens: openai.most_tokens(ask),
            text: String::new(),
            begun: false,
            goes_on: false,
            finish: None,
            usage: None,
            deadline,
        }
    }

    /// All of it, and how it ended.
    ///
    /// # Errors
    /// Why there is none, or no whole one.
    pub async fn answer(mut self, mut response: Response) -> Result<(String, Ending), Failure> {
        if is_stream(&response) {
            self.listen(&mut response).await?;
        } else {
            let mut whole = Vec::new();
            while let Some(bytes) = self.next(&mut response).await? {
                if whole.len() + bytes.len() > LONGEST_ANSWER {
                    return Err(self.nonsense("an answer without end"));
                }
                whole.extend_from_slice(&bytes);
            }
            // As it was asked for; or else the server passes over the wish for a stream.
            let piece = self.read(&whole)?;
            self.add(piece).await?;
            // It is there to its last byte, whether it says so or not.
            self.finish.get_or_insert(Finish::Said);
        }
        self.end()
    }

    /// Reads a stream to its end.
    async fn listen(&mut self, response: &mut Response) -> Result<(), Failure> {
        let mut events = Events::default();
        while let Some(bytes) = self.next(response).await? {
            let came = events.read(&bytes).map_err(|broken| self.nonsense(&broken.to_string()))?;
            if came.is_empty() {
                continue;
            }
            let finished = self.finish.is_some();
            for data in came {
                if self.take(&data).await? {
                    // Read to its end, the connection can be used again.
                    drop(timeout(LAST_BYTES, response.chunk()).await);
                    return Ok(());
                }
            }
            // Counted from here: how fast the person reads is not the API's fault.
            let goes_on = std::mem::take(&mut self.goes_on);
            self.deadline = match self.finish {
                None if goes_on => Instant::now() + self.openai.config.timeout.between_tokens,
                None => self.deadline,
                Some(_) if finished => self.deadline,
                Some(_) => Instant::now() + AFTERTHOUGHT,
            };
        }
        if let Some(data) = events.end().map_err(|broken| self.nonsense(&broken.to_string()))? {
            self.take(&data).await?;
        }
        if self.finish.is_none() {
            let host = &self.openai.account.host;
            return Err(Failure::new(Why::CutShort, format!("{host} ended the stream in the middle of an answer")));
        }
        Ok(())
    }

    /// The next bytes, or `None` at the end.
    async fn next(&self, response: &mut Response) -> Result<Option<Bytes>, Failure> {
        let host = &self.openai.account.host;
        match timeout_at(self.deadline, response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            // Nothing is missing: the connection was not ended as it should be, or not at all.
            Ok(Err(_)) | Err(_) if self.finish.is_some() => Ok(None),
            Ok(Err(error)) => {
                let cause = format!("{host} broke off in the middle of an answer: {}", reason(error));
                Err(Failure::new(Why::CutShort, cause))
            }
            Err(_) if self.begun => {
                let limit = self.openai.config.timeout.between_tokens.as_secs();
                let cause = format!("{host} paused its answer for {limit} s (chat.timeout.between_tokens)");
                Err(Failure::new(Why::TimedOut, cause))
            }
            Err(_) => Err(self.openai.no_first_token()),
        }
    }

    /// Takes one event, and says whether it was the last.
    async fn take(&mut self, data: &str) -> Result<bool, Failure> {
        if data.trim() == wire::DONE {
            self.finish.get_or_insert(Finish::Said);
            return Ok(true);
        }
        let piece = self.read(data.as_bytes())?;
        self.goes_on |= piece.aside || !piece.text.is_empty();
        self.begun |= self.goes_on;
        self.add(piece).await?;
        Ok(false)
    }

    fn read(&self, data: &[u8]) -> Result<Piece, Failure> {
        let account = &self.openai.account;
        wire::read(data).map_err(|unread| match unread {
            Unread::Error(error) => {
                let why = if !self.text.is_empty() {
                    Why::CutShort
                } else if error.is_about_length() {
                    // llama.cpp says it so with the status 200 (<https://github.com/oobabooga/textgen/issues/7257>).
                    Why::TooLong
                } else {
                    Why::Unavailable
                };
                let marks = account.marks(None, &error);
                Failure::new(why, format!("{} failed at the answer ({marks})", account.host))
            }
            Unread::Nonsense(what) => {
                // It may repeat what somebody wrote.
                let text = account.clean(&String::from_utf8_lossy(data));
                tracing::debug!(service = NAME, "{} sent: {text}", account.host);
                self.nonsense(&what)
            }
        })
    }

    async fn add(&mut self, piece: Piece) -> Result<(), Failure> {
        self.finish = piece.finish.or(self.finish);
        if let Some(usage) = piece.usage {
            self.charge(usage);
        }
        if piece.text.is_empty() {
            return Ok(());
        }
        if self.text.len() + piece.text.len() > LONGEST_ANSWER {
            return Err(self.nonsense("an answer without end"));
        }
        self.text.push_str(&piece.text);
        self.deltas.send(&piece.text).await;
        Ok(())
    }

    /// Puts down what the API says that it took so far, if that can be.
    fn charge(&mut self, usage: Usage) {
        let most = usage.total.max(usage.question).max(usage.answer);
        if most > self.most_tokens {
            if self.openai.remarks.unbelievable() {
                let host = &self.openai.account.host;
                tracing::warn!(
                    service = NAME,
                    "{host} says that an answer took {most} tokens, which can't be: such answers are charged by their length"
                );
            }
            return;
        }
        self.usage = Some(usage);
        if let Some(bill) = self.deltas.bill() {
            bill.tokens(usage.total);
        }
    }

    fn end(self) -> Result<(String, Ending), Failure> {
        let (host, model) = (&self.openai.account.host, &self.openai.config.model);
        let silent = self.text.trim().is_empty();
        let ending = match self.finish {
            Some(Finish::Long) => Ending::Long,
            Some(Finish::Withheld) => Ending::Withheld,
            _ => Ending::Said,
        };
        let usage = self.usage.unwrap_or_else(|| Usage::guess(self.read, self.text.len()));
        self.deltas.tell(Particulars { ending, usage });
        let (why, cause) = match self.finish {
            Some(Finish::Withheld) => (Why::Declined, format!("{host} held the answer back (content_filter)")),
            Some(Finish::Broke) if silent => (Why::Unavailable, format!("{host} gave the answer up")),
            Some(Finish::Broke) => (Why::CutShort, format!("{host} gave up in the middle of the answer")),
            Some(Finish::Long) if silent && self.shortened => return Ok((self.text, ending)),
            Some(Finish::Long) if silent => {
                let much = match self.openai.config.max_tokens {
                    Some(limit) => format!("{limit} tokens without a word of an answer; raise chat.max_tokens"),
                    None => {
                        "as much as it may without a word of an answer; raise its limit, or chat.max_tokens".to_owned()
                    }
                };
                (Why::Exhausted, format!("`{model}` wrote {much}"))
            }
            Some(Finish::Tool) if silent => {
                (Why::Declined, format!("`{model}` called a tool in place of an answer, and perch offers none"))
            }
            _ if silent => return Err(self.nonsense("an answer without a word in it")),
            _ => return Ok((self.text, ending)),
        };
        Err(Failure::new(why, cause))
    }

    fn nonsense(&self, what: &str) -> Failure {
        Failure::new(Why::Nonsense, format!("what {} sent is no answer: {what}", self.openai.account.host))
    }
}

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}
