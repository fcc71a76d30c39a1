//! The HTTP side: the chat endpoint, its page, and health for load balancers.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chat::history::History;
use crate::config::{Config, Place};
use crate::limits::Limits;
use crate::service::{Cause, Context, Live, Next, Part, Problem, Readiness, Service, State};

mod answering;
mod arrival;
mod bind;
mod chat;
mod client;
mod connections;
mod conversations;
mod doors;
mod headers;
mod health;
mod metrics;
mod origins;
mod page;
mod person;
mod probe;
mod problem;
mod request_id;
mod router;

pub use metrics::Requests;

/// This service's name.
pub const NAME: &str = "http";

/// What the service works with and does not end with it, however often it is started again.
#[derive(Clone)]
pub struct Resources {
    pub requests: Arc<Requests>,
    pub history: Arc<History>,
    pub limits: Arc<Limits>,
}

/// The HTTP service.
pub struct Http {
    /// What systemd opened for perch. It stays open there, so it is never given up here, whatever the configuration
    /// asks for: it could not be bound anew.
    inherited: BTreeMap<SocketAddr, Arc<TcpListener>>,
    resources: Resources,
    room: Arc<Semaphore>,
}

/// Of the files that the process may open, so many are not for connections: S3, Discord, the admin socket, the state.
const RESERVED_FILES: u64 = 64;
/// More connections than this are not taken at once, whatever the process may open.
const MOST_CONNECTIONS: u64 = 50_000;

/// What `prepare` makes: sockets that are bound and listening.
struct Listeners {
    bound: BTreeMap<SocketAddr, Arc<TcpListener>>,
}

impl Http {
    /// A service that uses the `inherited` sockets where their addresses are asked for, and takes so many connections at
    /// once as leave some of the process' open `files` for other things.
    #[must_use]
    pub fn new(inherited: Vec<TcpListener>, resources: Resources, files: u64) -> Self {
        // With few files, half of them.
        let room = files.saturating_sub(RESERVED_FILES).max(files / 2).min(MOST_CONNECTIONS);
        let room = Arc::new(Semaphore::new(usize::try_from(room).unwrap_or(Semaphore::MAX_PERMITS)));
        let named = |socket: TcpListener| Some((socket.local_addr().ok()?, Arc::new(socket)));
        Http { inherited: inherited.into_iter().filter_map(named).collect(), resources, room }
    }

    /// The listener for `address`: the one in use, one from systemd, or a new one.
    fn listener(
        &self,
        address: SocketAddr,
        place: Place,
        running: Option<&Listeners>,
    ) -> Result<Arc<TcpListener>, Problem> {
        if let Some(listener) = running.and_then(|running| running.bound.get(&address)) {
            return Ok(Arc::clone(listener));
        }
        if let Some(socket) = self.passed(address) {
            return Ok(Arc::clone(socket));
        }
        let bound = bind::bind(address, running.into_iter().flat_map(|running| running.bound.keys().copied()));
        bound.map(Arc::new).map_err(|text| Problem { place, text, cause: Cause::Broken })
    }

    /// What systemd opened for `address`.
    fn passed(&self, address: SocketAddr) -> Option<&Arc<TcpListener>> {
        self.inherited.iter().find(|(opened, _)| takes(**opened, address)).map(|(_, socket)| socket)
    }

    fn door(&self, address: SocketAddr, socket: &Arc<TcpListener>) -> connections::Door {
        let shared = self.passed(address).is_some();
        connections::Door { socket: Arc::clone(socket), shared, room: Arc::clone(&self.room) }
    }
}

/// Whether a socket that is open at `opened` is what `address` asks for: the same address, or every address of the
/// port. `ListenStream=8080` opens `[::]:8080`, which takes IPv4 as well (systemd.socket(5), `BindIPv6Only=`).
fn takes(opened: SocketAddr, address: SocketAddr) -> bool {
    opened == address
        || (opened.port() == address.port() && opened.ip().is_unspecified() && address.ip().is_unspecified())
}

/// Leaves the listeners that do not stay.
fn leave(open: &mut BTreeMap<SocketAddr, CancellationToken>, stays: impl Fn(&SocketAddr) -> bool) {
    open.retain(|address, leave| {
        let stays = stays(address);
        if !stays {
            leave.cancel();
        }
        stays
    });
}

