//! Answers by any API that speaks OpenAI's chat completions.
//!
//! An [`account`] is the API and the key; [`wire`] and [`events`] are what is said to it and what comes back, whole or as a
//! stream, as whoever waits for it wants it; [`reading`] is one answer coming. Files leave as an [`outgoing`] body.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::files::File;
use super::standing::{Standing, Tally};
use super::{Answers, Ask, Deltas, Ending, Failure, LONGEST_WAIT, NAME, Responder, Why, Wishes};
use crate::config;
use crate::config::secret::SecretRef;
use crate::service::{Blame, Cause, Problem};

mod account;
mod events;
mod outgoing;
mod reading;
mod remarks;
mod wire;

use account::{Account, Trial, is_left, reason, retry_after};
use outgoing::Outgoing;
use reading::Reading;
use remarks::Remarks;
use wire::ApiError;

/// So often one message is put to the API, as long as nothing has come of it.
const TRIES: u32 = 3;
/// Before the second try; it doubles, and is spread by up to a half.
const PAUSE: Duration = Duration::from_millis(250);
/// Somebody who is asked to wait longer than this is told so, rather than kept waiting.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For one answer from its first try to its end, however it trickles.
const ANSWER_LIMIT: Duration = Duration::from_mins(10);
/// What a model writes at most where nothing limits it, in tokens and with all that it thinks: twice what the largest of
/// today may (OpenAI's model pages have 128,000).
const MOST_WRITTEN: u64 = 256 << 10;
/// What a server reads beside what it was sent, in tokens: instructions of its own, what it finds on the Web.
const MOST_ADDED: u64 = 64 << 10;
/// A file counts as much, beside its bytes: `gpt-4o-mini` takes 48,169 tokens for a large picture (OpenAI, "Images and
/// vision", 2,833 and 5,667 for each tile).
const MOST_A_FILE: u64 = 64 << 10;

/// The responder: one account, and how to ask.
pub struct OpenAi {
    account: Arc<Account>,
    config: config::chat::OpenAi,
    tally: Arc<Tally>,
    remarks: Arc<Remarks>,
    answers: Arc<Answers>,
}

impl OpenAi {
    /// A responder whose key was tried. An account that runs is proven: it is tried again only when somebody `asked`,
    /// and then an API in trouble does not count against it.
    ///
    /// # Errors
    /// Why it can't be used.
    pub async fn prepare(
        config: &config::chat::OpenAi,
        key: Option<&SecretString>,
        running: Option<Arc<OpenAi>>,
        asked: bool,
        answers: &Arc<Answers>,
    ) -> Result<Arc<OpenAi>, Problem> {
        let place = config.api_key.as_ref().map_or(&config.place, |key| &key.place);
        let problem = |cause, text: String| Problem { place: place.clone(), text, cause };
        if config.api_key.is_some() && key.is_none() {
            return Err(problem(Cause::Missing, "the key was not found".to_owned()));
        }
        if let Some(flaw) = key.and_then(|key| flaw(key.expose_secret())) {
            return Err(problem(
                Cause::Refused,
                format!("{} holds no API key: {flaw}", places(config.api_key.as_ref())),
            ));
        }
        let proven = running.filter(|running| running.account.has(&config.base_url, key));
        let account = match &proven {
            Some(proven) if proven.account.connects_within(config.timeout.connect) => Arc::clone(&proven.account),
            _ => Arc::new(
                Account::new(&config.base_url, key, config.timeout.connect)
                    .map_err(|error| problem(Cause::Broken, format!("{error:#}")))?,
            ),
        };
        if proven.is_none() || asked {
            match (account.try_key().await, &proven) {
                (Trial::Good, _) | (Trial::Unavailable(_), Some(_)) => {}
                (Trial::Refused(why), _) => return Err(problem(Cause::Refused, why + &stored(config))),
                (Trial::Unavailable(why), None) => {
                    return Err(problem(Cause::Unavailable, format!("can't try the key: {why}")));
                }
            }
        }
        let (tally, remarks) = match proven {
            Some(proven) if proven.config.model == config.model => {
                (Arc::clone(&proven.tally), Arc::clone(&proven.remarks))
            }
            _ => Default::default(),
        };
        Ok(Arc::new(OpenAi { account, config: config.clone(), tally, remarks, answers: Arc::clone(answers) }))
    }

