//! Keeping the bot as the newest state wants it: connected, waiting, or parked.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::answer::Outcome;
use super::backoff::Backoff;
use super::catch_up::CatchUp;
use super::channels::{Asked, Channels, Done, Job, Records};
use super::event::{ApplicationId, ChannelId, GuildId, MessageId};
use super::gateway::{End, Lost, SHARD};
use super::identify::Permit;
use super::rest::RestError;
use super::status::Facts;
use super::{Discord, NAME};
use crate::service::{Blame, ChangeId, Context, Departure, Leaving, Live, Readiness, Reporter, State};
use crate::store::{Attempt, Key, SessionOwner, Verdict};

/// A wait for the next IDENTIFY that is nobody's concern: Discord itself asks for 5 s between two.
const UNREMARKED_WAIT: Duration = Duration::from_secs(10);
/// An answer that was begun longer ago than this is not gone on with: who asked has found another way.
const PICK_UP: Duration = Duration::from_hours(24);

/// The bot while the service runs.
pub struct Bot<'a> {
    pub(super) discord: &'a Discord,
    pub(super) account: Arc<Account>,
    pub(super) live: watch::Receiver<Arc<Live>>,
    pub(super) reporter: Reporter,
    pub(super) channels: Channels,
    pub(super) catch_up: CatchUp,
    stop: CancellationToken,
    departure: Leaving,
    /// The change that made it connect, until it has.
    pub(super) caused_by: Option<ChangeId>,
    /// Somebody was told that the connection is gone.
    outage_told: bool,
}

/// What ends the attempt to stay connected.
#[derive(Debug)]
pub enum Interrupt {
    /// perch stops.
    Stop,
    /// The host is to go.
    Leaving,
    /// The newest state wants another account, or none.
    Replaced,
    /// Trying again can't help; the text says what can.
    Parked(Blame, String),
}

/// Follows the states published until perch stops.
pub async fn run(discord: &Discord, context: Context) {
    let Context { mut live, stop, departure, reporter } = context;
    discord.store.rewind();
    discord.marks.rewind();
    let Some(account) = first_account(&mut live, &stop, &reporter).await else { return };
    let records = Records {
        store: Arc::clone(&discord.store),
        marks: Arc::clone(&discord.marks),
        ledger: discord.memory.ledger(),
    };
    let channels = Channels::new(live.clone(), records.clone(), Arc::clone(&discord.talk));
    let catch_up = CatchUp::new(records, discord.patience.history);
    let mut bot = Bot {
        discord,
        account,
        live,
        reporter,
        channels,
        catch_up,
        stop,
        departure,
        caused_by: None,
        outage_told: false,
    };
    bot.converge().await;
    bot.reporter.state(State::Stopped, "");
}

/// Waits for the first state in which the bot has an account.
async fn first_account(
    live: &mut watch::Receiver<Arc<Live>>,
    stop: &CancellationToken,
    reporter: &Reporter,
) -> Option<Arc<Account>> {
    loop {
        match published(&live.borrow_and_update()) {
            Ok(account) => return Some(account),
            Err((state, reason)) => reporter.state(state, reason),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = live.changed() => if changed.is_err() { break },
        }
    }
    reporter.state(State::Stopped, "");
    None
}

/// The account in `live`, or how the bot is without one.
fn published(live: &Live) -> Result<Arc<Account>, (State, String)> {
    match live.parts.get(NAME) {
        Some(Readiness::Held { state, reason }) => Err((*state, reason.clone())),
        _ => live.part::<Account>(NAME).ok_or((State::Waiting, "the configuration asks for no bot".to_owned())),
    }
}

