//! Discord's REST API: one request at a time in, an answer or one of our own errors out.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serenity::builder::CreateMessage;
use serenity::http::{LightMethod, Ratelimiter, Request, Route};
use serenity::model::gateway::BotGateway;
use thiserror::Error;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::backoff;
use super::event::{ChannelId, ChannelKind, User};
use super::history::PAGE;

/// A bot may make 50 requests a second, however they come: ten at once, and forty a second behind them. Whoever goes by
/// the 429s alone is banned for an hour after 10,000 of them in ten minutes, which a flood in many channels brings about.
///
/// Source: Rate Limits, "Global Rate Limit" and "Invalid Request Limit".
const GLOBAL: Quota = Quota::per_second(nonzero(40)).allow_burst(nonzero(10));

const fn nonzero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("it is a constant, and not 0")
}

/// For one exchange of request and answer. Discord answers within a second on a good day.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a message from its first try to its last, waits for rate limits included: who wrote is still there.
const MESSAGE_DEADLINE: Duration = Duration::from_mins(1);
/// For trying a token, while somebody waits for a reload.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// For what only makes an answer better: that perch types, and what kind of channel it is in.
const ASIDE_DEADLINE: Duration = Duration::from_secs(5);
/// For a file of 5 MiB, which Discord's servers send within a second.
const FILE_TIMEOUT: Duration = Duration::from_secs(20);
/// Where people's files are. Source: API Reference, "CDN Formatting"; Message Resource, "Attachment Object".
const FILE_HOSTS: [&str; 2] = ["cdn.discordapp.com", "media.discordapp.net"];
/// For asking where the gateway is; the connection's own backoff comes behind it.
const GATEWAY_DEADLINE: Duration = Duration::from_secs(15);
/// A 429 that asks for less is still not answered at once.
const LEAST_WAIT: Duration = Duration::from_millis(100);
/// When a 429 names no time.
const UNNAMED_WAIT: Duration = Duration::from_secs(1);

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestError {
    /// The token is not, or no longer, good.
    #[error("Discord refused the token (401: {0})")]
    Unauthorized(String),
    /// Discord will not do it, however often it is asked. `code` is Discord's own.
    ///
    /// Source: Opcodes and Status Codes, "JSON Error Codes".
    #[error("{status}: {message} (code {code})")]
    Refused { status: u16, code: u64, message: String },
    /// Discord, or the way to it, is in trouble.
    #[error("{0}")]
    Unavailable(String),
}

/// A client with one token.
pub struct Rest {
    client: Client,
    token: SecretString,
    pace: Pace,
    everything: Arc<Hold>,
}

/// Who keeps the rate limits.
enum Pace {
    /// serenity's limiter, which knows each route's bucket from the headers of earlier answers, behind our own that keeps
    /// all routes together within the global limit.
    Ours { buckets: Box<Ratelimiter>, all: DefaultDirectRateLimiter },
    /// Whatever lives at `api_url`; its 429s are obeyed.
    Proxy(String),
}

impl Pace {
    /// Waits for this request's turn among all.
    async fn turn(&self) {
        let Pace::Ours { all, .. } = self else { return };
        while let Err(early) = all.check() {
            sleep(early.wait_time_from(DefaultClock::default().now())).await;
        }
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("token", &"[redacted]").finish_non_exhaustive()
    }
}

impl Rest {
    /// A client for Discord, or for `api_url` in its place. With `resolve`, discord.com is looked for there.
    ///
    /// # Errors
    /// The system's TLS or resolver configuration can't be used.
    pub fn new(token: &SecretString, api_url: Option<&str>, resolve: Option<SocketAddr>) -> anyhow::Result<Rest> {
        Rest::trusting(crate::tls::client_config()?, token, api_url, resolve)
    }

    /// The same with certificates of one's own choice.
    pub(super) fn trusting(
        tls: rustls::ClientConfig,
        token: &SecretString,
        api_url: Option<&str>,
        resolve: Option<SocketAddr>,
    ) -> anyhow::Result<Rest> {
        let mut builder =
            Client::builder().use_preconfigured_tls(tls).connect_timeout(CONNECT_TIMEOUT).timeout(REQUEST_TIMEOUT);
        // Neither API nor files are elsewhere than where they are looked for.
        builder = builder.redirect(reqwest::redirect::Policy::none());
        if let Some(address) = resolve {
            builder = builder.resolve("discord.com", address).resolve(FILE_HOSTS[0], address).no_proxy();
        }
        let client = builder.build().context("preparing the HTTPS client for Discord")?;
        let token = SecretString::from(format!("Bot {}", token.expose_secret()));
        let everything = Arc::new(Hold::default());
        let pace = if let Some(url) = api_url {
            Pace::Proxy(url.to_owned())
        } else {
            let buckets = Box::new(limiter(&client, &token, &everything));
            Pace::Ours { buckets, all: RateLimiter::direct(GLOBAL) }
        };
        Ok(Rest { client, token, pace, everything })
    }

