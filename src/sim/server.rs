//! The listeners: connections that can be cut, over TLS or plain.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::state::Shared;

/// A client that does not finish its TLS handshake or its request's head in this time is let go.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// What is in flight when the simulator stops may end in this time.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// After an `accept` that failed (no descriptors left, say), the next one waits this long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends the connection that a request came on.
#[derive(Clone)]
pub struct Cut(CancellationToken);

impl Cut {
    pub fn now(&self) {
        self.0.cancel();
    }
}

/// Accepts connections until the simulator stops.
pub async fn serve(shared: Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) {
    loop {
        let accepted = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(Arc::clone(&shared), stream, tls.clone(), router.clone());
                drop(shared.tasks.spawn(connection));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
    // Small frames go out at once; without it latency is worse, nothing else.
    drop(stream.set_nodelay(true));
    match tls {
        None => speak(&shared, stream, router).await,
        Some(acceptor) => {
            let handshake = tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(stream));
            let shaken = tokio::select! {
                () = shared.shutdown.cancelled() => return,
                shaken = handshake => shaken,
            };
            if let Ok(Ok(stream)) = shaken {
                speak(&shared, stream, router).await;
            }
        }
    }
}

async fn speak<S>(shared: &Shared, stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let cut = Cut(CancellationToken::new());
    let service = {
        let cut = cut.clone();
        hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(cut.clone());
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    // How a client's connection ends is the client's affair.
    tokio::select! {
        biased;
        () = cut.0.cancelled() => {}
        _ = connection.as_mut() => {}
        () = shared.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            drop(tokio::time::timeout(STOP_PATIENCE, connection).await);
        }
    }
}
