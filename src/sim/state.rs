//! Everything the simulator knows, behind one lock, and what its tasks share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Options;
use super::counters::Counters;
use super::faults::Faults;
use super::files::Files;
use super::gateway::events::Event;
use super::gateway::session::Sessions;
use super::gateway::starts::Starts;
use super::rate_limit::Limits;
use super::world::World;

/// How many happenings a slow listener of `/sim/events` may lag behind before it misses some.
const HAPPENINGS_KEPT: usize = 1024;

/// What is told to the task of one gateway connection.
pub enum Outgoing {
    Text(String),
    Close(u16, String),
    /// End without a close frame.
    Cut,
}

/// A gateway connection as the page shows it.
#[derive(Serialize)]
pub struct Connection {
    pub id: u64,
    pub phase: Phase,
    pub since_ms: u64,
    pub session: Option<String>,
    pub heartbeats: u64,
    pub latency_ms: Option<f64>,
    #[serde(skip)]
    pub outgoing: mpsc::UnboundedSender<Outgoing>,
}

impl Connection {
    /// A connection that has ended by itself has nobody left to tell.
    pub fn tell(&self, outgoing: Outgoing) {
        drop(self.outgoing.send(outgoing));
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Greeting,
    Identifying,
    Ready,
}

pub struct State {
    pub world: World,
    pub counters: Counters,
    pub faults: Faults,
    pub limits: Limits,
    pub sessions: Sessions,
    pub connections: BTreeMap<u64, Connection>,
    pub starts: Starts,
    /// The tokens Discord takes for this bot's. Never shown.
    pub tokens: Vec<String>,
    /// Bits of the privileged intents enabled in the developer portal.
    pub privileged_intents: u64,
    pub nonces: super::messages::Nonces,
    pub files: Files,
    happenings: broadcast::Sender<Arc<str>>,
}

impl State {
    fn new(options: &Options, plain: SocketAddr) -> Self {
        let tls = options.tls.is_some();
        Self {
            world: World::demo(&options.bot_name),
            counters: Counters::default(),
            faults: Faults::default(),
            limits: Limits::new(options.rate_limits.clone()),
            sessions: Sessions::new(options.session_ttl, options.replay_limit),
            connections: BTreeMap::new(),
            starts: Starts::new(options.identify_spacing),
            tokens: vec![options.token.clone()],
            privileged_intents: options.privileged_intents,
            nonces: super::messages::Nonces::default(),
            files: Files::at(if tls { "https://cdn.discordapp.com".to_owned() } else { format!("http://{plain}") }),
            happenings: broadcast::Sender::new(HAPPENINGS_KEPT),
        }
    }

    /// Whether a token is the bot's, written with or without the prefix that REST wants.
    pub fn accepts(&self, token: &str) -> bool {
        let token = token.strip_prefix("Bot ").unwrap_or(token);
        self.tokens.iter().any(|accepted| accepted == token)
    }

    /// Tells the page. That nobody listens is no fault.
    pub fn happened(&self, kind: &str, mut what: Value) {
        what["type"] = json!(kind);
        drop(self.happenings.send(what.to_string().into()));
    }

    pub fn listen(&self) -> broadcast::Receiver<Arc<str>> {
        self.happenings.subscribe()
    }

    pub fn violation(&mut self, what: impl Into<String>) {
        let violation = self.counters.violation(what);
        self.happened("violation", json!({ "violation": violation }));
    }

    /// Sends an event to every session that asked for its kind.
    pub fn dispatch(&mut self, event: &Event) {
        self.sessions.expire(Instant::now());
        self.sessions.dispatch(&self.world, event);
    }

    /// Tells the page how the connections stand.
    pub fn gateway_changed(&self) {
        self.happened("gateway", self.gateway());
    }

    pub fn gateway(&self) -> Value {
        json!({
            "connections": self.connections.values().collect::<Vec<_>>(),
            "sessions": self.sessions.list(),
            "counters": self.counters,
            "starts": self.starts.object(Instant::now()),
            "faults": self.faults.list(),
        })
    }
}

/// What the tasks of one simulator share.
pub struct Shared {
    pub options: Options,
    /// Where plain HTTP and the gateway are.
    pub plain: SocketAddr,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
    state: Mutex<State>,
}

impl Shared {
    pub fn new(options: Options, plain: SocketAddr) -> Self {
        let state = Mutex::new(State::new(&options, plain));
        Self { options, plain, shutdown: CancellationToken::new(), tasks: TaskTracker::new(), state }
    }

    /// The lock is never held over an await, and a panic in one request leaves the others a usable state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn gateway_url(&self) -> String {
        format!("ws://{}/gateway", self.plain)
    }

    pub fn resume_gateway_url(&self) -> String {
        format!("ws://{}/gateway/resume", self.plain)
    }
}