    /// Who the token belongs to. Tried twice at most.
    ///
    /// # Errors
    /// [`RestError::Unauthorized`] when it belongs to nobody.
    pub async fn me(&self) -> Result<User, RestError> {
        let deadline = Instant::now() + TRIAL_TIMEOUT;
        self.get(Route::UserMe, Patience { deadline, tries: 2 }).await
    }

    /// Where the gateway is, and how many sessions may still be started.
    ///
    /// # Errors
    /// As [`RestError`] says.
    pub async fn gateway(&self) -> Result<BotGateway, RestError> {
        let deadline = Instant::now() + GATEWAY_DEADLINE;
        self.get(Route::GatewayBot, Patience { deadline, tries: 1 }).await
    }

    /// Says something. It has a nonce that Discord enforces, so trying again is safe after any failure.
    ///
    /// # Errors
    /// As [`RestError`] says, after a minute of trying when Discord is in trouble.
    pub async fn create_message(&self, channel_id: ChannelId, message: &CreateMessage) -> Result<(), RestError> {
        let body = serde_json::to_vec(message).map_err(|error| unavailable("writing the message", &error))?;
        let request = Request::new(Route::ChannelMessages { channel_id }, LightMethod::Post).body(Some(body));
        let deadline = Instant::now() + MESSAGE_DEADLINE;
        self.send(request, Patience { deadline, tries: u32::MAX }, async |response| {
            // It is said once the status says so; the body is read so that the connection can be used again.
            response.bytes().await.ok();
            Ok(())
        })
        .await
    }

    /// Shows in a channel that the bot types, for ten seconds or until it says something.
    ///
    /// Source: Channel Resource, "Trigger Typing Indicator".
    ///
    /// # Errors
    /// As [`RestError`] says, at the first try.
    pub async fn typing(&self, channel_id: ChannelId) -> Result<(), RestError> {
        let request = Request::new(Route::ChannelTyping { channel_id }, LightMethod::Post);
        let patience = Patience { deadline: Instant::now() + ASIDE_DEADLINE, tries: 1 };
        self.send(request, patience, async |_| Ok(())).await
    }

    /// What kind of channel it is.
    ///
    /// # Errors
    /// As [`RestError`] says, after two tries.
    pub async fn channel_kind(&self, channel_id: ChannelId) -> Result<ChannelKind, RestError> {
        self.get(Route::Channel { channel_id }, Patience { deadline: Instant::now() + ASIDE_DEADLINE, tries: 2 }).await
    }

    /// Fetches what somebody attached: as many bytes as there are, and no more than one beyond `most`.
    ///
    /// # Errors
    /// It is not among Discord's files, or can't be had.
    pub async fn file(&self, url: &str, most: usize) -> Result<Vec<u8>, RestError> {
        let url = reqwest::Url::parse(url).ok().filter(|url| self.has_files_at(url));
        let url = url.ok_or_else(|| RestError::Unavailable("it is not where Discord keeps files".to_owned()))?;
        // From the connection to the last byte.
        let request = self.client.get(url).timeout(FILE_TIMEOUT);
        let mut response = request.send().await.map_err(|error| network(&error))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let mut bytes = Vec::with_capacity(most + 1);
        while let Some(chunk) = response.chunk().await.map_err(|error| network(&error))? {
            let room = most + 1 - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if bytes.len() > most {
                break;
            }
        }
        Ok(bytes)
    }

    /// Whether Discord, or what stands in for it at `api_url`, keeps files there.
    fn has_files_at(&self, url: &reqwest::Url) -> bool {
        let theirs = url.scheme() == "https"
            && url.port().is_none()
            && FILE_HOSTS.iter().any(|host| url.host_str() == Some(host));
        let Pace::Proxy(api) = &self.pace else { return theirs };
        theirs || reqwest::Url::parse(api).is_ok_and(|api| api.origin() == url.origin())
    }

    /// The oldest hundred messages of a channel whose ids are above `after`, in no order that matters.
    ///
    /// # Errors
    /// As [`RestError`] says, after a minute of trying when Discord is in trouble.
    pub async fn messages_after(&self, channel_id: ChannelId, after: u64) -> Result<Vec<Value>, RestError> {
        self.messages(channel_id, Some(("after", after)), Instant::now() + MESSAGE_DEADLINE).await
    }