    /// How it fares, now and from now on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.tally.watch()
    }

    pub fn base_url(&self) -> &str {
        &self.account.base_url
    }

    pub fn model(&self) -> &str {
        &self.config.model
    }

    /// Puts the question, again where that can help, until an answer begins to come. A connection that ends before it is
    /// one of these cases, although the model may have begun to write: it keeps nothing, and nothing of it was passed on, so
    /// that to ask twice costs tokens at worst.
    async fn put(&self, body: &Outgoing, ask: Ask<'_>, deadline: Instant) -> Result<Response, Failure> {
        let mut pause = PAUSE;
        for tried in 1.. {
            let (failure, wait) = match timeout_at(deadline, self.account.completion(body).send()).await {
                Ok(Ok(response)) if response.status().is_success() => return Ok(response),
                Ok(Ok(response)) => self.judge(response, ask).await,
                Ok(Err(error)) => {
                    let (unreachable, left) = (error.is_connect(), is_left(&error));
                    let what = if left && !unreachable { "gave no answer" } else { "can't be reached" };
                    let cause = format!("{} {what}: {}", self.account.host, reason(error));
                    (Failure::new(Why::Unavailable, cause), (unreachable || left).then_some(None))
                }
                Err(_) => return Err(self.no_first_token()),
            };
            let Some(asked) = wait.filter(|_| tried < TRIES) else { return Err(failure) };
            // Hosts that failed together shall not come back together.
            let wait = asked.unwrap_or_else(|| pause.mul_f32(0.5 + fastrand::f32()));
            if wait > LONGEST_PAUSE || Instant::now() + wait >= deadline {
                return Err(failure);
            }
            sleep(wait).await;
            pause *= 2;
        }
        unreachable!("the last try returns")
    }

    /// What a refusal means, and whether to try again: after the time that the API asked for, or one of our own.
    async fn judge(&self, response: Response, ask: Ask<'_>) -> (Failure, Option<Option<Duration>>) {
        let Ask { files, wishes, .. } = ask;
        let status = response.status();
        let wait = retry_after(&response);
        let busy = Why::Busy { retry_after: wait.map(|wait| wait.min(LONGEST_WAIT)) };
        if status.is_redirection() {
            return (Failure::new(Why::Refused(Blame::Configuration), self.account.redirected(&response)), None);
        }
        let error = self.account.explanation(response).await;
        let mut said = self.account.marks(Some(status), &error);
        if let Some(wait) = wait.filter(|wait| *wait > LONGEST_WAIT) {
            let _infallible = write!(said, "; Retry-After: {}", wait.as_secs());
        }
        let (host, model) = (&self.account.host, &self.config.model);
        let (why, cause, again) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let cause = self.account.refused(&said) + &stored(&self.config);
                (Why::Refused(Blame::Credential), cause, None)
            }
            _ if error.is_about_length() => match self.leaves_no_room(ask) {
                Some(limit) => {
                    let cause = format!(
                        "{host} has no room for an answer of {limit} tokens, whatever it is asked ({said}); lower \
                         chat.max_tokens"
                    );
                    (Why::Refused(Blame::Configuration), cause, None)
                }
                None => (Why::TooLong, format!("{host} finds it too long ({said})"), None),
            },
            _ if !files.is_empty() && is_about_files(status, &error) => {
                let kinds: Vec<_> = files.iter().map(|file| file.kind.media_type()).collect();
                let cause = format!(
                    "{host} would not take {} ({said}); say which files `{model}` reads with `attachments` in [chat]",
                    kinds.join(", ")
                );
                (Why::Unreadable, cause, None)
            }
            StatusCode::PAYMENT_REQUIRED => {
                (Why::Refused(Blame::Others), format!("{host} wants to be paid first ({said})"), None)
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                let cause = format!("{host} has no model `{model}`, or no chat at `base_url` ({said}); mend either");
                (Why::Refused(Blame::Configuration), cause, None)
            }
            StatusCode::TOO_MANY_REQUESTS if error.code == "insufficient_quota" => {
                let cause = format!("{host} answers no more until the account is paid up ({said})");
                (Why::Busy { retry_after: None }, cause, None)
            }
            StatusCode::TOO_MANY_REQUESTS => (busy, format!("{host} was asked too often ({said})"), Some(wait)),
            // It knows how long it will be.
            StatusCode::SERVICE_UNAVAILABLE if wait.is_some() => {
                (busy, format!("{host} is in trouble ({said})"), Some(wait))
            }
            StatusCode::PAYLOAD_TOO_LARGE => (Why::TooLong, format!("{host} finds it too long ({said})"), None),
            _ if status.is_server_error() => (Why::Unavailable, format!("{host} is in trouble ({said})"), Some(wait)),
            // Too slow, in the way of another request, too early: OpenAI's own clients ask again after the first two
            // (<https://github.com/openai/openai-python#retries>), and RFC 8470, section 5.2 wants the third asked again.
            _ if matches!(status.as_u16(), 408 | 409 | 425) => {
                (Why::Unavailable, format!("{host} would not take it at the moment ({said})"), Some(wait))
            }
            _ if self.is_about_configuration(&error, wishes) => {
                let cause = format!("{host} will not have what it is asked for ({said}); mend the [chat] table");
                (Why::Refused(Blame::Configuration), cause, None)
            }
            _ => (Why::Declined, format!("{host} would not answer ({said})"), None),
        };
        (Failure::new(why, cause), again)
    }

    /// Whether a refusal is about what every message is asked with, and not about this message or how it is to be answered.
    fn is_about_configuration(&self, error: &ApiError, wishes: Wishes) -> bool {
        if wishes != Wishes::default() && error.param != "model" {
            return false;
        }
        let param = ["model", "temperature", "max_tokens", "max_completion_tokens"].contains(&error.param.as_str());
        let word = [&error.code, &error.kind].iter().any(|word| word.contains("model"));
        param || (error.param.is_empty() && (word || error.message.contains(self.config.model.as_str())))
    }

    /// The configured limit of an answer, where that is more than all that the model had to read: a model that finds both
    /// too long for it together would find every message so.
    fn leaves_no_room(&self, ask: Ask<'_>) -> Option<u32> {
        let limit = self.config.max_tokens.filter(|_| ask.wishes.max_tokens.is_none() && ask.files.is_empty())?;
        (limit as usize > self.read(ask)).then_some(limit)
    }

    /// How much text the model has to read, in bytes. Each is a token at most.
    fn read(&self, ask: Ask<'_>) -> usize {
        let system = self.config.system.as_ref().map_or(0, String::len);
        system + ask.message.len() + ask.earlier.iter().map(|turn| turn.text.len()).sum::<usize>()
    }

    /// More tokens than this are no answer's, whatever the API says.
    fn most_tokens(&self, ask: Ask<'_>) -> u64 {
        let files = ask.files.iter().map(|file| MOST_A_FILE + file.size as u64).sum::<u64>();
        let written = wire::at_most(ask.wishes.max_tokens, self.config.max_tokens).map_or(MOST_WRITTEN, u64::from);
        self.read(ask) as u64 + files + MOST_ADDED + written
    }

    /// Whether an answer that is cut off is as long as somebody wished, and the operator could not have it longer.
    fn was_wished(&self, wishes: Wishes) -> bool {
        wishes.max_tokens.is_some_and(|wish| self.config.max_tokens.is_none_or(|limit| wish < limit))
    }

    /// Has the operator know that an answer was cut off where it is in their hands.
    fn remark_on_length(&self, wishes: Wishes) {
        let limit = self.config.max_tokens;
        if self.was_wished(wishes) || !self.remarks.cut_off() {
            return;
        }
        let (host, model) = (&self.account.host, &self.config.model);
        if let Some(limit) = limit {
            tracing::warn!(
                service = NAME,
                "answers of `{model}` are cut off at {limit} tokens: raise chat.max_tokens for longer ones"
            );
        } else {
            tracing::warn!(
                service = NAME,
                "answers of `{model}` are cut off at a limit of {host}'s own: raise that for longer ones, or set \
                 chat.max_tokens where it goes by that"
            );
        }
    }

    fn no_first_token(&self) -> Failure {
        let (host, limit) = (&self.account.host, self.config.timeout.first_token.as_secs());
        Failure::new(Why::TimedOut, format!("{host} began no answer within {limit} s (chat.timeout.first_token)"))
    }

    async fn ask(&self, ask: Ask<'_>, deltas: Deltas) -> Result<(String, Ending), Failure> {
        let deadline = Instant::now() + self.config.timeout.first_token;
        let body = wire::request(&self.config, ask, deltas.wanted())
            .map_err(|error| Failure::new(Why::Broken, format!("writing the question: {error:#}")))?;
        let response = self.put(&body, ask, deadline).await?;
        // It is answered, so it was read. What files take, only the API knows.
        let read = self.read(ask);
        if let Some(bill) = deltas.bill() {
            bill.text(read);
        }
        // It has them, and an answer may take minutes.
        drop(body);
        ask.files.iter().for_each(File::release);
        Reading::new(self, ask, deltas, read, deadline).answer(response).await
    }
}

