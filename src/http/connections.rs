//! One listener's connections: accepted, served, and let finish when the listener is left.

use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use futures_util::FutureExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::arrival::Arrival;
use super::router::Answers;
use crate::telemetry::panics;

/// How long a client may take to send a request's head, and an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait when the process has no descriptor left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the journal hears that nobody can be let in.
const COMPLAINT_PAUSE: Duration = Duration::from_mins(1);
/// How long a connection without a request is kept once its listener is left: one may be on its way, and closing
/// before it comes would lose it. Its answer then says that the connection is over.
const LAST_REQUEST: Duration = Duration::from_millis(500);
/// How long the rest of a request's head may take to come after that.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// A listener to serve.
pub struct Door {
    pub socket: Arc<TcpListener>,
    /// It is open elsewhere as well (systemd holds it): who waits in it is served by whoever accepts next.
    pub shared: bool,
    /// For so many connections at once, whatever listener they come by.
    pub room: Arc<Semaphore>,
}

/// Serves `app` on `door` until `leave` is cancelled, then ends when every request in flight has its answer.
///
/// # Errors
/// When the runtime can't watch the listener.
pub async fn serve(door: Door, app: impl Answers, leave: CancellationToken) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(door.socket.try_clone()?)?;
    // A task that dies with this one: the service's end, even by a panic, leaves no connection behind.
    let mut connections = JoinSet::new();
    let start = |(stream, peer): (TcpStream, SocketAddr),
                 permit: Option<OwnedSemaphorePermit>,
                 connections: &mut JoinSet<()>| {
        // Answers are small and shall leave at once; a socket that refuses this is served all the same.
        drop(stream.set_nodelay(true));
        let (app, leave) = (app.clone(), leave.clone());
        connections.spawn(panics::SERVICE.scope(super::NAME, async move {
            connection(stream, Arrival { peer, encrypted: false }, app, leave).await;
            drop(permit);
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

/// One connection, from its first byte to its last.
async fn connection(stream: TcpStream, arrival: Arrival, app: impl Answers, leave: CancellationToken) {
    let busy = Arc::new(Busy::default());
    let service = {
        let (busy, leave) = (Arc::clone(&busy), leave.clone());
        tower::service_fn(move |mut request: hyper::Request<Incoming>| {
            busy.begin();
            request.extensions_mut().insert(arrival);
            let (app, busy, leave) = (app.clone(), Arc::clone(&busy), leave.clone());
            async move {
                // However the answer ends, or is given up.
                let done = Done(busy);
                let answer = app.oneshot(request).await;
                answer.map(|mut answer| {
                    // hyper ends the connection after it, and the client knows.
                    if leave.is_cancelled() {
                        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    // One that is all there leaves as it is; a stream is in flight until its end.
                    match answer.body().size_hint().exact() {
                        Some(_) => answer,
                        None => answer.map(|body| Body::new(Streaming { body, _done: done })),
                    }
                })
            }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = leave.cancelled() => tokio::select! {
            ended = connection.as_mut() => ended,
            // It ends with its answer, or with the drain's deadline.
            () = busy.one() => {
                // A stream has said that the connection goes on after it.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = sleep(LAST_REQUEST) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = busy.one() => connection.await,
                    () = sleep(LAST_HEAD) => return,
                }
            }
        },
    };
    if let Err(error) = ended {
        tracing::debug!(service = super::NAME, "a connection ended early: {error}");
    }
}

/// Marks the end of a request when it is dropped.
struct Done(Arc<Busy>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The body of an answer that is still being made.
struct Streaming {
    body: Body,
    _done: Done,
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether a connection has a request in flight. HTTP/1 has one at a time.
#[derive(Default)]
struct Busy {
    now: AtomicBool,
    begun: Notify,
}

impl Busy {
    fn begin(&self) {
        self.now.store(true, Ordering::Release);
        self.begun.notify_waiters();
    }

    fn end(&self) {
        self.now.store(false, Ordering::Release);
    }

    /// Completes while there is one.
    async fn one(&self) {
        let begun = self.begun.notified();
        tokio::pin!(begun);
        begun.as_mut().enable();
        if !self.now.load(Ordering::Acquire) {
            begun.await;
        }
    }
}
