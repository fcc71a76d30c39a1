//! The HTTP side: the chat endpoint, its page, and health for load balancers.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Place};
use crate::service::{Cause, Context, Live, Next, Part, Problem, Service, State};

mod bind;
mod chat;
mod connections;
mod conversation;
mod health;
mod metrics;
mod page;
mod problem;
mod request_id;
mod router;

pub use metrics::Requests;

/// This service's name.
pub const NAME: &str = "http";

/// The HTTP service.
pub struct Http {
    /// What systemd opened for perch. It is kept even while no configuration asks for it: systemd keeps it bound, so
    /// no other socket could take its place.
    inherited: Vec<TcpListener>,
    requests: Arc<Requests>,
}

/// What `prepare` makes: sockets that are bound and listening.
struct Listeners {
    bound: BTreeMap<SocketAddr, Arc<TcpListener>>,
}

impl Http {
    /// A service that uses the `inherited` sockets where their addresses are asked for, and counts into `requests`.
    #[must_use]
    pub fn new(inherited: Vec<TcpListener>, requests: Arc<Requests>) -> Self {
        Http { inherited, requests }
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
        let inherited = self.inherited.iter().find(|socket| socket.local_addr().is_ok_and(|local| local == address));
        let bound = match inherited {
            Some(socket) => {
                socket.set_nonblocking(true).and_then(|()| socket.try_clone()).map_err(|error| error.to_string())
            }
            None => bind::bind(address, running.into_iter().flat_map(|running| running.bound.keys().copied())),
        };
        bound.map(Arc::new).map_err(|text| Problem { place, text, cause: Cause::Broken })
    }
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

    async fn run(&self, mut context: Context) -> anyhow::Result<()> {
        let app = router::app(context.live.clone(), context.stop.clone(), Arc::clone(&self.requests));
        let connections = TaskTracker::new();
        let mut open: BTreeMap<SocketAddr, CancellationToken> = BTreeMap::new();
        loop {
            let live = Arc::clone(&context.live.borrow_and_update());
            let listeners = live.part::<Listeners>(NAME);
            let bound = listeners.as_deref().map(|listeners| &listeners.bound);
            // The new address is bound and served before the old one is left.
            for (address, listener) in bound.into_iter().flatten() {
                if !open.contains_key(address) {
                    let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
                    // Not a child of `context.stop`: after a panic here, connections must end with this task.
                    let leave = CancellationToken::new();
                    connections.spawn(connections::serve(listener, app.clone(), leave.clone()));
                    open.insert(*address, leave);
                }
            }
            open.retain(|address, leave| {
                let stays = bound.is_some_and(|bound| bound.contains_key(address));
                if !stays {
                    leave.cancel();
                }
                stays
            });
            let addresses: Vec<String> = open.keys().map(ToString::to_string).collect();
            context.reporter.details(json!({ "listeners": addresses }));
            context.reporter.state(State::Running, String::new());
            drop((live, listeners));
            tokio::select! {
                () = context.stop.cancelled() => break,
                changed = context.live.changed() => if changed.is_err() { break },
            }
        }
        context.reporter.state(State::Draining, "finishing what is in flight");
        for leave in open.values() {
            leave.cancel();
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_from_systemd_outlives_a_version_that_was_refused() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        // systemd keeps its own.
        let _systemds = socket.try_clone().unwrap();
        let http = Http::new(vec![socket], Arc::default());
        for _ in 0..2 {
            let listener = http.listener(address, Place::default(), None);
            assert_eq!(listener.map(|listener| listener.local_addr().unwrap()), Ok(address));
        }
    }
}
