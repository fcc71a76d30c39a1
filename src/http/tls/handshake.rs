//! From a TCP connection to one that speaks TLS, at little cost for those who never get there.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{ACME, HTTP_2};

/// How long a handshake may take: two round trips over the worst of networks, and the client's own work.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long still once the listener is left.
const LAST: Duration = Duration::from_secs(2);

/// A connection that is through, and whether it is to speak HTTP/2.
pub struct Encrypted {
    pub stream: TlsStream<TcpStream>,
    pub http_2: bool,
}

/// Speaks TLS with whoever connected; `None` where they can't, take too long, or came for a challenge alone.
pub async fn encrypt(stream: TcpStream, config: Arc<ServerConfig>, leave: &CancellationToken) -> Option<Encrypted> {
    // Whoever connects and says nothing does not come this far (`patience::begins`).
    let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
    let shaken = tokio::select! {
        biased;
        shaken = tokio::time::timeout(TIMEOUT, handshake) => shaken,
        () = async { leave.cancelled().await; tokio::time::sleep(LAST).await } => return None,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        // Scanners and broken clients are the internet's steady state.
        Ok(Err(error)) => {
            tracing::debug!(service = crate::http::NAME, "a TLS handshake failed: {error}");
            return None;
        }
        Err(_) => {
            tracing::debug!(service = crate::http::NAME, "a TLS handshake took more than {} s", TIMEOUT.as_secs());
            return None;
        }
    };
    let protocol = stream.get_ref().1.alpn_protocol();
    // The handshake was all that the ACME server wanted (RFC 8737, section 3).
    if protocol == Some(ACME) {
        return None;
    }
    let http_2 = protocol == Some(HTTP_2);
    Some(Encrypted { stream, http_2 })
}
