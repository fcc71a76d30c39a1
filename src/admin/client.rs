//! The other end of the admin socket: what `status` and `reload` speak through.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;

/// Why a daemon could not be asked.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no perch is running here: {0}")]
    NotRunning(String),
    /// Somebody does, but the socket may not be opened, or the answer makes no sense.
    #[error("{0}")]
    Failed(String),
}

/// Asks the daemon behind `runtime_dir` and returns the body of its answer, if it comes within `patience`.
///
/// # Errors
/// When there is no daemon, or its answer is no success.
pub async fn ask(runtime_dir: &Path, method: Method, route: &str, patience: Duration) -> Result<Bytes, AskError> {
    let path = super::socket_path(runtime_dir);
    let answer = tokio::time::timeout(patience, exchange(&path, method, route)).await;
    answer.unwrap_or_else(|_| {
        let (path, seconds) = (path.display(), patience.as_secs());
        Err(AskError::Failed(format!("perch is there, but {path} gave no answer within {seconds} s")))
    })
}

async fn exchange(path: &Path, method: Method, route: &str) -> Result<Bytes, AskError> {
    let shown = path.display();
    let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            AskError::NotRunning(format!("nothing listens on {shown}; name another directory with --runtime-dir"))
        }
        std::io::ErrorKind::PermissionDenied => {
            AskError::Failed(format!("{shown} may not be opened by this user; try with sudo"))
        }
        _ => AskError::Failed(format!("{shown} can't be opened: {error}")),
    })?;
    let failed = |error: &dyn std::fmt::Display| AskError::Failed(format!("{shown} gave no answer: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(route)
        .header(hyper::header::HOST, "perch")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    let driven = async {
        // The connection only moves bytes; its error shows in the exchange.
        drop(connection.await);
        std::future::pending::<()>().await;
    };
    let (status, body) = tokio::select! {
        result = exchange => result.map_err(|error| failed(&error))?,
        () = driven => return Err(failed(&"the connection ended")),
    };
    if status != StatusCode::OK {
        return Err(failed(&status));
    }
    Ok(body)
}