    /// The newest hundred messages of a channel, or of those whose ids are below `before`, in no order that matters.
    ///
    /// # Errors
    /// As [`RestError`] says, at `deadline` when Discord is in trouble.
    pub async fn messages_before(
        &self,
        channel_id: ChannelId,
        before: Option<u64>,
        deadline: Instant,
    ) -> Result<Vec<Value>, RestError> {
        self.messages(channel_id, before.map(|before| ("before", before)), deadline).await
    }

    async fn messages(
        &self,
        channel_id: ChannelId,
        bound: Option<(&'static str, u64)>,
        deadline: Instant,
    ) -> Result<Vec<Value>, RestError> {
        let mut parameters = vec![("limit", PAGE.to_string())];
        parameters.extend(bound.map(|(name, message)| (name, message.to_string())));
        let request = Request::new(Route::ChannelMessages { channel_id }, LightMethod::Get).params(Some(parameters));
        self.read(request, Patience { deadline, tries: u32::MAX }).await
    }

    /// Whether everything is held back at the moment.
    #[cfg(test)]
    pub fn held(&self) -> bool {
        self.everything.until.lock().unwrap().is_some_and(|until| until > Instant::now())
    }

    async fn get<T: DeserializeOwned>(&self, route: Route<'_>, patience: Patience) -> Result<T, RestError> {
        self.read(Request::new(route, LightMethod::Get), patience).await
    }

    async fn read<T: DeserializeOwned>(&self, request: Request<'_>, patience: Patience) -> Result<T, RestError> {
        self.send(request, patience, async |response| {
            let body = response.bytes().await.map_err(|error| network(&error))?;
            serde_json::from_slice(&body)
                .map_err(|error| unavailable("Discord's answer is not what its documentation says", &error))
        })
        .await
    }

    async fn send<T, F>(
        &self,
        request: Request<'_>,
        patience: Patience,
        read: impl Fn(Response) -> F,
    ) -> Result<T, RestError>
    where
        F: Future<Output = Result<T, RestError>>,
    {
        let mut tries = 0;
        loop {
            let once = async {
                self.everything.over().await;
                self.pace.turn().await;
                let response = self.exchange(request.clone()).await?;
                match response.status() {
                    StatusCode::TOO_MANY_REQUESTS => Ok(Err(self.told_to_wait(response).await)),
                    status if status.is_success() => read(response).await.map(Ok),
                    _ => Err(refusal(response).await),
                }
            };
            let error = match timeout_at(patience.deadline, once).await {
                Ok(Ok(Ok(answer))) => return Ok(answer),
                Ok(Ok(Err(wait))) => {
                    if Instant::now() + wait >= patience.deadline {
                        return Err(RestError::Unavailable(format!("Discord asks to wait {}s (429)", wait.as_secs())));
                    }
                    sleep(wait).await;
                    continue;
                }
                Ok(Err(error @ RestError::Unavailable(_))) => error,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(RestError::Unavailable("Discord did not answer in time".to_owned())),
            };
            tries += 1;
            let pause = backoff::delay(tries - 1);
            if tries >= patience.tries || Instant::now() + pause >= patience.deadline {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    async fn exchange(&self, request: Request<'_>) -> Result<Response, RestError> {
        match &self.pace {
            Pace::Ours { buckets, .. } => buckets.perform(request).await.map_err(|error| serenity_error(&error)),
            Pace::Proxy(url) => {
                let request = request
                    .build(&self.client, self.token.expose_secret(), Some(url))
                    .map_err(|error| serenity_error(&error))?;
                let exchange = timeout(REQUEST_TIMEOUT, request.send()).await;
                exchange
                    .map_err(|_| RestError::Unavailable("Discord did not answer in time".to_owned()))?
                    .map_err(|error| network(&error))
            }
        }
    }

    /// Reads a 429, holds everything back when it is about everything, and returns how long this request has to wait.
    /// Headers and body say the same, and something between Discord and perch may have left out either.
    ///
    /// Source: Rate Limits, "Exceeding A Rate Limit".
    async fn told_to_wait(&self, response: Response) -> Duration {
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let seconds = header("retry-after").and_then(|seconds| seconds.parse().ok());
        let global = header("x-ratelimit-global").is_some() || header("x-ratelimit-scope").as_deref() == Some("global");
        let body = timeout(REQUEST_TIMEOUT, response.bytes()).await.ok().and_then(Result::ok).unwrap_or_default();
        let said: Limited = serde_json::from_slice(&body).unwrap_or_default();
        let longest = [seconds, said.retry_after].into_iter().flatten().reduce(f64::max);
        let wait = longest
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or(UNNAMED_WAIT)
            .max(LEAST_WAIT);
        if global || said.global {
            self.everything.hold(wait);
        }
        wait
    }
}

/// How long to try, and how often when Discord is in trouble. A 429 is no try.
#[derive(Clone, Copy)]
struct Patience {
    deadline: Instant,
    tries: u32,
}

/// serenity's limiter waits out a route's bucket and a global 429, the latter for the one request that met it; the
/// others are held back here.
fn limiter(client: &Client, token: &SecretString, everything: &Arc<Hold>) -> Ratelimiter {
    let mut limiter = Ratelimiter::new(client.clone(), token.expose_secret());
    let everything = Arc::clone(everything);
    limiter.set_ratelimit_callback(Box::new(move |limit| {
        if limit.global {
            everything.hold(limit.timeout);
        }
    }));
    limiter
}

/// Holds all requests back while Discord's global rate limit is exceeded.
#[derive(Default)]
struct Hold {
    until: Mutex<Option<Instant>>,
}

impl Hold {
    fn hold(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut held = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(held.map_or(until, |held| held.max(until)));
    }

    async fn over(&self) {
        loop {
            let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }
}

/// The body of a 429.
#[derive(Default, Deserialize)]
struct Limited {
    retry_after: Option<f64>,
    #[serde(default)]
    global: bool,
}

/// What Discord says when it will not.
#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    message: String,
}

async fn refusal(response: Response) -> RestError {
    let status = response.status();
    if status.is_server_error() {
        return RestError::Unavailable(format!("Discord answered {status}"));
    }
    let body = response.bytes().await.unwrap_or_default();
    let said: Said = serde_json::from_slice(&body).unwrap_or_default();
    if status == StatusCode::UNAUTHORIZED {
        let message = if said.message.is_empty() { status.to_string() } else { said.message };
        return RestError::Unauthorized(message);
    }
    RestError::Refused { status: status.as_u16(), code: said.code, message: said.message }
}

fn serenity_error(error: &serenity::Error) -> RestError {
    match error {
        serenity::Error::Http(serenity::http::HttpError::Request(error)) => network(error),
        error => unavailable("asking Discord", error),
    }
}

fn network(error: &reqwest::Error) -> RestError {
    let mut text = match error {
        error if error.is_timeout() => "Discord did not answer in time".to_owned(),
        error if error.is_connect() => "can't connect to Discord".to_owned(),
        _ => "the connection to Discord broke".to_owned(),
    };
    // reqwest's own words repeat the address; the first cause says what happened.
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    if let Some(cause) = cause {
        text = format!("{text}: {cause}");
    }
    RestError::Unavailable(text)
}

fn unavailable(doing: &str, error: &impl fmt::Display) -> RestError {
    RestError::Unavailable(format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_does_not_show_its_token() {
        let token = SecretString::from("MTk4.hushhush.aaaa");
        for api_url in [None, Some("http://127.0.0.1:1")] {
            let rest = Rest::new(&token, api_url, None).unwrap();
            assert!(!format!("{rest:?}").contains("hushhush"));
        }
    }

    #[test]
    fn files_are_fetched_from_discord_alone() {
        let token = SecretString::from("MTk4.hushhush.aaaa");
        let has = |rest: &Rest, url: &str| rest.has_files_at(&reqwest::Url::parse(url).unwrap());
        let discord = Rest::new(&token, None, None).unwrap();
        let stand_in = Rest::new(&token, Some("http://127.0.0.1:9"), None).unwrap();
        for (url, theirs, stand_ins) in [
            ("https://cdn.discordapp.com/attachments/1/2/cat.png?ex=6&is=5&hm=4", true, true),
            ("https://media.discordapp.net/attachments/1/2/cat.png", true, true),
            ("http://cdn.discordapp.com/attachments/1/2/cat.png", false, false),
            ("https://cdn.discordapp.com:8443/attachments/1/2/cat.png", false, false),
            ("https://cdn.discordapp.com.example.com/cat.png", false, false),
            ("https://cdn.discordapp.com@169.254.169.254/latest/meta-data", false, false),
            ("http://169.254.169.254/latest/meta-data", false, false),
            ("file:///etc/passwd", false, false),
            ("http://127.0.0.1:9/attachments/1/2/cat.png", false, true),
            ("http://127.0.0.1:10/attachments/1/2/cat.png", false, false),
            ("https://127.0.0.1:9/attachments/1/2/cat.png", false, false),
        ] {
            assert_eq!((has(&discord, url), has(&stand_in, url)), (theirs, stand_ins), "{url}");
        }
    }

    #[tokio::test]
    async fn a_global_limit_holds_everything_until_the_last_word() {
        let hold = Hold::default();
        let start = Instant::now();
        hold.over().await;
        hold.hold(Duration::from_millis(30));
        hold.hold(Duration::from_millis(10));
        hold.over().await;
        assert!(start.elapsed() >= Duration::from_millis(30));
    }
}
