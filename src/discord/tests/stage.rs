//! A simulator, the bot's service, and what the supervisor is to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rustls_pki_types::PrivateKeyDer;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::chat::{Ask, Deltas, Failure, Responder, Why};
use crate::config::Config;
use crate::config::discord::CatchUp;
use crate::config::discord::Intents;
use crate::discord::account::Account;
use crate::discord::rest::Rest;
use crate::discord::{Discord, NAME, Options, Patience};
use crate::secrets::{Secret, SecretValues};
use crate::service::{Board, ChangeId, Context, Health, Live, Next, Problem, Readiness, Reporter, Service, State};
use crate::sim::{self, RateLimits, Say, Simulator};
use crate::source::Version;
use crate::store::{Attempt, Store};

/// How long a test waits for what has to come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The simulator's bot.
pub const BOT: &str = "<@1100000000000000010>";
pub const BOT_ID: u64 = 1_100_000_000_000_000_010;

pub struct Stage {
    pub simulator: Simulator,
    pub discord: Arc<Discord>,
    pub board: Arc<Board>,
    /// What a new process finds.
    pub memory: Store,
    live: watch::Sender<Arc<Live>>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Stage {
    /// The bot at work.
    pub async fn new() -> Stage {
        Stage::with(simulator_options()).await
    }

    pub async fn with(options: sim::Options) -> Stage {
        let stage = Stage::starting(options, |_| {}).await;
        stage.state(State::Running).await;
        stage
    }

    /// The bot just started, with a simulator that `arrange` was done to.
    pub async fn starting(options: sim::Options, arrange: impl FnOnce(&Simulator)) -> Stage {
        Stage::remembering(Store::in_memory(), options, arrange).await
    }

    /// The same with what an earlier process left.
    pub async fn remembering(memory: Store, options: sim::Options, arrange: impl FnOnce(&Simulator)) -> Stage {
        let simulator = Simulator::start(options).await.unwrap();
        let discord = discord(memory.clone());
        let readiness = prepare(&simulator, &discord, sim::DEFAULT_TOKEN, None, false).await.unwrap();
        arrange(&simulator);
        Stage::from(simulator, discord, memory, readiness)
    }

    /// The bot at work with a simulator that it takes for discord.com, and with serenity's rate limiter.
    pub async fn at_discord(options: sim::Options) -> Stage {
        let certified = rcgen::generate_simple_self_signed(["discord.com".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let memory = Store::in_memory();
        let discord = discord(memory.clone());
        let server = rustls::ServerConfig::builder().with_no_client_auth();
        let tls = Some(Arc::new(server.with_single_cert(vec![certificate.clone()], key).unwrap()));
        let simulator = Simulator::start(sim::Options { tls, ..options }).await.unwrap();

        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let token = SecretString::from(sim::DEFAULT_TOKEN);
        let rest = Rest::trusting(tls, &token, None, Some(simulator.address())).unwrap();
        let user = rest.me().await.unwrap();
        let account = Account { token, api_url: None, intents: Intents::default(), user, rest: Arc::new(rest) };
        let stage = Stage::from(simulator, discord, memory, Readiness::Ready(Arc::new(account)));
        stage.state(State::Running).await;
        stage
    }

    fn from(simulator: Simulator, discord: Arc<Discord>, memory: Store, readiness: Readiness) -> Stage {
        let live = state(&simulator, sim::DEFAULT_TOKEN, readiness, Arc::new(Echo));
        let live = watch::Sender::new(Arc::new(live));
        let (board, stop) = (Arc::new(Board::default()), CancellationToken::new());
        let task = run(&discord, &live, &board, &stop);
        Stage { simulator, discord, board, memory, live, stop, task }
    }

    /// As `perch reload` with `token` in the secret: tried, and published unless it is refused.
    pub async fn reload(&self, token: &str) -> Result<(), Vec<Problem>> {
        let running = Arc::clone(&self.live.borrow());
        let part = prepare(&self.simulator, &self.discord, token, Some(&running), true).await?;
        self.live.send_replace(Arc::new(state(&self.simulator, token, part, Arc::clone(&running.responder))));
        Ok(())
    }

    /// Publishes the same account with another responder.
    pub fn respond(&self, responder: Arc<dyn Responder>) {
        let part = self.live.borrow().parts[NAME].clone();
        self.live.send_replace(Arc::new(state(&self.simulator, sim::DEFAULT_TOKEN, part, responder)));
    }

    /// Publishes that `responder` answers as the chat does, with these lines at the end of the configuration.
    pub fn converse(&self, responder: Arc<dyn Responder>, lines: &str) {
        let running = Arc::clone(&self.live.borrow());
        let mut next = state(&self.simulator, sim::DEFAULT_TOKEN, running.parts[NAME].clone(), responder);
        let document = format!(
            "[chat]\nbackend = \"openai\"\nbase_url = \"http://127.0.0.1:9\"\nmodel = \"parrot-1\"\n{lines}\n{}",
            document(&self.simulator).replace("token =", "respond = \"chat\"\ntoken =")
        );
        next.config = Arc::new(Config::load(document.as_bytes()).unwrap());
        self.live.send_replace(Arc::new(next));
    }

    /// Publishes the same account with other bounds of a catch-up.
    pub fn bound(&self, catch_up: CatchUp) {
        let running = Arc::clone(&self.live.borrow());
        let part = running.parts[NAME].clone();
        let mut next = state(&self.simulator, sim::DEFAULT_TOKEN, part, Arc::clone(&running.responder));
        if let Some(discord) = &mut Arc::make_mut(&mut next.config).discord {
            discord.catch_up = catch_up;
        }
        self.live.send_replace(Arc::new(next));
    }

    /// Publishes that the bot may not serve.
    pub fn hold(&self, state_: State, reason: &str) {
        let held = Readiness::Held { state: state_, reason: reason.to_owned() };
        self.live.send_replace(Arc::new(state(&self.simulator, sim::DEFAULT_TOKEN, held, Arc::new(Echo))));
    }

    /// Stops the service and waits for it.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        timeout(PATIENCE, &mut self.task).await.expect("the service stops").unwrap().unwrap();
    }

    /// Waits until the service ends by itself.
    pub async fn fell(&mut self) -> JoinError {
        timeout(PATIENCE, &mut self.task).await.expect("the service ends").unwrap_err()
    }

    /// Starts the service again, as the supervisor does after a panic, or a new process with the same session.
    pub fn start(&mut self) {
        self.stop = CancellationToken::new();
        self.task = run(&self.discord, &self.live, &self.board, &self.stop);
    }

    /// Ends it as SIGKILL does, and puts a new process in its place that is not started yet.
    pub async fn kill(&mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
        self.discord = discord(self.memory.clone());
    }

    /// The same where the history is kept for longer than the process lives.
    pub async fn kill_but_for_the_history(&mut self) {
        let history = Arc::clone(&self.discord.talk.history);
        self.kill().await;
        let discord = bot(self.memory.clone()).sharing(history, Arc::default(), Arc::default());
        self.discord = Arc::new(discord);
    }

    /// Puts a new process in the place of one that stopped.
    pub fn replace(&mut self) {
        self.discord = discord(self.memory.clone());
    }

    /// Ends it as SIGKILL does, and puts a new process in its place that resumes nothing. What is said from now on is
    /// said to nobody.
    pub async fn lose(&mut self) {
        self.kill().await;
        self.expire().await;
    }

    /// The same, and the state directory is deleted.
    pub async fn forget(&mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
        self.memory = Store::in_memory();
        self.discord = discord(self.memory.clone());
        self.expire().await;
    }

    async fn expire(&self) {
        let nobody = |state: &Value| state["gateway"]["connections"].as_array()?.is_empty().then_some(());
        assert!(self.simulator.until(PATIENCE, nobody).await.is_some(), "a connection stays");
        self.simulator.expire_sessions();
    }

    /// Waits until Discord knows of a session.
    pub async fn in_session(&self) {
        let ready = |state: &Value| (state["gateway"]["connections"][0]["phase"] == "ready").then_some(());
        assert!(self.simulator.until(PATIENCE, ready).await.is_some(), "no session");
    }

    /// Asks something of the simulator's control interface.
    pub async fn control(&self, method: &str, path: &str, body: &Value) {
        let url = format!("{}/sim/{path}", self.simulator.control_url());
        let request = reqwest::Client::new().request(method.parse().unwrap(), url).body(body.to_string());
        request.header("content-type", "application/json").send().await.unwrap().error_for_status().unwrap();
    }

    /// Waits until an answer is about to be sent, or is on its way.
    pub async fn sending(&self) {
        let sending = async {
            while self.memory.ledger().unsettled(BOT_ID).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, sending).await.expect("an answer is in the ledger");
    }

    /// Waits until an answer is in the ledger that is as `wanted`.
    pub async fn unsettled(&self, wanted: impl Fn(&Attempt) -> bool) {
        let there = async {
            while !self.memory.ledger().unsettled(BOT_ID).await.iter().any(|(_, attempt)| wanted(attempt)) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, there).await.expect("an answer is in the ledger");
    }

    /// Waits until no answer is unfinished.
    pub async fn settled(&self) {
        let settled = async {
            while !self.memory.ledger().unsettled(BOT_ID).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, settled).await.expect("every answer is settled");
    }

    /// The direct channel with somebody who has one.
    pub fn direct(&self) -> String {
        let state = self.simulator.state();
        let channels = state["channels"].as_array().unwrap();
        channels.iter().find(|channel| channel["kind"] == "dm").unwrap()["id"].as_str().unwrap().to_owned()
    }

    pub fn say(&self, say: Say) -> Value {
        self.simulator.say(say).unwrap()
    }

    /// Waits until the bot has said exactly `expected` in `channel`.
    pub async fn hears(&self, channel: &str, expected: &[&str]) {
        let heard = self
            .simulator
            .until(PATIENCE, |_| (self.said(channel).len() >= expected.len()).then(|| self.said(channel)))
            .await;
        assert_eq!(heard.unwrap_or_else(|| self.said(channel)), expected);
    }

    /// What the bot said in `channel`.
    pub fn said(&self, channel: &str) -> Vec<String> {
        self.by_bot(channel).iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect()
    }

    /// The bot's messages in `channel`.
    pub fn by_bot(&self, channel: &str) -> Vec<Value> {
        let mut messages = self.simulator.messages(channel);
        messages.retain(|message| message["author"]["id"] == BOT.trim_matches(['<', '@', '>']));
        messages
    }

    /// Waits until the service is in `state`, and returns its health.
    pub async fn state(&self, state: State) -> Health {
        let reached = async {
            loop {
                match self.board.services().remove(NAME) {
                    Some(health) if health.state == state => return health,
                    _ => self.board.changed().await,
                }
            }
        };
        let health = timeout(PATIENCE, reached).await;
        health.unwrap_or_else(|_| panic!("not {state}: {:?}", self.board.services()))
    }

    /// Waits until the counters satisfy `wanted`.
    pub async fn counted(&self, wanted: impl Fn(&sim::Counters) -> bool) {
        let reached = self.simulator.until(PATIENCE, |_| wanted(&self.simulator.counters()).then_some(())).await;
        assert!(reached.is_some(), "{:?}", self.simulator.counters());
    }

    /// Waits until `status` shows `value` for `key`.
    pub async fn shows(&self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        let shown = || self.board.details().get(NAME).map(|details| details[key].clone());
        let reached = async {
            while shown().as_ref() != Some(&value) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{key} is {:?}, not {value}", shown()));
    }

    /// Waits until a message is being dealt with.
    pub async fn taken(&self) {
        let taken = async {
            while !self.discord.store.busy() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, taken).await.expect("a message is taken");
    }

    /// IDENTIFYs, RESUMEs and violations of Discord's rules that the simulator counted.
    pub fn sessions(&self) -> (u64, u64, u64) {
        let counters = self.simulator.counters();
        (counters.identifies, counters.resumes, counters.violation_count)
    }
}

/// Discord's rules with limits out of the way of tests that are not about them.
pub fn simulator_options() -> sim::Options {
    sim::Options { rate_limits: RateLimits { scale: 100, global: 0 }, ..sim::Options::default() }
}

pub fn mention(text: &str) -> Say {
    Say::new(format!("{BOT} {text}"))
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn discord(memory: Store) -> Arc<Discord> {
    Arc::new(bot(memory))
}

fn bot(memory: Store) -> Discord {
    let patience = Patience {
        hello: secs(1),
        ready: secs(1),
        close: Duration::from_millis(300),
        history: secs(1),
        ..Patience::default()
    };
    Discord::new(Options::default(), memory).with_patience(patience)
}

fn run(
    discord: &Arc<Discord>,
    live: &watch::Sender<Arc<Live>>,
    board: &Arc<Board>,
    stop: &CancellationToken,
) -> JoinHandle<anyhow::Result<()>> {
    let reporter = Reporter::new(NAME, 1, Arc::clone(board));
    let context = Context { live: live.subscribe(), stop: stop.clone(), departure: watch::channel(None).1, reporter };
    let discord = Arc::clone(discord);
    tokio::spawn(async move { discord.run(context).await })
}

fn document(simulator: &Simulator) -> String {
    format!(
        "[discord]\ntoken = {{ secret = \"bot\", key = \"TOKEN\" }}\napi_url = \"{}\"\n[run]\ndrain = \"2s\"\n",
        simulator.url()
    )
}

fn config(simulator: &Simulator) -> Config {
    Config::load(document(simulator).as_bytes()).unwrap()
}

fn secrets(token: &str) -> SecretValues {
    let secret = Secret { value: SecretString::from(token), version: None };
    SecretValues(BTreeMap::from([("discord.token".to_owned(), secret)]))
}

async fn prepare(
    simulator: &Simulator,
    discord: &Discord,
    token: &str,
    running: Option<&Live>,
    asked: bool,
) -> Result<Readiness, Vec<Problem>> {
    let (config, secrets) = (config(simulator), secrets(token));
    let next = Next { config: &config, secrets: &secrets, asked };
    discord.prepare(&next, running).await.map(Readiness::Ready)
}

fn state(simulator: &Simulator, token: &str, part: Readiness, responder: Arc<dyn Responder>) -> Live {
    Live {
        change: ChangeId(1),
        version: Version("1".to_owned()),
        config: Arc::new(config(simulator)),
        secrets: secrets(token),
        responder,
        parts: BTreeMap::from([(NAME, part)]),
    }
}

pub struct Echo;

#[async_trait]
impl Responder for Echo {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Ok(ask.message.to_owned())
    }
}

/// Panics at one text and echoes the others.
pub struct PanicsAt(pub &'static str);

#[async_trait]
impl Responder for PanicsAt {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        assert_ne!(ask.message, self.0);
        Ok(ask.message.to_owned())
    }
}

/// Answers once for each permit.
pub struct Slow(pub Semaphore);

#[async_trait]
impl Responder for Slow {
    async fn answer(&self, ask: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        self.0.acquire().await.expect("it is never closed").forget();
        Ok(ask.message.to_owned())
    }
}

pub struct Broken;

#[async_trait]
impl Responder for Broken {
    async fn answer(&self, _: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Err(Failure::new(Why::Broken, "the model is out to lunch"))
    }
}

/// Says the same to everybody.
pub struct Says(pub String);

#[async_trait]
impl Responder for Says {
    async fn answer(&self, _: Ask<'_>, _: Deltas) -> Result<String, Failure> {
        Ok(self.0.clone())
    }
}

/// Writes an answer piece by piece, one for each permit, and remembers what it was asked.
pub struct Writes {
    pub pieces: Vec<String>,
    pub permits: Semaphore,
    /// How it ends, where that is not well.
    pub failure: Option<Why>,
    pub asked: Mutex<Vec<Heard>>,
}

/// What a responder was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub message: String,
    pub earlier: Vec<String>,
    pub files: Vec<String>,
}

impl Writes {
    /// As fast as it is read.
    pub fn at_once<S: Into<String>>(pieces: impl IntoIterator<Item = S>) -> Arc<Writes> {
        Writes::slowly(pieces, Semaphore::MAX_PERMITS)
    }

    /// So many pieces at once, and then one for each permit.
    pub fn slowly<S: Into<String>>(pieces: impl IntoIterator<Item = S>, permits: usize) -> Arc<Writes> {
        Arc::new(Writes::new(pieces, permits, None))
    }

    pub fn failing<S: Into<String>>(pieces: impl IntoIterator<Item = S>, failure: Why) -> Arc<Writes> {
        Arc::new(Writes::new(pieces, Semaphore::MAX_PERMITS, Some(failure)))
    }

    fn new<S: Into<String>>(pieces: impl IntoIterator<Item = S>, permits: usize, failure: Option<Why>) -> Writes {
        let pieces = pieces.into_iter().map(Into::into).collect();
        Writes { pieces, permits: Semaphore::new(permits), failure, asked: Mutex::default() }
    }

    pub fn asked(&self) -> Vec<Heard> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Responder for Writes {
    async fn answer(&self, ask: Ask<'_>, deltas: Deltas) -> Result<String, Failure> {
        self.asked.lock().unwrap().push(Heard {
            message: ask.message.to_owned(),
            earlier: ask.earlier.iter().map(|turn| turn.text.clone()).collect(),
            files: ask.files.iter().map(|file| format!("{file}: {:?}", file.content())).collect(),
        });
        for piece in &self.pieces {
            self.permits.acquire().await.expect("it is never closed").forget();
            deltas.send(piece).await;
        }
        match self.failure {
            None => Ok(self.pieces.concat()),
            Some(why) => Err(Failure::new(why, "the model is out to lunch")),
        }
    }
}
