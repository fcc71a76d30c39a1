//! The HTTP side: the chat endpoint, its page, and health for load balancers.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ServerConfig;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::chat::history::History;
use crate::config::{Config, Place, http_tls};
use crate::limits::Limits;
use crate::rooms::Rooms;
use crate::service::{Cause, Context, Live, Next, Part, Problem, Readiness, Service, State};

mod acme;
mod afterwards;
mod arrival;
mod bind;
mod chat;
mod client;
mod completions;
mod connection;
mod connections;
mod content;
mod conversations;
mod crowd;
mod doors;
mod front;
mod headers;
mod health;
mod metrics;
mod openapi;
mod origins;
mod page;
mod patience;
mod person;
mod probe;
mod problem;
mod request_id;
mod router;
mod shape;
mod sign_in;
mod tls;
mod unreadable;
mod visit;
mod ws;

pub use metrics::Requests;
pub use openapi::document as openapi;
pub use tls::examine;
pub use ws::Sockets;

use acme::kept::Kept;
use chat::Flood;
use crowd::Crowd;
use tls::Certificates;
use tls::certificate::{Certificate, Flaw};
use tls::keeper::Keeper;

/// This service's name.
pub const NAME: &str = "http";

/// What the service works with and does not end with it, however often it is started again.
#[derive(Clone)]
pub struct Resources {
    pub requests: Arc<Requests>,
    pub history: Arc<History>,
    pub limits: Arc<Limits>,
    pub rooms: Arc<Rooms>,
}

/// The HTTP service.
pub struct Http {
    /// What systemd opened for perch. It stays open there, so it is never given up here, whatever the configuration
    /// asks for: it could not be bound anew.
    inherited: BTreeMap<SocketAddr, Arc<TcpListener>>,
    resources: Resources,
    room: Arc<Semaphore>,
    certificates: Arc<Certificates>,
    encryption: Arc<ServerConfig>,
    kept: Arc<Kept>,
    flood: Arc<Flood>,
}

