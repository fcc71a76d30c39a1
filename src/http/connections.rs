//! One listener's connections: accepted, served, and let finish when the listener is left.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// How long a client may take to send a request's head, and an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait when the process has no descriptor left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `app` on `listener` until `leave` is cancelled, then ends when every request in flight has its answer.
pub async fn serve<S>(listener: TcpListener, app: S, leave: CancellationToken)
where
    S: Service<hyper::Request<Incoming>, Response = axum::http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    // A task that dies with this one: the service's end, even by a panic, leaves no connection behind.
    let mut connections = tokio::task::JoinSet::new();
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut exhausted = false;
    let start = |stream: TcpStream, connections: &mut tokio::task::JoinSet<()>| {
        // Answers are small and shall leave at once; a socket that refuses this is served all the same.
        drop(stream.set_nodelay(true));
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(service = super::NAME, "a connection ended early: {error}");
            }
        });
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    exhausted = false;
                    start(stream, &mut connections);
                }
                Err(error) => {
                    if !exhausted {
                        exhausted = true;
                        tracing::warn!(service = super::NAME, "no connection can be accepted: {error}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = leave.cancelled() => break,
        }
    }
    // Those who connected before the listener closes are served; the kernel would reset them.
    while let Some(Ok((stream, _))) = futures_util::FutureExt::now_or_never(listener.accept()) {
        start(stream, &mut connections);
    }
    drop(listener);
    graceful.shutdown().await;
    while connections.join_next().await.is_some() {}
}