#[async_trait]
impl Responder for OpenAi {
    async fn answer(&self, ask: Ask<'_>, deltas: Deltas) -> Result<String, Failure> {
        let underway = self.answers.begin();
        let answer = timeout(ANSWER_LIMIT, self.ask(ask, deltas)).await.unwrap_or_else(|_| {
            let cause = format!("{} did not end within {} s", self.account.host, ANSWER_LIMIT.as_secs());
            Err(Failure::new(Why::TimedOut, cause))
        });
        match &answer {
            Ok((_, ending)) => {
                self.tally.answered();
                if *ending == Ending::Long {
                    self.remark_on_length(ask.wishes);
                }
                underway.end(Ok(*ending));
            }
            Err(failure) => {
                self.tally.failed(failure);
                underway.end(Err(failure));
            }
        }
        answer.map(|(text, _)| text)
    }
}

/// Whether a refusal is about the files of a message. There is no code for it that servers agree on.
fn is_about_files(status: StatusCode, error: &ApiError) -> bool {
    let refused = matches!(status.as_u16(), 400 | 404 | 415 | 422 | 501);
    let text = [&error.message, &error.code, &error.param].map(|text| text.to_ascii_lowercase()).join(" ");
    let words = ["image", "file", "vision", "pdf", "multimodal", "modalit", "content type", "content part"];
    refused && !text.contains("model_not_found") && words.iter().any(|word| text.contains(word))
}

/// Where a better key would go, to be said after a refusal.
fn stored(config: &config::chat::OpenAi) -> String {
    config.api_key.as_ref().map(|key| format!(" in {}", places(Some(key)))).unwrap_or_default()
}

fn places(key: Option<&SecretRef>) -> String {
    key.map(|key| key.places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")).unwrap_or_default()
}

/// Why `key` can't be one, in words that repeat nothing of it.
fn flaw(key: &str) -> Option<&'static str> {
    match key {
        "" => Some("it is empty"),
        _ if key.starts_with("Bearer ") => Some("it begins with \"Bearer \", which does not belong to the key"),
        _ if key.contains(['\n', '\r']) => Some("it has a line break in it"),
        _ if key.contains(char::is_whitespace) => Some("it has white space in it"),
        _ if !key.chars().all(|c| c.is_ascii_graphic()) => Some("it has characters in it that no key has"),
        _ => None,
    }
}