/// Of the files that the process may open, so many are not for connections: S3, Discord, the admin socket, the state.
const RESERVED_FILES: u64 = 64;
/// More connections than this are not taken at once, whatever the process may open.
const MOST_CONNECTIONS: u64 = 50_000;
/// So long before the drain's deadline answers are cut off, so that whoever waits for one hears of it: no more than a
/// quarter of the drain.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What `prepare` makes: sockets that are bound and listening, and the certificate where it is in files.
struct Listeners {
    bound: BTreeMap<SocketAddr, Arc<TcpListener>>,
    /// The one of them where TLS is spoken.
    encrypted: Option<SocketAddr>,
    certificate: Option<Arc<Certificate>>,
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
        let certificates = Arc::new(Certificates::default());
        let encryption = certificates.server_config();
        let inherited = inherited.into_iter().filter_map(named).collect();
        Http { inherited, resources, room, certificates, encryption, kept: Arc::default(), flood: Arc::default() }
    }

    /// Keeps what ACME needs from one process to the next in this state directory, once somebody holds that.
    #[must_use]
    pub fn keeping(mut self, state_dir: &Path) -> Self {
        self.kept = Arc::new(Kept::in_state(state_dir));
        self
    }

    /// The listener for `address`: the one in use, one from systemd, or a new one.
    fn listener(
        &self,
        address: SocketAddr,
        encrypted: bool,
        place: Place,
        running: Option<&Listeners>,
    ) -> Result<Arc<TcpListener>, Problem> {
        if let Some((running, listener)) = running.and_then(|running| Some((running, running.bound.get(&address)?))) {
            // The same socket can't be left and stay.
            if (running.encrypted == Some(address)) != encrypted {
                let now = if encrypted { "HTTP" } else { "HTTPS" };
                let text = format!(
                    "{address} is where perch answers {now} now; go by way of another port, or restart perch with the \
                     new configuration"
                );
                return Err(Problem { place, text, cause: Cause::Broken });
            }
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

    /// `encrypted` where TLS is spoken.
    fn door(
        &self,
        address: SocketAddr,
        socket: &Arc<TcpListener>,
        encrypted: bool,
        crowd: &Crowd,
    ) -> connections::Door {
        connections::Door {
            socket: Arc::clone(socket),
            shared: self.passed(address).is_some(),
            room: Arc::clone(&self.room),
            crowd: crowd.clone(),
            tls: encrypted.then(|| Arc::clone(&self.encryption)),
        }
    }

    /// Serves the certificate that came with `live`, and has whatever `live` says keep it fresh.
    fn certify(&self, live: &Live, keeper: &mut Keeper) {
        let tls = live.config.http.as_ref().and_then(|http| http.tls.as_ref());
        let pace = live.config.reload.poll;
        let begins = keeper.follow(tls.map(|tls| (&tls.certificate, pace)), || {
            let (source, certificates) = (tls.map(|tls| tls.certificate.clone()), Arc::clone(&self.certificates));
            let kept = Arc::clone(&self.kept);
            async move {
                match source {
                    Some(http_tls::Certificate::Files(files)) => tls::files::follow(files, pace, certificates).await,
                    Some(http_tls::Certificate::Acme(acme)) => acme::keep(acme, certificates, kept).await,
                    None => {}
                }
            }
        });
        match live.part::<Listeners>(NAME).and_then(|listeners| listeners.certificate.clone()) {
            // Who follows the same files already has what is in them, or newer.
            Some(read) if begins => self.certificates.serve(&read),
            None if tls.is_none() => self.certificates.clear(),
            _ => {}
        }
    }
}

/// The certificate in `files`, or the one in use where these are the files that are followed already: those who follow
/// them say what is wrong with them.
async fn certificate(
    files: &http_tls::Files,
    running: Option<(&Config, &Listeners)>,
    served: Option<Arc<Certificate>>,
) -> Result<Arc<Certificate>, Problem> {
    let read = match Certificate::read(&files.cert, &files.key).await {
        Ok(certificate) => return Ok(Arc::new(certificate)),
        Err(flaw) => flaw,
    };
    let followed = running.and_then(|(config, listeners)| match &config.http.as_ref()?.tls.as_ref()?.certificate {
        http_tls::Certificate::Files(own) => {
            ((&own.cert, &own.key) == (&files.cert, &files.key)).then(|| served.or(listeners.certificate.clone()))?
        }
        http_tls::Certificate::Acme(_) => None,
    });
    followed.ok_or_else(|| {
        let (place, text) = match read {
            Flaw::Cert(text) => (files.cert_place.clone(), text),
            Flaw::Key(text) => (files.key_place.clone(), text),
        };
        // Whoever writes the files may be late: at the start the others serve meanwhile.
        Problem { place, text, cause: Cause::Missing }
    })
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
        let before = running.and_then(|live| live.part::<Listeners>(NAME));
        let mut problems = Vec::new();
        let mut made = Listeners { bound: BTreeMap::new(), encrypted: None, certificate: None };
        let mut wanted = vec![(http.listen, false, &http.place)];
        if let Some(tls) = &http.tls {
            made.encrypted = Some(tls.listen);
            wanted.push((tls.listen, true, &tls.place));
            if let http_tls::Certificate::Files(files) = &tls.certificate {
                let running = running.map(|live| &*live.config).zip(before.as_deref());
                match certificate(files, running, self.certificates.served()).await {
                    Ok(certificate) => made.certificate = Some(certificate),
                    Err(problem) => problems.push(problem),
                }
            }
        }
        for (address, encrypted, place) in wanted {
            match self.listener(address, encrypted, place.clone(), before.as_deref()) {
                Ok(listener) => drop(made.bound.insert(address, listener)),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Arc::new(made)) } else { Err(problems) }
    }

    async fn probe(&self, live: &Live) -> Result<(), String> {
        let Some(listeners) = live.part::<Listeners>(NAME) else { return Ok(()) };
        for address in listeners.bound.keys().filter(|address| listeners.encrypted != Some(**address)) {
            probe::probe(*address).await?;
        }
        // Before there is a certificate nobody can be answered there, which is not the configuration's fault.
        match listeners.encrypted.zip(self.certificates.served()) {
            Some((address, served)) => probe::probe_encrypted(address, &served).await,
            None => Ok(()),
        }
    }

    fn asked(&self) {
        self.certificates.asked.notify_waiters();
    }

    /// What systemd opened is not left unread: its clients would wait for ever.
    async fn idle(&self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let crowd = Crowd::new(&self.resources.limits, None);
        for (address, socket) in &self.inherited {
            connections.spawn(connections::serve(
                self.door(*address, socket, false, &crowd),
                router::waiting(),
                stop.clone(),
            ));
        }
        stop.cancelled().await;
        while connections.join_next().await.is_some() {}
    }

    async fn run(&self, mut context: Context) -> anyhow::Result<()> {
        let last_call = CancellationToken::new();
        let app = router::app(&context, self, last_call.clone());
        let closed = router::closed(&context, self);
        let crowd = Crowd::new(&self.resources.limits, Some(context.live.clone()));
        let tended = self.resources.rooms.tend();
        let calmed = self.flood.give_back();
        tokio::pin!(tended, calmed);
        // With this task ends all that it started, even when it panics.
        let mut connections = JoinSet::new();
        let mut open: BTreeMap<SocketAddr, CancellationToken> = BTreeMap::new();
        let mut unasked: BTreeMap<SocketAddr, CancellationToken> = BTreeMap::new();
        let mut standing = self.certificates.changes();
        let mut keeper = Keeper::default();
        loop {
            let live = Arc::clone(&context.live.borrow_and_update());
            self.certify(&live, &mut keeper);
            let listeners = live.part::<Listeners>(NAME);
            let bound = listeners.as_deref().map(|listeners| &listeners.bound);
            let stays = |address: &SocketAddr| bound.is_some_and(|bound| bound.contains_key(address));
            let asked = |opened: SocketAddr| bound.into_iter().flatten().any(|(address, _)| takes(opened, *address));
            leave(&mut unasked, |opened| !asked(*opened));
            // The new address is bound and served before the old one is left.
            for (address, socket) in bound.into_iter().flatten() {
                open.entry(*address).or_insert_with(|| {
                    let token = CancellationToken::new();
                    let encrypted = listeners.as_deref().is_some_and(|made| made.encrypted == Some(*address));
                    let door = self.door(*address, socket, encrypted, &crowd);
                    connections.spawn(connections::serve(door, app.clone(), token.clone()));
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
                    let door = self.door(*address, socket, false, &crowd);
                    connections.spawn(connections::serve(door, closed.clone(), token.clone()));
                    token
                });
            }
            let addresses: Vec<String> = open.keys().map(ToString::to_string).collect();
            let mut details = json!({ "listeners": addresses });
            if let Some(tls) = live.config.http.as_ref().and_then(|http| http.tls.as_ref()) {
                details["tls"] = self.certificates.show(&tls.certificate.to_string());
            }
            context.reporter.details(details);
            match live.parts.get(NAME) {
                Some(Readiness::Held { state, reason }) => context.reporter.state(*state, reason.clone()),
                _ => context.reporter.state(State::Running, String::new()),
            }
            drop((live, listeners));
            tokio::select! {
                () = context.stop.cancelled() => break,
                changed = context.live.changed() => if changed.is_err() { break },
                // It is shown anew; those who change it live as long as this.
                _ = standing.changed() => {}
                () = keeper.died() => {}
                Some(left) = connections.join_next() => left??,
                () = tended.as_mut() => {}
                () = calmed.as_mut() => {}
            }
        }
        context.reporter.state(State::Draining, "finishing what is in flight");
        leave(&mut open, |_| false);
        leave(&mut unasked, |_| false);
        let drain = context.live.borrow().config.run.drain;
        let late = sleep(drain.saturating_sub(LAST_WORDS.min(drain / 4)));
        tokio::pin!(late);
        loop {
            tokio::select! {
                left = connections.join_next() => match left {
                    Some(left) => left??,
                    None => return Ok(()),
                },
                () = late.as_mut(), if !last_call.is_cancelled() => {
                    let answers = self.resources.history.under_way();
                    if answers > 0 {
                        tracing::warn!(
                            service = NAME,
                            "answers cut off by the drain's deadline of {} s: {answers}; what was said of them is kept",
                            drain.as_secs()
                        );
                    }
                    last_call.cancel();
                }
            }
        }
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