impl Bot<'_> {
    async fn converge(&mut self) {
        loop {
            let newest = published(&self.live.borrow_and_update());
            let leaving = {
                let departure = self.departure.borrow_and_update();
                departure.as_ref().filter(|departure| departure.leaves_work()).map(|departure| departure.reason.clone())
            };
            match newest {
                Ok(_) if let Some(reason) = leaving => self.reporter.state(State::Waiting, reason),
                Ok(account) => {
                    self.caused_by = Some(self.live.borrow().change);
                    self.adopt(account).await;
                    let interrupt = self.stay_connected().await;
                    self.tell(|facts| facts.session = false);
                    self.let_go();
                    match interrupt {
                        Interrupt::Stop => break,
                        Interrupt::Replaced | Interrupt::Leaving => continue,
                        Interrupt::Parked(blame, reason) => {
                            let (change, config_version) = {
                                let live = self.live.borrow();
                                (live.change, live.version.clone())
                            };
                            tracing::error!(
                                service = NAME,
                                %change,
                                %config_version,
                                "parked until a person acts: {reason}"
                            );
                            self.reporter.failed(State::Parked, blame, reason);
                        }
                    }
                }
                Err((state, reason)) => self.reporter.state(state, reason),
            }
            if !self.newer_state().await {
                break;
            }
        }
        self.drain(None).await;
    }

    /// Makes `account` the bot's, with what it left behind. A session belongs to one token, the rest to the bot.
    async fn adopt(&mut self, account: Arc<Account>) {
        let before = self.discord.last.swap(Some(Arc::clone(&account)));
        self.account = account;
        let bot = self.account.user.id.get();
        if !before.as_ref().is_some_and(|before| before.same(&self.account)) {
            self.discord.store.adopt(self.session_owner()).await;
            if before.is_none_or(|before| before.user.id != self.account.user.id) {
                self.discord.gate.adopt(bot).await;
                self.discord.marks.adopt(bot).await;
            }
            let user = self.account.user.clone();
            // Who resumes a session is not told once more where the bot is.
            let session = self.discord.store.session();
            self.tell(|facts| {
                facts.user = Some(user);
                if let Some(session) = session {
                    facts.application = (session.application > 0).then(|| ApplicationId::new(session.application));
                    facts.guilds = session.guilds.iter().map(|guild| GuildId::new(*guild)).collect();
                }
            });
        }
        self.reporter.state(State::Starting, "connecting to Discord");
        for (message, attempt) in self.discord.memory.ledger().unsettled(bot).await {
            self.pick_up(message, attempt);
        }
    }

    /// Looks after an answer that an earlier process began.
    fn pick_up(&mut self, message: u64, attempt: Attempt) {
        if message == 0 || attempt.channel == 0 {
            return;
        }
        let (channel_id, message_id) = (ChannelId::new(attempt.channel), MessageId::new(message));
        let said_at =
            SystemTime::UNIX_EPOCH + Duration::from_secs(message_id.created_at().unix_timestamp().unsigned_abs());
        if said_at.elapsed().is_ok_and(|age| age > PICK_UP) {
            let key = Key { bot: self.account.user.id.get(), message };
            self.discord.memory.ledger().settle(key, Verdict::Lost);
            self.tell(|facts| facts.lost += 1);
            return;
        }
        self.take(Job::new(Asked::Left { channel_id, message_id }, Arc::clone(&self.account)));
    }

    fn session_owner(&self) -> SessionOwner {
        let api_url = self.account.api_url.as_deref().unwrap_or_default();
        let hash = Sha256::digest(format!("{api_url}\n{}", self.account.token.expose_secret()));
        SessionOwner {
            bot: self.account.user.id.get(),
            intents: self.intents().bits(),
            shard: SHARD.number(),
            shards: SHARD.total(),
            token_mark: u64::from_le_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes")),
        }
    }

    async fn stay_connected(&mut self) -> Interrupt {
        let mut backoff = Backoff::new(self.discord.patience.stable);
        // The address of the session is tried first, then the one that Discord names today, in turns.
        let mut elsewhere = false;
        loop {
            let lost = match self.connect(elsewhere).await {
                Ok(End::Lost(lost)) => lost,
                Ok(End::Fatal(code)) => {
                    let (blame, reason) = self.fatal(code);
                    return Interrupt::Parked(blame, reason);
                }
                Err(interrupt) => return interrupt,
            };
            elsewhere = lost.unconnected && !elsewhere;
            let wait = backoff.failed(lost.held).max(lost.wait);
            self.tell(|facts| facts.session = false);
            self.reporter.state(State::Recovering, lost.reason.clone());
            if backoff.failures() > 1 && !self.outage_told {
                self.outage_told = true;
                tracing::warn!(service = NAME, "Discord is out of reach, and perch goes on trying: {}", lost.reason);
            } else {
                tracing::debug!(service = NAME, ?wait, "connecting again after a while: {}", lost.reason);
            }
            if let Err(interrupt) = self.attend(sleep(wait)).await {
                return interrupt;
            }
        }
    }

    /// Makes one connection, with the session if there is one, and serves it.
    async fn connect(&mut self, elsewhere: bool) -> Result<End, Interrupt> {
        let session = self.discord.store.session().filter(|session| is_gateway(&session.resume_url));
        if session.is_some() && !elsewhere {
            return self.connection(None, session.as_ref()).await;
        }
        let mut told = false;
        let url = loop {
            let account = Arc::clone(&self.account);
            let gateway = match self.attend(account.rest.gateway()).await? {
                Ok(gateway) => gateway,
                Err(RestError::Unauthorized(said)) => {
                    return Err(Interrupt::Parked(Blame::Credential, self.refused(&said)));
                }
                Err(error) => {
                    return Ok(End::Lost(Lost::because(format!("can't ask Discord where its gateway is: {error}"))));
                }
            };
            self.discord.gate.learn(&gateway.session_start_limit);
            self.tell(|_| {});
            if session.is_some() {
                break gateway.url;
            }
            let (reason, until) = match self.discord.gate.permit() {
                Permit::Now => break gateway.url,
                Permit::At(when) if when.saturating_duration_since(Instant::now()) <= UNREMARKED_WAIT => {
                    self.attend(sleep_until(when)).await?;
                    break gateway.url;
                }
                Permit::At(when) => {
                    let wait = words(when.saturating_duration_since(Instant::now()));
                    let reason = format!(
                        "sessions that don't last have cost many IDENTIFYs of late; perch spaces them and connects in \
                         {wait}, or on `perch reload`"
                    );
                    (reason, when)
                }
                Permit::Spent { remaining, resets } => {
                    let wait = words(resets.saturating_duration_since(Instant::now()));
                    let reason = format!(
                        "only {remaining} of today's IDENTIFYs are left; perch keeps them and connects in {wait}, or on \
                         `perch reload`"
                    );
                    (reason, resets)
                }
            };
            if !told {
                told = true;
                let change = self.caused_by.map(|change| change.0);
                tracing::warn!(service = NAME, change, "Discord's session start limit is in danger: {reason}");
            }
            self.reporter.state(State::Waiting, reason);
            self.person_or(until).await?;
        };
        let url = gateway_base(&url).to_owned();
        if !is_gateway(&url) {
            return Ok(End::Lost(Lost::because("Discord named an address for its gateway that is none")));
        }
        self.connection(Some(&url), session.as_ref()).await
    }

    /// Waits for `future` while messages are answered, and gives it up when perch stops or the account changes.
    pub(super) async fn attend<F: Future>(&mut self, future: F) -> Result<F::Output, Interrupt> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Interrupt::Stop),
                changed = self.live.changed() => {
                    if changed.is_err() {
                        return Err(Interrupt::Stop);
                    }
                    let newest = published(&self.live.borrow_and_update());
                    if !newest.is_ok_and(|account| account.same(&self.account)) {
                        return Err(Interrupt::Replaced);
                    }
                }
                () = turned(&mut self.departure) => {
                    if self.departure.borrow_and_update().as_ref().is_some_and(Departure::leaves_work) {
                        return Err(Interrupt::Leaving);
                    }
                }
                done = self.channels.next(), if !self.channels.idle() => {
                    if let Some(said) = self.note(done) {
                        return Err(Interrupt::Parked(Blame::Credential, self.refused(&said)));
                    }
                }
                step = self.catch_up.next(), if !self.catch_up.idle() => {
                    if let Some(said) = self.looked(step) {
                        return Err(Interrupt::Parked(Blame::Credential, self.refused(&said)));
                    }
                }
                output = &mut future => return Ok(output),
            }
        }
    }

    /// Waits until `when`, or until somebody publishes a state: then a person is at it, and one IDENTIFY of the reserve
    /// is theirs.
    async fn person_or(&mut self, when: Instant) -> Result<(), Interrupt> {
        let mut live = self.live.clone();
        let published = async move {
            // A closed channel is for `attend` to notice.
            if live.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let gate = self.discord.gate.clone();
        self.attend(async move {
            tokio::select! {
                () = sleep_until(when) => {}
                () = published => gate.open_reserve(),
            }
        })
        .await
    }

    /// Waits for a newer state, or for the host to go or to stay; `false` when perch stops first.
    async fn newer_state(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                changed = self.live.changed() => return changed.is_ok(),
                () = turned(&mut self.departure) => return true,
                done = self.channels.next(), if !self.channels.idle() => {
                    self.note(done);
                }
            }
        }
    }

    /// Takes a message on that is for the bot.
    pub(super) fn take(&mut self, job: Job) {
        if !self.channels.take(job) {
            self.tell(|facts| facts.lost += 1);
        }
    }

    /// Counts a message that is dealt with. Returns what Discord said if it refused the token that is in use.
    pub(super) fn note(&mut self, done: Option<Done>) -> Option<String> {
        let Done { account, outcome, missed, .. } = done?;
        if missed {
            self.catch_up.answered();
        }
        self.tell(|facts| match outcome {
            Outcome::Answered => facts.replies += 1,
            Outcome::Known => {}
            Outcome::Limited => facts.limited += 1,
            Outcome::Refused => facts.refused += 1,
            Outcome::Lost | Outcome::Unauthorized(_) => facts.lost += 1,
        });
        match outcome {
            Outcome::Unauthorized(said) if account.same(&self.account) => Some(said),
            _ => None,
        }
    }

    /// READY or RESUMED came.
    pub(super) fn connected(&mut self, resumed: bool) {
        self.tell(|facts| facts.session = true);
        self.reporter.state(State::Running, "");
        let change = self.caused_by.take().map(|change| change.0);
        if self.outage_told || !resumed {
            let user_id = self.account.user.id.get();
            let how =
                if resumed { "connected to Discord again, and the session goes on" } else { "connected to Discord" };
            tracing::info!(service = NAME, change, user_id, resumed, "{how}");
        }
        self.outage_told = false;
    }

    /// The session can't be resumed.
    pub(super) fn lose_session(&self) {
        self.discord.store.forget();
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut Facts)) {
        self.discord.status.change(&self.discord.gate, &self.reporter, change);
    }
}

/// Completes when the host is to go and was not, or the other way round; never where nobody is left to say so.
async fn turned(departure: &mut Leaving) {
    if departure.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What twilight puts its own path and query behind.
pub(super) fn gateway_base(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url).trim_end_matches('/')
}

/// Whether a connection can be made to `url` at all.
fn is_gateway(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "ws" | "wss") && url.has_host())
}

fn words(wait: Duration) -> String {
    let minutes = wait.as_secs().div_ceil(60);
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}
