//! One listener's connections: accepted, brought to speak TLS where the listener does, and let finish when it is left.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::connection::{self, Answerer, Place, Protocol, Stream};
use super::crowd::Crowd;
use super::patience;
use super::tls::handshake;
use crate::telemetry::panics;

/// How long to wait when the process has no descriptor left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the journal hears that nobody can be let in.
const COMPLAINT_PAUSE: Duration = Duration::from_mins(1);
/// How long what was sent may go unacknowledged, or wait for a client that takes nothing: who reads that slowly keeps
/// no memory of ours. In milliseconds (tcp(7), TCP_USER_TIMEOUT).
const UNREAD_TIMEOUT: u32 = 60_000;

/// A listener to serve.
pub struct Door {
    pub socket: Arc<TcpListener>,
    /// It is open elsewhere as well (systemd holds it): who waits in it is served by whoever accepts next.
    pub shared: bool,
    /// For so many connections at once, whatever listener they come by.
    pub room: Arc<Semaphore>,
    /// What TLS is spoken with, where it is.
    pub tls: Option<Arc<ServerConfig>>,
    /// And so many for each client.
    pub crowd: Crowd,
}

/// Serves `app` on `door` until `leave` is cancelled, then ends when every request in flight has its answer.
///
/// # Errors
/// When the runtime can't watch the listener.
pub async fn serve(door: Door, app: Answerer, leave: CancellationToken) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(door.socket.try_clone()?)?;
    // A task that dies with this one: the service's end, even by a panic, leaves no connection behind.
    let mut connections = JoinSet::new();
    let tls = door.tls.clone();
    let ended = leave.clone();
    let start = move |(stream, peer): (TcpStream, SocketAddr),
                      permit: Option<OwnedSemaphorePermit>,
                      connections: &mut JoinSet<()>| {
        // Answers are small and shall leave at once; a socket that refuses either is served all the same.
        drop(stream.set_nodelay(true));
        let _unset = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_TIMEOUT);
        let Some((seat, idle)) = door.crowd.enter(peer.ip()) else { return };
        let place = Place { _permit: permit, _seat: seat };
        let (app, leave, tls) = (app.clone(), ended.clone(), tls.clone());
        connections.spawn(panics::SERVICE.scope(super::NAME, async move {
            if !patience::begins(&stream, &leave).await {
                return;
            }
            let arrival = Arrival { peer, encrypted: tls.is_some() };
            let (stream, protocol) = match tls {
                None => (Stream::plain(stream, place), Protocol::Http1),
                Some(tls) => match handshake::encrypt(stream, tls, &leave).await {
                    Some(through) if through.http_2 => (Stream::encrypted(through.stream, place), Protocol::Http2),
                    Some(through) => (Stream::encrypted(through.stream, place), Protocol::Http1),
                    None => return,
                },
            };
            // Apart, so that who is still in the handshake takes no room for what comes after it.
            Box::pin(connection::serve(stream, protocol, arrival, idle, app, leave)).await;
        }));
    };
    let mut complaint = Complaint(None);
    loop {
        let accepted = async {
            let permit = if let Ok(permit) = Arc::clone(&door.room).try_acquire_owned() {
                Some(permit)
            } else {
                complaint.say("as many connections are open as the limit of open files allows; others wait");
                Arc::clone(&door.room).acquire_owned().await.ok()
            };
            listener.accept().await.map(|accepted| (accepted, permit))
        };
        tokio::select! {
            biased;
            () = leave.cancelled() => break,
            accepted = accepted => match accepted {
                Ok((accepted, permit)) => start(accepted, permit, &mut connections),
                Err(error) => {
                    complaint.say(&format!("no connection can be accepted: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    if !door.shared {
        // Those who connected before the listener closes are served; the kernel would reset them. No more of them
        // than can have waited, as others go on coming.
        for _ in 0..super::bind::BACKLOG {
            let Some(Ok(accepted)) = listener.accept().now_or_never() else { break };
            start(accepted, None, &mut connections);
        }
    }
    drop(listener);
    if !door.shared {
        // Closed for good, also where an older state still holds it. It fails only for one that is closed already.
        let _closed = rustix::net::shutdown(&door.socket, rustix::net::Shutdown::Both);
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// A warning that is not said again for a while.
struct Complaint(Option<Instant>);

impl Complaint {
    fn say(&mut self, text: &str) {
        if self.0.is_none_or(|last| last.elapsed() > COMPLAINT_PAUSE) {
            self.0 = Some(Instant::now());
            tracing::warn!(service = super::NAME, "{text}");
        }
    }
}
