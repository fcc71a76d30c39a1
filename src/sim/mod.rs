//! A Discord to talk to without Discord: gateway, REST, a page, and a control interface to make it misbehave.
//!
//! `perch dev` runs it, and so do the tests. It follows the documentation of gateway version 10 and of the REST API;
//! the sections are named where they are followed. One server has three faces:
//!
//! ```text
//!   /api/v10/…    rest/      what a bot calls              ┐
//!   /gateway…     gateway/   what a bot listens to         ├── state.rs (one lock) ── world.rs, messages.rs, files.rs
//!   /, /sim/…     control/   what people and tests drive   ┘
//! ```

mod control;
mod counters;
mod faults;
mod files;
mod gateway;
mod mentions;
mod messages;
mod rate_limit;
mod render;
mod rest;
mod server;
mod snowflake;
mod state;
mod world;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub use control::channels::{ChangeChannel, NewChannel};
pub use control::say::Say;
pub use control::settings::Settings;
pub use counters::{Counters, Violation};
pub use faults::{Fault, Order, Scope, When};
pub use files::{File, Trouble as FileTrouble};
pub use gateway::events::intent;
pub use rate_limit::RateLimits;
pub use snowflake::Snowflake;

use state::Shared;

/// The token the simulator takes unless told otherwise. Nobody's; it has the shape of one.
pub const DEFAULT_TOKEN: &str = "MTEwMDAwMDAwMDAwMDAwMDAxMA.perch.simulator-token-opens-nothing";

/// How the simulator behaves. The defaults are Discord's.
#[derive(Clone)]
pub struct Options {
    pub listen: SocketAddr,
    pub token: String,
    /// Serves everything over TLS on `listen`; gateway and control interface are then on a second, plain listener.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub bot_name: String,
    pub heartbeat_interval: Duration,
    /// How far apart IDENTIFYs must be (5 s on Discord).
    pub identify_spacing: Duration,
    /// How long a session without a connection can be resumed ("a few minutes").
    pub session_ttl: Duration,
    /// How many events a session keeps for RESUME.
    pub replay_limit: usize,
    pub rate_limits: RateLimits,
    /// Bits of the privileged intents enabled for the application; see [`intent`].
    pub privileged_intents: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            token: DEFAULT_TOKEN.to_owned(),
            tls: None,
            bot_name: "perch".to_owned(),
            heartbeat_interval: Duration::from_millis(41_250),
            identify_spacing: Duration::from_secs(5),
            session_ttl: Duration::from_mins(3),
            replay_limit: 1_000,
            rate_limits: RateLimits::default(),
            privileged_intents: 0,
        }
    }
}

/// A running simulator. Its tasks end with [`Simulator::stop`], or when it is dropped.
pub struct Simulator {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Simulator {
    /// Binds the listeners and starts to serve.
    ///
    /// # Errors
    /// When an address can't be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let acceptor = options.tls.clone().map(TlsAcceptor::from);
        let second = match &acceptor {
            Some(_) => Some(TcpListener::bind((address.ip(), 0)).await?),
            None => None,
        };
        let plain = match &second {
            Some(listener) => listener.local_addr()?,
            None => address,
        };
        let shared = Arc::new(Shared::new(options, plain));
        let router = router(&shared);
        drop(shared.tasks.spawn(server::serve(Arc::clone(&shared), listener, acceptor, router.clone())));
        if let Some(listener) = second {
            drop(shared.tasks.spawn(server::serve(Arc::clone(&shared), listener, None, router)));
        }
        Ok(Self { shared, address })
    }

    /// Where it listens: with TLS, if it was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base address of the REST API, as perch's `discord.api_url` wants it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.shared.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The base address of the page and the control interface, always plain.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("http://{}", self.shared.plain)
    }

    /// Somebody says something. Returns the message, with `pinged`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn say(&self, say: Say) -> Result<Value, String> {
        control::say::say(&mut self.shared.state(), say).map_err(|problem| problem.to_string())
    }

    /// Sets a fault, or does it at once. Returns its number, if it stays.
    pub fn fault(&self, order: impl Into<Order>) -> Option<u64> {
        control::faults::set(&mut self.shared.state(), order.into())
    }

    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.state().counters.clone()
    }

    /// What `GET /sim/state` answers.
    #[must_use]
    pub fn state(&self) -> Value {
        control::overview::state(&self.shared.state(), &self.shared)
    }

    /// The messages of a channel, by id or name, oldest first, with `pinged`.
    #[must_use]
    pub fn messages(&self, channel: &str) -> Vec<Value> {
        control::say::list(&self.shared.state(), channel, None)
    }

    /// Changes tokens, intents, limits; see [`Settings`].
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn change(&self, settings: Settings) -> Result<(), String> {
        control::settings::change(&mut self.shared.state(), settings).map_err(|problem| problem.to_string())
    }

    /// Forgets every session, as Discord does when a bot stays away too long. Connections stay as they are.
    pub fn expire_sessions(&self) {
        self.shared.state().sessions.clear();
    }

    /// Waits until `look` finds something in [`Simulator::state`], looking again whenever something happens.
    /// `None` when `patience` runs out.
    pub async fn until<T>(&self, patience: Duration, mut look: impl FnMut(&Value) -> Option<T>) -> Option<T> {
        let mut happenings = self.shared.state().listen();
        let found = async {
            loop {
                if let Some(found) = look(&self.state()) {
                    return Some(found);
                }
                // Lagging behind is no matter: the state is looked at as a whole.
                if let Err(tokio::sync::broadcast::error::RecvError::Closed) = happenings.recv().await {
                    return None;
                }
            }
        };
        tokio::time::timeout(patience, found).await.ok().flatten()
    }

    /// Ends every connection and task, and waits for them.
    pub async fn stop(self) {
        self.shared.shutdown.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shared.shutdown.cancel();
    }
}

/// Every route on one line is in the three faces' own routers.
fn router(shared: &Arc<Shared>) -> Router {
    use axum::routing::get;
    Router::new()
        .route("/gateway", get(gateway::connect_first))
        .route("/gateway/", get(gateway::connect_first))
        .route("/gateway/resume", get(gateway::connect_resume))
        .route("/gateway/resume/", get(gateway::connect_resume))
        .route("/attachments/{channel}/{id}/{name}", get(files::file))
        .merge(control::router())
        .merge(rest::router(shared))
        .with_state(Arc::clone(shared))
}