#[async_trait]
impl Service for Http {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wanted(&self, config: &Config) -> bool {
        config.http.is_some()
    }

    async fn prepare(&self, next: &Next<'_>, running: Option<&Live>) -> Result<Part, Vec<Problem>> {
        let Some(http) = &next.config.http else { return Err(Vec::new()) };
        let running = running.and_then(|live| live.part::<Listeners>(NAME));
        let listener =
            self.listener(http.listen, http.place.clone(), running.as_deref()).map_err(|problem| vec![problem])?;
        Ok(Arc::new(Listeners { bound: BTreeMap::from([(http.listen, listener)]) }))
    }

    async fn probe(&self, live: &Live) -> Result<(), String> {
        for address in live.part::<Listeners>(NAME).iter().flat_map(|listeners| listeners.bound.keys()) {
            probe::probe(*address).await?;
        }
        Ok(())
    }

    /// What systemd opened is not left unread: its clients would wait for ever.
    async fn idle(&self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        for (address, socket) in &self.inherited {
            connections.spawn(connections::serve(self.door(*address, socket), router::waiting(), stop.clone()));
        }
        stop.cancelled().await;
        while connections.join_next().await.is_some() {}
    }

    async fn run(&self, mut context: Context) -> anyhow::Result<()> {
        let app = router::app(&context, self.resources.clone());
        let closed = router::closed(&context, self.resources.clone());
        // With this task ends all that it started, even when it panics.
        let mut connections = JoinSet::new();
        let mut open: BTreeMap<SocketAddr, CancellationToken> = BTreeMap::new();
        let mut unasked: BTreeMap<SocketAddr, CancellationToken> = BTreeMap::new();
        loop {
            let live = Arc::clone(&context.live.borrow_and_update());
            let listeners = live.part::<Listeners>(NAME);
            let bound = listeners.as_deref().map(|listeners| &listeners.bound);
            let stays = |address: &SocketAddr| bound.is_some_and(|bound| bound.contains_key(address));
            let asked = |opened: SocketAddr| bound.into_iter().flatten().any(|(address, _)| takes(opened, *address));
            leave(&mut unasked, |opened| !asked(*opened));
            // The new address is bound and served before the old one is left.
            for (address, socket) in bound.into_iter().flatten() {
                open.entry(*address).or_insert_with(|| {
                    let token = CancellationToken::new();
                    connections.spawn(connections::serve(self.door(*address, socket), app.clone(), token.clone()));
                    token
                });
            }
            leave(&mut open, stays);
            for (address, socket) in self.inherited.iter().filter(|(opened, _)| !asked(**opened)) {
                unasked.entry(*address).or_insert_with(|| {
                    tracing::warn!(
                        service = NAME,
                        change = %live.change,
                        config_version = %live.version,
                        "systemd opened {address}, which the configuration does not listen on: whoever connects there is \
                         answered with 503"
                    );
                    let token = CancellationToken::new();
                    connections.spawn(connections::serve(self.door(*address, socket), closed.clone(), token.clone()));
                    token
                });
            }
            let addresses: Vec<String> = open.keys().map(ToString::to_string).collect();
            context.reporter.details(json!({ "listeners": addresses }));
            match live.parts.get(NAME) {
                Some(Readiness::Held { state, reason }) => context.reporter.state(*state, reason.clone()),
                _ => context.reporter.state(State::Running, String::new()),
            }
            drop((live, listeners));
            tokio::select! {
                () = context.stop.cancelled() => break,
                changed = context.live.changed() => if changed.is_err() { break },
                Some(left) = connections.join_next() => left??,
            }
        }
        context.reporter.state(State::Draining, "finishing what is in flight");
        leave(&mut open, |_| false);
        leave(&mut unasked, |_| false);
        while let Some(left) = connections.join_next().await {
            left??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_for_the_whole_port_is_taken_for_every_address_of_it() {
        let takes = |opened: &str, address: &str| takes(opened.parse().unwrap(), address.parse().unwrap());
        assert!(takes("[::]:8080", "0.0.0.0:8080"));
        assert!(takes("127.0.0.1:8080", "127.0.0.1:8080"));
        assert!(!takes("[::]:8081", "0.0.0.0:8080"));
        assert!(!takes("[::]:8080", "127.0.0.1:8080"));
        assert!(!takes("127.0.0.1:8080", "0.0.0.0:8080"));
    }
}
